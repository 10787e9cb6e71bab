"""The comparison: every method on the same questions, and in plain words what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

from kmcli.bases.prompts import Prompts
from kmcli.chunking import join_pages
from kmcli.engines import Engine, Sampling
from kmcli.evaluation import METHODS
from kmcli.evaluation.methods import GREEDY, answer_all, gold_chunk
from kmcli.evaluation.metrics import bootstrap, exact_match, gap_closed, paired_p, token_f1
from kmcli.retrieval import Index
from kmcli.types import Answer, Chunk, Document, Event, Method, Passage, Question, Reporter, Score

Measure = Literal["exact_match", "f1"]

SIGNIFICANT = 0.05
RIVALS: tuple[Method, ...] = ("rag", "full", "bare")
"""What the verdict sets the KM against: the first of these that was asked."""
FEW = 20
"""Below so many questions the verdict says that they are few."""


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer with its scores, both from 0 to 1."""

    answer: Answer
    exact_match: float
    f1: float


@dataclass(frozen=True, slots=True)
class Row:
    """A method's line of the table. Token counts and seconds are means per question.

    fits False: the questions were not asked, every number is None, and note says why. A note on a row that fits says
    what to know when reading it.
    """

    method: Method
    fits: bool
    exact_match: Score | None = None
    f1: Score | None = None
    prompt_tokens: float | None = None
    output_tokens: float | None = None
    seconds: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """rows and answers are in the order of METHODS. answers[method][i] answers questions[i]; only methods that fit.

    reference: what the gap is measured to, "gold", or "full" where gold could not be asked. gap_closed (by exact match)
    and gap_closed_f1: 0 is the bare base, 1 the reference; None where a row is missing or the reference is not the
    better one.
    """

    document: str
    questions: tuple[Question, ...]
    rows: tuple[Row, ...]
    answers: Mapping[Method, tuple[Judged, ...]]
    reference: Method | None
    gap_closed: float | None
    gap_closed_f1: float | None
    verdict: str


def compare(
    engines: Mapping[Method, Engine],
    document: Document,
    text: str,
    chunks: Sequence[Chunk],
    questions: Sequence[Question],
    prompts: Prompts,
    report: Reporter,
    *,
    rag_k: int,
    rag_chunks: Sequence[Chunk],
    sampling: Sampling = GREEDY,
) -> Comparison:
    """Ask every question by every method that has an engine; the one for `km` has the adapter on, the others off.

    text: the document's, with page marks. chunks: where `gold` looks for the evidence. rag_chunks: the passages `rag`
    searches, rag_k of which it reads. Raises ValueError for no questions.
    """
    if not questions:
        raise ValueError("no questions: there is nothing to compare")
    methods = [method for method in METHODS if method in engines]
    total = len(methods) * len(questions)
    rows: list[Row] = []
    judged: dict[Method, tuple[Judged, ...]] = {}
    for place, method in enumerate(methods):

        def progress(answered: int, before: int = place * len(questions), method: Method = method) -> None:
            report(Event("compare", method, before + answered, total))

        progress(0)
        passages = _passages(method, document.name, chunks if method == "gold" else rag_chunks, questions, rag_k)
        row = Row(method, fits=False)
        if method == "gold" and not all(passages):
            row = replace(row, note=f"no evidence found for {passages.count([])} of {len(questions)} questions")
        else:
            whole = join_pages(text) if method == "full" else ""
            answers = answer_all(
                method,
                engines[method],
                questions,
                prompts,
                text=whole,
                passages=passages,
                sampling=sampling,
                progress=progress,
            )
            if answers is None:
                row = replace(row, note=f"prompt and answer do not fit in {engines[method].context:,} tokens")
            else:
                judged[method] = tuple(map(_judge, answers, questions))
                row = _row(method, judged[method], sum(map(len, passages)))
        rows.append(row)
        progress(len(questions))
    reference: Method | None = "gold" if "gold" in judged else "full" if "full" in judged else None
    return Comparison(
        document.name,
        tuple(questions),
        tuple(rows),
        judged,
        reference,
        _gap(judged, reference, "exact_match"),
        _gap(judged, reference, "f1"),
        _verdict(judged, reference),
    )


