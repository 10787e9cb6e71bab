"""What bench/adapters.py does, and keeps in a folder: libraries, trainings that were killed and went on, comparisons.

Everything that is finished is a file of its own, so that a run which is stopped goes on where it was.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import corpus
from bench.results import km

EXAMPLES = Path(__file__).parent.parent / "examples"
GROUP = 5
WORDS = ("200", "300")
PLAIN = ("--no-exam", "--set", "held_out=0", "--set", "early_stopping=false")
ADAPTERS: dict[str, tuple[str, ...]] = {
    "lora": (),
    "cartridge": ("--tokens", "64", "--set", "learning_rate=0.1"),
    "compressed": ("--ratio", "8", "--refine"),
}
FURTHER: dict[str, tuple[str, ...]] = {
    "cartridge, 64 tokens, learning rate 0.02": ("cartridge", "--tokens", "64", "--set", "learning_rate=0.02"),
    "cartridge, 9 tokens": ("cartridge", "--tokens", "9", "--set", "learning_rate=0.1"),
    "compressed, ratio 30, refined": ("compressed", "--ratio", "30", "--refine"),
    "compressed, ratio 30": ("compressed", "--ratio", "30"),
    "compressed, ratio 8": ("compressed", "--ratio", "8"),
    "compressed, ratio 8, refined, one LoRA for all": ("compressed", "--ratio", "8", "--refine", "--group"),
}
COMPRESSOR = ("--set", "steps=60", "--set", "learning_rate=0.003")
ENOUGH = 8
"""Lines of study material, about a fact each in words that no question has."""
ASK = """
import json, sys, kmcli
with kmcli.open() as km:
    wanted = json.loads(sys.argv[1])
    print(json.dumps({name: km.ask(asked, name, method="km").text for name, asked in wanted.items()}))
