"""The comparison: every method on the same questions, and in plain words what came of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean

from kmcli.bases.prompts import Prompts
from kmcli.chunking import join_pages
from kmcli.engines import Engine, Sampling
from kmcli.engines.hf import HfEngine
from kmcli.evaluation import METHODS
from kmcli.evaluation.comparison import Adapter, Comparison, Costs, Judged, Measure, Retriever, Row, Way
from kmcli.evaluation.costs import break_even
from kmcli.evaluation.kinds import UNANSWERABLE, guess, ordered
from kmcli.evaluation.methods import GREEDY, answer_all, gold_chunk
from kmcli.evaluation.metrics import bootstrap, exact_match, rouge_l, token_f1
from kmcli.evaluation.verdict import gap, measure_of, p_km, reference_of, rival_of, values, verdict
from kmcli.retrieval import Index, Searcher
from kmcli.types import Answer, Chunk, Document, Event, Passage, Question, Reporter

__all__ = ["Comparison", "Costs", "Facts", "Judged", "Row", "Way", "compare"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the table says beside the answers. kv_bytes: of the keys and values of so many tokens."""

    kv_bytes: Callable[[int], int]
    text_tokens: int
    adapter_bytes: int | None = None
    training_seconds: float | None = None
    adapters: tuple[Adapter, ...] = ()


def compare(
    engines: Mapping[Way, Engine],
    document: Document,
    base: str,
    text: str,
    chunks: Sequence[Chunk],
    questions: Sequence[Question],
    prompts: Prompts,
    report: Reporter,
    *,
    searchers: Mapping[Retriever, Searcher],
    facts: Facts | None = None,
    sampling: Sampling = GREEDY,
) -> Comparison:
    """Ask every question in every way that has an engine, which has on its base what the way's method wants there.

    base: what people call it. text: the document's, with page marks. chunks: where `gold` looks for the evidence.
    searchers: of the retrievers that the ways name. Raises ValueError for no questions.
    """
    if not questions:
        raise ValueError("no questions: there is nothing to compare")
    asked = tuple(one if one.kind else replace(one, kind=guess(one, prompts.refuses)) for one in questions)
    ways = sorted(engines, key=lambda way: list(METHODS).index(way.method))
    found = _found(ways, document.name, chunks, asked, searchers)
    total = len(ways) * len(asked)
    notes: dict[Way, str] = {}
    judged: dict[Way, tuple[Judged, ...]] = {}
    for place, way in enumerate(ways):

        def progress(answered: int, before: int = place * len(asked), key: str = way.key) -> None:
            report(Event("compare", key, before + answered, total))

        progress(0)
        read = join_pages(text) if METHODS[way.method].reads == "text" else ""
        answered, notes[way] = _put(way, engines[way], asked, prompts, read, found[way], sampling, progress)
        if answered is not None:
            judged[way] = answered
        progress(len(asked))
    by, reference = measure_of(judged), reference_of(judged)
    p_values = {way: p_km(judged, way, by) for way in judged}
    rows = [Row(way.key, fits=way in judged, note=notes[way], **asdict(way)) for way in ways]
    return Comparison(
        document.name,
        base,
        asked,
        tuple(
            _scored(row, judged[way], asked, by, _held(engines[way], facts), p_values[way]) if row.fits else row
            for way, row in zip(ways, rows, strict=True)
        ),
        {way.key: row for way, row in judged.items()},
        by,
        reference.key if reference else None,
        gap(judged, "exact_match"),
        gap(judged, "f1"),
        _costs(facts, judged, rival_of(judged, by)) if facts else None,
        verdict(judged, p_values),
    )


def _put(
    way: Way,
    engine: Engine,
    questions: Sequence[Question],
    prompts: Prompts,
    text: str,
    passages: Sequence[Sequence[Passage]],
    sampling: Sampling,
    progress: Callable[[int], None],
) -> tuple[tuple[Judged, ...] | None, str]:
    """A way's answers, None where the questions cannot be asked, and what to know of them. passages: per question."""
    if METHODS[way.method].reads == "evidence" and not all(passages):
        missing = sum(not some for some in passages)
        return None, f"no evidence found for {missing} of {len(questions)} questions"
    answers = answer_all(
        way.method, engine, questions, prompts, text=text, passages=passages, sampling=sampling, progress=progress
    )
    if answers is None:
        return None, f"prompt and answer do not fit in {engine.context:,} tokens"
    shown, found = sum(len(one.evidence) for one in answers), sum(map(len, passages))
    note = f"read {shown} of the {found} passages found: the rest did not fit" if shown < found else ""
    return tuple(_judge(*pair, prompts) for pair in zip(answers, questions, strict=True)), note


