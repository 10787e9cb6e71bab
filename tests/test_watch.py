"""km watch: what comes, changes, moves and goes in a folder, told and taken in; never removed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from cli_cases import Km, environment, runner
from kmcli.bases import EMBEDDED_NOTICE
from kmcli.errors import NotFoundError
from kmcli.library import Library
from kmcli.types import Event, silent
from kmcli.workflows import study, watching
from kmcli.workflows.house import Failure, House, open_house
from kmcli.workflows.material import RecipeOptions
from kmcli.workflows.task import Trained
from library_material import train

LONG_AGO = 1_700_000_000


@pytest.fixture
def km(capsys: pytest.CaptureFixture[str]) -> Km:
    return runner(capsys)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "papers").mkdir()
    return tmp_path / "papers"


def write(file: Path, text: str) -> Path:
    """A file that nobody writes to any more."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, "utf-8")
    os.utime(file, (LONG_AGO, LONG_AGO))
    return file


def watched(
    folder: Path, *steps: Callable[[], object], options: RecipeOptions | None = None
) -> tuple[list[list[tuple[str, str, str]]], dict[str, int]]:
    """What was told at each look, as kind, file and document; between two looks a step is taken."""
    told: list[list[tuple[str, str, str]]] = [[]]
    todo = list(steps)

    def tell(one: watching.Happened) -> None:
        told[-1].append((one.kind, Path(one.path).name, one.document.name if one.document else ""))

    def wait(seconds: float) -> None:
        assert seconds == 2.0
        if not todo:
            raise KeyboardInterrupt
        told.append([])
        todo.pop(0)()

    with open_house({}, silent) as house:
        seen = watching.watch(house, str(folder), tell, ["papers"], options, wait=wait)
    return told, seen.counts


def test_what_is_new_and_what_has_changed(folder: Path, km_home: Path) -> None:
    one = write(folder / "one.md", "The heron waits.")
    write(folder / "inner" / "two.txt", "The otter swims.")
    write(folder / "three.xyz", "Not of a kind that km reads.")
    told, counts = watched(
        folder,
        lambda: None,
        lambda: write(folder / "four.md", "The finch sings."),
        lambda: write(one, "The heron flies away."),
    )
    assert told == [
        [("added", "two.txt", "two"), ("added", "one.md", "one")],
        [],
        [("added", "four.md", "four")],
        [("updated", "one.md", "one")],
    ]
    assert counts == {"added": 3, "updated": 1}
    with Library.open(km_home) as library:
        assert library.text(library.find("one")) == "The heron flies away."
        assert library.find("four").tags == ("papers",)
    assert watched(folder)[0] == [[]]  # all is as it was left


def test_a_module_becomes_stale(km: Km, folder: Path, km_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(folder / "one.md", "The heron waits.")
    watched(folder)
    with Library.open(km_home) as library:
        train(library, library.find("one"))
    write(file, "The heron flies away.")

    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watching.watch, "__defaults__", (*watching.watch.__defaults__[:-1], stop))
    run = km("watch", str(folder))
    assert (run.code, run.out) == (0, f"updated  one  {file}\n")
    assert "one has changed: its Knowledge Module is stale until km train one." in run.err
    assert run.err.splitlines()[-1] == "stopped: 1 updated"
    with Library.open(km_home) as library:
        assert library.state(library.find("one")) == "stale"
    data = km("watch", str(folder), "--json").envelope["data"]
    assert data == {"happened": [], "counts": {}}


def test_what_is_there_already_is_given_the_tags_too(km: Km, folder: Path, km_home: Path) -> None:
    one = write(folder / "one.md", "The heron waits.")
    assert km("add", "-q", str(folder), "--tag", "birds").code == 0
    assert km("add", "-q", str(write(folder.parent / "two.md", "The otter swims.")), "--tag", "papers").code == 0
    copy = write(folder / "two.md", "The otter swims.")
    told, counts = watched(folder, lambda: os.utime(one), lambda: None, lambda: None)
    assert told == [[("tagged", "one.md", "one"), ("copy", "two.md", "two")], [], [], []]
    assert counts == {"tagged": 1, "copy": 1}
    with Library.open(km_home) as library:
        assert [one.tags for one in library.documents()] == [("birds", "papers"), ("papers",)]
    copy.unlink()
    assert watched(folder)[0] == [[]]


