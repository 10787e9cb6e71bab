"""Documents a minute of two workers against one, under the same Ray cluster, each worker on a core of its own.

    python -m bench.cluster [--documents 4] [--words 60] [--rounds 1] [--seed 0] [-- OPTIONS of km train]

A cluster of two places is started on this machine, without a dashboard. Each side is `km train --all --ray ADDRESS`, a
process of its own, as a person runs it, over a library with so many documents a worker: with one worker (something else
holds the other place) and with two. Every worker process is kept on one core, the first on one and the second on another,
and computes with one thread. Time is that of the whole command: to connect, to start workers that load torch and the base,
to train and commit. Every worker has as much to do on both sides, so that starting counts on both alike. Needs the extra
`ray`, and two cores.

Prints for each side documents, seconds, documents a minute and the processor seconds of its workers and of `km` itself: on
a machine with other work these stay what they are, and say what each side did. `FIGURE efficiency` is the documents a minute
of two workers over twice those of one; of several rounds the median.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from basemodel.material import from_world

WORDS_PER_THING = 21.2
SETTINGS = ("chunk_tokens=32", "batch=2", "steps=12", "held_out=0")
OPTIONS = ("--objective", "lm", "--no-exam", *(word for one in SETTINGS for word in ("--set", one)))
"""The documents' own text is studied, a little: the embedded base refuses to write about most of them."""
TASK = "ray::km "
"""What the title of a worker at work begins with."""
CLOCK = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--documents", type=int, default=4)
    parser.add_argument("--words", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("options", nargs="*", default=OPTIONS)
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        sys.exit("This needs two cores.")
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # nobody else has it; Ray reads it once
    with tempfile.TemporaryDirectory() as folder:
        libraries = {
            workers: _library(Path(folder) / str(workers), workers * given.documents, given.words, given.seed)
            for workers in (1, 2)
        }
        ratios = []
        for number in range(1, given.rounds + 1):
            with _Cluster(cores) as cluster:
                rates = [_side(cluster, library, workers, given.options) for workers, library in libraries.items()]
            ratios.append(rates[1] / (2 * rates[0]))
            print(f"round {number}: {ratios[-1]:.3f} of twice the documents a minute")
    print(f"FIGURE efficiency {median(ratios):.3f}")


def _library(folder: Path, count: int, words: int, seed: int) -> Path:
    texts, home = folder / "texts", folder / "library"
    texts.mkdir(parents=True)
    for number in range(count):
        made = from_world(random.Random(f"cluster {seed} {number}"), max(1, round(words / WORDS_PER_THING)), 3)
        (texts / f"document-{number:03}.txt").write_text(made.text)
    _km(home, "add", "-q", str(texts))
    return home


def _side(cluster: _Cluster, library: Path, workers: int, options: tuple[str, ...]) -> float:
    """Documents a minute."""
    home, documents = library.with_name("work"), len(list((library / "documents").iterdir()))
    shutil.copytree(library, home)
    cluster.leave(workers)
    worked, driven, began = cluster.worked(), _children(), time.monotonic()
    _km(home, "train", "--all", "-q", "--ray", cluster.address, *options)
    seconds = time.monotonic() - began
    rate = 60 * documents / seconds
    used = {pid: spent - worked.get(pid, 0.0) for pid, spent in cluster.worked().items()}
    each = ", ".join(f"{spent:.1f}" for spent in used.values() if spent >= 0.05)
    trained = len(list((home / "modules").iterdir()))
    print(
        f"{workers} worker{'s' if workers > 1 else ''}: {trained} documents in {seconds:.1f} s, {rate:.2f} a minute; "
        f"processor seconds of each worker process: {each}; of km: {_children() - driven:.1f}",
        flush=True,
    )
    if trained != documents:
        sys.exit(f"{documents - trained} documents were not trained.")
    shutil.rmtree(home)
    return rate


def _km(home: Path, *words: str) -> None:
    command = [sys.executable, "-m", "kmcli", *words]
    process = subprocess.run(command, env={**os.environ, "KM_HOME": str(home)}, stdout=subprocess.DEVNULL)
    if process.returncode:
        sys.exit(f"km {words[0]} ended with {process.returncode}.")


def _children() -> float:
    """Processor seconds of the processes that this one started and has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class _Cluster:
    """Two places on this machine; workers are pinned as they begin with a task."""

    def __init__(self, cores: list[int]) -> None:
        self._cores = cores
        self._core_of: dict[int, int] = {}
        self._spent: dict[int, float] = {}
        self._holder: Any = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Cluster:
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
        try:
            import ray
        except ImportError:
            sys.exit("Ray is not installed: pip install 'kmcli[ray]'")
        self._ray = ray
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=200 * 2**20,
            log_to_driver=False,
            logging_level="ERROR",
        )
        self.address = str(ray.get_runtime_context().gcs_address)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._ray.shutdown()

    def leave(self, workers: int) -> None:
        """Hold all places but these."""
        if self._holder is not None:
            self._ray.kill(self._holder)
            self._holder = None
        if workers == 1:

            class Holder:
                def here(self) -> bool:
                    return True

            self._holder = self._ray.remote(Holder).options(num_cpus=1).remote()
            self._ray.get(self._holder.here.remote())

    def worked(self) -> dict[int, float]:
        """Processor seconds so far, by worker process."""
        return dict(self._spent)

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            alive = {int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit() and _is_ours(one)}
            for pid in alive - self._core_of.keys():
                taken = Counter(self._core_of[other] for other in alive & self._core_of.keys())
                self._core_of[pid] = min(self._cores, key=lambda core: (taken[core], core))
            for pid in alive:
                with suppress(OSError, ValueError):
                    for thread in os.listdir(f"/proc/{pid}/task"):
                        os.sched_setaffinity(int(thread), {self._core_of[pid]})
                    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                    self._spent[pid] = (int(fields[11]) + int(fields[12])) / CLOCK


def _is_ours(process: Path) -> bool:
    """Whether it is a worker with a task of km, of a cluster that this process has started."""
    with suppress(OSError, ValueError, IndexError):
        if not (process / "cmdline").read_bytes().decode(errors="replace").startswith(TASK):
            return False
        raylet = (process / "stat").read_text().rpartition(")")[2].split()[1]
        return int(Path(f"/proc/{raylet}/stat").read_text().rpartition(")")[2].split()[1]) == os.getpid()
    return False


if __name__ == "__main__":
    main()
