"""The commands of README.md, in its order, in an empty library."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

from pathlib import Path

import pytest

from docs_cases import ROOT
from docs_running import afresh, files, run_page
from training_cases import one_thread


def test_its_commands_run(afresh: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_page(ROOT / "README.md", capsys, monkeypatch) > 0
