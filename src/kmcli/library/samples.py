"""Study material on disk, and the log of what has been written: one JSON object per line, appended, never rewritten.

A line counts once its newline is there. What follows the last newline was torn by a crash: readers skip it and the next
writer cuts it off.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kmcli.errors import KmError
from kmcli.library import files
from kmcli.types import Sample, text_hash


@dataclass(frozen=True, slots=True)
class Read:
    """What a file of samples holds. lines: the good ones as they are; damaged: numbers of lines that are no sample."""

    samples: list[Sample]
    lines: list[bytes]
    damaged: list[int]
    torn: bool


def read(path: Path) -> Read:
    """Read a file of samples; a missing file is an empty one."""
    found = Read([], [], [], False)
    if not path.exists():
        return found
    *lines, tail = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        sample = _parse(line)
        if sample is None:
            found.damaged.append(number)
        else:
            found.samples.append(sample)
            found.lines.append(line)
    return dataclasses.replace(found, torn=bool(tail))


def samples(path: Path, name: str) -> list[Sample]:
    """The samples of a file. Raises KmError where a line other than a torn last one is damaged. name: of the document."""
    found = read(path)
    if found.damaged:
        raise KmError(
            f"the study material of {name} is damaged in line {found.damaged[0]}.",
            "km doctor --repair drops what cannot be read.",
        )
    return found.samples


def append(path: Path, samples: Iterable[Sample]) -> None:
    """Add samples; when this returns they are safe on the disk."""
    append_objects(path, map(dataclasses.asdict, samples))


def scored(samples: list[Sample], path: Path) -> list[Sample]:
    """The samples, those without a score with the one that a file of scores has for them."""
    scores = {one.get("id"): one.get("score") for one in read_objects(path) if isinstance(one, dict)}
    return [replace(one, score=scores.get(one.id)) if one.score is None else one for one in samples]


def append_scores(path: Path, samples: Iterable[Sample]) -> None:
    append_objects(path, ({"id": sample.id, "score": sample.score} for sample in samples))


def work(path: Path) -> list[dict[str, Any]]:
    """Finished work, in the order it was finished: a group a line; older lines hold one piece each."""
    groups = [line if isinstance(line, list) else [line] for line in read_objects(path)]
    return [one for group in groups for one in group]


def read_objects(path: Path) -> list[Any]:
    """What the lines of a file hold as JSON, damaged and torn lines left out; a missing file is an empty one."""
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def append_objects(path: Path, objects: Iterable[Any]) -> None:
    """Add objects as JSON, a line each; when this returns they are safe on the disk."""
    data = b"".join(json.dumps(one).encode() + b"\n" for one in objects)
    if not data:
        return
    new = not path.exists()
    with open(os.open(path, os.O_RDWR | os.O_CREAT, files.FILE_MODE), "r+b") as stream:
        stream.truncate(_whole(path))
        stream.seek(0, os.SEEK_END)
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    if new:
        files.sync(path.parent)


def texts(path: Path) -> dict[str, str]:
    """The chunks in a file of them, by hash; what is damaged is left out, for it can be made again."""
    found = (one.get("text") for one in read_objects(path) if isinstance(one, dict))
    return {text_hash(text): text for text in found if isinstance(text, str)}


def keep_texts(path: Path, given: Iterable[str]) -> None:
    """Add the chunks that the file does not have yet."""
    there = texts(path)
    new = {text_hash(text): text for text in given}
    append_objects(path, ({"text": text} for sha256, text in new.items() if sha256 not in there))


def cut(path: Path) -> None:
    """Cut off a torn last line."""
    os.truncate(path, _whole(path))
    files.sync(path)


def _whole(path: Path) -> int:
    """The file's size in bytes up to its last newline."""
    with path.open("rb") as stream:
        end = stream.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            stream.seek(start)
            newline = stream.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0


def _parse(line: bytes) -> Sample | None:
    try:
        return Sample(**json.loads(line))
    except (ValueError, TypeError):
        return None
