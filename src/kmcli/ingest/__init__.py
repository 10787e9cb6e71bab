"""Reading: a file, a URL or standard input becomes text that the other rooms can use.

A reader turns bytes of one kind into text; `READERS` shows them all. `records` makes many documents of one file, and
`datasets` fetches such files from the hub. Nothing here knows the library.

To add one: write `read(data, name, report, limits) -> Extract` in a module of its own, with its heavy imports inside the
function; give it a line in `READERS` with the suffixes that folders are searched for; and if its files open with a
signature, teach it to `kinds.sniff`. `name` is what the person calls the source and belongs in every message.

What parses is given: `worker.Worker` does it in a child process, which is how km reads, and `parse` right here.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from kmcli.errors import KmError
from kmcli.ingest import docx, epub, html, kinds, latex, pdf, plain, records, sources
from kmcli.ingest.limits import Limits
from kmcli.ingest.task import Parsed, Task
from kmcli.ingest.text import Extract, clean
from kmcli.types import Ingested, Reporter, silent


@dataclass(frozen=True, slots=True)
class Reader:
    suffixes: tuple[str, ...]
    read: Callable[[bytes, str, Reporter, Limits], Extract]


Parse = Callable[[Task, bytes, Reporter], Parsed]

READERS: dict[str, Reader] = {
    "pdf": Reader((".pdf",), pdf.read),
    "docx": Reader((".docx", ".docm"), docx.read),
    "html": Reader((".html", ".htm", ".xhtml"), html.read),
    "epub": Reader((".epub",), epub.read),
    "markdown": Reader((".md", ".markdown", ".mdown", ".mkd"), plain.read),
    "latex": Reader((".tex", ".latex", ".ltx"), latex.read),
    "text": Reader((".txt", ".text", ".rst", ".org", ".asc"), plain.read),
}

PLAIN = ("markdown", "text")
"""Kinds that are read as they are: no parser can go wrong there."""

_BY_SUFFIX = {suffix: kind for kind, reader in READERS.items() for suffix in reader.suffixes}
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PASSWORD = re.compile(r"(?<=://)[^/?#]*@")


def parse(task: Task, data: bytes, report: Reporter) -> Parsed:
    """What kind the bytes are, and their text. Raises KmError, and MemoryError and the like where no limit is kept."""
    kind = _kind(data, task)
    if task.url and kind == "html":
        from kmcli.ingest import web

        return kind, web.main_text(data, task.url, task.charset)
    return kind, READERS[kind].read(data, task.name, report, task.limits)


def is_plain(task: Task, data: bytes) -> bool:
    """Whether a source is text as it is. Raises KmError for what is no text though its name says so."""
    return kinds.may_be_plain(data) and _by_suffix(task) in ("", *PLAIN) and _kind(data, task) in PLAIN


def read_all(
    source: str,
    report: Reporter = silent,
    column: str | None = None,
    limits: Limits | None = None,
    parse: Parse = parse,
) -> Iterator[Ingested | KmError]:
    """Every document of a source: one, as `read` reads it, or those of a JSONL file or of a dataset on the hub.

    A line that is no document comes as the error that says why; what is wrong with all of it is raised, as by `read`.
    column: where the text of each line stands, if it is not one of `records.TEXT`.
    """
    limits = limits or Limits()
    file, only = parts(source)
    if file.startswith("hf://"):
        from kmcli.ingest import datasets

        for address, path in datasets.fetch(file, report, limits):
            name = PurePosixPath(address)
            try:
                data = sources.from_file(path, limits)
                if _is_records(address):
                    yield from records.read(data, address, name.stem, column, only)
                else:
                    yield _ingested(address, data, Task(name.name, name.suffix, limits), name.stem, report, parse)
            except KmError as error:  # the other files may be good
                yield error
    elif is_many(source):
        path = sources.absolute(file)
        yield from records.read(sources.from_file(path, limits), str(path), path.stem, column, only)
    else:
        yield read(source, None, report, limits, parse)


def parts(source: str) -> tuple[str, str]:
    """A source's file, and which of the documents in it is meant: "" for all, or where it holds but one."""
    file, _, only = source.partition("#") if is_many(source) else (source, "", "")
    return file, only


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


def read(
    source: str,
    stdin: BinaryIO | None = None,
    report: Reporter = silent,
    limits: Limits | None = None,
    parse: Parse = parse,
) -> Ingested:
    """Read one file, one http(s) URL, or "-" for standard input (`stdin`, else the process's own).

    Reports progress in the stage "read", and a warning for every page or chapter that had to be left out.
    Raises NotFoundError where the source is not there, UsageError where it cannot be a document (a folder, a device,
    an odd URL), ResourceError where something else is missing (network, a package), KmError where its content cannot
    be read, or only beyond the limits.
    """
    limits = limits or Limits()
    if source == "-":
        data = sources.from_stdin(stdin, limits=limits)
        return _ingested("-", data, Task("standard input", "", limits), "stdin", report, parse)
    if _URL.match(source):
        return _ingest_url(source, report, limits, parse)
    path = sources.absolute(source)
    data = sources.from_file(path, limits)
    return _ingested(str(path), data, Task(path.name, path.suffix, limits), path.stem, report, parse)


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
            if not name.startswith(".") and path.suffix.lower() in _BY_SUFFIX and _inside(path, inside):
                found.append(str(path))
    return sorted(found)


def _inside(path: Path, top: Path) -> bool:
    """Whether this is a file, and none that a link fetches from outside `top`."""
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
    except PermissionError:
        regular = True  # for all that one may see; reading it says why
    except OSError:
        regular = False  # a link to nowhere
    return regular and (not os.path.islink(path) or path.resolve().is_relative_to(top))


def _ingested(source: str, data: bytes, task: Task, stem: str, report: Reporter, parse: Parse) -> Ingested:
    """stem: of the source's name; "" where the text's own title is the better name."""
    kind, extract = parse(task, data, report)
    if not extract.text.strip():
        raise KmError(f"{task.name} holds no text.", "Open it and see whether it is the file you meant.")
    name = _one_line(stem or extract.title or urlsplit(task.url).hostname or "page")
    return Ingested(source, kind, name, data, extract.text, extract.pages)


def _ingest_url(url: str, report: Reporter, limits: Limits, parse: Parse) -> Ingested:
    from kmcli.ingest import web  # http and ssl, which a file need not wait for

    fetched = web.fetch(url)
    last = PurePosixPath(unquote(urlsplit(fetched.url).path)).name
    suffix = PurePosixPath(last).suffix
    if suffix.lower() not in _BY_SUFFIX:  # "v1.2" has no suffix, and "page.php" tells nothing
        suffix = kinds.SUFFIX_OF_TYPE.get(fetched.content_type, "")
    stem = last.removesuffix(suffix) if suffix else last
    task = Task(url, suffix, limits, fetched.url, fetched.charset)
    return _ingested(url, fetched.data, task, stem, report, parse)


def _kind(data: bytes, task: Task) -> str:
    """By content first, then by suffix; text of an unknown suffix is plain text."""
    by_suffix = _by_suffix(task)
    return kinds.sniff(data, task.name, by_suffix) or by_suffix or "text"


def _by_suffix(task: Task) -> str:
    return _BY_SUFFIX.get(task.suffix.lower(), "")


def _one_line(name: str) -> str:
    """A file name as a name for a document: no line breaks or control characters, which file names may have."""
    return " ".join(clean(name).split()) or "document"
