"""Rating study material: reading a score, rating once, storing it, and training only on what scores enough."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kmcli.engines import Chat, Sampling
from kmcli.engines.scripted import ScriptedEngine
from kmcli.errors import KmError, UsageError
from kmcli.synthesis import judge
from kmcli.synthesis.judge import parse
from kmcli.synthesis.plan import check_prompts
from kmcli.types import Chunk, Event, Sample, silent
from synthesis_cases import BARN, EMBEDDED, GENERAL, MILL, QA_ONLY, RECIPE, chunk_of, run, script

TEXTS = {chunk.sha256: chunk.text for chunk in (MILL, BARN)}
FORMS = [
    "{}",
    "**{}**",
    "Score: {}",
    "**Score:** {}/5",
    "{}/5",
    "{} out of 5",
    "I would rate this {} out of 5.",
    "<score>{}</score>",
    "<rating> {} / 5 </rating>",
    "Score (1-5): {}",
    "On a scale of 1 to 5, I rate this exchange a {}.",
    "{}. The answer is right.",
    "{} - the year is wrong",
    "{} because the year is wrong",
    "Rating: {}.0",
    "Score: \\boxed{{{}}}",
    "Score: {}\nExplanation: the year 1871 stands in the text.",
    "I'd give it a {}.",
    "The response deserves a {}.",
    "### Score\n{}",
    "Score - {}",
    '{{"score": {}}}',
    "The score is {} because 7 of 9 facts are in the text.",
    "<think>Is it a 2? Score: 2</think>\nScore: {}",
]
NOT_ON_THE_SCALE = ["0", "6", "7", "10", "45", "1871", "-4", "4.5", "3,7", "4th", "80%", "4/10", "4 out of 7"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("score", [1, 2, 3, 4, 5])
def test_a_score_is_read_in_whatever_form_it_is_given(form: str, score: int) -> None:
    assert parse(form.format(score)) == score


@given(
    st.sampled_from([form for form in FORMS if "Score" in form or "rate" in form]),
    st.integers(1, 5),
    st.text(st.characters(exclude_categories=["Nd", "No", "Cs"]), max_size=60),
)
def test_prose_around_a_score_that_is_named_does_not_matter(form: str, score: int, prose: str) -> None:
    quiet = prose.replace("<", "").replace(">", "")  # a tag of its own may be the answer's end
    assert parse(f"{quiet}\n{form.format(score)}\n{quiet}") == score


@pytest.mark.parametrize("number", NOT_ON_THE_SCALE)
@pytest.mark.parametrize("form", ["{}", "Score: {}", "<score>{}</score>", "I would rate this {}.", "I give it a {}"])
def test_a_number_off_the_scale_is_no_score(form: str, number: str) -> None:
    assert parse(form.format(number)) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot rate this.",
        "3 facts are wrong.",
        "The response gives 3 facts of 5.",
        "It names 3 rather than 2.",
        "Score: 3 or 4",
        "Score: 3-4",
        "Score: 2\nScore: 4",
        "Score: 1, 2, 3, 4 or 5",
        "1. The response is right.\n2. The prompt is clear.",
        "5 - The prompt is clear\n4 - Right",
    ],
)
def test_no_score_or_several_are_none(text: str) -> None:
    assert parse(text) is None


@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from(FORMS[:-1]))
def test_two_scores_count_only_where_they_agree(one: int, other: int, form: str) -> None:
    assert parse(f"{form.format(one)}\n{form.format(other)}") == (one if one == other else None)


@given(st.text() | st.text("score rating:/5<>123.4\n*-", max_size=300))
@example("Score: 4" * 3)
def test_any_text_has_a_score_on_the_scale_or_none(text: str) -> None:
    assert parse(text) in (None, 1, 2, 3, 4, 5)
    assert parse(text, finished=False) in (None, 1, 2, 3, 4, 5)


def test_what_was_cut_off_may_end_in_half_a_number() -> None:
    assert parse("Score: 4", finished=False) is None
    assert parse("Score: 4 because the year is", finished=False) == 4
    assert parse("4", finished=False) is None


@pytest.mark.parametrize("text", ["score ", "1", "rate of the ", "give a ", "(", "\n", "1 , ", "<score>"])
def test_no_text_takes_long_to_read(text: str) -> None:
    began = time.process_time()
    parse(text * 20_000)
    assert time.process_time() - began < 5


# --- rating ---


def sample(number: int, chunk: Chunk = MILL, score: int | None = None) -> Sample:
    return Sample(f"s{number}", chunk.sha256, "qa", f"Question {number}?", f"{{{number}}}", "x", "m", "r", 0, score)


def rating(said: Sequence[str], context: int = 10_000) -> ScriptedEngine:
    answers = iter(said)

    def say(chat: Chat, sampling: Sampling) -> str:
        assert sampling == Sampling(judge.SCORE_TOKENS)  # greedy
        return next(answers)

    return ScriptedEngine(say, context)


def test_samples_are_rated_with_their_chunk_and_those_that_have_a_score_keep_it() -> None:
    engine = rating(["Score: 4", "I cannot say."])
    found = judge.judged(engine, [sample(1), sample(2, score=1), sample(3, BARN)], TEXTS, GENERAL)
    assert [one.score for one in found] == [4, 1, judge.NO_SCORE]
    (((_, first),), ((_, second),)) = engine.calls
    assert [first.split("\n\n")[0], second.split("\n\n")[0]] == [MILL.text, BARN.text]
    assert "<prompt>\nQuestion 1?\n</prompt>\n<response>\n{1}\n</response>" in first


def test_what_the_judge_cannot_read_at_once_has_no_score() -> None:
    engine = rating(["5"], context=400)
    long = replace(sample(2), response="word " * 400)
    assert [one.score for one in judge.judged(engine, [sample(1), long], TEXTS, GENERAL)] == [5, judge.NO_SCORE]
    assert len(engine.calls) == 1


def test_groups_are_handed_over_as_they_are_rated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "SAMPLES_PER_GROUP", 2)
    groups: list[list[tuple[str, int | None]]] = []
    events: list[Event] = []
    judge.judge_all(
        rating(["1", "2", "3"]),
        [sample(n) for n in (1, 2, 3)],
        TEXTS,
        GENERAL,
        lambda group: groups.append([(one.id, one.score) for one in group]),
        events.append,
    )
    assert groups == [[("s1", 1), ("s2", 2)], [("s3", 3)]]
    assert [event.done for event in events] == [0, 1, 2, 2, 3, 3]


def test_writing_with_a_judge_rates_what_is_kept() -> None:
    say = script(prompts=GENERAL)
    rated: list[str] = []

    def judging(chat: Chat, sampling: Sampling) -> str:
        ((_, content),) = chat
        if "Rate them from 1 to 5" not in content:
            return say(chat, sampling)
        chunk = chunk_of(content)
        assert chunk is not None
        rated.append(content)
        return "5" if chunk is MILL else "Score: 2"

    with_judge = replace(QA_ONLY, judge=True)
    made, _ = run(judging, [MILL, BARN], with_judge, prompts=GENERAL)
    assert [(one.response, one.score) for one in made.samples] == [("Ann", 5), ("1871", 5), ("red", 2)]
    assert len(rated) == 3  # none that was dropped
    without, _ = run(say, [MILL, BARN], QA_ONLY, prompts=GENERAL)
    assert [replace(one, score=None) for one in made.samples] == without.samples


# --- using the score ---


def test_samples_that_score_less_are_left_out_and_counted() -> None:
    samples = [sample(1, score=5), sample(2, score=3), sample(3, score=judge.NO_SCORE), sample(4, score=4)]
    events: list[Event] = []
    good = judge.good_enough(samples, TEXTS, replace(QA_ONLY, min_score=4), events.append)
    assert [one.id for one in good] == ["s1", "s4"]
    assert [event.message for event in events] == ["left out: 2 of 4 samples, which score less than 4"]
    events.clear()
    assert judge.good_enough(samples, TEXTS, QA_ONLY, events.append) == samples
    assert events == []


def test_only_what_is_trained_on_must_have_a_score() -> None:
    other_chunk = replace(sample(2), chunk_sha256="gone")
    other_task = replace(sample(3), task="summary")
    recipe = replace(QA_ONLY, min_score=4)
    assert judge.good_enough([sample(1, score=4), other_chunk, other_task], TEXTS, recipe, silent) == [
        sample(1, score=4)
    ]
    with pytest.raises(
        UsageError, match=r"^1 of 2 samples have no score, and the recipe asks for at least 4\."
    ) as refused:
        judge.good_enough([sample(1, score=4), sample(2)], TEXTS, recipe, silent)
    assert refused.value.hint == "Have the study material rated: add --judge."


def test_where_nothing_scores_enough_that_is_said() -> None:
    with pytest.raises(KmError, match=r"no sample scores 4 or more\."):
        judge.good_enough([sample(1, score=3)], TEXTS, replace(QA_ONLY, min_score=4), silent)


def test_scores_are_told_best_first() -> None:
    samples = [sample(1, score=3), sample(2, score=5), sample(3, score=5), sample(4, score=0), sample(5)]
    assert judge.distribution(samples) == "2 with 5, 1 with 3, 1 with none"


def test_a_base_that_was_not_trained_to_judge_is_refused() -> None:
    with pytest.raises(UsageError, match="was not trained to judge study material"):
        check_prompts(replace(RECIPE, judge=True), EMBEDDED)
    check_prompts(replace(RECIPE, judge=True), GENERAL)
