"""Bad input: what people and their programs put into files, and what km says or reads.

Each case is a file's name, its bytes, and either the sentence that refuses it or the text that is read.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from fpdf import FPDF
from PIL import Image, ImageDraw, ImageFont
from pypdf import PdfReader, PdfWriter

SECRET = "The tide table is locked away."
"""Stands in a file beside the others, which a document tries to take in."""


@dataclass(frozen=True)
class Case:
    name: str
    data: Callable[[str], bytes]
    """Given the address of the file with the secret."""
    sentence: str = ""
    """All of it, without the next step; FILE is the name."""
    text: str = ""
    """SECRET is the address of the file with the secret."""
    code: int = 1


def zipped(parts: dict[str, str | bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def understating(data: bytes, size: int) -> bytes:
    """An archive whose directory says 1000 bytes of an entry that has `size`."""
    return data.replace(size.to_bytes(4, "little"), (1000).to_bytes(4, "little"))


# --- PDF


def pdf(*pages: str) -> bytes:
    made = FPDF()
    made.set_font("helvetica")
    for text in pages:
        made.add_page()
        made.cell(text=text)
    return bytes(made.output())


def scanned(*pages: str) -> bytes:
    """Pages that are pictures of a line; an empty one is of text."""
    made = FPDF()
    made.set_font("helvetica")
    for text in pages:
        made.add_page()
        if text:
            picture = Image.new("L", (1240, 300), "white")
            ImageDraw.Draw(picture).text((60, 60), text, fill="black", font=ImageFont.load_default(44))
            made.image(picture, 0, 0, 210)
        else:
            made.cell(text="This page is text.")
    return bytes(made.output())


def locked() -> bytes:
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf("The heron waits."))))
    writer.encrypt("secret", algorithm="AES-256")
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def raw_pdf(*objects: bytes) -> bytes:
    """Of objects from 1 on, the first of which is the catalog."""
    data = b"%PDF-1.4\n"
    places = []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    end = b"trailer\n<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (size, len(data))
    return data + b"xref\n0 %d\n0000000000 65535 f \n%b" % (size, table) + end


def pages(
    count: int, said: int | None = None, content: bytes = b"BT /F 12 Tf 72 700 Td (The heron waits.) Tj ET"
) -> bytes:
    """So many pages, all of which are the same one. said: how many the file says that it has."""
    font = b"/Resources<</Font<</F<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>"
    return raw_pdf(
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count %d/Kids[%b]>>" % (said or count, b"3 0 R " * count),
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents 4 0 R%b>>" % font,
        b"<</Length %d/Filter/FlateDecode>>stream\n%b\nendstream"
        % (len(zlib.compress(content)), zlib.compress(content)),
    )


def circle() -> bytes:
    """A page tree that is its own branch."""
    return raw_pdf(b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Count 1/Kids[2 0 R]>>")


# --- DOCX, EPUB, HTML

_W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_TYPES = (
    '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="rels" '
    'ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override PartName="/word/document.xml" '
    'ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>'
)
_RELATIONS = (
    '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1" Type='
    '"http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" Target="word/document.xml"/>'
    "</Relationships>"
)


def docx(text: str, before: str = "") -> dict[str, str | bytes]:
    return {
        "[Content_Types].xml": _TYPES,
        "_rels/.rels": _RELATIONS,
        "word/document.xml": f"{before}<w:document {_W}><w:body><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:body>"
        "</w:document>",
    }


def epub(text: str, before: str = "") -> dict[str, str | bytes]:
    return {
        "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile '
        'full-path="book.opf"/></rootfiles></container>',
        "book.opf": '<package xmlns="http://www.idpf.org/2007/opf"><manifest><item id="a" href="a.xhtml" '
        'media-type="application/xhtml+xml"/></manifest><spine><itemref idref="a"/></spine></package>',
        "a.xhtml": f"{before}<html><body><p>{text}</p></body></html>",
    }


def entity(secret: str, root: str) -> str:
    return f'<!DOCTYPE {root} [<!ENTITY secret SYSTEM "file://{secret}">]>'


_LAUGHS = (
    "<!DOCTYPE html ["
    + '<!ENTITY l0 "ha">'
    + "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    + "]>"
)
_SCRIPTS = """<html><head><script>var a = "head"</script><style>p {color: red}</style></head>
<body onload="run()"><p onclick="run()">The heron waits.</p><script src="http://evil.example/x.js">run()</script>
<svg><script>run()</script></svg><iframe srcdoc="&lt;p&gt;framed&lt;/p&gt;"></iframe><noscript>no script</noscript>
<a href="javascript:run()">It is patient.</a></body></html>"""
_WORDS = "The heron waits at the harbour."
_ZEROS = b"\0" * 20_000_000
_DAMAGED_PDF = "FILE is a damaged PDF."
_BINARY = "FILE is a binary file, not text."


def always(data: bytes | str) -> Callable[[str], bytes]:
    return lambda secret: data.encode() if isinstance(data, str) else data


CASES = [
    Case("encrypted.pdf", always(locked()), "FILE is encrypted."),
    Case("truncated.pdf", always(pdf(_WORDS)[:400]), _DAMAGED_PDF),
    Case("empty.pdf", always(b""), "FILE is empty."),
    Case("scanned.pdf", always(scanned(_WORDS)), "FILE has no text: its pages are scanned images."),
    Case("no-pages.pdf", always(raw_pdf(b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Count 0/Kids[]>>")),
         "FILE is a PDF without pages."),
    Case("pages.pdf", always(pages(5001)), "FILE has 5,001 pages, and km reads 5,000 of a file."),
    Case("more-pages-than-it-says.pdf", always(pages(5001, said=1)),
         "FILE has 5,001 pages, and km reads 5,000 of a file."),
    Case("circle.pdf", always(circle()), _DAMAGED_PDF),
    Case("no-catalog.pdf", always(raw_pdf(b"<</Type/Nothing>>")), _DAMAGED_PDF),
    Case("noise.pdf", always(b"%PDF-1.7\n" + bytes(range(256)) * 20), _DAMAGED_PDF),
    Case("words.pdf", always(_WORDS), "FILE is damaged, or no PDF at all."),
    Case("picture.pdf", always(b"\x89PNG\r\n\x1a\n0000"), "FILE is an image, not a PDF."),
    Case("pdf.txt", always(pdf(_WORDS)), text=_WORDS),
    Case("bomb.docx", always(zipped({**docx(_WORDS), "x.bin": _ZEROS})),
         "FILE would unpack to more than 200 times its size, as no document does."),
    Case("bomb.epub", always(zipped({**epub(_WORDS), "x.bin": _ZEROS})),
         "FILE would unpack to more than 200 times its size, as no document does."),
    Case("lying.docx", always(understating(zipped({**docx(_WORDS), "x.bin": _ZEROS}), len(_ZEROS))),
         "FILE unpacks to more than it says, as no document does."),
    Case("lying.epub", always(understating(zipped({**epub(_WORDS), "x.bin": _ZEROS}), len(_ZEROS))),
         "FILE unpacks to more than it says, as no document does."),
    Case("entity.docx", lambda secret: zipped(docx("&secret;", entity(secret, "w:document"))), "FILE is damaged."),
    Case("doctype.docx", always(zipped(docx(_WORDS, '<!DOCTYPE w SYSTEM "http://example.org/w.dtd">'))), "FILE is damaged."),
    Case("lzma.docx", always(zipped(docx(_WORDS), zipfile.ZIP_LZMA)), "FILE is damaged."),
    Case("entity.epub", lambda secret: zipped(epub(f"{_WORDS}&secret;", entity(secret, "html"))), text=f"{_WORDS}&secret;"),
    Case("entity.html", lambda secret: f"{entity(secret, 'html')}<html><p>{_WORDS}&secret;</p></html>".encode(),
         text=f"{_WORDS}&secret;"),
    Case("entity.xml", lambda secret: f"{entity(secret, 'a')}<a>&secret;</a>".encode(),
         text='<!DOCTYPE a [<!ENTITY secret SYSTEM "file://SECRET">]><a>&secret;</a>'),
    Case("laughs.xhtml", always(f"{_LAUGHS}<html><p>{_WORDS}&l9;</p></html>"), text=f"{_WORDS}&l9;"),
    Case("scripts.html", always(_SCRIPTS), text="The heron waits.\n\nIt is patient."),
    Case("cut.docx", always(zipped(docx(_WORDS))[:-40]), "FILE is a damaged archive."),
    Case("spreadsheet.docx", always(zipped({"xl/workbook.xml": "x"})), "FILE is a spreadsheet, which km does not read."),
    Case("binary.txt", always(bytes(range(256)) * 40), _BINARY),
    Case("program.md", always(b"\x7fELF\x02\x01\x01\0\0\0"), _BINARY),
    Case("nulls.txt", always(b"The heron\0 waits at the harbour."), _BINARY),
    Case("empty.md", always(b""), "FILE is empty."),
    Case("blank.md", always(" \n\u2028\t\r\n\ufeff"), "FILE holds no text."),
    Case("latin.txt", always("Über den Dächern, für fünf Euro: déjà vu.".encode("cp1252")),
         text="Über den Dächern, für fünf Euro: déjà vu."),
    Case("utf16.txt", always("Größe: 5 €".encode("utf-16")), text="Größe: 5 €"),
    Case("utf16-no-mark.txt", always("The heron waits. Größe.".encode("utf-16-be")), text="The heron waits. Größe."),
    Case("utf32.txt", always("Größe: 6 €".encode("utf-32")), text="Größe: 6 €"),
    Case("half.txt", always((_WORDS * 3 + "Größe").encode("utf-16")[:-1]), text=_WORDS * 3 + "Größ�"),
    Case("controls.md", always(f"{_WORDS * 9} A\x1b[31mred\x07 \u202eheron\u202c\u2066.\u2069 \U000e0041It waits."),
         text=f"{_WORDS * 9} A[31mred heron. It waits."),
    Case("cjk.md", always("港は朝六時に開きます。船は静かです。"), text="港は朝六時に開きます。船は静かです。"),
    Case("rtl.md", always("يفتح الميناء في السادسة. הנמל נפתח."), text="يفتح الميناء في السادسة. הנמל נפתח."),
    Case("line.md", always("The heron waits here. " * 250_000), text=("The heron waits here. " * 250_000)),
    Case("deep.html", always("<div>" * 20_000 + f"<p>{_WORDS}</p>"), text=_WORDS),
    Case("comments.md", always("<!-- a -->" * 5000 + "The gull waits."), text="<!-- a -->" * 5000 + "The gull waits."),
    Case("new\nline.md", always("Newline."), text="Newline."),
    Case("\"quotes' `$(x)`.md", always("Quotes."), text="Quotes."),
    Case("--all.md", always("Dashes."), text="Dashes."),
    Case("🦩🏴\u202efdp.md", always("Emoji."), text="Emoji."),
    Case("é" * 126 + ".md", always("Long."), text="Long."),
]  # fmt: skip
