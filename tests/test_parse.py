"""Parsing what a model wrote: tolerant of form, strict in what is kept, unmoved by any text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmcli.synthesis.parse import MOST_ANSWER_CHARACTERS, MOST_QUESTION_CHARACTERS, Draft, grounded, pairs, summary

TWO = [Draft("Who built it?", "Ann"), Draft("When?", "in 1871")]
FORMS = {
    "plain": "Q: Who built it?\nA: Ann\nQ: When?\nA: in 1871",
    "words": "Question: Who built it?\nAnswer: Ann\n\nQuestion: When?\nAnswer: in 1871\n",
    "case": "q: Who built it?\na: Ann\nQUESTION: When?\nANSWER: in 1871",
    "numbered labels": "Q1: Who built it?\nA1: Ann\nQ2. When?\nA2. in 1871",
    "numbered words": "Question 1: Who built it?\nAnswer 1: Ann\nQuestion 2: When?\nAnswer 2: in 1871",
    "numbered lines": "1. Q: Who built it?\n   A: Ann\n2) Q: When?\n   A: in 1871",
    "bullets": "- Q: Who built it?\n- A: Ann\n* Q: When?\n• A: in 1871",
    "bold labels": "**Q:** Who built it?\n**A:** Ann\n**Q**: When?\n**A**: in 1871",
    "bold lines": "**Q: Who built it?**\nA: Ann\n**Q: When?**\nA: **in 1871**",
    "bold and numbered": "1. **Question:** Who built it?\n   **Answer:** Ann\n**2. Question:** When?\n**Answer:** in 1871",
    "headings": "### Question 1: Who built it?\nAnswer: Ann\n## Q2: When?\n> A: in 1871",
    "a bullet between": "Q: Who built it?\n- Bo, they say\nA: Ann\nQ: When?\n- long ago\nA: in 1871",
    "prose around": "Sure! Here are two:\n\nQ: Who built it?\nA: Ann\n\nAnd:\nQ: When?\nA: in 1871\n\nI hope it helps.",
    "prose between": "Q: Who built it?\nLet me see.\nA: Ann\n(This is in the text.)\nQ: When?\nA: in 1871",
    "white space": "  Q:   Who\tbuilt  it? \r\n\r\n A :  Ann \r\nQ:When?\nA:in 1871",
    "a question without an answer": "Q: Who?\nQ: Who built it?\nA: Ann\nQ: When?\nA: in 1871",
    "an answer without a question": "A: Ben\nQ: Who built it?\nA: Ann\nA: Bo\nQ: When?\nA: in 1871",
    "twice": "Q: Who built it?\nA: Ann\nQ: Who built it?\nA: Ann\nQ: When?\nA: in 1871",
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form: str) -> None:
    assert pairs(FORMS[form], finished=True) == TWO


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Q: Who built it?\nA: Ann\nQ: When?\nA: in 18", TWO[:1]),
        ("Q: Who built it?\nA: Ann\nQ: When?\nA: in 18\n\n", TWO[:1]),
        ("Q: Who built it?\nA: Ann\nQ: Wh", TWO[:1]),
        ("Q: Who built it?\nA: Ann\nQ: When?", TWO[:1]),
        ("Q: Who built it?\nA: Ann\nQ: When?\nA: in 1871\nThat is al", TWO),
        ("Q: Who built it?\nA: An", []),
        ("Q: Who", []),
        ("", []),
    ],
)
def test_a_pair_that_was_cut_off_is_dropped(text: str, kept: list[Draft]) -> None:
    assert pairs(text, finished=False) == kept


@pytest.mark.parametrize(
    "text",
    [
        "Q: Name the builder.\nA: Ann",
        "Q: Who?\nA:",
        "Q: Who?\nA: ...",
        "Q:\nA: Ann",
        "Q: ?\nA: \n",
        f"Q: {'w' * MOST_QUESTION_CHARACTERS}?\nA: Ann",
        f"Q: Who?\nA: {'w' * (MOST_ANSWER_CHARACTERS + 1)}",
        "Answering questions is fun: Who?\nA dog: yes",
        "Quentin: who?\nAnn: me",
    ],
)
def test_what_is_no_pair_is_not_kept(text: str) -> None:
    assert pairs(text, finished=True) == []


def test_limits_of_length_are_inclusive() -> None:
    question, answer = "w" * (MOST_QUESTION_CHARACTERS - 1) + "?", "w" * MOST_ANSWER_CHARACTERS
    assert pairs(f"Q: {question}\nA: {answer}", finished=True) == [Draft(question, answer)]


def test_bold_is_taken_out_of_the_middle_and_powers_are_not() -> None:
    assert pairs("Q: Who **built** it?\nA: **Ann** and **Bo**", True) == [Draft("Who built it?", "Ann and Bo")]
    assert pairs("Q: How many?\nA: 2 ** 10 * 3", True) == [Draft("How many?", "2 ** 10 * 3")]


@pytest.mark.parametrize("question", ["これは何？", "ما هذا؟", "Qui l'a construit ?"])
def test_questions_end_in_other_scripts_too(question: str) -> None:
    assert pairs(f"Q: {question}\nA: 1871", True) == [Draft(question, "1871")]


labels = st.sampled_from(["Q:", "A:", "**Q1:**", "- Answer:", "2. Question:", "?", "\n", "*", " ", "ſ", "İ", "\x85"])
texts = st.one_of(st.text(max_size=300), st.lists(st.one_of(labels, st.text(max_size=12)), max_size=30).map("".join))


@given(texts)
@settings(max_examples=300)
def test_any_text_yields_only_acceptable_pairs(text: str) -> None:
    whole, cut = pairs(text, True), pairs(text, False)
    for draft in whole:
        assert 0 < len(draft.prompt) <= MOST_QUESTION_CHARACTERS
        assert 0 < len(draft.response) <= MOST_ANSWER_CHARACTERS
        assert draft.prompt[-1] in "?？؟"
        for part in (draft.prompt, draft.response):
            assert part == " ".join(part.split())
            assert part == part.strip("* ")
    assert len(set(whole)) == len(whole)
    assert cut in (whole, whole[:-1]) or set(cut) < set(whole)
    assert len(whole) - len(cut) <= 1


words = st.text("abcxyzÄß0189", min_size=1, max_size=8)
sentences = st.lists(words, min_size=1, max_size=6).map(" ".join)


@given(
    st.lists(st.tuples(sentences, sentences), unique=True, max_size=6),
    st.sampled_from(["Q: {}?\nA: {}", "**Question**: {}?\n\n- **Answer**: {}\n"]),
)
@settings(max_examples=100)
def test_pairs_written_in_a_known_form_are_read_back(made: list[tuple[str, str]], form: str) -> None:
    text = "\n".join(form.format(*pair) for pair in made)
    assert pairs(text, True) == [Draft(f"{question}?", answer) for question, answer in made]


@given(texts, st.booleans())
def test_a_summary_is_one_line_or_nothing(text: str, finished: bool) -> None:
    written = summary(text, finished)
    assert written == "" or (finished and len(written) >= 20 and written == " ".join(written.split()))


def test_summaries_by_value() -> None:
    assert summary("**Ann built the mill.**\n\nBo  kept it.", True) == "Ann built the mill. Bo kept it."
    assert summary("Ann built the mill. Bo kept", False) == ""
    assert summary("Ann built it.", True) == ""


@pytest.mark.parametrize(
    ("question", "known"),
    [
        ("Who built the mill?", True),
        ("Did Ann build it?", True),
        ("Did Anna build it?", False),
        ("What was Ann's trade?", True),
        ("What was Ann’s trade?", True),
        ("Was Bo Dutch-born?", True),
        ("Was it in 1871?", True),
        ("Was it in 1872?", False),
        ("Did it cost 1,250.50 crowns?", True),
        ("Did it cost 1,250 crowns?", False),
        ("Did it cost 250 crowns?", False),
        ("Was it on the 3rd of may?", True),
        ("Was it on the 4th of may?", False),
        ("Whence came O'Brien?", True),
        ("Xavier, who is he?", True),  # the first word is a capital anyway
        ("Is it in İstanbul?", True),
        ("Is it in Istanbul?", False),
        ("", True),
    ],
)
def test_names_and_numbers_must_stand_in_the_text(question: str, known: bool) -> None:
    text = "In 1871 ANN built it for 1,250.50 crowns. Bo, a Dutch miller born on the 3rd, met O'Brien in İstanbul."
    assert grounded(question, text) == known


@given(st.text(max_size=200))
def test_every_text_is_grounded_in_itself(text: str) -> None:
    assert grounded(text, text)
    assert grounded(text, "Before. " + text + " After.")
