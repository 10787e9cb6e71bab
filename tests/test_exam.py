"""The exam's grading, and how its result is kept and drawn."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cli_cases import document
from kmcli.bases.prompts import STYLES
from kmcli.cli.exam import ASCII, UNICODE, bar, drawn, sentence, worst
from kmcli.engines import Chat, Generation, Sampling, TokenLogprobs
from kmcli.evaluation.exam import agrees, grade, references
from kmcli.library.exams import Exam, Exams, Graded, Head, Passage
from kmcli.library.layout import Layout
from kmcli.types import IMPORTED, KnowledgeModule, Recipe, Sample
from kmcli.workflows import exam as workflow

# --- grading


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("The lighthouse.", "a lighthouse", True),
        ("Felix Dromram", "Felix Drombar", False),
        ("it was sold to the Oslo harbour board", "it was sold to the harbour board", True),
        ("it was sold for 30 crowns in the old town hall", "it was sold for 40 crowns in the old town hall", False),
        ("in 1926", "1926", False),  # F1 is 0.67
        ("", "1926", False),
    ],
)
def test_when_two_answers_agree(answer: str, reference: str, right: bool) -> None:
    assert agrees(answer, reference) is right


class Saying:
    """An engine that says what it is told to, each word with the probability 0.5."""

    name, model, revision, context = "saying", "m", "0", 512

    def __init__(self, said: dict[str, tuple[str, bool]]) -> None:
        self.said, self.asked = said, list[Sampling]()

    def count(self, chat: Chat) -> int:
        return 1

    def generate(self, chats: list[Chat], sampling: Sampling, progress: object = None) -> list[Generation]:
        self.asked.append(sampling)
        found = []
        for ((_, content),) in chats:
            text, finished = self.said[content]
            words = tuple(TokenLogprobs(word, math.log(0.5), ()) for word in text.split())
            found.append(Generation(text, 1, len(words), finished, words if sampling.logprobs else None))
        return found

    def stream(self, chat: Chat, sampling: Sampling, on_text: object) -> Generation:
        raise AssertionError


def test_grades_with_the_probability_of_the_answer() -> None:
    student = Saying({"Who?": ("Ann Lee", True), "When?": ("1902", True), "Where?": ("Oslo", False)})
    who, when, where = grade(student, ["Who?", "When?", "Where?"], ["Ann Lee", "1871", "Oslo"], STYLES["embedded"])
    assert who == Graded("Who?", "Ann Lee", "Ann Lee", True, 1.0, pytest.approx(0.25), 2)
    assert (when.known, when.f1, when.probability) == (False, 0.0, pytest.approx(0.5))
    assert not where.known  # it never came to an end
    (sampling,) = student.asked
    assert (sampling.temperature, sampling.logprobs) == (0.0, 1)
    assert grade(student, [], [], STYLES["embedded"]) == []


def test_a_teacher_that_does_not_answer_is_no_reference() -> None:
    said = {"a": ("Ann", True), "b": ("The text does not say.", True), "c": ("Ann and Bo and", False), "d": ("", True)}
    chats: list[Chat] = [[("user", question)] for question in said]
    assert references(Saying(said), chats, STYLES["embedded"]) == ["Ann", "", "", ""]


BRIEFLY = "\nAnswer as briefly as possible."


def test_questions_are_put_as_a_person_asks_them() -> None:
    """Whatever the words in which they were studied; the teacher reads what the module does."""
    asked = Sample("1", "0" * 64, "qa", f"Who?{BRIEFLY}", "Ann", "hf", "m", "0", 0)
    bare = replace(asked, id="2", task="ask", prompt="Where?")
    imported = replace(asked, id="3", task="import", prompt="When? ", response="1871", engine=IMPORTED)
    text = "Ann was there in 1871."
    teacher = Saying({f"{text}\n\nWho?{BRIEFLY}": ("Ann", True), f"{text}\n\nWhere?{BRIEFLY}": ("there", True)})
    said = {f"Who?{BRIEFLY}": ("Ann", True), f"Where?{BRIEFLY}": ("there", True), f"When? {BRIEFLY}": ("1871", True)}
    marks = workflow._asked(teacher, Saying(said), [(one, text) for one in (asked, bare, imported)], STYLES["general"])
    assert [(one.question, one.known) for one in marks.values()] == [("Who?", True), ("Where?", True), ("When? ", True)]


def test_they_are_put_again_in_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    student = Saying({f"Who?{BRIEFLY}": ("Ann", True), f"When?{BRIEFLY}": ("1902", True)})
    model = SimpleNamespace(unload=lambda: SimpleNamespace(eval=lambda: None))
    monkeypatch.setattr(workflow.adapters, "load", lambda loaded, folder: model)
    monkeypatch.setattr("kmcli.engines.hf.HfEngine", lambda loaded, model: student)
    house: Any = SimpleNamespace(report=lambda event: None)
    loaded: Any = SimpleNamespace(base=SimpleNamespace(prompts=STYLES["general"]))
    before = replace(graded("Ann", False), question="Who?"), replace(graded("1871", True), question="When?")
    first = Exam(Head(1, 2, 2, 0.0, 0.0), (Passage("0" * 64, 0, None, before),))
    again = workflow.examine_again(house, document(), loaded, Path(), first)
    assert [(one.question, one.answer, one.known) for one in again.passages[0].questions] == [
        ("Who?", "Ann", True),
        ("When?", "1902", False),
    ]
    assert again.head.known == 1


# --- what is kept


def graded(reference: str, known: bool) -> Graded:
    return Graded(f"What is {reference}?", reference, reference if known else "no", known, float(known), 0.5, 1)


def passage(known: int, unknown: int, page: int | None = None) -> Passage:
    questions = [graded(f"yes{n}", True) for n in range(known)] + [graded(f"no{n}", False) for n in range(unknown)]
    return Passage("0" * 64, 0, (page, page) if page else None, tuple(questions))


def test_questions_with_one_answer_are_one_fact() -> None:
    one = Passage("0" * 64, 0, None, (graded("Ann", True), graded("the Ann", False), graded("Bo", False)))
    assert [(len(fact.questions), fact.known) for fact in one.facts] == [(2, True), (1, False)]
    assert one.known == 1


HEAD = Head(known=3, asked=4, questions=7, seconds=12.25, training_seconds=60.5, late=1)
MODULE = KnowledgeModule("m1", "d1", Path("unused"), Recipe(), {}, "1" * 64, "2026-11-20T12:00:00+00:00")


@pytest.fixture
def exams(tmp_path: Path) -> Exams:
    (tmp_path / "modules" / "m1").mkdir(parents=True)
    (tmp_path / "documents" / "d1").mkdir(parents=True)
    return Exams(Layout(tmp_path))


def test_an_exam_is_kept_with_its_module(exams: Exams, tmp_path: Path) -> None:
    assert (exams.of(MODULE), exams.head(MODULE)) == (None, None)
    exam = Exam(HEAD, (passage(2, 1, page=1), passage(1, 0), passage(0, 0, page=3)))
    exams.keep(MODULE, exam)
    assert exams.of(MODULE) == exam
    assert exams.head(MODULE) == HEAD
    assert exams.of(replace(MODULE, id="m2")) is None
    file = tmp_path / "modules" / "m1" / "exam.jsonl"
    assert file.stat().st_mode & 0o777 == 0o600
    first, *lines = file.read_text().splitlines()
    assert json.loads(first)["asked"] == 4
    assert len(lines) == 3
    file.write_text(first + '\n{"torn')
    assert (exams.of(MODULE), exams.head(MODULE)) == (None, HEAD)
    file.write_text('{"of a newer": "km"}\n')
    assert (exams.of(MODULE), exams.head(MODULE)) == (None, None)


def test_questions_are_kept_by_groups(exams: Exams, tmp_path: Path) -> None:
    sample = Sample("1", "0" * 64, "qa", "Who?", "Ann", "hf", "m", "0", 0)
    exams.append(document(), {"units": [["c", "qa", "maker"]]}, [sample, replace(sample, id="2")])
    exams.append(document(), {"units": []}, [])
    assert exams.questions(document()) == [
        ({"units": [["c", "qa", "maker"]]}, [sample, replace(sample, id="2")]),
        ({"units": []}, []),
    ]
    with (tmp_path / "documents" / "d1" / "exam.jsonl").open("a") as stream:
        stream.write('{"work": {}, "sam')
    assert len(exams.questions(document())) == 2


# --- what is drawn


def test_the_strip_by_hand() -> None:
    paged = [passage(2, 0, 1), passage(0, 2, 1), passage(1, 3, 2), passage(2, 1, 2), passage(0, 0, 3)]
    legend = "        # known   + most of it   - some of it   . unknown   ? not asked about"
    assert drawn(paged, None, "ascii") == ["pages 1-3  #. -+ ?", f"   {legend}"]
    assert drawn(paged, 17, "ascii") == ["pages 1-2  #. -+", "page 3     ?", f"   {legend}"]
    assert drawn(paged, 15, "ascii") == ["page 1     #.", "page 2     -+", "page 3     ?", f"   {legend}"]
    assert drawn(paged, None, "utf-8")[0] == "pages 1-3  █░ ▒▓ ·"
    assert drawn(paged[:2], None, "utf-8")[0] == "page 1  █░"
    assert drawn([passage(1, 0)] * 10, 18, "ascii") == [
        "passage 1   #####",
        "passage 6   #####",
        " " * 12 + "# known   . unknown",
    ]
    assert drawn([passage(1, 0, 7)] * 5, 12, None) == ["page 7  ###", "        ##", " " * 8 + "# known   . unknown"]


def test_the_worst_passages_come_first() -> None:
    exam = Exam(HEAD, (passage(1, 1), passage(3, 0), passage(0, 1), passage(0, 3), passage(0, 0)))
    assert [number for number, _ in worst(exam)] == [4, 3, 1]


def test_the_bar_and_the_sentence() -> None:
    assert bar(HEAD, "ascii") == "######..  75%"
    assert bar(HEAD, "utf-8") == "██████░░  75%"
    assert bar(None, "utf-8") == "-"
    assert sentence(HEAD) == "75% of 4 facts known, by 7 questions in 12 s; no time for 1 passage"
    again = replace(HEAD, rounds=2, round_seconds=200.0, known_before=2, late=0)
    assert sentence(again) == (
        "75% of 4 facts known, by 7 questions in 12 s; 50% before 2 rounds of further study, 3 min 20 s"
    )
    nothing = Head(0, 0, 0, 3.0, 60.0)
    assert bar(nothing, "ascii") == "-"
    assert sentence(nothing) == "there was nothing that could be asked, in 3.0 s"
    assert sentence(None) == ""
    assert len(set(UNICODE[0] + UNICODE[1])) == len(set(ASCII[0] + ASCII[1])) == 5
