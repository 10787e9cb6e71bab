"""The commands that the documentation shows: found, taken apart, and what is needed to run them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "examples/README.md",
]
WHY_NOT = ("hub", "gpu", "service", "install", "slow")
"""Behind the mark of a block: why a test cannot run it."""
OPERATORS = {"|", ">", "&&", ";", "<"}
ELLIPSIS = ("...", "…")


@dataclass(frozen=True)
class Block:
    """A fenced block. language, why: what stands behind the fence. line: of the fence, from 1."""

    page: Path
    line: int
    language: str
    why: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """The lines that a person types, each whole."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        return [line for line in lines if line.strip() and not line.strip().startswith("#")]


def blocks(page: Path) -> list[Block]:
    found, opening = [], None
    lines = page.read_text("utf-8").splitlines()
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if opening is None:
            opening = number
        else:
            language, _, why = lines[opening][3:].strip().partition(" ")
            found.append(Block(page, opening + 1, language, why, "\n".join(lines[opening + 1 : number])))
            opening = None
    assert opening is None, f"{page}: a block does not end"
    return found


SHELL = ("sh", "console")
EVERY = [block for page in PAGES for block in blocks(page)]


def spans(page: Path) -> Iterator[str]:
    """Commands in running text: what stands in `backticks` and begins with km, blocks left out."""
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text("utf-8"))
    for span in re.findall(r"`([^`]+)`", text):
        if re.match(r"km( |$)", " ".join(span.split())):
            yield " ".join(span.split())
    for line in text.splitlines():
        if re.match(r"    (\$ )?km ", line):
            yield re.split(r"\s{2,}", line.strip())[0].removeprefix("$ ")  # what follows says what it does


def words_of(command: str) -> list[list[str]]:
    """A line of shell as its simple commands, each a list of words; what decides where output goes is left out."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    simple: list[list[str]] = [[]]
    skip = False
    for word in lexer:
        if skip:
            skip = False
        elif word in (">", "<"):
            skip = True
        elif word in OPERATORS:
            simple.append([])
        else:
            simple[-1].append(word)
    return [words for words in simple if words]


def km_commands(command: str) -> list[list[str]]:
    """The words behind `km` of every call of it in a line of shell."""
    found = []
    for words in words_of(command):
        while words and (words[0] in ("do", "then", "!") or re.fullmatch(r"[A-Z_]+=\S*", words[0])):
            words = words[1:]
        if words and words[0] == "km":
            found.append(words[1:])
    return found