def test_a_document_that_is_in_use_is_updated_later(folder: Path, km_home: Path) -> None:
    file = write(folder / "one.md", "The heron waits.")
    watched(folder)
    write(file, "The heron flies away.")
    with Library.open(km_home) as library, ExitStack() as use:
        use.enter_context(library.lock(library.find("one"), "train"))
        told, counts = watched(folder, lambda: None, lambda: None, use.close, lambda: None)
    assert told == [[("failed", "one.md", "")], [], [], [("updated", "one.md", "one")], []]
    assert counts == {"failed": 1, "updated": 1}


def test_the_last_file_is_gone_once(folder: Path) -> None:
    file = write(folder / "one.md", "The heron waits.")
    told, _ = watched(folder, file.unlink, lambda: None, lambda: None)
    assert told == [[("added", "one.md", "one")], [("gone", "one.md", "one")], [], []]


def test_the_lines_of_a_file_are_there_as_long_as_it_is(km: Km, folder: Path) -> None:
    lines = '{"id": "heron", "text": "The heron waits."}\n{"id": "otter", "text": "The otter swims."}\n'
    file = write(folder / "birds.jsonl", lines)
    assert km("add", str(file)).code == 0
    assert watched(folder)[1] == {}
    file.unlink()
    assert watched(folder)[1] == {"gone": 2}


def test_a_bad_tag_is_refused_before_the_folder_is_watched(km: Km, folder: Path) -> None:
    run = km("watch", str(folder), "--tag", "two words")
    assert (run.code, run.out) == (2, "")
    assert "two words" in run.err
    assert "watching" not in run.err


def test_a_file_that_is_being_written_is_left(folder: Path) -> None:
    file = folder / "slow.md"

    def grow() -> None:
        with file.open("a") as stream:
            stream.write("Another line.\n")

    grow()
    told, _ = watched(folder, grow, grow, lambda: None)
    assert told == [[], [], [], [("added", "slow.md", "slow")]]


def test_moved_and_deleted_files_are_told_and_stay_in_the_library(folder: Path, km_home: Path) -> None:
    one, two = write(folder / "one.md", "The heron waits."), write(folder / "two.md", "The otter swims.")
    (folder / "old").mkdir()
    moved = folder / "old" / "eins.md"
    told, counts = watched(
        folder,
        lambda: one.rename(moved),
        lambda: write(moved, "The heron flies away."),  # is followed
        lambda: shutil.copy2(two, folder / "copy.md"),
        two.unlink,
        lambda: None,
    )
    assert told == [
        [("added", "one.md", "one"), ("added", "two.md", "two")],
        [("moved", "eins.md", "one")],
        [("updated", "eins.md", "one")],
        [("copy", "copy.md", "two")],
        [("gone", "two.md", "two")],
        [],
    ]
    assert counts == {"added": 2, "moved": 1, "updated": 1, "copy": 1, "gone": 1}
    with Library.open(km_home) as library:
        assert [(one.name, one.source) for one in library.documents()] == [("one", str(moved)), ("two", str(two))]


def test_what_happened_while_nobody_watched(folder: Path) -> None:
    one, two, three = (write(folder / f"{name}.md", f"About {name}.") for name in ("one", "two", "three"))
    watched(folder)
    one.rename(folder / "eins.md")
    two.unlink()
    write(three, "About four.")
    assert watched(folder)[0] == [
        [("moved", "eins.md", "one"), ("updated", "three.md", "three"), ("gone", "two.md", "two")]
    ]


