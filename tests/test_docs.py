"""Every command and program that the documentation shows: its options exist, and it runs where a test can run it."""

# ruff: noqa: F401 (imported fixtures)

from __future__ import annotations

import ast
import io
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from cli_cases import Km, runner
from docs_cases import ELLIPSIS, PAGES, ROOT, WHY_NOT, Block, blocks, km_commands, spans, words_of
from kmcli.cli.boundary import main, tree
from kmcli.cli.screen import Screen
from training_cases import one_thread
from workflow_cases import NOTES, PERMITS

TREE = tree()
EVERY = [block for page in PAGES for block in blocks(page)]
SHELL = ("sh", "console")
SMALL = ["chunk_tokens=48", "tasks=qa", "generations=4", "steps=2", "batch=2", "exam=no"]
"""Settings with which a training of two short paragraphs takes a second."""
COST = "How much does Lumrick 40 cost?"


def check(words: list[str], whole: bool) -> None:
    """The verb exists, and so do its options. whole: so does all that it must be given, and values are among the choices."""
    if not words or words[0].startswith("-"):
        assert words in ([], ["--help"], ["--version"])
        return
    if words[0] in ELLIPSIS or words[0].isupper():
        return
    command = TREE.commands[words[0]]
    if whole:
        command.make_context(f"km {words[0]}", words[1:], obj=Screen(words[0]))
        return
    known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)} | {"--help"}
    assert {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"} <= known, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_exists_with_its_options(page: Path) -> None:
    found = 0
    for block in blocks(page):
        for command in block.commands if block.language in (*SHELL, "text") else []:
            for words in km_commands(command) if "km " in command else []:
                check([word.strip("[]") for word in words], block.language in SHELL)
                found += 1
    for span in spans(page):
        for words in km_commands(span.replace("[", "").replace("]", "")):
            check(words, whole=False)
            found += 1
    assert found or page.name not in ("README.md", "guide.md", "tutorial.md", "reference.md")


def test_marks_are_known() -> None:
    for block in EVERY:
        assert block.language in (*SHELL, "python", "text", "toml", "json"), block.name
        assert block.why in ("", *WHY_NOT), f"{block.name}: {block.why}"


def test_most_blocks_are_run() -> None:
    shell = [block for block in EVERY if block.language in SHELL]
    run = [command for block in shell if not block.why for command in block.commands]
    assert len(run) > 45
    assert len(run) > 2 * sum(len(block.commands) for block in shell if block.why)


def test_programs_are_python() -> None:
    programs = [block for block in EVERY if block.language == "python"]
    assert len(programs) >= 4
    for block in programs:
        ast.parse(block.text, block.name)


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in PAGES:
        text = re.sub(r"(?ms)^```.*?^```", "", page.read_text("utf-8"))
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"{page.name}: {target}")
    assert broken == []


def anchors(file: Path) -> set[str]:
    headings = re.findall(r"(?m)^#+ (.*)$", file.read_text("utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# --- running them


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages speak of: files, and a library with two small documents that are trained."""
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KM_HOME", str(folder / "library"))
        files = [str(folder / "report.md"), str(folder / "handbook.md")]
        assert main(["add", "-q", "--tag", "contracts", *files]) == 0
        assert main(["train", "-q", "--all", *settings()]) == 0
    return folder


def settings() -> list[str]:
    return [word for setting in SMALL for word in ("--set", setting)]


def shortened(words: list[str]) -> list[str]:
    """The same command with settings that take a second."""
    if words[:2] == ["extractor", "train"]:
        return [*words, "--set", "steps=2", "--set", "batch=2"]
    trains = words[:1] in (["train"], ["synth"]) and not {"--show", "--export", "--import"} & set(words)
    long = ["--set", "chunk_tokens=128", "--set", "generations=1"] if "harbour" in words else []
    return [*words, *settings(), *long, *([] if "--force" in words else ["--force"])] if trains else words


@pytest.fixture
def at_work(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the prepared folder, as the current one, with its library as km's."""
    folder = Path(shutil.copytree(prepared, tmp_path / "work"))
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


RUN = sorted({block.page for block in EVERY if block.language in SHELL and not block.why})


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_run_in_its_order(
    page: Path, at_work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if page.name != "guide.md":  # which speaks of documents that are there
        monkeypatch.setenv("KM_HOME", str(at_work / "fresh"))
    km = runner(capsys)
    for block in blocks(page):
        for command in block.commands if block.language in SHELL and not block.why else []:
            run_line(km, command, monkeypatch)


def test_the_programs_run(at_work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from kmcli.api import Km as Opened

    train: Any = Opened.train

    def quickly(self: Opened, *names: str, **given: Any) -> Any:
        return train(self, *names, **given, force=True, settings=dict(setting.split("=") for setting in SMALL))

    monkeypatch.setattr(Opened, "train", quickly)
    for block in EVERY:
        if block.language == "python" and not block.why:
            source = block.text.replace("examples/harbour.pdf", "report.md").replace('"harbour"', '"report"')
            exec(compile(source, block.name, "exec"), {"__name__": "__main__"})
    out = capsys.readouterr().out
    assert "there is no document called 'contract'." in out
    assert "['handbook', 'report']" in out
