"""From conversations to rows of token ids with a weight each: whole conversations side by side, none cut from its text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from tokenizers import Tokenizer

from basemodel.chats import Mixture, Scale, Turn

PAD, START, END = 0, 1, 2
ANSWER_WEIGHT, TEXT_WEIGHT, PROSE_WEIGHT = 10, 3, 4
OPEN_ROWS = 24


def encode(tokenizer: Tokenizer, turns: list[Turn]) -> tuple[list[int], list[int]]:
    """Ids and weights of a conversation in the base's chat template, closed by PAD. Answers weigh more than the rest."""
    newline = tokenizer.encode("\n").ids
    ids: list[int] = []
    weights: list[int] = []
    for role, content in turns:
        if role == "prose":
            body = tokenizer.encode(content).ids
            return [*body, PAD], [*[PROSE_WEIGHT] * len(body), PROSE_WEIGHT]
        head = tokenizer.encode(f"{role}\n").ids
        body = tokenizer.encode(content).ids  # apart, as km tokenises it
        answer = role == "assistant"
        ids += [START, *head, *body, END, *newline]
        weights += [0 if answer else TEXT_WEIGHT] * (1 + len(head))
        weights += [ANSWER_WEIGHT if answer else TEXT_WEIGHT] * (len(body) + 1)
        weights += [0 if answer else TEXT_WEIGHT] * len(newline)
    return [*ids, PAD], [*weights, 0]


def rows(tokenizer: Tokenizer, mixture: Mixture, length: int, scale: Scale) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless rows of `length` + 1 tokens: ids (uint16) and weights (uint8), filled by first fit, padded with PAD."""
    opened: list[tuple[list[int], list[int]]] = []
    while True:
        ids, weights = encode(tokenizer, mixture.next(scale))
        if len(ids) > length + 1:
            continue
        for row in opened:
            if len(row[0]) + len(ids) <= length + 1:
                row[0].extend(ids)
                row[1].extend(weights)
                break
        else:
            opened.append((ids, weights))
        if len(opened) > OPEN_ROWS:
            opened.sort(key=lambda row: -len(row[0]))
            full_ids, full_weights = opened.pop(0)
            padding = length + 1 - len(full_ids)
            yield (
                np.array([*full_ids, *[PAD] * padding], dtype=np.uint16),
                np.array([*full_weights, *[0] * padding], dtype=np.uint8),
            )
