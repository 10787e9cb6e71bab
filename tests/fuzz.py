"""Fuzzing: arbitrary input for whatever reads what others have written. Out comes a value, or a KmError with its next step.

    fuzz.py [--inputs N] [--seed N] [TARGET ...]

Ends with 1 where anything else came out, or an input took longer than SECONDS.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from fuzz_targets import TARGETS, Target, check
from kmcli.errors import KmError

INPUTS = 110_000
SECONDS = 60
"""For one input; nothing here needs a second on a quiet machine."""


class Stuck(BaseException):
    """An input took too long."""


@dataclass
class Fuzzed:
    """What came of a target: inputs, those that were refused, and each place where it failed, with the first input."""

    inputs: int = 0
    refused: int = 0
    faults: dict[str, str] = field(default_factory=dict)


def fuzz(target: Target, count: int, start: int, folder: Path) -> Fuzzed:
    """folder: an empty one, which is km's home meanwhile."""
    found = Fuzzed()

    def run(value: object) -> None:
        with _limited():
            try:
                target.run(folder, value)
            except KmError as error:
                found.refused += 1
                check(error)

    @seed(start)
    @settings(max_examples=count, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(target.inputs)
    def once(value: object) -> None:
        found.inputs += 1
        try:
            try:
                run(value)
            except Stuck:  # or the machine stood still meanwhile
                run(value)
        except (Exception, Stuck) as error:  # noqa: BLE001  (whatever it is, it is what is looked for)
            steps = [step for step in traceback.extract_tb(error.__traceback__) if "/hypothesis/" not in step.filename]
            where = f"{type(error).__name__} at {Path(steps[-1].filename).name}:{steps[-1].lineno}"
            found.faults.setdefault(where, f"{error}"[:200] + f" for {value!r}"[:600])

    once()
    return found


@contextmanager
def _limited() -> Iterator[None]:
    def stuck(signum: int, frame: object) -> None:
        raise Stuck

    before = signal.signal(signal.SIGALRM, stuck)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=INPUTS)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("targets", nargs="*")
    asked = parser.parse_args()
    chosen = {name: target for name, target in TARGETS.items() if not asked.targets or name in asked.targets}
    shares = sum(target.share for target in chosen.values())
    print(f"seed      {asked.seed}")
    inputs = faults = 0
    for name, target in chosen.items():
        began = time.monotonic()
        folder = Path(tempfile.mkdtemp(prefix="km-fuzz-"))
        os.environ["KM_HOME"] = str(folder)
        try:
            found = fuzz(target, -(-asked.inputs * target.share // shares), asked.seed, folder)
        finally:
            shutil.rmtree(folder)
        print(
            f"{name:10} {found.inputs:7,} inputs {found.refused:7,} refused {len(found.faults):3} faults "
            f"{time.monotonic() - began:6.0f} s",
            flush=True,
        )
        for where, what in found.faults.items():
            print(f"  {where}: {what}", flush=True)
        inputs, faults = inputs + found.inputs, faults + len(found.faults)
    print(f"FIGURE fuzz_inputs {inputs}")
    print(f"FIGURE tracebacks {faults}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
