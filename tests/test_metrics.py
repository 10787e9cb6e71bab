from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmcli.errors import UsageError
from kmcli.evaluation.metrics import (
    among,
    bootstrap,
    contrasts,
    exact_match,
    gap_closed,
    holm,
    normalise,
    paired_p,
    token_f1,
)
from kmcli.evaluation.questions import read_questions
from kmcli.metrics import occurrences
from kmcli.types import Question


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Eiffel Tower!", "eiffel tower"),
        ("an apple a day", "apple day"),
        ("U.S.A.", "usa"),
        ("theatre", "theatre"),
        ("A.", ""),
        ("in\n1871,", "in 1871"),
    ],
)
def test_normalisation_is_squads(text: str, normal: str) -> None:
    assert normalise(text) == normal


@pytest.mark.parametrize(
    ("answer", "text", "times"),
    [
        ("the 12 May", "On 12 May, not on 12 March; 12 May!", 2),
        ("7", "7, 7 and 17", 2),
        ("7 and 7", "7 and 7 and 7", 2),
        ("Grondal", "Grondals", 0),
        ("a", "a tower", 0),
        ("", "", 0),
    ],
)
def test_occurrences_are_of_whole_words(answer: str, text: str, times: int) -> None:
    assert occurrences(answer, text) == times


def test_exact_match_takes_any_reference() -> None:
    assert exact_match("The Eiffel tower.", ["Big Ben", "eiffel tower"]) == 1.0
    assert exact_match("Eiffel", ["Eiffel Tower"]) == 0.0
    assert exact_match("Eiffel", []) == 0.0


@pytest.mark.parametrize(
    ("prediction", "answers", "f1"),
    [
        ("the cat sat", ["cat sat down"], 0.8),  # 2 shared; precision 2/2, recall 2/3
        ("cat", ["dog"], 0.0),
        ("cat cat dog", ["cat dog dog"], 2 / 3),  # shared: one cat, one dog
        ("Agnes Moore", ["Moore", "Agnes B. Moore"], 0.8),  # 2/3 against the first, 4/5 against the second
        ("the", ["a"], 1.0),  # nothing left on both sides
        ("", ["cat"], 0.0),
    ],
)
def test_token_f1_by_hand(prediction: str, answers: list[str], f1: float) -> None:
    assert token_f1(prediction, answers) == pytest.approx(f1)


def test_bootstrap_gives_the_mean_and_an_interval_that_narrows_with_n() -> None:
    score = bootstrap([1.0, 0.0] * 50)
    assert (score.mean, score.n) == (0.5, 100)
    # the normal approximation's half width is 1.96 * 0.5 / 10 = 0.098
    assert score.low == pytest.approx(0.402, abs=0.02)
    assert score.high == pytest.approx(0.598, abs=0.02)
    wider = bootstrap([1.0, 0.0] * 5)
    assert wider.low < score.low < score.high < wider.high


def test_bootstrap_is_the_same_for_the_same_seed_and_certain_of_constants() -> None:
    values = [0.1, 0.9, 0.4, 0.6, 0.2]
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3) != bootstrap(values, seed=4)
    constant = bootstrap([0.25] * 7)
    assert (constant.mean, constant.low, constant.high, constant.n) == (0.25, 0.25, 0.25, 7)
    with pytest.raises(ValueError, match="no values"):
        bootstrap([])


def test_paired_p_knows_equal_different_and_too_few() -> None:
    assert paired_p([1, 0, 1], [1, 0, 1]) == 1.0
    assert paired_p([1.0] * 20, [0.0] * 20) < 0.01
    assert paired_p([1.0] * 30, [0.0] * 30) == 1 / 2001  # none of 2,000 draws goes as far
    # five of five: all the same sign in 2 of 32 swaps, however large the difference
    assert paired_p([1.0] * 5, [0.0] * 5) == pytest.approx(2 / 32, abs=0.02)
    # three wins against one loss: |sum| >= 2 in 10 of 16 swaps
    assert paired_p([1, 1, 1, 0], [0, 0, 0, 1]) == pytest.approx(10 / 16, abs=0.04)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        paired_p([1.0], [])


