"""What a document is made of: its text and the bytes as given, written, verified and described."""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from kmcli.errors import KmError
from kmcli.library import files, names
from kmcli.library.layout import Layout
from kmcli.types import Document, Ingested, text_hash


@dataclass(frozen=True, slots=True)
class Added:
    """What `add` did.

    was_trained: the document has a Knowledge Module, which is stale now if its text changed. was_unfinished: it had an
    unfinished training, which is gone, because it was of another text.
    """

    document: Document
    action: Literal["added", "unchanged", "updated"]
    was_trained: bool
    was_unfinished: bool = False


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def new_document(name: str, ingested: Ingested) -> Document:
    blank = Document(secrets.token_hex(8), name, ingested.source, "", "", "", None, 0, added=now(), updated="")
    return with_contents(blank, ingested)


def with_contents(document: Document, ingested: Ingested) -> Document:
    """The same document with other contents. Nothing is written."""
    return dataclasses.replace(
        document,
        kind=ingested.kind,
        sha256=ingested.sha256,
        text_sha256=text_hash(ingested.text),
        pages=ingested.pages,
        words=len(ingested.text.split()),
        updated=now(),
    )


def with_tags(document: Document, add: Sequence[str], remove: Sequence[str] = ()) -> Document:
    """The same document with these tags too, each once, in the order they came, and without those to remove.

    Raises UsageError for a tag to add that is not allowed.
    """
    tags = {names.key(tag): tag for tag in document.tags}
    for tag in map(names.tag, add):
        tags.setdefault(names.key(tag), tag)
    for tag in remove:
        tags.pop(names.key(tag.strip().removeprefix("@")), None)
    return dataclasses.replace(document, tags=tuple(tags.values()))


def write(layout: Layout, document: Document, ingested: Ingested, synced: bool = True) -> None:
    """Write the files beside those the document has; `clear` deletes the ones that an update replaced. synced: as in
    `files.write`."""
    folder = layout.document(document)
    new = not folder.exists()
    try:
        files.make_folder(folder, synced)
        files.write(layout.source(document), ingested.data, synced)
        files.write(layout.text(document), ingested.text.encode("utf-8", "surrogatepass"), synced)
    except BaseException:
        if new:
            files.delete(folder)
        raise


def clear(layout: Layout, document: Document) -> None:
    for path in layout.leftovers(document):
        path.unlink()


def damage(layout: Layout, document: Document) -> str:
    """One sentence on what is wrong with the document's own files; empty where nothing is."""
    for what, path, sha256 in (
        ("text", layout.text(document), document.text_sha256),
        ("source", layout.source(document), document.sha256),
    ):
        problem = _problem(path, sha256)
        if problem:
            return f"the {what} of {document.name} is {problem}."
    return ""


def text(layout: Layout, document: Document) -> str:
    """The document's text. Raises KmError where the file is missing or no longer what was added."""
    try:
        found = layout.text(document).read_bytes().decode("utf-8", "surrogatepass")
    except (FileNotFoundError, UnicodeDecodeError):
        found = None
    if found is None or text_hash(found) != document.text_sha256:
        raise KmError(f"the text of {document.name} is missing or damaged on disk.", add_again(document))
    return found


def add_again(document: Document) -> str:
    return f"Add it again with: km add {shlex.quote(document.source)}"


def _problem(path: Path, sha256: str) -> str:
    try:
        return "" if hashlib.sha256(path.read_bytes()).hexdigest() == sha256 else "damaged on disk"
    except FileNotFoundError:
        return "missing on disk"
