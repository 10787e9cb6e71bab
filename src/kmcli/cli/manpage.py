"""Manual pages from the tree of verbs: built once as sections, then written as roff or as plain text."""

from __future__ import annotations

import inspect
import textwrap
from dataclasses import dataclass
from typing import Any

import typer

from kmcli import __version__, config
from kmcli.cli.app import argument_usage, arguments, grouped, options
from kmcli.errors import EXIT_CODES

WIDTH = 78


@dataclass(frozen=True, slots=True)
class Item:
    """A term and what it means."""

    term: str
    text: str


@dataclass(frozen=True, slots=True)
class Verbatim:
    """Lines that stay as they are."""

    lines: tuple[str, ...]


Block = str | Item | Verbatim
"""A paragraph, an item, or lines."""


@dataclass(frozen=True, slots=True)
class Page:
    """name: km or km-VERB. sections: headings with their blocks, in order."""

    name: str
    sections: tuple[tuple[str, tuple[Block, ...]], ...]


def pages(root: Any) -> list[Page]:
    """Every page: km first, then the verbs as the help screen orders them. root: boundary.tree()."""
    verbs = [name for commands in grouped(root).values() for name in commands]
    return [page(root), *(page(root, name) for name in verbs)]


def page(root: Any, verb: str | None = None) -> Page:
    """The page of `km`, or of one of its verbs. Raises KeyError for a verb that does not exist."""
    return _main_page(root) if verb is None else _verb_page(verb, root)


def _main_page(root: Any) -> Page:
    context = _context(root)
    commands: list[Block] = []
    for group, verbs in grouped(root).items():
        commands.append(f"{group}:")
        commands += [
            Item(" ".join([name, *map(argument_usage, arguments(command))]), _summary(command))
            for name, command in verbs.items()
        ]
    environment = [
        Item("KM_HOME", "One folder for library, settings and caches, instead of the platform's directories."),
        *(Item(one.variable, f"Setting {key}: {one.help}.") for key, one in config.SETTINGS.items()),
        Item("NO_COLOR", "When set, no escape codes are printed at all."),
    ]
    names = [name for verbs in grouped(root).values() for name in verbs]
    return Page(
        "km",
        (
            ("NAME", ("km - documents as Knowledge Modules of a language model",)),
            ("SYNOPSIS", ("km [OPTIONS] COMMAND [ARGUMENTS]",)),
            ("DESCRIPTION", tuple(_paragraphs(root))),
            ("COMMANDS", tuple(commands)),
            ("OPTIONS", tuple(_records(root, context))),
            ("EXAMPLES", (Verbatim(("km add report.pdf", "km train report", 'km ask report "question"')),)),
            ("EXIT STATUS", tuple(Item(str(code), f"{meaning}.") for code, meaning in EXIT_CODES.items())),
            ("ENVIRONMENT", tuple(environment)),
            ("SEE ALSO", (", ".join(f"km-{name}(1)" for name in names),)),
        ),
    )


def _verb_page(verb: str, root: Any) -> Page:
    command = root.commands[verb]
    context = typer.Context(command, info_name=verb, parent=_context(root))
    positional = [Item(argument_usage(param), param.help or "") for param in arguments(command)]
    examples = tuple(line.strip() for line in command.epilog.splitlines() if line.startswith("  "))
    sections: list[tuple[str, tuple[Block, ...]]] = [
        ("NAME", (f"km-{verb} - {_decapitalised(_summary(command))}",)),
        ("SYNOPSIS", (" ".join(["km", verb, "[OPTIONS]", *map(argument_usage, arguments(command))]),)),
        ("DESCRIPTION", tuple(_paragraphs(command))),
        ("ARGUMENTS", tuple(positional)),
        ("OPTIONS", tuple(_records(command, context))),
        ("EXAMPLES", (Verbatim(examples),)),
        ("EXIT STATUS", ("See km(1).",)),
    ]
    return Page(f"km-{verb}", tuple((heading, blocks) for heading, blocks in sections if blocks))


def _context(root: Any) -> typer.Context:
    return typer.Context(root, info_name="km", **root.context_settings)


def _summary(command: Any) -> str:
    """The first line of a command's help."""
    return inspect.cleandoc(command.help).splitlines()[0]


def _decapitalised(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:].rstrip(".")


def _paragraphs(command: Any) -> list[str]:
    return [" ".join(part.split()) for part in inspect.cleandoc(command.help).split("\n\n")]


def _records(command: Any, context: Any) -> list[Item]:
    return [Item(*param.get_help_record(context)) for param in [*options(command), command.get_help_option(context)]]


# --- roff


def as_roff(page: Page) -> str:
    """The page in man(7)'s language; no date in it, so that it changes only when its words do."""
    lines = [f'.TH {_roff(page.name.upper())} 1 "" "km {__version__}" "km manual"']
    for heading, blocks in page.sections:
        lines.append(f".SH {heading}")
        for block in blocks:
            if isinstance(block, Item):
                lines += [".TP", f"\\fB{_roff(block.term)}\\fR", _roff(block.text) or "\\&"]
            elif isinstance(block, Verbatim):
                lines += [".nf", *map(_roff, block.lines), ".fi"]
            else:
                lines += (
                    [".PP", _roff(block)] if heading not in ("NAME", "SYNOPSIS") else [_roff(block, heading == "NAME")]
                )
    return "\n".join(lines) + "\n"


def _roff(text: str, keep_dash: bool = False) -> str:
    r"""Text as roff reads it: backslashes and hyphens escaped, and no line that begins like a request.

    keep_dash: leaves the " - " of the NAME section, by which indexes find name and summary.
    """
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    if keep_dash:
        name, dash, summary = text.partition(" - ")
        escaped = _roff(name) + dash.replace("-", "\\-") + _roff(summary)
    return "\\&" + escaped if escaped[:1] in (".", "'") else escaped


# --- text


def as_text(page: Page) -> str:
    """The page for where there is no `man`, or where the output is read by a program."""
    parts = []
    for heading, blocks in page.sections:
        shown = [_text(block) for block in blocks]
        parts.append(heading + "\n" + ("\n\n" if heading == "DESCRIPTION" else "\n").join(shown))
    return "\n\n".join(parts) + "\n"


def _text(block: Block) -> str:
    if isinstance(block, Item):
        meaning = textwrap.fill(block.text, WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8)
        return f"    {block.term}" + (f"\n{meaning}" if block.text else "")
    if isinstance(block, Verbatim):
        return "\n".join(f"    {line}" for line in block.lines)
    return textwrap.fill(block, WIDTH, initial_indent="    ", subsequent_indent="    ")