@given(pairs=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_paired_p_does_not_care_which_comes_first(pairs: list[tuple[float, float]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    assert 0 < paired_p(a, b, resamples=50) == paired_p(b, a, resamples=50) <= 1


def test_gap_closed() -> None:
    assert gap_closed(km=0.5, bare=0.2, gold=0.8) == pytest.approx(0.5)
    assert gap_closed(km=0.1, bare=0.2, gold=0.6) == pytest.approx(-0.25)
    assert gap_closed(km=0.9, bare=0.5, gold=0.5) is None
    assert gap_closed(km=0.9, bare=0.5, gold=0.4) is None


# --- question files ---


def test_json_lines_with_every_key(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    records = [
        {"question": " Who? ", "answers": ["Agnes", " Agnes Moore "], "kind": "name", "evidence": "by Agnes", "id": 7},
        {"question": "When?", "answer": 1871, "kind": None},
        {"question": "Which\u2028one?", "answer": "red", "options": ["red", "blue"]},
    ]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    file.write_text("\ufeff" + "\n\n".join(lines) + "\r\n", "utf-8")
    assert read_questions(file) == [
        Question("Who?", ("Agnes", "Agnes Moore"), "name", "by Agnes"),
        Question("When?", ("1871",)),
        Question("Which\u2028one?", ("red",), options=("red", "blue")),
    ]


def test_half_characters_of_json_are_read_as_unknown_ones(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(r'{"question": "Who \ud800?", "answers": ["\ud83d\ude00", "A\udc00"], "evidence": "\ud800"}')
    assert read_questions(file) == [Question("Who \ufffd?", ("\U0001f600", "A\ufffd"), evidence="\ufffd")]


def test_csv_with_answers_between_bars(tmp_path: Path) -> None:
    file = tmp_path / "questions.CSV"
    file.write_text(
        'question,answers,kind,evidence,options\r\n"Who, then?",Agnes||Agnes Moore,name,"by ""Agnes""",\r\n'
        "Which?,red,,,red||blue\r\n",
        "utf-8",
    )
    assert read_questions(file) == [
        Question("Who, then?", ("Agnes", "Agnes Moore"), "name", 'by "Agnes"'),
        Question("Which?", ("red",), options=("red", "blue")),
    ]
    file.write_text("Answer, Question,,\n1871 || 1872,When?,,\n", "utf-8")
    assert read_questions(file) == [Question("When?", ("1871", "1872"))]
    file.write_bytes(b'question,answers\r\n"Who,\nthen\x0b?","Ag\r\nnes"\r\n')
    assert read_questions(file) == [Question("Who,\nthen\x0b?", ("Ag\nnes",))]


def test_a_question_without_answer_is_one_that_has_none(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text('{"question": "Who paid?", "kind": "unanswerable"}\n{"question": "Who?", "answers": ["A"]}\n')
    assert read_questions(file) == [Question("Who paid?", (), "unanswerable"), Question("Who?", ("A",))]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("q.jsonl", '{"question": "Who?", "answer": "A"}\n\nnot json\n', "line 3, is not valid JSON"),
        ("q.jsonl", "[1]\n", "line 1, is not a JSON object"),
        ("q.jsonl", '{"answer": "A"}', "line 1, has no question"),
        ("q.jsonl", '{"question": "Who?"}', "line 1, has no answer"),
        ("q.jsonl", '{"question": "Who?", "answers": []}', "line 1, has no answer"),
        ("q.jsonl", '{"question": "Who?", "answers": ["A", null]}', "line 1: answers is neither text"),
        ("q.jsonl", '{"question": ["Who?"], "answer": "A"}', "line 1: question is neither text"),
        ("q.jsonl", '{"question": "Who?", "answer": "A", "options": "A"}', "line 1: options is neither text"),
        ("q.jsonl", '{"question": "Who?", "answer": "C", "options": ["A", "B"]}', "line 1: no option is an answer"),
        ("q.jsonl", "\n \n", "holds no questions"),
        ("q.csv", "question,answers\nWho?,A\nWhen?,\n", "line 3, has no answer"),
        ("q.csv", 'question,answers\n"Who?,A\n', "is not valid CSV"),
        ("q.csv", "frage,antwort\nWer?,A\n", "line 2, has no question"),
        ("q.csv", "", "holds no questions"),
        ("q.csv", "question,answers\nWhen?,May 1, 1871\n", "line 2, is not valid CSV: it has more cells than"),
        ("q.jsonl", '{"question": ' + "[" * 100_000, "line 1, is not valid JSON: it is nested too deeply"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, name: str, text: str, said: str) -> None:
    file = tmp_path / name
    file.write_text(text, "utf-8")
    with pytest.raises(UsageError, match=said) as caught:
        read_questions(file)
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_questions(tmp_path / "missing.jsonl")
    binary = tmp_path / "q.jsonl"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_questions(binary)


def test_the_interval_draws_every_value_and_is_symmetric_about_a_symmetric_mean() -> None:
    score = bootstrap([0.0, 1.0])  # means of two draws: 0, 0.5 or 1
    assert (score.mean, score.low, score.high, score.n) == (0.5, 0.0, 1.0, 2)
    first_counts = bootstrap([1.0, *[0.0] * 9])
    assert first_counts.mean == pytest.approx(0.1)
    assert first_counts.high >= 0.2
    assert bootstrap([0.0, 0.5, 1.0, 0.2]) == bootstrap([0.0, 0.5, 1.0, 0.2], 0, 2000)
    assert bootstrap([0.0, 0.5, 1.0, 0.2], 1, 5) != bootstrap([0.0, 0.5, 1.0, 0.2], 2, 5)


def test_the_interval_leaves_out_a_fortieth_on_either_side() -> None:
    """The mean of 400 coins: 1.96 standard errors of 0.025 to either side, to within what 2,000 draws allow."""
    score = bootstrap([1.0, 0.0] * 200)
    assert (score.low, score.high) == (pytest.approx(0.451, abs=0.004), pytest.approx(0.549, abs=0.004))


def test_holm_by_hand() -> None:
    assert holm([]) == []
    assert holm([0.04]) == [0.04]
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # the largest is no less than the one before
    assert holm([0.5, 0.6, 0.001]) == pytest.approx([1.0, 1.0, 0.003])
    assert holm([0.0, 0.02]) == pytest.approx([0.0, 0.02])


def test_among_leaves_out_what_was_not_tested() -> None:
    assert among({"a": 0.02, "b": None, "c": 0.03}) == pytest.approx({"a": 0.04, "c": 0.04})
    assert among({"a": None}) == {}


def test_contrasts_are_differences_adjusted_for_their_number() -> None:
    values = {"km": [1.0] * 10, "rag": [0.0] * 10, "bare": [0.0] * 5 + [1.0] * 5}
    first, second = contrasts(values, [("km", "rag"), ("rag", "bare")])
    assert (first.first, first.second) == ("km", "rag")
    assert (first.difference.mean, first.difference.low, first.difference.high) == (1.0, 1.0, 1.0)
    assert first.p == paired_p(values["km"], values["rag"])
    assert second.difference.mean == -0.5
    assert first.p_holm == pytest.approx(2 * first.p)
    assert second.p_holm == second.p
    assert second.p == pytest.approx(2 / 32, abs=0.02)
