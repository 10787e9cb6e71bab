"""What a Knowledge Module knows, by its exam: a bar, a sentence, and a strip with a cell for every passage."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kmcli.cli import render
from kmcli.cli.screen import Screen, columns
from kmcli.errors import NotFoundError

if TYPE_CHECKING:
    from kmcli.library.exams import Exam, Head, Passage
    from kmcli.workflows.documents import Shown

WIDTH = 79
"""Columns where there is no terminal to fill."""
BAR = 8
WORST = 5
"""Passages that are listed."""
MISSED = 2
"""Facts that are shown of each."""
UNICODE, ASCII = ("░▒▓█", "·"), (".-+#", "?")
"""Cells for none to all that is known, and for a passage that was not asked about."""


def head_data(head: Head | None) -> dict[str, Any] | None:
    """In the envelope's data."""
    return None if head is None else {**render.as_data(head), "share": head.share}


def sentence(head: Head | None) -> str:
    """What an exam came to; "" where there was none."""
    if head is None:
        return ""
    took = f"in {render.duration(head.seconds)}"
    if head.share is None:
        return f"there was nothing that could be asked, {took}"
    late = f"; no time for {render.count(head.late, 'passage')}" if head.late else ""
    questions = render.count(head.questions, "question")
    again = ""
    if head.rounds and head.known_before is not None:
        times, taking = render.count(head.rounds, "round"), render.duration(head.round_seconds)
        again = f"; {head.known_before / head.asked:.0%} before {times} of further study, {taking}"
    return f"{head.share:.0%} of {render.count(head.asked, 'fact')} known, by {questions} {took}{again}{late}"


def bar(head: Head | None, encoding: str | None) -> str:
    """How much is known, as a bar and in percent."""
    if head is None or head.share is None:
        return "-"
    shades, _ = _marks(encoding)
    filled = int(BAR * head.share + 0.5)
    return f"{shades[-1] * filled}{shades[0] * (BAR - filled)} {head.share:4.0%}"


def show_exam(screen: Screen, shown: Shown) -> object:
    """What `km show --exam` prints, and its data: the exam whole."""
    from kmcli.workflows.house import untrained

    document, module, exam = shown.entry.document, shown.entry.module, shown.exam
    if module is None:
        raise untrained(document)
    if exam is None:
        raise NotFoundError(
            f"the Knowledge Module of {document.name} was not examined.",
            f"Train it again, with an exam: km train {document.name} --force",
        )
    screen.write(document.name, bold=True)
    screen.write(render.wrapped(sentence(exam.head), columns(sys.stdout), 2))
    if told := _calibrated(shown.confidence):
        screen.write(render.wrapped(told, columns(sys.stdout), 2))
    screen.write("")
    for line in drawn(exam.passages, columns(sys.stdout), sys.stdout.encoding):
        screen.write(line)
    found = worst(exam)
    if found:
        screen.write("")
        screen.write("Least known", bold=True)
    for number, passage in found:
        _show_passage(screen, number, passage)
    _show_conflicts(screen, shown.conflicts)
    head = {**render.as_data(exam.head), "share": exam.head.share}
    return {
        "name": document.name,
        "module": module.id,
        "head": head,
        "passages": render.as_data(exam.passages),
        "conflicts": list(shown.conflicts),
        "confidence": shown.confidence,
    }


def _calibrated(confidence: Mapping[str, Any] | None) -> str:
    """How far `--method auto` can be trusted."""
    if not confidence or confidence["error"] is None:
        return ""
    with_answer = render.count(confidence["questions"], "question")
    return (
        f"how sure it is of an answer is off by {100 * confidence['error']:.0f} points on average, by {with_answer} with an "
        f"answer and {confidence['strangers']:,} without"
    )


def _show_conflicts(screen: Screen, conflicts: Sequence[Mapping[str, Any]]) -> None:
    """Questions that passages answer in different ways."""
    if not conflicts:
        return
    screen.write("")
    screen.write("Said in two ways", bold=True)
    for one in conflicts:
        said = [f"{two['answer']} ({_place(two['passage'], two['page'])})" for two in one["sayings"]]
        screen.write(render.wrapped(f"{one['question']} {'; '.join(said)}", columns(sys.stdout), 2))


