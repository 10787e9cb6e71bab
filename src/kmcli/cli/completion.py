"""Completion scripts for bash, zsh and fish from the tree of verbs.

They hold every verb and option, and read the documents' names, and the tags as @TAG, from the library's `names` file:
pressing TAB starts no Python.
This module says what can stand where; `shells` writes it down for each shell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from kmcli import config
from kmcli.cli import manpage
from kmcli.cli.app import arguments, grouped, options
from kmcli.types import AdapterName, ObjectiveName, TaskName

Kind = Literal["name", "names", "tag", "task", "model", "file", "word", "none"]


@dataclass(frozen=True, slots=True)
class Value:
    """What can stand in one place: a document's name (`names`: or @TAG), a tag, a task, a model, a file, one of `words`, or
    anything. Of tasks and models `words` are those that every installation has."""

    kind: Kind
    words: tuple[str, ...] = ()


OPTIONS: Mapping[str, Value] = {
    "--model": Value("model", ("embedded",)),
    "--teacher": Value("model"),
    "--judge": Value("model"),
    "--task": Value("task", get_args(TaskName)),
    "--objective": Value("word", get_args(ObjectiveName)),
    "--adapter": Value("word", get_args(AdapterName)),
    "--distil-from": Value("word", ("base", "teacher")),
    "--retriever": Value("word", ("bm25", "dense", "hybrid")),
    "--update": Value("name"),
    "--forgetting": Value("name"),
    "--document": Value("name"),
    "--init": Value("names"),
    "--api-key": Value("none"),
}
"""What completes an option of which neither its type nor its metavar says it."""


@dataclass(frozen=True, slots=True)
class Option:
    """flags: all spellings. value: None for an option that takes none."""

    flags: tuple[str, ...]
    help: str
    value: Value | None


@dataclass(frozen=True, slots=True)
class Command:
    """positions: the positional arguments, up to one that may repeat: where `repeats`, the last one does."""

    name: str
    help: str
    options: tuple[Option, ...]
    positions: tuple[Value, ...]
    repeats: bool


def commands(root: Any) -> list[Command]:
    """The verbs of boundary.tree() as the scripts need them."""
    verbs = [(name, command) for group in grouped(root).values() for name, command in group.items()]
    names = tuple(name for name, _ in verbs)
    return [_command(name, command, names) for name, command in verbs]


def _command(name: str, command: Any, verbs: tuple[str, ...]) -> Command:
    positions: list[Any] = []
    for param in arguments(command):
        positions.append(param)
        if param.nargs == -1:
            break
    own = [
        Option((*param.opts, *param.secondary_opts), param.help or "", _value(param, verbs))
        for param in options(command)
    ]
    return Command(
        name,
        command.help.strip().splitlines()[0].rstrip("."),
        (*own, Option(("-h", "--help"), "Show this message and exit.", None)),
        tuple(_value(param, verbs) or Value("none") for param in positions),
        bool(positions) and positions[-1].nargs == -1,
    )


def _value(param: Any, verbs: tuple[str, ...]) -> Value | None:
    """What completes a parameter: its choices, or what its metavar says it is."""
    if getattr(param, "is_flag", False):
        return None
    choices = getattr(param.type, "choices", ())
    if choices:
        return Value("word", tuple(str(choice) for choice in choices))
    known = OPTIONS.get(param.opts[-1])
    if known is not None:
        return known
    setting = config.SETTINGS.get(str(param.name))
    if setting is not None and setting.choices:
        return Value("word", setting.choices)
    by_metavar: Mapping[str, Value] = {
        "SOURCE": Value("file"),
        "FILE": Value("file"),
        "FOLDER": Value("file"),
        "PATH": Value("file"),
        "KEY": Value("word", tuple(config.SETTINGS)),
        "COMMAND": Value("word", (*verbs, *manpage.TOPICS)),
        "OLD": Value("name"),
        "DOCUMENT": Value("names"),
        "TAG": Value("tag"),
        "NAME": Value("none" if param.param_type_name == "option" else "names" if param.nargs == -1 else "name"),
    }
    return by_metavar.get(str(param.metavar).removesuffix("..."), Value("none"))
