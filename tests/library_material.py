"""Documents, samples and modules for the tests of the library."""

from __future__ import annotations

import os
from pathlib import Path

from kmcli.library import Library
from kmcli.types import Document, Ingested, KnowledgeModule, Recipe, Sample


def ingested(text: str = "The heron waits.", source: str = "/books/Heron.txt", name: str = "Heron") -> Ingested:
    return Ingested(source, "text", name, text.encode("utf-8", "surrogatepass"), text, None)


def sample(number: int, response: str = "It waits.") -> Sample:
    return Sample(f"s{number}", "c0ffee", "qa", "What does it do?", response, "scripted", "embedded", "r1", number)


def train(library: Library, document: Document, weights: bytes = b"weights", **recipe: int) -> KnowledgeModule:
    """What a training does at its end: write files into a folder of its own, then commit them."""
    folder = library.staging(document)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return library.commit_module(document, folder, Recipe(**recipe), {"loss": 0.25})  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes, but for SQLite's own and lock files."""
    files = (path for path in folder.rglob("*") if path.is_file())
    paths = sorted(path for path in files if not path.name.startswith("km.") and path.suffix != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def age(path: Path, seconds: float) -> None:
    """Make a file older than it is."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - int(seconds * 1e9)))
