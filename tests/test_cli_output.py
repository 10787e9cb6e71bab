"""What the verbs print: data to stdout, the rest to stderr, and never what a document or a model smuggled in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli_cases import (
    HOSTILE,
    SHOWN,
    Km,
    asked,
    command,
    comparison,
    document,
    environment,
    exported,
    module,
    returning,
    runner,
    trained,
    working,
)
from kmcli.cli import library_verbs, render
from kmcli.cli.screen import terminal_size
from kmcli.library import Added
from kmcli.types import Document
from kmcli.workflows import answer, comparing, documents, share, study
from kmcli.workflows.answer import Asked
from kmcli.workflows.documents import AddReport, Entry
from kmcli.workflows.study import TrainReport


@pytest.fixture
def km(capsys: pytest.CaptureFixture[str]) -> Km:
    return runner(capsys)


def test_km_alone_says_the_next_step(km: Km, monkeypatch: pytest.MonkeyPatch) -> None:
    assert km().out.splitlines()[2] == "  km add FILE"
    beyond: list[Document | None] = [None]  # what is looked up of documents that are not looked at
    monkeypatch.setattr(documents, "next_ones", lambda house: (beyond[0], document("done"), 1))
    entries = [Entry(document("done"), "fresh", module(), 9)]
    monkeypatch.setattr(documents, "ls", returning(entries))
    assert km().out.splitlines()[2] == '  km ask done "question"'
    beyond[0] = document("later")
    assert km().out.splitlines()[2] == "  km train later"
    beyond[0], entries[:] = None, [Entry(document("busy"), "training", None, 0), *entries]
    assert km().out == "busy is being trained, by another km.\n\n  km ls\n\nAll commands: km --help\n"
    entries.append(Entry(document("old"), "stale", module(), 9))
    assert km().out.splitlines()[2] == "  km train old"
    entries.append(Entry(document("new"), "untrained", None, 0))
    assert km().out.splitlines()[2] == "  km train new"
    entries.append(Entry(document("half"), "interrupted", None, 0))
    run = km()
    assert run.out.splitlines()[2] == "  km train half"
    assert run.code == 0


def test_ls_shows_a_page_unless_it_is_asked_for_all(km: Km, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        (tmp_path / f"d{number}.txt").write_text(f"Text {number}.")
        km("add", str(tmp_path / f"d{number}.txt"), "--tag", "odd" if number % 2 else "even")
    monkeypatch.setattr(library_verbs, "PAGE", 3)
    run = km("ls")
    assert [line.split()[0] for line in run.out.splitlines()] == ["NAME", "d0", "d1", "d2"]
    assert run.err == "These are the first 3 of 4 documents. All of them: km ls --all\n"
    assert [one["name"] for one in km("ls", "--json").envelope["data"]] == ["d0", "d1", "d2"]
    for words in (("ls", "--all"), ("ls", "--tag", "odd")):
        assert km(*words).err == ""
    assert len(km("ls", "--all").out.splitlines()) == 5
    monkeypatch.setattr(library_verbs, "PAGE", 1)
    assert km("ls", "--tag", "odd").err == "These are the first 1 of 2 documents. All of them: km ls --tag odd --all\n"


def test_library_verbs_with_the_real_library(km: Km, tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_text("Ann wrote this report in Oslo.")
    run = km("add", str(tmp_path / "report.txt"), "--tag", "north", "--tag", "old")
    assert run.out == "added  report  text    6 words\n"
    assert run.err.endswith("Next: km train report\n")
    assert km("add", str(tmp_path / "report.txt")).out == "unchanged  report  text    6 words\n"
    assert km("ls").out == (
        "NAME    STATE      PAGES  WORDS  TRAINED  SIZE  TAGS\n"
        "report  untrained      -      6  -           -  north, old\n"
    )
    told = km("ls", "--tag", "north", "--json").envelope
    assert told["command"] == "ls"
    assert [(one["name"], one["state"], one["tags"], one["module"]) for one in told["data"]] == [
        ("report", "untrained", ["north", "old"], None)
    ]
    assert km("ls", "--tag", "south").err == "No document has the tag south.\n"
    assert km("mv", "report", "paper").out == "report is now paper\n"
    shown = km("show", "paper").out
    assert shown.startswith("paper\n  state           untrained\n")
    assert "  tags            north, old\n" in shown
    (tmp_path / "report.txt").write_text("Ann wrote this report in Bergen, later.")
    assert km("add", str(tmp_path / "report.txt"), "--json").envelope["data"][0]["action"] == "updated"


def test_add_says_that_a_module_became_stale(km: Km, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "add", returning(AddReport((Added(document(), "updated", True),), ())))
    run = km("add", "x")
    assert run.out == "updated  report  pdf  12 pages  3,412 words\n"
    assert run.err == "report has changed: its Knowledge Module is stale until km train report.\n"


def test_ask_streams_to_stdout_and_keeps_notes_off_it(km: Km, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(house: Any, names: list[str], question: str, method: str | None, on_text: Any, weights: Any) -> Asked:
        assert (names, question, method, weights) == (["report"], "When?", "rag", [])
        for piece in ("In ", "", "2024."):
            on_text(piece)
        return asked("In 2024.", ("it is stale.",))

    monkeypatch.setattr(answer, "ask", ask)
    run = km("ask", "report", "When?", "--method", "rag")
    assert (run.code, run.out, run.err) == (0, "In 2024.\n", "it is stale.\n")
    run = km("ask", "report", "When?", "--method", "rag", "--evidence", "-q")
    assert run.err == "  report, page 4: It was founded in 2024 in Oslo.\n"
    told = km("ask", "report", "When?", "--method", "rag", "--json").envelope
    assert told["messages"] == ["it is stale."]
    assert told["data"] == {
        "document": "report",
        "documents": ["report"],
        "question": "When?",
        "answered": True,
        "answer": "In 2024.",
        "engine": "llamacpp",
        "extractor": None,
        "method": "km",
        "weights": None,
        "prompt_tokens": 40,
        "output_tokens": 8,
        "seconds": 0.25,
        "supported": True,
        "confidence": 0.9,
        "choice": None,
        "evidence": [
            {"document": "report", "text": "It was founded in 2024 in Oslo.", "score": 3.2, "page": 4},
        ],
        "candidates": None,
    }


def test_train_summary_and_envelope(km: Km, monkeypatch: pytest.MonkeyPatch) -> None:
    report = TrainReport((trained(),), (), (document("old"),))
    monkeypatch.setattr(study, "train", lambda house, *_: working(house, report))
    run = km("train", "report")
    assert run.out == (
        "report: Knowledge Module trained\n"
        "  study material  180 of 240 samples kept\n"
        "  steps           300\n"
        "  loss            0.412 in training, 0.52 held out\n"
        "  time            3 min 10 s\n"
    )
    told = km("train", "report", "--json")
    assert told.envelope["messages"] == [
        "embedded base",
        "page 3 is damaged",
        "old is trained already. To train again, add --force.",
        'Next: km ask report "question"',
    ]
    assert told.envelope["data"]["skipped"] == ["old"]
    assert told.envelope["data"]["trained"][0]["module"]["metrics"]["held_out_loss"] == 0.52
    assert "curve" not in told.envelope["data"]["trained"][0]["module"]["metrics"]
    quiet = km("train", "report", "-q")
    assert (quiet.out, quiet.err) == (run.out, "warning: page 3 is damaged\n")


def test_compare_table(km: Km, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "compare", returning(comparison()))
    assert km("compare", "report").out == (
        "report: 40 questions, km-base 0\n"
        "METHOD        EXACT         F1             ROUGE-L         READ  WRITTEN  SECONDS\n"
        "bare          10% (0-20)    20% (10-30)    20% (10-30)       40       20     0.30\n"
        "km            55% (45-65)   62% (52-72)    62% (52-72)       41       20     0.31\n"
        "rag@3:hybrid  50% (40-60)   100% (90-110)  100% (90-110)  1,440       20     2.31\n"
        "full          does not fit\n"
        "Means per question; READ and WRITTEN are tokens. In brackets the 95% interval.\n"
        "full: prompt and answer do not fit in 2048 tokens\n"
        "\n"
        "KIND  ASKED  bare   km  rag@3:hybrid\n"
        "who      20   10%  55%           50%\n"
        "when     20   20%  62%          100%\n"
        "Exact match by kind.\n"
        "\n"
        "The document is 6,543 tokens, which take 26.8 MB of memory to read; its Knowledge Module is 1.3 MB on disk.\n"
        "Training took 1 min 40 s: paid back in time after 50 questions, beside rag@3:hybrid.\n"
        "\n"
        "The KM is better.\n"
    )
    data = km("compare", "report", "--json").envelope["data"]
    assert data["costs"]["break_even"] == 50
    rows = data["rows"]
    assert rows[2]["key"] == "rag@3:hybrid"
    assert rows[1]["exact_match"] == {"mean": 0.55, "low": 0.55 - 0.1, "high": 0.55 + 0.1, "n": 40}


def test_compare_says_how_sure_the_difference_to_the_module_is(km: Km, monkeypatch: pytest.MonkeyPatch) -> None:
    made = comparison()
    p_values = {"bare": 0.02, "rag@3:hybrid": 0.04}
    rows = tuple(replace(row, p_km=p_values.get(row.key)) for row in made.rows)
    monkeypatch.setattr(comparing, "compare", returning(replace(made, rows=rows)))
    told = "Difference to km (p, adjusted for so many rows): bare 0.040, rag@3:hybrid 0.040.\n"
    assert told in km("compare", "report").out


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (100, "METHOD EXACT F1 ROUGE-L READ WRITTEN SECONDS KIND ASKED bare km rag@3:hybrid"),
        (72, "METHOD EXACT F1 READ WRITTEN SECONDS KIND ASKED bare km rag@3:hybrid"),
        (60, "METHOD EXACT F1 READ SECONDS KIND ASKED bare km rag@3:hybrid"),
        (40, "METHOD EXACT F1 READ KIND ASKED bare km rag@3:hybrid"),
        (30, "METHOD EXACT READ KIND ASKED bare km"),
    ],
)
def test_compare_fits_terminals_of_any_width(
    km: Km, monkeypatch: pytest.MonkeyPatch, width: int, headings: str
) -> None:
    monkeypatch.setattr(comparing, "compare", returning(comparison()))
    for place in ("screen", "compare_table"):
        monkeypatch.setattr(f"kmcli.cli.{place}.columns", lambda stream: width)
    out = km("compare", "report").out
    assert max(map(len, out.splitlines())) <= width
    assert (
        " ".join(line for line in out.splitlines() if line.startswith(("METHOD", "KIND"))).split() == headings.split()
    )
    assert "..." not in out
    assert "rag@3:hybrid" in out


@pytest.mark.parametrize(
    ("width", "shown"), [(81, "62% (52-72)    62% (52-72)       41"), (80, "62% (52-72)        62%     41")]
)
def test_rouge_has_its_interval_where_there_is_room(
    km: Km, monkeypatch: pytest.MonkeyPatch, width: int, shown: str
) -> None:
    monkeypatch.setattr(comparing, "compare", returning(comparison()))
    for place in ("screen", "compare_table"):
        monkeypatch.setattr(f"kmcli.cli.{place}.columns", lambda stream: width)
    assert shown in km("compare", "report").out


def test_export_that_was_not_checked_says_so_even_when_quiet(km: Km, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "export", returning(exported(skipped="llama.cpp is not installed.")))
    run = km("export", "-q")
    assert run.out == "report.gguf\n29.0 MB, F16, 75 tensors\n"
    assert run.err == "NOT CHECKED: llama.cpp is not installed.\n"
    assert "the last one trained" in km("export").err


def test_config_round_trip(km: Km, km_home: Path) -> None:
    assert km("config", "path").out == f"{km_home / 'config.toml'}\n"
    assert km("config", "get", "device").out == "auto\n"
    assert km("config", "set", "device", "cpu").code == 0
    told = km("config", "--json").envelope["data"]
    assert told["device"] == {"value": "cpu", "origin": str(km_home / "config.toml")}
    assert km("config").out.splitlines()[1].split() == ["model", "embedded", "default"]
    assert km("config", "unset", "device").code == 0
    assert km("config", "get", "device", "--json").envelope["data"]["device"]["origin"] == "default"


def test_models_marks_the_one_in_use(km: Km) -> None:
    lines = km("models").out.splitlines()
    assert [line.split()[:2] for line in lines if line.startswith("*")] == [["*", "embedded"]]


# --- text that is not ours


@pytest.mark.parametrize("words", [["ls"], ["show", "x"], [""], ["ask", "x", "q", "--evidence"], ["ls", "--json"]])
def test_hostile_text_reaches_no_terminal(km: Km, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    entry = Entry(document(HOSTILE, source=HOSTILE, tags=(HOSTILE,)), "untrained", None, 0)
    monkeypatch.setattr(documents, "ls", returning([entry]))
    monkeypatch.setattr(documents, "show", returning(documents.Shown(entry, {HOSTILE: 3})))
    monkeypatch.setattr(answer, "ask", returning(asked(HOSTILE, (HOSTILE,))))
    run = km(*[word for word in words if word])
    assert run.code == 0
    assert not set("\x1b\x07\x9b\u202e") & set(run.out + run.err)
    if "--json" in words:
        assert run.envelope["data"][0]["name"] == HOSTILE
    else:
        assert SHOWN in run.out


def test_hostile_errors_are_cleaned(km: Km) -> None:
    run = km("show", HOSTILE)
    assert run.code == 3
    assert "\x1b" not in run.err


@given(st.text())
def test_clean_leaves_nothing_that_a_terminal_obeys(text: str) -> None:
    cleaned = render.clean(text)
    assert all(char in "\n\t" or (ord(char) >= 32 and not 127 <= ord(char) < 160) for char in cleaned)
    cleaned.encode("utf-8")
    assert render.clean(cleaned) == cleaned


@given(st.lists(st.lists(st.text(max_size=30), min_size=3, max_size=3), min_size=1, max_size=5), st.integers(20, 90))
def test_tables_are_a_line_a_row_and_fit(rows: list[list[str]], width: int) -> None:
    from rich.cells import cell_len

    lines = render.table([[row[0], row[1][:3], row[2][:3]] for row in rows], width=width)
    assert len(lines) == len(rows)
    # escapes such as \x1b make a character up to ten columns wide
    assert all(cell_len(line) <= max(width, 8 + 2 + 30 + 2 + 30) for line in lines)


@pytest.mark.parametrize(
    ("call", "shown"),
    [
        (lambda: render.size(999), "999 B"),
        (lambda: render.size(1_234), "1.2 kB"),
        (lambda: render.size(29_000_000), "29.0 MB"),
        (lambda: render.size(5_200_000_000_000), "5.2 TB"),
        (lambda: render.duration(0.34), "0.3 s"),
        (lambda: render.duration(59.6), "1 min 0 s"),
        (lambda: render.duration(7500), "2 h 5 min"),
        (lambda: render.number(0.31234), "0.312"),
        (lambda: render.number(12345), "12,345"),
        (lambda: render.number(float("nan")), "nan"),
        (lambda: render.count(1, "page"), "1 page"),
        (lambda: render.when("soon"), "soon"),
        (lambda: render.shorten("a long line of text", 10), "a long ..."),
        (lambda: render.shorten("a short line of words", 20), "a short line of ..."),  # not "of w..."
        (lambda: render.shorten("one-very-long-name", 10), "one-ver..."),
        (lambda: render.shorten("a verylongword", 10), "a veryl..."),
        (lambda: render.shorten("text", 4), "text"),
    ],
)
def test_values_to_text(call: Any, shown: str) -> None:
    assert call() == shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("words", [["ls"], ["ls", "--json"], ["show", "report"], []])
def test_no_encoding_crashes(km: Km, tmp_path: Path, encoding: str, words: list[str]) -> None:
    (tmp_path / "x.txt").write_text("Ann wrote this report in Oslo.")
    assert km("add", str(tmp_path / "x.txt"), "--name", "report", "--tag", "报告").code == 0
    (tmp_path / "y.txt").write_text("Ben wrote another one in Bergen.")
    assert km("add", str(tmp_path / "y.txt"), "--name", "报告").code == 0
    poor = environment(LC_ALL="C", PYTHONIOENCODING=encoding, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    done = subprocess.run(command(*words), capture_output=True, env=poor)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    assert (b"??" in done.stdout) == (words in (["ls"], ["show", "report"]))


WARNS = """
import sys, warnings
from kmcli.cli import boundary
from kmcli.workflows import documents
documents.ls = lambda *given, **named: warnings.warn("goes in version 6", FutureWarning) or []
sys.exit(boundary.main(["ls"]))
"""


@pytest.mark.parametrize(("options", "told"), [((), False), (("-W", "default"), True)])
def test_a_librarys_word_to_programmers_is_not_for_people(km_home: Path, options: tuple[str, ...], told: bool) -> None:
    run = subprocess.run([sys.executable, *options, "-c", WARNS], capture_output=True, text=True, check=True)
    assert ("FutureWarning: goes in version 6" in run.stderr) is told
    assert "The library is empty." in run.stderr


@pytest.mark.parametrize(("said", "taken"), [((0, 0), (80, 24)), ((120, 0), (120, 24)), ((40, 9), (40, 9))])
def test_a_terminal_that_does_not_say_its_size(
    monkeypatch: pytest.MonkeyPatch, said: tuple[int, int], taken: tuple[int, int]
) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", returning(os.terminal_size(said)))
    assert terminal_size() == taken


def test_long_sentences_wrap_under_their_beginning() -> None:
    wrapped = render.wrapped("one two three four five six seven", 30, indent=6, first="note  ")
    assert wrapped == "note  one two three four five\n      six seven"
    assert render.wrapped("see km-a-very-long-name --question", 28) == "see km-a-very-long-name\n--question"
    assert render.wrapped("one\ntwo  three", None) == "one two three"
    took = "it took 2 min 35 s and 17.8 MB, by 3 hands"
    assert render.wrapped(took, 21) == "it took 2 min 35 s\nand 17.8 MB, by 3\nhands"
    assert render.wrapped(f"x{took}", 21) == "xit took 2 min 35 s\nand 17.8 MB, by 3\nhands"
    assert render.wrapped(f"xxx{took}", 21) == "xxxit took 2 min\n35 s and 17.8 MB, by\n3 hands"
