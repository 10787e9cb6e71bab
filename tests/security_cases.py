"""What the tests of security share: text that attacks whoever shows it, and what a screen may be sent."""

from __future__ import annotations

import re

ATTACKS = {
    "a command to the clipboard (OSC 52)": "\x1b]52;c;cm0gLXJmIH4K\x07",
    "a link that lies (OSC 8)": "\x1b]8;;https://evil.example\x1b\\the bank\x1b]8;;\x1b\\",
    "a title": "\x1b]0;owned\x07",
    "keys typed by the terminal (DECRQSS)": '\x1bP$q"p\x1b\\',
    "colours and a cleared screen": "\x1b[31m\x1b[2J\x1b[H",
    "the same in one character each (C1)": "\x9b31m\x9d0;owned\x9c\x90x\x9c",
    "a line written over": "all is well\rrm -rf ~\x08\x08",
    "directions": "\u202egnp.exe\u202c \u2066x\u2069 \u200f\u061c",
    "line separators": "one\u2028two\u2029three\x85four\x0bfive\x0csix",
    "nothing at all": "a\x00b\x7fc",
}

STYLE = re.compile(r"\x1b\[[0-9;]*m")
"""km's own colours."""

OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def obeyed(shown: str) -> list[str]:
    """What a terminal would obey of what it was sent, other than colours."""
    return OBEYED.findall(STYLE.sub("", shown.replace("\r\n", "\n")))
