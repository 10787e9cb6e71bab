"""A chat as it is seen: in a terminal question by question, else every line of stdin a question."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from kmcli.cli import chat_commands, choice, render
from kmcli.cli.ask_verb import Stream, cited, unsupported
from kmcli.cli.chat_commands import Left, Talk
from kmcli.cli.failures import batch_exit_code
from kmcli.cli.progress import Reporter
from kmcli.cli.screen import columns
from kmcli.errors import KmError
from kmcli.workflows.house import Failure

if TYPE_CHECKING:
    from kmcli.workflows.chat import Replied

LABEL_COLUMNS = 24
"""How much of a document's name stands in front of what is typed."""


class Reads(Protocol):
    def read(self, label: str) -> str:
        """What the person typed. Raises EOFError for Ctrl-D, KeyboardInterrupt for Ctrl-C."""


class Plain:
    """Reads from a terminal that understands no escape codes. A backslash at its end lets a line go on."""

    def read(self, label: str) -> str:
        sys.stderr.write(f"{render.one_line(label)}> ")
        sys.stderr.flush()
        lines = []
        while line := sys.stdin.readline():
            lines.append(line.rstrip("\n"))
            if not lines[-1].endswith("\\"):
                return "\n".join(lines)
            lines[-1] = lines[-1][:-1]
        raise EOFError


def converse(talk: Talk, prompt: Reads, evidence: bool) -> None:
    """Questions and commands until the person leaves."""
    while True:
        if isinstance(talk.house.report, Reporter):
            talk.house.report.stop()
        try:
            typed = prompt.read(label(talk)).strip()
        except KeyboardInterrupt:
            talk.screen.remark("Ctrl-D or /quit leaves.", dim=True)
            continue
        except EOFError:
            return
        try:
            if typed.startswith("/"):
                chat_commands.run(talk, typed)
            elif typed:
                _answer(talk, typed, evidence)
        except Left:
            return
        except KmError as error:
            talk.screen.fail(error)
        except KeyboardInterrupt:
            talk.screen.remark("stopped.", dim=True)
        if typed:
            talk.screen.remark("")


def each_line(talk: Talk, lines: Iterator[str], evidence: bool) -> list[dict[str, Any]]:
    """Answer every line that is not blank. Lines that begin with a slash are questions too: nobody typed them here."""
    answered: list[dict[str, Any]] = []
    failed: list[Failure] = []
    unkept: list[KmError] = []
    for line in lines:
        if not (question := line.strip()):
            continue
        stream = Stream(talk.screen, talk.house.report)
        try:
            replied = talk.chat.ask(question, stream)
        except KmError as error:
            failed.append(Failure(render.shorten(question, 60), error))
            continue
        if replied.turn.stopped:
            raise KeyboardInterrupt
        stream.end(replied.turn.answer.text)
        _show_behind(talk, replied, evidence)
        answered.append(as_data(replied))
        unkept += [replied.unkept] if replied.unkept else []
    talk.screen.exit_code = batch_exit_code(talk.screen, failed, len(answered))
    if unkept:
        why = unkept[-1]
        lost = "a turn was" if len(unkept) == 1 else f"{len(unkept):,} turns were"
        talk.screen.fail(type(why)(f"{lost} not kept: {why.message}", why.hint))
        talk.screen.exit_code = talk.screen.exit_code or why.exit_code
    return answered


def as_data(replied: Replied) -> dict[str, Any]:
    """A turn as `--json` gives it: an answer as in km ask."""
    answer = render.as_data(replied.turn.answer)
    return {
        "question": replied.turn.question,
        "documents": list(replied.turn.documents.values()),
        "answer": answer.pop("text"),
        "engine": replied.engine,
        "supported": replied.supported,
        "confidence": replied.choice.confidence if replied.choice else replied.confidence,
        "choice": choice.as_data(replied.choice),
        **answer,
    }


def label(talk: Talk) -> str:
    """What stands in front of the line that a person types: which documents, and how where not by their modules."""
    documents = talk.chat.documents
    if not documents:
        return "bare" if talk.chat.method == "bare" else "km"
    more = f"+{len(documents) - 1}" if len(documents) > 1 else ""
    try:
        answerer = talk.chat.opened()
    except KmError:  # said when something is asked
        answerer = None
    how = "" if answerer is None or answerer.method in ("auto", "km") else f" ({answerer.method})"
    return f"{render.shorten(documents[0].name, LABEL_COLUMNS)}{more}{how}"


def _answer(talk: Talk, question: str, evidence: bool) -> None:
    stream = Stream(talk.screen, talk.house.report)
    with _stoppable() as check:

        def on_text(piece: str) -> None:
            check()
            stream(piece)

        replied = talk.chat.ask(question, on_text)
    stream.end(replied.turn.answer.text)
    if replied.turn.stopped:
        talk.screen.remark("stopped.", dim=True)
    _show_behind(talk, replied, evidence)
    if replied.unkept:
        talk.screen.warn(f"this turn is not kept: {replied.unkept}")


def _show_behind(talk: Talk, replied: Replied, evidence: bool) -> None:
    """The passages behind an answer, and what to know about it."""
    for passage in replied.turn.answer.evidence if evidence else ():
        talk.screen.remark(render.wrapped(cited(passage), columns(sys.stderr), indent=2), dim=True)
    if evidence and replied.supported is False:
        said = unsupported(list(replied.turn.documents.values()))
        talk.screen.remark(render.wrapped(said, columns(sys.stderr), indent=2), dim=True)
    if evidence and replied.choice:
        talk.screen.remark(render.wrapped(choice.surely(replied.choice), columns(sys.stderr), indent=2), dim=True)
    for note in replied.notes:
        talk.screen.note(note)


@contextmanager
def _stoppable() -> Iterator[Callable[[], None]]:
    """Within it Ctrl-C waits for the check that follows, which raises KeyboardInterrupt: between two pieces of text an
    engine can be stopped without harm. Pressed again it strikes at once."""
    pressed = False

    def press(number: int, frame: object) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, press)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
