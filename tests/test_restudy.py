"""Which facts an exam found missed, what is to be written about them, and what a round studies."""

from __future__ import annotations

from dataclasses import replace

from kmcli.bases.prompts import STYLES
from kmcli.library.exams import Exam, Graded, Head, Passage
from kmcli.types import Chunk, Recipe, Sample
from kmcli.workflows import restudy
from kmcli.workflows.restudy import FEWEST, TIMES, Missed, allowed, chosen, missed, pieces

PROMPTS = STYLES["embedded"]
TEXT = "The lamp was made by Yara in 1931. It stands in the town of Taldrin today. It costs 40 crowns to see it."


def count(text: str) -> int:
    return len(text.split())


def chunk_of(text: str, index: int = 0) -> Chunk:
    return Chunk(index, text, count(text), 0)


def passage(chunk: str, **facts: bool) -> Passage:
    said = [(answer, answer if known else "no") for answer, known in facts.items()]
    marks = [Graded(f"What is {right}?", right, answer, right == answer, 0.0, 0.5, 1) for right, answer in said]
    return Passage(chunk, 0, None, tuple(marks))


def sample(prompt: str, response: str, chunk: str = "c1", id: str = "") -> Sample:
    return Sample(id or prompt, chunk, "qa", prompt, response, "hf", "m", "r", 0)


def test_the_least_known_passages_come_first() -> None:
    whole = Exam(
        Head(3, 6, 6, 1.0, 1.0),
        (
            passage("half", yara=True, taldrin=False),
            passage("all", lamp=True),
            passage("none", grondal=False, felix=False),
            passage("unasked"),
            passage("most", one=True, two=True, three=False),
        ),
    )
    found = missed(whole)
    assert list(found) == ["none", "half", "most"]
    assert found["none"].answers == ("grondal", "felix")
    assert found["half"].has("Taldrin.")
    assert not found["half"].has("Yara")


def test_a_fact_is_known_by_half_of_its_questions() -> None:
    twice = Passage("c", 0, None, (*passage("c", yara=True).questions, *passage("c", yara=False).questions))
    assert missed(Exam(Head(1, 1, 2, 1.0, 1.0), (twice,))) == {}


def test_it_is_written_about_the_sentences_that_say_it() -> None:
    whole = chunk_of(TEXT)
    unknown = {whole.sha256: Missed(whole.sha256, ("Taldrin",))}
    found = pieces(unknown, [whole, chunk_of("Something else.", 1)], 24, count)
    assert [piece.text for piece, _ in found.values()] == ["It stands in the town of Taldrin today."]
    assert [(sha256, parent) for sha256, (piece, parent) in found.items()] == [
        (piece.sha256, whole.sha256) for piece, _ in found.values()
    ]
    # An answer in words of its own: the whole passage.
    unknown = {whole.sha256: Missed(whole.sha256, ("a city",))}
    assert [piece.text for piece, _ in pieces(unknown, [whole], 24, count).values()] == [TEXT]


def test_no_more_pieces_than_a_part_of_the_document() -> None:
    chunks = [chunk_of(f"Thing {number} is red.", number) for number in range(40)]
    unknown = {one.sha256: Missed(one.sha256, ("red",)) for one in reversed(chunks)}
    found = pieces(unknown, chunks, 30, count)
    assert [parent for _, parent in found.values()] == list(unknown)[:10]
    assert len(pieces(unknown, chunks[:12], 30, count)) == FEWEST


def test_what_may_be_studied() -> None:
    recipe = replace(Recipe(), held_out=0.5)
    many = [sample(f"What is {number}?", "it") for number in range(40)]
    taught, held = restudy.training.split(many, recipe)
    secret = {"what is " + taught[0].prompt[8:-1]}
    again = replace(taught[2], id="again", prompt=taught[2].prompt.upper())
    found = allowed([*many, again], recipe, secret, [taught[1]])
    assert found == taught[2:]
    assert held
    other = replace(taught[1], id="other", response="something else")
    assert allowed([other], recipe, secret, [taught[1]]) == [other]


def test_the_material_of_a_round() -> None:
    unknown = {"c1": Missed("c1", ("Taldrin",))}
    about, near = sample("Where is it?", "Taldrin"), sample("Who made it?", "Yara")
    new = sample("In which town is it?", "Taldrin", "piece of c1")
    rest = [sample(f"Of {number}?", "Taldrin", "c2") for number in range(100)]
    studied = [about, near, *rest, new]
    found = chosen(studied, unknown, {"piece of c1": "c1"})
    assert found[: len(studied)] == studied, "what is known is not forgotten"
    assert found[len(studied) :] == [about, new] * TIMES
    # Where much is missed it is read twice; more often only as long as that adds no more than a third.
    assert chosen([about, near], unknown, {}) == [about, near, about]
    assert chosen([about, near, *rest[:3]], unknown, {}) == [about, near, *rest[:3], about]
    assert chosen([about, near, *rest[:4]], unknown, {}) == [about, near, *rest[:4], about, about]
    # Where nothing asks for what was missed, the round reads the rest of its schedule all the same.
    assert chosen([near, *rest], unknown, {}) == [near, *rest]
