"""What the tests of the documentation share that run its commands: a small trained library, and ways to run a line.

Fixtures to import: each one by name, into the module that uses it.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from cli_cases import Km, runner
from docs_cases import ROOT, SHELL, blocks, words_of
from kmcli.cli.boundary import main
from workflow_cases import NOTES, PERMITS

SMALL = ["chunk_tokens=48", "tasks=qa", "generations=4", "steps=2", "batch=2", "exam=no"]
"""Settings with which a training of two short paragraphs takes a second."""
COST = "How much does Lumrick 40 cost?"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages speak of."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(ROOT / "examples", folder / "examples")
    asked = folder / "examples/harbour.questions.jsonl"
    asked.write_text("".join(asked.read_text("utf-8").splitlines(keepends=True)[:3]), "utf-8")
    (folder / "new.md").write_text(NOTES.replace("1926", "1931"))
    (folder / "papers").mkdir()
    (folder / "papers/permits.md").write_text(PERMITS)
    (folder / "report.md").write_text(NOTES)
    (folder / "handbook.md").write_text(PERMITS)
    (folder / "contract.md").write_text("The contract was signed by Ann Quendal. It ends in 2031.")
    (folder / "notes.md").write_text("The mill was built in 1871. It was built by Ann Quendal.")
    shutil.copy(ROOT / "examples/harbour.pdf", folder / "report.pdf")
    (folder / "docs.jsonl").write_text(json.dumps({"name": "quay", "text": "The quay is 80 metres long."}) + "\n")
    question = {"question": COST, "answers": ["$185"]}
    (folder / "questions.jsonl").write_text(json.dumps(question) + "\n")
    (folder / "about.jsonl").write_text(json.dumps({**question, "document": "report"}) + "\n")
    return folder


@pytest.fixture(scope="module")
def prepared(files: Path) -> Path:
    """The same, with a library of two small documents that are trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KM_HOME", str(files / "library"))
        added = [str(files / "report.md"), str(files / "handbook.md")]
        assert main(["add", "-q", "--tag", "contracts", *added]) == 0
        assert main(["train", "-q", "--all", *settings()]) == 0
    return files


def settings() -> list[str]:
    return [word for setting in SMALL for word in ("--set", setting)]


def shortened(words: list[str]) -> list[str]:
    """The same command with settings that take a second."""
    if words == ["train", "report"]:  # which has changed: by the recipe of the module that it has
        return words
    if words[:2] == ["extractor", "train"]:
        return [*words, "--set", "steps=2", "--set", "batch=2"]
    trains = words[:1] in (["train"], ["synth"]) and not {"--show", "--export", "--import"} & set(words)
    long = ["--set", "chunk_tokens=128", "--set", "generations=1"] if "harbour" in words else []
    return [*words, *settings(), *long, *([] if "--force" in words else ["--force"])] if trains else words


@pytest.fixture
def at_work(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the prepared folder, as the current one, with its library as km's."""
    return _there(prepared, tmp_path / "work", monkeypatch)


@pytest.fixture
def afresh(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files, in a current folder, and no library yet."""
    return _there(files, tmp_path / "work", monkeypatch)


def _there(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(source, target))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KM_HOME", str(folder / "library"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder


def run_line(km: Km, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one line: km in this process; before it, echo or cat; behind it, a file that its output goes to."""
    before, *rest = simple = words_of(command)
    typed = ""
    if rest:
        assert before[0] in ("echo", "cat"), f"a test cannot run: {command}"
        typed = " ".join(before[1:]) + "\n" if before[0] == "echo" else Path(before[1]).read_text()
    words = simple[-1]
    assert words[0] == "km", f"a test cannot run: {command}"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed.encode())))
    run = km(*shortened(words[1:]))
    assert run.code == 0, f"{command}: exit code {run.code}\n{run.out}\n{run.err}"
    if ">" in command:
        assert run.out, f"{command}: nothing to write"
        Path(command.rpartition(">")[2].strip()).write_text(run.out, "utf-8")


def run_page(page: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a page's commands in its order; how many they are."""
    km, run = runner(capsys), 0
    for block in blocks(page):
        for command in block.commands if block.language in SHELL and not block.why else []:
            run_line(km, command, monkeypatch)
            run += 1
    return run
