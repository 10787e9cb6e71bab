"""Multiple choice: the option that the model finds likeliest, or the one that it names."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kmcli.engines import Chat, Engine
from kmcli.engines.scoring import score_all
from kmcli.metrics import token_f1


def with_options(question: str, options: Sequence[str]) -> str:
    """For engines that only write: the model must see what it can choose from."""
    return f"{question}\nOptions: " + "; ".join(options)


def choose(engine: Engine, chats: Sequence[Chat], options: Sequence[Sequence[str]]) -> list[tuple[str, int]]:
    """Of each chat's options the one of the highest mean log-probability of its tokens, the first of equals; and how many
    tokens of options were read.

    The options do not stand in the chat, and their lengths do not count, as Caccia et al. 2025 score QuALITY. engine: one
    that can_score.
    """
    pairs = [(chat, option) for chat, some in zip(chats, options, strict=True) for option in some]
    values = score_all(engine, [chat for chat, _ in pairs], [option for _, option in pairs])
    chosen: list[tuple[str, int]] = []
    start = 0
    for some in options:
        mine = values[start : start + len(some)]
        start += len(some)
        # one that had no room has no tokens
        best = max(
            range(len(some)), key=lambda place: sum(mine[place]) / len(mine[place]) if mine[place] else -math.inf
        )
        chosen.append((some[best], sum(map(len, mine))))
    return chosen


def named(text: str, options: Sequence[str]) -> str:
    """The option that a written answer means: that which shares most of its words; the text itself where none does."""
    best = max(options, key=lambda option: token_f1(text, [option]))
    return best if token_f1(text, [best]) > 0 else text
