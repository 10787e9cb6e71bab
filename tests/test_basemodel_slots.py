"""The authored documents are sound, and filling them gives what their questions ask for."""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from basemodel.slots import FIXED_ANSWERS, Authored, fill, load, parse
from basemodel.values import NAMES, draw, held_out, in_words

DOCUMENTS = load()
SMALL = """kind: note
who: person
n: number 3 9
gift: choice apple|pear|onion|egg
---
{who} came with an {gift}. There were {n} guests, and {who} left.
---
Who came? => {who}
How many guests were there? => {n} || {n} guests
Was it raining? => NOT STATED
---
{who} brought a {gift} for {n} guests.
"""


def squeeze(text: str) -> str:
    return " ".join(text.lower().split())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_answers_of_a_filled_document_stand_in_its_text(document: Authored) -> None:
    for seed in range(3):
        made = fill(document, random.Random(f"{document.name}{seed}"))
        everything = " ".join([made.text, *made.summary, *(q + " ".join(a) for q, a in made.questions)])
        assert not re.search(r"\{\w+\}", everything)
        text = squeeze(made.text)
        for question, answers in made.questions:
            if answers[0] not in FIXED_ANSWERS:
                missing = [word for word in re.findall(r"\w+", squeeze(answers[0])) if word not in text]
                assert not missing, (question, answers[0])


def test_there_are_many_documents_of_many_kinds() -> None:
    assert len(DOCUMENTS) >= 600
    assert len(Counter(document.kind for document in DOCUMENTS)) >= 30
    assert len({document.text for document in DOCUMENTS}) == len(DOCUMENTS)


def test_a_document_by_value() -> None:
    document = parse("note-01", SMALL)
    made = fill(document, random.Random(4))
    match = re.fullmatch(r"(.+) came with (an?) (\w+)\. There were (\d) guests, and \1 left\.", made.text)
    assert match
    who, article, gift, number = match.groups()
    assert article == ("a" if gift == "pear" else "an")
    assert made.questions == (
        ("Who came?", (who,)),
        ("How many guests were there?", (number, f"{number} guests")),
        ("Was it raining?", ("NOT STATED",)),
    )
    assert made.summary == (f"{who} brought {article} {gift} for {number} guests.",)
    assert fill(document, random.Random(4)) == made
    assert len({fill(document, random.Random(seed)).text for seed in range(200)}) > 190


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (SMALL.replace("---\nWho", "Who"), "3 parts"),
        (SMALL.replace("who: person", "who: wizard"), "no slot"),
        (SMALL.replace("There were {n} guests", "There were guests"), "alone: n"),
        (SMALL.replace("=> {who}", "=>"), "no answer"),
        (SMALL.replace("=> {who}", "=> {whom}"), "not in the text: whom"),
    ],
)
def test_a_faulty_document_is_named(wrong: str, says: str) -> None:
    with pytest.raises(ValueError, match=f"note-01.*{says}"):
        parse("note-01", wrong)


@pytest.mark.parametrize("kind", NAMES)
def test_training_and_evaluation_share_no_name(kind: str) -> None:
    r = random.Random(1)
    training = {draw(kind, r, evaluation=False) for _ in range(300)}
    evaluation = {draw(kind, r, evaluation=True) for _ in range(100)}
    assert not training & evaluation
    assert not any(map(held_out, training))
    assert all(map(held_out, evaluation))
    assert len(training) > 150


def test_numbers_keep_to_their_range_and_are_written_as_asked() -> None:
    r = random.Random(2)
    assert {draw("small 3 5", r, False) for _ in range(60)} == {"three", "four", "five"}
    assert {draw("number 999 1001", r, False) for _ in range(60)} == {"999", "1,000", "1,001"}
    assert draw("duration 2 2 weeks", r, False) == "2 weeks"
    assert [in_words(n) for n in (0, 12, 20, 47, 99)] == ["zero", "twelve", "twenty", "forty-seven", "ninety-nine"]
    with pytest.raises(ValueError, match="no slot type 'wizard'"):
        draw("wizard", r, False)
