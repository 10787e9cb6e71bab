"""JSONL of many documents: one object a line, each a document with its text in one column."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from kmcli.errors import KmError, UsageError, did_you_mean
from kmcli.ingest.text import clean
from kmcli.types import Ingested, text_hash

SUFFIXES = (".jsonl", ".ndjson")
TEXT = ("text", "content", "document", "body")
"""Columns that hold a document's text; the first that a line has is taken."""
MOST = 10_000
"""Documents in one file: of more, no library is made that a person asks by name."""

_FORM = "It must hold one JSON object a line, in UTF-8."


def read(data: bytes, source: str, stem: str, column: str | None, only: str = "") -> Iterator[Ingested | KmError]:
    """Every line as a document, or as the error that says why it is none.

    source: address of the file; a document's own is that with "#" and the line's name or id behind it, or where it has
    neither a hash of its text. So a named line that has changed updates its document. only: just the document whose
    address ends so. Raises KmError where the file is no JSONL or too long, UsageError where no column holds text.
    """
    keys: list[str] = []
    for key, found in _all(data, source, stem, column):
        keys.append(key)
        if only in ("", key):
            yield found
    if only and only not in keys:
        hint = did_you_mean(only, filter(None, keys), f"Add all of it: km add {source}")
        raise KmError(f"{source} holds no document {only!r}.", hint)


def _all(data: bytes, source: str, stem: str, column: str | None) -> Iterator[tuple[str, Ingested | KmError]]:
    """With each document what its address ends with; "" with an error."""
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise KmError(f"{source} is no JSONL.", _FORM) from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if len(numbered) > MOST:
        what = f"{source} holds {len(numbered):,} documents, and km takes {MOST:,} of a file."
        raise KmError(what, "Add a part of it.")
    seen: dict[str, int] = {}
    for number, line in numbered:
        place = f"line {number} of {source}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            yield "", KmError(f"{place} is no JSON object.", _FORM)
            continue
        if not seen:
            _check_columns(column, values, source)
        texts = [values[key] for key in ([column] if column else TEXT) if isinstance(values.get(key), str)]
        text = next(filter(str.strip, texts), "")
        cleaned = clean(text)
        if not cleaned.strip():
            yield "", KmError(f"{place} holds no text.", f"It is looked for in: {column or ', '.join(TEXT)}.")
            continue
        name, title = _label(values, "name", "id"), _label(values, "name", "title", "id")
        key = name or text_hash(text)[:12]
        if key in seen:
            what = f"is called {name}" if name else "has the same text"
            yield "", KmError(f"{place} {what}, as line {seen[key]}.", "It was left out.")
            continue
        seen[key] = number
        given = text.encode("utf-8", "surrogatepass")
        yield key, Ingested(f"{source}#{key}", "text", title or f"{stem}-{number}", given, cleaned, None)


def _check_columns(column: str | None, values: Mapping[str, Any], source: str) -> None:
    """Raises UsageError where a line has none of the columns that are known, or not the one that is given."""
    columns = ", ".join(map(_one_line, values)) or "none"
    if column is not None and column not in values:
        hint = did_you_mean(column, values, f"It has {columns}.")
        raise UsageError(f"the first line of {source} has no column {column!r}.", hint)
    if column is None and not any(key in values for key in TEXT):
        raise UsageError(
            f"{source} has no column called {', '.join(TEXT[:-1])} or {TEXT[-1]}.",
            f"Say which holds the text with --column: it has {columns}.",
        )


def _label(values: Mapping[str, Any], *keys: str) -> str:
    """The first of these columns that holds a word or a number, on one line."""
    for key in keys:
        value = values.get(key)
        if isinstance(value, (str, int)) and not isinstance(value, bool) and (label := _one_line(str(value))):
            return label
    return ""


def _one_line(text: str) -> str:
    return " ".join(clean(text).split())
