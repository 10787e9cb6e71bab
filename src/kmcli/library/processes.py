"""Which process a note speaks of. A library may lie in a folder that several machines share."""

from __future__ import annotations

import os
import socket
from typing import Any


def this() -> dict[str, Any]:
    """This process, as a note names it: `pid` and `host`."""
    return {"pid": os.getpid(), "host": socket.gethostname()}


def here(noted: dict[str, Any]) -> bool:
    """Whether the process is of this machine. Notes of an older km name no machine, and count as its own."""
    return bool(noted.get("host", socket.gethostname()) == socket.gethostname())


def lives(pid: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True  # and belongs to somebody else
    except (OSError, OverflowError):
        return False
    return True
