"""How likely an answer of a Knowledge Module is right, and whether its document answers the question at all.

Logistic curves through what is known without another reading (what the module said and how surely, what its document's
words bear out, what the exam found of that passage), and through that and what the base said when it had read the likeliest
passage. They begin as `PRIOR`, which was fitted on questions with known answers, and are fitted on the exam of the module:
on few questions they stay near the prior (docs/answers.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from kmcli.engines import Generation
from kmcli.metrics import exact_match
from kmcli.routing import support
from kmcli.routing.support import Mentions
from kmcli.types import Passage

SURE = 0.6
"""From here on the module answers alone."""
STRANGE = 0.1
"""Below it the document is taken not to answer, and is not read either."""
ENOUGH = 0.2
"""From here on an answer is given, after reading."""
DOUBTFUL = 0.8
"""Below it an answer that is given is marked: of those that are not, 19 in 20 are right (docs/experiments.md)."""

SHRINK = 2.0
"""So many facts, known as the whole document is, are added to those of a passage."""
LEAST = -3.0
"""Of a mean log-probability: lower says no more."""
PULL = 1.0
"""How firmly a curve is held to its prior: one over the variance that its weights have around it."""
FOLDS = 5
BINS = 10

Curve = tuple[float, ...]
Name = Literal["km", "says", "km_read", "read", "says_read"]
"""How likely the module is right, and the document answers; both after a reading, and how likely that is right."""

PRIOR: Mapping[Name, Curve] = {
    "km": (-7.4, 3.9, 5.8, 1.2, 2.8, 1.0, -1.7, 1.0),
    "says": (-4.5, -0.2, 1.7, 1.9, 0.9, 3.0, -0.3, 0.0),
    "km_read": (-6.9, 3.0, 4.0, -0.2, 2.0, 2.0, -2.8, 1.0, 0.0, -1.9, 1.1, 1.0, -3.1, 3.5),
    "read": (-7.6, 0.8, -1.0, 0.1, 1.1, 1.5, -2.0, 0.0, 1.7, 5.0, 0.5, 3.5, -2.9, 1.6),
    "says_read": (-5.3, -0.1, 0.2, 1.6, 0.7, 3.5, -0.5, 0.0, -0.6, 1.4, 0.5, 0.7, -2.2, 1.5),
}
"""Fitted on 837 questions to 75 modules of the embedded base, 471 of them without an answer in their document; `here`
counted each word of a name by itself then."""


@dataclass(frozen=True, slots=True)
class Closed:
    """What is known before anything is read.

    said: the module's answer. logprob: of its tokens, the mean. supported: as `support.features` of it. here: how much of
    what the question names is in the document (`Mentions.share`). known: share of the passage's facts that the exam found
    known, None where there is none.
    """

    said: str
    logprob: float
    supported: tuple[float, float, float]
    here: float
    refused: bool
    known: float | None = None

    def values(self) -> Curve:
        known = 0.0 if self.known is None else 2 * self.known - 1
        return (1.0, max(LEAST, self.logprob), *self.supported, self.here, float(self.refused), known)


@dataclass(frozen=True, slots=True)
class Opened:
    """What the base said with the likeliest passage in front of the question, without the module."""

    said: str
    logprob: float
    supported: tuple[float, float, float]
    refused: bool

    def values(self, closed: Closed) -> Curve:
        agrees = exact_match(self.said, [closed.said])
        own = (max(LEAST, self.logprob), *self.supported, float(self.refused), agrees)
        return (*closed.values(), *own)


NOTHING = Opened("", LEAST, (0.0, 0.0, 0.0), True)
"""No passage has a word of the question, or none fits."""


@dataclass(frozen=True, slots=True)
class Example:
    """A question whose answer is known. group: those of one are never on both sides of a fold."""

    group: str
    closed: Closed
    opened: Opened
    km_right: bool
    read_right: bool
    answerable: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """by: whose answer it is; "": none is given, since the document does not say (`silent`), or it is not known.

    confidence: that what is said is right; of "not known": that the best answer would have been.
    """

    by: Literal["km", "rag", ""]
    confidence: float
    says: float
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Calibration:
    """The curves of a module. questions, strangers: how many had an answer and how many none. error: expected calibration
    error of the replies to them, each by curves that were fitted without it; None where there were too few."""

    curves: Mapping[Name, Curve]
    questions: int = 0
    strangers: int = 0
    error: float | None = None

    def before(self, closed: Closed) -> Verdict | None:
        """What to do without reading; None: read."""
        values = closed.values()
        right = 0.0 if closed.refused else self._chance("km", values)
        says = self._chance("says", values)
        if right >= SURE:
            return Verdict("km", right, says)
        return Verdict("", 1 - says, says, True) if says < STRANGE else None

    def after(self, closed: Closed, opened: Opened) -> Verdict:
        """What to do once the likeliest passage was read."""
        values = opened.values(closed)
        says = self._chance("says_read", values)
        km = 0.0 if closed.refused else self._chance("km_read", values)
        read = 0.0 if opened.refused else self._chance("read", values)
        best = max(km, read)
        if best >= ENOUGH:
            return Verdict("km" if km > read else "rag", best, says)
        return Verdict("", 1 - says, says, True) if says < 0.5 else Verdict("", best, says)

    def reply(self, closed: Closed, opened: Opened) -> Verdict:
        return self.before(closed) or self.after(closed, opened)

    def _chance(self, name: Name, values: Curve) -> float:
        return _logistic(sum(a * b for a, b in zip(self.curves[name], values, strict=True)))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Calibration:
        """Raises TypeError, KeyError or ValueError for what is none, or of another km."""
        curves: dict[Name, Curve] = {name: tuple(map(float, data["curves"][name])) for name in PRIOR}
        if any(len(curves[name]) != len(PRIOR[name]) for name in PRIOR):
            raise ValueError("other curves")
        return cls(curves, data["questions"], data["strangers"], data["error"])


def closed(
    question: str,
    made: Generation | tuple[str, float],
    evidence: Sequence[Passage],
    mentions: Mentions,
    refused: bool,
    known: float | None,
) -> Closed:
    """made: the module's answer, or its text and the mean log-probability. evidence: passages for its answer. mentions: the
    document's."""
    said, logprob = made if isinstance(made, tuple) else (made.text, mean_logprob(made))
    shares = support.features(question, said, evidence, back=True)
    return Closed(said, logprob, shares, mentions.share(question), refused, known)


