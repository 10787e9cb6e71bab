"""docs/screenshot.svg from a real run: python examples/make_screenshot.py LIBRARY.

LIBRARY: one in which harbour.pdf is trained, such as .demo/library, which `make demo` leaves. The commands run in a terminal
of their own; `-q`, which is not shown, leaves out the bars that come and go.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "screenshot.svg"
COLUMNS = 92
COMMANDS = (
    ('km ask harbour "How much does Lumrick 40 cost?"', "--evidence"),
    ("km show harbour --exam", ""),
    ("km compare harbour --questions examples/harbour.questions.jsonl --methods bare,km,auto,rag --k 1", ""),
)
"""What is shown, and what is said besides, which a person at a terminal need not say."""


def output_of(words: list[str], library: Path) -> str:
    """What a command writes in a terminal of COLUMNS columns, escape codes included. Raises CalledProcessError."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 60, COLUMNS, 0, 0))
    environment = {**os.environ, "KM_HOME": str(library), "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(words, stdin=child, stdout=child, stderr=child, cwd=ROOT, env=environment)
    os.close(child)
    written = b""
    while True:
        try:
            block = os.read(parent, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not block:
            break
        written += block
    os.close(parent)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, words, written)
    return written.decode("utf-8").replace("\r\n", "\n")


def picture(library: Path) -> str:
    """The commands with their output, as an SVG."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for shown, besides in COMMANDS:
        console.print(Text(f"$ {shown}", style="bold green"))
        words = [sys.executable, "-m", "kmcli", *shlex.split(shown)[1:], *besides.split(), "-q"]
        console.print(Text.from_ansi(output_of(words, library).rstrip("\n")))
        console.print()
    # Without the fonts that Rich would have a reader's browser fetch: any monospaced one does.
    return re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title="km", unique_id="km"), flags=re.DOTALL)


if __name__ == "__main__":
    OUT.write_text(picture(Path(sys.argv[1]).absolute()), "utf-8")
    print(OUT)
