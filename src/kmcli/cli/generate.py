"""Writes man/, completions/, docs/reference.md and the README's table of commands: python -m kmcli.cli.generate.

With --check nothing is written; the exit code says whether everything is up to date.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kmcli.cli import completion, manpage, reference, shells
from kmcli.cli.app import argument_usage, arguments, grouped
from kmcli.cli.boundary import tree

ROOT = Path(__file__).parents[3]
"""The checkout: these files are made in it and shipped from it."""

SCRIPTS = {"bash": "km.bash", "zsh": "_km", "fish": "km.fish"}
OPENING, CLOSING = "<!-- commands -->", "<!-- /commands -->"


def generated(root: Path) -> dict[Path, str | None]:
    """Every generated file of a checkout with what it should hold; None: it should not be there."""
    commands = tree()
    files: dict[Path, str | None] = dict.fromkeys((root / "man").glob("*.[1-9]"))
    files |= {root / "man" / page.file: manpage.as_roff(page) for page in manpage.pages(commands)}
    found = completion.commands(commands)
    files |= {root / "completions" / SCRIPTS[shell]: write(found) for shell, write in shells.SHELLS.items()}
    files[root / "docs" / "reference.md"] = reference.page(commands)
    readme = root / "README.md"
    text = readme.read_text("utf-8") if readme.exists() else ""
    if OPENING in text and CLOSING in text:
        before, rest = text.split(OPENING, 1)
        after = rest.split(CLOSING, 1)[1]
        files[readme] = f"{before}{OPENING}\n{command_table(commands)}{CLOSING}{after}"
    return files


def command_table(commands: Any) -> str:
    """The verbs as a Markdown table."""
    lines = ["| command | what it does |", "|---|---|"]
    for verbs in grouped(commands).values():
        for name, command in verbs.items():
            usage = " ".join(["km", name, *map(argument_usage, arguments(command))])
            lines.append(f"| `{usage}` | {command.help.strip().splitlines()[0]} |")
    return "\n".join(lines) + "\n"


def stale(root: Path) -> list[Path]:
    """The generated files that are not what they should be."""
    return [
        path
        for path, wanted in generated(root).items()
        if (path.read_text("utf-8") if path.exists() else None) != wanted
    ]


def main(arguments: Sequence[str]) -> int:
    """Write the stale files, or name them and return 1 with --check."""
    check = "--check" in arguments
    wanted = generated(ROOT)
    paths = stale(ROOT)
    for path in paths:
        text = wanted[path]
        sys.stdout.write(
            f"{'stale' if check else 'written' if text is not None else 'removed'}: {path.relative_to(ROOT)}\n"
        )
        if check:
            continue
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
    return 1 if check and paths else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
