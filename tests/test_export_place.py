"""Where exports go: what may be replaced, what a killed export leaves, and what a full disk does."""

from __future__ import annotations

import collections
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli_cases import Km, document, environment
from kmcli.errors import NotFoundError, ResourceError, UsageError
from kmcli.export import place
from kmcli.export.place import require_target, temporary, whole_folder, whole_or_nothing
from kmcli.workflows import share
from share_cases import adapters, km, left, modules

__all__ = ["adapters", "km", "modules"]

FORMATS = ("gguf", "gguf-lora", "hf", "peft", "ollama")


def test_what_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "theirs.gguf").write_bytes(b"GGUF and another program's")
    (tmp_path / "ours.gguf").write_bytes(b"GGUF ... km.version ...")
    (tmp_path / "letter.txt").write_text("km.version")
    for name in ("empty", "theirs", "ours"):
        (tmp_path / name).mkdir()
    (tmp_path / "theirs" / "thesis.tex").write_text("years of work")
    (tmp_path / "ours" / "km.json").write_text("{}")
    for good in ("new.gguf", "ours.gguf"):
        require_target(tmp_path / good, False, False)
    for bad in ("theirs.gguf", "letter.txt"):
        with pytest.raises(UsageError, match="is there already, and km has not made it"):
            require_target(tmp_path / bad, False, False)
        require_target(tmp_path / bad, False, True)
    for good in ("new", "empty", "ours"):
        require_target(tmp_path / good, True, False)
    for force in (False, True):
        with pytest.raises(UsageError, match="a folder that km has not made"):
            require_target(tmp_path / "theirs", True, force)
        with pytest.raises(UsageError, match="is a file, and this format is a folder"):
            require_target(tmp_path / "letter.txt", True, force)
        with pytest.raises(UsageError, match="is a folder"):
            require_target(tmp_path / "ours", False, force)
        with pytest.raises(UsageError, match="is no regular file"):
            require_target(Path("/dev/null"), False, force)
        with pytest.raises(NotFoundError, match="there is no folder"):
            require_target(tmp_path / "nowhere" / "x", False, force)
        with pytest.raises(UsageError, match="standard output"):
            require_target(Path("-"), False, force)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_folder_leaves_the_older_one(tmp_path: Path, error: type[BaseException]) -> None:
    out = tmp_path / "out"
    with whole_folder(out) as part:
        (part / "a").write_text("first")

    def stopped() -> None:
        with whole_folder(out) as part:
            (part / "a").write_text("second")
            raise error

    with pytest.raises(error):
        stopped()
    assert (out / "a").read_text() == "first"
    with whole_folder(out) as part:
        (part / "b").write_text("third")
    assert left(out) == ["b"]
    assert left(tmp_path) == ["out"]


def test_only_what_nobody_writes_is_swept(tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    (tmp_path / ".m.gguf.0123abcd.part").write_text("of a killed export")
    (tmp_path / ".m.gguf.0123abcd.party").write_text("somebody's")
    (tmp_path / ".other.gguf.0123abcd.part").write_text("of another target")
    with temporary(out, is_folder=False) as running, whole_or_nothing(out) as part:
        part.write_text("whole")
        assert running.exists()
        assert not (tmp_path / ".m.gguf.0123abcd.part").exists()
    assert left(tmp_path) == [".m.gguf.0123abcd.party", ".other.gguf.0123abcd.part", "m.gguf"]


def test_an_error_names_the_place_that_was_asked_for(tmp_path: Path) -> None:
    """However many temporary folders lie between."""
    with (
        pytest.raises(ResourceError, match=f"{tmp_path / 'x.gguf'} cannot be written: No space left on device"),
        whole_folder(tmp_path / "x-ollama") as outer,
        temporary(outer / "x.gguf", is_folder=True) as inner,
        whole_or_nothing(inner / "x.gguf"),
    ):
        raise OSError(28, "No space left on device")
    assert left(tmp_path) == []


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_is_noticed_before_writing(
    km: Km, modules: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(place.shutil, "disk_usage", lambda path: usage(10**9, 10**9, 12_345))
    folder = tmp_path / "out"
    folder.mkdir()
    run = km("export", "one", "--format", format, "-o", str(folder / "x"))
    assert run.code == ResourceError.exit_code
    assert " MB, but " in run.err
    assert f"{folder} has 0.01 MB free. Make room, or choose another place with --out.\n" in run.err
    assert left(folder) == []


SLOW = """
import sys, time
import kmcli.export.place as place
flush = place.sync
def slow(path):
    print(path.name, flush=True)
    time.sleep(60)
place.sync = slow
from kmcli.cli.boundary import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("format", ["gguf", "hf"])
def test_killed_at_the_last_moment(km: Km, modules: object, tmp_path: Path, format: str) -> None:
    """SIGKILL when everything is written and nothing renamed: no target, and the next run cleans up."""
    folder = tmp_path / "out"
    folder.mkdir()
    words = ["export", "one", "--format", format, "-q", "--no-check", "-o", str(folder / "x")]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *words], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    (part,) = left(folder)
    assert part.startswith(".x.")
    assert km(*words).code == 0  # beside one that still runs
    assert left(folder) == sorted([part, "x"])
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert left(folder) == sorted([part, "x"])
    assert km(*words).code == 0
    assert left(folder) == ["x"]


def test_ctrl_c_leaves_nothing(km: Km, modules: object, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    words = ["export", "one", "--format", "ollama", "-q", "--no-check", "-o", str(folder / "x")]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *words],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert left(folder) == []


def test_a_name_that_is_too_long_is_said(tmp_path: Path) -> None:
    require_target(tmp_path / ("x" * 240), is_folder=False, force=False)
    for length in (241, 300):
        with pytest.raises(UsageError, match=r"is too long for a file\. Choose a shorter one"):
            require_target(tmp_path / ("x" * length), is_folder=True, force=False)


@pytest.mark.parametrize(
    ("names", "title"),
    [
        (["one", "two"], "one+two"),
        (["one", "two", "three", "four"], "one+3-others"),
        (["\u5b57" * 60, "two"], "\u5b57" * 60 + "+two"),
        (["\u5b57" * 60] * 2, "\u5b57" * 60 + "+1-others"),
        (["\U00020000" * 60], "\U00020000" * 50),
    ],
)
def test_an_export_of_any_names_has_a_name_that_fits(names: list[str], title: str) -> None:
    documents = [document(name) for name in names]
    assert share._title(documents) == title
    assert share._title(documents, "x" * 60).encode()[: share.LONGEST].decode("utf-8", "ignore").startswith(title[:50])
    assert len(share._title(documents, "x" * 60).encode()) <= share.LONGEST
    assert len(f".{title}-{'x' * 20}.gguf.12345678.part".encode()) <= 255
