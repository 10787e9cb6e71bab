"""What another model says of the answers of a comparison: right or wrong, by the question's reference answers.

It is shown each answer by itself, and neither which row gave it nor what other rows say, so nothing depends on an order.
Equal answers to a question are judged once. A judgement that cannot be read is none, and never counts as right.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath
from statistics import fmean

from kmcli.bases.prompts import Prompts
from kmcli.engines import Chat, Engine, Sampling
from kmcli.evaluation.comparison import Comparison, Judge, Judged, Judgement, Row, Way
from kmcli.evaluation.kinds import UNANSWERABLE
from kmcli.evaluation.metrics import among, bootstrap, paired_p
from kmcli.evaluation.verdict import difference, label, rival_of
from kmcli.types import Event, Question, Reporter

GREEDY = Sampling(64)
"""A model asked for nothing but the word sometimes says a sentence."""

_MARKS = re.compile(r"\\boxed|[*_`#$]|</?\w+>")
_SUPPOSED = re.compile(r"\b(?:whether|if)\b[^.,;:!?\n]*", re.IGNORECASE)
_CHOICE = re.compile(r"\b(?:in)?correct\b[^\w\n]{0,3}(?:(?:or|and|vs)\b[^\w\n]{0,3})?\b(?:in)?correct\b", re.IGNORECASE)
"""The two words beside each other, as the prompt has them."""
_WORD = (
    r"(?P<not>not\s{1,3}|(?:is|was)n['’]t\s{1,3})?\b(?P<word>correct|incorrect|right|wrong)\b"
    r"(?=\s{0,9}(?:$|[.,;!)\]}\"'”»–—]|(?:because|since|as|and)\b)|\s{1,9}-\s)"
    r"(?!\W{0,3}(?:but|except|although|though|however|if|only|apart|unless|yet|partly|partially|in\spart)\b)"
)
_BETWEEN = r"(?:[\s:=(){}\[\]|\"'>-]|\b(?:a|also|as|clearly|is|my|the|therefore|thus|was)\b){0,40}?"
_JUDGED = (
    r"\b(?:verdict|judge?ment|grade|decision|conclusion|assessment|evaluation|result|answer|response|it|this|that)\b"
    r"(?:['’]s\b)?"
)
_FINDERS = tuple(
    re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    for pattern in (rf"{_JUDGED}{_BETWEEN}{_WORD}", rf"(?:^|[.;!?]\s)[^\w\n]{{0,9}}{_WORD}")
)
"""What is said of something that is judged, and what a sentence begins with."""


def parse(text: str, finished: bool = True) -> Judgement:
    """What a judge's answer says; unclear where that is nothing, both, or only in part.

    finished: False where the answer was cut off, so that its last word may be half of one.
    """
    said = text.rpartition("</think>")[2]
    if "<think>" in said:  # it never came to its answer
        return "unclear"
    if not finished:
        said = said[: max(said.rfind(" "), said.rfind("\n")) + 1]
    said = _CHOICE.sub(" ", _SUPPOSED.sub(" if ", _MARKS.sub(" ", said)))
    found = {
        (match["word"].lower() in ("correct", "right")) != bool(match["not"])
        for finder in _FINDERS
        for match in finder.finditer(said)
    }
    if len(found) != 1:
        return "unclear"
    return "right" if found.pop() else "wrong"


def build_prompt(question: Question, answer: str, prompts: Prompts) -> str:
    """What the judge reads. prompts: the judge's. What the text does not say is rightly answered by saying so."""
    right = [prompts.not_stated] if question.kind == UNANSWERABLE else question.answers
    references = "\n".join(" ".join(one.split()) for one in right)
    return prompts.grade.format(question=question.question, references=references, answer=answer.strip())


def judge(engine: Engine, comparison: Comparison, prompts: Prompts, report: Reporter) -> Comparison:
    """The comparison with what a model says of its answers. prompts: that model's, which must have `grade`.

    An empty answer is wrong, and not asked about. What the judge cannot read at once is unclear.
    """
    asked = {
        key: [
            build_prompt(question, one.answer.text, prompts) if one.answer.text.strip() else None
            for question, one in zip(comparison.questions, row, strict=True)
        ]
        for key, row in comparison.answers.items()
    }
    found = _judgements(engine, list(dict.fromkeys(one for row in asked.values() for one in row if one)), report)
    answers = {
        key: tuple(
            replace(one, judgement=found[prompt] if prompt else "wrong")
            for one, prompt in zip(row, asked[key], strict=True)
        )
        for key, row in comparison.answers.items()
    }
    # A path would say on the page whose machine this was.
    name = PurePath(engine.model).name if PurePath(engine.model).is_absolute() else engine.model
    unclear = sum(one == "unclear" for one in found.values())
    judged = replace(
        comparison,
        rows=tuple(_scored(row, answers) for row in comparison.rows),
        answers=answers,
        judge=Judge(name, engine.revision, engine.name, len(found), unclear),
    )
    return replace(judged, verdict=f"{comparison.verdict}{_told(judged, name)}")


def _judgements(engine: Engine, prompts: Sequence[str], report: Reporter) -> dict[str, Judgement]:
    found: dict[str, Judgement] = dict.fromkeys(prompts, "unclear")
    chats: dict[str, Chat] = {prompt: [("user", prompt)] for prompt in prompts}
    readable = [one for one in prompts if engine.count(chats[one]) + GREEDY.max_tokens <= engine.context]

    def progress(done: int) -> None:
        report(Event("judge", "judging the answers", done, len(readable)))

    progress(0)
    if readable:
        said = engine.generate([chats[one] for one in readable], GREEDY, progress)
        found |= {
            prompt: parse(generation.text, generation.finished)
            for prompt, generation in zip(readable, said, strict=True)
        }
    return found


def _right(judged: Sequence[Judged]) -> list[float]:
    return [float(one.judgement == "right") for one in judged]


def _scored(row: Row, answers: dict[str, tuple[Judged, ...]]) -> Row:
    if not row.fits:
        return row
    own, km = answers[row.key], answers.get("km")
    unclear = sum(one.judgement == "unclear" for one in own)
    notes = [row.note] if row.note else []
    if unclear:
        notes.append(f"no judgement could be read of {unclear} of {len(own)} answers, which count as not right")
    return replace(
        row,
        judged=bootstrap(_right(own)),
        judged_p_km=paired_p(_right(own), _right(km)) if km and row.key != "km" else None,
        note="; ".join(notes),
    )


def _told(comparison: Comparison, name: str) -> str:
    """The sentence that follows the verdict: the same two rows as there, by the judge; "" where there are no two."""
    rows = {Way(row.method, row.retriever, row.k, row.kept, row.adapter): row for row in comparison.rows if row.fits}
    judged = {way: comparison.answers[row.key] for way, row in rows.items()}
    km, rival = Way("km"), rival_of(judged, comparison.measure)
    if km not in judged or rival is None:
        return ""
    p = among({way: row.judged_p_km for way, row in rows.items()})[rival]
    means = {way: fmean(_right(judged[way])) for way in (km, rival)}
    ahead = label(km if means[km] > means[rival] else rival, judged)
    return (
        f" Judged by {name}, the KM is right on {means[km]:.0%} and {label(rival, judged)} {means[rival]:.0%}: "
        f"{difference(ahead, p)}."
    )
