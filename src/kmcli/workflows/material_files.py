"""Study material as files: shown, exported, and imported from another tool. One JSON object a line, one line a sample.

    prompt, response    what the student is asked, and what it shall answer: the two that every line needs
    task                a name; left out: "import"
    chunk               what the sample is about: the number of a chunk of the recipe (from 0), a chunk's hash, or the text
                        itself, which `context` may hold too; left out: the chunk that fits prompt and response best
    chunk_sha256        its hash, beside its text in `context`, as an export writes them
    model, revision, seed, score    kept as they are

Other keys are passed over. A sample's id is made of what its line says, so importing a file again adds nothing.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from kmcli.chunking import Place, locate
from kmcli.errors import KmError, NotFoundError, ResourceError, UsageError, did_you_mean
from kmcli.library import files
from kmcli.synthesis.write import sample_id
from kmcli.types import IMPORTED, Chunk, Document, Sample, text_hash
from kmcli.workflows.house import Failure, House
from kmcli.workflows.imported import Finder, finder
from kmcli.workflows.material import RecipeOptions, recipe_for
from kmcli.workflows.naming import find_one

_SHA256 = re.compile("[0-9a-f]{64}")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Studied:
    """A sample and what it is about. text: "" where the chunk is not kept; place: None where the document has no such
    text any more."""

    sample: Sample
    text: str
    place: Place | None


@dataclass(frozen=True, slots=True)
class Material:
    document: Document
    samples: tuple[Studied, ...]


@dataclass(frozen=True, slots=True)
class Imported:
    """samples: added; known: lines that were there already; searched: those of the added whose chunk was searched for.

    failed: the lines that are wrong; where there is one, nothing was added.
    """

    document: Document
    samples: int
    known: int
    searched: int
    failed: tuple[Failure, ...] = ()


def show(house: House, name: str, task: str | None = None) -> Material:
    """A document's study material, or that of one task. Raises NotFoundError where there is none."""
    document = find_one(house.library, name)
    samples = house.library.samples(document)
    if not samples:
        raise NotFoundError(f"{document.name} has no study material yet.", f"Write some: km synth {document.name}")
    wanted = [sample for sample in samples if task in (None, sample.task)]
    if not wanted:
        tasks = list(dict.fromkeys(sample.task for sample in samples))
        hint = did_you_mean(str(task), tasks, "It has " + ", ".join(tasks) + ".")
        raise NotFoundError(f"{document.name} has no study material of the task {task!r}.", hint)
    texts = house.library.chunk_texts(document)
    places = dict(zip(texts, locate(house.library.text(document), texts.values()), strict=True))
    return Material(
        document,
        tuple(Studied(one, texts.get(one.chunk_sha256, ""), places.get(one.chunk_sha256)) for one in wanted),
    )


def save(material: Material, out: Path) -> None:
    """Write study material to a file, replacing what is there; all of it or nothing."""
    if not out.parent.is_dir():
        raise NotFoundError(f"there is no folder {out.parent}.", "Create it first, or choose another place.")
    if out.is_dir():
        raise UsageError(f"{out} is a folder.", "Give the name of a file, such as material.jsonl.")
    try:
        files.write(out, "".join(f"{line}\n" for line in lines(material)).encode())
    except OSError as error:
        raise ResourceError(
            f"{out} cannot be written: {files.reason(error)}.", "Check the disk's space and permissions."
        ) from None


def lines(material: Material) -> Iterator[str]:
    """The lines of an export, ASCII without control characters, so that nothing on the way can change them."""
    for studied in material.samples:
        sample = dataclasses.asdict(studied.sample)
        first = {key: sample.pop(key) for key in ("task", "prompt", "response")}
        del sample["id"], sample["engine"]
        values = {**first, "context": studied.text, **sample}
        yield json.dumps({key: value for key, value in values.items() if value not in (None, "")}).replace(
            "\x7f", "\\u007f"
        )


