"""Files, folders, standard input and plain text: what comes in, what is refused and how it is said."""

from __future__ import annotations

import io
import os
import re
import tarfile
import unicodedata
import zipfile
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmcli import ingest
from kmcli.errors import KmError, NotFoundError, UsageError
from kmcli.ingest import READERS, expand, kinds, read
from kmcli.ingest.limits import Limits
from kmcli.ingest.text import clean
from kmcli.types import Ingested


def failure(source: str | Path, stdin: io.BytesIO | None = None) -> KmError:
    with pytest.raises(KmError) as caught:
        read(str(source), stdin)
    assert "\n" not in str(caught.value)
    assert caught.value.message.endswith(".")
    assert caught.value.hint
    return caught.value


def put(path: Path, data: bytes | str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


# --- text and Markdown --------------------------------------------------------------------------------------------


def test_markdown_comes_as_it_is(tmp_path: Path) -> None:
    text = "# Title\n\nA *word*,  \nand a line.\n\n\n- item\n"
    path = put(tmp_path / "My notes.v2.md", text)
    got = read(path)
    assert got == Ingested(path, "markdown", "My notes.v2", text.encode(), text.rstrip("\n"), None)


@pytest.mark.parametrize(
    "data",
    [
        "Größe: 5 €".encode(),
        b"\xef\xbb\xbf" + "Größe: 5 €".encode(),
        b"\xff\xfe" + "Größe: 5 €".encode("utf-16-le"),
        b"\xfe\xff" + "Größe: 5 €".encode("utf-16-be"),
        "Größe: 5 €".encode("cp1252"),
    ],
)
def test_encodings(tmp_path: Path, data: bytes) -> None:
    assert read(put(tmp_path / "a.txt", data)).text == "Größe: 5 €"


def test_cp1252_with_its_only_accent_at_the_end(tmp_path: Path) -> None:
    assert read(put(tmp_path / "a.txt", b"caf\xe9")).text == "café"


def test_cleaning() -> None:
    assert clean("a\r\nb\rc\u2028d\ve") == "a\nb\nc\nd\ne"
    assert clean("e\u0301\x00\x07\ufeff x\ty") == "é x\ty"
    assert clean("e\x01\u0301") == "é"  # composed although a control character stood between
    assert clean("safe\u202etxt.exe\u202c \u2066in\u2069") == "safetxt.exe in"
    assert clean("one\n\n\ntwo\n\n \n\t\nthree\n\n\n\n\nfour") == "one\n\n\ntwo\n\nthree\n\nfour"
    assert clean("page\fbreak") == "page\nbreak"
    assert clean("hy\u00adphen") == "hyphen"


def test_unknown_suffix_with_text_is_text(tmp_path: Path) -> None:
    got = read(put(tmp_path / "Makefile.inc", "all:\n\techo hi\n"))
    assert (got.kind, got.text, got.suggested_name) == ("text", "all:\n\techo hi", "Makefile")


def test_content_outranks_suffix(tmp_path: Path) -> None:
    page = "\ufeff <!-- x -->\n<!DOCTYPE html>\n<html><body><p>Hello there</p></body></html>"
    got = read(put(tmp_path / "page.txt", page))
    assert (got.kind, got.text) == ("html", "Hello there")
    assert read(put(tmp_path / "x.md", "See <html> tags")).kind == "markdown"


def test_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a.txt", "x")
    monkeypatch.chdir(tmp_path)
    assert read("a.txt").source == str(tmp_path / "a.txt")


# --- standard input -----------------------------------------------------------------------------------------------


def test_stdin() -> None:
    got = read("-", io.BytesIO(b"hello\r\nthere"))
    assert (got.source, got.kind, got.suggested_name, got.text) == ("-", "text", "stdin", "hello\nthere")
    assert read("-", io.BytesIO(b"\\documentclass{article}\\begin{document}Hi\\end{document}")).kind == "latex"


def test_stdin_empty() -> None:
    assert "standard input is empty" in failure("-", io.BytesIO(b"")).message


def test_stdin_is_a_terminal() -> None:
    class Terminal(io.BytesIO):
        def isatty(self) -> bool:
            return True

    error = failure("-", Terminal(b"never read"))
    assert isinstance(error, UsageError)
    assert "cat notes.txt | km add -" in error.hint


# --- what is refused ----------------------------------------------------------------------------------------------


def test_missing_file_with_its_neighbour(tmp_path: Path) -> None:
    put(tmp_path / "report.txt", "x")
    error = failure(tmp_path / "reprot.txt")
    assert isinstance(error, NotFoundError)
    assert error.exit_code == 3
    assert error.hint == "Did you mean report.txt?"
    assert isinstance(failure(tmp_path / "report.txt" / "inner.txt"), NotFoundError)
    assert isinstance(failure("a\0b"), NotFoundError)
    assert "cannot be read" in failure(tmp_path / ("x" * 400)).message


def test_odd_file_names(tmp_path: Path) -> None:
    assert read(put(tmp_path / "a\nb\tcafe\u0301.txt", "x")).suggested_name == "a b café"
    with open(os.fsencode(tmp_path) + b"/caf\xe9.txt", "wb") as stream:
        stream.write(b"x")
    (path,) = [path for path in expand(str(tmp_path)) if "caf\udce9" in path]
    error = failure(path)
    assert isinstance(error, UsageError)
    assert "not valid UTF-8" in error.message
    assert error.message.isascii()


def test_folder(tmp_path: Path) -> None:
    error = failure(tmp_path)
    assert isinstance(error, UsageError)
    assert "is a folder" in error.message


def test_fifo_and_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    for path in (tmp_path / "pipe.txt", Path("/dev/zero")):
        error = failure(path)
        assert isinstance(error, UsageError)
        assert "not a regular file" in error.message


def test_permission(tmp_path: Path) -> None:
    path = put(tmp_path / "secret.txt", "x")
    os.chmod(path, 0)
    as_root = os.geteuid() == 0
    try:
        if as_root:
            os.seteuid(65534)
        assert "may not be read" in failure(path).message
    finally:
        if as_root:
            os.seteuid(0)


def test_empty_and_blank(tmp_path: Path) -> None:
    assert "is empty" in failure(put(tmp_path / "a.txt", b"")).message
    assert "holds no text" in failure(put(tmp_path / "b.txt", b" \n\t\n")).message
    assert "is empty" in failure(put(tmp_path / "c.pdf", b"")).message


class Endless(io.BytesIO):
    """Has whatever is asked for, and never an end."""

    def read(self, size: int | None = -1) -> bytes:
        assert size is not None
        assert size > 0, "nobody can read all of it"
        return b"x" * size


def test_too_large(tmp_path: Path) -> None:
    assert Limits().bytes == 200_000_000
    with (tmp_path / "big.txt").open("wb") as stream:
        stream.truncate(200_000_001)
    error = failure(tmp_path / "big.txt")
    assert error.message.endswith("big.txt is larger than 200 MB.")
    assert error.hint == "Split it, or allow more: km config set max_megabytes 201"
    one = Limits(max_megabytes=1)
    with pytest.raises(KmError, match=r"standard input is larger than 1 MB\. .* km config set max_megabytes 2$"):
        read("-", Endless(), limits=one)
    assert len(read(put(tmp_path / "fits.txt", b"x" * 1_000_000), limits=one).text) == 1_000_000


def test_a_limit_costs_nothing_by_itself(tmp_path: Path) -> None:
    """A petabyte is allowed, and no room is made for it."""
    assert read(put(tmp_path / "small.txt", b"The heron waits."), limits=Limits(max_megabytes=10**9)).text


def test_a_file_that_may_not_be_looked_at_stops_no_other(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = tmp_path_factory.mktemp("away") / "secret.md"
    for name in ("good.md", "locked.md"):
        put(tmp_path / name, b"The heron waits.")
    (tmp_path / "link.md").symlink_to(tmp_path / "locked.md")
    away.write_text("The heron waits.")
    (tmp_path / "outside.md").symlink_to(away)
    closed = ("locked.md", "link.md", "outside.md")
    plain = {name: getattr(os, name) for name in ("stat", "lstat")}

    def refused(name: str, path: Any, *given: Any, **more: Any) -> os.stat_result:
        called = os.path.basename(path)
        if called == "locked.md" or (name == "stat" and called in closed):  # a link itself may be looked at
            raise PermissionError(13, "Permission denied", path)
        return cast("os.stat_result", plain[name](path, *given, **more))

    for name in plain:  # as it is in a folder that may be listed and not entered
        monkeypatch.setattr(os, name, partial(refused, name))
    assert ingest.expand(str(tmp_path)) == [str(tmp_path / name) for name in ("good.md", "link.md", "locked.md")]


@pytest.mark.parametrize(
    "data", [b"text with \0 in it", bytes(range(1, 256)) * 20, b"\xff\xfe\x00\xd8\x41", b"\x7fELF\x02\x01"]
)
def test_binary(tmp_path: Path, data: bytes) -> None:
    assert "binary file" in failure(put(tmp_path / "a.txt", data)).message


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("scan.pdf", b"\x89PNG\r\n\x1a\n0000", "is an image, not a PDF"),
        ("scan.pdf", b"\xff\xd8\xff\xe0 JFIF", "is an image, not a PDF"),
        ("photo.jpg", b"\xff\xd8\xff\xe0 JFIF", "is an image."),
        ("photo.webp", b"RIFF\x00\x00\x00\x00WEBPVP8 ", "is an image."),
        ("a.docx", b"\x89PNG\r\n\x1a\n0000", "is an image, not a DOCX"),
        ("a.xlsx", zipped("xl/workbook.xml"), "is a spreadsheet"),
        ("a.pptx", zipped("ppt/presentation.xml"), "is a presentation"),
        ("a.zip", zipped("a.txt"), "is an archive, and neither DOCX nor EPUB"),
        ("a.docx", zipped("a.txt"), "is an archive, and neither DOCX nor EPUB"),
        ("a.docx", b"PK\x03\x04 and then nothing", "is a damaged archive"),
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 more", "old or password-protected Office file"),
        ("a.rtf", b"{\\rtf1 hello}", "is RTF"),
        ("a.pdf", b"only words", "no PDF at all"),
        ("a.epub", b"only words", "no EPUB at all"),
    ],
)
def test_kinds_without_a_reader(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    error = failure(put(tmp_path / name, data))
    assert words in error.message
    assert error.message.startswith(name)


# --- folders ------------------------------------------------------------------------------------------------------


def test_expand(tmp_path: Path) -> None:
    for name in ("b.md", "a.PDF", "sub/deep/c.txt", "sub/photo.png", ".hidden.txt", ".git/d.txt", "README", "e.epub"):
        put(tmp_path / name, "x")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "link.txt").symlink_to(tmp_path / "b.md")
    os.mkfifo(tmp_path / "pipe.txt")
    found = [str(Path(path).relative_to(tmp_path)) for path in expand(str(tmp_path))]
    assert found == ["a.PDF", "b.md", "e.epub", "link.txt", "sub/deep/c.txt"]


