"""Windows of a document's tokens, for objectives that need no study material."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive tokens of a document. start: of the first; part: how many of them are context for the rest."""

    ids: list[int]
    start: int
    part: int


def split(ids: Sequence[int], size: int, share: float, seed: int) -> tuple[list[range], list[range]]:
    """Stretches of a document's tokens to train on, and windows of `size` tokens held out of them.

    By a hash of the tokens, each whole window with a chance of `share`: no window of one kind has a token in common with
    one of the other. The stretches are what lies between.
    """
    taught: list[range] = []
    held: list[range] = []
    begin = 0
    for start in range(0, len(ids) - size + 1, size):
        identity = f"{seed}\0" + " ".join(map(str, ids[start : start + size]))
        if int(hashlib.sha256(identity.encode()).hexdigest()[:8], 16) / 0x1_0000_0000 < share:
            held.append(range(start, start + size))
            taught.append(range(begin, start))
            begin = start + size
    taught.append(range(begin, len(ids)))
    return [stretch for stretch in taught if len(stretch) > 1], held


def windows(ids: Sequence[int], stretch: range, size: int, context: int, rounds: int, seed: int) -> list[Window]:
    """The stretch cut into windows `rounds` times, from another random place each time.

    A window is at most `context` tokens and `size` - `context` that they are the context of. The latter's first token is
    the last of the window before, because a window's first token is predicted from nothing. So every round predicts every
    token of the stretch, but the first, and the second where there is to be a context.
    """
    first = stretch.start + (1 if context else 0)
    step = size - context - 1
    if step < 1:
        raise ValueError("a window needs room for two tokens beside its context")
    made: list[Window] = []
    for number in range(rounds):
        phase = random.Random(f"{seed} {number} {stretch.start}").randrange(1, step + 1)
        edges = [first, *range(first + phase, stretch.stop - 1, step), stretch.stop - 1]
        for here, there in itertools.pairwise(edges):
            if here < there:
                begin = max(stretch.start, here - context)
                made.append(Window(list(ids[begin : there + 1]), begin, here - begin))
    return made


def whole(ids: Sequence[int], held: range, context: int) -> Window:
    """A held-out window as it is."""
    return Window(list(ids[held.start : held.stop]), held.start, context)