def _passages(
    method: Method, document: str, chunks: Sequence[Chunk], questions: Sequence[Question], k: int
) -> list[list[Passage]]:
    """What `rag` and `gold` read, per question; nothing for the others."""
    if method == "rag":
        with Index(document, chunks) as index:
            return [index.search(question.question, k) for question in questions]
    if method == "gold":
        found = [gold_chunk(question, chunks) for question in questions]
        return [[Passage(document, one.text, 1.0, one.first_page)] if one else [] for one in found]
    return [[] for _ in questions]


def _judge(answer: Answer, question: Question) -> Judged:
    return Judged(answer, exact_match(answer.text, question.answers), token_f1(answer.text, question.answers))


def _row(method: Method, judged: Sequence[Judged], found: int) -> Row:
    shown = sum(len(one.answer.evidence) for one in judged)
    return Row(
        method,
        True,
        bootstrap([one.exact_match for one in judged]),
        bootstrap([one.f1 for one in judged]),
        fmean(one.answer.prompt_tokens for one in judged),
        fmean(one.answer.output_tokens for one in judged),
        fmean(one.answer.seconds for one in judged),
        f"read {shown} of the {found} passages found: the rest did not fit" if shown < found else "",
    )


def _values(judged: Sequence[Judged], by: Measure) -> list[float]:
    return [one.exact_match if by == "exact_match" else one.f1 for one in judged]


def _gap(judged: Mapping[Method, Sequence[Judged]], reference: Method | None, by: Measure) -> float | None:
    if reference is None or "km" not in judged or "bare" not in judged:
        return None
    km, bare, best = (fmean(_values(judged[method], by)) for method in ("km", "bare", reference))
    return gap_closed(km, bare, best)


def _verdict(judged: Mapping[Method, Sequence[Judged]], reference: Method | None) -> str:
    """One or two sentences by exact match, or by F1 where no method got anything exactly right."""
    if not judged:
        return "No method could be asked, so there is nothing to compare."
    by: Measure = "exact_match" if any(one.exact_match for row in judged.values() for one in row) else "f1"
    values = {method: _values(row, by) for method, row in judged.items()}
    scored = "right on" if by == "exact_match" else "at an F1 of"
    label = {method: METHODS[method].label for method in judged}
    percent = {method: f"{fmean(values[method]):.0%}" for method in judged}
    tokens = {method: fmean(one.answer.prompt_tokens for one in row) for method, row in judged.items()}
    candidates: list[Method] = [method for method in judged if method != "gold"] or ["gold"]
    best = max(candidates, key=lambda method: (fmean(values[method]), -tokens[method]))
    asked = len(next(iter(values.values())))
    over = f"Over {'only ' if asked < FEW else ''}{asked} question{'' if asked == 1 else 's'}"
    rival = next((method for method in RIVALS if method in judged), None)
    if "km" not in judged or rival is None:
        leads = "does best:" if len(candidates) > 1 else "is"
        return f"{over} {label[best]} {leads} {scored} {percent[best]}."

    p = paired_p(values["km"], values[rival])
    ahead = label["km" if fmean(values["km"]) > fmean(values[rival]) else rival]
    found = f"{ahead} is better" if p < SIGNIFICANT else "no clear difference"
    chance = "p < 0.01" if p < 0.01 else f"p = {p:.2f}"
    verdict = f"{over} the KM is {scored} {percent['km']} and {label[rival]} {percent[rival]}: {found} ({chance})"
    if tokens[rival] > tokens["km"] > 0:
        verdict += f", and the KM reads {tokens[rival] / tokens['km']:.1f} times fewer prompt tokens"
    if best not in ("km", rival):
        verdict += f"; {label[best]} does best with {percent[best]}"
    verdict += "."
    if reference is None or "bare" not in judged:
        return verdict
    closed = _gap(judged, reference, by)
    if closed is None:
        return (
            f"{verdict} {label[reference].capitalize()} does no better than the bare base, so there is no gap to close."
        )
    share = f"{closed:.0%}" if closed > 0 else "none"
    ends = f"the bare base ({percent['bare']}) and {label[reference]} ({percent[reference]})"
    return f"{verdict} It closes {share} of the gap between {ends}."
