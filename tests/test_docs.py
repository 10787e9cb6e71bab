"""Every command and program that the documentation shows: its options exist. test_docs_*.py run them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from docs_cases import ELLIPSIS, EVERY, PAGES, ROOT, SHELL, WHY_NOT, blocks, km_commands, spans
from kmcli.cli.boundary import tree
from kmcli.cli.screen import Screen

TREE = tree()


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


def test_guards_and_their_tests_are_there() -> None:
    table = (ROOT / "docs/reliability.md").read_text("utf-8").partition("\n## Guards and their tests\n")[2]
    rows = [line.strip("|").split("|") for line in table.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    assert len(rows) > 25
    for _, guards, tests in rows[1:]:
        for named in re.findall("`(.+?)`", guards):
            file, _, names = named.partition(": ")
            assert (ROOT / "src/kmcli" / file).exists(), file
            for name in filter(None, names.split(", ")):
                assert re.search(rf"\b{name}\b", (ROOT / "src/kmcli" / file).read_text("utf-8")), named
        for test in tests.split(";"):
            name, *words = test.replace("`", "").replace(",", "").split()
            there = re.findall(r"^(?:async )?def (test_\w+)", (ROOT / f"tests/test_{name}.py").read_text("utf-8"), re.M)
            assert there, name
            for word in words:
                assert any(word in one for one in there), (name, word)
