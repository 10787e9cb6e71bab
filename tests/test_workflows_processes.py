"""km train --processes 2: interrupted, killed, and gone on with; and what it refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from cli_cases import Km, command, environment
from kmcli import bases
from workflow_cases import PERMITS, TINY, entry, is_sound, km, permits, sentences

__all__ = ["km", "permits"]

LONG = ("--processes", "2", *TINY, "--set", "steps=70")
"""Past a checkpoint."""


def begin(*words: str) -> subprocess.Popen[str]:
    """km in a process group of its own, as a shell starts it."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command(*words), text=True, env=environment(), start_new_session=True, **pipes)


def until(reached: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def helpers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [one for one in psutil.Process(process.pid).children() if "kmcli.training.helper" in one.cmdline()]


@pytest.mark.usefixtures("permits")
def test_interrupted_killed_and_gone_on_with(km: Km, km_home: Path) -> None:
    process = begin("train", "permits", *LONG)
    until(lambda: process.poll() is not None or list(km_home.glob("documents/*/training/checkpoint.safetensors")))
    (helper,) = helpers(process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (5, "")
    (sentence,) = sentences(err)
    assert sentence.startswith("km: stopped at step ")
    assert sentence.endswith(" of 70; nothing is lost. The same command goes on from there.")
    assert not helper.is_running()

    process = begin("train", "permits", "--processes", "2")
    until(lambda: helpers(process))
    (helper,) = helpers(process)
    process.kill()
    process.communicate()
    until(lambda: not helper.is_running())
    assert entry(km, "permits")["state"] == "interrupted"
    assert is_sound(km)

    run = km("train", "permits", "--json")
    assert run.code == 0
    (trained,) = run.envelope["data"]["trained"]
    assert trained["resumed"]
    assert trained["module"]["metrics"]["steps"] == 70


@pytest.mark.usefixtures("permits")
def test_several_documents_one_after_the_other(km: Km, tmp_path: Path) -> None:
    (tmp_path / "again.txt").write_text(f"{PERMITS} They end in June.")
    assert km("add", str(tmp_path / "again.txt")).code == 0
    run = km("train", "--all", "--processes", "2", *TINY)
    assert run.code == 0
    assert "2 processes share one document at a time: they train one after the other" in run.err
    assert [entry(km, name)["state"] for name in ("permits", "again")] == ["fresh", "fresh"]


@pytest.mark.usefixtures("permits")
def test_as_many_as_there_are_devices(km: Km, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases, "pick_device", lambda device: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    run = km("train", "permits", "--processes", "3")
    assert run.code == 2
    assert sentences(run.err) == [
        "km: 3 processes need a GPU each, and there are 2 here. Leave it out, or say --processes 2."
    ]
    assert entry(km, "permits")["state"] == "untrained"
    assert bases.devices(torch.device("mps")) == 1
    assert bases.devices(torch.device("cpu")) > 16


def test_what_is_no_number(km: Km) -> None:
    run = km("train", "permits", "--processes", "0")
    assert run.code == 2
    assert sentences(run.err)[0].startswith("km: '0' is no value for 'processes' (flag). Choose one of 1, 2, 3, ")
