"""Real shells in a pseudo-terminal, with km's completion script loaded: a person who types, and presses TAB.

Imported by tests/test_shells.py and bench/startup.py. `km` is a function there that prints the words it is given, so that
what stood on the line after TAB is known as the shell read it: quotes, escapes and all.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import subprocess
import termios
import time
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parents[1]
SHELLS = ("bash", "zsh", "fish")

STARTED = {
    "bash": ("bash", "--norc", "--noprofile", "-i"),
    "zsh": ("zsh", "-f", "-i"),
    "fish": ("fish", "--no-config", "-i"),
}
PREPARED = {
    "bash": """
bind 'set bell-style none'; bind 'set completion-query-items 0'; bind 'set page-completions off'
bind 'set enable-bracketed-paste off'; unset HISTFILE
source '{scripts}/km.bash'
km() {{ printf 'GOT[%s]\\n' "$@"; echo DONE; }}
PS1='rea''dy> '
""",
    "zsh": """
unset HISTFILE zle_bracketed_paste; setopt no_beep no_prompt_cr no_prompt_sp; LISTMAX=100000
fpath=('{scripts}' $fpath); autoload -Uz compinit; compinit -u -D
km() {{ printf 'GOT[%s]\\n' "$@"; echo DONE }}
PS1='rea''dy> '
""",
    "fish": """
set -g fish_autosuggestion_enabled 0; set -g fish_greeting
source '{scripts}/km.fish'
function km; printf 'GOT[%s]\\n' $argv; echo DONE; end
function fish_prompt; echo 'rea''dy> '; end
""",
}


class Shell:
    """An interactive shell. A context manager: leaving it ends the shell."""

    def __init__(self, name: str, folder: Path, scripts: Path = ROOT / "completions", **variables: str) -> None:
        """folder: where it works and what its HOME is. variables: changes of this process's environment."""
        self._master, slave = pty.openpty()
        environment = {**os.environ, "HOME": str(folder), "TERM": "xterm", "LC_ALL": "C.UTF-8", **variables}
        self._process = subprocess.Popen(
            STARTED[name],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=folder,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # shells want a terminal of their own
        )
        os.close(slave)
        for line in PREPARED[name].format(scripts=scripts).strip().splitlines():
            self._type(line + "\r")
        self.wait_for("ready> ")

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def words(self, line: str) -> list[str]:
        """What km is given when `line`, TAB and Enter have been typed. A line may have further TABs in it."""
        self._type(line + "\t\r")
        text = self.wait_for("DONE\r\n", "ready> ")
        return re.findall(r"GOT\[(.*?)\]\r\n", text, re.DOTALL)

    def listed(self, line: str, awaited: str) -> str:
        """What the shell shows, `awaited` at the latest in a minute, when TAB has been pressed twice at the end of `line`.

        The line is then thrown away.
        """
        self._type(line)
        self.settle()
        self._type("\t")
        text = self.settle()
        self._type("\t")
        if awaited not in text:
            text += self.wait_for(awaited)  # a busy machine is longer about it than any silence would allow
        text += self.settle()
        self._clear()
        return text

    def seconds(self, line: str, rest: str) -> float:
        """From TAB at the end of `line` until what it adds, `rest`, is on the screen; the line is thrown away."""
        self._type(line)
        self.settle()
        began = time.perf_counter()
        self._type("\t")
        self.wait_for(rest)
        took = time.perf_counter() - began
        self._clear()
        return took

    def _clear(self) -> None:
        self._type("\x15")
        self.settle()

    def _type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def settle(self, quiet: float = 0.3) -> str:
        """What is written until nothing has been for `quiet` seconds."""
        written = b""
        while select.select([self._master], [], [], quiet)[0]:
            written += os.read(self._master, 65536)
        return _plain(written)

    def wait_for(self, *texts: str, limit: float = 60) -> str:
        """What is written until all of `texts` have been, in this order."""
        awaited = re.compile(".*".join(map(re.escape, texts)), re.DOTALL)
        written = b""
        end = time.monotonic() + limit
        while not awaited.search(_plain(written)):
            if not select.select([self._master], [], [], max(0, end - time.monotonic()))[0]:
                raise AssertionError(f"{texts} are not in {_plain(written)!r}")
            written += os.read(self._master, 65536)
        return _plain(written)


def _plain(written: bytes) -> str:
    """Without the escape sequences that move the cursor and colour."""
    return re.sub(
        r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[()][A-Z0-9]|[=>78M])",
        "",
        written.decode("utf-8", "replace"),
    )
