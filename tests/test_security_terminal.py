"""Whatever a document, a name or a model says, a terminal shows it and obeys none of it."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_cases import Opened, scripted
from cli_cases import Km, command, in_terminal
from kmcli.cli.progress import Reporter
from kmcli.cli.screen import Screen
from kmcli.ingest import read
from kmcli.library import Library
from kmcli.types import Event, Ingested
from kmcli.visible import clean
from security_cases import ATTACKS, obeyed
from workflow_cases import km

ALL = " ".join(ATTACKS.values())
TEXT = ALL.replace("\0", "")
"""Without what makes a file binary."""


@pytest.mark.parametrize("attack", ATTACKS)
def test_clean(attack: str) -> None:
    assert obeyed(ATTACKS[attack]), "it would be obeyed"
    assert not obeyed(clean(ATTACKS[attack]))


@given(st.text(), st.integers(0, 20))
def test_an_answer_in_pieces_is_as_harmless_as_a_whole_one(text: str, at: int) -> None:
    """Wherever a stream cuts an escape sequence in two."""
    assert not obeyed(clean(text[:at]) + clean(text[at:]))


@pytest.fixture
def hostile(km_home: Path) -> str:
    """A document whose source and text attack, put past the readers, which take such characters out. Its name."""
    text = f"# The harbour {TEXT}\n\nThe mill was built by Ann {TEXT} in 1871. {TEXT}\n"
    with Library.open(km_home) as library:
        found = library.add(Ingested(f"/x/{TEXT}.md", "markdown", f"ha{TEXT}rbour", text.encode(), text, None))
    return found.document.name


def test_readers_take_them_out(tmp_path: Path) -> None:
    file = tmp_path / "harbour.md"
    file.write_text(
        f"The mill was built. {ATTACKS['directions']} {ATTACKS['line separators']} It stands. " * 3, "utf-8"
    )
    assert set(obeyed(read(str(file)).text)) <= {"\u200f", "\u061c"}, "marks that Arabic and Hebrew need"


def test_no_verb_shows_what_a_document_says_as_it_is(km: Km, hostile: str, tmp_path: Path) -> None:
    lines = [
        ("ls",),
        ("show", hostile),
        ("search", "mill"),
        ("tag", hostile, "--add", "a"),
        ("doctor",),
        ("models",),
        ("config",),
    ]
    lines += [("show", ALL), ("ask", ALL, "who?"), ("add", ALL), ("add", f"http://x/{ALL}"), ("mv", hostile, ALL)]
    lines += [("train", hostile, "--set", f"steps={ALL}"), (ALL,), ("ls", f"--{ALL}"), ("tag", hostile, "--add", ALL)]
    lines += [
        ("import", str(tmp_path / f"no{ALL.replace('/', '')[:40]}".replace("\0", ""))),
        ("config", "set", ALL, ALL),
    ]
    for words in lines:
        run = km(*words)
        assert not obeyed(run.out + run.err), words
        assert "Traceback" not in run.err
        assert run.out + run.err, words


def test_a_terminal_is_sent_colours_and_nothing_else(hostile: str) -> None:
    for words in (["ls"], ["show", hostile], ["search", "-q", "mill built by"], ["show", TEXT]):
        _, shown = in_terminal(command(*words))
        assert shown
        assert not obeyed(shown), words


def test_a_model_that_writes_escapes(km: Km, hostile: str, scripted: Opened) -> None:
    """Streamed, piece by piece, and in a chat."""
    scripted.reply = lambda chat, sampling: ALL
    run = km("ask", hostile, "Who built the mill?", "--method", "rag", "--evidence")
    assert run.code == 0
    assert not obeyed(run.out + run.err)
    assert "\\x1b]52;c;" in run.out
    assert "\\x1b]52;c;" in run.err, "the passage says it too"


def test_progress(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmcli.cli.screen.may_style", lambda stream: True)
    with Reporter(Screen("train")) as report:
        for done in (0, 1, 2):
            report(Event(f"read {ALL}", ALL, done, 3, {ALL: 1.0}))
        report(Event("read", ALL, warning=True))
        report(Event("note", ALL))
    shown = capsys.readouterr().err
    # rich moves its own bars: cursor, erased lines
    assert not obeyed(re.sub(r"\x1b\[\??[0-9;]*[A-Za-z]", "", shown).replace("\r", "").replace("\x1b[", ""))
    assert "\\x1b]52;c;" in shown
