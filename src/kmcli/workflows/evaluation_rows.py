"""From the answers of an evaluation to the rows of its table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from kmcli.evaluation.benchmarks import Benchmark, Case
from kmcli.evaluation.metrics import bootstrap, paired_p
from kmcli.library.extractors import Extractor
from kmcli.types import Method, Score
from kmcli.workflows.evaluation_log import Answered, Log, key_of


@dataclass(frozen=True, slots=True)
class Measured:
    """A method's row. scores: by measure. kinds: the first measure for each kind of question. Token counts and seconds are
    means per question. p_km: how likely chance alone makes the difference to `km` by the first measure, over the questions
    that both were asked; None without any.

    documents: how many of the report's the method could be asked about; the rest does not fit. None of it: no scores.
    """

    method: Method
    documents: int
    scores: Mapping[str, Score]
    kinds: Mapping[str, Score]
    prompt_tokens: float
    output_tokens: float
    seconds: float
    p_km: float | None = None


def row(
    benchmark: Benchmark,
    method: Method,
    cases: Sequence[Case],
    log: Log,
    methods: Sequence[Method],
    extractor: Extractor | None = None,
) -> Measured:
    asked: list[tuple[str, Answered, float | None]] = []
    documents = 0
    for case in cases:
        lines = [(item, log.find(key_of(case, item, method, extractor), method)) for item in case.items]
        if not all(line and line.fits for _, line in lines):
            continue
        documents += 1
        for item, line in lines:
            assert line is not None
            # Scored anew: a line may have been written by an older km.
            scores = benchmark.score(item, line.answer, line.refused)
            km = log.find(key_of(case, item, "km"), "km") if "km" in methods and method != "km" else None
            beside = benchmark.score(item, km.answer, km.refused)[benchmark.measures[0]] if km and km.fits else None
            asked.append((item.kind, dataclasses.replace(line, scores=scores), beside))
    if not asked:
        return Measured(method, 0, {}, {}, 0.0, 0.0, 0.0)
    first = benchmark.measures[0]
    kinds = sorted({kind for kind, _, _ in asked if kind})
    pairs = [(line.scores[first], other) for _, line, other in asked if other is not None]
    return Measured(
        method,
        documents,
        {measure: bootstrap([line.scores[measure] for _, line, _ in asked]) for measure in benchmark.measures},
        {kind: bootstrap([line.scores[first] for own, line, _ in asked if own == kind]) for kind in kinds},
        fmean(line.prompt_tokens for _, line, _ in asked),
        fmean(line.output_tokens for _, line, _ in asked),
        fmean(line.seconds for _, line, _ in asked),
        paired_p([own for own, _ in pairs], [other for _, other in pairs]) if pairs else None,
    )
