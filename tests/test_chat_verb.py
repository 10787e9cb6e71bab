"""km chat without a terminal: lines in, answers out, and the list of conversations."""

from __future__ import annotations

import errno
import io
import subprocess
import sys
from pathlib import Path

import pytest

from chat_cases import Opened, filled, scripted, turns
from cli_cases import HOSTILE, SHOWN, Km, environment
from kmcli.cli.boundary import tree
from kmcli.cli.chat_commands import METHODS, transcript
from kmcli.library.conversations import Turn
from kmcli.types import Answer, Passage
from kmcli.workflows.answerer import ASKABLE
from workflow_cases import km, sentences

__all__ = ["km", "scripted"]


@pytest.fixture(autouse=True)
def library_of_two() -> None:
    filled()


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


# --- lines


def test_every_line_is_a_question(km: Km, scripted: Opened, monkeypatch: pytest.MonkeyPatch, km_home: Path) -> None:
    typed(monkeypatch, "Who?\n\n  /quit  \nWhen?")
    run = km("chat", "mill")
    assert (run.code, run.out, run.err) == (0, "re: Who?\nre: /quit\nre: When?\n", "")
    assert len(scripted.engines) == 1
    kept = turns(km_home / "conversations" / "1.jsonl")
    assert [turn["question"] for turn in kept] == ["Who?", "/quit", "When?"]
    assert not (km_home / "chat_history").exists()


def test_the_envelope(km: Km, scripted: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "Who built the mill?\nWhen?\n")
    data = km("chat", "mill", "--json").envelope["data"]
    assert data["conversation"] == 1
    first, second = data["turns"]
    assert first["evidence"][0]["document"] == "mill"
    assert first.pop("seconds") >= 0
    assert 0 < first.pop("confidence") < 0.01
    assert {key: first[key] for key in first if key != "evidence"} == {
        "question": "Who built the mill?",
        "documents": ["mill"],
        "answer": "re: Who built the mill?",
        "engine": "scripted",
        "choice": None,
        "supported": False,
        "method": "km",
        "prompt_tokens": 4,
        "output_tokens": 5,
    }
    assert second["question"] == "When?"


