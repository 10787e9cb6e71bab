"""What a comparison says, in a few plain sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from kmcli.evaluation import METHODS
from kmcli.evaluation.comparison import Judged, Measure, Way
from kmcli.evaluation.metrics import among, gap_closed, paired_p
from kmcli.types import Method

SIGNIFICANT = 0.05
RIVALS: tuple[Method, ...] = ("rag", "full", "bare")
"""What the verdict sets the KM against: the first of these that was asked; of its rows the best."""
FEW = 20
"""Below so many questions the verdict says that they are few."""

Judgements = Mapping[Way, Sequence[Judged]]


def values(judged: Sequence[Judged], by: Measure) -> list[float]:
    return [one.exact_match if by == "exact_match" else one.f1 for one in judged]


def measure_of(judged: Judgements) -> Measure:
    """Exact match, or F1 where nothing is exactly right."""
    return "exact_match" if any(one.exact_match for row in judged.values() for one in row) else "f1"


def reference_of(judged: Judgements) -> Way | None:
    """What the gap is measured to."""
    return next((way for method in ("gold", "full") for way in judged if way.method == method), None)


def rival_of(judged: Judgements, by: Measure) -> Way | None:
    """What the KM is set against: of several rows the best, and of those the one that reads least."""
    for method in RIVALS:
        if rows := [way for way in judged if way.method == method]:
            return max(rows, key=lambda way: (fmean(values(judged[way], by)), -_tokens(judged[way])))
    return None


def gap(judged: Judgements, by: Measure) -> float | None:
    reference = reference_of(judged)
    ends = [way for way in (Way("km"), Way("bare")) if way in judged]
    if reference is None or len(ends) < 2:
        return None
    km, bare, best = (fmean(values(judged[way], by)) for way in (*ends, reference))
    return gap_closed(km, bare, best)


def p_km(judged: Judgements, way: Way, by: Measure) -> float | None:
    """The paired p-value of a row against the row `km`."""
    km = Way("km")
    return None if km not in judged or way == km else paired_p(values(judged[way], by), values(judged[km], by))


def label(way: Way, beside: Judgements) -> str:
    """How a sentence names a row; more than the method is said where there are several rows of it."""
    name = METHODS[way.method].label
    alike = [other for other in beside if other.method == way.method]
    told = []
    if len({other.retriever for other in alike}) > 1:
        told.append(str(way.retriever))
    if len({other.k for other in alike}) > 1:
        told.append(f"{way.k} passage{'' if way.k == 1 else 's'}")
    if len({other.kept for other in alike}) > 1:
        told.append(f"{way.kept:.0%} kept")
    if way.adapter:
        told.append(way.adapter)
    return f"{name} ({', '.join(told)})" if told else name


def difference(ahead: str, p: float) -> str:
    """Whether the row that is ahead is better, and how sure that is. p: adjusted for there being several rows, of which the
    best was taken."""
    found = f"{ahead} is better" if p < SIGNIFICANT else "no clear difference"
    return f"{found} ({'p < 0.01' if p < 0.01 else f'p = {p:.2f}'})"


def verdict(judged: Judgements, p_values: Mapping[Way, float | None]) -> str:
    """By exact match, or by F1 where no row got anything exactly right. p_values: `p_km` of every row."""
    if not judged:
        return "No method could be asked, so there is nothing to compare."
    by = measure_of(judged)
    scored = "right on" if by == "exact_match" else "at an F1 of"
    means = {way: fmean(values(row, by)) for way, row in judged.items()}
    candidates = [way for way in judged if way.method != "gold"] or list(judged)
    best = max(candidates, key=lambda way: (means[way], -_tokens(judged[way])))
    asked = len(next(iter(judged.values())))
    over = f"Over {'only ' if asked < FEW else ''}{asked} question{'' if asked == 1 else 's'}"
    km, rival = Way("km"), rival_of(judged, by)
    if km not in judged or rival is None:
        leads = "does best:" if len(candidates) > 1 else "is"
        return f"{over} {label(best, judged)} {leads} {scored} {means[best]:.0%}."

    p = among(p_values)[rival]
    ahead = label(km if means[km] > means[rival] else rival, judged)
    said = f"{over} the KM is {scored} {means[km]:.0%} and {label(rival, judged)} {means[rival]:.0%}: {difference(ahead, p)}"
    read = {way: _tokens(judged[way]) for way in (km, rival)}
    if read[rival] > read[km] > 0:
        said += f", and the KM reads {read[rival] / read[km]:.1f} times fewer prompt tokens"
    if means[best] > max(means[km], means[rival]):
        said += f"; {label(best, judged)} does best with {means[best]:.0%}"
    return f"{said}.{_gap_told(judged, by)}{_chosen_told(judged, means, scored)}"


def _chosen_told(judged: Judgements, means: Mapping[Way, float], scored: str) -> str:
    """What somebody gets who asks without naming a method."""
    auto = Way("auto")
    if auto not in judged:
        return ""
    read = f"{_tokens(judged[auto]):.0f} prompt tokens"
    return f" Left to choose (auto), km ask is {scored} {means[auto]:.0%} and reads {read}."


def _gap_told(judged: Judgements, by: Measure) -> str:
    reference, bare = reference_of(judged), Way("bare")
    if reference is None or bare not in judged:
        return ""
    closed = gap(judged, by)
    name = label(reference, judged)
    if closed is None:
        return f" {name.capitalize()} does no better than the bare base, so there is no gap to close."
    share = f"{closed:.0%}" if closed > 0 else "none"
    low, high = (fmean(values(judged[way], by)) for way in (bare, reference))
    return f" It closes {share} of the gap between the bare base ({low:.0%}) and {name} ({high:.0%})."


def _tokens(judged: Sequence[Judged]) -> float:
    return fmean(one.answer.prompt_tokens for one in judged)