def test_expand_leaves_everything_else_alone(tmp_path: Path) -> None:
    path = put(tmp_path / "x.bin", "x")
    for source in (path, "-", "https://example.org/a/", "not/there"):
        assert expand(source) == [source]
    (tmp_path / "nothing").mkdir()
    assert expand(str(tmp_path / "nothing")) == []


# --- the table, and anything at all -------------------------------------------------------------------------------


def test_every_suffix_has_one_reader() -> None:
    suffixes = [suffix for reader in READERS.values() for suffix in reader.suffixes]
    assert len(set(suffixes)) == len(suffixes)
    assert set(READERS) == {"pdf", "docx", "html", "epub", "markdown", "latex", "text"}
    assert set(kinds.SUFFIX_OF_TYPE.values()) <= set(suffixes)


def test_nothing_heavy_is_imported() -> None:
    import subprocess
    import sys

    heavy = ["pypdf", "bs4", "lxml", "mammoth", "markdownify", "trafilatura", "defusedxml", "torch"]
    code = f"import sys, kmcli.ingest; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    return buffer.getvalue()


_STARTS = [b"", b"%PDF-1.4\n1 0 obj<</Type/Catalog>>", b"PK\x03\x04", b"<html><body><p>", b"\\begin{document}",
           b"\xff\xfe", zipped("word/document.xml"), zipped("META-INF/container.xml"), tarred()]  # fmt: skip
_SUFFIXES = ["", ".bin", *(suffix for reader in READERS.values() for suffix in reader.suffixes)]
_UNCLEAN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\r\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.sampled_from(_STARTS),
    rest=st.one_of(st.binary(max_size=400), st.text(max_size=200).map(lambda text: text.encode("utf-8"))),
    suffix=st.sampled_from(_SUFFIXES),
)
def test_any_bytes_are_read_or_refused(tmp_path: Path, start: bytes, rest: bytes, suffix: str) -> None:
    path = put(tmp_path / f"any{suffix}", start + rest)
    refused: KmError | None = None
    try:
        got = ingest.read(path)
    except KmError as error:
        refused = error
    if refused:
        assert refused.message
        assert refused.hint
        return
    assert got.text.strip()
    pages = got.text.split("\f")
    assert len(pages) == (got.pages or 1)
    assert not any(_UNCLEAN.search(page) for page in pages)
    assert all(unicodedata.is_normalized("NFC", page) for page in pages)
    assert got.kind in READERS
