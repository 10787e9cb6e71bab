"""Facts that a document gives in two ways."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from kmcli.bases.prompts import STYLES
from kmcli.types import Chunk, Sample
from kmcli.workflows.conflicts import Conflict, Said, conflicts

OLD = "The fee for berth permits is $75. They are approved by Walter Quendal."
OTHER = "The lamp weighs 3 kilos. It was made in 1902."
NEW = "From May on the fee for berth permits is $90. Walter Quendal approves them."
TEXTS = (OLD, OTHER, NEW)
CHUNKS = [Chunk(number, text, 20, 100 * number, number + 1, number + 1) for number, text in enumerate(TEXTS)]


def sample(chunk: int, question: str, answer: str, task: str = "qa") -> Sample:
    return Sample(f"{chunk} {question} {answer}", CHUNKS[chunk].sha256, task, question, answer, "hf", "m", "0", 0)


def found(*samples: Sample, says: str = "") -> list[Conflict]:
    """says: what the base answers under any passage."""
    return conflicts(samples, CHUNKS, STYLES["embedded"], lambda asked: [says for _ in asked])


FEE = "What is the fee for berth permits?"


def test_a_superseded_value_is_found() -> None:
    (conflict,) = found(sample(2, FEE, "$90"), sample(0, FEE, "$75"), sample(0, FEE.lower(), "$75"))
    assert conflict == Conflict(FEE, (Said("$75", 1, 0, 1), Said("$90", 3, 200, 3)))
    assert found(sample(0, "What is the fee for the berth permits?", "$75"), sample(2, FEE, "$90"))


def test_what_is_written_about_one_passage_alone_is_asked_under_the_other() -> None:
    asked: list[tuple[str, str]] = []

    def ask(given: Sequence[tuple[str, str]]) -> list[str]:
        asked.extend(given)
        return ["$90"]

    (conflict,) = conflicts([sample(0, FEE, "$75")], CHUNKS, STYLES["embedded"], ask)
    assert asked == [(FEE, NEW)]  # the lamp's passage has not its words
    assert [said.answer for said in conflict.sayings] == ["$75", "$90"]
    assert found(sample(0, FEE, "$75"), says="$120") == []  # which the passage does not say
    assert found(sample(0, FEE, "$75"), says="$75") == []


@pytest.mark.parametrize(
    "samples",
    [
        [sample(0, FEE, "$75")],
        [sample(0, FEE, "$75"), sample(0, FEE, "$90")],  # one passage: the base was unsure
        [sample(0, "Who approves them?", "Walter Quendal"), sample(2, "Who approves them?", "Quendal")],
        [sample(0, "Who approves it?", "Walter Quendal"), sample(2, "Who approves it?", "the fee")],  # NEW has both
        [sample(0, FEE, "$75"), sample(2, FEE, "The text does not say.")],
        [sample(0, FEE, "$75"), sample(2, FEE, "$90", "summary")],
        [sample(0, "When did Ann arrive?", "in 1902"), sample(1, "When did Bo arrive?", "in 1871")],
        [sample(0, "How far is room 12?", "75 steps"), sample(1, "How far is room 14?", "3 steps")],
        [sample(0, "What is the fee for cormite?", "$75"), sample(2, "What is the fee for cormite?", "$90")],
    ],
)
def test_what_is_no_contradiction(samples: list[Sample]) -> None:
    assert found(*samples) == []


def test_chunks_of_another_cut_do_not_count() -> None:
    gone = Sample("x", "0" * 64, "qa", FEE, "$90", "hf", "m", "0", 0)
    assert found(sample(0, FEE, "$75"), gone) == []
