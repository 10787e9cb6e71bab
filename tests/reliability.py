"""make reliability: every step of every verb cut, and failed; eight processes at once; a server under load; fuzzing. Prints
what was found.

    reliability.py [--seconds N] [--load N] [--every N] [--inputs N] [VERB ...]

seconds: for which the processes work; load: for which 64 clients ask. every: look at each N-th state and step alone.
inputs: to fuzz with. 0 leaves these three out. Ends with 1 where something was lost.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import fuzz
import load
import races
from crash_faults import FAULTS
from crash_verbs import VERBS, Loss, Place, Recording
from memory_cases import MEMORY

GROWTH = 64
"""Megabytes that a server's memory may differ by between the quarters of an hour under load: what malloc keeps."""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--load", type=float, default=300)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--inputs", type=int, default=fuzz.INPUTS)
    parser.add_argument("verbs", nargs="*")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="km-reliability-", dir=MEMORY))
    try:
        lost = run(folder, given.seconds, given.load, given.every, given.verbs)
        # In a process of its own, whose threads and signals are nobody else's; it prints its own figures.
        fuzzing = [sys.executable, fuzz.__file__, "--inputs", str(given.inputs)]
        return max(lost, subprocess.run(fuzzing).returncode if given.inputs else 0)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(folder: Path, seconds: float, load_seconds: float, every: int, names: list[str]) -> int:
    place = Place(folder / "verbs")
    cuts = states = faults = 0
    losses: list[Loss] = []
    with place.ready():
        for verb in [verb for verb in VERBS if not names or verb.name in names]:
            started = time.monotonic()
            recording = place.record(verb)
            looked = list(dict.fromkeys((*recording.disk.states, *recording.disk.after)))[::every]
            lost = recording.losses(looked)
            failing = failed(recording, every)
            wrong = [loss for loss in failing if loss]
            count = len(recording.disk.cuts)
            print(
                f"{verb.name:10} {count:4} steps {len(looked):5} states {len(lost):3} lost "
                f"{len(failing):5} faults {len(wrong):3} wrong {time.monotonic() - started:6.0f} s",
                flush=True,
            )
            for loss in (*lost, *wrong):
                print(f"  {loss.cut.number} {loss.cut.what}: {loss.what}", flush=True)
            cuts, states, faults = cuts + count, states + len(looked), faults + len(failing)
            losses += [*lost, *wrong]
    found = race(folder / "races", seconds) if seconds else {"wrong": [], "done": {}}
    print(f"commands  {sum(found['done'].values())} by {races.WORKERS} processes: {found['done']}")
    for line in found["wrong"]:
        print(f"  {line}")
    served = asked(folder / "load", load_seconds) if load_seconds else {"wrong": [], "answers": 0, "growth": 0.0}
    if load_seconds:
        print(
            f"load      {served['answers']} answers to {load.CLIENTS} clients; memory {served['megabytes'][-1]:.0f} MB, "
            f"{served['growth']:+.0f} MB in the second half; ended after {served['seconds_to_end']:.1f} s"
        )
    for line in served["wrong"]:
        print(f"  {line}")
    for name, number in (
        ("cut_points", cuts),
        ("cut_states", states),
        ("faults", faults),
        ("losses", len(losses)),
        ("races", len(found["wrong"])),
        ("answers", served["answers"]),
        ("wrong_answers", len(served["wrong"])),
        ("memory_growth_mb", max(0, round(served["growth"]))),
    ):
        print(f"FIGURE {name} {number}")
    return int(bool(losses or found["wrong"] or served["wrong"] or served["growth"] > GROWTH))


def failed(recording: Recording, every: int) -> list[Loss | None]:
    """Of every fault at every step, by turns that step alone and all that follow it too. A library that is gone before the
    first step is a new one."""
    steps = range(2, len(recording.disk.cuts), every)
    return [recording.faulted(fault, step, (step // every) % 2 == 0) for fault in FAULTS for step in steps]


def asked(folder: Path, seconds: float) -> dict[str, Any]:
    """In a process of its own, for its threads' sake."""
    subprocess.run([sys.executable, load.__file__, folder, str(seconds)], check=True, timeout=seconds + 1200)
    return dict(json.loads((folder / "load.json").read_text()))


def race(folder: Path, seconds: float) -> dict[str, object]:
    """In a process of its own, so that nothing but what it needs is in memory when it forks."""
    subprocess.run([sys.executable, races.__file__, folder, str(seconds)], check=True, timeout=seconds + 600)
    return dict(json.loads((folder / "races.json").read_text()))


if __name__ == "__main__":
    sys.exit(main())
