"""Views: who reads what, and that what is scored is predicted from where it should be."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmcli.bases import Loaded
from kmcli.objectives import OBJECTIVES
from kmcli.objectives.views import chunk_in_context
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


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=80))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
