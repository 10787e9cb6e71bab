"""Whether a passage bears an answer out: does one of its sentences say the answer, with the words of the question about it?

A logistic curve through three shares of words, fitted on answers known to be right or wrong (docs/answers.md). And whether a
document has what a question names, which is told without an answer (`Mentions`).
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from kmcli.retrieval import STOP_WORDS
from kmcli.types import Passage

ENOUGH = 0.7
"""The confidence from which an answer counts as supported."""

_CONSTANT = -16.4
_STANDS, _NEAR, _NAMED = 7.1, 3.2, 8.7

NEAR = 4
"""Words of one name stand at most so far apart: "Marks and Spencer", "the Music Week of 2019"."""
HALF_KNOWN = 0.25
"""What two words of a name count where the document has one of them alone: it may be another's name, or lack a title."""

_IN_NUMBER = re.compile(r"(?<=\d)[.,](?=\d)")
_GOES_ON = re.compile(
    r"\s*(?:(?:[Ii]t|[Hh]e|[Ss]he|[Tt]hey|[Ii]ts|[Hh]is|[Hh]er|[Tt]heir|[Tt]his|[Tt]hese|[Tt]hose)\b"
    r"|[Tt]he (?:[a-z]\w* ){1,2}[a-z]|[Tt]he [a-z]\w*[.!?]?$)"
)
"""How a sentence begins that speaks of what another names: with a pronoun, or "the ship was"."""
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")


def enough(confidence: float | None) -> bool | None:
    """Whether an answer counts as supported; None where nobody looked."""
    return None if confidence is None else confidence >= ENOUGH


def confidence(question: str, answer: str, evidence: Sequence[Passage]) -> float:
    """How likely an answer is right, from 0 to 1."""
    stands, near, named = features(question, answer, evidence)
    return 1 / (1 + math.exp(-(_CONSTANT + _STANDS * stands + _NEAR * near + _NAMED * named)))


def features(question: str, answer: str, evidence: Sequence[Passage], back: bool = False) -> tuple[float, float, float]:
    """stands: share of the answer's words in the sentence that has most of them. near: share of the question's words that
    are in that sentence, or the one before it. named: the same of the names and numbers among them; of all of
    them where there is none; with `back` in that sentence and, where it goes on about something ("It ..."), in those before
    it up to the one that names it."""
    said = words(answer)
    asked = [word for word in words(question) if word not in said]  # those say nothing of it
    called = [word for word in names(question) if word in asked]
    best = (0.0, 0.0, 0.0)
    for passage in evidence:
        before: list[str] = []
        subject: list[str] = []
        for sentence in _SENTENCE.split(passage.text):
            here = words(sentence)
            near = share(asked, before + here, exact=False)
            subject = subject + here if _GOES_ON.match(sentence) else here
            named = share(called, subject if back else before + here, exact=True) if called else near
            best = max(best, (share(said, here, exact=True), near, named))
            before = here
    return best


@dataclass(frozen=True, slots=True)
class Mentions:
    """What a document speaks of. places: of each word, where it stands, counted in words."""

    places: Mapping[str, Sequence[int]]

    @classmethod
    def of(cls, text: str) -> Mentions:
        places: dict[str, list[int]] = {}
        for place, word in enumerate(_split(text.lower())):
            places.setdefault(word, []).append(place)
        return cls(places)

    def named(self, question: str) -> list[float]:
        """Of each of the question's names how far it is here, from 0 to 1; of one of several words, of any two that follow
        each other in it. "Project Rose" is not in a document that has a Project Iris here and a Rose Lane there; "Thomas
        Edison" is in one that has "Edison, Thomas Alva", and "Dr Edison" by HALF_KNOWN in one that knows of no doctor."""
        found: list[float] = []
        for name in _called(question):
            places = [self.places.get(word, ()) for word in name]
            found += [float(bool(places[0]))] if len(name) == 1 else [_together(a, b) for a, b in pairwise(places)]
        return found

    def share(self, question: str) -> float:
        """How much of what a question names is here, as `named` has it; of its words, where it has no name; 0 where it has
        none either."""
        found = self.named(question) or [float(word in self.places) for word in words(question)]
        return sum(found) / len(found) if found else 0.0


def _together(some: Sequence[int], others: Sequence[int]) -> float:
    """How likely two words that stand at these places are one name."""
    if some and others:
        return float(_near(some, others))
    return HALF_KNOWN if some or others else 0.0


def _near(some: Sequence[int], others: Sequence[int]) -> bool:
    """Whether any two of these places, both in rising order, are at most NEAR words apart."""
    for place in some:
        after = bisect_left(others, place - NEAR)
        if after < len(others) and others[after] <= place + NEAR:
            return True
    return False


def names(question: str) -> list[str]:
    """Words that begin with a capital or a digit, but the first, which always does, and words like "I" and "The"."""
    return [word for name in _called(question) for word in name]


def _called(question: str) -> list[list[str]]:
    """Names, each of the words that follow one another in it: a comma or a quotation mark ends one. None where all is in
    capitals, which then say nothing."""
    if question.isupper():
        return []
    after_first = re.sub(r"^\W*\w+", "", _IN_NUMBER.sub("", question))
    found: list[list[str]] = [[]]
    for part in re.findall(r"\w+|[^\w\s.'’&-]+", after_first):
        common = part.lower() in STOP_WORDS and (len(part) == 1 or not part.isupper())  # "What", but not the WHO
        if not common and (part[0].isupper() or part[0].isdigit()):
            found[-1].append(part.lower())
        else:
            found.append([])
    return [name for name in found if name]


def _split(text: str) -> list[str]:
    """Numbers whole, whatever separates their digits."""
    return re.findall(r"\w+", _IN_NUMBER.sub("", text))


def share(wanted: Sequence[str], words: Sequence[str], exact: bool) -> float:
    """How many of the wanted words are among the others, as a share; 0 where none is wanted."""
    if not wanted:
        return 0.0
    have = set(words)
    return sum(one in have or (not exact and any(_alike(one, other) for other in have)) for one in wanted) / len(wanted)


def _alike(one: str, other: str) -> bool:
    """Forms of one word, near enough: founded and founder, but not 1871 and 1872."""
    shared = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return shared >= 4 and shared >= 0.7 * min(len(one), len(other)) and one.isalpha() and other.isalpha()


def words(text: str) -> list[str]:
    """What carries the meaning: each word once."""
    return list(dict.fromkeys(word for word in _split(text.lower()) if word not in STOP_WORDS))
