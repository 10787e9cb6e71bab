"""What `km show --changes` prints: the questions that a Knowledge Module answers differently since its document changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmcli.cli import render
from kmcli.cli.screen import Screen

if TYPE_CHECKING:
    from kmcli.workflows.house import House

NOTHING = "(nothing)"


def show_changes(screen: Screen, house: House, name: str) -> object:
    from kmcli.workflows import redline

    found = redline.changes(house, name)
    screen.write(found.document.name, bold=True)
    screen.facts(
        [
            ("changed", f"{found.changed:,} of {render.count(found.chunks, 'chunk')}"),
            ("asked", render.count(found.asked, "question")),
            ("answered differently", f"{len(found.differences):,}"),
        ],
        indent="  ",
    )
    for changed, heading in ((True, "About what has changed"), (False, "About what has not")):
        rows = [row for row in found.differences if row.changed == changed]
        if rows:
            screen.write(heading, bold=True)
        for row in rows:
            screen.write(f"  {row.question}")
            screen.facts([("before", row.before or NOTHING), ("now", row.now or NOTHING)], indent="    ")
    return render.as_data(found)
