"""Training on a Ray cluster of several processes: workers and drivers are killed, and every document is trained once."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from cli_cases import Km
from cluster_cases import SHORT, drive, ended, make_base, write_documents
from kmcli.library import Library
from workflow_cases import NOTES, entry, is_sound, km

__all__ = ["km"]

pytest.importorskip("ray")

COUNT = 16
STEPS = ("--set", "steps=70")
"""Past a checkpoint."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of this machine, for three tasks at a time."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        ray.init(
            num_cpus=3,
            include_dashboard=False,
            object_store_memory=80 * 2**20,
            log_to_driver=False,
            logging_level="CRITICAL",
        )
        yield str(ray.get_runtime_context().gcs_address)
        ray.shutdown()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def workers() -> list[psutil.Process]:
    """The processes of this cluster that have a task of km."""
    found = []
    for one in psutil.Process().children(recursive=True):
        try:
            if one.cmdline()[:1] and one.cmdline()[0].startswith("ray::km "):
                found.append(one)
        except psutil.NoSuchProcess:
            continue
    return found


def until(reached: Callable[[], object], process: Any) -> None:
    deadline = time.monotonic() + 300
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def modules(home: Path) -> list[str]:
    """Ids of the committed ones."""
    with closing(sqlite3.connect(home / "km.db")) as database:
        return [row[0] for row in database.execute("SELECT id FROM modules ORDER BY id")]


def held_out(km: Km, count: int) -> dict[str, float]:
    losses = {
        name: entry(km, name)["module"]["metrics"]["held_out_loss"]
        for name in map("lamp{:02}".format, range(1, count + 1))
    }
    return {name: loss for name, loss in losses.items() if loss is not None}


def test_a_worker_and_the_driver_are_killed(
    km: Km, km_home: Path, cluster: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert km("add", "-q", str(write_documents(tmp_path / "docs", COUNT))).code == 0
    alone = Path(shutil.copytree(km_home, tmp_path / "alone"))
    words = ("train", "--all", "--json", "--model", str(base), *SHORT, *STEPS, "--ray", cluster)

    driver = drive(*words)
    until(lambda: list(km_home.glob("documents/*/training/checkpoint.safetensors")), driver)
    (victim, *_) = workers()
    victim.kill()
    until(lambda: len(modules(km_home)) >= 4, driver)
    assert driver.poll() is None
    driver.kill()
    driver.communicate()
    first = modules(km_home)
    assert 4 <= len(first) < COUNT

    code, envelope, _ = ended(drive(*words), 400)
    assert (code, envelope["errors"]) == (0, [])
    data = envelope["data"]
    assert len(data["trained"]) + len(data["skipped"]) == COUNT
    assert any(one["resumed"] for one in data["trained"])
    with Library.open(km_home) as library:
        library.check(repair=True)  # the driver may have been killed in the middle of a commit
    assert len(modules(km_home)) == len(list(km_home.glob("modules/*"))) == COUNT
    assert set(first) <= set(modules(km_home))  # none was trained a second time
    assert entry(km, "lamp01")["state"] == entry(km, f"lamp{COUNT}")["state"] == "fresh"
    assert is_sound(km)

    spread = held_out(km, COUNT)
    monkeypatch.setenv("KM_HOME", str(alone))
    assert km("train", "--all", "-q", "--model", str(base), *SHORT, *STEPS).code == 0
    by_itself = held_out(km, COUNT)
    assert len(by_itself) >= COUNT // 2
    assert spread == pytest.approx(by_itself, rel=0.02)


def test_what_fails_three_times(km: Km, km_home: Path, cluster: str, base: Path, tmp_path: Path) -> None:
    folder = write_documents(tmp_path / "docs", 2)
    (folder / "empty.txt").write_text("Ann.")
    assert km("add", "-q", str(folder)).code == 0
    (document,) = [one for one in km_home.glob("documents/*") if _words(one) == "Ann."]
    next(document.glob("text-*")).write_text("Bo.")  # is no longer what was added

    words = ("train", "--all", "--json", "--model", str(base), *SHORT, "--set", "steps=4", "--ray", cluster)
    code, envelope, err = ended(drive(*words), 300)
    assert code == 6
    assert sorted(one["document"]["name"] for one in envelope["data"]["trained"]) == ["lamp01", "lamp02"]
    (error,) = envelope["errors"]
    assert "empty" in json.dumps(error)
    assert "Traceback" not in err
    assert not list(document.glob("training/*"))


def _words(folder: Path) -> str:
    return next(folder.glob("text-*")).read_text().strip()


def test_writing(km: Km, km_home: Path, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the embedded base: the same samples as here."""
    for name, text in zip(("one", "two"), NOTES.split("\n\n")[1:], strict=True):
        (tmp_path / f"{name}.txt").write_text(text)
        assert km("add", "-q", str(tmp_path / f"{name}.txt")).code == 0
    here = Path(shutil.copytree(km_home, tmp_path / "here"))
    words = ("synth", "one", "two", "--json", "--set", "tasks=qa", "--set", "generations=4")
    code, there, _ = ended(drive(*words, "--ray", cluster), 300)
    assert (code, there["errors"]) == (0, [])
    monkeypatch.setenv("KM_HOME", str(here))
    at_home = km(*words).envelope

    def told(result: dict[str, Any]) -> dict[str, tuple[int, int]]:
        return {one["document"]["name"]: (one["written"], one["samples"]) for one in result["data"]}

    assert told(there) == told(at_home)
    assert all(samples for _, samples in told(there).values())
    for document in km_home.glob("documents/*"):
        for file in ("samples.jsonl", "chunks.jsonl", "written.jsonl"):
            assert (document / file).read_bytes() == (here / "documents" / document.name / file).read_bytes()


def test_no_cluster(km: Km, km_home: Path, tmp_path: Path) -> None:
    assert km("add", "-q", str(write_documents(tmp_path / "docs", 1))).code == 0
    run = km("train", "--all", "--ray", "ray://head:10001")
    assert run.code == 2
    assert "ray://head:10001 is not an address that km can use" in run.err
    assert "--ray auto" in run.err