def import_(house: House, name: str, source: str, options: RecipeOptions, stdin: BinaryIO | None = None) -> Imported:
    """Add the samples of a file ("-": standard input) to a document's study material: all of them, or none where a line
    is wrong. They count as no finished work: what km writes itself is written all the same.

    Raises what `ingest.sources` raises for a file that cannot be read.
    """
    from kmcli.ingest import sources

    if source == "-":
        data, called = sources.from_stdin(stdin, f"cat material.jsonl | km synth {name} --import -"), "standard input"
    else:
        path = sources.absolute(source)
        data, called = sources.from_file(path), str(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise KmError(f"{called} is no JSONL in UTF-8.", "It must hold one JSON object a line.") from None
    with ExitStack() as held:
        document = held.enter_context(house.library.lock(find_one(house.library, name), "synth"))
        given: list[_Line] = []
        failed: list[Failure] = []
        reader = _Reader(house, document, options, held)
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    given.append(reader.read(line))
                except _Wrong as wrong:
                    failed.append(Failure(called, KmError(f"line {number} {wrong}")))
        if not given and not failed:
            raise KmError(f"{called} holds no samples.", "It must hold one JSON object a line.")
        if failed:
            return Imported(document, 0, 0, 0, tuple(failed))
        there = {sample.id for sample in house.library.samples(document)}
        new = {line.sample.id: line for line in given if line.sample.id not in there}
        house.library.keep_chunks(document, (line.text for line in new.values() if line.text))
        house.library.append_samples(document, (line.sample for line in new.values()))
    return Imported(document, len(new), len(given) - len(new), sum(line.searched for line in new.values()))


class _Wrong(Exception):
    """What is wrong with a line, as the end of a sentence that begins with its number."""


@dataclass(frozen=True, slots=True)
class _Line:
    """text: of the sample's chunk, "" where it is not known."""

    sample: Sample
    text: str
    searched: bool


class _Reader:
    """Makes samples of lines. The document is cut into chunks only for a line that needs it."""

    def __init__(self, house: House, document: Document, options: RecipeOptions, held: ExitStack) -> None:
        self._house, self._document, self._options, self._held = house, document, options, held
        self._kept = house.library.chunk_texts(document)
        self._cut: tuple[list[Chunk], Finder] | None = None

    def read(self, line: str) -> _Line:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            raise _Wrong("is no JSON.") from None
        if not isinstance(values, dict):
            raise _Wrong("is no JSON object.")
        prompt, response = _text(values, "prompt"), _text(values, "response")
        for key, text in (("prompt", prompt), ("response", response)):
            if not text.strip():
                raise _Wrong(f"has {'an empty' if key in values else 'no'} {key}.")
        task = _text(values, "task") or IMPORTED
        named, sha256, text, searched = self._chunk(values, prompt, response)
        sample = Sample(
            id=sample_id(named, task, prompt, response),
            chunk_sha256=sha256,
            task=task,
            prompt=prompt,
            response=response,
            engine=IMPORTED,
            model=_text(values, "model"),
            revision=_text(values, "revision"),
            seed=_number(values, "seed", int) or 0,
            score=_number(values, "score", float),
        )
        return _Line(sample, text, searched)

    def _chunk(self, values: dict[str, Any], prompt: str, response: str) -> tuple[str, str, str, bool]:
        """What the line calls its chunk, as part of the sample's identity; the chunk's hash and text; whether it was
        searched for."""
        given = values.get("chunk")
        text = _text(values, "context")
        named = _text(values, "chunk_sha256")
        if isinstance(given, str):
            named, text = (given, text) if _SHA256.fullmatch(given) else (named, text or _text(values, "chunk"))
        elif given is not None:
            chunk = self._numbered(given)
            return chunk.sha256, chunk.sha256, chunk.text, False
        if text.strip():
            return text_hash(text), text_hash(text), text, False
        known = self._kept if named in self._kept else {one.sha256: one.text for one in self._chunks()[0]}
        if named in known:
            return named, named, known[named], False
        found = self._chunks()[1].find(prompt, response)
        if found is None:
            raise _Wrong(f"has no word in common with {self._document.name}.")
        return named, found, known[found], True

    def _numbered(self, number: object) -> Chunk:
        chunks, _ = self._chunks()
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(chunks):
            raise _Wrong(
                f"has the chunk {json.dumps(number)[:40]}: that must be a number from 0 to {len(chunks) - 1}, or text."
            )
        return chunks[number]

    def _chunks(self) -> tuple[list[Chunk], Finder]:
        """What the recipe cuts the document into, as `km synth` and `km train` do."""
        if self._cut is None:
            from kmcli.bases import load_tokenizer
            from kmcli.bases.vocabulary import reader

            base = self._house.base()
            recipe = recipe_for(self._house, base, self._options)
            chunks = self._house.study_chunks(self._document, reader(base, load_tokenizer(base)), recipe)
            self._cut = chunks, self._held.enter_context(finder(self._house, self._document, chunks))
        return self._cut


def _text(values: dict[str, Any], key: str) -> str:
    """ "" where there is none. Halves of characters become U+FFFD, as in every document."""
    value = values.get(key)
    if value is not None and not isinstance(value, str):
        raise _Wrong(f"has a {key} that is no text.")
    return _SURROGATE.sub("\ufffd", value or "")


def _number(values: dict[str, Any], key: str, kind: Callable[[Any], Any]) -> Any:
    """None where there is none."""
    value = values.get(key)
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if value is not None and not (fits and kind(value) == value):
        raise _Wrong(f"has a {key} that is no {'whole ' if kind is int else ''}number.")
    return None if value is None else kind(value)
