"""Pages that are pictures, by rapidocr and pypdfium2, which the extra `ocr` brings: their models come with them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from kmcli.ingest.layout import Line, Page

INSTALL = "pip install 'kmcli[ocr]'"
_PACKAGES = ("rapidocr", "onnxruntime", "pypdfium2")
_SCALE = 200 / 72
"""Of 200 dots an inch: what scanned type of 10 points needs; more takes longer and reads no better."""
_MOST_PIXELS = 4000
"""Of a page's longer side: of a poster fewer dots do."""
_TYPE = 0.75
"""Of the height of a line's box, the size of its type."""


def installed() -> bool:
    return all(find_spec(package) for package in _PACKAGES)


class Scans:
    """The pages of one PDF as pictures. Raises RuntimeError where the file, or a page, cannot be drawn."""

    def __init__(self, data: bytes) -> None:
        import pypdfium2
        from rapidocr import RapidOCR

        self._document = pypdfium2.PdfDocument(data)
        self._reader = RapidOCR(params={"Global.log_level": "critical"})

    def lines(self, number: int) -> Page:
        """What stands on a page, counted from 1, from top to bottom."""
        page = self._document[number - 1]
        width, height = page.get_size()
        scale = min(_SCALE, _MOST_PIXELS / max(width, height, 1))
        found: Any = self._reader(page.render(scale=scale).to_numpy())
        lines: Page = []
        for text, box in zip(found.txts or (), found.boxes if found.boxes is not None else (), strict=True):
            xs, ys = [float(x) / scale for x, _ in box], [float(y) / scale for _, y in box]
            size = _TYPE * (max(ys) - min(ys))
            lines.append(Line(" ".join(text.split()), min(xs), height - max(ys), round(size, 1)))
        return [line for line in lines if line.text]