def _found(
    ways: Sequence[Way],
    document: str,
    chunks: Sequence[Chunk],
    questions: Sequence[Question],
    searchers: Mapping[Retriever, Searcher],
) -> dict[Way, list[list[Passage]]]:
    """What each way reads, per question, best first. A retriever is asked once, for as many as any way wants."""
    most = max((way.k or 0 for way in ways), default=0)
    lists = {
        name: [searchers[name].search(question.question, most) for question in questions]
        for name in dict.fromkeys(way.retriever for way in ways if way.retriever)
    }
    found: dict[Way, list[list[Passage]]] = {}
    for way in ways:
        if way.retriever:
            found[way] = [ranked[: way.k] for ranked in lists[way.retriever]]
        elif METHODS[way.method].reads == "evidence":
            found[way] = _evidence(document, chunks, questions)
        else:
            found[way] = [[] for _ in questions]
    return found


def _evidence(document: str, chunks: Sequence[Chunk], questions: Sequence[Question]) -> list[list[Passage]]:
    """The gold passages. Of what the text does not say there is none: the passage that comes nearest to it."""
    with Index(document, chunks) as index:
        return [
            [Passage(document, one.text, 1.0, one.first_page)]
            if (one := gold_chunk(question, chunks))
            else index.search(question.question, 1)
            if question.kind == UNANSWERABLE
            else []
            for question in questions
        ]


def _judge(answer: Answer, question: Question, prompts: Prompts) -> Judged:
    """What has no answer is answered rightly by saying so, in any of the base's words for it."""
    if question.kind == UNANSWERABLE:
        right = float(prompts.refuses(answer.text))
        return Judged(answer, right, right, right)
    scores = (measure(answer.text, question.answers) for measure in (exact_match, token_f1, rouge_l))
    return Judged(answer, *scores)


def _scored(
    row: Row,
    judged: Sequence[Judged],
    questions: Sequence[Question],
    by: Measure,
    held: Callable[[float], float] | None,
    p: float | None,
) -> Row:
    """held: bytes of keys and values, of so many tokens."""
    scores = values(judged, by)
    kinds = {
        kind: bootstrap([score for score, one in zip(scores, questions, strict=True) if one.kind == kind])
        for kind in ordered([question.kind for question in questions])
    }
    prompt_tokens = fmean(one.answer.prompt_tokens for one in judged)
    output_tokens = fmean(one.answer.output_tokens for one in judged)
    return replace(
        row,
        exact_match=bootstrap([one.exact_match for one in judged]),
        f1=bootstrap([one.f1 for one in judged]),
        rouge_l=bootstrap([one.rouge_l for one in judged]),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        seconds=fmean(one.answer.seconds for one in judged),
        kv_bytes=held(prompt_tokens + output_tokens) if held else None,
        p_km=p,
        kinds=kinds,
    )


def _held(engine: Engine, facts: Facts | None) -> Callable[[float], float] | None:
    if facts is None:
        return None
    held = engine.held if isinstance(engine, HfEngine) else float
    return lambda tokens: float(facts.kv_bytes(math.ceil(held(tokens))))


def _costs(facts: Facts, judged: Mapping[Way, Sequence[Judged]], rival: Way | None) -> Costs:
    paid: int | None = None
    if facts.training_seconds is not None and rival and Way("km") in judged:
        seconds = {way: fmean(one.answer.seconds for one in judged[way]) for way in (Way("km"), rival)}
        paid = break_even(facts.training_seconds, seconds[Way("km")], seconds[rival])
    return Costs(
        facts.text_tokens,
        facts.kv_bytes(facts.text_tokens),
        facts.adapter_bytes,
        facts.training_seconds,
        rival.key if rival else None,
        paid,
        facts.adapters,
    )