def test_what_is_not_kept_shows_in_the_exit_code(
    km: Km, scripted: Opened, monkeypatch: pytest.MonkeyPatch, km_home: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    typed(monkeypatch, "Who built the mill?\nWhen?\n")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        run = km("chat", "mill")
    assert run.code == 4
    assert run.out.count("re: ") == 2, "they are answered all the same"
    assert "km: 2 turns were not kept: " in run.err
    assert run.err.endswith("no space left on device. Free some space and try again.\n")


def test_continue(km: Km, scripted: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (["mill"], ["lamp"], ["-c"], ["-c", "1"], ["-c", "1", "lamp"], ["--continue"]):
        typed(monkeypatch, f"asked by {' '.join(words)}?\n")
        run = km("chat", *words, "--json", "--turns", "5")
        assert run.code == 0, run.err
    listed = km("chat", "--list", "--json").envelope["data"]
    assert [(one["number"], one["turns"], one["documents"]) for one in listed] == [(2, 2, ["lamp"]), (1, 4, ["lamp"])]
    assert listed[1]["question"] == "asked by mill?"
    assert listed[1]["began"] <= listed[1]["last"]
    assert [content for role, content in scripted.chats[3][:-1] if role == "user"] == ["asked by mill?"]
    table = km("chat", "--list").out.splitlines()
    assert table[0].split() == ["#", "LAST", "TURNS", "DOCUMENTS", "FIRST", "QUESTION"]
    assert table[1].split()[0] == "2"
    assert table[1].endswith("2  lamp       asked by lamp?")
    assert km("chat", "--delete", "2").out == "deleted conversation 2 (2 turns)\n"
    assert [one["number"] for one in km("chat", "--list", "--json").envelope["data"]] == [1]
    typed(monkeypatch, "Who?\n")
    run = km("chat", "-c", "2")
    assert (run.code, sentences(run.err)) == (3, ["km: there is no conversation 2. km chat --list shows all."])


def test_questions_that_fail(km: Km, scripted: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted.context = 128 + 5
    long = "Who " * 6
    for text, code, answers in ((f"Who?\n{long}\nWhen?\n", 6, 2), (f"{long}\n", 1, 0), (f"{long}\n{long}\n", 1, 0)):
        typed(monkeypatch, text)
        run = km("chat", "mill")
        assert (run.code, len(run.out.splitlines())) == (code, answers)
        assert sentences(run.err) == [
            f"km: {long.strip()}: the question does not fit in the 640 tokens that embedded reads at once. "
            "Ask a shorter one."
        ] * text.count(long)


def test_what_makes_no_sense(km: Km, scripted: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "Who?\n")
    for words, code, sentence in (
        (["nowhere"], 3, "km: there is no document 'nowhere'."),
        ([], 3, "km: no document is chosen. km ls lists them; choose with: km chat NAME, or /use NAME"),
        (["-c"], 3, "km: there is no conversation to continue. Begin one: km chat NAME"),
        (["lamp", "--method", "km"], 3, "km: lamp has no Knowledge Module yet. Make one: km train lamp"),
        (["--list", "mill"], 2, "km: --list and --delete stand alone."),
        (["--list", "--delete", "1"], 2, "km: --list and --delete stand alone."),
        (["--delete", "1"], 3, "km: there is no conversation 1."),
        (["mill", "--turns", "-1"], 2, "km: invalid value for '--turns'"),
    ):
        run = km("chat", *words)
        assert (run.code, run.out) == (code, "")
        assert sentences(run.err)[0].startswith(sentence)
    assert km("chat", "--list").err == "There is no conversation yet. Begin one: km chat NAME\n"


def test_evidence_and_notes(km: Km, scripted: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "Who made the lamp?\n")
    run = km("chat", "lamp", "--evidence")
    assert run.err.splitlines()[-3:] == [
        "no Knowledge Module yet: answered by retrieval. km train lamp makes one.",
        "  lamp: Bo made the lamp in 1902. The lamp weighs 3 kilos.",
        "  no passage of lamp supports this answer",
    ]
    scripted.reply = lambda chat, sampling: "Bo"
    typed(monkeypatch, "Who made the lamp in 1902?\n")
    assert (
        km("chat", "lamp", "--evidence").err.splitlines()[-1]
        == "  lamp: Bo made the lamp in 1902. The lamp weighs 3 kilos."
    )


def test_ctrl_c_ends_it(km: Km, scripted: Opened, monkeypatch: pytest.MonkeyPatch, km_home: Path) -> None:
    def struck(*_: object) -> str:
        raise KeyboardInterrupt

    scripted.reply = struck
    typed(monkeypatch, "Who?\nWhen?\n")
    assert km("chat", "mill").code == 130
    assert [turn["stopped"] for turn in turns(km_home / "conversations" / "1.jsonl")] == [True]


def test_nothing_is_obeyed_by_a_terminal(
    km: Km, scripted: Opened, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scripted.reply = lambda chat, sampling: HOSTILE
    typed(monkeypatch, f"Who? {HOSTILE}\n")
    run = km("chat", "mill")
    assert run.out == f"{SHOWN}\n"
    assert "\x1b" not in km("chat", "--list").out
    assert SHOWN in km("chat", "--list").out
    answer = Answer(HOSTILE, "km", 1, 1, 0.1, (Passage(HOSTILE, HOSTILE, 1.0, 3),))
    text = transcript([Turn(f"Who\n{HOSTILE}?", answer, {"d": HOSTILE}, True, "")])
    assert text == f"## Who {SHOWN}?\n\n{SHOWN} (stopped)\n\n- {SHOWN}, page 3: {SHOWN}\n"


def test_bytes_that_are_no_text(km_home: Path) -> None:
    """A question that is not UTF-8, in a locale that knows nothing else than ASCII."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import chat_cases; from kmcli.workflows import answerer; "
        "answerer.open_answering = chat_cases.Opened(); "
        "from kmcli.cli.boundary import main; sys.exit(main(['chat', 'mill']))"
    )
    for changes in (
        {"LC_ALL": "C"},
        {"LC_ALL": "C.UTF-8"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, str(Path(__file__).parent)],
            input=b"W\xff\xc3\xb6?\n",
            capture_output=True,
            env=environment(**changes),
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.startswith(b"re: W")
        assert done.stdout.endswith(b"?\n")


def test_the_methods_are_those_of_ask() -> None:
    assert ASKABLE == METHODS
    option = next(param for param in tree().commands["chat"].params if param.name == "method")
    assert tuple(option.type.choices) == ASKABLE
