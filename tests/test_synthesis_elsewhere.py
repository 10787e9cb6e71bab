"""Questions that their chunk hardly makes likelier ask about something else, whatever the base answers to them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kmcli.bases import EMBEDDED_FOLDER, describe
from kmcli.engines import Chat
from kmcli.engines.scripted import ScriptedEngine
from kmcli.synthesis.check import Checker, Reason, Written
from kmcli.synthesis.plan import plan
from kmcli.training.recipes import resolve
from kmcli.types import Recipe
from synthesis_cases import EMBEDDED, MILL, QA_ONLY, chunk_of, counted, run, script

QUESTIONS = ("Who built the mill?", "When was it built?", "Who left?")


def judged(recipe: Recipe, scores: bool = True) -> tuple[list[Reason], list[tuple[bool, str]]]:
    """What becomes of QUESTIONS, and what was scored, with the chunk above it or without."""
    asked: list[tuple[bool, str]] = []

    def belief(chat: Chat, answer: str) -> float:
        """Of each word: without the chunk 10, with it 2 for the first question (0.8 explained) and 5 for the second."""
        ((_, content),) = chat
        under = chunk_of(content)
        assert content == (f"{under.text}\n\n" if under else "") + EMBEDDED.write_qa
        asked.append((under is not None, answer))
        return -10.0 if under is None else -2.0 if "mill" in answer else -5.0

    engine = ScriptedEngine(script(), belief=belief)
    tasks = {name: one.task for name, one in plan(recipe).items()}
    scorer = engine if scores else None
    checker = Checker(engine, {MILL.sha256: MILL.text}, tasks, recipe, EMBEDDED, scorer=scorer)
    answers = ("Ann", "1871", "Ann")
    written = [
        Written(MILL.sha256, "qa", question, question, question, answer)
        for question, answer in zip(QUESTIONS, answers, strict=True)
    ]
    return [reason for _, reason in checker.check(written, 0)], asked


@pytest.mark.parametrize(
    ("least", "reasons"),
    [
        (0.0, ["agree", "agree", "disagree"]),
        (0.49, ["agree", "agree", "disagree"]),
        (0.51, ["agree", "elsewhere", "disagree"]),
        (0.79, ["agree", "elsewhere", "disagree"]),
        (0.81, ["elsewhere", "elsewhere", "disagree"]),
    ],
)
def test_a_question_must_be_explained_by_its_chunk(least: float, reasons: list[Reason]) -> None:
    found, asked = judged(replace(QA_ONLY, min_explained=least))
    assert found == reasons
    # what was dropped before is not scored, and nothing is where no share is asked for
    once = {(under, f"Q: {question}") for under in (False, True) for question in QUESTIONS[:2]}
    assert set(asked) == (once if least else set())


def test_where_nothing_scores_none_is_dropped() -> None:
    assert judged(replace(QA_ONLY, min_explained=0.9), scores=False)[0] == ["agree", "agree", "disagree"]


def test_writing_asks_its_own_engine_and_still_counts_them_as_read() -> None:
    """The scripted engine believes all words alike, so nothing is explained; that the base reads its answers is true."""
    made, _ = run(script(), [MILL], replace(QA_ONLY, min_explained=0.1), prompts=EMBEDDED)
    assert made.counts == counted("qa", elsewhere=2, duplicate=6)
    assert not made.samples


def test_the_card_says_how_much_and_a_teacher_is_not_held_to_it() -> None:
    base = describe("embedded", EMBEDDED_FOLDER)
    assert resolve(base, "standard").min_explained == 0.78
    assert resolve(base, "paper").min_explained == 0.0
    assert resolve(base, "standard", settings=["teacher=other"]).min_explained == 0.0
    assert resolve(base, "standard", settings=["teacher=other", "min_explained=0.5"]).min_explained == 0.5
    assert Recipe().min_explained == 0.0
