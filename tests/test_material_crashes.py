"""Study material whose writing is killed at random moments, and resumed, is what an uninterrupted run writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import material_crashes
from kmcli.library import Library
from library_material import ingested
from memory_cases import folder

__all__ = ["folder"]

TEXTS = {
    "hf": """\
Lumrick 40 is a signal lamp. It was designed by Yara Kestrim.

The fee for berth permits is $75. They are valid for 18 months.
""",
    "scripted": "\n\n".join(
        f"The quay {number} was built by mason {number + 40} for the harbour of Lindros." for number in range(12)
    ),
}


def lines(home: Path, name: str) -> list[bytes]:
    """Of a file of the document; whole ones only, whatever has been torn."""
    return [line for file in home.glob(f"documents/*/{name}") for line in file.read_bytes().split(b"\n")[:-1]]


@pytest.mark.parametrize("engine", TEXTS)
def test_killed_at_random_moments(folder: Path, engine: str) -> None:
    with Library.open(folder / "template") as library:
        library.add(ingested(TEXTS[engine], name="notes"))
    results = folder / "results"
    program = [sys.executable, material_crashes.__file__, folder / "template", results, engine]
    subprocess.run(program, check=True, timeout=600)
    samples, written = (lines(results / "whole", name) for name in ("samples.jsonl", "written.jsonl"))
    ids = [json.loads(line)["id"] for line in samples]
    assert len(set(ids)) == len(ids) >= 6
    assert len(written) >= 3
    left = []
    for kill in range(material_crashes.KILLS[engine]):
        home = results / f"{kill:02}"
        left.append(len(lines(results / f"{kill:02}-killed", "written.jsonl")))
        for name, expected in (("samples.jsonl", samples), ("written.jsonl", written)):
            (file,) = home.glob(f"documents/*/{name}")
            assert file.read_bytes().split(b"\n") == [*expected, b""], (kill, name)
        with Library.open(home) as library:
            assert library.check() == []
    assert len(set(left)) >= (3 if engine == "scripted" else 2), left  # the kills came early, late and between
