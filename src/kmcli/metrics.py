"""How two short texts agree: SQuAD's published measures (Rajpurkar et al. 2016, section 6.1). Pure functions on strings."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, ASCII punctuation and English articles dropped, white space collapsed."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 where the normalised prediction equals a normalised reference, else 0.0."""
    return float(any(normalise(prediction) == normalise(answer) for answer in answers))


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """The best F1 over references of the normalised tokens, 0.0 to 1.0. Two empty texts agree."""
    return max((_f1(normalise(prediction).split(), normalise(answer).split()) for answer in answers), default=0.0)


def _f1(predicted: list[str], reference: list[str]) -> float:
    if not predicted or not reference:
        return float(predicted == reference)
    shared = sum((Counter(predicted) & Counter(reference)).values())
    return 2 * shared / (len(predicted) + len(reference))
