from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kmcli.bases import EMBEDDED_FOLDER
from kmcli.chunking import chunk, join_pages
from kmcli.errors import UsageError

PIECES = st.sampled_from(["one", "two,", "three.", "été", "日本", "A", "\f", "\n", "\n\n", " ", "-", "\t", "\r\n", "!"])
TEXTS = st.one_of(st.lists(PIECES, max_size=60).map("".join), st.text(max_size=80))


def words(text: str) -> int:
    return len(text.split())


def squeezed(text: str) -> str:
    """What must not be lost: everything but white space and control characters that some call white space."""
    return re.sub(r"\s", "", text)


def test_paragraphs_are_kept_whole_before_sentences_and_sentences_before_words() -> None:
    text = "Alpha beta gamma. Delta eps.\n\nOne two three four. Five six seven.\n\na b c d e f g h i j k"
    pieces = chunk(text, 6, 0.0, words)
    assert [piece.text for piece in pieces] == [
        "Alpha beta gamma. Delta eps.",
        "One two three four.",
        "Five six seven.",
        "a b c d e f",
        "g h i j k",
    ]
    assert [piece.tokens for piece in pieces] == [5, 4, 3, 6, 5]
    assert [piece.index for piece in pieces] == [0, 1, 2, 3, 4]
    assert [text[piece.start :].startswith(piece.text) for piece in pieces] == [True] * 5
    assert {(piece.first_page, piece.last_page) for piece in pieces} == {(None, None)}


def test_overlap_repeats_the_end_of_the_chunk_before() -> None:
    text = "a b c d e f g h i j k l"
    assert [piece.text for piece in chunk(text, 4, 0.5, words)] == [
        "a b c d",
        "c d e f",
        "e f g h",
        "g h i j",
        "i j k l",
    ]
    assert [piece.text for piece in chunk(text, 4, 0.0, words)] == ["a b c d", "e f g h", "i j k l"]


def test_pages_count_from_one_and_a_chunk_may_span_them() -> None:
    text = "First page ends here.\fSecond page has a sentence that runs\fon to the third. Then more.\f\fFifth page."
    pieces = chunk(text, 10, 0.0, words)
    assert [(piece.text, piece.first_page, piece.last_page) for piece in pieces] == [
        ("First page ends here.", 1, 1),
        ("Second page has a sentence that runs on to the", 2, 3),
        ("third. Then more.\nFifth page.", 3, 5),
    ]
    assert [piece.start for piece in pieces] == [0, text.index("Second"), text.index("third")]


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        ("the city of\fParis is", "the city of Paris is"),
        ("the city\n\n\f\n\nof light", "the city of light"),
        ("It ends.\fNew page.", "It ends.\nNew page."),
        ("It ends.\n\n\fNew page.", "It ends.\n\nNew page."),
        ("Chapter One\n\n\f\nThe start.", "Chapter One\n\nThe start."),
        ("first\f- second", "first\n- second"),
        ("about 5 p.\fm. today", "about 5 p. m. today"),
        ("no pages", "no pages"),
        ("half\ud800 a letter", "half\ufffd a letter"),
    ],
)
def test_page_breaks_become_what_fits(text: str, joined: str) -> None:
    assert join_pages(text) == joined


@pytest.mark.parametrize("text", ["", " \n\t ", "\f", "\f\n\f \f"])
def test_nothing_gives_no_chunks(text: str) -> None:
    assert chunk(text, 5, 0.0, words) == []


@settings(max_examples=150)
@given(text=TEXTS, size=st.integers(1, 12), share=st.sampled_from([0.0, 0.1, 0.5, 0.9]))
@example(text="half\ud800 a letter \f\f here", size=3, share=0.5)
def test_every_word_is_in_some_chunk_and_none_is_too_large(text: str, size: int, share: float) -> None:
    pieces = chunk(text, size, share, len)
    clean = re.sub("[\ud800-\udfff]", "\ufffd", text)
    seen = [False] * len(text)
    for piece in pieces:
        assert 0 < piece.tokens == len(piece.text) <= size
        assert "\f" not in piece.text
        place = piece.start
        for (
            character
        ) in piece.text:  # the chunk's characters stand in the text in this order, with only white space between
            if not character.isspace():
                while clean[place].isspace():
                    place += 1
                assert clean[place] == character
                seen[place] = True
                place += 1
        if "\f" in text:
            assert piece.first_page == 1 + text.count("\f", 0, piece.start)
            assert piece.last_page == 1 + text.count("\f", 0, place)
    assert all(done or character.isspace() for done, character in zip(seen, text, strict=True))
    if share == 0:
        assert squeezed("".join(piece.text for piece in pieces)) == squeezed(clean)


def test_a_sentence_over_a_page_break_is_one_sentence() -> None:
    text = "The first thing is short. The quick brown fox jumps over\n\fthe lazy dog. Another sentence follows here."
    assert [piece.text for piece in chunk(text, 9, 0.0, words)] == [
        "The first thing is short.",
        "The quick brown fox jumps over the lazy dog.",
        "Another sentence follows here.",
    ]


def test_sizes_hold_in_the_tokens_of_a_real_tokenizer() -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(EMBEDDED_FOLDER / "tokenizer.json"))

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    text = "\n\n".join(
        f"Paragraph {number} was written in {1800 + number}. Zoë's 37.5% share — naïvely put — fell to {number}."
        for number in range(60)
    )
    pieces = chunk(text, 64, 0.1, count)
    assert max(piece.tokens for piece in pieces) <= 64
    assert all(piece.tokens == count(piece.text) for piece in pieces)
    assert all(piece.text.startswith("Paragraph") and piece.text.endswith(".") for piece in pieces)


def test_a_character_larger_than_the_size_is_a_chunk_of_its_own() -> None:
    assert [(piece.text, piece.tokens) for piece in chunk("日本", 2, 0.0, lambda text: len(text.encode()))] == [
        ("日", 3),
        ("本", 3),
    ]


@pytest.mark.parametrize(("size", "share"), [(0, 0.0), (10, 1.0), (10, -0.1), (10, float("nan"))])
def test_sizes_and_overlaps_out_of_range_are_refused(size: int, share: float) -> None:
    with pytest.raises(UsageError):
        chunk("text", size, share, words)