def test_a_folder_that_is_unplugged_is_waited_for(folder: Path) -> None:
    write(folder / "one.md", "The heron waits.")
    away = folder.with_name("away")
    warned: list[str] = []

    def report(event: Event) -> None:
        warned.extend([event.message] if event.warning else [])

    steps = [lambda: folder.rename(away), lambda: None, lambda: away.rename(folder), lambda: None]

    def wait(seconds: float) -> None:
        if not steps:
            raise KeyboardInterrupt
        steps.pop(0)()

    with open_house({}, report) as house:
        counts = watching.watch(house, str(folder), lambda happened: None, wait=wait).counts
    assert counts == {"added": 1}
    assert warned == [f"{folder} is not there now; km waits for it"]
    with open_house({}, silent) as house, pytest.raises(NotFoundError, match="there is no folder"):
        watching.watch(house, str(folder / "none"), lambda happened: None)


def test_what_is_no_folder_is_not_said_to_be_watched_and_the_base_is_announced_once(folder: Path) -> None:
    said: list[str] = []

    def report(event: Event) -> None:
        said.extend([event.message] if event.stage in ("note", "base") else [])

    one = write(folder / "one.md", "The heron waits.")
    with open_house({}, report) as house:
        with pytest.raises(NotFoundError, match=r"km add .*one\.md"):
            watching.watch(house, str(one), lambda happened: None)
        assert said == []
        steps = [lambda: write(folder / "two.md", "The otter swims.")]

        def wait(seconds: float) -> None:
            if not steps:
                raise KeyboardInterrupt
            steps.pop(0)()

        assert watching.watch(house, str(folder), lambda happened: None, wait=wait).counts == {"added": 2}
    assert said == [f"watching {folder}; Ctrl-C ends it", EMBEDDED_NOTICE]


def test_a_bad_file_is_told_once_and_again_when_it_has_changed(km: Km, folder: Path) -> None:
    bad = folder / "bad.pdf"
    bad.write_bytes(b"%PDF-1.7 nothing")
    os.utime(bad, (LONG_AGO, LONG_AGO))
    write(folder / "good.md", "The heron waits.")
    told, counts = watched(folder, lambda: None, lambda: write(bad, ""), lambda: None)
    assert told == [
        [("added", "good.md", "good"), ("failed", "bad.pdf", "")],
        [],
        [("failed", "bad.pdf", "")],
        [],
    ]
    assert counts == {"added": 1, "failed": 2}


def test_documents_are_kept_trained(folder: Path, km_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In groups, between which the folder is looked at; what fails is left until it changes."""
    monkeypatch.setattr(watching, "TRAINED_AT_ONCE", 2)
    calls: list[list[str]] = []

    def fake(house: House, names: list[str], everything: bool, options: RecipeOptions) -> study.TrainReport:
        calls.append(names)
        made = [house.library.find(name) for name in names]
        bad = [one for one in made if one.name == "bad"]
        done = [Trained(one, train(house.library, one), False, 0.0, 0, 0, 0) for one in made if one not in bad]
        failed = [Failure(one.name, NotFoundError("nothing can be asked.")) for one in bad]
        return study.TrainReport(tuple(done), tuple(failed), ())

    monkeypatch.setattr(watching.study, "train", fake)
    for name in ("a", "bad", "c"):
        write(folder / f"{name}.md", f"About {name}.")
    told, counts = watched(
        folder,
        lambda: None,
        lambda: write(folder / "a.md", "About a, again."),
        lambda: write(folder / "bad.md", "About bad, again."),
        options=RecipeOptions(),
    )
    assert calls == [["a", "bad"], ["c"], ["a"], ["bad"]]
    assert counts == {"added": 3, "trained": 3, "failed": 2, "updated": 2}
    assert told[1] == []
    assert [kind for kind, _, _ in told[2]] == ["updated", "trained"]


def test_ctrl_c_ends_it_cleanly(folder: Path, km_home: Path) -> None:
    write(folder / "one.md", "The heron waits.")
    words = [sys.executable, "-m", "kmcli", "watch", str(folder), "--every", "0.1"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    assert process.stdout
    assert process.stdout.readline() == f"added    one  {folder / 'one.md'}\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert err.splitlines()[-1] == "stopped: 1 added"
    assert "Traceback" not in err
