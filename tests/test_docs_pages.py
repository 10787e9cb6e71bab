"""The commands of the pages that begin with an empty library: the tutorial; README.md in a file of its own."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

from pathlib import Path

import pytest

from docs_cases import EVERY, ROOT, SHELL
from docs_running import afresh, files, run_page
from training_cases import one_thread

ELSEWHERE = {ROOT / "README.md", ROOT / "docs/guide.md"}
"""Have files of their own, for they take as long."""
RUN = sorted({block.page for block in EVERY if block.language in SHELL and not block.why} - ELSEWHERE)


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_its_commands_run(
    page: Path, afresh: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_page(page, capsys, monkeypatch) > 0
