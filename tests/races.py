"""Eight processes at once in one library: adding, training, asking, renaming, removing, the same documents and their own.

A program: `races.py FOLDER SECONDS` writes races.json into the folder, with what each process did and what was wrong.
Every process keeps account of its own documents, which nobody else touches: at the end they must be just so. Every tag
that a process was told it has given to the document that all share must be on it. No command may end but in ways that
another process's work explains, and all must end.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from crash_library import outcome
from crash_verbs import SET, Place
from kmcli.library import Library

WORKERS = 8
GRACE = 240
"""Seconds for the last commands to end, on a busy machine; who has not ended by then hangs."""
SHARED, CONTESTED = "keeper", ("guest", "visitor")
"""Everybody tags and trains the first, everybody adds, renames and removes the others."""
ONE_STEP = (*SET, "--set", "steps=1")


@dataclass
class Worker:
    """own: by name, the text, the tags, and whether it was trained, as they must be at the end."""

    place: Place
    number: int
    own: dict[str, dict[str, Any]] = field(default_factory=dict)
    given: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def work(self, until: float) -> None:
        self.draw = random.Random(self.number)
        turn = 0
        while time.time() < until or turn < 1:
            turn += 1
            self.fresh(turn)
            actions = (self.tag, self.rename, self.train, self.ask, self.remove, self.again)
            for action in self.draw.sample(actions, 3):
                if self.own:
                    action(self.draw.choice(sorted(self.own)))
            self.share(turn)
            self.contest()
            self.km("ls", "--json")
            if self.draw.random() < 0.2:
                self.km("doctor", allowed=(0, 1))  # which tells who is in use

    def km(self, *words: str, allowed: tuple[int, ...] = (0,)) -> int:
        ran = self.place.run(self.place.folder, words)
        busy = ran.code in (1, 6) and "is in use by" in ran.err
        if "Traceback" in ran.err or (ran.code not in allowed and not busy):
            self.wrong.append(f"{' '.join(words)}: {ran.code} {ran.err[-1500:]}")
        self.done[f"{words[0]} {ran.code}"] += 1
        return ran.code

    def fresh(self, turn: int) -> None:
        name = f"own-{self.number}-{turn}"
        text = f"The lamp {name} was built by mason {name}. It burnt down in {1800 + turn}."
        file = self.place.inputs / f"{name}.txt"
        file.write_text(text)
        if self.km("add", str(file)) == 0:
            self.own[name] = {"text": text, "tags": [], "trained": False, "file": str(file)}

    def tag(self, name: str) -> None:
        tag = f"t{len(self.own[name]['tags'])}"
        if self.km("tag", name, "--add", tag) == 0:
            self.own[name]["tags"].append(tag)

    def rename(self, name: str) -> None:
        new = f"{name}x"
        if self.km("mv", name, new) == 0:
            self.own[new] = self.own.pop(name)

    def train(self, name: str) -> None:
        if self.km("train", name, *ONE_STEP) == 0:
            self.own[name]["trained"] = True

    def ask(self, name: str) -> None:
        self.km("ask", name, "Who built the lamp?", "--engine", "hf", allowed=(0, 3))

    def remove(self, name: str) -> None:
        if self.km("rm", name, "--yes") == 0:
            del self.own[name]

    def again(self, name: str) -> None:
        """Its file says something else."""
        own = self.own[name]
        text = f"{own['text']} It is gone."
        Path(own["file"]).write_text(text)
        if self.km("add", own["file"]) == 0:
            own["text"] = text
        else:
            Path(own["file"]).write_text(own["text"])

    def share(self, turn: int) -> None:
        tag = f"w{self.number}-{turn}"
        if self.km("tag", SHARED, "--add", tag) == 0:
            self.given.append(tag)
        if self.draw.random() < 0.3:
            self.km("train", SHARED, *ONE_STEP)

    def contest(self) -> None:
        guest, visitor = CONTESTED
        words = self.draw.choice(
            (
                ("add", str(self.place.inputs / f"{guest}.txt")),
                ("mv", guest, visitor),
                ("mv", visitor, guest),
                ("rm", self.draw.choice(CONTESTED), "--yes"),
                ("train", self.draw.choice(CONTESTED), *ONE_STEP),
                ("ask", self.draw.choice(CONTESTED), "Who?", "--engine", "hf"),
            )
        )
        self.km(*words, allowed=(0, 2, 3))  # it may be called otherwise by now, or be gone, or its name be taken


def differences(place: Place, workers: list[dict[str, Any]]) -> list[str]:
    """Where the library at the end is not what the processes made of it."""
    found = []
    with Library.open(place.folder / "home") as library:
        found += [f"doctor: {finding.message}" for finding in library.check()]
    left = outcome(place.folder)
    expected = {name: own for worker in workers for name, own in worker["own"].items()}
    for name, own in expected.items():
        there = left.get(name)
        if there is None:
            found.append(f"{name} is lost")
            continue
        trained = there["module"] is not None
        if (there["text"], list(there["tags"]), trained) != (own["text"], own["tags"], own["trained"]):
            found.append(f"{name} is {there}, not {own}")
    for name in left:
        if name.startswith("own-") and name not in expected:
            found.append(f"{name} has come back")
    given = {tag for worker in workers for tag in worker["given"]}
    if given != set(left[SHARED]["tags"]):
        found.append(f"tags lost or made up: {sorted(given ^ set(left[SHARED]['tags']))}")
    return found


def main(folder: Path, seconds: float) -> None:
    place = Place(folder)
    with place.ready():
        for name in (SHARED, CONTESTED[0]):
            (place.inputs / f"{name}.txt").write_text(f"The {name} was built by mason {name}. It burnt down in 1902.")
            assert place.run(folder, ("add", str(place.inputs / f"{name}.txt"))).code == 0
        until = time.time() + seconds
        children = [start(place, number, until) for number in range(WORKERS)]
        hung = [number for number, child in enumerate(children) if not ended(child, until + GRACE)]
        workers = [
            json.loads(file.read_text()) if (file := folder / f"{number}.json").exists() else {"own": {}, "given": []}
            for number in range(WORKERS)
        ]
        wrong = [f"{number} hangs" for number in hung]
        wrong += [f"{number} died" for number, one in enumerate(workers) if "done" not in one and number not in hung]
        wrong += [line for one in workers for line in one.get("wrong", ())]
        wrong += differences(place, workers)
        done = sum((Counter(one.get("done", {})) for one in workers), Counter())
    (folder / "races.json").write_text(json.dumps({"wrong": wrong, "done": done}))


def start(place: Place, number: int, until: float) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        worker = Worker(place, number)
        worker.work(until)
        kept = {name: getattr(worker, name) for name in ("own", "given", "done", "wrong")}
        (place.folder / f"{number}.json").write_text(json.dumps(kept))
        code = 0
    finally:
        if code:
            traceback.print_exc()
        os._exit(code)


def ended(child: int, until: float) -> bool:
    while time.time() < until:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
