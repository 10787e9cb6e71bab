"""What `km show --changes` prints: the questions that a Knowledge Module answers differently since its document changed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from kmcli.cli import render
from kmcli.cli.screen import Screen, columns

if TYPE_CHECKING:
    from kmcli.workflows.house import House
    from kmcli.workflows.redline import Changes

NOTHING = "(nothing)"


def show_changes(screen: Screen, house: House, name: str) -> object:
    from kmcli.workflows import redline

    found = redline.changes(house, name)
    screen.write(found.document.name, bold=True)
    differ = render.count(len(found.differences), "question") if found.differences else "none"
    screen.facts(
        [
            ("changed", f"{found.changed:,} of {render.count(found.chunks, 'chunk')}"),
            ("known", _known(found)),
            ("asked", f"{render.count(found.asked, 'question')}, before and after"),
            ("now different", differ),
        ],
        indent="  ",
    )
    for changed, heading in ((True, "About what changed"), (False, "About the rest")):
        rows = [row for row in found.differences if row.changed == changed]
        if rows:
            screen.write("")
            screen.write(heading, bold=True)
        for row in rows:
            screen.write(render.wrapped(row.question, columns(sys.stdout), 2))
            for when, answer in (("before", row.before), ("now", row.now)):
                first = f"    {when:<6}  "
                screen.write(render.wrapped(answer or NOTHING, columns(sys.stdout), len(first), first))
    return render.as_data(found)


def _known(found: Changes) -> str:
    """By the exam; "" where there was none, or it asked nothing."""
    if found.known is None:
        return ""
    new, old = (f"{known:,} of {render.count(asked, 'fact')}" for known, asked in found.known)
    parts = [f"{new} in what changed"] * bool(found.known[0][1]) + [f"{old} in the rest"] * bool(found.known[1][1])
    return ", ".join(parts)
