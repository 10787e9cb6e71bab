"""km ask: which words are names and which is the question, what is shown beside an answer, and what --json holds."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from cli_cases import Km, asked, document, runner
from kmcli.cli import screen
from kmcli.routing.gate import Candidate
from kmcli.types import Answer
from kmcli.workflows import answer, routed
from kmcli.workflows.answer import Asked
from kmcli.workflows.auto import Choice
from kmcli.workflows.routed import Routed

CANDIDATES = (
    Candidate("report", "km", 4.21, 0.875, "In 2024.", 5.25, 0.94, False),
    Candidate("recipes", "rag", 1.5, 0.5, "The text does not say.", 0.0, 0.0, True),
)


@pytest.fixture
def km(capsys: pytest.CaptureFixture[str], km_home: Path, tmp_path: Path) -> Km:
    """With two documents, `report` and `recipes`."""
    run = runner(capsys)
    for name in ("report", "recipes"):
        file = tmp_path / f"{name}.txt"
        file.write_text(f"Ann wrote the {name}.")
        assert run("add", str(file), "-q", "--tag", "texts").code == 0
    assert run("tag", "report", "--add", "own").code == 0
    return run


class Workflows:
    """What the command line hands over to the workflows, which answer as they are told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: Asked | None = asked()
        self.calls: list[tuple[Any, ...]] = []
        monkeypatch.setattr(answer, "ask", self.direct)
        monkeypatch.setattr(routed, "ask", self.route)
        monkeypatch.setattr(routed, "ask_together", self.together)

    def direct(self, house: Any, names: list[str], question: str, method: Any, on_text: Any, weights: Any) -> Any:
        self.calls.append(("ask", names, question, method, weights))
        return self.asked

    def route(self, house: Any, question: str, method: Any, on_text: Any, names: list[str]) -> Routed:
        self.calls.append(("route", names, question, method))
        return Routed(self.asked, CANDIDATES)

    def together(self, house: Any, question: str, on_text: Any, names: list[str]) -> Routed:
        self.calls.append(("together", names, question))
        return Routed(self.asked, (), self.asked)


@pytest.fixture
def workflows(monkeypatch: pytest.MonkeyPatch) -> Workflows:
    return Workflows(monkeypatch)


@pytest.mark.parametrize(
    ("words", "call"),
    [
        (["report", "Who?"], ("ask", ["report"], "Who?", None, [])),
        (["REPORT", "Who wrote it"], ("ask", ["REPORT"], "Who wrote it", None, [])),
        (["@texts", "Who?"], ("route", ["recipes", "report"], "Who?", None)),
        (["@own", "Who?"], ("ask", ["report"], "Who?", None, [])),
        (["recipes", "@own", "Who?"], ("route", ["recipes", "report"], "Who?", None)),
        (["report", "recipes", "Who?", "--weight", "auto"], ("together", ["report", "recipes"], "Who?")),
        (["Who wrote it?", "--weight", "auto", "--method", "km"], ("together", [], "Who wrote it?")),
        (["report", "--method", "bare", "Who?"], ("ask", ["report"], "Who?", "bare", [])),
        (["Who wrote the report?"], ("route", [], "Who wrote the report?", None)),
        (["author of the report"], ("route", [], "author of the report", None)),
        (["Who?"], ("route", [], "Who?", None)),
        (["Who wrote it?", "--method", "rag"], ("route", [], "Who wrote it?", "rag")),
        (["report", "recipes", "Who?"], ("route", ["report", "recipes"], "Who?", None)),
        (["report", "recipes", "author"], ("route", ["report", "recipes"], "author", None)),
        (["report", "recipes", "Who?", "--method", "rag"], ("ask", ["report", "recipes"], "Who?", "rag", [])),
        (["report", "recipes", "Who?", "--weight", "0.5,2"], ("ask", ["report", "recipes"], "Who?", None, [0.5, 2.0])),
        (
            ["--weight", "1", "report", "recipes", "Who?", "--weight", "-1"],
            ("ask", ["report", "recipes"], "Who?", None, [1.0, -1.0]),
        ),
    ],
)
def test_names_and_questions(km: Km, workflows: Workflows, words: list[str], call: tuple[Any, ...]) -> None:
    assert km("ask", *words).code == 0
    assert workflows.calls == [call]


