"""The Python programs of the documentation run, with a training of two steps."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from docs_cases import EVERY
from docs_running import SMALL, at_work, files, prepared
from training_cases import one_thread


def test_the_programs_run(at_work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from kmcli.api import Km as Opened

    train: Any = Opened.train

    def quickly(self: Opened, *names: str, **given: Any) -> Any:
        return train(self, *names, **given, force=True, settings=dict(setting.split("=") for setting in SMALL))

    monkeypatch.setattr(Opened, "train", quickly)
    for block in EVERY:
        if block.language == "python" and not block.why:
            source = block.text.replace("examples/harbour.pdf", "report.md").replace('"harbour"', '"report"')
            exec(compile(source, block.name, "exec"), {"__name__": "__main__"})
    out = capsys.readouterr().out
    assert "there is no document 'contract'. Add it with: km add FILE" in out
    assert "['handbook', 'report']" in out
