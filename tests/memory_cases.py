"""A folder in memory, for tests that kill processes again and again.

Fixtures to import: each one by name, into the module that uses it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
"""None: on the disk, as `tempfile` takes it."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """On the disk where there is no such place. A process that is killed leaves what it wrote, flushed or not: what a power
    cut leaves is another matter, see test_crash_states.py."""
    with tempfile.TemporaryDirectory(prefix="km-crash-", dir=MEMORY) as made:
        yield Path(made)