def _place(number: int, page: int | None) -> str:
    return f"passage {number}" + (f", page {page}" if page else "")


def _show_passage(screen: Screen, number: int, passage: Passage) -> None:
    where = _place(number, passage.pages[0] if passage.pages else None)
    screen.write(f"  {where}: {passage.known} of {render.count(len(passage.facts), 'fact')} known")
    width = columns(sys.stdout)
    for fact in [fact for fact in passage.facts if not fact.known][:MISSED]:
        one = next(one for one in fact.questions if not one.known)
        said = f"{one.question} {one.answer or 'nothing'} (the passage: {one.reference})"
        screen.write(render.wrapped(said, width, 4))


def worst(exam: Exam) -> list[tuple[int, Passage]]:
    """The passages of which least is known, by number, the worst first; none of which everything is known."""
    asked = [(number, one) for number, one in enumerate(exam.passages, 1) if one.known < len(one.facts)]
    return sorted(asked, key=lambda pair: (pair[1].known / len(pair[1].facts), -len(pair[1].facts)))[:WORST]


def drawn(passages: Sequence[Passage], width: int | None, encoding: str | None) -> list[str]:
    """The strip in lines of less than `width` columns (None: as wide as is usual), a cell a passage, with a gap between
    pages, and what its marks mean. In ASCII where `encoding` lacks the other marks."""
    (shades, unasked), across = _marks(encoding), (width or WIDTH) - 1
    paged = any(one.pages for one in passages)
    pages = {one.pages[0] for one in passages if one.pages} or {0}
    margin = len(_label(max(pages), max(pages), len(pages) > 1) if paged else f"passage {len(passages)}") + 2
    room = max(1, across - margin)
    rows: list[tuple[int, int, str]] = []  # the first and the last page of a line, and its cells
    for number, page in _by_page(passages):
        cells = "".join(_shade(one, shades, unasked) for one in page)
        if paged and rows and rows[-1][0] and len(rows[-1][2]) + 1 + len(cells) <= room:
            rows[-1] = (rows[-1][0], number, f"{rows[-1][2]} {cells}")
            continue
        for start in range(0, len(cells), room):
            first = start + 1 if not paged else number if start == 0 else 0
            rows.append((first, number, cells[start : start + room]))
    lines = []
    for first, last, cells in rows:
        name = f"passage {first}" if not paged else _label(first, last, last > first) if first else ""
        lines.append(f"{name:<{margin}}{cells}")
    marks = {_shade(one, shades, unasked) for one in passages}
    legend = f"{shades[-1]} known"
    for mark, said in ((shades[2], "most of it"), (shades[1], "some of it")):
        legend += f"   {mark} {said}" if mark in marks else ""
    legend += f"   {shades[0]} unknown" + (f"   {unasked} not asked about" if unasked in marks else "")
    return [*lines, " " * margin + legend]


def _label(first: int, last: int, several: bool) -> str:
    return f"pages {first}-{last}" if several else f"page {first}"


def _by_page(passages: Sequence[Passage]) -> Iterator[tuple[int, list[Passage]]]:
    """Passages by the page that they begin on; 0: by none."""
    page: list[Passage] = []
    for one in passages:
        if page and (one.pages or (0,))[0] != (page[0].pages or (0,))[0]:
            yield (page[0].pages or (0,))[0], page
            page = []
        page.append(one)
    if page:
        yield (page[0].pages or (0,))[0], page


def _shade(passage: Passage, shades: str, unasked: str) -> str:
    """All and nothing have marks of their own."""
    facts = len(passage.facts)
    if not facts:
        return unasked
    if passage.known in (0, facts):
        return shades[-1] if passage.known else shades[0]
    return shades[1] if passage.known / facts < 0.5 else shades[2]


def _marks(encoding: str | None) -> tuple[str, str]:
    try:
        "".join(UNICODE).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE
