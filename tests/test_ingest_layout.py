"""Lines with places become paragraphs, and what runs along the edges of pages goes."""

from __future__ import annotations

from kmcli.ingest.layout import Line, prose, without_running_lines


def rows(*texts: str, size: float = 10.0, top: float = 700.0) -> list[Line]:
    return [Line(text, 50.0, top - 12 * row, size) for row, text in enumerate(texts)]


def test_running_lines() -> None:
    pages = []
    for number in range(1, 7):
        head = Line("My Book" if number % 2 else "Chapter One", 50.0, 800.0, 10.0)
        body = rows(*(f"body {number} {row} of some length" for row in range(8)))
        pages.append([head, *body, Line(f"– {number + 10} –", 280.0, 40.0, 10.0)])
    kept = without_running_lines(pages)
    assert [[line.text for line in page] for page in kept] == [
        [f"body {number} {row} of some length" for row in range(8)] for number in range(1, 7)
    ]


def test_the_same_on_every_page_is_the_text() -> None:
    assert prose([rows("The heron waits.")] * 3) == ["The heron waits."] * 3


def test_lines_that_only_look_like_running_ones() -> None:
    pages = [
        rows(f"Step {number}", f"Do the thing {number * 7}.", f"Total {number * number}", top=800)
        for number in (1, 2, 3)
    ]
    assert without_running_lines(pages) == pages
    assert without_running_lines(pages[:2]) == pages[:2]


def test_title_is_not_its_running_header() -> None:
    pages = [
        [Line("My Book", 50.0, 700.0, 24.0), *rows("one", top=400)],
        *([Line("My Book", 50.0, 800.0, 8.0), *rows(word, top=700)] for word in ("two", "three", "four")),
    ]
    assert prose(pages) == ["My Book\n\none", "two", "three", "four"]


def test_short_lines_stay_lines() -> None:
    full = "a line that goes all the way to the right margin of the page"
    text = prose([rows("Name Value", "alpha 1", "beta 2", full, full, full, "and a last one.", "New " + full[2:])])[0]
    assert text == f"Name Value\nalpha 1\nbeta 2\n{full} {full} {full} and a last one.\n\nNew {full[2:]}"


def test_table_of_contents() -> None:
    assert prose([rows("1 Naming . . . . . . . . . . 3", "2 Parsing .......... 14", "Index . . . . . . 20")]) == [
        "1 Naming … 3\n2 Parsing … 14\nIndex … 20"
    ]


def test_no_lines_at_all() -> None:
    assert prose([[], [], []]) == ["", "", ""]
