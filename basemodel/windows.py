"""Cutting a text down to a few sentences, with the questions that those still answer and those that they no longer do.

Short texts teach more for the same work, and a text cut from its document is what km itself shows a base: a chunk. What the
cut took away becomes an honest "The text does not say.", about the very things that the rest speaks of.
"""

from __future__ import annotations

import random
import re
from dataclasses import replace

from basemodel.material import Material

_PIECE = re.compile(r"[^\n]+?(?:[.!?][\"')\]]*(?=\s)|$)[ \t]*|\n+", re.MULTILINE)


def pieces(text: str) -> list[str]:
    """The text in sentences and line breaks; joined they are the text."""
    return [match[0] for match in _PIECE.finditer(text) if match[0]]


def places(answer: str, text: str) -> int:
    """How often an answer stands in a text as whole words, in any case."""
    return len(re.findall(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE))


def cut(material: Material, words: int, r: random.Random) -> Material:
    """About `words` words of the text from a random place; the material itself where it is no longer than that.

    A question stays where every place of its answer stayed. It becomes unknown where none did. Where some did, and where the
    answer is not a piece of the text (yes, no, something worked out), nothing is known of it and it is dropped.
    """
    parts = pieces(material.text)
    lengths = [len(part.split()) for part in parts]
    if sum(lengths) <= words:
        return material
    starts = [index for index, length in enumerate(lengths) if length]
    first = r.choice(starts)
    last = first
    while last < len(parts) and sum(lengths[first : last + 1]) <= words:
        last += 1
    while last == len(parts) and first > 0 and sum(lengths[first - 1 :]) <= words:
        first -= 1  # started near the end: more from before
    text = "".join(parts[first : max(last, first + 1)]).strip()
    known, unknown = [], list(material.unknown)
    for question, answer in material.questions:
        everywhere, here = places(answer, material.text), places(answer, text)
        if everywhere and here == everywhere:
            known.append((question, answer))
        elif everywhere and not here:
            unknown.append(question)
    names = tuple(name for name in material.names if places(name, text))
    said = tuple(
        (sentence, values)
        for sentence, values in material.said
        if values and all(places(value, text) for value in values)
    )
    return replace(material, text=text, questions=tuple(known), unknown=tuple(unknown), names=names, said=said)
