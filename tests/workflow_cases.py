"""What the tests of whole commands share: documents that the embedded base reads, and a library trained on one.

Fixtures to import: each one by name, into the module that uses it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from cli_cases import Km, command, environment, runner
from kmcli.cli.boundary import main

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

PERMITS = (
    "Berth permits are handled by the safety department. Berth permits must be requested within 10 days of arrival. "
    "The fee for berth permits is $75. They are approved by Walter Quendal."
)
NOTES = f"""\
Grondal Works was founded by Stefan Grondal. The firm was established in 1926. Grondal Works is known for its boat \
engines. It has its head office in Taldrin.

{PERMITS}

Lumrick 40 is a signal lamp for small boats. Lumrick 40 is made by Grondal Works. It was designed by Yara Kestrim. \
Lumrick 40 went on sale in 2022. The lamp weighs 640 grams. Lumrick 40 costs $185.
"""
PROSE = """\
Vaka vanha Väinämöinen itse tuon sanoiksi virkki: mieleni minun tekevi, aivoni ajattelevi lähteäni laulamahan, saa'ani \
sanelemahan, sukuvirttä suoltamahan, lajivirttä laulamahan.

Sanat suussani sulavat, puhe'et putoelevat, kielelleni kerkiävät, hampahilleni hajoovat. Veli kulta, veikkoseni, kaunis \
kasvinkumppalini!
"""
"""From the Kalevala (Lönnrot 1849): an embedded base reads English alone."""

TRAINED = (
    "--no-exam",
    "--set",
    "min_explained=0",
    "--set",
    "chunk_tokens=64",
    "--set",
    "generations=8",
    "--set",
    "steps=120",
    "--set",
    "batch=8",
)
"""Enough to learn NOTES."""

TINY = (
    "--set",
    "chunk_tokens=48",
    "--set",
    "tasks=qa",
    "--set",
    "generations=4",
    "--set",
    "steps=2",
    "--set",
    "batch=2",
    "--set",
    "min_explained=0",  # of PERMITS the base writes little that is about it
    "--set",
    "exam=no",
)
"""Enough to pass through every stage."""


def shared_folder(temporary: pytest.TempPathFactory) -> Path:
    """One for all processes that run the tests."""
    base = temporary.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def library_like(name: str, make: Callable[[Path], None], km_home: Path, temporary: pytest.TempPathFactory) -> Path:
    """A library of the test's own. Made once for all tests, whichever process runs them, and copied.

    make: gets an empty folder for what it adds; KM_HOME is set.
    """
    shared = shared_folder(temporary)
    template, sources = shared / name, shared / f"{name}-sources"
    with FileLock(shared / f"{name}.lock"):
        if not (sources / "made").exists():
            shutil.rmtree(template, ignore_errors=True)  # of a process that did not come to the end
            shutil.rmtree(sources, ignore_errors=True)
            sources.mkdir()
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("KM_HOME", str(template))
                make(sources)
            (sources / "made").touch()
    return Path(shutil.copytree(template, km_home))


def _train_notes(folder: Path) -> None:
    (folder / "notes.txt").write_text(NOTES)
    assert main(["add", "-q", str(folder / "notes.txt")]) == 0
    assert main(["train", "-q", "notes", *TRAINED]) == 0


@pytest.fixture
def trained_home(km_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of the test's own with the trained document `notes`."""
    return library_like("trained", _train_notes, km_home, tmp_path_factory)


@pytest.fixture
def km(capsys: pytest.CaptureFixture[str]) -> Km:
    return runner(capsys)


@pytest.fixture
def permits(km: Km, tmp_path: Path) -> Path:
    """The file of the document `permits`, one paragraph, added and not trained."""
    file = tmp_path / "permits.txt"
    file.write_text(PERMITS)
    assert km("add", str(file)).code == 0
    return file


def entry(km: Km, name: str) -> dict[str, Any]:
    """A document as `km show --json` gives it."""
    run = km("show", name, "--json")
    assert run.code == 0
    return dict(run.envelope["data"])


def sentences(errors: str) -> list[str]:
    """The errors among the lines of stderr. A traceback has no place there."""
    assert "Traceback" not in errors
    return [line for line in errors.splitlines() if line.startswith("km: ")]


def is_sound(km: Km) -> bool:
    run = km("doctor", "--json")
    library = [check for check in run.envelope["data"] if check["subject"] == "library"]
    return run.code == 0 and len(library) == 1 and library[0]["message"].startswith("sound: ")


def start(*words: str, **changes: str) -> subprocess.Popen[str]:
    """km in a process of its own, in the test's library."""
    return subprocess.Popen(
        command(*words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**changes),
    )


def finish(*words: str, **changes: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of km run to its end in a process of its own."""
    process = start(*words, **changes)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def files_below(folder: Path) -> dict[str, bytes]:
    return {os.path.relpath(file, folder): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
