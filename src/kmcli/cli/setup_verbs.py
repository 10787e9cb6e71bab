"""models, config, doctor, man, completion: setting km up."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kmcli import config
from kmcli.cli import render
from kmcli.cli.app import opened, verb
from kmcli.cli.screen import Screen, columns, is_terminal
from kmcli.errors import KmError, UsageError, did_you_mean

if TYPE_CHECKING:
    from kmcli.workflows.models import ModelEntry

GROUP = "Setup"
Action = Literal["show", "get", "set", "unset", "path"]
CONFIG_WORDS = {"show": (), "get": ("KEY",), "set": ("KEY", "VALUE"), "unset": ("KEY",), "path": ()}


@verb(
    GROUP,
    "km models",
    "km models pull Qwen/Qwen2.5-0.5B-Instruct",
    "km config set model Qwen/Qwen3-0.6B",
    name="models",
)
def models_(
    screen: Screen,
    action: Annotated[Literal["ls", "pull"], typer.Argument(metavar="ACTION", help="ls or pull.")] = "ls",
    name: Annotated[str | None, typer.Argument(metavar="MODEL", help="With pull: a name on the hub.")] = None,
) -> object:
    """List base models: here, worth downloading, in use; or pull one.

    Memory is what training takes, reckoned from the weights. pull downloads a base into the hub's own cache; what was cut is
    gone on with.
    """
    from kmcli.workflows import models

    if (name is not None) != (action == "pull"):
        takes = "a name on the hub" if action == "pull" else "nothing more"
        raise UsageError(f"km models {action} takes {takes}.", "For example: km models pull Qwen/Qwen2.5-0.5B-Instruct")
    if name is not None:
        with opened(screen) as house:
            pulled = models.pull(house, name)
        screen.write(
            f"{'downloaded' if pulled.downloaded else 'here already'}  {pulled.name}  {render.size(pulled.bytes)}"
        )
        screen.note(f"Next: km config set model {pulled.name}, or --model {pulled.name} for one command.")
        return render.as_data(pulled)
    with opened(screen) as house:
        entries = models.models(house)
    _list_models(screen, entries)
    return [render.as_data(entry) for entry in entries]


def _list_models(screen: Screen, entries: Sequence[ModelEntry]) -> None:
    here, recommended, files = (
        [entry for entry in entries if entry.kind == kind] for kind in ("here", "recommended", "gguf")
    )
    rows = [
        [
            "*" if entry.in_use else "",
            entry.name,
            f"{entry.title} {entry.version}".strip() or "-",
            render.size(entry.bytes) if entry.bytes else "-",
            entry.note,
        ]
        for entry in here
    ]
    screen.table(rows, ["", "NAME", "VERSION", "SIZE", "NOTE"], right=(3,), flex=4)
    if recommended:
        screen.write("\nTo download, by the memory that training takes here:")
        rows = [["", one.name, render.size(one.bytes), render.size(one.memory), one.note] for one in recommended]
        screen.table(rows, ["", "NAME", "SIZE", "MEMORY", "NOTE"], right=(2, 3), flex=4)
    if files:
        screen.write("\nOther programs' files, which can write study material but be no base:")
        rows = [["", one.name, render.size(one.bytes), str(one.path), one.note] for one in files]
        screen.table(rows, ["", "NAME", "SIZE", "PATH", "NOTE"], right=(2,), flex=(3, 4))
    screen.note(
        "* is in use. Another one: km config set model NAME, or --model NAME for one command. NAME is a folder, or a name "
        "on the Hugging Face hub, such as Qwen/Qwen3-0.6B."
    )


@verb(GROUP, "km config", "km config set model Qwen/Qwen3-0.6B", "km config unset model", name="config")
def config_(
    screen: Screen,
    action: Annotated[Action, typer.Argument(metavar="ACTION", help="show, get, set, unset or path.")] = "show",
    key: Annotated[
        str | None, typer.Argument(metavar="KEY", help="A setting: " + ", ".join(config.SETTINGS) + ".")
    ] = None,
    value: Annotated[str | None, typer.Argument(metavar="VALUE", help="What to set it to.")] = None,
) -> object:
    """Show settings and where each comes from, or change one.

    A flag outranks the environment, which outranks the file, which outranks the default.
    """
    needed = CONFIG_WORDS[action]
    given = [word for word in (key, value) if word is not None]
    if len(given) != len(needed):
        raise UsageError(f"km config {action} takes {' and '.join(needed) or 'nothing more'}.", _usage(action))
    if action == "path":
        path = str(config.config_file())
        screen.write(path)
        return {"path": path}
    if action == "show" or key is None:
        resolved = config.resolve()
        screen.table(
            [[name, one.value or "-", one.origin] for name, one in resolved.items()],
            ["SETTING", "VALUE", "FROM"],
            flex=2,
        )
        return render.as_data(resolved)
    if action == "get":
        if key not in config.SETTINGS:
            known = "Known settings: " + ", ".join(config.SETTINGS) + "."
            raise UsageError(f"there is no setting {key!r}.", did_you_mean(key, config.SETTINGS, known))
        screen.write(config.resolve()[key].value)
        return {key: render.as_data(config.resolve()[key])}
    path = str(config.store(key, value))
    screen.note(f"{'Set' if action == 'set' else 'Removed'} {key} in {path}.")
    return {"path": path, "key": key, "value": value}


def _usage(action: str) -> str:
    return "Write " + " ".join(["km config", action, *CONFIG_WORDS[action]]) + "."


@verb(GROUP, "km doctor", "km doctor --repair")
def doctor(
    screen: Screen, repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False
) -> object:
    """Check the installation and the library."""
    from kmcli.workflows import setup

    with opened(screen) as house:
        checks = setup.doctor(house, repair)
    marks = {"ok": "ok", "warn": "warning", "bad": "problem"}
    subject = max((len(check.subject) for check in checks), default=0)
    width, indent = columns(sys.stdout), 9 + subject + 2
    for check in checks:
        lead = f"{marks[check.status]:<7}  {check.subject:<{subject}}  "
        screen.write(render.wrapped(check.message, width, indent, lead), bold=check.status == "bad")
        if check.hint and check.status != "ok":
            screen.write(render.wrapped(check.hint, width, indent))
    bad = sum(check.status == "bad" for check in checks)
    if bad:
        again = "" if repair else " km doctor --repair mends what it can."
        screen.note(f"{render.count(bad, 'problem')} found.{again}")
        screen.exit_code = KmError.exit_code
    return [render.as_data(check) for check in checks]


@verb(GROUP, "km man", "km man train", "km man exit-codes")
def man(
    screen: Screen,
    command: Annotated[
        str | None,
        typer.Argument(metavar="COMMAND", help="Whose page, or config-file or exit-codes; left out: the page of km."),
    ] = None,
) -> object:
    """Show the manual."""
    from kmcli.cli import manpage
    from kmcli.cli.boundary import tree

    root = tree()
    known = [*(name for name, one in root.commands.items() if not one.hidden), *manpage.TOPICS]
    if command is not None and command not in known:
        raise UsageError(f"there is no page {command!r}.", did_you_mean(command, known, "km --help names them."))
    page = manpage.page(root, command)
    text = manpage.as_text(page)
    if is_terminal(sys.stdout) and shutil.which("man") and not screen.json:
        subprocess.run(["man", "-l", "-"], input=manpage.as_roff(page), text=True, encoding="utf-8", check=False)
    else:
        screen.write(text, end="")
    return {"page": page.name, "text": text}


@verb(GROUP, "km completion bash > ~/.local/share/bash-completion/completions/km", name="completion")
def completion_(
    screen: Screen,
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> object:
    """Print a shell's completion script.

    It completes commands, options and the names of documents. bash: as in the example. zsh: save it as _km in a folder
    of $fpath. fish: save it as ~/.config/fish/completions/km.fish.
    """
    from kmcli.cli import completion, shells
    from kmcli.cli.boundary import tree

    script = shells.SHELLS[shell](completion.commands(tree()))
    screen.write(script, end="")
    return {"shell": shell, "script": script}
