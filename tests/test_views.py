"""Views: who reads what, and that what is scored is predicted from where it should be."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, cast, get_args

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmcli.bases import Loaded
from kmcli.objectives import OBJECTIVES
from kmcli.objectives.views import (
    chunk_for_both,
    chunk_in_context,
    instruction_first,
    opening_size,
    response_alone,
    second_part,
    unaided,
    whole_window,
)
from kmcli.objectives.windows import Window, split, windows
from kmcli.training.forward import logits, scored_states
from kmcli.types import ObjectiveName, View
from training_cases import one_thread, sample, tiny

CHUNK = "Ann built the {mill} in 1871."


def on(ids: list[int], mask: list[bool]) -> list[int]:
    return [token for token, scored in zip(ids, mask, strict=True) if scored]


def teacher_side(view: View) -> tuple[list[int], list[bool]]:
    assert view.teacher_ids is not None
    assert view.teacher_mask is not None
    return view.teacher_ids, view.teacher_mask


def test_the_table_holds_every_objective() -> None:
    assert set(OBJECTIVES) == set(get_args(ObjectiveName))


def test_the_teacher_reads_the_chunk_and_the_student_does_not(tiny: Loaded) -> None:
    view = chunk_in_context(sample(1, prompt="Who built it?", response="Ann"), CHUNK, tiny)
    teacher_ids, _ = teacher_side(view)
    teacher, student = tiny.tokenizer.decode(teacher_ids), tiny.tokenizer.decode(view.student_ids)
    assert teacher == f"<|im_start|>user\n{CHUNK}\n\nWho built it?<|im_end|>\n<|im_start|>assistant\nAnn<|im_end|>"
    assert student == "<|im_start|>user\nWho built it?<|im_end|>\n<|im_start|>assistant\nAnn<|im_end|>"


def test_to_keep_how_a_text_is_read_both_read_it(tiny: Loaded) -> None:
    one = sample(1, prompt="Who built it?", response="Ann")
    view, learnt = chunk_for_both(one, CHUNK, tiny), chunk_in_context(one, CHUNK, tiny)
    assert (view.student_ids, view.student_mask) == teacher_side(learnt)
    assert teacher_side(view) == teacher_side(learnt)  # so that the teacher's targets serve both


def test_the_response_and_its_end_are_scored_and_nothing_else(tiny: Loaded) -> None:
    view = chunk_in_context(sample(1, prompt="Who built it?", response="Ann of Oslo"), CHUNK, tiny)
    response = [*tiny.tokenizer("Ann of Oslo", add_special_tokens=False)["input_ids"], tiny.end_ids[0]]
    for ids, mask in (teacher_side(view), (view.student_ids, view.student_mask)):
        assert on(ids, mask) == response
        assert mask == [False] * (len(ids) - len(response)) + [True] * len(response)


def test_the_position_that_predicts_the_first_response_token_is_scored(tiny: Loaded) -> None:
    view = chunk_in_context(sample(1, prompt="Who built it?", response="Ann of Oslo"), CHUNK, tiny)
    for ids, mask in (teacher_side(view), (view.student_ids, view.student_mask)):
        before = mask.index(True)
        asked = tiny.tokenizer.decode(ids[:before])
        assert asked.endswith("<|im_start|>assistant\n")  # nothing of the answer has been read yet
        with torch.no_grad():
            states = scored_states(tiny.model, tiny, [(ids, mask)])
            alone = tiny.model(input_ids=torch.tensor([ids[:before]]), use_cache=False).logits[0, -1]
        torch.testing.assert_close(logits(tiny.model, states[-1])[0], alone, rtol=1e-4, atol=1e-4)
        assert states.shape == (2, sum(mask), 64)


def test_unaided_both_read_the_prompt_alone(tiny: Loaded) -> None:
    one = sample(1, prompt="Who built it?", response="Ann")
    view, learnt = unaided(one, CHUNK, tiny), chunk_in_context(one, CHUNK, tiny)
    assert (view.student_ids, view.student_mask) == (learnt.student_ids, learnt.student_mask)
    assert teacher_side(view) == (learnt.student_ids, learnt.student_mask)


def test_what_does_not_fit_in_the_context_is_left_out_at_the_end(tiny: Loaded) -> None:
    one = sample(1, prompt="Who built it?", response="Ann of Oslo")
    for view in (instruction_first, response_alone, chunk_in_context):
        whole = view(one, CHUNK, tiny)
        longest = max(len(whole.student_ids), len(whole.teacher_ids or []))
        for less in (0, 1, 3):
            cut = view(one, CHUNK, cast(Loaded, replace(tiny, base=replace(tiny.base, context=longest - less))))
            assert cut.student_ids == whole.student_ids[: len(whole.student_ids) - less]
        beginning = whole.student_mask.index(True)
        none = view(one, CHUNK, cast(Loaded, replace(tiny, base=replace(tiny.base, context=2))))
        assert none.student_ids == whole.student_ids[:beginning]
        assert not any(none.student_mask)


def test_the_objectives_that_differ_in_a_number_or_a_task() -> None:
    found = {
        name: (getattr(one, "tasks", None), getattr(one, "renews", None), getattr(one, "share", None))
        for name, one in OBJECTIVES.items()
    }
    assert found == {
        "dcd": ((), False, 1.0),
        "sdcd": (("summary",), False, 1.0),
        "ddcd": (None, None, None),
        "lm": (None, None, None),
        "sft": ((), False, 1.0),
        "pit": ((), False, 1.0),
        "skd": ((), True, 1.0),
        "keep": ((), False, 0.25),
    }
    assert (getattr(OBJECTIVES["ddcd"], "context", None), getattr(OBJECTIVES["lm"], "context", None)) == (0.5, 0.0)


def test_fine_tuning_scores_the_response_and_its_end_without_a_teacher(tiny: Loaded) -> None:
    one = sample(1, prompt="Who built it?", response="Ann")
    view, learnt = response_alone(one, CHUNK, tiny), chunk_in_context(one, CHUNK, tiny)
    assert (view.teacher_ids, view.teacher_mask) == (None, None)
    assert (view.student_ids, view.student_mask) == (learnt.student_ids, learnt.student_mask)


def test_pre_instruction_tuning_scores_all_after_the_prompt(tiny: Loaded) -> None:
    view = instruction_first(sample(1, prompt="Who built it?", response="Ann"), CHUNK, tiny)
    prompt = "<|im_start|>user\nWho built it?<|im_end|>\n<|im_start|>assistant\n"
    assert view.teacher_ids is None
    assert tiny.tokenizer.decode(view.student_ids) == f"{prompt}Ann<|im_end|>{CHUNK}"
    assert tiny.tokenizer.decode(on(view.student_ids, view.student_mask)) == f"Ann<|im_end|>{CHUNK}"


def test_the_student_reads_the_second_part_of_a_window(tiny: Loaded) -> None:
    view = second_part(Window([11, 12, 13, 14, 15], 40, 2), tiny)
    assert teacher_side(view) == ([11, 12, 13, 14, 15], [False, False, False, True, True])
    assert (view.student_ids, view.student_mask) == ([13, 14, 15], [False, True, True])
    view = whole_window(Window([11, 12, 13], 40, 0), tiny)
    assert (view.student_ids, view.student_mask) == ([11, 12, 13], [False, True, True])
    assert view.teacher_ids is None


def test_windows_begin_as_the_tokenizer_begins_a_text(tiny: Loaded) -> None:
    class Opening:
        chat_template, eos_token_id = "", 2

        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
            ids = list(tiny.tokenizer(text, add_special_tokens=False)["input_ids"])
            return {"input_ids": [0, *ids] if add_special_tokens else ids}

    opened = replace(tiny, tokenizer=cast(Any, Opening()))
    assert (opening_size(opened), opening_size(tiny)) == (1, 0)
    view = second_part(Window([11, 12, 13, 14], 40, 2), opened)
    assert teacher_side(view) == ([0, 11, 12, 13, 14], [False, False, False, False, True])
    assert (view.student_ids, view.student_mask) == ([0, 13, 14], [False, False, True])


@pytest.mark.parametrize("plain", [[9], []])
def test_windows_of_a_tokenizer_that_says_a_text_otherwise_begin_with_nothing(tiny: Loaded, plain: list[int]) -> None:
    class Otherwise:
        chat_template, eos_token_id = "", 2

        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
            return {"input_ids": [7, 8] if add_special_tokens else plain}

    assert opening_size(replace(tiny, tokenizer=cast(Any, Otherwise()))) == 0


# --- windows ---

NUMBERS = st.lists(st.integers(0, 50), max_size=120)


@given(NUMBERS, st.integers(4, 20), st.integers(0, 3), st.integers(1, 4), st.integers(0, 9))
@settings(max_examples=150)
def test_windows_predict_the_whole_document_in_every_round(
    ids: list[int], size: int, quarters: int, rounds: int, seed: int
) -> None:
    context = size * quarters // 4
    if size - context < 2:
        return
    stretch = range(len(ids) // 5, len(ids))
    made = windows(ids, stretch, size, context, rounds, seed)
    predicted: Counter[int] = Counter()
    for window in made:
        assert window.ids == ids[window.start : window.start + len(window.ids)]
        assert 2 <= len(window.ids) <= size
        assert window.part <= context
        assert window.start >= stretch.start
        assert (window.part > 0) == (context > 0)
        predicted.update(range(window.start + window.part + 1, window.start + len(window.ids)))
    expected = range(stretch.start + (2 if context else 1), stretch.stop)
    assert predicted == Counter(dict.fromkeys(expected, rounds))
    assert made == windows(ids, stretch, size, context, rounds, seed)


def test_windows_begin_all_over_the_document() -> None:
    starts = {window.start + window.part for window in windows(range(1000), range(1000), 100, 50, 16, 0)}
    assert len(starts) > 200
    assert len(starts & set(range(900, 1000))) > 10
    assert len(starts & set(range(2, 100))) > 10
    assert windows(range(1000), range(1000), 100, 50, 1, 0) != windows(range(1000), range(1000), 100, 50, 1, 1)
    with pytest.raises(ValueError, match="room for two tokens"):
        windows(range(9), range(9), 5, 4, 1, 0)


@given(NUMBERS, st.integers(2, 20), st.floats(0, 1), st.integers(0, 9))
@settings(max_examples=150)
def test_no_token_is_both_held_out_and_trained_on(ids: list[int], size: int, share: float, seed: int) -> None:
    taught, held = split(ids, size, share, seed)
    places = [place for stretch in (*taught, *held) for place in stretch]
    assert len(places) == len(set(places))
    assert all(len(window) == size for window in held)
    left = set(range(len(ids))) - set(places)
    assert all(place - 1 not in left and place + 1 not in left for place in left)  # one token predicts nothing
    for stretch in taught:
        for window in windows(ids, stretch, max(4, size), 1, 2, seed):
            mine = set(range(window.start, window.start + len(window.ids)))
            assert not mine & {place for one in held for place in one}


def test_the_share_held_out_by_value() -> None:
    ids = [number * 7 % 1009 for number in range(20_000)]
    assert split(ids, 20, 0.0, 0) == ([range(20_000)], [])
    held = split(ids, 20, 0.1, 0)[1]
    assert 70 <= len(held) <= 130
    assert held != split(ids, 20, 0.1, 1)[1]
    assert split(ids, 20, 1.0, 0)[0] == []
    assert set(held) <= set(split(ids + ids[:40], 20, 0.1, 0)[1])  # text that comes later moves nothing


# --- any text ---

WIDE = {"max_examples": 60, "deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@given(st.text(max_size=400), st.integers(8, 40))
@settings(**WIDE)
def test_any_document_s_windows_score_the_same_and_fit(tiny: Loaded, text: str, size: int) -> None:
    ids = list(tiny.tokenizer(text, add_special_tokens=False)["input_ids"])
    for window in windows(ids, range(len(ids)), size, size // 2, 2, 0):
        view = second_part(window, tiny)
        assert on(*teacher_side(view)) == on(view.student_ids, view.student_mask)
        assert len(teacher_side(view)[0]) <= size
        assert view.student_ids == teacher_side(view)[0][window.part :]
        assert view.student_mask == teacher_side(view)[1][window.part :]


@given(st.text(max_size=60), st.text(max_size=900), st.text(max_size=900))
@settings(**WIDE)
def test_any_sample_fits_the_base_s_context(tiny: Loaded, prompt: str, response: str, chunk: str) -> None:
    small = replace(tiny, base=replace(tiny.base, context=400))
    one = replace(sample(1), prompt=prompt, response=response)
    view = instruction_first(one, chunk, small)
    assert len(view.student_ids) <= 400
    assert not any(view.student_mask[: len(small.chat_ids([("user", prompt)]))])
    view = chunk_in_context(one, chunk[:100], small)
    assert on(*teacher_side(view)) == on(view.student_ids, view.student_mask)
    assert len(teacher_side(view)[0]) <= max(400, len(teacher_side(view)[0]) - sum(view.student_mask))


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=80))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_scores_the_same_ids_on_both_sides(tiny: Loaded, prompt: str, response: str, chunk: str) -> None:
    view = chunk_in_context(replace(sample(1), prompt=prompt, response=response), chunk, tiny)
    assert on(*teacher_side(view)) == on(view.student_ids, view.student_mask)
    assert on(view.student_ids, view.student_mask)[-1] == tiny.end_ids[0]


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (([1, 2], [1, 2], [False, True], [False]), "student: 2 ids but 1 mask entries"),
        (([1, 2], [1, 2], [False], [False, True]), "teacher: 2 ids but 1 mask entries"),
        (([1, 2, 3], [1, 2], [False, False, True], [False, True]), "scored on different tokens"),
        (([1, 2, 2], [1, 2], [False, True, True], [False, True]), "scored on different tokens"),
        (([1, 2], [2], [False, True], [True]), "student: the first token has no position that predicts it"),
        (([2], [1, 2], [True], [False, True]), "teacher: the first token has no position that predicts it"),
        (([1, 2], [1, 2], None, [False, True]), "both the teacher's ids and mask, or neither"),
        ((None, [1, 2], [False, True], [False, True]), "both the teacher's ids and mask, or neither"),
    ],
)
def test_a_view_refuses_what_does_not_match(view: tuple[object, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        View(*view)  # type: ignore[arg-type]


def test_a_view_needs_no_teacher() -> None:
    assert View(None, [1, 2], None, [False, True]).teacher_ids is None
