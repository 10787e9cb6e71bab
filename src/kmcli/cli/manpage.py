"""Manual pages from the tree of verbs: built once as sections, then written as roff or as plain text."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import typer

from kmcli import __version__, config
from kmcli.cli.app import argument_usage, arguments, grouped, options
from kmcli.errors import EXIT_CODES

WIDTH = 78
ROFF_WIDTH = 72
"""Of the source's lines, for those who read or compare it."""
DATE = "2026-11-21"
"""In the foot of every page: of the version, so that pages change only when their words do."""


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
    """name: km, km-VERB or a topic's. sections: headings with their blocks, in order. part: of the manual."""

    name: str
    sections: tuple[tuple[str, tuple[Block, ...]], ...]
    part: int = 1

    @property
    def file(self) -> str:
        return f"{self.name}.{self.part}"


def pages(root: Any) -> list[Page]:
    """Every page: km first, then the verbs as the help screen orders them, then the topics. root: boundary.tree()."""
    verbs = [name for commands in grouped(root).values() for name in commands]
    return [page(root), *(page(root, name) for name in (*verbs, *TOPICS))]


def page(root: Any, name: str | None = None) -> Page:
    """The page of `km`, of one of its verbs, or of a topic. Raises KeyError for what does not exist."""
    if name is None:
        return _main_page(root)
    return TOPICS[name]() if name in TOPICS else _verb_page(name, root)


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
            ("EXIT STATUS", _exit_codes()),
            ("ENVIRONMENT", tuple(environment)),
            ("SEE ALSO", (", ".join([*(f"km-{name}(1)" for name in names), "km-config(5)", "km-exit-codes(7)"]),)),
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
        ("SEE ALSO", ("km(1), km-config(5), km-exit-codes(7)",)),
    ]
    return Page(f"km-{verb}", tuple((heading, blocks) for heading, blocks in sections if blocks))


def _config_page() -> Page:
    settings: list[Block] = []
    for key, one in config.SETTINGS.items():
        value = f"Default: {one.default}." if one.default else f"No default; for example {one.example}."
        choices = f" One of {', '.join(one.choices)}." if one.choices else ""
        text = f"{one.help[:1].upper()}{one.help[1:]}.{choices} {value} In the environment: {one.variable}."
        settings.append(Item(key, text))
    return Page(
        "km-config",
        (
            ("NAME", ("km-config - the settings of km",)),
            ("SYNOPSIS", ("config.toml",)),
            (
                "DESCRIPTION",
                (
                    "A file in TOML with one setting a line, each a text in quotes. km config set KEY VALUE writes it and "
                    "keeps its comments; km config shows every setting and where it comes from; km config path says where "
                    "the file is.",
                    "A flag outranks the environment, which outranks the file, which outranks the default. When a Knowledge "
                    "Module is used, the recipe that it was trained with outranks them all. A key that km does not know is "
                    "an error.",
                ),
            ),
            ("SETTINGS", tuple(settings)),
            (
                "FILES",
                (
                    Item("$KM_HOME/config.toml", "Where KM_HOME is set."),
                    Item(
                        "$XDG_CONFIG_HOME/km/config.toml",
                        "Otherwise; XDG_CONFIG_HOME is ~/.config where it is not set.",
                    ),
                    Item("~/Library/Application Support/km/config.toml", "On macOS."),
                    Item("tasks/NAME.toml", "Beside it: a task of study material of one's own."),
                ),
            ),
            ("EXAMPLES", (Verbatim(('model = "Qwen/Qwen3-0.6B"', 'preset = "quick"')),)),
            ("SEE ALSO", ("km(1), km-config(1)",)),
        ),
        5,
    )


def _exit_codes_page() -> Page:
    return Page(
        "km-exit-codes",
        (
            ("NAME", ("km-exit-codes - what the exit codes of km mean",)),
            (
                "DESCRIPTION",
                (
                    "Every command of km ends with one of these. With --json the errors are also in the envelope, each with "
                    "its type, message, hint and exit code.",
                ),
            ),
            ("EXIT STATUS", _exit_codes()),
            (
                "EXAMPLES",
                (
                    "Train, and go on when it was interrupted:",
                    Verbatim(("km train report", "while [ $? -eq 5 ]; do km train report; done")),
                ),
            ),
            ("SEE ALSO", ("km(1)",)),
        ),
        7,
    )


TOPICS: Mapping[str, Callable[[], Page]] = {"config-file": _config_page, "exit-codes": _exit_codes_page}
"""Pages that are about no verb, by what `km man` calls them."""


def _exit_codes() -> tuple[Block, ...]:
    return tuple(Item(str(code), f"{meaning[:1].upper()}{meaning[1:]}.") for code, meaning in EXIT_CODES.items())


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
    """The page in man(7)'s language."""
    lines = [f'.TH {_roff(page.name.upper())} {page.part} {DATE} "km {__version__}" "km manual"']
    for heading, blocks in page.sections:
        lines.append(f".SH {heading}")
        for number, block in enumerate(blocks):
            if isinstance(block, Item):
                lines += [".TP", f"\\fB{_roff(block.term)}\\fR", *_filled(block.text)]
            elif isinstance(block, Verbatim):
                lines += [".nf", *map(_roff, block.lines), ".fi"]
            elif heading == "NAME":
                lines.append(_roff(block, keep_dash=True))
            else:
                lines += [".PP"] * (number > 0) + _filled(block)
    return "\n".join(lines) + "\n"


def _filled(text: str) -> list[str]:
    """A paragraph in lines, as roff reads them."""
    return [_roff(line) for line in textwrap.wrap(text, ROFF_WIDTH, break_on_hyphens=False)] or ["\\&"]


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
