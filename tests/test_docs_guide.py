"""The commands of docs/guide.md, in its order, in a library where the documents that it speaks of are trained."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

from pathlib import Path

import pytest

from docs_cases import ROOT
from docs_running import at_work, files, prepared, run_page
from training_cases import one_thread


def test_its_commands_run(at_work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_page(ROOT / "docs/guide.md", capsys, monkeypatch) > 0
    for file in ("answers.csv", "out.html", "material.jsonl", "report.gguf", "adapter", "merged"):
        assert (at_work / file).exists(), file