def opened(question: str, made: Generation, shown: Sequence[Passage], refused: bool) -> Opened:
    return Opened(made.text, mean_logprob(made), support.features(question, made.text, shown, back=True), refused)


def mean_logprob(made: Generation) -> float:
    """Of an engine that tells them; of no answer the least."""
    if not made.logprobs:
        return LEAST
    return sum(token.logprob for token in made.logprobs) / len(made.logprobs)


def shrunk(known: int, asked: int, share: float) -> float:
    """Of a passage's facts, the share that is known, drawn to that of the whole document."""
    return (known + SHRINK * share) / (asked + SHRINK)


def fit(examples: Sequence[Example], prior: Mapping[Name, Curve] | None = None, pull: float = PULL) -> Calibration:
    """The curves of these questions, drawn to the prior; of none, the prior itself."""
    questions = sum(one.answerable for one in examples)
    curves = _curves(examples, PRIOR if prior is None else prior, pull)
    return Calibration(curves, questions, len(examples) - questions, _error(examples, prior, pull))


def _curves(examples: Sequence[Example], prior: Mapping[Name, Curve], pull: float) -> dict[Name, Curve]:
    """Questions with and without an answer weigh the same in all, as many as there are of the fewer: two say little."""
    if not examples:
        return dict(prior)
    answerable = sum(one.answerable for one in examples)
    strangers = len(examples) - answerable
    fewer = min(answerable, strangers)
    even = [fewer / (answerable if one.answerable else strangers) for one in examples]
    before = [one.closed.values() for one in examples]
    after = [one.opened.values(one.closed) for one in examples]
    km = [one.km_right for one in examples]
    says = [one.answerable for one in examples]
    read = [one.read_right for one in examples]
    return {
        "km": _fitted(before, km, even, prior["km"], pull),
        "says": _fitted(before, says, even, prior["says"], pull),
        "km_read": _fitted(after, km, even, prior["km_read"], pull),
        "read": _fitted(after, read, even, prior["read"], pull),
        "says_read": _fitted(after, says, even, prior["says_read"], pull),
    }


def _fitted(rows: Sequence[Curve], truth: Sequence[bool], weights: Sequence[float], prior: Curve, pull: float) -> Curve:
    """Penalised logistic regression by Newton's method, each step shortened until it gains."""
    import numpy as np

    x, y, w = np.array(rows), np.array(truth, dtype=float), np.array(weights)
    start = np.array(prior)
    held = np.full(len(start), pull)

    def loss(at: Any) -> float:
        z = x @ at
        return float(w @ (np.logaddexp(0.0, z) - y * z) + held @ (at - start) ** 2 / 2)

    at = start.copy()
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ at, -60, 60)))
        slope = x.T @ (w * (p - y)) + held * (at - start)
        step = np.linalg.solve((x * (w * p * (1 - p))[:, None]).T @ x + np.diag(held), slope)
        length, here = 1.0, loss(at)
        while loss(at - length * step) > here and length > 1e-4:
            length /= 2
        at = at - length * step
        if float(np.abs(step).max()) < 1e-6:
            break
    return tuple(round(float(value), 4) for value in at)


def _error(examples: Sequence[Example], prior: Mapping[Name, Curve] | None, pull: float) -> float | None:
    groups = sorted({one.group for one in examples})
    if len(groups) < FOLDS:
        return None
    said: list[tuple[float, bool]] = []
    for fold in range(FOLDS):
        out = set(groups[fold::FOLDS])
        kept = [one for one in examples if one.group not in out]
        without = Calibration(_curves(kept, PRIOR if prior is None else prior, pull))
        for one in (one for one in examples if one.group in out):
            verdict = without.reply(one.closed, one.opened)
            said.append((verdict.confidence, was_right(verdict, one, without)))
    return round(calibration_error(said), 4)


def was_right(verdict: Verdict, one: Example, by: Calibration | None = None) -> bool:
    """What a confidence speaks of: that the answer is right, or that there is none; of "not known", that the better of the
    two answers would have been."""
    if verdict.silent:
        return not one.answerable
    if verdict.by:
        return one.km_right if verdict.by == "km" else one.read_right
    return one.km_right or one.read_right


def calibration_error(said: Sequence[tuple[float, bool]]) -> float:
    """Expected calibration error: how far the mean confidence of ten equal bins lies from the share that is right, each
    weighed by its size. said: confidences, and whether it was right."""
    total = 0.0
    for place in range(BINS):
        inside = [(p, right) for p, right in said if min(BINS - 1, int(p * BINS)) == place]
        if inside:
            total += abs(sum(p for p, _ in inside) - sum(right for _, right in inside))
    return total / max(1, len(said))


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, value))))
