"""A judge of answers: what it reads, what its words mean, what comes of them, and that all of it is shown."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cli_cases import Km, comparison, returning
from kmcli.bases.prompts import STYLES
from kmcli.engines import Chat, Sampling
from kmcli.engines.scripted import ScriptedEngine
from kmcli.evaluation.comparison import Comparison, Judge, Way
from kmcli.evaluation.judge import build_prompt, judge, parse
from kmcli.evaluation.kinds import UNANSWERABLE
from kmcli.evaluation.metrics import bootstrap, holm, paired_p
from kmcli.types import Event, Question, Score, silent
from kmcli.workflows import comparing, judging
from report_cases import compared
from test_report import read
from workflow_cases import km

__all__ = ["km"]

GENERAL = STYLES["general"]
FORMS = [
    "{}",
    "{}.",
    "**{}**",
    "  '{}'\n",
    "- {}",
    "Verdict: {}",
    "**Judgement:** {}!",
    "\\boxed{{{}}}",
    "<verdict>{}</verdict>",
    '{{"grade": "{}"}}',
    "Verdict (CORRECT or INCORRECT): {}",
    "The answer is {}.",
    "It is {} because the year is 1871.",
    "The answer is {} and says so.",
    "{}\n\nThe reference has 1871, as the answer has.",
    "{}. An answer of 1870 would be wrong.",
    "{} - the year is the same",
    "The reference has 1871.\n\n{}",
    "To find out whether the answer is correct, I compare the years. {}",
    "<think>The answer is correct? INCORRECT, CORRECT ...</think>\n{}",
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("word", "judgement"),
    [("CORRECT", "right"), ("Incorrect", "wrong"), ("right", "right"), ("WRONG", "wrong"), ("not correct", "wrong")],
)
def test_a_judgement_is_read_in_whatever_form_it_is_given(form: str, word: str, judgement: str) -> None:
    assert parse(form.format(word)) == judgement


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot say.",
        "Yes",
        "CORRECT or INCORRECT",
        "CORRECT/INCORRECT",
        "CORRECT\nINCORRECT",
        "CORRECTLY",
        "Correct: 1871.",
        "The correct answer is 1871.",
        "The right bank",
        "Right-hand traffic",
        "Partially correct.",
        "The answer is correct in part.",
        "Correct, but the year is missing.",
        "CORRECT. However, the year is missing.",
        "CORRECT if one leaves out the year",
        "If the answer is correct, 1871.",
        "Is the answer correct? No.",
        "The answer is correct. The answer is wrong.",
        "CORRECT means: the answer says what the question asks for",
        "<think>The answer is CORRECT.",
    ],
)
def test_what_is_no_judgement_or_two_is_unclear(text: str) -> None:
    assert parse(text) == "unclear"


def test_what_was_cut_off_may_end_in_half_a_word() -> None:
    assert parse("CORRECT", finished=False) == "unclear"
    assert parse("CORRECT. The answer sa", finished=False) == "right"


@given(st.text() | st.text("answer is NOT(IN)CORRECT, wrong.:<think>\n*-", max_size=300))
@example("the answer is correct " * 3)
def test_any_text_is_right_wrong_or_unclear_and_right_only_where_it_says_so(text: str) -> None:
    for finished in (True, False):
        judgement = parse(text, finished)
        assert judgement in ("right", "wrong", "unclear")
        if judgement == "right":
            assert "correct" in text.lower() or "right" in text.lower()


@given(st.text(st.characters(exclude_categories=["Lu", "Ll", "Lo", "Cs"], exclude_characters="<"), max_size=60))
def test_signs_and_numbers_around_a_judgement_do_not_turn_it(signs: str) -> None:
    assert parse(f"{signs}\nVerdict: INCORRECT\n{signs}") in ("wrong", "unclear")
    assert parse(f"{signs}\nVerdict: CORRECT\n{signs}") in ("right", "unclear")


@pytest.mark.parametrize("text", ["answer ", "correct ", "answer is ", "(", "\n", " or ", "<think>", "whether "])
def test_no_text_takes_long_to_read(text: str) -> None:
    began = time.process_time()
    parse(text * 20_000)
    assert time.process_time() - began < 5


# --- judging


QUESTIONS = [
    Question("Who built the mill?", ("Ann", "Ann\nLee"), "who"),
    Question("When?", ("1871",), "when"),
    Question("Who sold it?", (), UNANSWERABLE),
    Question("Where is it?", ("in {Oslo}",), "where"),
]
SAID = {
    "bare": ["Bo", "", "nobody knows", "in Oslo"],
    "km": ["Ann Lee", "in 1871", "Bo", "in Oslo"],
    "rag@3": ["Ann Lee", "1870", "nobody knows", "no idea"],
}
WAYS = [Way("bare"), Way("km"), Way("rag", "bm25", 3)]
OPINION = {"Ann Lee": "CORRECT", "in 1871": "The answer is right.", "nobody knows": "CORRECT", "in Oslo": "Hm."}


def canned(asked: list[Question] | None = None) -> Comparison:
    return compared(
        WAYS, asked or QUESTIONS, lambda way, place, question: SAID[way.key][place % 4], verdict="So it is."
    )


def answer_in(prompt: str) -> str:
    return prompt.partition("<answer>\n")[2].partition("\n</answer>")[0]


def judging_by(opinion: Callable[[str], str], context: int = 1_000_000) -> ScriptedEngine:
    def say(chat: Chat, sampling: Sampling) -> str:
        assert (sampling.temperature, sampling.max_tokens) == (0.0, 64)
        return opinion(answer_in(chat[-1][1]))

    return ScriptedEngine(say, context)


def test_the_judge_reads_question_references_and_answer_and_nothing_else() -> None:
    prompt = build_prompt(QUESTIONS[0], " Ann {question} ", GENERAL)
    assert "<question>\nWho built the mill?\n</question>\n<references>\nAnn\nAnn Lee\n</references>" in prompt
    assert "<answer>\nAnn {question}\n</answer>" in prompt
    assert prompt.endswith("Answer with one word: CORRECT or INCORRECT")
    assert "<references>\nThe text does not say.\n</references>" in build_prompt(QUESTIONS[2], "Bo", GENERAL)
    assert "<references>\nin {Oslo}\n</references>" in build_prompt(QUESTIONS[3], "Bo", GENERAL)


def test_every_different_answer_is_judged_once_and_what_is_unclear_is_not_right() -> None:
    engine, events = judging_by(lambda answer: OPINION.get(answer, "INCORRECT")), list[Event]()
    before = canned()
    found = judge(engine, before, GENERAL, events.append)
    assert [answer_in(chat[0][1]) for chat in engine.calls] == [
        "Bo", "nobody knows", "in Oslo", "Ann Lee", "in 1871", "Bo", "1870", "no idea",
    ]  # fmt: skip
    judgements = {key: [one.judgement for one in row] for key, row in found.answers.items()}
    assert judgements == {
        "bare": ["wrong", "wrong", "right", "unclear"],  # an empty answer is wrong unasked
        "km": ["right", "right", "wrong", "unclear"],
        "rag@3": ["right", "wrong", "right", "wrong"],
    }
    bare, km_row, rag = found.rows
    assert [row.judged and row.judged.mean for row in found.rows] == [0.25, 0.5, 0.5]
    assert rag.judged == bootstrap([1, 0, 1, 0])
    assert (bare.judged_p_km, rag.judged_p_km) == (
        paired_p([0, 0, 1, 0], [1, 1, 0, 0]), paired_p([1, 0, 1, 0], [1, 1, 0, 0]),
    )  # fmt: skip
    assert km_row.judged_p_km is None
    unclear = "no judgement could be read of 1 of 4 answers, which count as not right"
    assert [row.note for row in found.rows] == [unclear, unclear, ""]
    assert found.judge == Judge("scripted", "0", "scripted", 8, 1)
    assert found.verdict == (
        "So it is. Judged by scripted, the KM is right on 50% and RAG 50%: no clear difference (p = 1.00)."
    )
    assert [(event.stage, event.done, event.total) for event in events] == [("judge", n, 8) for n in range(9)]
    stripped = {key: tuple(replace(one, judgement=None) for one in row) for key, row in found.answers.items()}
    assert stripped == before.answers  # nothing else is touched
    assert [row.exact_match for row in found.rows] == [row.exact_match for row in before.rows]


def test_the_order_of_rows_changes_no_judgement() -> None:
    opinion = lambda answer: "CORRECT" if len(answer) % 2 else "INCORRECT"  # noqa: E731
    before = canned()
    turned = replace(before, rows=before.rows[::-1], answers=dict(reversed(before.answers.items())))
    one, other = (judge(judging_by(opinion), each, GENERAL, silent) for each in (before, turned))
    assert one.answers == other.answers
    assert one.rows == other.rows[::-1]


def test_a_clear_difference_is_one() -> None:
    asked = [Question(f"{one.question} {number}", one.answers) for number in range(16) for one in QUESTIONS[:2]]
    found = judge(
        judging_by(lambda answer: "CORRECT" if "1871" in answer else "INCORRECT"), canned(asked), GENERAL, silent
    )
    p = 2 * paired_p([0.0] * 32, [0.0, 1.0, 0.0, 0.0] * 8)  # RAG and the bare base are set against it
    assert 0.01 < p < 0.05
    assert found.verdict.endswith(
        f" Judged by scripted, the KM is right on 25% and RAG 0%: the KM is better (p = {p:.2f})."
    )


def test_what_the_judge_cannot_read_at_once_is_unclear_and_a_row_that_does_not_fit_stays() -> None:
    before = canned()
    before = replace(before, rows=(replace(before.rows[0], note="read less"), before.rows[1],
                                   replace(before.rows[2], fits=False)),
                     answers={key: before.answers[key] for key in ("bare", "km")})  # fmt: skip
    engine = judging_by(lambda answer: "CORRECT", context=20)
    found = judge(engine, before, GENERAL, silent)
    assert engine.calls == []
    assert found.rows[0].judged == Score(0.0, 0.0, 0.0, 4)
    assert found.rows[0].note == "read less; no judgement could be read of 3 of 4 answers, which count as not right"
    assert found.rows[2] == before.rows[2]


def test_a_model_in_a_folder_is_called_by_the_folder() -> None:
    engine = judging_by(lambda answer: "CORRECT")
    engine.model = "/home/ann/models/qwen"
    assert judge(engine, canned(), GENERAL, silent).judge == Judge("qwen", "0", "scripted", 8, 0)


# --- showing


def test_the_table_has_a_column_only_where_a_judge_was_asked(km: Km, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "compare", returning(comparison()))
    assert "JUDGED" not in km("compare", "report").out
    judged = comparison()
    rows = [replace(row, judged=Score(0.75, 0.5, 0.875, 40)) if row.fits else row for row in judged.rows]
    rows = [replace(row, judged_p_km=p) for row, p in zip(rows, (0.02, None, 0.03, None), strict=True)]
    judged = replace(judged, rows=tuple(rows), judge=Judge("big", "service", "openai", 100, 0))
    monkeypatch.setattr(comparing, "compare", returning(judged))
    lines = km("compare", "report").out.splitlines()
    assert lines[1] == "METHOD        EXACT         F1             ROUGE-L        JUDGED        READ  WRITTEN  SECONDS"
    assert lines[3] == "km            55% (45-65)   62% (52-72)    62% (52-72)    75% (50-88)     41       20     0.31"
    assert "full          does not fit" in lines
    assert "By the judge (p, adjusted for so many rows): bare 0.040, rag@3:hybrid 0.040." in lines
    assert "JUDGED is the share that big says is right." in " ".join(lines)
    monkeypatch.setattr("kmcli.cli.compare_table.columns", lambda stream: 30)
    assert "METHOD        EXACT  JUDGED   READ" in km("compare", "report").out
    assert km("compare", "report", "--json").envelope["data"]["judge"]["model"] == "big"


def test_the_page_shows_shares_and_every_judgement() -> None:
    before = canned()
    assert "judged" not in read(before).said.lower()
    found = judge(judging_by(lambda answer: OPINION.get(answer, "INCORRECT")), before, GENERAL, silent)
    found = replace(found, rows=(*found.rows, replace(found.rows[0], key="full", method="full", fits=False, note="")))
    reader = read(found)
    said = reader.said
    assert "Rouge-LJudgedp, judgedTokens read" in said
    assert "Judged: the share that scripted says is right; p, judged: as p to KM, by that." in said
    score = found.rows[2].judged
    assert score is not None
    adjusted = holm([row.judged_p_km for row in found.rows if row.judged_p_km is not None])
    assert f"50% {100 * score.low:.0f}–{100 * score.high:.0f}{adjusted[1]:.2f}" in said
    assert said.count(" (judged right)") == 5 + 1  # in a card each, and where the KM is not right to the letter
    assert said.count("no judgement could be read of 1 of 4 answers") == 2
    assert "judgescripted (0), by scripted" in said
    assert [one["colspan"] for one in reader.of("td") if one.get("colspan")] == ["11"]


def test_engine_without_a_judge_and_a_judge_without_a_name(km: Km) -> None:
    run = km("compare", "report", "--engine", "hf")
    assert (run.code, run.err) == (
        2,
        "km: --engine says what runs a judge, and there is none. Name one: --judge MODEL\n",
    )
    run = km("compare", "report", "--judge", " ")
    assert (run.code, run.err) == (2, f"km: the judge has no name. {judging.LARGER}\n")
