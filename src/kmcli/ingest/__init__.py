"""Reading: a file, a URL or standard input becomes text that the other rooms can use.

A reader turns bytes of one kind into text; `READERS` shows them all. `records` makes many documents of one file, and
`datasets` fetches such files from the hub. Nothing here knows the library.

To add one: write `read(data, name, report) -> Extract` in a module of its own, with its heavy imports inside the
function; give it a line in `READERS` with the suffixes that folders are searched for; and if its files open with a
signature, teach it to `kinds.sniff`. `name` is what the person calls the source and belongs in every message.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from kmcli.errors import KmError
from kmcli.ingest import docx, epub, html, kinds, latex, pdf, plain, records, sources
from kmcli.ingest.text import Extract, clean
from kmcli.types import Ingested, Reporter, silent


@dataclass(frozen=True, slots=True)
class Reader:
    suffixes: tuple[str, ...]
    read: Callable[[bytes, str, Reporter], Extract]


READERS: dict[str, Reader] = {
    "pdf": Reader((".pdf",), pdf.read),
    "docx": Reader((".docx", ".docm"), docx.read),
    "html": Reader((".html", ".htm", ".xhtml"), html.read),
    "epub": Reader((".epub",), epub.read),
    "markdown": Reader((".md", ".markdown", ".mdown", ".mkd"), plain.read),
    "latex": Reader((".tex", ".latex", ".ltx"), latex.read),
    "text": Reader((".txt", ".text", ".rst", ".org", ".asc"), plain.read),
}

_BY_SUFFIX = {suffix: kind for kind, reader in READERS.items() for suffix in reader.suffixes}
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PASSWORD = re.compile(r"(?<=://)[^/?#]*@")


def read_all(source: str, report: Reporter = silent, column: str | None = None) -> Iterator[Ingested | KmError]:
    """Every document of a source: one, as `read` reads it, or those of a JSONL file or of a dataset on the hub.

    A line that is no document comes as the error that says why; what is wrong with all of it is raised, as by `read`.
    column: where the text of each line stands, if it is not one of `records.TEXT`.
    """
    file, _, only = source.partition("#") if is_many(source) else (source, "", "")
    if file.startswith("hf://"):
        from kmcli.ingest import datasets

        for address, path in datasets.fetch(file, report):
            name = PurePosixPath(address)
            try:
                data = sources.from_file(path)
                if _is_records(address):
                    yield from records.read(data, address, name.stem, column, only)
                else:
                    yield _ingest(address, data, name.name, name.suffix, name.stem, report)
            except KmError as error:  # the other files may be good
                yield error
    elif is_many(source):
        path = sources.absolute(file)
        yield from records.read(sources.from_file(path), str(path), path.stem, column, only)
    else:
        yield read(source, report=report)


def is_many(source: str) -> bool:
    """Whether a source may hold many documents. Behind "#" one of them may be named."""
    if source.startswith("hf://"):
        return True
    return (
        not _URL.match(source)
        and _is_records(source.partition("#")[0])
        and ("#" not in source or not os.path.exists(os.path.expanduser(source)))
    )


def without_password(source: str) -> str:
    """A source as it may be shown: of a URL without the name and password, which km does not open."""
    return _PASSWORD.sub("...@", source) if _URL.match(source) else source


def is_file(source: str) -> bool:
    """Whether a source is a file of one document."""
    return source != "-" and not _URL.match(source) and not is_many(source)


def _is_records(name: str) -> bool:
    return name.lower().endswith(records.SUFFIXES)


def read(source: str, stdin: BinaryIO | None = None, report: Reporter = silent) -> Ingested:
    """Read one file, one http(s) URL, or "-" for standard input (`stdin`, else the process's own).

    Reports progress in the stage "read", and a warning for every page or chapter that had to be left out.
    Raises NotFoundError where the source is not there, UsageError where it cannot be a document (a folder, a device,
    an odd URL), ResourceError where something else is missing (network, a package), KmError where its content cannot
    be read.
    """
    if source == "-":
        data = sources.from_stdin(stdin)
        return _ingest("-", data, "standard input", "", "stdin", report)
    if _URL.match(source):
        return _ingest_url(source, report)
    path = sources.absolute(source)
    return _ingest(str(path), sources.from_file(path), path.name, path.suffix, path.stem, report)


def expand(source: str) -> list[str]:
    """A folder's readable files, searched recursively and sorted; anything else is returned as it is.

    Hidden files, kinds without a reader and folders behind symbolic links are passed over, so that loops end; so are
    files that such a link fetches from outside the folder, which may be somebody else's.
    """
    if source == "-" or _URL.match(source) or not os.path.isdir(os.path.expanduser(source)):
        return [source]
    top = sources.absolute(source)

    def complain(error: OSError) -> None:
        if error.filename == str(top):
            raise KmError(f"{top} cannot be opened: {error.strerror}.", "Check its permissions.") from None

    found: list[str] = []
    inside = top.resolve()
    for folder, inner, files in os.walk(top, onerror=complain):
        inner[:] = [name for name in inner if not name.startswith(".")]
        for name in files:
            path = Path(folder, name)
            wanted = not name.startswith(".") and path.suffix.lower() in _BY_SUFFIX and path.is_file()
            if wanted and (not path.is_symlink() or path.resolve().is_relative_to(inside)):
                found.append(str(path))
    return sorted(found)


def _ingest(source: str, data: bytes, name: str, suffix: str, stem: str, report: Reporter) -> Ingested:
    kind = _kind(data, name, suffix)
    extract = READERS[kind].read(data, name, report)
    return Ingested(source, kind, _one_line(stem), data, _some(extract.text, name), extract.pages)


def _ingest_url(url: str, report: Reporter) -> Ingested:
    from kmcli.ingest import web  # http and ssl, which a file need not wait for

    fetched = web.fetch(url)
    last = PurePosixPath(unquote(urlsplit(fetched.url).path)).name
    suffix = PurePosixPath(last).suffix
    if suffix.lower() not in _BY_SUFFIX:  # "v1.2" has no suffix, and "page.php" tells nothing
        suffix = kinds.SUFFIX_OF_TYPE.get(fetched.content_type, "")
    stem = last.removesuffix(suffix) if suffix else last
    kind = _kind(fetched.data, url, suffix)
    extract = web.main_text(fetched) if kind == "html" else READERS[kind].read(fetched.data, url, report)
    suggested = stem or extract.title or urlsplit(fetched.url).hostname or "page"
    return Ingested(url, kind, _one_line(suggested), fetched.data, _some(extract.text, url), extract.pages)


def _kind(data: bytes, name: str, suffix: str) -> str:
    """By content first, then by suffix; text of an unknown suffix is plain text."""
    by_suffix = _BY_SUFFIX.get(suffix.lower(), "")
    return kinds.sniff(data, name, by_suffix) or by_suffix or "text"


def _one_line(name: str) -> str:
    """A file name as a name for a document: no line breaks or control characters, which file names may have."""
    return " ".join(clean(name).split()) or "document"


def _some(text: str, name: str) -> str:
    if not text.strip():
        raise KmError(f"{name} holds no text.", "Open it and see whether it is the file you meant.")
    return text
