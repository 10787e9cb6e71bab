"""What a person types in km chat: lines, keys, history, completion; and what the commands do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document as Typed
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from chat_cases import LAMP, MILL, Opened, add, give_module, house, scripted
from cli_cases import HOSTILE
from kmcli.cli import chat_commands
from kmcli.cli.chat_commands import COMMANDS, Left, Talk
from kmcli.cli.chat_prompt import Prompt, _Completer
from kmcli.cli.chat_screen import label
from kmcli.cli.screen import Screen
from kmcli.errors import KmError
from kmcli.workflows.chat import Chat
from kmcli.workflows.house import House

__all__ = ["house", "scripted"]

Read = Callable[[str], str]
NAMES = ["mill", "report", "review 2024"]


def choices(word: str) -> list[str] | None:
    return None if word == "/save" else NAMES if word == "/use" else []


@pytest.fixture
def read(tmp_path: Path) -> Iterator[Read]:
    """What the prompt gives for these keys."""
    with create_pipe_input() as keys:
        prompt = Prompt(tmp_path / "history", COMMANDS, choices, input=keys, output=DummyOutput())

        def read(typed: str) -> str:
            keys.send_text(typed)
            return prompt.read("mill")

        yield read


@pytest.mark.parametrize(
    ("keys", "typed"),
    [
        ("Who?\r", "Who?"),
        ("Who\x1b\rbuilt it?\r", "Who\nbuilt it?"),
        ("Who\\\rbuilt it?\r", "Who\nbuilt it?"),
        ("built it?\x01Who \r", "Who built it?"),  # sent from the middle of the text
        ("\x1b[200~Who\r\nbuilt\nit?\x1b[201~\r", "Who\nbuilt\nit?"),
        ("\x1b[200~a\\\nb\x1b[201~\r", "a\\\nb"),
        ("/me\t\r", "/method "),
        ("/use MI\t\r", "/use mill "),
        ("/use mill rev\t\r", "/use mill 'review 2024' "),
        ("/u\tre\t\r", "/use re"),
        ("re\t\r", "re"),  # nothing completes a question
        ("/sources x\t\r", "/sources x"),
    ],
)
def test_keys(read: Read, keys: str, typed: str) -> None:
    assert read(keys).rstrip("\t") == typed


def test_files_are_completed(read: Read, tmp_path: Path) -> None:
    (tmp_path / "answers.md").touch()
    assert read(f"/save {tmp_path}/ans\t\r") == f"/save {tmp_path}/answers.md"


def test_leaving_and_stopping(read: Read) -> None:
    with pytest.raises(EOFError):
        read("\x04")
    with pytest.raises(KeyboardInterrupt):
        read("half a question\x03")
    assert read("Who?\x04\r") == "Who?"  # within text, Ctrl-D deletes


def test_history_is_kept_for_its_owner_alone(read: Read, tmp_path: Path) -> None:
    for typed in ("Who?\r", "Who\x1b\rbuilt it?\r", "\r"):
        read(typed)
    file = tmp_path / "history"
    assert file.stat().st_mode & 0o777 == 0o600
    assert [line for line in file.read_text().splitlines() if line.startswith("+")] == ["+Who?", "+Who", "+built it?"]
    assert read("\x10\x10\x10\r") == "Who?"
    with create_pipe_input() as keys:
        again = Prompt(file, COMMANDS, choices, input=keys, output=DummyOutput())
        keys.send_text("\x10\r")
        assert again.read("mill") == "Who?"
    file.chmod(0o644)
    read("Where?\r")
    assert file.stat().st_mode & 0o777 == 0o600


def test_history_that_cannot_be_kept(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with create_pipe_input() as keys:
        prompt = Prompt(tmp_path / "folder", COMMANDS, choices, input=keys, output=DummyOutput())
        for typed in ("Who?\r", "\x10\r"):
            keys.send_text(typed)
            assert prompt.read("mill") == "Who?"


def test_names_are_shown_clean() -> None:
    completer = _Completer((), lambda word: [HOSTILE])
    (found,) = completer.get_completions(Typed("/use "), CompleteEvent())
    assert "\x1b" not in found.display_text
    assert found.display_text.startswith("\\x1b]0;owned")


# --- commands


@pytest.fixture
def talk(house: House, scripted: Opened, capsys: pytest.CaptureFixture[str]) -> Iterator[Talk]:
    give_module(house.library, add(house.library, "mill", MILL))
    add(house.library, "lamp", LAMP)
    with ExitStack() as held:
        chat = Chat(house, held)
        chat.use(["mill"])
        yield Talk(Screen("chat"), house, chat)


def ask(talk: Talk, question: str = "Who built the mill?") -> None:
    talk.chat.ask(question, lambda piece: None)


def refused(talk: Talk, line: str) -> str:
    with pytest.raises(KmError) as error:
        chat_commands.run(talk, line)
    return str(error.value)


def test_use(talk: Talk, capsys: pytest.CaptureFixture[str]) -> None:
    assert label(talk) == "mill"
    chat_commands.run(talk, "/use lamp 'mill'")
    assert [document.name for document in talk.chat.documents] == ["lamp", "mill"]
    assert label(talk) == "lamp+1 (rag)"
    capsys.readouterr()
    chat_commands.run(talk, "/use mill")
    chat_commands.run(talk, "/USE")
    assert capsys.readouterr().out.splitlines() == ["   NAME  STATE", "   lamp  untrained", "*  mill  fresh"]
    assert refused(talk, "/use mil") == "there is no document 'mil'. Did you mean mill?"
    assert refused(talk, '/use "mill') == "there is no document '\"mill'. Did you mean mill?"
    assert label(talk) == "mill"
    assert list(chat_commands.choices(talk, "/use") or ()) == ["lamp", "mill"]
    assert chat_commands.choices(talk, "/save") is None
    assert list(chat_commands.choices(talk, "/nothing") or ()) == []


def test_method(talk: Talk, capsys: pytest.CaptureFixture[str]) -> None:
    chat_commands.run(talk, "/method rag")
    assert label(talk) == "mill (rag)"
    chat_commands.run(talk, "/method")
    assert capsys.readouterr().err == "Answered by rag. /method takes one of auto, km, rag, full, bare.\n"
    chat_commands.run(talk, "/method auto")
    assert label(talk) == "mill"
    assert refused(talk, "/method gold") == "there is no method 'gold'. Choose one of auto, km, rag, full, bare."


def test_turns(talk: Talk, capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("/turns", "/turns 1", "/turns", "/turns 0", "/turns", "/turns auto"):
        chat_commands.run(talk, line)
    assert capsys.readouterr().err.splitlines() == [
        "An answer reads no earlier turn (auto, for this base).",
        "An answer reads at most 1 earlier turn.",
        "An answer reads no earlier turn.",
    ]
    assert talk.chat.reads is None
    assert refused(talk, "/turns x") == "x is not a number of turns. Give 0 or more, or auto."


def test_sources_and_save(talk: Talk, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "my answers.md"
    for line in ("/sources", f"/save {file}"):
        assert refused(talk, line) == "nothing has been asked yet."
    ask(talk)
    chat_commands.run(talk, "/sources")
    assert capsys.readouterr().out == f"mill\n  {MILL}\n"
    chat_commands.run(talk, f"/save {file}")
    assert file.read_text() == f"## Who built the mill?\n\nre: Who built the mill?\n\n- mill: {MILL}\n"
    assert capsys.readouterr().err == f"saved 1 turn to {file}\n"
    assert refused(talk, f"/save '{file}'") == f"{file} exists already. Choose another name."
    assert refused(talk, "/save").startswith("/save takes a file's name.")
    chat_commands.run(talk, "/method bare")
    ask(talk)
    capsys.readouterr()
    chat_commands.run(talk, "/sources")
    assert capsys.readouterr().err == "There is no passage behind this answer.\n"


def test_new_help_and_quit(talk: Talk, capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("/new", "/clear"):
        ask(talk)
        assert talk.chat.turns
        chat_commands.run(talk, line)
        assert (talk.chat.number, talk.chat.turns) == (None, [])
    capsys.readouterr()
    chat_commands.run(talk, "/help")
    shown = capsys.readouterr().out
    assert [name for name in COMMANDS if re.search(f"^{name}\\b.*[.]$", shown, re.MULTILINE)] == list(COMMANDS)
    for line in ("/quit", "/exit"):
        with pytest.raises(Left):
            chat_commands.run(talk, line)
    assert refused(talk, "/hepl") == "there is no command /hepl. Did you mean /help?"
    assert refused(talk, "/etc/passwd") == "there is no command /etc/passwd. /help lists them."
    assert refused(talk, "/quit now") == "/quit takes nothing more."
