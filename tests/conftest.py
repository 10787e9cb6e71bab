"""Every test gets a library of its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import settings

# Before torch is imported, here and in what tests start: each process has a core of its own, and threads that wait for
# each other made the tests take four times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts `make test` in the background has it ignore Ctrl-C, and what the tests start would as well.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("km", deadline=None)  # how long an example takes says what else the machine does
if settings.get_current_profile_name() != "mutation":  # tests/mutation.py has its own
    settings.load_profile("km")
    # Also for a person whose own processes leave no bytecode: each of some hundred processes that the tests start would
    # compile km anew, and pytest the tests.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


@pytest.fixture(autouse=True, scope="session")
def built_once() -> Iterator[None]:
    """km's command, with all verbs that are registered. Outside the tests a process builds one, of a verb alone; here they
    are all there, and to build them takes longer than most commands."""
    build, built = typer.main.get_command, dict[tuple[typer.Typer, int, int], Any]()

    def once(app: typer.Typer) -> Any:
        there = app, len(app.registered_commands), len(app.registered_groups)
        if there not in built:
            built[there] = build(app)
        return built[there]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", once)
        yield


@pytest.fixture(autouse=True)
def km_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh KM_HOME; no setting of the person who runs the tests leaks in."""
    for name in list(os.environ):
        if name.startswith("KM_"):
            monkeypatch.delenv(name)
    home = tmp_path / "km-home"
    monkeypatch.setenv("KM_HOME", str(home))
    return home
