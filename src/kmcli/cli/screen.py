"""What goes to which stream. Data to stdout; everything else, and every escape code's permission, is decided here."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from kmcli.cli import render
from kmcli.errors import KmError, ResourceError


def tolerant_streams() -> None:
    """A glyph that the terminal or pipe cannot encode becomes "?" instead of a crash; a stream that was closed before the
    start, as by some schedulers, is empty, or takes what it is given."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, _nothing(mode))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def is_terminal(stream: TextIO | None) -> bool:
    # While bars are drawn rich stands in for the stream; before rich 15 that is no terminal, whatever is behind it.
    stream = getattr(stream, "rich_proxied_file", stream)
    return stream is not None and not stream.closed and stream.isatty()


def may_style(stream: TextIO) -> bool:
    """Escape codes only on a terminal that understands them, and never with NO_COLOR."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def columns(stream: TextIO) -> int | None:
    """The width of the terminal that a stream is; None for a pipe or file, where nothing is cut or wrapped."""
    return terminal_size().columns if is_terminal(stream) else None


def terminal_size() -> os.terminal_size:
    """80 columns and 24 lines where a terminal does not say: Python 3.10 takes its 0 for an answer."""
    found = shutil.get_terminal_size()
    return os.terminal_size((found.columns or 80, found.lines or 24))


class Screen:
    """One run of one command, as the person or the calling program sees it.

    With --json nothing but the envelope goes to stdout; messages and errors are collected for it. Everything written is
    cleaned (render.clean), so no verb has to think of what a document or a model may have put into its text.
    """

    def __init__(self, command: str, json_output: bool = False, quiet: bool = False) -> None:
        self.command = command
        self.json = json_output
        self.quiet = quiet
        self.exit_code = 0
        self.messages: list[str] = []
        self.errors: list[dict[str, Any]] = []

    @property
    def interactive(self) -> bool:
        """Whether a person can be asked something."""
        return is_terminal(sys.stdin) and is_terminal(sys.stderr)

    @property
    def animated(self) -> bool:
        """Whether progress bars may be drawn."""
        return may_style(sys.stderr) and not self.quiet

    # --- stdout: the data

    def write(self, text: str, end: str = "\n", bold: bool = False) -> None:
        """A piece of the result, for people; nothing with --json."""
        if not self.json:
            with _stored():
                sys.stdout.write(styled(render.clean(text), "1", bold and may_style(sys.stdout)) + end)
                sys.stdout.flush()

    def table(
        self,
        rows: Sequence[Sequence[str]],
        headers: Sequence[str] = (),
        right: Sequence[int] = (),
        flex: int | Sequence[int] = 0,
    ) -> None:
        """Aligned rows, under bold headers where given; cut to the terminal's width, and not at all in a pipe."""
        if self.json:
            return
        lines = render.table([headers, *rows] if headers else rows, right, columns(sys.stdout), flex)
        for index, line in enumerate(lines):
            self.write(line, bold=bool(headers) and index == 0)

    def paragraph(self, text: str) -> None:
        """A longer sentence of the result, wrapped to the terminal."""
        self.write(render.wrapped(text, columns(sys.stdout)))

    def facts(self, pairs: Sequence[tuple[str, str]], indent: str = "") -> None:
        """Names and values, one pair a line; pairs without a value are left out."""
        shown = [(name, value) for name, value in pairs if value]
        widest = max([14, *(len(name) for name, _ in shown)])  # so that blocks one below the other line up
        for name, value in shown:
            first = f"{indent}{name:<{widest}}  "
            self.write(render.wrapped(value, columns(sys.stdout), len(first), first))

    # --- stderr: everything else

    def note(self, text: str) -> None:
        """A sentence for the person: hidden by -q, part of the envelope."""
        self.messages.append(text)
        if not self.quiet:
            self._sentence(text)

    def warn(self, text: str) -> None:
        """A sentence that -q does not hide."""
        self.messages.append(text)
        self._sentence(text)

    def remark(self, text: str, dim: bool = False) -> None:
        """Something on stderr that is neither result nor message: evidence, a progress line."""
        with contextlib.suppress(BrokenPipeError):  # hours of training must not end because nobody reads its progress
            sys.stderr.write(styled(render.clean(text), "2", dim and may_style(sys.stderr)) + "\n")
            sys.stderr.flush()

    def fail(self, error: KmError, source: str = "") -> None:
        """One error: `km: message hint` on stderr, an entry in the envelope."""
        self.errors.append(render.error_data(error, source))
        named = "" if not source or source in error.message else f"{source}: "
        self._sentence(f"km: {named}{error}")

    def _sentence(self, text: str) -> None:
        self.remark(render.wrapped(text, columns(sys.stderr)))

    def confirm(self, question: str) -> bool:
        """Ask yes or no; only y and yes are yes. The caller makes sure that the screen is interactive."""
        return self.read_line(f"{question} [y/N] ").lower() in ("y", "yes")

    def read_line(self, prompt: str) -> str:
        """A line from the person, without surrounding blanks."""
        sys.stderr.write(render.clean(prompt))
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:  # Ctrl-D, which leaves the cursor where it is
            sys.stderr.write("\n")
        return line.strip()

    def close(self, data: Any) -> None:
        """The end of the command: prints the envelope with --json. ASCII only, so that no pipe can fail on it."""
        if self.json:
            envelope = {
                "schema": 1,
                "command": self.command,
                "data": render.as_data(data),
                "messages": self.messages,
                "errors": self.errors,
            }
            with _stored():
                sys.stdout.write(json.dumps(envelope, indent=2, allow_nan=False) + "\n")
        with _stored():
            sys.stdout.flush()


def _nothing(mode: str) -> Any:
    return open(os.devnull, mode, encoding="utf-8")


@contextlib.contextmanager
def _stored() -> Iterator[None]:
    """Raises ResourceError where the file behind stdout takes no more; a pipe that nobody reads is another matter."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        sys.stdout = _nothing("w")  # what is left of it would fail once more at the end
        reason = (error.strerror or str(error)).lower()
        raise ResourceError(f"standard output cannot be written to: {reason}.", "Send it somewhere else.") from None


def styled(text: str, code: str, on: bool) -> str:
    """The text between an escape code (1: bold, 2: dim) and the one that ends it."""
    return f"\x1b[{code}m{text}\x1b[0m" if on and text else text
