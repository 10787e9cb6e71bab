"""Whether a passage supports an answer: by the words of its sentences."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmcli.routing import support
from kmcli.types import Passage

TEXT = (
    "Grondal Works was founded by Stefan Grondal. It was established in 1926. The sales came to 12,400 euros.\n\n"
    "Lumrick 40 was designed by Yara Kestrim. The lamp weighs 640 grams."
)
PASSAGE = (Passage("notes", TEXT, 1.0),)


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("Who founded Grondal Works?", "Stefan Grondal", (1, 1, 1)),
        ("Who was the founder of the Works?", "Stefan Grondal", (1, 1, 1)),  # founder, founded
        ("Who founded Grondal Works?", "Yara Kestrim", (1, 0, 0)),
        ("When was Grondal Works established?", "1926", (1, 1, 1)),  # named in the sentence before
        ("When was Grondal Works sold?", "1926", (1, 2 / 3, 1)),
        ("When was Torvack Works established?", "1926", (1, 2 / 3, 1 / 2)),
        ("Who designed Lumrick 40?", "Yara Kestrel", (1 / 2, 1, 1)),
        ("Who designed Lumrick 50?", "Yara Kestrim", (1, 2 / 3, 1 / 2)),
        ("What came to 12400 euros?", "the sales", (1, 1, 1)),  # a number is one, however it is written
        ("How heavy is the lamp?", "640 grams", (1, 1 / 2, 1 / 2)),  # no name: named is near
        ("Who founded Grondal Works?", "", (0, 1, 1)),
    ],
)
def test_shares(question: str, answer: str, expected: tuple[float, float, float]) -> None:
    assert support.features(question, answer, PASSAGE) == pytest.approx(expected)


def test_the_best_sentence_of_all_passages_counts() -> None:
    other = Passage("notes", "Stefan Grondal has a dog.", 2.0)
    assert support.features("Who founded Grondal Works?", "Stefan Grondal", (other, *PASSAGE)) == (1, 1, 1)
    assert support.features("Who founded Grondal Works?", "Stefan Grondal", ()) == (0, 0, 0)


MENTIONED = (
    TEXT
    + """
Thomas Alva Edison met President Biden on 3 May 1926. Joe Biden came by, and then the guests of Marks and Spencer went on
foot to the Music Week of 2019. The WHO sent a report. Another week, in Oslo, the harbour of Taldrin was dug out at last."""
)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Who founded Grondal Works?", [1]),
        ("Who founded the Works of Lumrick?", [1, 1]),
        ("Who founded Lumrick Works?", [0]),  # both are there, and never together
        ("Who founded the Taldrin Music Week?", [0, 1]),
        ("Who founded the Dornfeld Works?", [support.HALF_KNOWN]),
        ("Who founded the Dornfeld Mill?", [0]),
        ("Was it Lumrick, Stefan, Kestrim or Works?", [1, 1, 1, 1]),  # each by itself
        ("Was it Kestrim Yara?", [1]),  # as an index has it
        ("What did Stefan Grondal's Lumrick 40 weigh in 1926?", [1, 1, 1]),
        ("Who paid 12400 euros?", [1]),
        ("What did Thomas Edison do?", [1]),
        ("What did Marks & Spencer do?", [1]),
        ("Who is President Joe Biden?", [0, 1]),  # who is there "President Biden", and elsewhere "Joe Biden"
        ("What happened on May 3 1926?", [1, 1]),
        ("Who came to the 2019 Music Week?", [1, 1]),
        ("I live in Oslo. What does it cost?", [1]),  # "What" is no name
        ("What did the WHO say?", [1]),
        ("How do I renew it?", []),
        ("WHO FOUNDED LUMRICK WORKS?", []),
        ("Lumrick?", []),
        ("?", []),
    ],
)
def test_a_name_of_several_words_stands_together(question: str, expected: list[float]) -> None:
    assert support.Mentions.of(MENTIONED).named(question) == expected


def test_how_much_of_what_a_question_names_is_in_the_document() -> None:
    here = support.Mentions.of(TEXT)
    assert here.share("Was Lumrick Works founded in 1926?") == 1 / 2
    assert here.share("What does the heavy lamp weigh?") == 1 / 3  # no name: of heavy, lamp and weigh
    assert here.share("WHO FOUNDED GRONDAL WORKS?") == 1
    assert here.share("What is it?") == here.share("") == 0


@given(st.text(), st.text())
def test_any_text_has_a_share(question: str, text: str) -> None:
    assert 0 <= support.Mentions.of(text).share(question) <= 1


def test_what_counts_as_supported() -> None:
    question = "Who founded Grondal Works?"
    right, wrong = (support.confidence(question, answer, PASSAGE) for answer in ("Stefan Grondal", "Yara Kestrim"))
    assert right == pytest.approx(1 / (1 + math.exp(16.4 - 7.1 - 3.2 - 8.7)))
    assert right > support.ENOUGH > 0.5 > 0.01 > wrong


@given(st.text(), st.text(), st.text())
def test_any_text_has_a_confidence(question: str, answer: str, text: str) -> None:
    assert 0 < support.confidence(question, answer, (Passage("x", text, 1.0),)) < 1
