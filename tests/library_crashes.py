"""Run one change of a library again and again, each time dying one step later. A program: see test_library_crashes.py.

A step is any call that opens, makes, renames or deletes a file. The process ends there as in a power cut: nothing is
cleaned up, no lock is given back. (That the disk has what was written before is the business of fsync.)
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from kmcli.library import Library
from library_material import ingested, sample, train

STEPS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.truncate")


def change(name: str, home: Path) -> None:
    with Library.open(home) as library:
        if name == "add":
            library.add(ingested("The otter swims.", "/books/otter.txt", "otter"))
        elif name == "update":
            library.add(ingested("The heron flies."))
        elif name == "append":
            library.append_samples(library.find("heron"), [sample(2), sample(3)])
        elif name == "train":
            train(library, library.find("heron"), b"new")
        elif name == "remove":
            library.remove("heron")


def dies_at(step: int, name: str, home: Path) -> bool:
    """Whether the change was cut short: it has that many steps."""
    child = os.fork()
    if child == 0:
        left = [step]

        def count(event: str, arguments: tuple[object, ...]) -> None:
            if event in STEPS and (str(home) in str(arguments[0]) or not str(arguments[0]).startswith("/")):
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)

        sys.addaudithook(count)
        change(name, home)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


if __name__ == "__main__":
    import filelock  # noqa: F401  imported before the fork, so that only steps in the library count

    template, results, which = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    step = 0
    while True:
        copy = results / f"{step:03}"
        shutil.copytree(template, copy)
        if not dies_at(step, which, copy):
            break
        step += 1
