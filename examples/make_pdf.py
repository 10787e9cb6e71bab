"""Make harbour.pdf from harbour.md. Needs fpdf2. The same text and the same fpdf2 give the same bytes."""

from __future__ import annotations

import argparse
from datetime import datetime, timezone
from pathlib import Path

from fpdf import FPDF

HERE = Path(__file__).resolve().parent
MADE = datetime(2025, 2, 3, 9, 0, tzinfo=timezone.utc)
INK, SEA = (34, 34, 34), (24, 74, 106)


def build(markdown: str) -> bytes:
    """The PDF (A4) of a Markdown text made of `#` and `##` headings and paragraphs, one a line."""
    pdf = FPDF(format="A4", unit="mm")
    pdf.set_creation_date(MADE)
    pdf.set_producer("make_pdf.py")
    pdf.set_compression(False)  # zlib's output differs between its versions
    pdf.set_lang("en-GB")
    pdf.set_margins(28, 26, 28)
    pdf.c_margin = 0
    pdf.set_auto_page_break(True, margin=26)
    pdf.add_page()
    blocks = [block.strip() for block in markdown.split("\n\n") if block.strip()]
    for block, following in zip(blocks, [*blocks[1:], ""], strict=True):
        if block.startswith("# "):
            _title(pdf, block[2:])
        elif block.startswith("## "):
            _heading(pdf, block[3:], following)
        else:
            _paragraph(pdf, block)
    return bytes(pdf.output())


def _title(pdf: FPDF, text: str) -> None:
    pdf.set_title(text)
    pdf.set_font("Helvetica", "B", 20)
    pdf.set_text_color(*SEA)
    pdf.multi_cell(0, 9, text, align="L", new_x="LMARGIN", new_y="NEXT")
    pdf.set_draw_color(*SEA)
    pdf.set_line_width(0.6)
    pdf.line(pdf.l_margin, pdf.y + 3, pdf.w - pdf.r_margin, pdf.y + 3)
    pdf.ln(9)


def _heading(pdf: FPDF, text: str, following: str) -> None:
    _body_font(pdf)
    if pdf.will_page_break(14 + _height(pdf, following)):
        pdf.add_page()
    pdf.ln(3)
    pdf.set_font("Helvetica", "B", 13)
    pdf.set_text_color(*SEA)
    pdf.multi_cell(0, 7, text, align="L", new_x="LMARGIN", new_y="NEXT")
    pdf.ln(1.5)


def _paragraph(pdf: FPDF, text: str) -> None:
    _body_font(pdf)
    if pdf.will_page_break(_height(pdf, text)):  # a paragraph stays on one page
        pdf.add_page()
    pdf.multi_cell(0, 6, text, align="L", new_x="LMARGIN", new_y="NEXT")
    pdf.ln(3.5)


def _body_font(pdf: FPDF) -> None:
    pdf.set_font("Times", "", 12)
    pdf.set_text_color(*INK)


def _height(pdf: FPDF, text: str) -> float:
    """Height in mm of a paragraph in the font that is set."""
    lines = pdf.multi_cell(0, 6, text, align="L", dry_run=True, output="LINES")
    assert isinstance(lines, list)
    return 6 * len(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make harbour.pdf from harbour.md.")
    parser.add_argument("--source", type=Path, default=HERE / "harbour.md")
    parser.add_argument("--out", type=Path, default=HERE / "harbour.pdf")
    args = parser.parse_args()
    data = build(args.source.read_text(encoding="utf-8"))
    args.out.write_bytes(data)
    print(f"{args.out}: {len(data):,} bytes")


if __name__ == "__main__":
    main()
