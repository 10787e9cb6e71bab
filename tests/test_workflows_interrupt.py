"""A training that is interrupted and killed in every stage, in processes of its own, and still ends as it should."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from cli_cases import Km
from workflow_cases import entry, is_sound, km, sentences, start

__all__ = ["km"]

SHORT = """\
Lumrick 40 is a signal lamp. It was designed by Yara Kestrim.

The fee for berth permits is $75. They are valid for 18 months.

Grondal Works was founded by Stefan Grondal. It has 212 people.
"""
SLOW = (
    *("--set", "chunk_tokens=24", "--set", "tasks=qa", "--set", "generations=33", "--set", "min_explained=0"),
    *("--set", "steps=70", "--set", "batch=1", "--no-exam"),
)
"""Three units of study material, each a group of its own, and steps past a checkpoint."""


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def until(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    """Wait while the process works its way to a point."""
    deadline = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def interrupted(process: subprocess.Popen[str]) -> str:
    """The sentence that km says after Ctrl-C."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (5, "")
    (sentence,) = sentences(err)
    return sentence


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=60)


def test_every_stage(km: Km, km_home: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text(SHORT)
    km("add", str(tmp_path / "notes.txt"))
    (folder,) = km_home.glob("documents/*")
    written, samples = folder / "written.jsonl", folder / "samples.jsonl"

    process = start("train", "notes", *SLOW)
    until(process, lambda: len(lines(written)) == 1)
    killed(process)
    first = lines(samples)
    assert entry(km, "notes")["state"] == "interrupted"
    assert is_sound(km)

    process = start("train", "notes")  # the recipe is remembered
    until(process, lambda: len(lines(written)) == 2)
    assert interrupted(process) == (
        "km: stopped; nothing that was finished is lost. The same command goes on from there."
    )
    second = lines(samples)
    assert second[: len(first)] == first
    assert len(second) > len(first)
    assert entry(km, "notes")["state"] == "interrupted"
    assert is_sound(km)

    process = start("train", "notes", "--json")
    until(process, lambda: (folder / "training" / "checkpoint.safetensors").exists())
    killed(process)
    third = lines(samples)
    assert third[: len(second)] == second
    assert entry(km, "notes")["state"] == "interrupted"

    process = start("train", "notes")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("train  "):
            break
    assert line.startswith("train  51/70")  # after the checkpoint, not at the beginning
    assert interrupted(process).startswith("km: stopped at step ")
    assert entry(km, "notes")["state"] == "interrupted"
    assert lines(samples) == third

    (trained,) = km("train", "notes", "--json").envelope["data"]["trained"]
    assert trained["resumed"] is True
    assert trained["module"]["metrics"]["steps"] == 70
    assert trained["module"]["recipe"]["generations"] == 33
    assert trained["written"] == 0
    assert lines(samples) == third
    ids = [json.loads(line)["id"] for line in third]
    assert len(ids) == len(set(ids)) == trained["samples"]
    units = [(unit["chunk"], unit["task"]) for line in lines(written) for unit in json.loads(line)]
    assert len(units) == len(set(units)) == 3
    curve = [
        point["step"]
        for point in json.loads((km_home / "modules" / trained["module"]["id"] / "metrics.json").read_text())["curve"]
    ]
    assert curve == sorted(set(curve))
    assert entry(km, "notes")["state"] == "fresh"
    assert is_sound(km)
    assert not (folder / "training").exists()
