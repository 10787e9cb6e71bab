"""docs/reference.md from the tree of verbs, the settings, the recipe and the exit codes: written by cli/generate.py."""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields
from itertools import pairwise
from typing import Any

from kmcli import config, types
from kmcli.cli import manpage
from kmcli.cli.app import grouped
from kmcli.errors import EXIT_CODES
from kmcli.types import Recipe

HEAD = """\
# Reference

Every command, setting, field of a recipe and exit code. This page is written from the program by
`python -m kmcli.cli.generate`, and a test holds it to that: change the program, not the page.

"""
ENVELOPE = """\
## The envelope of `--json`

One JSON object on stdout, and nothing else there: `schema` (1), `command`, `data` (the result, `null` after an error),
`messages` (what would have been said on stderr), and `errors`, each with `type`, `message`, `hint`
and `exit_code`.

"""
LEFT_OUT = ("NAME", "SYNOPSIS", "EXIT STATUS", "SEE ALSO")
"""Sections of a manual page that the heading of a verb says, or this page says once."""


def page(root: Any) -> str:
    """The whole page. root: boundary.tree()."""
    parts = [HEAD, _contents(root)]
    for group, verbs in grouped(root).items():
        parts.append(f"## {group}\n\n")
        parts += [_verb(manpage.page(root, name)) for name in verbs]
    return "".join([*parts, _settings(), _recipe(), _exit_codes(), ENVELOPE.rstrip("\n") + "\n"])


def _contents(root: Any) -> str:
    lines = [
        f"- {group}: " + ", ".join(f"[`{name}`](#km-{name})" for name in verbs)
        for group, verbs in grouped(root).items()
    ]
    others = (
        "[settings](#settings), [recipe](#recipe), [exit codes](#exit-codes), [the envelope](#the-envelope-of---json)"
    )
    return "\n".join([*lines, f"- {others}"]) + "\n\n"


def _verb(told: manpage.Page) -> str:
    sections = dict(told.sections)
    lines = [f"### {told.name.replace('-', ' ', 1)}", "", "```text", str(sections["SYNOPSIS"][0]), "```", ""]
    for heading, blocks in told.sections:
        if heading in LEFT_OUT:
            continue
        for block in blocks:
            if isinstance(block, manpage.Verbatim):
                lines += ["For example:", "", "```text", *block.lines, "```", ""]
            elif isinstance(block, str):
                lines += [block, ""]
        items = [block for block in blocks if isinstance(block, manpage.Item)]
        if items:
            lines += [f"| {heading.lower().removesuffix('s')} | |", "|---|---|"]
            lines += [f"| `{_cell(item.term)}` | {_cell(item.text)} |" for item in items]
            lines.append("")
    return "\n".join(lines) + "\n"


def _settings() -> str:
    lines = [
        "## Settings",
        "",
        "`km config` shows and changes them. A flag outranks the environment, which outranks the file, which outranks the",
        "default. `KM_HOME` moves library, settings and caches into one folder; `NO_COLOR` turns escape codes off.",
        "",
        "| setting | environment | default | what it is |",
        "|---|---|---|---|",
    ]
    for key, one in config.SETTINGS.items():
        choices = f": {', '.join(one.choices)}" if one.choices else ""
        lines.append(
            f"| `{key}` | `{one.variable}` | {f'`{one.default}`' if one.default else ''} | {one.help}{choices} |"
        )
    return "\n".join(lines) + "\n\n"


def _recipe() -> str:
    from kmcli.training import recipes

    lines = [
        "## Recipe",
        "",
        "What `--set KEY=VALUE` and a recipe file may say, with the defaults; a base's card and a preset change some of",
        "them. Fields that km fills in itself are left out. [design.md](design.md#recipes) says how it is put together.",
        "",
        "| key | default | what it is |",
        "|---|---|---|",
    ]
    told = _told(Recipe)
    for field in fields(Recipe):
        if field.name not in recipes._FIXED:
            value = getattr(Recipe(), field.name)
            shown = (
                ",".join(value)
                if isinstance(value, tuple)
                else str(value).lower()
                if isinstance(value, bool)
                else value
            )
            default = f"`{shown}`" if shown != "" else ""
            lines.append(f"| `{field.name}` | {default} | {_cell(told.get(field.name, ''))} |")
    return "\n".join(lines) + "\n\n"


def _told(record: type) -> dict[str, str]:
    """What the source says of a record's fields, in the strings below them."""
    tree = ast.parse(inspect.getsource(types))
    (body,) = [node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == record.__name__]
    found: dict[str, str] = {}
    for field, following in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(following, ast.Expr):
            text = ast.literal_eval(following.value)
            found[field.target.id] = " ".join(text.split())  # type: ignore[union-attr]
    return found


def _exit_codes() -> str:
    rows = "".join(f"| {code} | {meaning} |\n" for code, meaning in EXIT_CODES.items())
    return f"## Exit codes\n\n| code | |\n|---|---|\n{rows}\n"


def _cell(text: str) -> str:
    """A cell of a table: no bar and no line break may end it."""
    return " ".join(text.split()).replace("|", "\\|")
