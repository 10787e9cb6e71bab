"""Scanned pages: by OCR where it is installed, else said."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from bad_input import scanned
from kmcli import ingest
from kmcli.errors import KmError
from kmcli.ingest import ocr
from kmcli.ingest.layout import Line
from kmcli.ingest.limits import Limits
from kmcli.ingest.task import Task
from kmcli.types import Event

LINES = ("The harbour opens at six in the morning.", "The daily fee of Lumrick 40 is $75.")
MIXED = scanned(LINES[0], "", LINES[1])


def read(data: bytes) -> tuple[str, list[str]]:
    """The text, and what the person is warned of."""
    events: list[Event] = []
    _, extract = ingest.parse(Task("scan.pdf", ".pdf", Limits()), data, events.append)
    return extract.text, [event.message for event in events if event.warning]


def test_without_ocr_what_is_left_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr, "installed", lambda: False)
    text, warned = read(MIXED)
    assert text == "\fThis page is text.\f"
    assert warned == [
        "2 of the 3 pages of scan.pdf are pictures and were left out; to read them: pip install 'kmcli[ocr]'"
    ]


class Scripted:
    """In place of `ocr.Scans`."""

    def __init__(self, data: bytes) -> None:
        self.given: Any = {1: [Line("First.", 10, 100, 10)], 3: []}

    def lines(self, number: int) -> list[Line]:
        return list(self.given[number])


class Broken(Scripted):
    def lines(self, number: int) -> list[Line]:
        raise RuntimeError("no page")


def test_what_ocr_finds_stands_on_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr, "installed", lambda: True)
    monkeypatch.setattr(ocr, "Scans", Scripted)
    assert read(MIXED) == (
        "First.\fThis page is text.\f",
        ["2 pages of scan.pdf were read by OCR, which may err"],
    )
    monkeypatch.setattr(ocr, "Scans", Broken)
    assert read(MIXED)[1] == ["the pictures in scan.pdf cannot be drawn and were left out"]
    with pytest.raises(KmError, match="has no text, nor any in its pictures"):
        read(scanned(LINES[0]))


def test_a_scanned_page_is_read_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("rapidocr", "onnxruntime", "pypdfium2"):
        pytest.importorskip(package)

    def refuse(*given: object, **more: object) -> None:
        raise OSError("no network")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    assert read(MIXED) == (
        f"{LINES[0]}\fThis page is text.\f{LINES[1]}",
        ["2 pages of scan.pdf were read by OCR, which may err"],
    )
