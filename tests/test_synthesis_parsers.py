"""The parsers beside that of pairs, and the values of a text."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmcli.synthesis.parse import (
    MOST_MESSAGE_CHARACTERS,
    MOST_NAME_CHARACTERS,
    MOST_QUESTION_CHARACTERS,
    PARSERS,
    Draft,
    ParserName,
    grounded,
    message,
    names,
    pairs,
    questions,
    summary,
)
from kmcli.synthesis.values import MOST_CHARACTERS, values


def test_the_table_holds_every_parser() -> None:
    assert set(PARSERS) == set(get_args(ParserName))


# --- pairs in other forms ---


@pytest.mark.parametrize(
    "text",
    [
        "<question>Who built it?</question>\n<answer>Ann</answer>\n<question>When?</question><answer>in 1871</answer>",
        "<pair><q>Who built it?</q><a>Ann</a></pair>\n<pair>\n<q>When?</q>\n<a>\nin\n1871</a></pair>",
        "<Question>Who built it?\n<Answer>Ann\n<Question>When?\n<Answer>in 1871",
        "**Question:**\nWho built it?\n**Answer:**\nAnn\n\n**Question:**\n\nWhen?\n**Answer:**\n- in 1871",
        "1. **Who built it?**\n   - Answer: Ann\n2. When?\n   A: in 1871",
        "(1) Who built it?\nA) Ann\n(2) When?\nA) in 1871",
    ],
)
def test_pairs_in_tags_and_on_lines_of_their_own(text: str) -> None:
    assert pairs(text, True) == [Draft("Who built it?", "Ann"), Draft("When?", "in 1871")]


# --- questions ---

THREE = [Draft("Who built it?"), Draft("When?"), Draft("Was it Ann?")]


@pytest.mark.parametrize(
    "text",
    [
        "Who built it?\nWhen?\nWas it Ann?",
        "1. Who built it?\n2) When?\n(3) Was it Ann?",
        "- Who built it?\n* When?\n• Was it Ann?",
        "Q: Who built it?\nQ2: When?\n**Question 3:** Was it Ann?",
        "Here are some:\n\n1. **Who built it?**\n2. *When?*\n3. “Was it Ann?”\n\nDo you want more of them?",
        "<question>Who built it?</question>\n<question>When?</question>\n<question>Was it Ann?</question>",
        "Q: Who built it?\nA: Ann, or was it?\nQ: When?\nQ: Was it Ann?\nQ: when",
        "Who built it?\nWho built it?\nWhen?\nNobody knows.\nWas it Ann?\n?",
    ],
)
def test_questions(text: str) -> None:
    assert questions(text, True) == THREE
    assert PARSERS["questions"](text, True, "") == THREE
    assert PARSERS["question"](text, True, "") == THREE[:1]


def test_a_question_that_may_be_cut_off_is_dropped() -> None:
    assert questions("Who built it?\nWhen?", False) == THREE[:1]
    assert questions("Who built it?\nWhen?\nWas it An", False) == THREE[:2]
    assert questions(f"Who built it?\n{'w' * MOST_QUESTION_CHARACTERS}?", True) == THREE[:1]
    assert questions("Who", False) == questions("", True) == []


# --- names ---

CHUNK = (
    "Ann Smith and Bo of Smith, Jones & Co. built the mill in Oslo. Lumrick 40 is a lamp; 水車 is another. Ann rests."
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Ann Smith\nBo\nOslo", ["Ann Smith", "Bo", "Oslo"]),
        ("1. Ann Smith\n2. **Bo**\n- Lumrick 40", ["Ann Smith", "Bo", "Lumrick 40"]),
        ("People: Ann Smith, Bo\nPlaces:\n* Oslo (a town)", ["Ann Smith", "Bo", "Oslo"]),
        ("Ann Smith - the builder\nBo: her friend\nOslo – a town", ["Ann Smith", "Bo", "Oslo"]),
        ("Ann Smith, Bo and Oslo.", ["Ann Smith", "Bo", "Oslo"]),
        ("Smith, Jones & Co.\n水車", ["Smith, Jones & Co", "水車"]),
        ('<name>Bo</name>\n<entity>"Oslo"</entity>', ["Bo", "Oslo"]),
        ("Bo\nBo\nbo\nBergen\nAnna\nOsl\nmill\nthe mill\nSmit", ["Bo"]),
        ("Here is the list you wanted:\nBo", ["Bo"]),
        ("", []),
    ],
)
def test_names_stand_in_the_chunk(text: str, found: list[str]) -> None:
    assert [draft.prompt for draft in names(text, True, CHUNK)] == found


def test_the_last_line_of_names_may_be_cut_off() -> None:
    assert names("Bo\nAnn", False, CHUNK) == [Draft("Bo")]  # of Ann Smith


# --- messages and texts ---


@pytest.mark.parametrize(
    "text",
    [
        "Put the facts about the mill in a table.",
        '"Put the facts about the mill in a table."',
        "**Message:** Put the facts  about\nthe mill in a table.",
        "Sure, here is a message:\n\nPut the facts about the mill in a table.",
        "<thought>hm</thought><message>\nPut the facts about the mill in a table.\n</message> Good luck!",
    ],
)
def test_messages(text: str) -> None:
    assert message(text, True) == [Draft("Put the facts about the mill in a table.")]
    assert message(text, False) == []


@pytest.mark.parametrize("text", ["", "Why?", "?" * 30, "w" * (MOST_MESSAGE_CHARACTERS + 1)])
def test_what_is_no_message(text: str) -> None:
    assert message(text, True) == []


def test_a_summary_without_what_announces_it() -> None:
    assert summary("Here is a summary:\nAnn built the mill in Oslo.", True) == "Ann built the mill in Oslo."
    assert summary("<summary>Ann built the mill in Oslo.</summary>", True) == "Ann built the mill in Oslo."
    assert PARSERS["text"]("Ann built the mill in Oslo.", True, "") == [Draft("", "Ann built the mill in Oslo.")]
    assert PARSERS["text"]("Ann built the mill in Oslo.", False, "") == []


# --- values ---


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Ann Smith built the Oslo Mill in 1871.", ["Ann Smith", "Oslo Mill", "1871"]),
        ("On 12 March 1871 it cost £1,250.50, or 3% more.", ["12 March 1871", "£1,250.50", "3%"]),
        ("In May 1902, March 3rd and 2020-01-02 it burnt.", ["May 1902", "March 3rd", "2020-01-02"]),
        ("It must be asked within 10 days, and 3 or 4 weigh 640 grams.", ["10 days", "3", "4 weigh", "640 grams"]),
        ("Lumrick 40 went on sale. It costs $185.", ["Lumrick 40", "$185"]),
        ("The mill is old. Mills are. mills", []),
        ("The Mill House stood. However, It burnt.", ["Mill House"]),
        ("1. Bo came.\n2) Cy went at 4.19.", ["Bo", "Cy", "4.19"]),
        ("Bo saw Bo, and Bo saw O’Brien's.", ["Bo", "O’Brien's"]),
        ("", []),
    ],
)
def test_values(text: str, found: list[str]) -> None:
    assert values(text) == found


@given(
    st.one_of(
        st.text(max_size=200), st.lists(st.sampled_from(["Ann", "1871", " ", "May", "\n", "$3", "x"])).map("".join)
    )
)
@settings(max_examples=200)
def test_values_stand_in_any_text_once(text: str) -> None:
    found = values(text)
    assert all(value in text and 0 < len(value) <= MOST_CHARACTERS for value in found)
    assert all(any(map(str.isalnum, value)) for value in found)
    assert len(set(found)) == len(found)


# --- any text ---

pieces = st.sampled_from(
    [
        "Q:",
        "A:",
        "<q>",
        "</q>",
        "<answer>",
        "</answer>",
        "<message>",
        "1. ",
        "- ",
        "**",
        '"',
        "?",
        "\n",
        "Bo",
        "Oslo",
        ", ",
        ":\n",
    ]
)
texts = st.one_of(st.text(max_size=300), st.lists(st.one_of(pieces, st.text(max_size=12)), max_size=30).map("".join))


@given(texts, st.booleans(), st.sampled_from(get_args(ParserName)))
@settings(max_examples=400)
def test_any_text_yields_only_what_may_be_kept(text: str, finished: bool, parser: ParserName) -> None:
    drafts = PARSERS[parser](text, finished, CHUNK)
    assert len(set(drafts)) == len(drafts)
    for draft in drafts:
        assert draft.prompt or draft.response
        assert all(part == " ".join(part.split()) for part in (draft.prompt, draft.response))
        if parser in ("pairs", "questions", "question"):
            assert draft.prompt[-1] in "?？؟"
            assert len(draft.prompt) <= MOST_QUESTION_CHARACTERS
        if parser == "names":
            assert draft.prompt in CHUNK
            assert len(draft.prompt) <= MOST_NAME_CHARACTERS
        assert bool(draft.response) == (parser in ("pairs", "text"))
    if not finished:
        assert len(drafts) <= len(PARSERS[parser](text, True, CHUNK)) or parser in ("questions", "names")
        assert parser not in ("message", "text") or drafts == []


plain = st.text("abcxyzß019", min_size=1, max_size=8)


@given(
    st.lists(plain, unique=True, max_size=6), st.sampled_from(["{}?", "1. {}?", "- **{}?**", "<q>{}?</q>", "Q: {}?"])
)
def test_questions_written_in_a_known_form_are_read_back(made: list[str], form: str) -> None:
    text = "\n".join(form.format(question) for question in made)
    assert questions(text, True) == [Draft(f"{question}?") for question in made]


# --- answers of several sentences ---


@pytest.mark.parametrize(
    ("answer", "stands"),
    [
        ("Ann Smith built the mill. Later she rested.", True),
        ("Ann Smith built it.\n- Nobody else did: Bo was in Oslo.", True),
        ("She built it. Then Bergen burnt.", False),
        ("The mill. It had 3 wheels.", False),
        ("Lumrick 40 is a lamp", True),
    ],
)
def test_every_sentence_may_begin_with_a_capital(answer: str, stands: bool) -> None:
    assert grounded(answer, CHUNK, sentences=True) == stands


def test_limits_of_names_and_messages_are_inclusive() -> None:
    longest = "N" + "a" * 79
    assert [draft.prompt for draft in names(longest, True, f"It is {longest}.")] == [longest]
    assert names(longest + "a", True, f"It is {longest}a.") == []
    assert names("B", True, "B is a letter.") == []
    assert names("Ann!\nBo", True, "It was Ann! And Bo.") == [Draft("Bo")]  # it ends with a letter as well
    for size, kept in ((19, False), (20, True), (1500, True), (1501, False)):
        text = "Write a poem".ljust(size - 1, "x") + "."
        assert [draft.prompt for draft in message(text, True)] == ([text] if kept else []), size


@pytest.mark.parametrize("quotes", ['""', "''", "“”", "«»", "``"])
def test_quotes_around_the_whole_are_taken_off(quotes: str) -> None:
    said = "Write a long poem about the mill."
    assert message(f"{quotes[0]}{said}{quotes[1]}", True) == [Draft(said)]
    assert (
        message(f"{quotes[0]}Write{quotes[1]} and {quotes[0]}read about the mill{quotes[1]}", True)[0].prompt[0]
        == quotes[0]
    )
    assert names(f"{quotes[0]}Bo{quotes[1]}", True, CHUNK) == [Draft("Bo")]


def test_a_draft_has_no_response_unless_it_is_given() -> None:
    assert (Draft("Bo").prompt, Draft("Bo").response) == ("Bo", "")
