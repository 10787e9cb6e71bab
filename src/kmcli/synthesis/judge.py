"""How good a sample is, from 1 to 5: the base that writes rates it, with the chunk in front of it.

A sample is rated once and keeps its score. 0 says that it was rated and no score came of it: the answer held none that could
be read, or the base cannot read chunk and sample at once. For larger bases: a small one was not trained to judge.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from kmcli.bases.prompts import Prompts
from kmcli.engines import Chat, Engine, Sampling
from kmcli.errors import KmError, UsageError
from kmcli.synthesis.plan import names
from kmcli.types import IMPORTED, Event, Recipe, Reporter, Sample

BEST = 5
NO_SCORE = 0
SCORE_TOKENS = 64
"""A model asked for nothing but the number often says a sentence. The number stands early in it."""
SAMPLES_PER_GROUP = 64

_NUMBER = (
    r"(?P<score>[+-]?\d{1,9}(?:[.,]\d{1,9})?)(?:\s*(?:/|out\s+of|of)\s*(?P<scale>\d{1,9}))?"
    r"(?P<other>\s*(?:,|or|to|and|[-–—])\s*[1-5]\b)?(?![\w%]|[.,/]\d)"
)
_BETWEEN = (
    r"(?:[\s:=(){}\[\]|\"']|-\s|\b(?:a|an|and|as|at|be|exchange|final|from|i|is|it|its|of|on|overall|pair|prompt|response"
    r"|sample|scale|score|that|the|them|this|to|would)\b){0,40}?"
)
_PATTERNS = (
    rf"<(?:score|rating|rate|grade)>\s*{_NUMBER}\s*</",
    rf"\b(?:scor(?:e[sd]?|ing)|rat(?:e[sd]?|ing)|grad(?:e[sd]?|ing))\b{_BETWEEN}{_NUMBER}",
    rf"\b(?:giv(?:e|es|en|ing)|assign(?:ed|s)?|deserves?|merits?)\b{_BETWEEN}\b(?:an?|it|this|them)\s+{_NUMBER}",
    r"(?<![\w.,])(?P<score>[+-]?\d{1,9}(?:[.,]\d{1,9})?)\s*(?:/|out\s+of)\s*(?P<scale>\d{1,9})(?P<other>)(?![\w%]|[.,/]\d)",
    rf"^[^\w\n]{{0,9}}?{_NUMBER}(?=\s*(?:$|[.,:;)–—-]|because\b|since\b))",
)
"""From the plainest to the vaguest: the first that finds anything decides. The last: what a line begins with."""
_FINDERS = tuple(re.compile(pattern, re.IGNORECASE | re.MULTILINE) for pattern in _PATTERNS)
_RANGE = re.compile(rf"\b1\s*(?:to|and|through|[-–—]|\.\.+)\s*{BEST}\b(?!\s*/)", re.IGNORECASE)
_MARKS = re.compile(r"\\boxed|[*_`#$]|</?(?:b|strong|em|i)>")


def parse(text: str, finished: bool = True) -> int | None:
    """The score that a judge's answer gives; None where it gives none, several, or one off the scale.

    finished: False where the answer was cut off, so that its last word may be half of one.
    """
    said = text.rpartition("</think>")[2]
    if not finished:
        said = said[: max(said.rfind(" "), said.rfind("\n")) + 1]
    said = _RANGE.sub(" ", _MARKS.sub("", said))
    for finder in _FINDERS:
        found = {_valid(match["score"], match["scale"], match["other"]) for match in finder.finditer(said)}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def _valid(number: str, scale: str | None, other: str | None) -> int | None:
    whole = re.fullmatch(r"\+?(\d)(?:[.,]0)?", number)
    if whole is None or other or scale not in (None, str(BEST)):
        return None
    score = int(whole[1])
    return score if 1 <= score <= BEST else None


def judged(
    engine: Engine,
    samples: Sequence[Sample],
    texts: Mapping[str, str],
    prompts: Prompts,
    progress: Callable[[int], None] | None = None,
) -> list[Sample]:
    """The samples with their scores; one that has a score keeps it. texts: the chunks', by hash."""
    chats: dict[str, Chat] = {}
    for sample in samples:
        if sample.score is None:
            question = prompts.judge.format(prompt=sample.prompt, response=sample.response)
            content = prompts.under_text.format(text=texts[sample.chunk_sha256], question=question)
            chats[sample.id] = [("user", content)]
    readable = {one: chat for one, chat in chats.items() if engine.count(chat) + SCORE_TOKENS <= engine.context}
    said = engine.generate(list(readable.values()), Sampling(SCORE_TOKENS), progress) if readable else []
    scores = dict.fromkeys(chats, NO_SCORE)
    for one, generation in zip(readable, said, strict=True):
        scores[one] = parse(generation.text, generation.finished) or NO_SCORE
    return [replace(sample, score=scores.get(sample.id, sample.score)) for sample in samples]


