"""Losses by number: by hand, against a slow reference, at the edges, and their gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kmcli.objectives.losses import distillation, forward_kl, hidden_distance
from kmcli.types import Recipe


def slow_kl(teacher: torch.Tensor, student: torch.Tensor) -> float:
    total = 0.0
    for t_row, s_row in zip(teacher.tolist(), student.tolist(), strict=True):
        t_sum, s_sum = sum(map(math.exp, t_row)), sum(map(math.exp, s_row))
        for t, s in zip(t_row, s_row, strict=True):
            p, q = math.exp(t) / t_sum, math.exp(s) / s_sum
            total += p * math.log(p / q)
    return total / len(teacher)


def slow_distance(teacher: torch.Tensor, student: torch.Tensor) -> float:
    ratios = []
    for t_layer, s_layer in zip(teacher.tolist(), student.tolist(), strict=True):
        pairs = [
            (t, s) for t_row, s_row in zip(t_layer, s_layer, strict=True) for t, s in zip(t_row, s_row, strict=True)
        ]
        ratios.append(sum(abs(t - s) for t, s in pairs) / sum(abs(t) for t, _ in pairs))
    return sum(ratios) / len(ratios)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_kl_by_hand() -> None:
    teacher = torch.tensor([[0.5, 0.5]]).log()
    student = torch.tensor([[0.25, 0.75]]).log()
    assert forward_kl(teacher, student).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert forward_kl(teacher, student).item() == pytest.approx(0.143841, abs=1e-6)
    assert forward_kl(student, teacher).item() == pytest.approx(
        0.130812, abs=1e-6
    )  # the other way round is another number
    both = torch.cat([teacher, teacher]), torch.cat([student, teacher])
    assert forward_kl(*both).item() == pytest.approx(0.143841 / 2, abs=1e-6)  # the mean over tokens


def test_hidden_distance_by_hand() -> None:
    teacher = torch.tensor([[[1.0, -2.0], [3.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])
    student = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])
    assert hidden_distance(teacher, student).item() == pytest.approx((5 / 6 + 0) / 2)
    assert hidden_distance(student, teacher).item() == pytest.approx((5 / 1 + 0) / 2)  # measured in the teacher's size
    assert hidden_distance(10 * teacher, 10 * student).item() == pytest.approx(5 / 12)


@pytest.mark.parametrize("seed", range(3))
def test_they_equal_a_slow_reference(seed: int) -> None:
    teacher, student = numbers(5, 11, seed=seed), numbers(5, 11, seed=seed + 10)
    assert forward_kl(teacher, student).item() == pytest.approx(slow_kl(teacher, student), rel=1e-5)
    teacher, student = numbers(3, 4, 6, seed=seed), numbers(3, 4, 6, seed=seed + 10)
    assert hidden_distance(teacher, student).item() == pytest.approx(slow_distance(teacher, student), rel=1e-5)


def test_equal_sides_give_exactly_zero() -> None:
    logits, states = 30 * numbers(4, 50), 30 * numbers(3, 4, 8)
    assert forward_kl(logits, logits.clone()).item() == 0.0
    assert hidden_distance(states, states.clone()).item() == 0.0
    total, terms = distillation(states, states.clone(), lambda x: x @ numbers(8, 50), Recipe())
    assert total.item() == terms["kl"].item() == terms["hidden"].item() == 0.0


def test_no_tokens_give_zero_and_a_zero_gradient() -> None:
    logits = torch.zeros(0, 7, requires_grad=True)
    states = torch.zeros(2, 0, 5, requires_grad=True)
    total, _ = distillation(torch.zeros(2, 0, 5), states, lambda x: x @ numbers(5, 7), Recipe())
    for loss, leaf in ((forward_kl(torch.zeros(0, 7), logits), logits), (total, states)):
        assert loss.item() == 0.0
        loss.backward()
        assert leaf.grad is not None
        assert leaf.grad.shape == leaf.shape


def test_a_teacher_of_zeros_does_not_divide_by_zero() -> None:
    assert hidden_distance(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)).item() == 0.0
    assert math.isfinite(hidden_distance(torch.zeros(1, 2, 3), torch.ones(1, 2, 3)).item())


@given(st.integers(0, 1000), st.floats(-50, 50), st.integers(1, 4), st.integers(2, 9))
@settings(max_examples=60, deadline=None)
def test_kl_is_never_negative_and_blind_to_a_shift(seed: int, shift: float, tokens: int, vocabulary: int) -> None:
    teacher, student = 3 * numbers(tokens, vocabulary, seed=seed), 3 * numbers(tokens, vocabulary, seed=seed + 1)
    value = forward_kl(teacher, student).item()
    assert value >= -1e-6
    assert forward_kl(teacher + shift, student - shift).item() == pytest.approx(value, abs=1e-3)


def test_bfloat16_is_summed_in_float32() -> None:
    teacher, student = numbers(4, 5000).bfloat16(), numbers(4, 5000, seed=1).bfloat16()
    assert forward_kl(teacher, student).item() == forward_kl(teacher.float(), student.float()).item()
    teacher, student = numbers(2, 4, 500).bfloat16(), numbers(2, 4, 500, seed=1).bfloat16()
    assert hidden_distance(teacher, student).item() == hidden_distance(teacher.float(), student.float()).item()


def test_gradient_of_kl_is_the_difference_of_probabilities() -> None:
    teacher, student = numbers(3, 6), numbers(3, 6, seed=1).requires_grad_()
    forward_kl(teacher, student).backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, (student.detach().softmax(-1) - teacher.softmax(-1)) / 3)


@pytest.mark.parametrize("loss", [forward_kl, hidden_distance])
def test_gradients_equal_finite_differences(loss: object) -> None:
    assert callable(loss)
    shape = (3, 6) if loss is forward_kl else (2, 3, 4)
    teacher, student = numbers(*shape), numbers(*shape, seed=1).requires_grad_()
    loss(teacher, student).backward()
    assert student.grad is not None
    for index in range(student.numel()):
        step = torch.zeros(student.numel())
        step[index] = 2e-3
        up, down = (loss(teacher, student.detach() + sign * step.view(shape)).item() for sign in (1, -1))
        assert student.grad.reshape(-1)[index].item() == pytest.approx((up - down) / 4e-3, abs=1e-3)


def test_distillation_weighs_its_terms_and_reads_the_last_layer_only() -> None:
    teacher, student, head = numbers(3, 4, 8), numbers(3, 4, 8, seed=1), numbers(8, 20, seed=2)
    recipe = Recipe(kl_weight=2.0, hidden_weight=0.5)
    total, terms = distillation(teacher, student, lambda x: x @ head, recipe)
    kl, hidden = forward_kl(teacher[-1] @ head, student[-1] @ head), hidden_distance(teacher, student)
    assert set(terms) == {"kl", "hidden"}
    assert terms["kl"].item() == kl.item()
    assert terms["hidden"].item() == hidden.item()
    assert total.item() == pytest.approx(2 * kl.item() + 0.5 * hidden.item())


def test_only_the_students_states_are_moved() -> None:
    teacher = numbers(2, 3, 4)
    student = numbers(2, 3, 4, seed=1).requires_grad_()
    head = numbers(4, 9, seed=2).requires_grad_()
    distillation(teacher, student, lambda x: x @ head, Recipe(hidden_weight=0.0))[0].backward()
    assert head.grad is None
    assert student.grad is not None
    moved = student.grad.clone()
    student.grad = None
    forward_kl((teacher[-1] @ head).detach(), student[-1] @ head.detach()).backward()
    torch.testing.assert_close(moved, student.grad)
