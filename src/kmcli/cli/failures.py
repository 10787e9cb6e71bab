"""Batches in which some inputs failed: one sentence each, one exit code for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kmcli.cli.screen import Screen
from kmcli.errors import InterruptedRun, KmError, PartlyDone

if TYPE_CHECKING:
    from kmcli.workflows.house import Failure


def batch_exit_code(
    screen: Screen, failed: Sequence[Failure], finished: int, interrupted: InterruptedRun | None = None
) -> int:
    """Print every failure; the exit code is that of the only input's own error, of PartlyDone, or 1 when all failed.

    interrupted: Ctrl-C ended the batch, which outranks them.
    """
    for failure in failed:
        screen.fail(failure.error, failure.source)
    if interrupted:
        screen.fail(interrupted)
        return interrupted.exit_code
    if not failed:
        return 0
    if finished:
        return PartlyDone.exit_code
    return failed[0].error.exit_code if len(failed) == 1 else KmError.exit_code
