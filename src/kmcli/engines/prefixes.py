"""Which prompts are generated together: batches of groups of prompts that begin alike. Knows token ids, not models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SHORTEST = 16
"""Tokens from which a common beginning is worth a forward pass of its own."""


@dataclass(frozen=True, slots=True)
class Group:
    """Prompts (rows: their indices) with the same first `prefix` tokens, which are read once; 0 for a prompt by itself.

    Every prompt is longer than the prefix: what its generation starts from is its own.
    """

    prefix: int
    rows: tuple[int, ...]


Batch = Sequence[Group]


def plan(prompts: Sequence[list[int]], todo: Iterable[int], new: int, budget: int, share: bool) -> list[list[Group]]:
    """Batches that hold each index of `todo` once: like lengths together, at most `budget` tokens each.

    A batch costs its prefixes, and for each row the longest remainder in it and `new` tokens; padding counts. A single row
    is a batch whatever it costs. Prompts that share nothing are in batches of their own. share False: none do.
    """
    groups = _groups(prompts, todo) if share else [Group(0, (row,)) for row in todo]
    together = sorted((group for group in groups if group.prefix), key=lambda group: group.prefix)
    alone = sorted((group for group in groups if not group.prefix), key=lambda group: len(prompts[group.rows[0]]))
    return _batches(alone, prompts, new, budget) + _batches(together, prompts, new, budget)


def _groups(prompts: Sequence[list[int]], todo: Iterable[int]) -> list[Group]:
    found: list[tuple[int, list[int]]] = []
    for row in sorted(todo, key=lambda row: prompts[row]):  # in this order those that begin alike are neighbours
        longest = len(prompts[row]) - 1
        if found:
            prefix, rows = found[-1]
            common = min(prefix, longest, _common(prompts[rows[0]], prompts[row]))
            if common >= SHORTEST and 2 * common >= max(prefix, longest):  # a template that all share makes no group
                found[-1] = common, [*rows, row]
                continue
        found.append((longest, [row]))
    return [Group(prefix if len(rows) > 1 else 0, tuple(rows)) for prefix, rows in found]


def _common(one: list[int], other: list[int]) -> int:
    if one == other:
        return len(one)
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _batches(groups: Iterable[Group], prompts: Sequence[list[int]], new: int, budget: int) -> list[list[Group]]:
    batches: list[list[Group]] = []
    prefixes = width = count = budget + 1  # the first row begins a batch
    for group in groups:
        rows: list[int] = []
        for row in group.rows:
            own = len(prompts[row]) - group.prefix
            read = prefixes + (0 if rows else group.prefix)
            if read + (count + 1) * (max(width, own) + new) > budget:
                if rows:
                    batches[-1].append(Group(group.prefix, tuple(rows)))
                    rows = []
                batches.append([])
                read, width, count = group.prefix, 0, 0
            prefixes, width, count = read, max(width, own), count + 1
            rows.append(row)
        batches[-1].append(Group(group.prefix, tuple(rows)))
    return batches
