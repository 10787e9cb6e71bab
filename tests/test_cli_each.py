"""The screen of `km ask --each`: table, CSV and envelope, and the exit code where not all answered."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import sys
from typing import Any

import pytest

from cli_cases import HOSTILE, SHOWN, Km, document, in_terminal, returning, runner
from kmcli.errors import KmError, NotFoundError
from kmcli.types import Answer, Passage
from kmcli.workflows import each
from kmcli.workflows.each import EachReport, Row

UNTRAINED = NotFoundError("plan has no Knowledge Module yet.", "Make one: km train plan")


@pytest.fixture
def km(capsys: pytest.CaptureFixture[str]) -> Km:
    return runner(capsys)


def row(name: str, text: str, page: int | None = 4, supported: bool = True, passage: str = "It ends in May.") -> Row:
    evidence = (Passage(name, passage, 1.5, page),)
    return Row(document(name), Answer(text, "km", 17, 3, 0.01, evidence), supported)


def failed(name: str, error: KmError) -> Row:
    return Row(document(name), None, error=error)


def report(*rows: Row, **changes: Any) -> EachReport:
    untrained = tuple(one.document for one in rows if isinstance(one.error, NotFoundError))
    values = EachReport("When does it end?", rows, untrained, "llamacpp", 2.5, len(rows))
    return dataclasses.replace(values, **changes)


SOME = report(row("lease", "in May"), row("boat", "1871", None), row("mill", "in June", 2, supported=False))


def given(monkeypatch: pytest.MonkeyPatch, result: EachReport) -> list[tuple[Any, ...]]:
    """What the workflow is asked, once it returns this."""
    asked: list[tuple[Any, ...]] = []

    def ask_each(house: object, names: list[str], question: str) -> EachReport:
        asked.append((names, question))
        return result

    monkeypatch.setattr(each, "ask_each", ask_each)
    return asked


def test_the_table(km: Km, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = given(monkeypatch, SOME)
    run = km("ask", "--each", "lease", "@wood", "mill", "When does it end?")
    assert run.out == (
        "DOCUMENT  ANSWER   FOUND\nlease     in May   page 4\nboat      1871     in text\nmill      in June  nowhere\n"
    )
    assert run.err == "3 documents answered in 2.5 s. Answers found nowhere in their document: 1.\n"
    assert run.code == 0
    assert km("ask", "--each", "When does it end?", "-q").err == ""
    assert asked == [(["lease", "@wood", "mill"], "When does it end?"), ([], "When does it end?")]


def test_an_honest_refusal_is_neither_found_nor_missed(km: Km, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = dataclasses.replace(row("plan", "The text does not say.", supported=False), refused=True)
    given(monkeypatch, report(row("mill", "in June", supported=False), refused))
    run = km("ask", "--each", "When does it end?")
    assert run.out.splitlines()[1:] == [
        "mill      in June                 nowhere",
        "plan      The text does not say.  -",
    ]
    assert run.err == "2 documents answered in 2.5 s. Answers found nowhere in their document: 1.\n"


def test_the_envelope(km: Km, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, report(*SOME.rows, failed("plan", UNTRAINED)))
    run = km("ask", "--each", "When does it end?", "--json")
    data = run.envelope["data"]
    assert run.code == 6
    assert {key: value for key, value in data.items() if key != "rows"} == {
        "question": "When does it end?",
        "engine": "llamacpp",
        "seconds": 2.5,
        "documents": 4,
        "answered": 3,
        "interrupted": False,
        "prompt_tokens": 51,
        "output_tokens": 9,
    }
    assert data["rows"][0] == {
        "document": "lease",
        "answer": "in May",
        "supported": True,
        "refused": False,
        "page": 4,
        "passage": {"document": "lease", "text": "It ends in May.", "score": 1.5, "page": 4},
        "prompt_tokens": 17,
        "output_tokens": 3,
        "seconds": 0.01,
        "error": None,
    }
    assert [(one["page"], one["supported"]) for one in data["rows"]] == [
        (4, True),
        (None, True),
        (None, False),
        (None, None),
    ]
    assert data["rows"][3]["error"]["message"] == "plan has no Knowledge Module yet."
    assert [one["hint"] for one in run.envelope["errors"]] == ["Make one: km train plan"]


def rows_of(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def test_csv_is_read_back_as_it_was(km: Km, monkeypatch: pytest.MonkeyPatch) -> None:
    quoted = 'He said "no",\nand left; then, 5'
    given(
        monkeypatch,
        report(row("lease", quoted, passage='A "b"\n\nc'), row("boat", "-3.5", None), failed("plan", UNTRAINED)),
    )
    run = km("ask", "--each", "When?", "--csv")
    assert rows_of(run.out) == [
        ["document", "answer", "page", "supported", "refused", "passage", "error"],
        ["lease", quoted, "4", "yes", "no", 'A "b"\n\nc', ""],
        ["boat", "-3.5", "", "yes", "no", "It ends in May.", ""],
        ["plan", "", "", "", "", "", "plan has no Knowledge Module yet. Make one: km train plan"],
    ]
    assert run.code == 6
    assert run.err.startswith("km: plan has no Knowledge Module yet.")


@pytest.mark.parametrize(
    "text",
    ['=HYPERLINK("http://x")', "+1+1", "-2+3", "@SUM(A1)", " =1", "\uff1d1+1", "\n=1", "-inf x", "+cmd|' /C calc'!A0"],
)
def test_no_cell_is_a_formula(km: Km, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    given(monkeypatch, report(row("lease", text, passage=text)))
    (_, cells) = rows_of(km("ask", "--each", "When?", "--csv").out)
    assert (cells[1], cells[5]) == (f"'{text}", f"'{text}")


@pytest.mark.parametrize("text", ["42", "-5", "+3.25", "1e6", "a=b", "in 5-7 days", "'quoted'"])
def test_what_is_no_formula_stays_as_it_is(km: Km, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    given(monkeypatch, report(row("lease", text)))
    (_, cells) = rows_of(km("ask", "--each", "When?", "--csv").out)
    assert cells[1] == text


def test_nothing_that_a_model_wrote_reaches_the_terminal(km: Km, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, report(row(HOSTILE, HOSTILE, passage=HOSTILE)))
    table, table_csv = km("ask", "--each", "When?").out, km("ask", "--each", "When?", "--csv").out
    assert table.splitlines()[1] == f"{SHOWN}  {SHOWN}  page 4"
    assert rows_of(table_csv)[1] == [SHOWN, SHOWN, "4", "yes", "no", SHOWN, ""]


@pytest.mark.parametrize(
    ("rows", "code", "errors"),
    [
        ([failed("plan", UNTRAINED)], 3, ["km: plan has no Knowledge Module yet. Make one: km train plan"]),
        ([failed("torn", KmError("its file is spoilt.", "Mend it."))], 1, ["km: torn: its file is spoilt. Mend it."]),
        (
            [
                row("lease", "in May"),
                failed("torn", KmError("its file is spoilt.", "Mend it.")),
                failed("plan", UNTRAINED),
            ],
            6,
            ["km: torn: its file is spoilt. Mend it.", "km: plan has no Knowledge Module yet. Make one: km train plan"],
        ),
        (
            [failed("my plan", UNTRAINED), failed("plan", UNTRAINED)],
            3,
            ["km: 2 documents have no Knowledge Module yet. Make them: km train 'my plan' plan"],
        ),
        (
            [row("lease", "in May"), *(failed(f"plan-{number}", UNTRAINED) for number in range(20))],
            6,
            ["km: 20 documents have no Knowledge Module yet. Make them: km train --all"],
        ),
    ],
)
def test_what_did_not_answer(
    km: Km, monkeypatch: pytest.MonkeyPatch, rows: list[Row], code: int, errors: list[str]
) -> None:
    given(monkeypatch, report(*rows))
    run = km("ask", "--each", "When?", "-q")
    assert (run.code, run.err.splitlines()) == (code, errors)
    shown = {line.split("  ")[0]: line for line in run.out.splitlines()}
    for one in rows:
        if one.error:
            what = "(no Knowledge Module)" if isinstance(one.error, NotFoundError) else "(failed)"
            assert what in shown[one.document.name]


def test_ctrl_c_shows_what_is_there(km: Km, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, report(row("lease", "in May"), interrupted=True, documents=200))
    run = km("ask", "--each", "When?")
    assert run.code == 130
    assert run.out == "DOCUMENT  ANSWER  FOUND\nlease     in May  page 4\n"
    assert run.err == "Stopped: 1 of 200 documents are done.\n"
    given(monkeypatch, report(interrupted=True, documents=200))
    assert (km("ask", "--each", "When?").out, km("ask", "--each", "When?", "--csv").code) == ("", 130)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("lease", "When?", "--csv"), '--csv is for --each. For example: km ask --each @TAG "question" --csv'),
        (("--each", "When?", "--csv", "--json"), "--csv and --json are two forms of one answer. Give one of them."),
        (
            ("--each", "When?", "--method", "rag"),
            "--each asks Knowledge Modules. Leave --method out, or ask one document.",
        ),
    ],
)
def test_options_that_do_not_go_together(
    km: Km, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(each, "ask_each", returning(SOME))
    run = km("ask", *words)
    assert run.code == 2
    told = (
        run.err
        if "--json" not in words
        else f"km: {' '.join(run.envelope['errors'][0][k] for k in ('message', 'hint'))}\n"
    )
    assert told == f"km: {message}\n"


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from test_cli_each import *
long = "the one that was agreed upon by both parties in the spring of last year " * 2
each.ask_each = lambda *_: report(row("a-document-with-quite-a-long-name", long, 12), row("報告", "報告" * 30, None))
from kmcli.cli.boundary import main
raise SystemExit(main(["ask", "--each", "When?"]))
"""


