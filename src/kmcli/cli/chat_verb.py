"""chat: a conversation with documents, and the conversations that are kept."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from kmcli.cli import render
from kmcli.cli.app import Device, Model, UseExtractor, opened, verb
from kmcli.cli.ask_verb import Method
from kmcli.cli.screen import Screen, columns, is_terminal
from kmcli.errors import UsageError

if TYPE_CHECKING:
    from kmcli.cli.chat_commands import Talk
    from kmcli.cli.chat_screen import Reads
    from kmcli.library.conversations import Conversation
    from kmcli.workflows.chat import Chat
    from kmcli.workflows.house import House

HISTORY = "chat_history"
"""The file in the library's folder with what was typed."""

DOCUMENT_COLUMNS = 24
WIDE = 60
"""Columns from which the list of conversations has one for their documents."""


@verb("Use", "km chat report", "km chat -c", "km chat report < questions.txt")
def chat(
    screen: Screen,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME...", help="Documents, or @TAG for all with a tag; with -c, first a conversation's number."
        ),
    ] = None,
    continues: Annotated[
        bool, typer.Option("-c", "--continue", help="Go on with the last conversation, or with the one of a number.")
    ] = False,
    listed: Annotated[bool, typer.Option("--list", help="List the conversations.")] = False,
    delete: Annotated[
        int | None, typer.Option("--delete", metavar="NUMBER", min=1, help="Delete a conversation.")
    ] = None,
    method: Annotated[
        Method | None,
        typer.Option(
            "--method",
            metavar="METHOD",
            help="km: the module; rag: retrieval; full: the whole text; bare: neither; auto, the default after an exam: "
            "what is likely right, or nobody.",
        ),
    ] = None,
    turns: Annotated[
        int | None,
        typer.Option(
            "--turns", metavar="N", min=0, help="How many earlier turns an answer reads; the default is the base's."
        ),
    ] = None,
    evidence: Annotated[
        bool | None,
        typer.Option("--evidence/--no-evidence", help="Show the passages that bear on it; the default in a terminal."),
    ] = None,
    extractor: UseExtractor = None,
    model: Model = None,
    device: Device = None,
    engine: Annotated[
        str | None, typer.Option("--engine", metavar="ENGINE", help="What answers: auto, hf or llamacpp.")
    ] = None,
) -> object:
    """Talk with documents: question after question.

    In a terminal /help lists what else can be typed. Elsewhere every line of stdin is a question. What was asked and
    answered is kept as a conversation.
    """
    from kmcli.workflows import chat as talks

    if listed or delete is not None:
        if names or continues or (listed and delete is not None):
            raise UsageError("--list and --delete stand alone.", "See km chat --help.")
        with opened(screen) as house:
            return _list(screen, house) if delete is None else _delete(screen, house, delete)
    names = list(names or [])
    number = int(names.pop(0)) if continues and names and names[0].isdecimal() else None
    with opened(screen, model=model, device=device, engine=engine, extractor=extractor) as house:
        continued = talks.to_continue(house, number) if continues else None
        with talks.open_chat(house, names, method, turns, continued) as conversation:
            return _talk(screen, house, conversation, evidence)


def _talk(screen: Screen, house: House, chat: Chat, evidence: bool | None) -> object:
    from kmcli.cli import chat_commands, chat_screen

    talk = chat_commands.Talk(screen, house, chat)
    shown = evidence if evidence is not None else is_terminal(sys.stderr) and not screen.quiet
    if screen.interactive and not screen.json:
        _greet(talk)
        chat_screen.converse(talk, _prompt(talk), shown)
        if chat.number is not None:
            screen.note(f"To go on: km chat -c {chat.number}")
        return None
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")
    chat.ready()
    answered = chat_screen.each_line(talk, iter(sys.stdin), shown)
    return {"conversation": chat.number, "turns": answered}


def _prompt(talk: Talk) -> Reads:
    from kmcli.cli import chat_commands, chat_screen

    if os.environ.get("TERM") == "dumb":
        return chat_screen.Plain()
    from kmcli.cli.chat_prompt import Prompt

    file = talk.house.library.home / HISTORY
    return Prompt(file, chat_commands.names(), lambda word: chat_commands.choices(talk, word))


def _greet(talk: Talk) -> None:
    """One line on what is open, and where help is."""
    chat = talk.chat
    about = ", ".join(document.name for document in chat.documents)
    if chat.turns:
        talk.screen.note(f"Conversation {chat.number} goes on after {render.count(len(chat.turns), 'turn')}: {about}.")
    elif not chat.documents:
        talk.screen.note("No document is chosen yet: /use NAME")
    talk.screen.note("/help says what else you can type; Ctrl-D leaves.")


def _list(screen: Screen, house: House) -> object:
    from kmcli.workflows import chat

    found = chat.conversations(house)
    width = columns(sys.stdout)
    if found and (width is None or width >= WIDE):
        rows = [_row(one) for one in found]
        screen.table(rows, headers=["#", "LAST", "TURNS", "DOCUMENTS", "FIRST QUESTION"], right=[0, 2], flex=4)
    elif found:
        narrow = [[*_row(one)[:3], one.turns[0].question] for one in found]
        screen.table(narrow, headers=["#", "LAST", "TURNS", "FIRST QUESTION"], right=[0, 2], flex=3)
    else:
        screen.note("There is no conversation yet. Begin one: km chat NAME")
    return [
        {
            "number": one.number,
            "began": one.turns[0].asked,
            "last": one.turns[-1].asked,
            "turns": len(one.turns),
            "documents": list(one.documents.values()),
            "question": one.turns[0].question,
        }
        for one in found
    ]


def _row(one: Conversation) -> list[str]:
    documents = ", ".join(one.documents.values())
    return [
        str(one.number),
        render.when(one.turns[-1].asked),
        str(len(one.turns)),
        render.shorten(documents, DOCUMENT_COLUMNS),
        one.turns[0].question,
    ]


def _delete(screen: Screen, house: House, number: int) -> object:
    from kmcli.workflows import chat

    deleted = chat.delete(house, number)
    screen.write(f"deleted conversation {number} ({render.count(deleted.turns, 'turn')})")
    return deleted
