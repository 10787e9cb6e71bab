"""ask --each: one question to many documents, every Knowledge Module side by side."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from kmcli import adapters
from kmcli.bases import Base
from kmcli.engines import Generation
from kmcli.errors import KmError, NotFoundError, UsageError
from kmcli.evaluation.methods import build_chat
from kmcli.metrics import normalise
from kmcli.retrieval import bm25
from kmcli.types import Answer, Document, Event, Passage, silent
from kmcli.workflows import answering, extracting
from kmcli.workflows.answerer import SAMPLING
from kmcli.workflows.answering import Member
from kmcli.workflows.house import House, counter, untrained
from kmcli.workflows.naming import MARK, find_all

SHARE = 0.6
"""Of an answer's words, so many must stand in a passage that supports it."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one document answers, or why it does not. The answer's evidence is the passage that bears on it best.
    supported: whether that passage says so. refused: the answer is that the document does not say; it has no evidence."""

    document: Document
    answer: Answer | None
    supported: bool = False
    refused: bool = False
    error: KmError | None = None


@dataclass(frozen=True, slots=True)
class EachReport:
    """rows: in the order asked for. untrained: those of them that have no Knowledge Module. seconds: from the question to
    the last answer, loading included. interrupted: Ctrl-C ended it, and documents are missing from the rows."""

    question: str
    rows: tuple[Row, ...]
    untrained: tuple[Document, ...]
    engine: str
    seconds: float
    documents: int
    interrupted: bool = False

    @property
    def answered(self) -> int:
        return sum(row.answer is not None for row in self.rows)


def ask_each(house: House, given: Sequence[str], question: str) -> EachReport:
    """Ask every document that is named or tagged the same question; without names, every one that has a Knowledge Module.

    A document that cannot answer does not stop the others. Raises NotFoundError for a name or tag that does not exist,
    UsageError for a question that is empty or too long.
    """
    _check_question(house, question)
    began = time.perf_counter()
    documents = find_all(house.library, given) if given else house.library.documents()
    groups, failed = _groups(house, documents, everything=not given)
    if not given:
        mine = {member.document.id for members in groups.values() for member in members} | failed.keys()
        documents = [document for document in documents if document.id in mine]
    if not documents:
        raise NotFoundError("no document has a Knowledge Module yet.", "Make them: km train --all")
    rows = dict(failed)
    engines: dict[str, None] = {}
    interrupted = False
    asked = sum(map(len, groups.values()))
    try:
        for base, members in groups.items():
            house.announce(base)
            for engine, row in _answers(house, base, members, question):
                rows[row.document.id] = row
                engines[engine] = None
                house.report(Event("ask", "", len(rows) - len(failed), asked))
    except KeyboardInterrupt:
        interrupted = True
    seconds = time.perf_counter() - began
    found = [rows[document.id] for document in documents if document.id in rows]
    missing = tuple(row.document for row in found if isinstance(row.error, NotFoundError))
    return EachReport(question, tuple(found), missing, ", ".join(engines), seconds, len(documents), interrupted)


def _check_question(house: House, question: str) -> None:
    """That there is one, and that it was not forgotten after the names."""
    example = 'For example: km ask --each @contracts "When does it end?"'
    if not question.strip():
        raise UsageError("the question is empty.", example)
    if house.library.has(question) or (question.startswith(MARK) and len(question.split()) == 1):
        raise UsageError(f"there is no question: {question} stands where it should.", example)


def _groups(
    house: House, documents: Sequence[Document], everything: bool
) -> tuple[dict[Base, list[Member]], dict[str, Row]]:
    """The Knowledge Modules by their base; by document, why some cannot be asked. everything: without those that have
    none."""
    extracting.chosen_for_modules(house)
    groups: dict[Base, list[Member]] = {}
    failed: dict[str, Row] = {}
    for document in documents:
        try:
            module = extracting.module_of(house, document)
            if module is None:
                if everything:
                    continue
                raise untrained(document)
            groups.setdefault(house.base_of(document, module), []).append(Member(document, module))
        except KmError as error:
            failed[document.id] = Row(document, None, error=error)
    return groups, failed


def _answers(house: House, base: Base, members: Sequence[Member], question: str) -> Iterator[tuple[str, Row]]:
    """The engine that answers and a row, as each is answered. By `auto`, torch those that llama.cpp cannot load.

    Where `auto` finds that llama.cpp cannot do it, that is said and torch does it.
    """
    wanted = answering.wanted_engine(house)
    left = {member.document.id: member for member in members}
    able = [one for one in members if wanted == "llamacpp" or adapters.able(one.module, "llamacpp")]
    if able and (wanted == "llamacpp" or (wanted == "auto" and answering.llamacpp_can(house, base))):
        try:
            for row in _by_llamacpp(house, base, able, question):
                del left[row.document.id]
                yield "llamacpp", row
        except UsageError:
            raise
        except KmError as error:
            if wanted == "llamacpp":
                raise
            house.warn(f"answered by torch, because llama.cpp cannot do it: {error.message}")
    if left:
        for row in _by_hf(house, base, list(left.values()), question):
            yield "hf", row


def _by_llamacpp(house: House, base: Base, members: Sequence[Member], question: str) -> Iterator[Row]:
    """One after the other: only the adapter changes."""
    from kmcli.engines.swap import SwapFile

    file = answering.made_base_file(house, base)
    quiet = dataclasses.replace(house, report=silent)  # there may be hundreds of files to write
    opened: SwapFile | None = None
    prompt: list[int] = []
    began = time.perf_counter()
    try:
        for member in members:
            try:
                lora = answering.made_module_file(quiet, base, member.document.name, member.module)
            except KmError as error:
                yield Row(member.document, None, error=error)
                continue
            if opened is None:
                hint = f"Delete the folder {file.parent}: km makes its files anew."
                layers = 0 if house.settings["device"].value == "cpu" else -1
                opened = SwapFile(file, base.context, hint, lora, layers)
                prompt = opened.chat_ids(build_chat("km", question, base.prompts))
                _check_fits(prompt, base)
            try:
                made = opened.answer(lora, prompt, SAMPLING)
            except KmError as error:
                yield Row(member.document, None, error=error)
                continue
            row = _row(house, base, member, question, made, opened.count, time.perf_counter() - began)
            began = time.perf_counter()
            yield row
    finally:
        if opened:
            opened.close()


def _by_hf(house: House, base: Base, members: Sequence[Member], question: str) -> Iterator[Row]:
    """Side by side in batches."""
    from kmcli.adapters.together import answers

    loaded = house.load(base)
    prompt = loaded.chat_ids(list(build_chat("km", question, base.prompts)))
    _check_fits(prompt, base)
    folders = [member.module.path for member in members]
    count = counter(loaded)
    began = time.perf_counter()
    for which, made in answers(loaded, folders, prompt, SAMPLING):
        if isinstance(made, KmError):
            yield Row(members[which].document, None, error=made)
            continue
        seconds, began = time.perf_counter() - began, time.perf_counter()
        yield _row(house, base, members[which], question, made, count, seconds)


def _row(
    house: House,
    base: Base,
    member: Member,
    question: str,
    made: Generation,
    count: Callable[[str], int],
    seconds: float,
) -> Row:
    document = member.document
    try:
        passages = house.passages(document, base, count)
    except KmError as error:  # its text is damaged
        return Row(document, None, error=error)
    refused = base.prompts.refuses(made.text)
    evidence = () if refused else tuple(bm25(document.name, passages, f"{question} {made.text}", 1))
    answer = Answer(made.text, "km", made.prompt_tokens, made.tokens, seconds, evidence)
    return Row(document, answer, any(supports(passage, made.text) for passage in evidence), refused)


def supports(passage: Passage, answer: str) -> bool:
    """Whether a passage has most of an answer's words."""
    words, there = normalise(answer).split(), set(normalise(passage.text).split())
    return bool(words) and sum(word in there for word in words) >= SHARE * len(words)


def _check_fits(prompt: Sequence[int], base: Base) -> None:
    if len(prompt) > base.context - SAMPLING.max_tokens:
        raise UsageError(
            f"the question does not fit in the {base.context:,} tokens that {base.name} reads at once.",
            "Ask a shorter one.",
        )
