"""Every task beside qa and summary: what is asked, what becomes a sample, what is dropped and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest

from kmcli.engines import Chat, Sampling
from kmcli.errors import UsageError
from kmcli.synthesis import TASKS
from kmcli.synthesis.check import KEPT, Dropped, Reason
from kmcli.synthesis.plan import check_prompts, plan
from kmcli.types import Chunk, Recipe, TaskName
from synthesis_cases import BARN, BOAT, EMBEDDED, GENERAL, MILL, RECIPE, chunk_of, counted, run

Answer = str | Callable[[Sampling], str]
NOT_STATED = "The text does not say."


def only(*tasks: str) -> Recipe:
    return replace(RECIPE, tasks=tasks)


def said(told: dict[tuple[Chunk | None, str], Answer], otherwise: str = NOT_STATED) -> Callable[[Chat, Sampling], str]:
    """Answers by chunk and by what is asked under it."""

    def say(chat: Chat, sampling: Sampling) -> str:
        ((_, content),) = chat
        chunk = chunk_of(content)
        asked = content[len(chunk.text) + 2 :] if chunk else content
        answer = told.get((chunk, asked), otherwise if chunk else "I don't know.")
        return answer if isinstance(answer, str) else answer(sampling)

    return say


# --- the tables ---


def test_every_task_is_in_the_table_with_its_prompts() -> None:
    assert set(TASKS) == set(get_args(TaskName))
    for name, task in TASKS.items():
        assert task.prompt(GENERAL)
        assert all(task.distilled(GENERAL))
        assert task.generations(RECIPE) in (1, 2, 4), name
    known = {name for name, task in TASKS.items() if task.prompt(EMBEDDED)}
    assert known == set(TASKS) - set(GENERAL.seeds)


def test_what_is_kept_is_among_the_reasons() -> None:
    assert set(KEPT) == {"agree", "refused", "grounded", "unchecked"}
    assert set(get_args(Reason)) == set(KEPT) | set(get_args(Dropped))


def test_a_base_that_was_not_trained_on_a_task_says_so() -> None:
    with pytest.raises(UsageError) as caught:
        run(said({}), [MILL], only("qa", "structure"))
    assert str(caught.value) == (
        "the base scripted was not trained on the task 'structure'. "
        "Leave it out, or choose another base with --model (see km models)."
    )
    check_prompts(only(*TASKS), GENERAL)


def test_tasks_are_weighed_by_their_generations() -> None:
    assert {name: one.generations for name, one in plan(only("qa:2", "summary", "question:7")).items()} == {
        "qa": 2,
        "summary": 2,
        "question": 7,
    }
    _, engine = run(said({(MILL, EMBEDDED.write_qa): "Nothing."}), [MILL], only("qa:3"))
    assert len(engine.calls) == 3
    for wrong in ("qa:0", "qa:x", "qa:", "qa:-1", "qa:1.5", "qa:99999", "qa:²"):
        with pytest.raises(UsageError, match="is no number of generations for the task 'qa'"):
            plan(only(wrong))
    with pytest.raises(UsageError, match="the task 'qa' stands twice in the recipe"):
        plan(only("qa", "qa:2"))
    with pytest.raises(UsageError, match=r"there is no task 'quesstion'\. Did you mean question or question_for"):
        plan(only("quesstion:2"))


# --- question ---

ASKED = "Who built the mill?"


@pytest.mark.parametrize(
    ("sampled", "greedy", "bare", "counts"),
    [
        ("Ann", "ann.", "I don't know.", {"agree": 1}),
        ("Ann", "Bo", "I don't know.", {"disagree": 1}),
        ("Ann", "Ann", "Ann", {"known": 1}),
        ("...", "Ann", "", {"unfinished": 1}),
        ("Ann" + " !" * 70, "Ann", "", {"unfinished": 1}),
        (NOT_STATED, "Ann", "", {"refusal": 1}),
        ("The text does not say who built it.", "Ann", "", {"refusal": 1}),
    ],
)
def test_a_question_and_its_answer_which_must_be_given_twice(
    sampled: str, greedy: str, bare: str, counts: dict[str, int]
) -> None:
    told: dict[tuple[Chunk | None, str], Answer] = {
        (MILL, EMBEDDED.question): f"Here is one:\n1. {ASKED}",
        (MILL, ASKED): lambda sampling: sampled if sampling.temperature else greedy,
        (None, ASKED): bare,
    }
    made, _ = run(said(told), [MILL], only("question"), force=True)
    assert made.pairs == ([(ASKED, "Ann")] if "agree" in counts else [])
    assert made.counts == counted("question", duplicate=3, **counts)


# --- question_for ---


def valued(first: str, second: str, answers: dict[str, str]) -> Callable[[Chat, Sampling], str]:
    told: dict[tuple[Chunk | None, str], Answer] = {
        (MILL, "Write a question whose answer is: Ann"): first,
        (MILL, "Write a question whose answer is: 1871"): second,
    }
    return said(told | {(MILL, question): answer for question, answer in answers.items()})


def test_every_value_is_asked_for_once_and_greedily() -> None:
    seen: list[Sampling] = []
    say = valued(ASKED, "When was it built?", {ASKED: "Ann", "When was it built?": "in 1871"})

    def watching(chat: Chat, sampling: Sampling) -> str:
        seen.append(sampling)
        return say(chat, sampling)

    made, engine = run(watching, [MILL], only("question_for"))
    assert made.pairs == [(ASKED, "Ann"), ("When was it built?", "in 1871")]  # in the base's own words
    assert made.counts == counted("question_for", agree=2)
    assert len(engine.calls) == 2 + 2 + 2
    assert {sampling.temperature for sampling in seen} == {0.0}
    seen.clear()
    run(watching, [MILL], only("question_for:3"))
    assert sorted(sampling.temperature for sampling in seen) == [0.0] * 4 + [0.8] * 6


@pytest.mark.parametrize(
    ("first", "second", "answers", "counts"),
    [
        ("Who is Ann?", "No.", {}, {"gives away": 1}),
        ("Who is Anna?", "No.", {}, {"names": 1}),
        (ASKED, "No.", {ASKED: "Bo"}, {"disagree": 1}),
        (ASKED, "No.", {ASKED: "Anna"}, {"disagree": 1}),
        (ASKED, "No.", {ASKED: "Ann and four more did"}, {"disagree": 1}),
        (ASKED, ASKED, {ASKED: "Ann in 1871"}, {"agree": 1, "duplicate": 1}),
    ],
)
def test_a_value_must_be_the_answer(first: str, second: str, answers: dict[str, str], counts: dict[str, int]) -> None:
    made, _ = run(valued(first, second, answers), [MILL], only("question_for"))
    assert dict(made.counts) == {("question_for", reason): count for reason, count in counts.items()}
    assert len(made.samples) == counts.get("agree", 0)


def test_a_base_is_not_judged_by_the_values_it_cannot_ask_for() -> None:
    made, _ = run(valued(ASKED, ASKED, {ASKED: "Bo"}), [MILL], only("question_for"))
    assert made.counts == counted("question_for", disagree=2)  # nothing raised


def test_a_chunk_without_values() -> None:
    made, engine = run(said({}), [Chunk(0, "nothing here", 2, 0)], only("question_for"))
    assert (engine.calls, made.samples, len(made.finished)) == ([], [], 1)


# --- unanswerable ---


def test_questions_that_the_document_leaves_open() -> None:
    told: dict[tuple[Chunk | None, str], Answer] = {
        (
            MILL,
            EMBEDDED.unanswerable,
        ): "Who paid for the mill?\nWho painted the barn?\nWho built the mill?\nWho is Zoe?",
        (MILL, "Who built the mill?"): "Ann",
        (BARN, "Who painted the barn?"): "Bo",
    }
    say = said(told, "The text does not say.")
    made, engine = run(say, [MILL, BARN, BOAT], only("unanswerable:1"))
    assert made.pairs == [("Who paid for the mill?", NOT_STATED)]
    assert made.counts == counted("unanswerable", refused=1, answered=2, names=1)
    asked = [content for ((_, content),) in engine.calls if content.endswith("Who painted the barn?")]
    assert asked == [f"{MILL.text}\n\nWho painted the barn?", f"{BARN.text}\n\nWho painted the barn?"]
    alone, _ = run(say, [MILL], only("unanswerable:1"))
    assert alone.counts == counted("unanswerable", refused=2, answered=1, names=1)


def test_a_refusal_that_does_not_end_is_none() -> None:
    told: dict[tuple[Chunk | None, str], Answer] = {
        (MILL, EMBEDDED.unanswerable): "Who paid for the mill?",
        (MILL, "Who paid for the mill?"): NOT_STATED + " no" * 80,
    }
    assert run(said(told), [MILL], only("unanswerable:1"))[0].counts == counted("unanswerable", answered=1)


@pytest.mark.parametrize(
    ("answer", "refused"),
    [("Not stated.", True), ("Unknown", True), ("I don’t know", True), ("Unknown Pleasures", False), ("Ann", False)],
)
def test_refusals_in_other_words(answer: str, refused: bool) -> None:
    told: dict[tuple[Chunk | None, str], Answer] = {(MILL, GENERAL.unanswerable): "Who paid for the mill?"}
    made, _ = run(said(told, answer), [MILL], only("unanswerable:1"), prompts=GENERAL)
    assert made.pairs == ([("Who paid for the mill?\nAnswer as briefly as possible.", NOT_STATED)] if refused else [])


# --- entities ---


def test_names_and_pairs_of_them() -> None:
    told: dict[tuple[Chunk | None, str], Answer] = {
        (BOAT, EMBEDDED.entities): "1. Oslo\n2. Cy\n3. Bergen",
        (BOAT, "What does the text say about Cy?"): "Cy sank the boat. Near Oslo he did.",
        (BOAT, "What does the text say about Oslo?"): "The boat sank near Bergen.",
        (BOAT, "What does the text say about Cy and Oslo?"): "Cy sank the boat near Oslo.",
    }
    made, _ = run(said(told), [BOAT], only("entities"))
    assert made.pairs == [
        ("What does the text say about Cy?", "Cy sank the boat. Near Oslo he did."),
        ("What does the text say about Cy and Oslo?", "Cy sank the boat near Oslo."),
    ]
    assert made.counts == counted("entities", grounded=2, names=1, duplicate=3)
    assert run(said(told | {(BOAT, "What does the text say about Cy?"): NOT_STATED}), [BOAT], only("entities"))[
        0
    ].counts == counted("entities", grounded=1, refusal=1, names=1, duplicate=3)


def test_only_names_that_share_a_sentence_are_related() -> None:
    chunk = Chunk(0, "Ann met Bo. Cy met Di in 3.5 hours.", 9, 0)

    def say(chat: Chat, sampling: Sampling) -> str:
        return "Di\nBo\nCy\nAnn" if chat[-1][1].endswith(EMBEDDED.entities) else "They met."

    made, _ = run(say, [chunk], only("entities:1"))
    related = [prompt for prompt, _ in made.pairs if " and " in prompt]
    assert related == ["What does the text say about Ann and Bo?", "What does the text say about Cy and Di?"]


# --- self-study ---


@pytest.mark.parametrize("name", sorted(GENERAL.seeds))
def test_a_seed_asks_and_the_base_answers_at_length(name: str) -> None:
    message = "Would you list what is known of the mill?"
    told: dict[tuple[Chunk | None, str], Answer] = {
        (MILL, GENERAL.seeds[name]): f"Message: {message}" if TASKS[name].parser == "message" else message,
        (MILL, message): '{\n  "builder": "Ann",\n  "year": 1871\n}',
    }
    made, engine = run(said(told), [MILL], replace(only(name), chunk_tokens=200), prompts=GENERAL)
    assert made.pairs == [(message, '{\n  "builder": "Ann",\n  "year": 1871\n}')]
    assert made.counts == counted(name, unchecked=1, duplicate=3)
    assert len(engine.calls) == 4 + 1
