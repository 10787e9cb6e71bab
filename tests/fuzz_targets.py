"""What is fuzzed: a strategy for what each reader is given, and what is done with a value.

To add a target: a strategy, a function that takes a folder of its own and a value, and a line in TARGETS.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

import bad_input
from fuzz_server import BASE, ask_server, objects, requests
from kmcli import chunking, config, ingest
from kmcli.errors import KmError
from kmcli.ingest import records
from kmcli.ingest.limits import Limits
from kmcli.ingest.task import Task
from kmcli.ingest.text import clean
from kmcli.synthesis import custom, judge, parse
from kmcli.training import recipes
from kmcli.types import Chunk, Recipe, silent


@dataclass(frozen=True)
class Target:
    """share: of all inputs, by weight."""

    inputs: SearchStrategy[Any]
    run: Callable[[Path, Any], object]
    share: int


# --- what is put in

texts = st.text(max_size=300)
edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 30), st.binary(max_size=12)), max_size=6)


def edited(given: tuple[bytes, list[tuple[float, int, bytes]]]) -> bytes:
    """Bytes in which some are replaced, put in or left out, or that end early."""
    data, changes = given
    for where, length, instead in changes:
        at = int(where * len(data))
        data = data[:at] + instead + (data[at + length :] if length < 30 else b"")
    return data


def mutated(*seeds: bytes) -> SearchStrategy[bytes]:
    return st.tuples(st.sampled_from(seeds), edits).map(edited)


def spliced(*pieces: str) -> SearchStrategy[str]:
    """Text out of pieces that mean something to its reader, and anything between them."""
    return st.lists(st.one_of(st.sampled_from(pieces), st.text(max_size=8)), max_size=40).map("".join)


def archive(parts: dict[str, str | bytes]) -> SearchStrategy[bytes]:
    """One part edited, then zipped: or checksums would refuse all of them."""

    def make(given: tuple[str, list[tuple[float, int, bytes]]]) -> bytes:
        name, changes = given
        part = parts[name]
        return bad_input.zipped({**parts, name: edited((part.encode() if isinstance(part, str) else part, changes))})

    return st.one_of(st.tuples(st.sampled_from(list(parts)), edits).map(make), mutated(bad_input.zipped(parts)))


_PDFS = (
    bad_input.pdf("The heron waits.", "At the harbour."),
    bad_input.pages(3),
    bad_input.circle(),
    bad_input.locked(),
)
_PDF_WORDS = (
    "/Kids", "[", "]", "<<", ">>", "3 0 R", "2 0 R", "/Count -1", "stream\n", "endstream", "BT", "(a) Tj", "ET",
    "/Filter/LZWDecode", "/Filter/ASCII85Decode", "/Type/ObjStm", "trailer", "startxref\n9", "%%EOF",
)  # fmt: skip
_TAGS = (
    "<html>", "<p>", "</p>", "<table>", "<tr>", "<td colspan=9999>", "<pre>", "<ul>", "<li>", "<!--", "-->",
    "<![CDATA[", "&#x0;", "&#1114112;", "<script>", "<meta charset=utf-7>", "<!DOCTYPE html [", "]>", "<h1>",
    "<br>", "</div>",
)  # fmt: skip
_TEX = (
    "\\begin{document}", "\\end{document}", "\\documentclass{a}", "\\title{", "{", "}", "$", "$$", "\\[", "\\]",
    "%", "\n\n", "\\verb|", "\\begin{verbatim}", "\\end{verbatim}", "\\item", "\\'", "\\\\", "\\footnote{", "&",
    "\\begin{align}",
)  # fmt: skip


def pdf_of(words: str) -> bytes:
    return bad_input.raw_pdf(b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Count 1/Kids[3 0 R]>>", words.encode())


sources = st.one_of(
    st.tuples(st.just(".pdf"), st.one_of(mutated(*_PDFS), spliced(*_PDF_WORDS).map(pdf_of))),
    st.tuples(st.just(".docx"), archive(bad_input.docx("The heron waits."))),
    st.tuples(st.just(".epub"), archive(bad_input.epub("The heron waits."))),
    st.tuples(st.just(".html"), spliced(*_TAGS).map(lambda text: text.encode("utf-8", "replace"))),
    st.tuples(st.just(".tex"), spliced(*_TEX).map(lambda text: text.encode("utf-8", "replace"))),
    st.tuples(st.sampled_from(["", ".txt", ".md", ".pdf", ".docx"]), st.binary(max_size=300)),
    st.tuples(st.just(".md"), st.tuples(texts, st.sampled_from(["utf-8", "utf-16", "utf-32", "cp1252"])).map(
        lambda one: one[0].encode(one[1], "replace"))),
)  # fmt: skip
lines = st.lists(st.one_of(objects, st.fixed_dictionaries({"text": texts, "id": objects})), max_size=5)
paged = st.lists(
    st.one_of(texts, st.sampled_from(["\f", "\n\n", "Ends.", " runs on", "港は朝。", "\ud800"])), max_size=12
)
written = spliced(
    "Q:", "A:", "Question:", "**", "<q>", "</q>", "<answer>", "\n", "1. ", "- ", "?", ".", "\"", "[", "]", "{", "}",
    "Sure, here is:\n", "<summary>", "</summary>", "Rating: 4", "The heron waits.",
)  # fmt: skip
_KEYS = (
    "prompt", "parser", "distillation", "confirmed", "max_tokens", "model", "max_pages", "steps", "tasks",
    "objective", "adapter", "rank", "hidden_layers", "base_bits", "x",
)  # fmt: skip
_VALUES = (
    "true", "3", "-1", "0.5", "nan", "inf", "[]", "[1, 'a']", "{}", "'qa'", "'pairs'", "'dcd,lm:0.1'", "''",
    "'9' * 3", "1979-05-27", "'lora'", "'all'", "\"{question}\"", "99999999999999999999",
)  # fmt: skip
tomls = st.one_of(
    st.dictionaries(st.sampled_from(_KEYS), st.sampled_from(_VALUES), max_size=5).map(
        lambda one: "\n".join(f"{key} = {value}" for key, value in one.items()).encode()
    ),
    spliced("=", "\n", "[", "]", "'", '"""', "#", *_KEYS).map(lambda text: text.encode("utf-8", "replace")),
    st.binary(max_size=60),
)
settings_given = st.tuples(st.sampled_from([*(one.name for one in dataclasses.fields(Recipe)), "x"]), st.one_of(
    st.text(max_size=12), st.sampled_from(_VALUES), st.integers().map(str), st.floats().map(str)))  # fmt: skip
