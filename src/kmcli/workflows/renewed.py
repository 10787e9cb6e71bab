"""Imported questions about what a document no longer says: the new answer, where it is known.

A question that was studied with the old value, and that nobody asks again about the new text, would go on being answered
with the old value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kmcli.metrics import normalise, occurrences
from kmcli.synthesis.write import sample_id
from kmcli.types import Sample

ALIKE = 0.8
"""The share of a text's words from which another text counts as what became of it."""


def renewed(gone: Sequence[Sample], kept: Sequence[tuple[Sample, str]], texts: Mapping[str, str]) -> list[Sample]:
    """Samples of `gone` with a new answer: where another question had the same answer to the same text, and has exactly one
    other answer in what became of that text. The old answer stood there once, so that no second fact had it.

    gone: of which the document has neither text nor answer. kept: the other samples as they were imported, each with the
    hash of its chunk now. texts: what each was imported with, by the hash that it came with.
    """
    asked: dict[str, list[tuple[Sample, str]]] = {}
    for one, chunk in kept:
        asked.setdefault(normalise(one.prompt), []).append((one, chunk))
    answers: dict[tuple[str, str], dict[str, tuple[Sample, str]]] = {}
    for old in gone:
        for new, chunk in asked.get(normalise(old.prompt), ()):
            if _became(texts.get(old.chunk_sha256, ""), texts.get(new.chunk_sha256, ""), old.response, new.response):
                answers.setdefault(_fact(old), {})[normalise(new.response)] = new, chunk
    found: dict[str, Sample] = {}
    for old in gone:
        said = list(answers.get(_fact(old), {}).values())
        if len(said) == 1 and normalise(old.prompt) not in asked:
            ((new, chunk),) = said
            name = sample_id(chunk, old.task, old.prompt, new.response)
            found[normalise(old.prompt)] = replace(old, id=name, chunk_sha256=chunk, response=new.response)
    return list(found.values())


def _fact(sample: Sample) -> tuple[str, str]:
    return sample.chunk_sha256, normalise(sample.response)


def _became(before: str, now: str, old: str, new: str) -> bool:
    """Whether a text took another's place, with this answer in place of that one."""
    words = set(normalise(before).split())
    alike = bool(words) and len(words & set(normalise(now).split())) >= ALIKE * len(words)
    instead = occurrences(old, before) == 1 and not occurrences(old, now) and not occurrences(new, before)
    return alike and instead
