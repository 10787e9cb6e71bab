"""What the tests of the command line share: canned results of the workflows, and ways to run km."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kmcli.cli.boundary import main
from kmcli.compare import Comparison, Costs, Row
from kmcli.export import Checked, Exported
from kmcli.types import Answer, Document, Event, KnowledgeModule, Method, Passage, Question, Recipe, Score
from kmcli.workflows.answer import Asked
from kmcli.workflows.house import House
from kmcli.workflows.share import ExportReport
from kmcli.workflows.task import Trained

HOSTILE = "\x1b]0;owned\x07\x1b[31mred\x9b2J\u202eevil"
"""A title change, a colour, a clear-screen in C1 and a direction override."""

SHOWN = "\\x1b]0;owned\\x07\\x1b[31mred\\x9b2J\\u202eevil"
"""How HOSTILE may appear on a screen."""


@dataclass(frozen=True)
class Run:
    code: int
    out: str
    err: str

    @property
    def envelope(self) -> dict[str, Any]:
        return dict(json.loads(self.out))


Km = Callable[..., Run]


def runner(capsys: pytest.CaptureFixture[str]) -> Km:
    """Runs km in this process, with neither stream a terminal."""

    def run(*words: str) -> Run:
        capsys.readouterr()
        code = main(words)
        captured = capsys.readouterr()
        return Run(code, captured.out, captured.err)

    return run


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "kmcli", *words]


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what decides on colours; empty values are left out."""
    dropped = ("NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS", "LINES")
    base = {name: value for name, value in os.environ.items() if name not in dropped}
    return {name: value for name, value in {**base, "TERM": "xterm-256color", **changes}.items() if value}


def in_terminal(words: list[str], typed: str = "", **changes: str) -> tuple[int, str]:
    """Run a program in a pseudo-terminal, typing `typed` once it has asked; its exit code and all it wrote."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        words,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment(**changes),
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that a typed Ctrl-C is one
    )
    os.close(slave)
    written = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not select.select([master], [], [], 1)[0]:
            continue
        try:
            block = os.read(master, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not block:
            break
        written += block
        if typed and (b"? [y/N] " in written or b"Question: " in written):
            os.write(master, typed.encode())
            typed = ""
    os.close(master)
    return process.wait(timeout=60), written.decode("utf-8", "replace")


# --- canned results


def document(name: str = "report", **changes: Any) -> Document:
    values: dict[str, Any] = {
        "id": "d1",
        "name": name,
        "source": "/tmp/report.pdf",
        "kind": "pdf",
        "sha256": "0" * 64,
        "text_sha256": "1" * 64,
        "pages": 12,
        "words": 3412,
        "added": "2026-11-20T10:00:00+00:00",
        "updated": "2026-11-20T10:00:00+00:00",
    }
    return Document(**{**values, **changes})


def module() -> KnowledgeModule:
    metrics = {"steps": 300, "train_loss": 0.412, "held_out_loss": 0.52}
    metrics |= {"curve": [[1, 2.0], [2, float("nan")]]}
    recipe = Recipe(revision="0123456789abcdef")
    return KnowledgeModule("m1", "d1", Path("/tmp/m1"), recipe, metrics, "1" * 64, "2026-11-20T12:00:00+00:00")


def trained(name: str = "report") -> Trained:
    return Trained(document(name), module(), False, 190.2, 180, 240, 180)


def asked(text: str = "In 2024.", notes: tuple[str, ...] = (), confidence: float | None = 0.9) -> Asked:
    evidence = (Passage("report", "It was founded in 2024 in Oslo.", 3.2, 4),)
    return Asked(Answer(text, "km", 40, 8, 0.25, evidence), (document(),), "llamacpp", confidence, notes)


def comparison() -> Comparison:
    def score(mean: float) -> Score:
        return Score(mean, mean - 0.1, mean + 0.1, 40)

    def row(key: str, method: Method, exact: float, f1: float, read: float, seconds: float) -> Row:
        kinds = {"who": Score(exact, 0.0, 1.0, 20), "when": Score(f1, 0.0, 1.0, 20)}
        return Row(
            key, method, True, None, None, None, score(exact), score(f1), score(f1), read, 20.0, seconds, kinds=kinds
        )

    rows = (
        row("bare", "bare", 0.1, 0.2, 40.0, 0.3),
        row("km", "km", 0.55, 0.62, 41.4, 0.31),
        row("rag@3:hybrid", "rag", 0.5, 1.0, 1440.0, 2.31),
        Row("full", "full", False, note="prompt and answer do not fit in 2048 tokens"),
    )
    costs = Costs(6543, 26_800_000, 1_275_800, 100.0, "rag@3:hybrid", 50)
    questions = (Question("Who?", ("Ann",), "who"), Question("When?", ("1871",), "when")) * 20
    return Comparison(
        "report", "km-base 0", questions, rows, {}, "exact_match", None, None, None, costs, "The KM is better."
    )


def exported(passed: bool = True, skipped: str = "") -> ExportReport:
    checked = Checked(skipped, passed, ("logits within 0.02",), ())
    return ExportReport((document(),), True, "gguf", Exported(Path("report.gguf"), 29_000_000, "F16", 75), checked)


def returning(result: Any) -> Callable[..., Any]:
    """A workflow that does nothing and returns this, or raises it."""

    def workflow(*_: Any, **__: Any) -> Any:
        if isinstance(result, BaseException):
            raise result
        return result

    return workflow


def working(house: House, result: Any) -> Any:
    """What a workflow reports on its way, in the shape that real ones do."""
    house.report(Event("base", "embedded base"))
    for step in range(1, 101):
        house.report(Event("train", "", step, 100, {"loss": 1 / step}))
    house.report(Event("train", "page 3 is damaged", warning=True))
    return result
