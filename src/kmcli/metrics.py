"""How two texts agree: SQuAD's published measures (Rajpurkar et al. 2016, section 6.1), and Rouge-L (Lin 2004) as the
package rouge-score computes it; and where one stands in the other. Pure functions on strings."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from kmcli.stemming import stem

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WORD = re.compile(r"[a-z0-9]+")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, ASCII punctuation and English articles dropped, white space collapsed."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def occurrences(answer: str, text: str) -> int:
    """In how many places a text has an answer's words, both normalised, one after the other; an empty answer in none."""
    said = normalise(answer)
    return len(re.findall(f"(?= {re.escape(said)} )", f" {normalise(text)} ")) if said else 0


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


def rouge_l(prediction: str, answers: Sequence[str]) -> float:
    """The best F1 over references by their longest common subsequence of stemmed words, 0.0 to 1.0.

    Words are runs of a-z and 0-9 in lower case, as published scores have them: text in another script has none, and two
    texts without words do not agree.
    """
    predicted = _stems(prediction)
    return max((_common(predicted, _stems(answer)) for answer in answers), default=0.0)


def _stems(text: str) -> list[str]:
    """Words of up to three letters stay as they are."""
    return [stem(word) if len(word) > 3 else word for word in _WORD.findall(text.lower())]


def _common(predicted: list[str], reference: list[str]) -> float:
    if not predicted or not reference:
        return 0.0
    longest = [0] * (len(reference) + 1)  # of the words so far and the first so many of the reference
    for word in predicted:
        above = 0
        for place, other in enumerate(reference, 1):
            above, longest[place] = (
                longest[place],
                above + 1 if word == other else max(longest[place], longest[place - 1]),
            )
    return 2 * longest[-1] / (len(predicted) + len(reference))
