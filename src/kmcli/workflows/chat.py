"""A conversation with documents: what answers stays open from one question to the next, and every turn is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from kmcli.engines.llamacpp import LlamaCppEngine
from kmcli.errors import KmError, NotFoundError, UsageError
from kmcli.library.conversations import Conversation, Turn
from kmcli.library.files import explained
from kmcli.routing import support
from kmcli.types import Answer, Document, Event
from kmcli.workflows import extracting
from kmcli.workflows.answerer import Answerer, History, check_method, confidence_in, open_answerer
from kmcli.workflows.auto import Choice
from kmcli.workflows.house import House
from kmcli.workflows.naming import find_all


@dataclass(frozen=True, slots=True)
class Replied:
    """A turn, what ran the base, what to know about the answer, how likely the evidence bears it out, and who was to answer
    (as in Asked)."""

    turn: Turn
    engine: str
    notes: tuple[str, ...]
    confidence: float | None
    choice: Choice | None = None
    unkept: KmError | None = None
    """Why the turn is not stored, where it is not; the answer is there all the same."""

    @property
    def supported(self) -> bool | None:
        return support.enough(self.confidence)


@dataclass(frozen=True, slots=True)
class Deleted:
    number: int
    turns: int


@contextmanager
def open_chat(
    house: House,
    names: Sequence[str],
    method: str | None = None,
    reads: int | None = None,
    continued: Conversation | None = None,
) -> Iterator[Chat]:
    """A conversation with these documents; with none named, those of the conversation that it continues, or the only
    document of the library. reads: how many earlier turns an answer reads at most (None: as the base's prompts say).

    Raises what `Chat.use` raises, and KmError where another process has the conversation open.
    """
    with ExitStack() as held:
        chat = Chat(house, held, method, reads)
        if continued:
            chat.take_up(continued)
        if names:
            chat.use(names)
        elif not chat.documents and len(documents := house.library.catalogue.documents(limit=2)) == 1:
            chat.use([documents[0].name])
        chat.opened()
        yield chat


def conversations(house: House) -> list[Conversation]:
    """All that are kept, the one with the latest turn last."""
    return house.library.conversations.all()


def to_continue(house: House, number: int | None) -> Conversation:
    """The conversation of this number; None: the one with the latest turn. Raises NotFoundError."""
    kept = house.library.conversations
    return kept.last() if number is None else kept.find(number)


def delete(house: House, number: int) -> Deleted:
    """Forget a conversation. Raises NotFoundError, and KmError where another process has it open."""
    return Deleted(number, len(house.library.conversations.delete(number).turns))


class Chat:
    """turns: of this conversation, oldest first. number: None until one of them is kept. method: as it was asked for;
    None leaves it to what the documents have. reads: see open_chat."""

    def __init__(self, house: House, held: ExitStack, method: str | None = None, reads: int | None = None) -> None:
        self._house = house
        self._held = held
        self._answerer: Answerer | None = None
        self._state: list[object] = []
        """Of the documents, when what answers was opened."""
        self.documents: tuple[Document, ...] = ()
        self.method = method
        self.number: int | None = None
        self.turns: list[Turn] = []
        self.set_reads(reads)

    def take_up(self, conversation: Conversation) -> None:
        """Go on with a conversation, and with those documents of its last turn that are still there."""
        assert conversation.number is not None
        self._held.enter_context(self._house.library.conversations.hold(conversation.number))
        self.number, self.turns = conversation.number, list(conversation.turns)
        there = self._there(conversation.documents)
        self.documents = tuple(there[key] for key in conversation.documents if key in there)
        for key, name in conversation.documents.items():
            if key not in there:
                self._house.warn(f"{name}, which this conversation was about, is no longer in the library")

    def use(self, names: Sequence[str]) -> None:
        """Ask these documents from now on, and open what answers.

        Raises NotFoundError for a name or tag that is not there, and what open_answerer raises; then all stays as it was.
        """
        self._open(tuple(find_all(self._house.library, names)), self.method)

    def set_method(self, method: str | None) -> None:
        """Answer in this way from now on. Raises like `use`, and UsageError for what is no method."""
        self._open(self.documents, method)

    def set_reads(self, reads: int | None) -> None:
        """Raises UsageError for a negative number."""
        if reads is not None and reads < 0:
            raise UsageError("an answer cannot read fewer than 0 earlier turns.", "Give 0 or more.")
        self.reads = reads

    def reads_now(self) -> int | None:
        """How many earlier turns an answer reads at most; None: as many as fit. What the base's prompts say, if nobody
        else did."""
        answerer = self.opened() if self.reads is None else None
        return 0 if answerer and not answerer.base.prompts.conversation else self.reads

    def new(self) -> None:
        """Begin another conversation with the same documents."""
        self._held.close()
        self.number, self.turns = None, []

    def opened(self) -> Answerer | None:
        """What answers, opened anew where a document has changed or was trained since; None: there is nothing to ask."""
        if self._answerer is None or self._state != self._stand(self.documents):
            there = self._there(document.id for document in self.documents)
            gone = [document.name for document in self.documents if document.id not in there]
            if gone:
                raise NotFoundError(f"{gone[0]} has been removed meanwhile.", "Choose another: /use NAME")
            self._open(tuple(there[document.id] for document in self.documents), self.method)
        return self._answerer

    def ready(self) -> Answerer:
        """The same. Raises NotFoundError where there is nothing to ask."""
        answerer = self.opened()
        if answerer is None:
            raise NotFoundError("no document is chosen.", "km ls lists them; choose with: km chat NAME, or /use NAME")
        return answerer

    def ask(self, question: str, on_text: Callable[[str], None] = lambda piece: None) -> Replied:
        """Answer a question, and keep the turn.

        A KeyboardInterrupt stops the answer, and what was written of it is kept. Raised by on_text it leaves everything
        ready for the next question; where it struck elsewhere, what answers is opened anew.
        Raises KmError where there is nothing to ask, or the question does not fit; then there is no turn.
        """
        if not question.strip():
            raise UsageError("the question is empty.")
        answerer = self.ready()
        pieces: list[str] = []
        unharmed = False

        def on_piece(piece: str) -> None:
            nonlocal unharmed
            try:
                on_text(piece)
            except KeyboardInterrupt:
                unharmed = True
                raise
            pieces.append(piece)

        notes: tuple[str, ...] = ()
        stopped = False
        try:
            answer, notes = answerer.answer(question, on_piece, self._history())
        except KeyboardInterrupt:
            stopped = True
            answer = Answer("".join(pieces), answerer.method, 0, 0, 0.0)
            if not unharmed:
                self._answerer = None
        turn = Turn.of(question, answer, self.documents, stopped)
        self.turns.append(turn)
        looked = not stopped and answerer.method != "bare"
        confidence = confidence_in(answerer.base, question, answer) if looked else None
        choice = None if stopped else answerer.choice
        return Replied(turn, answerer.answering.engine.name, notes, confidence, choice, self._keep(turn))

    def _open(self, documents: tuple[Document, ...], method: str | None) -> None:
        self._answerer = None  # its memory first; where opening fails, it is opened again for the next question
        state = self._stand(documents)
        answerer = open_answerer(self._house, documents, method) if documents or method == "bare" else None
        if answerer is None:
            check_method(method)
        else:
            if isinstance(engine := answerer.answering.engine, LlamaCppEngine):
                engine.remembers = True
            for note in answerer.notes:
                self._house.report(Event("note", note))
        self._answerer, self._state, self.documents, self.method = answerer, state, documents, method

    def _stand(self, documents: tuple[Document, ...]) -> list[object]:
        """What an answer depends on: the documents as they are now, and their modules."""
        there = self._there(document.id for document in documents)
        stand: list[object] = []
        for document in documents:
            module = self._house.library.module(document)
            stand.append((there.get(document.id), module.id if module else None))
        extractor = extracting.chosen(self._house)
        stand.append(extractor.id if extractor else None)
        return stand

    def _there(self, ids: Iterable[str]) -> dict[str, Document]:
        """Those of these documents that are still there, as they are now."""
        found = map(self._house.library.catalogue.of_id, ids)
        return {document.id: document for document in found if document}

    def _history(self) -> History:
        told = [(turn.question, turn.answer.text) for turn in self.turns if turn.answer.text and not turn.stopped]
        reads = self.reads_now()
        return told if reads is None else told[max(0, len(told) - reads) :]

    def _keep(self, turn: Turn) -> KmError | None:
        """Store a turn; why not, where that fails."""
        kept = self._house.library.conversations
        try:
            if self.number is None:
                number = kept.begin()
                self._held.enter_context(kept.hold(number))
                self.number = number
            kept.append(self.number, turn)
        except KmError as error:
            return error
        return None


def write_new(file: Path, text: str) -> None:
    """Write a file that is not there yet. Raises UsageError where it is, or its folder is not."""
    if not file.parent.is_dir():
        raise UsageError(f"there is no folder {file.parent}.", "Choose another name.")
    try:
        with explained(file.parent), file.open("x", encoding="utf-8", errors="replace") as stream:
            stream.write(text)
    except FileExistsError:
        raise UsageError(f"{file} exists already.", "Choose another name.") from None
