"""DOCX, EPUB and HTML: the text by value, and damage, locks and bombs by name."""

from __future__ import annotations

import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bad_input import zipped
from kmcli import ingest
from kmcli.errors import KmError
from kmcli.ingest import html, read
from kmcli.ingest.limits import Limits
from kmcli.ingest.task import Task
from kmcli.types import Event, Ingested, silent


def parse(tmp_path: Path, name: str, data: bytes | str) -> Ingested:
    (tmp_path / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return read(str(tmp_path / name))


def failure(tmp_path: Path, name: str, data: bytes | str) -> KmError:
    with pytest.raises(KmError) as caught:
        parse(tmp_path, name, data)
    assert caught.value.message.startswith(name)
    assert caught.value.hint
    return caught.value


# --- DOCX ---------------------------------------------------------------------------------------------------------

_W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def paragraph(text: str, style: str = "", bold: bool = False) -> str:
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    weight = "<w:rPr><w:b/></w:rPr>" if bold else ""
    return f'<w:p>{properties}<w:r>{weight}<w:t xml:space="preserve">{text}</w:t></w:r></w:p>'


def docx(body: str, before: str = "") -> dict[str, str | bytes]:
    return {
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="xml" ContentType="application/xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{_RELATIONS}"><Relationship Id="r1" Type="{_OFFICE}/officeDocument"'
        ' Target="word/document.xml"/></Relationships>',
        "word/document.xml": f'<?xml version="1.0" encoding="UTF-8"?>{before}'
        f"<w:document {_W}><w:body>{body}</w:body></w:document>",
        "word/styles.xml": f'<w:styles {_W}><w:style w:type="paragraph" w:styleId="Heading1">'
        '<w:name w:val="heading 1"/></w:style></w:styles>',
    }


def test_docx(tmp_path: Path) -> None:
    cells = "".join(f"<w:tc>{paragraph(text)}</w:tc>" for text in ("cell", "42"))
    body = (
        paragraph("The Title", "Heading1") + paragraph("Bold", bold=True)
        + paragraph("Größe &amp; Gewicht * 2_a") + f"<w:tbl><w:tr>{cells}</w:tr></w:tbl>"
    )  # fmt: skip
    got = parse(tmp_path, "letter.docx", zipped(docx(body)))
    assert (got.kind, got.suggested_name, got.pages) == ("docx", "letter", None)
    assert got.text.startswith("# The Title\n\n**Bold**\n\nGröße & Gewicht * 2_a\n\n")
    assert "| cell | 42 |" in got.text


def test_docx_under_another_name(tmp_path: Path) -> None:
    assert parse(tmp_path, "letter.bin", zipped(docx(paragraph("Hello")))).kind == "docx"


def test_docx_without_words(tmp_path: Path) -> None:
    assert "holds no text" in failure(tmp_path, "a.docx", zipped(docx("<w:p/>"))).message


@pytest.mark.parametrize(
    "parts",
    [
        {"word/document.xml": "not xml"},
        {"word/document.xml": f"<w:document {_W}/>"},
        docx(paragraph("&a;"), '<!DOCTYPE x [<!ENTITY a "boom">]>'),
        docx(paragraph("&x;"), '<!DOCTYPE x [<!ENTITY x SYSTEM "file:///etc/passwd">]>'),
    ],
)
def test_damaged_or_hostile_docx(tmp_path: Path, parts: dict[str, str | bytes]) -> None:
    assert "is damaged" in failure(tmp_path, "a.docx", zipped(parts)).message


def test_docx_cut_short_or_flipped(tmp_path: Path) -> None:
    data = zipped(docx(paragraph("Hello " * 500)))
    assert "is a damaged archive" in failure(tmp_path, "a.docx", data[: len(data) // 2]).message
    at = data.index(b"word/document.xml") + 40
    assert "is damaged" in failure(tmp_path, "a.docx", data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :]).message


# --- EPUB ---------------------------------------------------------------------------------------------------------

_CONTAINER = (
    '<?xml version="1.0"?><container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0"><rootfiles>'
    '<rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
)
_PACKAGE = (
    '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0">'
    '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>A Book</dc:title></metadata><manifest>'
    '<item id="two" href="text/2%20b.xhtml" media-type="application/xhtml+xml"/>'
    '<item id="one" href="text/1.xhtml" media-type="application/xhtml+xml"/>'
    '<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>'
    '<item id="css" href="a.css" media-type="text/css"/></manifest>'
    '<spine><itemref idref="nav"/><itemref idref="one"/><itemref idref="two"/><itemref idref="css"/></spine></package>'
)


def chapter(title: str, text: str) -> str:
    return (
        '<?xml version="1.0" encoding="utf-8"?><!DOCTYPE html><html xmlns="http://www.w3.org/1999/xhtml"><head>'
        f"<title/><style>p {{}}</style></head><body><h1>{title}</h1><p>{text}</p></body></html>"
    )


def epub(**changes: str) -> dict[str, str | bytes]:
    return {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": _CONTAINER,
        "OEBPS/book.opf": _PACKAGE,
        "OEBPS/nav.xhtml": chapter("Contents", "1 2"),
        "OEBPS/text/2 b.xhtml": chapter("Second", "Then the end."),
        "OEBPS/text/1.xhtml": chapter("First", "Größe of a beginning."),
        **changes,
    }


def test_epub_in_the_order_of_its_spine(tmp_path: Path) -> None:
    got = parse(tmp_path, "book.epub", zipped(epub()))
    assert (got.kind, got.suggested_name, got.pages) == ("epub", "book", None)
    assert got.text == "# First\n\nGröße of a beginning.\n\n# Second\n\nThen the end."


def test_epub_lacks_a_chapter(tmp_path: Path) -> None:
    parts = epub()
    del parts["OEBPS/text/1.xhtml"]
    (tmp_path / "book.epub").write_bytes(zipped(parts))
    events: list[Event] = []
    assert read(str(tmp_path / "book.epub"), report=events.append).text == "# Second\n\nThen the end."
    assert [event.message for event in events if event.warning] == [
        "book.epub lacks its chapter OEBPS/text/1.xhtml; the rest is read"
    ]


def locked(path: str) -> str:
    return (
        '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container"'
        ' xmlns:enc="http://www.w3.org/2001/04/xmlenc#"><enc:EncryptedData><enc:CipherData>'
        f'<enc:CipherReference URI="{path}"/></enc:CipherData></enc:EncryptedData></encryption>'
    )


def test_epub_with_drm(tmp_path: Path) -> None:
    parts = epub(**{"META-INF/encryption.xml": locked("OEBPS/text/2%20b.xhtml")})
    error = failure(tmp_path, "book.epub", zipped(parts))
    assert "is protected against copying" in error.message
    assert "DRM" in error.hint
    fonts = epub(**{"META-INF/encryption.xml": locked("OEBPS/font.otf")})
    assert parse(tmp_path, "free.epub", zipped(fonts)).text.startswith("# First")


@pytest.mark.parametrize(
    "changes",
    [
        {"META-INF/container.xml": "<container/>"},
        {"META-INF/container.xml": "no xml"},
        {"OEBPS/book.opf": "<package"},
        {"OEBPS/book.opf": '<!DOCTYPE p [<!ENTITY a "b">]><package>&a;</package>'},
    ],
)
def test_damaged_epub(tmp_path: Path, changes: dict[str, str]) -> None:
    assert "is damaged" in failure(tmp_path, "book.epub", zipped(epub(**changes))).message


# --- bombs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "make"), [("a.docx", lambda: docx(paragraph("Hi"))), ("a.epub", epub)])
def test_zip_bombs(tmp_path: Path, name: str, make: Callable[[], dict[str, str | bytes]]) -> None:
    parts = {**make(), "bomb.bin": b"\0" * 11_000_000}
    error = failure(tmp_path, name, zipped(parts))  # 1000 to 1
    assert error.message == f"{name} would unpack to more than 200 times its size, as no document does."
    stored = zipped(parts, zipfile.ZIP_STORED)
    assert parse(tmp_path, name, stored).text  # as large, but no bomb
    (tmp_path / name).write_bytes(stored)
    with pytest.raises(KmError, match="would unpack to more than 10 MB"):
        ingest.parse(Task(name, Path(name).suffix, Limits(max_megabytes=10)), stored, silent)


@pytest.mark.parametrize(("name", "make"), [("a.docx", lambda: docx(paragraph("Hi"))), ("a.epub", epub)])
def test_a_bomb_whose_directory_lies(tmp_path: Path, name: str, make: Callable[[], dict[str, str | bytes]]) -> None:
    real = b"\0" * 50_000_000
    data = bytearray(zipped({**make(), "bomb.bin": real}))
    for header, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = data.rindex(header)
        assert data[start + at : start + at + 4] == len(real).to_bytes(4, "little")
        data[start + at : start + at + 4] = (1000).to_bytes(4, "little")
    tracemalloc.start()
    try:
        with pytest.raises(KmError) as caught:
            ingest.parse(Task(name, Path(name).suffix, Limits()), bytes(data), silent)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000  # it was not unpacked to find out
    finally:
        tracemalloc.stop()
    assert caught.value.message == f"{name} unpacks to more than it says, as no document does."


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_way_of_packing_that_documents_do_not_use(tmp_path: Path, method: int) -> None:
    assert "is damaged" in failure(tmp_path, "a.docx", zipped(docx(paragraph("Hi")), method)).message


def test_encrypted_archive(tmp_path: Path) -> None:
    data = bytearray(zipped(docx(paragraph("Hi"))))
    at = data.index(b"PK\x01\x02")  # the first entry of the archive's directory
    data[at + 8] |= 1
    assert "a.docx is encrypted" in failure(tmp_path, "a.docx", bytes(data)).message


# --- HTML ---------------------------------------------------------------------------------------------------------


def test_html(tmp_path: Path) -> None:
    page = (
        "<!DOCTYPE html><html><head><title>T</title><style>p{}</style></head><body><nav>Home | About</nav>"
        "<script>evil()</script><h2>Head</h2><p>A <b>bold</b>, <em>slanted</em> <a href='/x'>link</a>: a*b, c_d, 1. x"
        "<p>Second<br>line<ul><li>one<li>two</ul><img src=x alt=pic><pre>x = 1\n  y</pre><noscript>no</noscript></html>"
    )
    got = parse(tmp_path, "page.html", page)
    assert (got.kind, got.pages) == ("html", None)
    assert got.text == (
        "## Head\n\nA **bold**, *slanted* link: a*b, c_d, 1. x\n\nSecond  \nline\n\n- one\n- two\n\n"
        "```\nx = 1\n  y\n```"
    )


@pytest.mark.parametrize("charset", ["iso-8859-2", "utf-8", "shift_jis"])
def test_html_declares_its_encoding(tmp_path: Path, charset: str) -> None:
    word = {"iso-8859-2": "Łódź", "utf-8": "Łódź", "shift_jis": "東京"}[charset]
    page = f'<html><head><meta charset="{charset}"></head><body><p>{word}</p></body></html>'
    assert parse(tmp_path, "page.html", page.encode(charset)).text == word


def test_html_with_a_wrong_or_unknown_encoding(tmp_path: Path) -> None:
    for charset in ("no-such", "ascii"):
        page = f'<html><head><meta charset="{charset}"></head><body><p>Größe</p></body></html>'
        assert parse(tmp_path, "page.html", page).text == "Größe"


def test_html_nested_very_deep(tmp_path: Path) -> None:
    page = "<html><body>" + "<div>" * 3000 + "deep" + "</div>" * 3000 + "<p>end</p></body></html>"
    words = parse(tmp_path, "page.html", page).text.split()
    assert words[-1] == "end"


def test_html_without_text(tmp_path: Path) -> None:
    assert "holds no text" in failure(tmp_path, "a.html", "<html><script>x</script></html>").message


def test_page_title() -> None:
    assert html.from_markup("<title> A\n page </title><p>x").title == "A page"
    assert html.from_markup("<p>x").title == ""
