"""Chunks of a changed text: all of it is in them, each stands in it, and few differ from the old text's."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kmcli.chunking import chunk, join_pages, rechunk
from test_chunking import TEXTS, squeezed, words


def sentences(seed: int, paragraphs: int) -> list[list[str]]:
    r = random.Random(seed)
    return [
        [f"Thing {number}-{place} has {r.randint(10, 99)} parts and a {'very ' * r.randint(0, 6)}long name." for place in
         range(r.randint(2, 9))] for number in range(paragraphs)
    ]  # fmt: skip


def joined(document: list[list[str]]) -> str:
    return "\n\n".join(" ".join(paragraph) for paragraph in document)


def changed(old: str, new: str, size: int, overlap: float = 0.0) -> int:
    before = [one.text for one in chunk(old, size, overlap, words)]
    return len({one.text for one in rechunk(new, size, overlap, words, before)} - set(before))


def fault(text: str, pieces: list[tuple[int, str, int]], size: int) -> str:
    """ "" where each piece stands in the joined text, whole words of it, and together they hold all but white space, in
    order; else what is wrong."""
    flow = join_pages(text)
    clean = re.sub("[\ud800-\udfff]", "\ufffd", text)
    seen = [False] * len(text)
    if [start for start, _, _ in pieces] != sorted(start for start, _, _ in pieces):
        return "out of order"
    for start, piece, tokens in pieces:
        if piece not in flow:
            return f"{piece!r} is not in the text"
        if not 0 < tokens <= size:
            return f"{piece!r} has {tokens} tokens"
        place = start
        for character in filter(lambda one: not one.isspace(), piece):
            while clean[place].isspace():
                place += 1
            if clean[place] != character:
                return f"{piece!r} does not begin at {start}"
            seen[place] = True
            place += 1
    left = [place for place, done in enumerate(seen) if not done and not text[place].isspace()]
    return f"nothing holds the characters {left}" if left else ""


@settings(max_examples=300)
@given(old=TEXTS, new=TEXTS, size=st.integers(1, 12), share=st.sampled_from([0.0, 0.1, 0.5]))
@example(old="one two three", new="one two three", size=2, share=0.5)
def test_any_two_texts(old: str, new: str, size: int, share: float) -> None:
    before = [one.text for one in chunk(old, size, share, len)]
    found = rechunk(new, size, share, len, before)
    assert fault(new, [(one.start, one.text, one.tokens) for one in found], size) == ""


@settings(max_examples=200)
@given(
    document=st.lists(
        st.lists(st.integers(0, 40).map(lambda n: f"Thing {n} is {n * 3} long."), max_size=5), max_size=9
    ),
    place=st.integers(0, 300),
    cut=st.integers(0, 40),
    put=st.sampled_from(["", "A new one is here. ", "7", "\n\n", "\f"]),
    share=st.sampled_from([0.0, 0.2]),
)
def test_any_edit(document: list[list[str]], place: int, cut: int, put: str, share: float) -> None:
    old = joined(document)
    new = old[:place] + put + old[place + cut :]
    before = [one.text for one in chunk(old, 14, share, words)]
    found = rechunk(new, 14, share, words, before)
    assert fault(new, [(one.start, one.text, one.tokens) for one in found], 14) == ""


def test_without_overlap_nothing_is_in_two_chunks() -> None:
    document = sentences(1, 30)
    old = joined(document)
    document[7].insert(1, "This is new.")
    del document[20]
    new = joined(document)
    found = rechunk(new, 40, 0.0, words, [one.text for one in chunk(old, 40, 0.0, words)])
    assert squeezed("".join(one.text for one in found)) == squeezed(new)
    assert [one.index for one in found] == list(range(len(found)))


@pytest.mark.parametrize("overlap", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(5))
def test_a_changed_fact_changes_few_chunks(seed: int, overlap: float) -> None:
    document = sentences(seed, 80)
    old = joined(document)
    document[11][1] = document[11][1].replace(
        " parts", " new parts and a wheel, which came much later than all the rest of it"
    )
    new = joined(document)
    assert len(chunk(old, 40, overlap, words)) > 80
    assert 1 <= changed(old, new, 40, overlap) <= 3
    assert changed(old, old, 40, overlap) == 0


def test_what_was_moved_or_taken_out_changes_nothing() -> None:
    paragraphs = [
        f"Paragraph {number} tells of the {number} oldest things in the town of {number}." for number in range(40)
    ]
    old = "\n\n".join(paragraphs)
    assert changed(old, "\n\n".join([*paragraphs[20:], *paragraphs[:20]]), 13) == 0
    assert changed(old, "\n\n".join(paragraphs[:9] + paragraphs[12:]), 13) == 0


def test_a_chunk_does_not_stand_in_a_longer_number_or_word() -> None:
    for old, new in (
        ("It costs $18", "It costs $185 now"),
        ("It costs $18.", "It costs $18.50"),
        ("See Ann", "See Anna"),
    ):
        assert [one.text for one in rechunk(new, 8, 0.0, words, [old])] == [new]
    assert [one.text for one in rechunk("早上好。晚上好。", 4, 0.0, len, ["早上好。"])] == ["早上好。", "晚上好。"]


def test_a_sentence_that_comes_between_joins_the_chunk_before_it() -> None:
    before = ["The mill is old and it has three wheels.", "The bridge is new and it has two arches."]
    text = f"{before[0]} It burnt.\n\n{before[1]}"
    assert [one.text for one in rechunk(text, 12, 0.0, words, before)] == [f"{before[0]} It burnt.", before[1]]
    text = f"First. {before[0]} {before[1]}"
    assert [one.text for one in rechunk(text, 12, 0.0, words, before)] == [f"First. {before[0]}", before[1]]
