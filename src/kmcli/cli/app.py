"""The Typer app, and what makes a function a verb of it.

To add a verb: write a function that takes a Screen first and returns what `--json` prints as data, in the *_verbs.py of
its group, under @verb(group, examples...). Its docstring's first line is its help. `make generate` does the rest.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from kmcli.cli.progress import Reporter
from kmcli.cli.screen import Screen, may_style, styled, terminal_size
from kmcli.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from kmcli.workflows.house import House

GROUPS = ("Library", "Knowledge Modules", "Use", "Share", "Setup", "Research")
FIRST = ("add", "ls", "show", "train", "ask", "chat", "compare", "search", "serve", "export", "models", "doctor")
"""The verbs that km --help explains; it names the others beside them, so that all of it is one screen of 24 lines."""
MATERIAL, TRAINED, MANY = "Study material", "What is trained", "Several GPUs or machines"
"""Panels of options that most people never need: help, manual and reference show them after the others."""
PANELS = ("", MATERIAL, TRAINED, MANY)

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Errors and warnings only: no progress, no messages.")]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="Base: embedded, a hub name or a folder (km models)."),
]
Device = Annotated[
    str | None, typer.Option("--device", metavar="DEVICE", help="Where to compute: auto, cpu, cuda or mps.")
]
Processes = Annotated[
    str | None,
    typer.Option(
        "--processes", metavar="N", help="So many share each step, one a GPU; default 1.", rich_help_panel=MANY
    ),
]
UseExtractor = Annotated[
    str | None, typer.Option("--extractor", metavar="EXTRACTOR", help="Answer with this Knowledge Extractor as well.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A document's name, as km ls shows it.")]


NARROW = 60
"""Columns below which the help's descriptions begin further left."""
LONGEST = 24
"""Columns of an option that its description begins beside, and not below; all panels begin theirs in the same column."""


class Fitting:
    """A command whose help is as wide as the terminal, also where that is narrower than the 50 columns of the parser."""

    def get_help(self, ctx: Any) -> str:
        ctx.terminal_width = max(20, min(80, terminal_size().columns)) - 2
        return super().get_help(ctx)  # type: ignore[misc]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        if formatter.width < NARROW:
            formatter.write_dl = functools.partial(formatter.write_dl, col_max=12)
        super().format_help(ctx, formatter)  # type: ignore[misc]


class Verb(Fitting, TyperCommand):
    """A command whose usage line reads like a manual: NAME [QUESTION], without braces."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["[OPTIONS]", *(argument_usage(param) for param in arguments(self))]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The arguments, then the options by panel: those for everybody stand on the first screen."""
        help_option = self.get_help_option(ctx)
        sections = [("Arguments", arguments(self))]
        for panel, of_panel in panels(self).items():
            sections.append((panel or "Options", [*of_panel, *([] if panel else [help_option])]))
        written = [
            (heading, [param.get_help_record(ctx) for param in params]) for heading, params in sections if params
        ]
        terms = [len(term) for heading, rows in written for term, _ in rows if heading != "Arguments"]
        column = max((length for length in terms if length <= LONGEST), default=0) if formatter.width >= NARROW else 0
        aligned = {"col_max": column} if column else {}
        for heading, rows in written:
            with formatter.section(heading):
                formatter.write_dl([(term.ljust(column), text) for term, text in rows], **aligned)


class Verbs(Fitting, TyperGroup):
    """The top command: shows its verbs by group, and suggests the nearest one for a verb that does not exist."""

    command_class = Verb

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["[-h] [--version] COMMAND [ARGUMENTS]"]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The verbs; the two options stand in the usage line."""
        formatter.write_paragraph()
        for group, commands in grouped(self).items():
            shown = [(f"{name:<8}", one.get_short_help_str(70)) for name, one in commands.items() if name in FIRST]
            others = ", ".join(name for name in commands if name not in FIRST)
            heading = styled(group, "1", may_style(sys.stdout))
            formatter.write(heading + (f" (also {others})" if shown and others else f" ({others})" if others else ""))
            formatter.write("\n")
            formatter.indent()
            if shown:
                formatter.write_dl(shown)
            formatter.dedent()

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        word = args[0]
        if self.get_command(ctx, word) is None and not word.startswith("-"):
            visible = [name for name, command in self.commands.items() if not command.hidden]
            raise UsageError(f"there is no command {word!r}.", did_you_mean(word, visible, "km --help lists them."))
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Verbs,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@contextmanager
def opened(screen: Screen, **flags: str | None) -> Iterator[House]:
    """The library and settings for one command, with its progress on the screen until the block ends."""
    from kmcli.workflows.house import open_house

    with Reporter(screen) as report, open_house(flags, report) as house:
        yield house


def arguments(command: Any) -> list[Any]:
    """The positional parameters of a command that people see."""
    return [param for param in command.params if param.param_type_name == "argument" and not param.hidden]


def options(command: Any) -> list[Any]:
    """The options of a command that people see, --help excepted, panel by panel."""
    return [param for of_panel in panels(command).values() for param in of_panel]


def panels(command: Any) -> dict[str, list[Any]]:
    """The options of a command that people see, --help excepted, by panel; "" is the first."""
    seen = [param for param in command.params if param.param_type_name == "option" and not param.hidden]
    found = {panel: [param for param in seen if (param.rich_help_panel or "") == panel] for panel in PANELS}
    return {panel: params for panel, params in found.items() if params}


def argument_usage(param: Any) -> str:
    """How a positional argument stands in a usage line: NAME, [QUESTION], NAME..."""
    shown = str(param.metavar or param.name).removesuffix("...") + ("..." if param.nargs == -1 else "")
    return shown if param.required else f"[{shown}]"


def grouped(tree: Any) -> dict[str, dict[str, Any]]:
    """The verbs that people see, by group, in the order of the help screen. tree: the command of `app`."""
    groups: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    for name, command in tree.commands.items():
        if not command.hidden:
            groups[command.rich_help_panel][name] = command
    return {group: commands for group, commands in groups.items() if commands}


def verb(
    group: str, *examples: str, name: str = "", aliases: Sequence[str] = ()
) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """Make a function a verb: it gains --json and -q, and its first parameter, `screen`, is filled in.

    What the function returns becomes the envelope's data. aliases: names that work but are shown nowhere.
    """

    def register(function: Callable[..., object]) -> Callable[..., object]:
        own = name or function.__name__

        @functools.wraps(function)
        def run(context: typer.Context, json_output: bool, quiet: bool, **given: object) -> None:
            screen: Screen = context.obj
            screen.command, screen.json, screen.quiet = own, json_output, quiet
            screen.close(function(screen, **given))

        kind = inspect.Parameter.KEYWORD_ONLY
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter("context", kind, annotation=typer.Context),
                *(
                    parameter.replace(kind=kind)
                    for parameter in inspect.signature(function, eval_str=True).parameters.values()
                    if parameter.name != "screen"
                ),
                inspect.Parameter("json_output", kind, default=False, annotation=Json),
                inspect.Parameter("quiet", kind, default=False, annotation=Quiet),
            ]
        )
        epilog = "\b\n" + "\n".join(["Examples:", *(f"  {example}" for example in examples)])
        for word in (own, *aliases):
            app.command(word, cls=Verb, rich_help_panel=group, epilog=epilog, hidden=word != own)(run)
        return function

    return register
