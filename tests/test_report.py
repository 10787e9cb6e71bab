from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmcli.evaluation import METHODS
from kmcli.evaluation.comparison import Comparison, Costs, Forgetting, Way
from kmcli.library.exams import Exam, Graded, Head, Passage
from kmcli.report import POLICY, page
from kmcli.report.answers import mark, shown_rows
from kmcli.report.html import Html, el, join, text
from kmcli.report.numbers import count, seconds, size, span
from kmcli.report.plot import COLOURS, plot, series
from kmcli.types import Method, Question, Recipe, Score
from report_cases import compared, example, questions, ways

VOID = {"meta", "input", "br"}
EVIL = "<script>alert('&\"')</script>\x00\x1b[31m\u202eback\u2028\ud800"
SHOWN = "<script>alert('&\"')</script>\\x00\\x1b[31m\\u202eback\\u2028\\ud800"


class Reader(HTMLParser):
    """What a browser sees: elements, their attributes and text, with the nesting checked."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def said(self) -> str:
        return "".join(self.words)

    def of(self, tag: str, class_: str = "") -> list[dict[str, str | None]]:
        return [
            attributes
            for name, attributes in self.elements
            if name == tag and (not class_ or class_ in (attributes.get("class") or "").split())
        ]


def read(comparison: Comparison, **changes: object) -> Reader:
    return Reader(page(comparison, "today", {"km": "1"}, **changes))  # type: ignore[arg-type]


# --- the elements


def test_what_is_not_html_is_escaped_once() -> None:
    inner = el("b", "a < b & c")
    assert inner == "<b>a &lt; b &amp; c</b>"
    assert el("p", inner, None, 3, class_="x", data_at='"', hidden=True, open=False) == (
        '<p class="x" data-at="&quot;" hidden><b>a &lt; b &amp; c</b>3</p>'
    )
    assert el("line", x1=1.23456, y1=2.0) == '<line x1="1.23" y1="2"></line>'
    assert el("br") == "<br>"
    assert join(["<", None, Html("<i>")]) == "&lt;<i>"


@given(st.text())
def test_any_text_comes_out_as_text(given_text: str) -> None:
    reader = Reader(el("p", given_text, title=given_text))
    assert reader.elements == [("p", {"title": reader.elements[0][1]["title"]})]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", reader.said)
    text(given_text).encode("utf-8")


# --- the page


def test_the_page_is_whole_and_fetches_nothing() -> None:
    source = page(example(), "today", {"km": "1"})
    reader = Reader(source)
    assert source.startswith('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">')
    names = {name for name, _ in reader.elements}
    assert not names & {"script", "link", "img", "iframe", "object", "a", "form"}
    assert not any(key in ("src", "href") or key.startswith("on") for _, given in reader.elements for key in given)
    assert {"http-equiv": "Content-Security-Policy", "content": POLICY} in reader.of("meta")
    assert "url(" not in source
    assert "@import" not in source
    ids = [given["id"] for _, given in reader.elements if "id" in given]
    assert len(ids) == len(set(ids)) == 4


def test_what_the_module_knows_is_a_strip_by_page() -> None:
    def passage(page: int, known: int, unknown: int) -> Passage:
        marks = [Graded("?", f"{n}", "", n < known, 0.0, 0.5, 1) for n in range(known + unknown)]
        return Passage("0" * 64, 0, (page, page), tuple(marks))

    passages = (passage(1, 2, 0), passage(1, 1, 2), passage(2, 0, 1), passage(4, 0, 0))
    comparison = replace(example(), exam=Exam(Head(3, 6, 6, 1.0, 60.0), passages))
    reader = read(comparison)
    cells = [(one["class"], one["title"]) for one in reader.of("i", "cell") if "title" in one]
    assert cells == [
        ("cell all", "passage 1: 2 of 2 facts known"),
        ("cell some", "passage 2: 1 of 3 facts known"),
        ("cell none", "passage 3: 0 of 1 fact known"),
        ("cell unasked", "passage 4: not asked about"),
    ]
    assert "What the Knowledge Module knows50% of 6 facts known, by 6 questions" in reader.said
    assert "page 1page 2page 4" in reader.said
    assert "What the Knowledge Module knows" not in read(example()).said
    nothing = replace(example(), exam=Exam(Head(0, 0, 0, 1.0, 60.0), ()))
    assert "There was nothing that the exam could ask." in read(nothing).said


def test_headline_table_and_costs() -> None:
    comparison = example()
    said = read(comparison).said
    assert comparison.gap_closed is not None
    assert (
        f"{comparison.gap_closed:.0%}of the gap between the bare base and the gold passage is closed by the KM" in said
    )
    assert comparison.verdict in said
    for row in comparison.rows:
        assert row.key in said
        assert row.exact_match is not None
        assert f"{row.exact_match.mean:.0%} {100 * row.exact_match.low:.0f}–{100 * row.exact_match.high:.0f}" in said
    assert "3.7 MBof memory for the whole text in context (1,810 tokens)" in said
    assert "21,304questions until training has paid in time, against rag@3" in said


@pytest.mark.parametrize(
    "place", ["document", "question", "answer", "reference", "evidence", "options", "kind", "note", "recipe"]
)
def test_a_script_is_shown_and_never_run(place: str) -> None:
    question = Question("Who?", ("Agnes",), "who", "By Agnes.")
    changed = {
        "question": "question",
        "reference": "answers",
        "evidence": "evidence",
        "options": "options",
        "kind": "kind",
    }
    if place in changed:
        value = (EVIL,) if place in ("reference", "options") else EVIL
        question = Question(**{**{n: getattr(question, n) for n in question.__slots__}, changed[place]: value})
    comparison = compared(
        [Way("bare"), Way("km"), Way("gold")],
        [question, Question("When?", ("1743",), "when")],
        lambda way, number, one: EVIL if place == "answer" else "in 1743",
        document=EVIL if place == "document" else "harbour",
        verdict=EVIL if place == "note" else "Fine.",
    )
    source = page(comparison, "today", {"km": "1"}, Recipe(teacher=EVIL if place == "recipe" else ""))
    reader = Reader(source)
    assert not reader.of("script")
    assert SHOWN in reader.said
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\ud800-\udfff]", source)


def test_what_could_be_chosen_from_is_shown() -> None:
    question = Question("Who?", ("Agnes",), "who", "", ("Bo", "Agnes"))
    said = read(compared([Way("km")], [question, Question("When?", ("1743",), "when")])).said
    assert said.count("options") == 1
    assert "referenceAgnesoptionsBo · Agnes" in said


def test_without_a_module_without_a_reference_and_without_any_answer() -> None:
    alone = read(compared([Way("bare"), Way("rag", "bm25", 3)], questions(12)))
    assert "right by RAG (rag@3)" in alone.said
    assert "Questions that rag@3 does not answer right" in alone.said
    assert not alone.of("fieldset")
    nothing = compared([], questions(2), verdict="No method could be asked.")
    assert "No method could be asked." in read(nothing).said
    assert not read(nothing).of("svg")


def test_a_row_that_was_not_asked_says_why() -> None:
    from dataclasses import replace

    whole = compared([Way("bare"), Way("full")], questions(6))
    rows = (whole.rows[0], replace(whole.rows[1], fits=False, exact_match=None, note="does not fit in 9 tokens"))
    said = read(replace(whole, rows=rows, answers={"bare": whole.answers["bare"]})).said
    assert "fullthe full textdoes not fit" in said
    assert "full: does not fit in 9 tokens" in said


def test_forgetting_is_told_in_points() -> None:
    from dataclasses import replace

    score = Score(0.66, 0.5, 0.8, 53)
    found = Forgetting("almanac", score, score, Score(-0.094, -0.2, -0.01, 53), 0.03, score, score, score, 2)
    said = read(replace(example(), forgetting=found)).said
    assert "66%of 53 questions read right without the KM" in said
    assert "−9.4 points95% interval −20 to −1, p 0.03" in said
    assert "2 questions left out" in said


# --- answers


def test_answers_side_by_side_with_marks_and_differences() -> None:
    asked = [Question("Who runs the office?", ("Agnes Morveck", "Morveck"), "who")]
    said = {"bare": "nobody", "km": "the tall Agnes", "gold": "Agnes Morveck."}
    reader = read(compared([Way("bare"), Way("km"), Way("gold")], asked, lambda way, place, one: said[way.method]))
    cards = reader.of("details", "card")
    assert [card["class"] for card in cards] == ["card differ lost"]
    chips = [chip["class"] for chip in reader.of("span", "chip")]
    assert chips == ["chip wrong", "chip partly", "chip right"]
    assert [sign["aria-label"] for sign in reader.of("span", "sign")][-3:] == ["wrong", "partly", "right"]
    source = page(compared([Way("km")], asked, lambda *_: "the tall Agnes"), "today", {})
    assert (
        '<ins title="not in the reference">the tall</ins> Agnes <del title="in the reference alone">Morveck</del>'
        in source
    )


def test_one_row_of_each_method_the_verdicts_or_the_best() -> None:
    rows = [
        Way("bare"),
        Way("km"),
        *(Way("rag", "bm25", k) for k in (1, 3)),
        *(Way("km+rag", "bm25", k) for k in (1, 3)),
    ]

    def script(way: Way, place: int, question: Question) -> str:
        return question.answers[0] if way.key in ("rag@1", "km+rag@3") else "no"

    plain = compared(rows, questions(6), script)
    assert shown_rows(plain) == ["bare", "km", "rag@1", "km+rag@3"]
    told = compared(rows, questions(6), script, costs=Costs(10, 10, rival="rag@3"))
    assert shown_rows(told) == ["bare", "km", "rag@3", "km+rag@3"]


def test_of_too_many_methods_the_best_stay_and_of_equals_the_first_is_the_best() -> None:
    every: tuple[Method, ...] = ("bare", "km", "rag", "km+rag", "rag+ke", "km+ke", "rag+km+ke", "full", "gold")
    rows = [Way(method, *(("bm25", 3) if "rag" in method else ())) for method in every]

    def script(way: Way, place: int, question: Question) -> str:
        return question.answers[0] if way.method in ("km+rag", "rag+km+ke") else "no"

    comparison = compared(rows, questions(6), script)
    assert shown_rows(comparison) == ["bare", "km", "rag@3", "km+rag@3", "rag+km+ke@3", "full", "gold"]
    heads = re.findall(r"<th scope=\"row\">.*?</th>", page(comparison, "today", {}))
    assert [head for head in heads if ">best<" in head] == [head for head in heads if ">km+rag@3<" in head]


def test_failures_by_kind_and_what_is_right_in_part() -> None:
    comparison = compared([Way("km")], questions(12), lambda way, place, one: "1743" if place < 6 else "48 boats")
    assert {mark(one) for one in comparison.answers["km"]} == {"right", "partly", "wrong"}
    said = read(comparison).said
    assert "how many2 of 2 questions, 1 of them right in part" in said
    assert "when1 of 2 questions" in said
    right = compared([Way("km")], questions(6), lambda way, place, one: one.answers[0])
    assert "km answers every question right." in read(right).said


def test_many_questions_are_cut_and_that_is_said() -> None:
    reader = read(compared([Way("bare"), Way("km")], questions(900)))
    assert len(reader.of("details", "card")) == 400
    assert "400 of 900 questions" in reader.said
    assert all("differ" in (card["class"] or "") for card in reader.of("details", "card"))


# --- the drawing


def test_points_stand_where_tokens_and_accuracy_say() -> None:
    comparison = example()
    reader = Reader(plot(comparison, 760, 430, ""))
    found = {one.name: one for one in series(comparison)}
    assert [row.k for row in found["rag"].rows] == list(range(1, 11))
    assert len(reader.of("path", "mark")) == len(comparison.rows)
    assert len(reader.of("path", "line")) == sum(len(one.rows) > 1 for one in found.values())
    assert len(reader.of("text", "name")) == len(found)
    grid = [float(tick["x"] or 0) for tick in reader.of("text", "tick") if tick["text-anchor"] == "middle"]
    assert reader.said.startswith(
        "0%20%40%60%80%100%205010020050010002000".replace("1000", "1,000").replace("2000", "2,000")
    )
    # 20, 50, 100, 200: a step from 20 to 200 is as wide as one from 50 to 500, being ten times
    assert grid[3] - grid[0] == pytest.approx(grid[4] - grid[1], abs=0.1)
    inside = [float(label[key] or 0) for label in reader.of("text") for key in ("x", "y")]
    assert min(inside) >= 0
    assert max(inside) <= 760


def test_the_shapes_and_colours_of_all_methods_differ() -> None:
    style = resources.files("kmcli.report").joinpath("style.css").read_text("utf-8")
    for number in range(COLOURS):
        assert f".s{number} {{ --c: var(--s{number}); }}" in style
    shapes = {
        re.sub(r"[\d.]+", "", path["d"] or "") + str(path["class"])
        for path in Reader(
            plot(compared([way for way in ways() if way.k in (None, 1)], questions(6)), 760, 430, "")
        ).of("path", "mark")
    }
    assert len(shapes) == len(METHODS)


# --- looks


def colours(dark: bool) -> dict[str, str]:
    style = resources.files("kmcli.report").joinpath("style.css").read_text("utf-8")
    light_part, dark_part = style.split("@media (prefers-color-scheme: dark)", 1)
    found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light_part))
    return found | dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", dark_part)) if dark else found


def contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_what_is_read_has_contrast_enough(dark: bool) -> None:
    found = colours(dark)
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    pairs = [(ink, ground) for ink in ("ink", "soft", "accent", "good", "half", "bad") for ground in ("page", "card")]
    pairs += [("good", "good-tint"), ("half", "half-tint"), ("bad", "bad-tint"), ("accent", "tint"), ("ink", "tint")]
    pairs += [(f"s{number}", "card") for number in range(COLOURS)]
    assert {
        pair: contrast(found[pair[0]], found[pair[1]]) for pair in pairs if contrast(*map(found.get, pair)) < 4.5
    } == {}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "said"), [(0.0003, "0.3 ms"), (0.042, "42 ms"), (1.25, "1.2 s"), (42.0, "42 s"), (754.0, "13 min")]
)
def test_seconds(value: float, said: str) -> None:
    assert seconds(value) == said


def test_other_numbers() -> None:
    assert [size(value) for value in (12, 1500, 44_800, 3_706_880)] == ["12 B", "1.5 kB", "45 kB", "3.7 MB"]
    assert [count(value) for value in (3, 2.84, 17.0, 1810)] == ["3.0", "2.8", "17", "1,810"]
    assert [span(values) for values in ([1, 3, 5], [1, 2, 3], [1, 2], [4])] == ["1, 3, 5", "1 to 3", "1, 2", "4"]
