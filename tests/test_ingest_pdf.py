"""PDF: paragraphs whole, running lines gone, and every way in which a PDF is no help."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fpdf import FPDF
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, DictionaryObject, NameObject, NumberObject

from kmcli.errors import KmError, ResourceError
from kmcli.ingest import ocr, read
from kmcli.ingest.layout import Line
from kmcli.types import Event, Ingested

SENTENCE = (
    "The quick brown fox jumps over the lazy dog while the river keeps its slow and patient course past the mill."
)


def parse(tmp_path: Path, data: bytes, name: str = "paper.pdf") -> Ingested:
    (tmp_path / name).write_bytes(data)
    return read(str(tmp_path / name))


def failure(tmp_path: Path, data: bytes) -> KmError:
    with pytest.raises(KmError) as caught:
        parse(tmp_path, data)
    assert caught.value.message.startswith("paper.pdf")
    assert caught.value.hint
    return caught.value


def paragraph(number: int, sentences: int = 4) -> str:
    return f"Paragraph {number} begins. " + " ".join([SENTENCE] * sentences) + f" Here ends paragraph {number}."


class Report(FPDF):
    """Pages with a running header and a page number, as reports have them."""

    def header(self) -> None:
        self.set_font("Helvetica", "I", 8)
        self.cell(0, 8, "The Running Header", align="C")
        self.ln(12)

    def footer(self) -> None:
        self.set_y(-15)
        self.set_font("Helvetica", "I", 8)
        self.cell(0, 10, f"Page {self.page_no()}/{{nb}}", align="C")


def report(chapters: int) -> bytes:
    pdf = Report()
    for number in range(1, chapters + 1):
        pdf.add_page()
        pdf.set_font("Helvetica", "B", 14)
        pdf.multi_cell(0, 8, f"Chapter {number}", new_x="LMARGIN", new_y="NEXT")
        pdf.set_font("Helvetica", "", 11)
        for part in (2 * number - 1, 2 * number):
            pdf.multi_cell(0, 6, paragraph(part), align="J", new_x="LMARGIN", new_y="NEXT")
            pdf.ln(4)
    return bytes(pdf.output())


def small(text: str = "Some words.") -> bytes:
    pdf = FPDF()
    pdf.add_page()
    pdf.set_font("Helvetica", "", 11)
    pdf.multi_cell(0, 6, text, align="L")
    return bytes(pdf.output())


def drawn(content: bytes, encoding: DictionaryObject | None = None) -> bytes:
    """A page with a content stream of our own; /F1 is Helvetica."""
    writer = PdfWriter()
    page = writer.add_blank_page(595, 842)
    font = DictionaryObject(
        {NameObject("/Type"): NameObject("/Font"), NameObject("/Subtype"): NameObject("/Type1"),
         NameObject("/BaseFont"): NameObject("/Helvetica")}
    )  # fmt: skip
    if encoding is not None:
        font[NameObject("/Encoding")] = encoding
    fonts = DictionaryObject({NameObject("/F1"): font})
    page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
    from pypdf.generic import DecodedStreamObject

    stream = DecodedStreamObject()
    stream.set_data(content)
    page[NameObject("/Contents")] = stream
    return saved(writer)


def saved(writer: PdfWriter) -> bytes:
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def encrypted(user: str, algorithm: str) -> bytes:
    writer = PdfWriter(clone_from=io.BytesIO(small("Locked words.")))
    writer.encrypt(user_password=user, owner_password="owner", algorithm=algorithm)
    return saved(writer)


# --- text ---------------------------------------------------------------------------------------------------------


def test_report(tmp_path: Path) -> None:
    got = parse(tmp_path, report(4))
    assert (got.kind, got.pages, got.suggested_name) == ("pdf", 4, "paper")
    expected = [f"Chapter {n}\n\n{paragraph(2 * n - 1)}\n\n{paragraph(2 * n)}" for n in range(1, 5)]
    assert got.text.split("\f") == expected  # no header, no page numbers; headings that count pages stay


def test_two_pages_keep_their_headers(tmp_path: Path) -> None:
    first = parse(tmp_path, report(2)).text.split("\f")[0]
    assert first.startswith("The Running Header\n\nChapter 1\n\n")
    assert first.endswith("\n\nPage 1/2")


def test_what_fpdf2_makes_of_html(tmp_path: Path) -> None:
    pdf = FPDF()
    pdf.add_page()
    pdf.set_font("Times", size=12)
    pdf.write_html(
        f"<h1>The title</h1><p>{paragraph(1)}</p><p>{paragraph(2)}</p>"
        f"<ul><li>one {SENTENCE} {SENTENCE}</li><li>two</li></ul><h2>Second</h2><p>{paragraph(3)}</p>"
    )
    assert parse(tmp_path, bytes(pdf.output())).text == (
        f"The title\n\n{paragraph(1)}\n\n{paragraph(2)}\n\n"
        f"• one {SENTENCE} {SENTENCE}\n• two\n\nSecond\n\n{paragraph(3)}"
    )


def test_bold_and_italic_within_a_line(tmp_path: Path) -> None:
    pdf = FPDF()
    pdf.add_page()
    pdf.set_font("Times", size=12)
    pdf.multi_cell(0, 6, f"**Bold** words and __slanted__ ones. {SENTENCE} {SENTENCE}\n\n{SENTENCE}", markdown=True)
    assert parse(tmp_path, bytes(pdf.output())).text == (
        f"Bold words and slanted ones. {SENTENCE} {SENTENCE}\n\n{SENTENCE}"
    )


def test_two_columns_and_hyphens(tmp_path: Path) -> None:
    pdf = FPDF()
    pdf.add_page()
    pdf.set_font("Times", size=10)
    left = [
        "The first column tells of a remark-",
        "able well-known fact, of a well-",
        "known man, of the years 1990-",
        "1995 and of",
    ]
    right = ["what came after, in the pre- and", "post-war times of Jean-", "Paul, and then it ends."]
    for x, lines in ((20, left), (110, right)):
        for row, line in enumerate(lines):
            pdf.set_xy(x, 30 + 5 * row)
            pdf.cell(text=line)
    assert parse(tmp_path, bytes(pdf.output())).text == (
        "The first column tells of a remarkable well-known fact, of a well-known man, of the years 1990-1995 and of"
        " what came after, in the pre- and post-war times of Jean-Paul, and then it ends."
    )


def test_indented_paragraphs(tmp_path: Path) -> None:
    pdf = FPDF()
    pdf.add_page()
    pdf.set_font("Times", size=10)
    rows = [
        (25, "It was a bright cold day in April, and the clocks were striking"),
        (20, "thirteen, which is the number of lines that nobody here counted."),
        (25, "The second paragraph has only its first line moved to the right,"),
        (20, "as books have done for hundreds of years, and no gap above it."),
    ]
    for row, (x, line) in enumerate(rows):
        pdf.set_xy(x, 30 + 5 * row)
        pdf.cell(text=line)
    assert parse(tmp_path, bytes(pdf.output())).text == "\n\n".join(
        (f"{rows[0][1]} {rows[1][1]}", f"{rows[2][1]} {rows[3][1]}")
    )


def test_ligatures(tmp_path: Path) -> None:
    encoding = DictionaryObject({
        NameObject("/Type"): NameObject("/Encoding"),
        NameObject("/Differences"): ArrayObject([NumberObject(1), NameObject("/fi"), NameObject("/fl")]),
    })  # fmt: skip
    data = drawn(rb"BT /F1 12 Tf 50 700 Td (The \001nal \002ower.) Tj ET", encoding)
    assert "ﬁnal ﬂower" in PdfReader(io.BytesIO(data)).pages[0].extract_text()
    assert parse(tmp_path, data).text == "The final flower."


def test_flipped_and_turned_pages(tmp_path: Path) -> None:
    """What browsers print is drawn upside down and flipped; tables may be turned by 90 degrees."""
    lines = [b"A first line of this paragraph that is long", b"and a second line of the same paragraph."]
    flipped = b"q 1 0 0 -1 0 842 cm BT /F1 12 Tf 1 0 0 -1 50 100 Tm (%b) Tj 1 0 0 -1 50 114 Tm (%b) Tj ET Q"
    turned = b"BT /F1 12 Tf 0 1 -1 0 100 50 Tm (%b) Tj 0 1 -1 0 114 50 Tm (%b) Tj ET"
    for content in (flipped, turned):
        text = parse(tmp_path, drawn(content % (lines[0], lines[1]))).text
        assert text == b" ".join(lines).decode()


# --- what goes wrong ----------------------------------------------------------------------------------------------


def test_scanned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr, "installed", lambda: False)
    writer = PdfWriter()
    for _ in range(3):
        writer.add_blank_page(200, 200)
    error = failure(tmp_path, saved(writer))
    assert "has no text: its pages are scanned images" in error.message
    assert error.hint == "For km to read them: pip install 'kmcli[ocr]'"


def test_no_pages(tmp_path: Path) -> None:
    assert "without pages" in failure(tmp_path, saved(PdfWriter())).message


def test_one_blank_page_among_others(tmp_path: Path) -> None:
    writer = PdfWriter(clone_from=io.BytesIO(small()))
    writer.add_blank_page(200, 200)
    got = parse(tmp_path, saved(writer))
    assert (got.text, got.pages) == ("Some words.\f", 2)


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-128", "AES-256"])
def test_encrypted(tmp_path: Path, algorithm: str) -> None:
    if algorithm.startswith("AES"):
        pytest.importorskip("cryptography")
    error = failure(tmp_path, encrypted("secret", algorithm))
    assert "is encrypted" in error.message
    assert "save a copy without a password" in error.hint
    assert parse(tmp_path, encrypted("", algorithm)).text == "Locked words."


@pytest.mark.parametrize("algorithm", ["AES-128", "AES-256"])
def test_encryption_without_the_package(tmp_path: Path, algorithm: str) -> None:
    pytest.importorskip("cryptography")  # to make the file
    path = tmp_path / "paper.pdf"
    path.write_bytes(encrypted("", algorithm))
    code = (
        "import sys; sys.modules['cryptography'] = sys.modules['Crypto'] = None\n"
        "from kmcli.errors import KmError\nfrom kmcli.ingest import read\n"
        f"try: read({str(path)!r})\nexcept KmError as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{ResourceError.__name__} paper.pdf is encrypted with AES")
    assert "pip install cryptography" in done.stdout


@pytest.mark.parametrize("cut", [20, 200, 600])
def test_truncated(tmp_path: Path, cut: int) -> None:
    assert "is a damaged PDF" in failure(tmp_path, small()[:cut]).message


def test_damaged_page_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kmcli.ingest import pdf

    lines = pdf._lines
    calls = iter(range(1, 4))

    def second_fails(page: object) -> list[Line]:
        if next(calls) == 2:
            raise KeyError("/Font")
        return lines(page)  # type: ignore[arg-type]

    def all_fail(page: object) -> list[Line]:
        raise KeyError("/Font")

    monkeypatch.setattr(pdf, "_lines", all_fail)
    assert "is a damaged PDF" in failure(tmp_path, report(3)).message
    monkeypatch.setattr(pdf, "_lines", second_fails)
    (tmp_path / "paper.pdf").write_bytes(report(3))
    events: list[Event] = []
    got = read(str(tmp_path / "paper.pdf"), report=events.append)
    assert [event.message for event in events if event.warning] == ["page 2 of paper.pdf is damaged and was left out"]
    assert [(event.done, event.total) for event in events if not event.warning] == [(1, 3), (2, 3), (3, 3)]
    assert [bool(page) for page in got.text.split("\f")] == [True, False, True]


def test_nothing_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    broken = re.sub(rb"startxref\n\d+", b"startxref\n5", small())
    logging.getLogger("pypdf").setLevel(logging.NOTSET)
    with caplog.at_level(logging.DEBUG):
        assert parse(tmp_path, broken).text == "Some words."
        records = list(caplog.records)
        logging.getLogger("pypdf").setLevel(logging.NOTSET)
        PdfReader(io.BytesIO(broken))
    assert not records
    assert caplog.records  # so there was something to be quiet about
    assert capfd.readouterr().out == ""


def test_text_before_the_signature(tmp_path: Path) -> None:
    assert parse(tmp_path, b"X-Header: mail\n" + small()).text == "Some words."
