"""Conversations on disk: a file of JSON lines each, a turn a line, appended and never rewritten.

A line counts once its newline is there: what a crash tore off is skipped, and cut off by the next turn. A conversation's
file is conversations/NUMBER.jsonl, made with its first turn; numbers count up, so that people can type them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from kmcli.errors import NotFoundError
from kmcli.library import files
from kmcli.library.locks import Locks
from kmcli.library.samples import append_objects, read_objects
from kmcli.types import Answer, Document, Passage


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its answer. documents: names by id, as they were then. stopped: the answer was cut short by the
    person. asked: UTC, ISO 8601."""

    question: str
    answer: Answer
    documents: Mapping[str, str]
    stopped: bool
    asked: str

    @classmethod
    def of(cls, question: str, answer: Answer, documents: tuple[Document, ...], stopped: bool = False) -> Turn:
        asked = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        return cls(question, answer, {document.id: document.name for document in documents}, stopped, asked)


@dataclass(frozen=True, slots=True)
class Conversation:
    """number: None before its first turn is kept."""

    number: int | None
    turns: tuple[Turn, ...]

    @property
    def documents(self) -> Mapping[str, str]:
        """Those of the last turn."""
        return self.turns[-1].documents if self.turns else {}


class Conversations:
    """All conversations of a library. Whatever the disk refuses is a ResourceError."""

    def __init__(self, folder: Path, locks: Locks) -> None:
        self._folder = folder
        self._locks = locks

    def all(self) -> list[Conversation]:
        """The one with the latest turn last."""
        found = [self._read(number) for number in self._numbers()]
        return sorted((one for one in found if one.turns), key=lambda one: (one.turns[-1].asked, one.number or 0))

    def find(self, number: int) -> Conversation:
        """Raises NotFoundError."""
        if self._file(number).exists():
            return self._read(number)
        raise NotFoundError(f"there is no conversation {number}.", "km chat --list shows all.")

    def last(self) -> Conversation:
        """The one with the latest turn. Raises NotFoundError where there is none."""
        found = self.all()
        if not found:
            raise NotFoundError("there is no conversation to continue.", "Begin one: km chat NAME")
        return found[-1]

    def begin(self) -> int:
        """The number of a new, empty conversation."""
        with files.explained(self._folder):
            files.make_folder(self._folder)
            number = max(self._numbers(), default=0)
            while True:  # another process may begin one too
                number += 1
                try:
                    os.close(os.open(self._file(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY, files.FILE_MODE))
                except FileExistsError:
                    continue
                files.sync(self._folder)
                return number

    def append(self, number: int, turn: Turn) -> None:
        """Add a turn; it is safe on the disk when this returns."""
        with files.explained(self._folder):
            append_objects(self._file(number), [_as_json(turn)])

    def delete(self, number: int) -> Conversation:
        """Raises NotFoundError, and KmError while another process holds the conversation."""
        found = self.find(number)
        with self.hold(number), files.explained(self._folder):
            self._file(number).unlink()
            files.sync(self._folder)
            self._locks.forget(_key(number))
        return found

    @contextmanager
    def hold(self, number: int) -> Iterator[None]:
        """Keep other processes from writing to the conversation. Raises KmError where one does."""
        with self._locks.hold(_key(number), f"conversation {number}", "chat", 0.0):
            yield

    def _numbers(self) -> list[int]:
        return sorted(int(file.stem) for file in self._folder.glob("*.jsonl") if file.stem.isdecimal())

    def _file(self, number: int) -> Path:
        return self._folder / f"{number}.jsonl"

    def _read(self, number: int) -> Conversation:
        turns = (_turn(line) for line in read_objects(self._file(number)))
        return Conversation(number, tuple(turn for turn in turns if turn))


def _key(number: int) -> str:
    return f"conversation-{number}"


def _as_json(turn: Turn) -> dict[str, Any]:
    return {**dataclasses.asdict(turn), "format": 1}


def _turn(line: Any) -> Turn | None:
    """None for a line that is damaged, or of a newer km."""
    try:
        answer = line["answer"]
        evidence = tuple(Passage(**passage) for passage in answer["evidence"])
        if line["format"] != 1:
            return None
        return Turn(
            str(line["question"]),
            Answer(**{**answer, "evidence": evidence}),
            dict(line["documents"]),
            bool(line["stopped"]),
            str(line["asked"]),
        )
    except (TypeError, KeyError, ValueError):
        return None