@pytest.mark.parametrize("wide", [40, 80])
@pytest.mark.parametrize("changes", [{"NO_COLOR": "1"}, {}])
def test_the_table_fits_the_terminal(wide: int, changes: dict[str, str]) -> None:
    from rich.cells import cell_len

    program = PROGRAM.format(tests=str(__file__).rpartition("/")[0])
    code, written = in_terminal([sys.executable, "-c", program], COLUMNS=str(wide), **changes)
    lines = written.replace("\r", "").splitlines()
    assert code == 0
    assert ("\x1b" in written) == (not changes)
    table = [
        line.replace("\x1b[1m", "").replace("\x1b[0m", "") for line in lines if "DOCUMENT" in line or "..." in line
    ]
    assert len(table) >= 3
    assert all(cell_len(line) <= wide for line in table[:3])
    assert table[0].endswith("FOUND")
    assert re.search(r" \.\.\. +page 12$", table[1])  # cut after a word
    assert table[2].endswith("...  in text")
    assert "--csv and --json have all of them" in " ".join(lines)


def test_a_pipe_gets_all_of_it(km: Km, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, report(row("lease", "word " * 80)))
    run = km("ask", "--each", "When?")
    assert "word " * 79 + "word  page 4" in run.out
    assert "cut to the screen" not in run.err