def test_the_question_from_stdin(km: Km, workflows: Workflows, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, call in (
        (["report"], ("ask", ["report"], "Who wrote it?", None, [])),
        ([], ("route", [], "Who wrote it?", None)),
    ):
        monkeypatch.setattr(sys, "stdin", io.StringIO("Who wrote it?\n"))
        assert km("ask", *words).code == 0
        assert workflows.calls.pop() == call


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["reprt"], 3, "km: there is no document 'reprt'. Did you mean report?"),
        (
            ["audit"],
            3,
            "km: there is no document 'audit', and one word is no question. Ask the library: km ask \"who ...?\"",
        ),
        (
            ["report", "Who?", "--weight", "1,x"],
            2,
            "km: --weight takes numbers or auto, not '1,x'. For example: --weight 0.5,0.5",
        ),
        (
            ["report", "Who?", "--weight", "nan"],
            2,
            "km: --weight takes numbers or auto, not 'nan'. For example: --weight 0.5,0.5",
        ),
        (
            ["Who wrote it?", "--weight", "1"],
            2,
            "km: --weight takes numbers for documents that are named. Name them, or: --weight auto",
        ),
        (
            ["report", "Who?", "--explain"],
            2,
            "km: --explain is for questions that look for their document. Leave it out.",
        ),
        (
            ["report", "who", "wrote", "it"],
            2,
            'km: the question has to be one argument. Put it in quotes: km ask report "..."',
        ),
        (["@text", "Who?"], 3, "km: no document has the tag 'text'. Did you mean texts?"),
        (
            ["report", "Who?", "--weight", "auto", "--method", "rag"],
            2,
            "km: --weight is for Knowledge Modules. Leave it out: --method rag uses none.",
        ),
        (["who", "wrote", "it"], 2, 'km: the question has to be one argument. Put it in quotes: km ask NAME "..."'),
    ],
)
def test_what_makes_no_sense(km: Km, words: list[str], code: int, sentence: str) -> None:
    run = km("ask", *words)
    assert (run.code, run.out, run.err) == (code, "", f"{sentence}\n")
    assert km("ask", *words, "--json").envelope["errors"][0]["exit_code"] == code


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["report", "recipes", "Who?", "--weight", "1"],
            "km: --weight takes a number for each document, 2 here, and got 1. For example: --weight 1,1",
        ),
        (
            ["report", "Who?", "--weight", "1", "--method", "rag"],
            "km: --weight is for Knowledge Modules. Leave it out: --method rag uses none.",
        ),
        (
            ["Who wrote it?", "--method", "full"],
            'km: --method full needs a document\'s name. For example: km ask NAME "Who wrote it?"',
        ),
        ([" "], 'km: the question is empty. For example: km ask "Who wrote it?"'),
    ],
)
def test_what_the_workflows_refuse(km: Km, words: list[str], sentence: str) -> None:
    run = km("ask", *words, "-q")
    assert (run.code, run.out, run.err) == (2, "", f"{sentence}\n")


# --- beside the answer


def test_an_answer_without_support_is_marked(km: Km, workflows: Workflows) -> None:
    passage = "  report, page 4: It was founded in 2024 in Oslo.\n"
    workflows.asked = asked(confidence=0.2)
    assert km("ask", "report", "When?", "--evidence").err == passage + "  no passage of report supports this answer\n"
    assert km("ask", "report", "When?").err == ""
    data = km("ask", "report", "When?", "--json").envelope["data"]
    assert (data["supported"], data["confidence"]) == (False, 0.2)
    workflows.asked = asked(confidence=None)
    assert km("ask", "report", "When?", "--evidence").err == passage
    assert km("ask", "report", "When?", "--json").envelope["data"]["supported"] is None
    several = Asked(Answer("Ann", "rag", 1, 1, 0.1), (document(), document("recipes")), "hf", 0.1, ())
    workflows.asked = several
    assert km("ask", "report", "recipes", "When?", "--method", "rag", "--evidence").err == (
        "  no passage of report or recipes supports this answer\n"
    )
    data = km("ask", "report", "recipes", "When?", "--method", "rag", "--json").envelope["data"]
    assert (data["document"], data["documents"]) == (None, ["report", "recipes"])


def test_in_a_terminal_it_is_dim(km: Km, workflows: Workflows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "may_style", lambda stream: True)
    workflows.asked = asked(confidence=0.2)
    assert km("ask", "report", "When?", "--evidence", "-q").err.splitlines()[-1] == (
        "\x1b[2m  no passage of report supports this answer\x1b[0m"
    )