def unrated(samples: Iterable[Sample], chunks: Collection[str], recipe: Recipe) -> list[Sample]:
    """Those without a score that the recipe trains on. chunks: hashes of those there are."""
    wanted = _trained_on(samples, chunks, recipe)
    return [sample for sample in wanted if sample.score is None and sample.engine != IMPORTED]


def judge_all(
    engine: Engine,
    samples: Sequence[Sample],
    texts: Mapping[str, str],
    prompts: Prompts,
    hand_over: Callable[[list[Sample]], None],
    report: Reporter,
) -> None:
    """Rate samples that were written without a judge. hand_over is called once a group, with their scores."""
    report(Event("judge", "rating the study material there was", 0, len(samples)))
    for start in range(0, len(samples), SAMPLES_PER_GROUP):

        def moved(finished: int, start: int = start) -> None:
            report(Event("judge", "", start + finished, len(samples)))

        group = judged(engine, samples[start : start + SAMPLES_PER_GROUP], texts, prompts, moved)
        hand_over(group)
        moved(len(group))


def good_enough(samples: Sequence[Sample], chunks: Collection[str], recipe: Recipe, report: Reporter) -> list[Sample]:
    """The samples that the recipe trains on: those that score as much as it asks for; says how many do not. What was
    imported without a score is good enough for the person who did it.

    chunks: hashes of those there are. Raises UsageError where some were not rated, KmError where none scores enough.
    """
    wanted = _trained_on(samples, chunks, recipe)
    if not recipe.min_score or not wanted:
        return wanted
    missing = sum(sample.score is None and sample.engine != IMPORTED for sample in wanted)
    if missing:
        raise not_rated(recipe, f"{missing:,} of {len(wanted):,} samples have no score")
    good = [sample for sample in wanted if sample.score is None or sample.score >= recipe.min_score]
    if not good:
        raise KmError(f"no sample scores {recipe.min_score} or more.", "Ask for less with --min-score.")
    if len(good) < len(wanted):
        less = f"{len(wanted) - len(good):,} of {len(wanted):,} samples"
        report(Event("judge", f"left out: {less}, which score less than {recipe.min_score}"))
    return good


def not_rated(recipe: Recipe, what: str) -> UsageError:
    return UsageError(
        f"{what}, and the recipe asks for at least {recipe.min_score}.", "Have the study material rated: add --judge."
    )


def distribution(samples: Iterable[Sample]) -> str:
    """How many samples have which score, in words, best first; "" where none was rated."""
    counts = Counter(sample.score for sample in samples if sample.score is not None)
    return ", ".join(f"{count:,} with {score or 'none'}" for score, count in sorted(counts.items(), reverse=True))


def _trained_on(samples: Iterable[Sample], chunks: Collection[str], recipe: Recipe) -> list[Sample]:
    tasks = names(recipe.tasks)
    return [
        sample
        for sample in samples
        if sample.chunk_sha256 in chunks and (sample.task in tasks or sample.engine == IMPORTED)
    ]
