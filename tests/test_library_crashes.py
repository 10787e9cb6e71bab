"""A change that dies at any step leaves the library before it or after it, whole, and can be done again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import library_crashes
from kmcli.library import Library
from library_material import ingested, sample, train
from memory_cases import folder

__all__ = ["folder"]

OLD, NEW = "The heron waits.", "The heron flies."


def weights(library: Library) -> bytes:
    module = library.module(library.find("heron"))
    return (module.path / "adapter_model.safetensors").read_bytes() if module else b""


def outcome(library: Library, name: str) -> object:
    """What the change decides, read back in full: one of two values."""
    known = {document.name: library.text(document) for document in library.documents()}
    if name in ("add", "remove"):
        return known
    heron = library.find("heron")
    return known, [one.id for one in library.samples(heron)], weights(library)


def expected(name: str) -> tuple[object, object]:
    before = ({"heron": OLD}, ["s1"], b"old")
    return {
        "add": ({"heron": OLD}, {"heron": OLD, "otter": "The otter swims."}),
        "remove": ({"heron": OLD}, {}),
        "update": (before, ({"heron": NEW}, ["s1"], b"old")),
        "append": (before, ({"heron": OLD}, ["s1", "s2", "s3"], b"old")),
        "train": (before, ({"heron": OLD}, ["s1"], b"new")),
    }[name]


@pytest.mark.parametrize(("name", "least"), [("add", 6), ("update", 8), ("append", 3), ("train", 10), ("remove", 8)])
def test_dying_at_any_step(folder: Path, name: str, least: int) -> None:
    with Library.open(folder / "template") as library:
        document = library.add(ingested(OLD)).document
        library.append_samples(document, [sample(1)])
        train(library, document, b"old")
    results = folder / "results"
    subprocess.run(
        [sys.executable, library_crashes.__file__, folder / "template", results, name], check=True, timeout=60
    )
    homes = sorted(results.iterdir())
    assert len(homes) > least
    before, after = expected(name)
    seen = []
    for home in homes:
        with Library.open(home) as library:
            seen.append(outcome(library, name))
            library.check(repair=True)
            assert library.check() == []
            assert outcome(library, name) == seen[-1]
        if seen[-1] == before:
            library_crashes.change(name, home)
            with Library.open(home) as library:
                assert outcome(library, name) == after
    turn = seen.index(after)
    assert seen == [before] * turn + [after] * (len(seen) - turn)
    assert turn > 0