# --- what is done with it

_UNCLEAN = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\r\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def check(error: KmError) -> None:
    """Whether a refusal is one sentence and a next step."""
    if not (error.message and error.hint and "\n" not in error.message):
        raise AssertionError(f"this is no sentence with a next step: {error!r}")


def take_in(folder: Path, given: tuple[str, bytes]) -> None:
    suffix, data = given
    kind, extract = ingest.parse(Task(f"a{suffix}", suffix, Limits(max_pages=50)), data, silent)
    assert kind in ingest.READERS
    assert not _UNCLEAN.search(extract.text)


def take_records(folder: Path, lines: list[Any]) -> None:
    data = "\n".join(json.dumps(line) if not isinstance(line, str) else line for line in lines).encode(
        "utf-8", "replace"
    )
    list(records.read(data, "/a.jsonl", "a", None))


def cut(folder: Path, given: tuple[list[str], int, float]) -> None:
    pieces, size, overlap = given
    text = "".join(pieces)
    chunks = chunking.chunk(text, size, overlap, len)
    assert all(isinstance(one, Chunk) for one in chunks)
    chunking.rechunk(text[len(text) // 3 :] + text[: len(text) // 3], size, overlap, len, [one.text for one in chunks])
    chunking.locate(text, [one.text for one in chunks])
    clean(text)


def parse_written(folder: Path, given: tuple[str, bool]) -> None:
    for parser in parse.PARSERS.values():
        parser(*given, "The heron waits at the harbour.")
    parse.summary(*given)
    parse.grounded(given[0], "The heron waits at the harbour.", True)
    judge.parse(*given)


def read_toml(folder: Path, data: bytes) -> None:
    file = folder / "tasks" / "mine.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    for read in (
        config.read_file,
        lambda file: custom.read("mine"),
        lambda file: recipes.resolve(BASE, "standard", file),
    ):
        try:
            read(file)
        except KmError as error:
            check(error)


def set_one(folder: Path, given: tuple[str, str]) -> None:
    recipes.resolve(BASE, "standard", settings=["=".join(given)])


TARGETS = {
    "ingest": Target(sources, take_in, 3),
    "records": Target(lines, take_records, 2),
    "chunking": Target(st.tuples(paged, st.integers(1, 60), st.sampled_from([0.0, 0.1, 0.9])), cut, 3),
    "parsers": Target(st.tuples(written, st.booleans()), parse_written, 5),
    "toml": Target(tomls, read_toml, 3),
    "settings": Target(settings_given, set_one, 2),
    "server": Target(requests, ask_server, 4),
}
