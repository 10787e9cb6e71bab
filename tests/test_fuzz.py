"""A sample of the fuzzing that `make reliability` does."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz import fuzz
from fuzz_targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_sentences_comes_out(name: str, km_home: Path) -> None:
    km_home.mkdir()
    found = fuzz(TARGETS[name], 60, 0, km_home)
    assert found.inputs >= 50
    assert found.faults == {}
