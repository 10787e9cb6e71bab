"""A document as data: what another machine needs to work on it, and what it has made of it since.

`pack` and `unpack` carry it there, into a library of its own; `pack` and `take` bring back what has changed. A parcel that
was packed while nobody wrote is a state from which the same work goes on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from kmcli.errors import KmError
from kmcli.library import files
from kmcli.library.layout import RUN
from kmcli.library.library import Library
from kmcli.types import Document, KnowledgeModule

Stamps = dict[str, tuple[int, int, int]]
"""Of files that a parcel has carried already: when they were changed, their size, and which file it was."""

MATERIAL = ("chunks.jsonl", "samples.jsonl", "scores.jsonl", "exam.jsonl", "written.jsonl")
"""In the order in which they are written: the log of finished work last, because it promises the rest."""
WORKSPACE, MODULE = "training", "module"
_NAME = re.compile(r"(?!\.+(/|$))[\w.-]+(/(?!\.+(/|$))[\w.-]+)*", re.ASCII)
"""Of a file below a folder: it leads nowhere else."""
HEAVY = ("targets.bin", "before")
"""In a workspace: what is computed again. So is the adapter in its folder `module`, which is just being saved."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """files: contents by path, those that have changed since the parcel before; names: of all that there are.

    Paths begin with "module/ID/", or are below the document's folder. module: its path is another machine's.
    """

    document: Document
    module: KnowledgeModule | None
    files: Mapping[str, bytes]
    names: frozenset[str]

    def of_module(self) -> dict[str, bytes]:
        """Its changed files, by name."""
        return {PurePosixPath(name).name: data for name, data in self.files.items() if name.startswith(f"{MODULE}/")}


def pack(library: Library, document: Document, sent: Stamps, text: bool = False) -> Parcel | None:
    """What has changed of a document since `sent`, which is brought up to date; None where nothing has.

    text: with the document's text. To be called by whoever writes about the document, between two writings.
    """
    folder = library.source_file(document).parent
    module = library.module(document)
    found = _material(folder, text)
    if module:
        found |= {f"{MODULE}/{module.id}/{file.name}": file for file in module.path.iterdir() if file.is_file()}
    stamps = {name: _stamp(file) for name, file in found.items()}
    changed = {name: found[name].read_bytes() for name, stamp in stamps.items() if sent.get(name) != stamp}
    if not changed and sent.keys() == stamps.keys():
        return None
    sent.clear()
    sent.update(stamps)
    return Parcel(document, module, changed, frozenset(stamps))


def unpack(library: Library, parcel: Parcel) -> Stamps:
    """Put a whole parcel into a library that does not have the document. Returns what `pack` need not send back."""
    _check(parcel)
    folder, document, module = library.adopt(parcel.document), parcel.document, parcel.module
    with library.lock(document, "train"), files.explained(library.home):
        for name, data in parcel.files.items():
            if not name.startswith((f"{WORKSPACE}/", f"{MODULE}/")):
                files.write(folder / name, data, synced=False)
        if module:
            _commit(library, parcel, module)
        _take_workspace(library, parcel)
    sent: Stamps = {}
    pack(library, document, sent)
    return sent


def take(library: Library, parcel: Parcel) -> None:
    """Bring back into a document's own library what was made of it elsewhere: study material, then its module, if there is
    a new one, then where its training stands. Whoever calls holds the document's lock.

    Every moment of it is one from which the training goes on, or begins again. Raises KmError, before anything is written,
    for a parcel that leads out of its document: it is another machine's.
    """
    _check(parcel)
    document, module = parcel.document, parcel.module
    folder = library.source_file(document).parent
    with files.explained(library.home):
        for name in MATERIAL:
            if name in parcel.files:
                files.write(folder / name, parcel.files[name])
        current = library.module(document)
        if module and current and module.id == current.id:
            for name, data in parcel.of_module().items():
                files.write(current.path / name, data)
        elif module:
            _commit(library, parcel, module)
        _take_workspace(library, parcel)


def _check(parcel: Parcel) -> None:
    module = parcel.module
    if not all(map(_NAME.fullmatch, parcel.files)) or (module and (not _NAME.fullmatch(module.id) or "/" in module.id)):
        raise KmError(
            f"a worker sent files of {parcel.document.name} that are not among its own.", "Is every machine yours?"
        )


def _commit(library: Library, parcel: Parcel, module: KnowledgeModule) -> None:
    staging = library.staging(parcel.document)
    for name, data in parcel.of_module().items():
        files.write(staging / name, data, synced=False)  # commit_module flushes them
    of_its_text = replace(parcel.document, text_sha256=module.text_sha256)
    library.commit_module(of_its_text, staging, module.recipe, module.metrics, (), module.id)


def _take_workspace(library: Library, parcel: Parcel) -> None:
    document, below = parcel.document, f"{WORKSPACE}/"
    if not any(name.startswith(below) for name in parcel.names):
        library.clear_workspace(document)
        return
    workspace = library.workspace(document)
    if f"{below}{RUN}" in parcel.files:
        library.begin_training(document, parcel.files[f"{below}{RUN}"])
    for name, data in sorted(parcel.files.items()):
        if name.startswith(below) and name != f"{below}{RUN}":
            file = workspace / name.removeprefix(below)
            _make_folders(workspace, file.parent)
            files.write(file, data)
    for file in [file for file in workspace.rglob("*") if file.is_file()]:
        if f"{below}{file.relative_to(workspace).as_posix()}" not in parcel.names:
            file.unlink(missing_ok=True)


def _make_folders(top: Path, folder: Path) -> None:
    if folder != top:
        _make_folders(top, folder.parent)
        files.make_folder(folder)


def _material(folder: Path, text: bool) -> dict[str, Path]:
    """The files of a document's folder, by path below it."""
    found = {name: folder / name for name in MATERIAL if (folder / name).exists()}
    if text:
        found |= {file.name: file for file in folder.glob("text-*")}
    workspace = folder / WORKSPACE
    for place, folders, names in os.walk(workspace):
        left_out = (*HEAVY, MODULE) if Path(place) == workspace else HEAVY
        folders[:] = [name for name in folders if name not in left_out]
        for name in names:
            if name not in HEAVY and not name.endswith(".tmp"):
                file = Path(place, name)
                found[f"{WORKSPACE}/{file.relative_to(workspace).as_posix()}"] = file
    return found


def _stamp(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino
