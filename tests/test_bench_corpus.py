"""Documents with questions that bench/corpus.py makes: what is asked is never what was studied, however much that is."""

from __future__ import annotations

from basemodel import world
from bench import corpus

WORDS = (300, 500)


def test_further_wordings_change_the_material_alone() -> None:
    bare, more = (corpus.document("here", 3, WORDS, 10, read=True, ways=n) for n in (0, 2))
    assert (more.text, more.questions) == (bare.text, bare.questions)
    before, now = ([(line["prompt"], line["response"]) for line in one.material] for one in (bare, more))
    assert set(before) < set(now)
    facts = {(line["response"], line["context"]) for line in bare.material if line["response"] != corpus.NOT_SAID}
    assert len(now) - len(before) == 2 * len(facts)


def test_no_question_is_in_its_documents_material() -> None:
    for number in range(4):
        made = corpus.document("here", number, WORDS, 10, read=True, ways=6)
        assert len(made.questions) == 10
        about = [one["about"] for one in made.questions if one["answers"]]
        assert len(about) == 9
        named = [subject.casefold() in made.text.casefold() for subject in about]
        assert all(named), "bench.auto would ask them as questions that the document does not answer"
        studied, asked = {line["prompt"] for line in made.material}, {one["question"] for one in made.questions}
        further = {one["question"] for one in made.further}
        assert not asked & studied
        assert not further & (asked | studied)
        facts = {(one["evidence"], *one["answers"]) for one in made.further}
        assert len(further) == len(made.further) == 2 * len(facts)


def test_further_wordings_are_of_facts_that_are_read_and_none_is_the_worlds() -> None:
    wordings = corpus.wordings()
    assert {kind: set(keys) for kind, keys in wordings.items()} == {
        kind: set(keys) for kind, keys in corpus.READ.items()
    }
    for kind, keys in wordings.items():
        for key, ways in keys.items():
            assert len(set(ways)) == len(ways) == corpus.STUDIED + 2
            assert not set(ways) & set(world.kinds()[kind]["facts"][key]["ask"])
            assert all(way.count("{S}") == 1 for way in ways)
