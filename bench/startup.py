"""How long a person waits before anything is done: `km --help`, `km ls`, and TAB on a document's name.

    python -m bench.startup [--llm PROGRAM] [--hf PROGRAM] [--documents 10000] [--rounds 15] [--tabs 10]

`km --help` and `km ls` (of a library with as many documents as --documents says, each a file) run by turns with
`llm --help` and `hf --help`, a process each, so that what else the machine does meets them all alike. llm is Simon
Willison's program; where --llm does not name one, pip installs it into a temporary folder. hf is huggingface_hub's, from
km's own environment.

TAB is pressed in real shells in a pseudo-terminal (bash, zsh and fish, those that are installed) behind the number by which
a name begins, and the clock runs until the rest of the name is on the screen. The library is the same.

Prints a table, and lines `FIGURE name value`. startup_vs_llm: llm's median over km's, of the slower of km's two;
startup_vs_llm_cpu: the same of processor time, least instead of median, because other work on the machine can only add to
it. tab_ms: the slowest shell's median; tab_ms_least: its least.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.shell_cases import SHELLS, Shell

SRC = Path(__file__).parents[1] / "src"


@dataclass(frozen=True)
class Cost:
    """Milliseconds by the clock, and of the processor."""

    wall: float
    cpu: float


def timed(words: list[str], environment: dict[str, str]) -> Cost:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(words, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(1000 * wall, 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))


def installed_llm(folder: Path) -> list[str]:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "llm"], check=True)
    return [str(folder / "bin" / "llm")]


def library(folder: Path, count: int, environment: dict[str, str]) -> None:
    """So many documents, added by km add."""
    texts = folder / "texts"
    texts.mkdir()
    for number in range(count):
        (texts / f"{number:05d}-harbour-report.txt").write_text(f"Report {number} of the harbour. Ann wrote it.")
    subprocess.run([sys.executable, "-m", "kmcli", "add", str(texts)], env=environment, check=True, capture_output=True)


def tabs(shell: str, folder: Path, home: Path, count: int, times: int) -> list[float]:
    """Milliseconds until a name was completed; the first is left out, because a shell reads its own functions then."""
    took = []
    with Shell(shell, folder, KM_HOME=str(home)) as one:
        for turn in range(times + 1):
            number = turn * 7919 % count
            took.append(1000 * one.seconds(f"km ask {number:05d}", "-harbour-report"))
    return took[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm", help="where llm is installed")
    parser.add_argument("--hf", default=str(Path(sys.executable).parent / "hf"))
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tabs", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        home = folder / "home"
        environment = {**os.environ, "HOME": str(folder), "KM_HOME": str(home), "PYTHONPATH": str(SRC)}
        environment["HF_HUB_DISABLE_UPDATE_CHECK"] = "1"  # hf would ask the network whether it is the newest
        km = [sys.executable, "-m", "kmcli"]
        library(folder, given.documents, environment)
        programs = {
            "km --help": [*km, "--help"],
            "km ls": [*km, "ls"],
            "llm --help": [*([given.llm] if given.llm else installed_llm(folder / "llm")), "--help"],
            "hf --help": [given.hf, "--help"],
        }
        for words in programs.values():  # so that none of them has to write bytecode on the clock
            timed(words, environment)
        runs: dict[str, list[Cost]] = {name: [] for name in programs}
        for _ in range(given.rounds):
            for name, words in programs.items():
                runs[name].append(timed(words, environment))
        wall = {name: median(one.wall for one in took) for name, took in runs.items()}
        cpu = {name: min(one.cpu for one in took) for name, took in runs.items()}
        print("| command | ms, median | processor ms, least |\n|---|---:|---:|")
        for name in programs:
            print(f"| {name} | {wall[name]:.0f} | {cpu[name]:.0f} |")
        pressed = {
            shell: tabs(shell, folder, home, given.documents, given.tabs) for shell in SHELLS if shutil.which(shell)
        }
        print(f"\n| TAB, {given.documents:,} documents | ms, median | least |\n|---|---:|---:|")
        for shell, took in pressed.items():
            print(f"| {shell} | {median(took):.1f} | {min(took):.1f} |")
        print()
        for rival in ("llm", "hf"):
            for suffix, of in (("", wall), ("_cpu", cpu)):
                ratio = of[f"{rival} --help"] / max(of["km --help"], of["km ls"])
                print(f"FIGURE startup_vs_{rival}{suffix} {ratio:.2f}")
        print(f"FIGURE help_ms {wall['km --help']:.0f}")
        print(f"FIGURE ls_ms {wall['km ls']:.0f}")
        print(f"FIGURE tab_ms {max(median(took) for took in pressed.values()):.1f}")
        print(f"FIGURE tab_ms_least {max(min(took) for took in pressed.values()):.1f}")


if __name__ == "__main__":
    main()
