"""ask: a question, and where its answer comes from."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kmcli.cli import choice as choices
from kmcli.cli import render
from kmcli.cli.app import Device, Model, UseExtractor, opened, verb
from kmcli.cli.progress import Reporter
from kmcli.cli.screen import Screen, columns, is_terminal
from kmcli.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from kmcli.types import Passage
    from kmcli.workflows.answer import Asked
    from kmcli.workflows.house import House
    from kmcli.workflows.routed import Routed

Method = Literal["auto", "km", "rag", "full", "bare"]
AUTO: Literal["auto"] = "auto"
"""The --weight by which the question decides."""
SHOWN = 4
"""Names in one sentence at most."""
PASSAGE_COLUMNS = 300
"""How much of an evidence passage is shown; --json has all of it."""


@verb(
    "Use",
    'km ask report "What was the revenue in 2024?"',
    'km ask "Who led the audit in 2024?" --explain',
    'km ask --each @contracts "When does it end?" --csv > ends.csv',
)
def ask(
    screen: Screen,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME", help="Documents, or @TAG for all with a tag. None: the library finds the document."
        ),
    ] = None,
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="In quotes. Left out: asked for, or read from stdin.")
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
    weight: Annotated[
        list[str] | None,
        typer.Option(
            "--weight",
            metavar="W,...",
            help="Add the Knowledge Modules up, each times a number, such as 1,1, or as the question says: auto.",
        ),
    ] = None,
    evidence: Annotated[
        bool | None,
        typer.Option("--evidence/--no-evidence", help="Show the passages that bear on it; the default in a terminal."),
    ] = None,
    each: Annotated[
        bool, typer.Option("--each", help="Ask every document named (NAME, @TAG; none: all trained) the same question.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="With --each: the table as CSV.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show which documents were tried, and how well each answers.")
    ] = False,
    extractor: UseExtractor = None,
    model: Model = None,
    device: Device = None,
    engine: Annotated[
        str | None, typer.Option("--engine", metavar="ENGINE", help="What answers: auto, hf or llamacpp.")
    ] = None,
) -> object:
    """Ask documents a question, or the whole library.

    The answer comes from the document's Knowledge Module, or by retrieval as long as it has none. Where the module was
    examined and is unsure, the base reads a passage too, or says that there is no answer; --method km reads nothing.
    Several names: from the one that knows. No name: from the document of the library that knows, or from none, and then
    the exit code is 3. With --weight the modules of the documents are added up, and answer as one.
    """
    if each or as_csv:
        from kmcli.cli.each import ask_each

        words = [*(names or []), *([question] if question is not None else [])]
        if each and (weight or explain or evidence):
            option = "--weight" if weight else "--explain" if explain else "--evidence"
            raise UsageError(f"{option} is not for --each.", "Leave one of them out.")
        flags = {"model": model, "device": device, "engine": engine, "extractor": extractor}
        return ask_each(screen, words, as_csv, each, method, lambda *given: _of_each(screen, *given), **flags)
    from kmcli.workflows import answer, asking

    weights = _weights(weight or [])
    with opened(screen, model=model, device=device, engine=engine, extractor=extractor) as house:
        named, question = _understood(screen, house, [*(names or []), *([] if question is None else [question])])
        known = explain and asking.at_once(named, method, weights)
        if known and (weights or not answer.chooses(house, named, method)):
            raise UsageError("--explain is for questions that look for their document.", "Leave it out.")
        stream = Stream(screen, house.report)
        asked, tried = asking.ask(house, named, question, method, weights, stream)
    stream.end(asked.answer.text if asked else asking.NONE)
    unanswered = asked is None or bool(asked.choice and not asked.choice.answered)
    shows = bool(evidence) or (evidence is None and is_terminal(sys.stderr) and not screen.quiet)
    if asked:
        _tell(screen, asked, tried is not None, shows)
    if unanswered:
        screen.exit_code = NotFoundError.exit_code
    if explain and asked and asked.choice and tried is None:
        choices.show(screen, asked.choice)
    elif explain:
        choices.explain(screen, tried, asked)
    return _data(question, asked, tried, extractor)


def _data(question: str, asked: Asked | None, tried: Routed | None, extractor: str | None) -> dict[str, Any]:
    """What --json prints. Every key is always there."""
    told = render.as_data(asked.answer) if asked else {}
    choice = asked.choice if asked else None
    documents = [document.name for document in asked.documents] if asked else []
    return {
        "document": documents[0] if len(documents) == 1 else None,
        "documents": documents,
        "question": question,
        "answered": asked is not None and (choice is None or choice.answered),
        "answer": told.get("text") if choice is None or choice.answered else None,
        "engine": asked.engine if asked else None,
        "extractor": extractor,
        "method": told.get("method"),
        "prompt_tokens": told.get("prompt_tokens"),
        "output_tokens": told.get("output_tokens"),
        "seconds": told.get("seconds"),
        "supported": asked.supported if asked else None,
        "confidence": choice.confidence if choice else asked.confidence if asked else None,
        "choice": choices.as_data(choice),
        "evidence": told.get("evidence", []),
        "weights": list(asked.weights) if asked and asked.weights else None,
        "candidates": render.as_data(tried.candidates) if tried and not tried.sum else None,
    }


def _tell(screen: Screen, asked: Asked, routed: bool, shows: bool) -> None:
    """Beside the answer: whose it is, what supports it, what to know about it."""
    names = [document.name for document in asked.documents]
    if shows:
        width = columns(sys.stderr)
        if routed and len(names) == 1 and not asked.answer.evidence:
            screen.remark(render.wrapped(f"from {render.one_line(names[0])}", width, indent=2), dim=True)
        for passage in asked.answer.evidence:
            screen.remark(render.wrapped(cited(passage), width, indent=2), dim=True)
        if asked.supported is False:
            screen.remark(render.wrapped(unsupported(names), width, indent=2), dim=True)
        if asked.choice:
            screen.remark(render.wrapped(choices.surely(asked.choice), width, indent=2), dim=True)
    for note in asked.notes:
        screen.note(note)


def unsupported(names: Sequence[str]) -> str:
    """Of an answer from documents of these names."""
    if len(names) > SHOWN:
        return f"no passage of these {len(names)} documents supports this answer"
    *others, last = map(render.one_line, names)
    return f"no passage of {', '.join(others)}{' or ' if others else ''}{last} supports this answer"


class Stream:
    """Prints an answer while it is being written. The first piece clears the progress, which shares the terminal."""

    def __init__(self, screen: Screen, report: object) -> None:
        self._screen = screen
        self._report = report
        self._last = ""

    def __call__(self, piece: str) -> None:
        if not piece:
            return
        if not self._last and isinstance(self._report, Reporter):
            self._report.stop()
        self._screen.write(piece, end="")
        self._last = piece

    def end(self, answer: str) -> None:
        """The end of the line; the whole answer, where nothing of it was streamed."""
        if not self._last:
            self._screen.write(answer)
        elif not self._last.endswith("\n"):
            self._screen.write("")


def _understood(screen: Screen, house: House, words: Sequence[str]) -> tuple[list[str], str]:
    """Which words are names and which is the question: the last of several; a single one, unless a document is called so."""
    if not words:
        return [], _read_question(screen, 'km ask "question"')
    if len(words) == 1:
        (word,) = words
        if _is_name(house, word):
            return _documents(house, words), _read_question(screen, f'km ask {word} "question"')
        if len(word.split()) == 1 and not word.rstrip("\"'").endswith("?"):
            _refuse_name(house, word)
        return [], word
    *names, question = words
    if len(words) > 2 and len(question.split()) == 1 and not all(_is_name(house, name) for name in names):
        first = words[0] if _is_name(house, words[0]) else "NAME"
        raise UsageError("the question has to be one argument.", f'Put it in quotes: km ask {first} "..."')
    return _documents(house, names), question


def _of_each(screen: Screen, house: House, words: Sequence[str]) -> tuple[list[str], str]:
    """The same of --each, where a question follows the names."""
    if words and not _is_name(house, words[-1]):
        return list(words[:-1]), words[-1]
    return list(words), _read_question(screen, 'km ask --each @TAG "question"')


def _is_name(house: House, word: str) -> bool:
    """Of a document, or a tag."""
    from kmcli.workflows.naming import MARK

    return house.library.has(word) or (word.startswith(MARK) and len(word.split()) == 1)


def _documents(house: House, given: Sequence[str]) -> list[str]:
    """The names, those of a tag in its place."""
    from kmcli.workflows.naming import MARK, find_all

    if not any(word.startswith(MARK) for word in given):
        return list(given)
    return [document.name for document in find_all(house.library, given)]


def _refuse_name(house: House, word: str) -> None:
    """A word by itself that is no document's name, and no question."""
    try:
        house.library.find(word)
    except NotFoundError as error:
        if error.hint.startswith("Did you mean"):
            raise
        raise NotFoundError(
            f"there is no document {word!r}, and one word is no question.", 'Ask the library: km ask "who ...?"'
        ) from None


def _read_question(screen: Screen, usage: str) -> str:
    if screen.interactive:
        return screen.read_line("Question: ")
    if is_terminal(sys.stdin):
        raise UsageError("there is no question.", usage)
    return sys.stdin.read().strip()


def _weights(given: Sequence[str]) -> list[float] | Literal["auto"]:
    """Of --weight 0.5,0.5 or --weight 0.5 --weight 0.5, or --weight auto."""
    if [one.strip() for one in given] == [AUTO]:
        return AUTO
    words = [word.strip() for one in given for word in one.split(",")]
    try:
        found = [float(word) for word in words]
    except ValueError:
        found = [math.nan]
    if not all(map(math.isfinite, found)):
        raise UsageError(f"--weight takes numbers or auto, not {','.join(given)!r}.", "For example: --weight 0.5,0.5")
    return found


def cited(passage: Passage) -> str:
    page = "" if passage.page is None else f", page {passage.page}"
    return f"{render.one_line(passage.document)}{page}: {render.shorten(passage.text, PASSAGE_COLUMNS)}"
