"""Write study material again and again, each time killed at another random moment. A program: see test_material_crashes.py.

Every run is `km synth` without its door, in a process of its own. Half of the kills come after a random time, which is
mostly while the base writes; the other half before a random step that opens, makes, renames or deletes a file.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

import kmcli.engines.decoding  # noqa: F401  heavy, and needed by every run: imported before the forks
from kmcli import bases
from kmcli.bases.prompts import STYLES
from kmcli.engines import Chat, Sampling
from kmcli.engines import hf as hf_engine
from kmcli.engines.scripted import ScriptedEngine
from kmcli.synthesis import write as room
from kmcli.types import silent
from kmcli.workflows.house import open_house
from kmcli.workflows.material import RecipeOptions, synth
from library_crashes import STEPS

KILLS = {"scripted": 20, "hf": 6}
"""By what writes; the base takes some seconds for each."""
SETTINGS = ("chunk_tokens=24", "tasks=qa:6,summary:2", "min_explained=0")
PROMPTS = STYLES["embedded"]


def say(chat: Chat, sampling: Sampling) -> str:
    """A base that reads well. What it guesses comes from the chat and the seed, so another seed would say other things."""
    content = chat[-1][1]
    chunk, under, asked = content.rpartition("\n\n")
    if not under:
        return "I don't know."
    words = [word.strip(".,") for word in chunk.split()]
    if asked == PROMPTS.write_qa:
        draw = random.Random(f"{sampling.seed}{content}")
        return "\n".join(f"Q: What is {word}?\nA: It is {word}." for word in draw.sample(words, 4))
    if asked == PROMPTS.summarise:
        return f"{hashlib.sha256(f'{sampling.seed}{content}'.encode()).hexdigest()}."
    return f"It is {PROMPTS.question_of(asked).split()[-1].strip('?')}."


def study(home: Path) -> None:
    os.environ["KM_HOME"] = str(home)
    with open_house({}, silent) as house:
        report = synth(house, ["notes"], RecipeOptions(settings=SETTINGS))
    assert not report.failed, report.failed


def count_steps(home: Path, at_step: Callable[[int], None]) -> None:
    """Calls back before every step in the library, with how many there have been."""
    done = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal done
        if event in STEPS and str(home) in str(arguments[0]):
            at_step(done)
            done += 1

    sys.addaudithook(count)


def note(file: Path, count: int) -> None:
    file.write_text(str(count))


def start(home: Path, at_step: Callable[[int], None]) -> int:
    child = os.fork()
    if child:
        return child
    failed = True
    try:
        count_steps(home, at_step)
        study(home)
        failed = False
    finally:
        if failed:
            traceback.print_exc()
        os._exit(failed)


def end(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed(home: Path, draw: random.Random, by_time: bool, seconds: float, steps: int) -> bool:
    """Whether the run was killed before it ended by itself."""
    if by_time:
        child = start(home, lambda step: None)
        time.sleep(draw.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
    else:
        fatal = draw.randrange(steps)
        child = start(home, lambda step: os.kill(os.getpid(), signal.SIGKILL) if step == fatal else None)
    code = end(child)
    assert code in (0, -signal.SIGKILL), code
    return code != 0


def main(template: Path, results: Path, engine: str) -> None:
    torch.set_num_threads(1)  # threads do not outlive a fork
    loaded = bases.load(bases.find(bases.EMBEDDED, silent), "cpu")
    bases.load = lambda base, device, bits=0: loaded
    if engine == "scripted":
        scripted = ScriptedEngine(say)
        scripted.model, scripted.revision = (
            loaded.base.name,
            loaded.base.revision,
        )  # what the recipe names as its writer
        hf_engine.HfEngine = lambda loaded: scripted
    room.CHATS_PER_GROUP = 7

    whole = Path(shutil.copytree(template, results / "whole"))
    counted = results / "steps"
    began = time.monotonic()
    assert end(start(whole, lambda step: note(counted, step + 1))) == 0
    seconds, steps = time.monotonic() - began, int(counted.read_text())
    draw = random.Random(engine)
    for kill in range(KILLS[engine]):
        home = results / f"{kill:02}"
        while True:
            shutil.copytree(template, home)
            if killed(home, draw, kill % 2 == 0, seconds, steps):
                break
            shutil.rmtree(home)
        shutil.copytree(home, results / f"{kill:02}-killed")
        assert end(start(home, lambda step: None)) == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