# --- chosen


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch, workflows: Workflows) -> Workflows:
    monkeypatch.setattr(answer, "chooses", lambda *given: True)
    return workflows


def test_why_this_answer(km: Km, chosen: Workflows) -> None:
    choice = Choice("rag", "Ann", 0.41, 0.8, True, 1, 3, "it was read", 40, 8)
    chosen.asked = Asked(Answer("Ann", "rag", 40, 8, 0.1), (document(),), "hf", 0.9, (), choice=choice)
    run = km("ask", "report", "Who?", "--explain", "--method", "auto")
    assert (run.code, run.err) == (0, "")
    assert run.out.splitlines() == [
        "Ann",
        "answered by                 the base with a passage",
        "because                     it was read",
        "confidence                  41%",
        "the document has an answer  80%",
        "its passage, by the exam    1 of 3 facts known",
        "a passage was read          yes",
    ]
    assert km("ask", "report", "Who?", "--evidence").err == "  doubtful: 41% sure; it was read\n"
    data = km("ask", "report", "Who?", "--json").envelope["data"]
    assert (data["answered"], data["answer"], data["supported"], data["confidence"]) == (True, "Ann", True, 0.41)
    assert data["choice"] == {
        "by": "rag", "confidence": 0.41, "answerable": 0.8, "read": True, "known": 1, "asked": 3,
        "because": "it was read", "doubtful": True,
    }  # fmt: skip


def test_nobody_answers(km: Km, chosen: Workflows) -> None:
    choice = Choice("", "Not known.", 0.1, 0.8, True, 0, 0, "no answer is likely enough", 40, 8)
    chosen.asked = Asked(Answer("Not known.", "auto", 40, 8, 0.1), (document(),), "hf", None, (), choice=choice)
    run = km("ask", "report", "Who?", "--evidence")
    assert (run.code, run.out) == (3, "Not known.\n")
    assert run.err == "  10% sure; no answer is likely enough\n"
    run = km("ask", "report", "Who?", "--json")
    assert (run.code, run.envelope["errors"]) == (3, [])
    data = run.envelope["data"]
    assert (data["answered"], data["answer"], data["choice"]["by"]) == (False, None, None)


# --- routed


def test_no_document_answers(km: Km, workflows: Workflows) -> None:
    workflows.asked = None
    run = km("ask", "Who?")
    assert (run.code, run.out, run.err) == (3, "no document in the library answers this\n", "")
    run = km("ask", "Who?", "--json")
    assert run.code == 3
    assert run.envelope["errors"] == []
    data = run.envelope["data"]
    assert (data["answered"], data["answer"], data["document"], data["supported"]) == (False, None, None, None)
    assert data["documents"] == data["evidence"] == []
    assert set(data) == {
        "document", "documents", "question", "answered", "answer", "engine", "extractor", "method", "prompt_tokens",
        "output_tokens", "seconds", "supported", "confidence", "choice", "evidence", "weights", "candidates",
    }  # fmt: skip


def test_why_this_document(km: Km, workflows: Workflows) -> None:
    run = km("ask", "Who?", "--explain")
    assert (run.code, run.err) == (0, "")
    assert run.out == (
        "In 2024.\n"
        "DOCUMENT  BY   BM25  WORDS  BELIEF  SCORE  ANSWER\n"
        "report    km    4.2    88%    +5.2    94%  In 2024.\n"
        "recipes   rag   1.5    50%    +0.0     0%  -\n"
    )
    data = km("ask", "Who?", "--explain", "--json").envelope["data"]
    assert data["candidates"] == km("ask", "Who?", "--json").envelope["data"]["candidates"]
    assert data["candidates"][0] == {
        "document": "report", "method": "km", "retrieval": 4.21, "covered": 0.875, "answer": "In 2024.",
        "belief": 5.25, "score": 0.94, "refused": False,
    }  # fmt: skip


def test_whose_answer_it_is(km: Km, workflows: Workflows) -> None:
    workflows.asked = Asked(Answer("Ann", "km", 1, 1, 0.1), (document(),), "hf", 0.9, ())
    assert km("ask", "Who?", "--evidence").err == "  from report\n"
    assert km("ask", "Who?", "--json").envelope["data"]["document"] == "report"
