"""Every test gets a library of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def km_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh KM_HOME; no setting of the person who runs the tests leaks in."""
    for name in list(os.environ):
        if name.startswith("KM_"):
            monkeypatch.delenv(name)
    home = tmp_path / "km-home"
    monkeypatch.setenv("KM_HOME", str(home))
    return home
