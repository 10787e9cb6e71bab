"""The folder of an evaluation: what is evaluated, and every answer, a line each, so that a run goes on where one stopped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kmcli.errors import KmError, UsageError
from kmcli.evaluation import METHODS
from kmcli.evaluation.benchmarks import Case, Item
from kmcli.library import files
from kmcli.library.extractors import Extractor
from kmcli.types import Method

RUN, ANSWERS = "run.json", "answers.jsonl"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Answered:
    """A line. key: of question and text (see `key_of`); item: the question's id. fits False: the method could not be asked,
    because what it reads does not fit, and the answer is empty. references: the right answers."""

    key: str
    case: str
    item: str
    method: str
    question: str
    answer: str
    references: Sequence[str]
    scores: Mapping[str, float]
    fits: bool = True
    refused: bool = False
    prompt_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0


def key_of(case: Case, item: Item, method: Method, extractor: Extractor | None = None) -> str:
    """What an answer depends on, apart from base and recipe: another text or question has another key, and of a method that
    uses an extractor another extractor."""
    parts: list[object] = [case.text, item.id, item.question, item.options]
    if METHODS[method].ke and extractor:
        parts.append(extractor.id)
    return hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Log:
    """The answers of a folder, in memory and on the disk."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / ANSWERS
        self._known: dict[tuple[str, str], Answered] = {}
        whole = 0
        data = self._file.read_bytes() if self._file.exists() else b""
        for number, line in enumerate(data.split(b"\n")[:-1], 1):  # what follows the last newline is torn
            whole += len(line) + 1
            try:
                one = Answered(**json.loads(line))
            except (ValueError, TypeError):
                raise KmError(f"{self._file}, line {number}, is damaged.", "Delete the line: km asks again.") from None
            self._known[one.key, one.method] = one
        if whole < len(data):
            os.truncate(self._file, whole)

    def find(self, key: str, method: str) -> Answered | None:
        return self._known.get((key, method))

    def append(self, answers: Sequence[Answered]) -> None:
        """They are safe on the disk when this returns."""
        text = "".join(json.dumps(asdict(one)) + "\n" for one in answers)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        self._known.update({(one.key, one.method): one for one in answers})


def claim(folder: Path, identity: Mapping[str, Any]) -> None:
    """Make the folder this evaluation's, or see that it is: base, recipe, benchmark and split are one for all answers in it.

    Raises UsageError where it is another's.
    """
    file = folder / RUN
    wanted = {**json.loads(json.dumps(identity)), "format": FORMAT}
    if file.exists():
        try:
            found = json.loads(file.read_text("utf-8"))
        except ValueError:
            found = {}
        other = [key for key in wanted if not isinstance(found, dict) or found.get(key) != wanted[key]]
        if other:
            raise UsageError(
                f"{folder} holds another evaluation (its {other[0]} differs).", "Choose another folder: --out FOLDER"
            )
        return
    if any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty, and holds no evaluation.", "Choose another folder: --out FOLDER")
    files.write(file, (json.dumps(wanted, indent=2) + "\n").encode())
