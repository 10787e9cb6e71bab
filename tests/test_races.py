"""Eight processes at once in one library, for a few seconds; `make reliability` gives them two minutes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import races

SECONDS = 3


def test_nothing_is_lost_between_processes(tmp_path: Path) -> None:
    folder = tmp_path / "races"
    quiet = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    subprocess.run([sys.executable, races.__file__, folder, str(SECONDS)], check=True, timeout=600, env=quiet)
    found = json.loads((folder / "races.json").read_text())
    assert found["wrong"] == []
    done = found["done"]
    assert done["add 0"] >= races.WORKERS
    assert done["tag 0"] >= races.WORKERS
    assert sum(done.values()) >= 6 * races.WORKERS


@pytest.mark.parametrize("guard", ["transaction", "publish"])
def test_without_its_guard_something_is_lost(tmp_path: Path, guard: str) -> None:
    """Two processes, step by step in the order that loses something."""
    program = f"import test_races; test_races.interleave({str(tmp_path)!r}, {guard!r})"
    ran = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert ran.stdout.split() == ["kept", "lost"], ran.stderr
