"""What the document's Knowledge Module knows of which passage, by its exam: a strip with a cell for each."""

from __future__ import annotations

from itertools import groupby

from kmcli.library.exams import Exam, Passage
from kmcli.report.html import Html, Part, el, join
from kmcli.report.numbers import percent, plural

MOST = 2000
"""Passages that are drawn."""


def strip(exam: Exam) -> Html:
    """By page, where the document has pages."""
    head = exam.head
    if head.share is None:
        return el("p", "There was nothing that the exam could ask.")
    told = (
        f" of {plural(head.asked, 'fact')} known, by {plural(head.questions, 'question')} that it was not trained on."
    )
    numbered = list(enumerate(exam.passages, 1))[:MOST]
    rows: list[Part] = []
    for page, some in groupby(numbered, key=lambda one: one[1].pages[0] if one[1].pages else None):
        label = None if page is None else el("span", f"page {page}", class_="page soft")
        rows.append(el("div", label, el("span", *(_cell(*one) for one in some), class_="cells"), class_="strip"))
    legend = el(
        "p",
        *(el("span", el("i", class_=f"cell {which}"), f" {said}") for which, said in _LEGEND),
        class_="legend soft",
    )
    return join([el("p", el("b", percent(head.share)), told), *rows, legend])


_LEGEND = (
    ("all", "known"),
    ("most", "most of it"),
    ("some", "some of it"),
    ("none", "unknown"),
    ("unasked", "not asked"),
)


def _cell(number: int, passage: Passage) -> Html:
    facts = len(passage.facts)
    if not facts:
        which, said = "unasked", "not asked about"
    else:
        share = passage.known / facts
        which = "all" if share == 1 else "most" if share >= 0.5 else "some" if share else "none"
        said = f"{passage.known} of {plural(facts, 'fact')} known"
    label = f"passage {number}: {said}"
    return el("i", class_=f"cell {which}", title=label, role="img", aria_label=label)
