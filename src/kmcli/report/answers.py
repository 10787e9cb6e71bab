"""The answers themselves: question by question beside each other, and those that are wrong by kind of question."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Literal

from kmcli.evaluation.comparison import Comparison, Judged
from kmcli.metrics import normalise, token_f1
from kmcli.report.html import Html, Part, el, join
from kmcli.report.numbers import plural
from kmcli.types import Question

MOST_QUESTIONS = 400
"""Shown side by side, so that a browser opens the page at once: those on which rows differ before the others."""
MOST_ROWS = 7
MOST_FAILURES = 40
"""Of one kind."""

Mark = Literal["right", "partly", "wrong"]
_SIGNS: dict[Mark, str] = {"right": "✓", "partly": "◐", "wrong": "✗"}


def mark(judged: Judged) -> Mark:
    """Right: a reference to the letter, as SQuAD normalises. Partly: some word in common with one."""
    if judged.exact_match:
        return "right"
    return "partly" if judged.f1 > 0 else "wrong"


def shown_rows(comparison: Comparison) -> list[str]:
    """The keys of the rows that stand side by side: one of each method and adapter; of several that of the verdict, else the
    best. Where the methods are too many, those that the headline speaks of, and the best of the others."""
    chosen: dict[tuple[str, str | None], str] = {}
    rival = comparison.costs.rival if comparison.costs else None
    for row in comparison.rows:
        if row.key not in comparison.answers:
            continue
        kind = row.method, row.adapter
        before = chosen.get(kind)
        if (
            before is None
            or row.key == rival
            or (before != rival and _right(comparison, row.key) > _right(comparison, before))
        ):
            chosen[kind] = row.key
    keys = list(chosen.values())
    first = [key for key in keys if key in ("bare", "km", "full", rival, comparison.reference)]
    others = sorted((key for key in keys if key not in first), key=lambda key: -_right(comparison, key))
    kept = set([*first, *others][:MOST_ROWS])
    return [key for key in keys if key in kept]


def answers(comparison: Comparison) -> Html:
    keys = shown_rows(comparison)
    total = len(comparison.questions)
    order = list(range(total))
    if total > MOST_QUESTIONS:
        order.sort(key=lambda place: len({mark(comparison.answers[key][place]) for key in keys}) == 1)
    kept = sorted(order[:MOST_QUESTIONS])
    cards = [_card(comparison, keys, place) for place in kept]
    less = f"{len(kept):,} of {total:,} questions: those on which the rows differ before the others."
    legend = [el("span", _sign(one), f" {said}") for one, said in _LEGEND]
    return join(
        [
            el("p", *legend, class_="legend soft"),
            el("p", less, class_="soft") if len(kept) < total else None,
            _filters(keys),
            el("div", *cards, class_="cards"),
        ]
    )


_LEGEND: tuple[tuple[Mark, str], ...] = (
    ("right", "right: as a reference has it"),
    ("partly", "in part: some words of a reference"),
    ("wrong", "wrong"),
)


def failures(comparison: Comparison) -> Html | None:
    """What the KM does not answer right, by kind; without one, what another row does not. None where nothing was asked."""
    keys = shown_rows(comparison)
    if not keys:
        return None
    key = next((one for one in ("km", *keys) if one in keys and one not in ("bare", comparison.reference)), keys[0])
    groups: dict[str, list[int]] = {}
    asked: dict[str, int] = {}
    for place, question in enumerate(comparison.questions):
        asked[question.kind] = asked.get(question.kind, 0) + 1
        if mark(comparison.answers[key][place]) != "right":
            groups.setdefault(question.kind, []).append(place)
    if not groups:
        return el("p", el("b", key), " answers every question right.")
    parts = [
        _failed(comparison, key, kind, groups[kind], asked[kind], number == 0)
        for number, kind in enumerate(sorted(groups, key=lambda k: -len(groups[k])))
    ]
    return join([el("p", "Questions that ", el("b", key), " does not answer right, by kind."), *parts])


def _failed(comparison: Comparison, key: str, kind: str, places: Sequence[int], asked: int, first: bool) -> Html:
    lines = []
    for place in places[:MOST_FAILURES]:
        question, judged = comparison.questions[place], comparison.answers[key][place]
        lines.append(
            el(
                "li",
                _sign(mark(judged)),
                el("span", question.question, class_="asked", dir="auto"),
                el("span", "expected ", el("b", _references(question)[0], dir="auto"), class_="expected"),
                el("span", "said ", _differences(judged, question), _judgement(judged), class_="said"),
            )
        )
    more = len(places) - MOST_FAILURES
    partly = sum(mark(comparison.answers[key][place]) == "partly" for place in places)
    told = f"{len(places):,} of {plural(asked, 'question')}" + (f", {partly:,} of them right in part" if partly else "")
    return el(
        "details",
        el("summary", el("b", kind or "kind not said"), el("span", told, class_="soft")),
        el("ul", *lines, class_="failures"),
        el("p", f"and {more:,} more", class_="soft") if more > 0 else None,
        open=first,
    )


def _filters(keys: Sequence[str]) -> Html | None:
    """Which questions to see: by style.css alone, without a script."""
    if "km" not in keys or len(keys) < 2:
        return None
    choices = [
        ("all", "all questions"),
        ("differ", "rows differ"),
        ("lost", "KM not right"),
        ("won", "only the KM right"),
    ]
    inputs: list[Part] = []
    for number, (name, label) in enumerate(choices):
        inputs.append(el("input", type="radio", name="see", id=f"see-{name}", checked=number == 0))
        inputs.append(el("label", label, for_=f"see-{name}"))
    return el("fieldset", el("legend", "Show"), *inputs, class_="filters")


def _card(comparison: Comparison, keys: Sequence[str], place: int) -> Html:
    question = comparison.questions[place]
    judged = {key: comparison.answers[key][place] for key in keys}
    marks = {key: mark(one) for key, one in judged.items()}
    classes = ["card"]
    if len(set(marks.values())) > 1:
        classes.append("differ")
    if marks.get("km", "right") != "right":
        classes.append("lost")
    elif [one for key, one in marks.items() if key not in ("km", comparison.reference) and one == "right"] == []:
        classes.append("won")
    chips = [el("span", _sign(marks[key]), key, class_=f"chip {marks[key]}") for key in keys]
    lines = [
        el(
            "div",
            el("dt", _sign(marks[key]), el("b", key)),
            el("dd", _differences(one, question), _judgement(one), dir="auto"),
        )
        for key, one in judged.items()
    ]
    references = " · ".join(_references(question))
    kind = el("span", question.kind, class_="kind") if question.kind else None
    found, options = question.evidence, " · ".join(question.options)
    return el(
        "details",
        el(
            "summary",
            el("span", question.question, class_="asked", dir="auto"),
            kind,
            el("span", *chips, class_="chips"),
        ),
        el(
            "dl",
            el("div", el("dt", "reference"), el("dd", references, dir="auto"), class_="reference"),
            el("div", el("dt", "options"), el("dd", options, dir="auto")) if options else None,
            *lines,
            el("div", el("dt", "the text says"), el("dd", found, dir="auto"), class_="evidence") if found else None,
        ),
        class_=" ".join(classes),
    )


def _references(question: Question) -> tuple[str, ...]:
    return question.answers or ("that the text does not say it",)


def _sign(which: Mark) -> Html:
    """Shape and colour, and for who hears the page the word."""
    return el("span", _SIGNS[which], class_=f"sign {which}", role="img", aria_label=which)


def _judgement(judged: Judged) -> Html | None:
    """What the judge says, where one was asked: it may know as right what no reference has to the letter."""
    return el("span", f" (judged {judged.judgement})", class_="soft") if judged.judgement else None


def _differences(judged: Judged, question: Question) -> Html:
    """The answer, where it is right in part with its words that the nearest reference has not marked, and those that are
    missing behind it."""
    said = judged.answer.text
    if not said.strip():
        return el("i", "nothing", class_="soft")
    if mark(judged) != "partly":
        return el("span", said)
    nearest = max(question.answers, key=lambda answer: token_f1(said, [answer]))
    words, wanted = said.split(), nearest.split()
    matcher = SequenceMatcher(None, [normalise(word) for word in words], [normalise(word) for word in wanted], False)
    parts: list[Part] = []
    for kind, start, end, first, last in matcher.get_opcodes():
        own, theirs = " ".join(words[start:end]), " ".join(wanted[first:last])
        if kind == "equal":
            parts.append(own)
        if kind in ("replace", "delete") and normalise(own):
            parts.append(el("ins", own, title="not in the reference"))
        elif kind in ("replace", "delete"):
            parts.append(own)
        if kind in ("replace", "insert") and normalise(theirs):
            parts.append(el("del", theirs, title="in the reference alone"))
    return el("span", *(piece for part in parts for piece in (part, " ")))


def _right(comparison: Comparison, key: str) -> float:
    return sum(one.exact_match + one.f1 / 1000 for one in comparison.answers[key])
