"""main(): runs one command. The one place where an error becomes a sentence and an exit code."""

from __future__ import annotations

import os
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import typer

from kmcli import config
from kmcli.cli import render, start
from kmcli.cli.app import app
from kmcli.cli.screen import Screen, tolerant_streams
from kmcli.errors import KmError, UsageError, did_you_mean

VERBS = {
    "ask_verb": ("ask",),
    "chat_verb": ("chat",),
    "compare_verb": ("compare",),
    "eval_verb": ("eval",),
    "compressor_verb": ("compressor",),
    "extractor_verb": ("extractor",),
    "library_verbs": ("add", "ls", "show"),
    "shelf_verbs": ("tag", "mv", "rm"),
    "module_verbs": ("train", "distill", "synth", "synthesize"),
    "search_verb": ("search",),
    "serve_verb": ("serve",),
    "setup_verbs": ("models", "config", "doctor", "man", "completion"),
    "share_verbs": ("export", "import"),
    "watch_verb": ("watch",),
}
"""By module, in the order of the help; importing a module makes its functions verbs of `app`."""

_CommandLineError: type[Exception] = typer.BadParameter.__mro__[1]
"""The base class of Typer's own usage errors, which it does not export."""


def tree(word: str = "") -> Any:
    """The command of the whole app, with every verb: what the manual and the completion scripts are made from.

    word: a verb; the others may be missing then, which spares `km ask` the time to build them.
    """
    order = [f"{start.__package__}.{module}" for module in VERBS]
    for module in [module for module, verbs in VERBS.items() if word in verbs] or VERBS:
        import_module(f"{start.__package__}.{module}")
    app.registered_commands.sort(key=lambda command: order.index(command.callback.__module__))
    return typer.main.get_command(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `km` with the given words (default: those of the process) and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    tolerant_streams()
    if not sys.warnoptions:  # what libraries tell those who write programs about their next versions
        warnings.simplefilter("ignore", FutureWarning)
    # The command line may turn out to make no sense, and then too --json must be obeyed.
    screen = Screen(next((word for word in words if not word.startswith("-")), ""), "--json" in words)
    try:
        try:
            _run(words, screen)
        except KmError as error:
            _fail(screen, error)
    except KeyboardInterrupt:
        screen.remark("\nkm: stopped.")
        return 130
    except BrokenPipeError:
        # Whoever read the output has seen enough. Python would complain when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        _fail(screen, _refused(error) or _bug(screen, error))
    except Exception as error:  # noqa: BLE001  (the boundary: a bug keeps its traceback and says that it is one)
        _fail(screen, _bug(screen, error))
    return screen.exit_code


def _run(words: list[str], screen: Screen) -> None:
    command = tree(words[0] if words else "")
    try:
        with command.make_context("km", words, obj=screen) as context:
            command.invoke(context)
    except typer.Exit as end:
        screen.exit_code = end.exit_code
    except _CommandLineError as error:
        raise _usage_error(error, [word for word in words if not word.startswith("-")]) from None


_EXTRA = re.compile(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", re.DOTALL)
"""As Typer and Click, whichever parses, have it in their versions."""


def _usage_error(error: Any, words: Sequence[str]) -> UsageError:
    """Typer's complaint in our words: one sentence, and where to look."""
    path = error.ctx.command_path if error.ctx is not None else " ".join(["km", *words[:1]])
    unknown = getattr(error, "option_name", "")
    if unknown and hasattr(error, "possibilities"):
        if unknown == "--json" and path == "km":
            return UsageError("--json stands behind the command.", "For example: km ls --json")
        near = did_you_mean(unknown, error.possibilities or (), f"See {path} --help.")
        return UsageError(f"there is no option {render.one_line(unknown)!r} of {path}.", near)
    if extra := _EXTRA.fullmatch(error.format_message()):
        words = render.one_line(extra[1])
        has_tags = any("--tag" in option.opts for option in error.ctx.command.params)
        tagged = has_tags and words.startswith("@") and " " not in words
        hint = f"For a tag: {path} --tag {words[1:]}" if tagged else f"See {path} --help."
        return UsageError(f"{path} takes no more words, and got {words!r}.", hint)
    message = render.one_line(error.format_message())
    message = message.replace("a valid int range", "a whole number").replace("a valid float range", "a number")
    return UsageError(message[:1].lower() + message[1:].rstrip(".") + ".", f"See {path} --help.")


def _refused(error: OSError) -> KmError | None:
    """What a disk has refused, wherever nobody thought of it: the full one is no bug."""
    from kmcli.library import files  # not needed by most commands before they fail

    home = config.home()
    if isinstance(error, FileNotFoundError) and home.is_dir():
        return None
    return files.refused(
        error, Path(error.filename).parent if isinstance(error.filename, str) and home.is_dir() else home
    )


def _bug(screen: Screen, error: Exception) -> KmError:
    screen.remark("".join(traceback.format_exception(error)).rstrip())
    return KmError(f"this is a bug in km ({type(error).__name__}).", "Please report it with the lines above.")


def _fail(screen: Screen, error: KmError) -> None:
    screen.fail(error)
    screen.exit_code = error.exit_code
    screen.close(None)