"""
POLL = 0.05
"""Seconds between two looks at the checkpoints."""


def documents(work: Path, seed: str, count: int) -> list[str]:
    """The first of a seed about which there is enough to study."""
    folder = work / seed
    with locked(work, seed):
        if not folder.exists():
            partly = work / f"{seed}.partly"
            corpus.main([str(partly), "--documents", str(3 * count), "--seed", seed, "--words", *WORDS, "--read"])
            partly.rename(folder)
    material = sorted((folder / "material").iterdir())
    return [file.stem for file in material if len(file.read_text("utf-8").splitlines()) >= ENOUGH][:count]


class locked:
    """One process at a time makes a thing that several need."""

    def __init__(self, work: Path, name: str) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self._file = (work / f"{name}.lock").open("w")

    def __enter__(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *rest: object) -> None:
        self._file.close()


def kept(file: Path) -> Any:
    return json.loads(file.read_text("utf-8")) if file.exists() else None


def keep(file: Path, value: Any) -> Any:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(value), "utf-8")
    temporary.replace(file)
    return value


def add(home: Path, folder: Path, names: Sequence[str]) -> None:
    if (home / "added").exists():
        return
    km(home, "add", *(str(folder / "documents" / f"{name}.md") for name in names))
    for name in names:
        km(home, "synth", name, "--import", str(folder / "material" / f"{name}.jsonl"))
    (home / "added").touch()


def compressor(work: Path) -> Path:
    home, done = work / "compressor", work / "compressor.json"
    with locked(work, "compressor"):
        if kept(done) is None:
            names = documents(work, "others", 40)
            add(home, work / "others", names)
            _, seconds = run(home, "compressor", "train", *COMPRESSOR, "--json")
            keep(done, {"seconds": seconds})
    return home / "compressors"


def study(work: Path, group: Sequence[str], settings: Sequence[str]) -> None:
    """A library of its own for each group: trainings of two groups never wait for each other."""
    home = work / f"home-{group[0]}"
    if group == ["harbour"]:
        if not (home / "added").exists():
            km(home, "add", str(EXAMPLES / "harbour.md"))
            km(home, "synth", "harbour")
            (home / "added").touch()
    else:
        add(home, work / "adapters", group)
    for adapter, flags in ADAPTERS.items():
        if adapter == "compressed" and not (home / "compressors").exists():
            shutil.copytree(compressor(work), home / "compressors.partly")
            (home / "compressors.partly").rename(home / "compressors")
        file = work / "done" / f"{group[0]}-{adapter}.json"
        if kept(file) is None:
            keep(file, train(home, group, ["--adapter", adapter, *flags, *settings, *own(group)]))
        ask(work, home, group, adapter)
    for name in group:
        file = work / "compared" / f"{name}.json"
        if kept(file) is None:
            keep(file, compared(work, home, name, "bare,km,rag,full,gold"))


def ask(work: Path, home: Path, group: Sequence[str], adapter: str) -> None:
    """Each its first question, as `km ask` does; in one process, which is most of what asking costs here."""
    left = {name: work / "asked" / f"{name}-{adapter}.json" for name in group}
    left = {name: file for name, file in left.items() if kept(file) is None}
    wanted = {name: questions(work, name)[0]["question"] for name in left}
    if not wanted:
        return
    command = [sys.executable, "-c", ASK, json.dumps(wanted)]
    said = subprocess.run(command, env={**os.environ, "KM_HOME": str(home)}, stdout=subprocess.PIPE, check=True).stdout
    for name, answer in json.loads(said).items():
        keep(left[name], {"question": wanted[name], "answer": answer})


def own(group: Sequence[str]) -> Sequence[str]:
    """What harbour, three times as long, is trained with, and what the others are."""
    return ("--set", "batch=8") if list(group) == ["harbour"] else ("--set", "tasks=import", "--set", "batch=4")


def asked_in(work: Path, name: str) -> Path:
    return (
        EXAMPLES / "harbour.questions.jsonl" if name == "harbour" else work / "adapters" / "questions" / f"{name}.jsonl"
    )


def questions(work: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in asked_in(work, name).read_text("utf-8").splitlines()]


def compared(work: Path, home: Path, name: str, methods: str) -> Any:
    return json.loads(
        km(home, "compare", name, "--questions", str(asked_in(work, name)), "--methods", methods, "--json")
    )["data"]


def train(home: Path, group: Sequence[str], flags: Sequence[str]) -> dict[str, Any]:
    """Killed where every document has a checkpoint, then the same command. Raises SystemExit where it ends before."""
    words = ["train", *group, *flags, "--json"]
    before = {file: file.stat().st_mtime_ns for file in checkpoints(home)}
    if len(before) < len(group):  # else this is the second run of a bench that was stopped
        process, began = start(home, words), time.monotonic()
        while len(checkpoints(home)) < len(group):
            if process.poll() is not None:
                raise SystemExit(f"km train ended with {process.returncode} before it could be killed")
            time.sleep(POLL)
        process.kill()
        _, _, used = os.wait4(process.pid, 0)
        first, wall = used.ru_utime + used.ru_stime, time.monotonic() - began
    else:
        first = wall = 0.0
    said, second = run(home, *words)
    trained = said["data"]["trained"]
    return {
        "resumed": [one["resumed"] for one in trained],
        "killed_after": wall,
        "seconds": first + second,
        "losses": [one["module"]["metrics"]["train_loss"] for one in trained],
        "steps": [one["module"]["metrics"]["steps"] for one in trained],
    }


def checkpoints(home: Path) -> list[Path]:
    return list(home.glob("documents/*/training/checkpoint.safetensors"))


def start(home: Path, words: Sequence[str], out: Any = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    print(f"km {' '.join(words)}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "kmcli", *words]
    return subprocess.Popen(command, env={**os.environ, "KM_HOME": str(home)}, stdout=out)


def run(home: Path, *words: str) -> tuple[dict[str, Any], float]:
    """What it says, and the processor's seconds."""
    with tempfile.TemporaryFile() as out:
        process = start(home, words, out)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"km {words[0]} failed: the same command goes on from here")
        out.seek(0)
        return dict(json.loads(out.read())), used.ru_utime + used.ru_stime


def further_file(work: Path, wanted: str) -> Path:
    return work / "further" / f"{wanted.replace(', ', '-').replace(' ', '_')}.json"


def further(work: Path, group: Sequence[str], wanted: str, flags: Sequence[str]) -> None:
    home, file = work / f"home-{group[0]}", further_file(work, wanted)
    if kept(file) is None:
        _, seconds = run(home, "train", *group, "--restart", "--adapter", *flags, "--json")
        keep(file, {"seconds": seconds, "compared": [compared(work, home, name, "km") for name in group]})
