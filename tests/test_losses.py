"""Losses by number: by hand, against a slow reference, at the edges, and their gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kmcli.objectives.losses import (
    cross_entropy,
    distillation,
    divergence,
    divergence_N,
    hidden_distance,
    hidden_layers,
    kept_layers,
    next_token,
)
from kmcli.types import Divergence, Recipe

KINDS: tuple[Divergence, ...] = ("forward", "reverse", "jsd")


def forward_kl(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    return divergence(teacher, student, "forward")


def distil(
    teacher: torch.Tensor, student: torch.Tensor, head: torch.Tensor, **recipe: object
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """With a head that is a matrix."""
    ids = torch.zeros(student.shape[1], dtype=torch.long)
    return distillation(teacher, student, ids, lambda x: x @ head, Recipe(**recipe))  # type: ignore[arg-type]


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
    total, terms = distil(states, states.clone(), numbers(8, 50))
    assert total.item() == terms["kl"].item() == terms["hidden"].item() == 0.0


def test_no_tokens_give_zero_and_a_zero_gradient() -> None:
    logits = torch.zeros(0, 7, requires_grad=True)
    states = torch.zeros(2, 0, 5, requires_grad=True)
    total, _ = distil(torch.zeros(2, 0, 5), states, numbers(5, 7))
    for loss, leaf in ((forward_kl(torch.zeros(0, 7), logits), logits), (total, states)):
        assert loss.item() == 0.0
        loss.backward()
        assert leaf.grad is not None
        assert leaf.grad.shape == leaf.shape


def test_a_teacher_of_zeros_does_not_divide_by_zero() -> None:
    assert hidden_distance(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)).item() == 0.0
    assert math.isfinite(hidden_distance(torch.zeros(1, 2, 3), torch.ones(1, 2, 3)).item())


@given(st.integers(0, 1000), st.floats(-50, 50), st.integers(1, 4), st.integers(2, 9))
@settings(max_examples=60)
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


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_divergences_equal_finite_differences(kind: Divergence) -> None:
    teacher, student = numbers(3, 6).double(), numbers(3, 6, seed=1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: divergence(teacher, x, kind), (student,))
    assert torch.autograd.gradcheck(lambda x: divergence_N(teacher, x, kind), (student,))


def test_gradients_of_the_others_equal_finite_differences() -> None:
    teacher, student = numbers(2, 3, 4).double(), numbers(2, 3, 4, seed=1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: hidden_distance(teacher, x), (student,))
    logits, ids = numbers(3, 6).double().requires_grad_(), torch.tensor([5, 0, 2])
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, ids), (logits,))


def slow_jsd(teacher: torch.Tensor, student: torch.Tensor) -> float:
    p, q = teacher.softmax(-1), student.softmax(-1)
    middle = ((p + q) / 2).log()
    return (slow_kl(teacher, middle) + slow_kl(student, middle)) / 2


def test_reverse_and_jsd_by_hand() -> None:
    teacher, student = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert divergence(teacher, student, "reverse").item() == pytest.approx(0.130812, abs=1e-6)
    # middle 0.375, 0.625: half of 0.5 ln(4/3) + 0.5 ln(4/5) and of 0.25 ln(2/3) + 0.75 ln(6/5)
    assert divergence(teacher, student, "jsd").item() == pytest.approx(0.033822, abs=1e-6)
    certain, other = torch.tensor([[60.0, 0.0]]), torch.tensor([[0.0, 60.0]])
    assert divergence(certain, other, "jsd").item() == pytest.approx(math.log(2))
    assert divergence(certain, other, "forward").item() == pytest.approx(60)


@pytest.mark.parametrize("seed", range(3))
def test_every_divergence_equals_a_slow_reference(seed: int) -> None:
    teacher, student = 2 * numbers(5, 11, seed=seed), 2 * numbers(5, 11, seed=seed + 10)
    slow = {
        "forward": slow_kl(teacher, student),
        "reverse": slow_kl(student, teacher),
        "jsd": slow_jsd(teacher, student),
    }
    assert len({round(value, 3) for value in slow.values()}) == 3
    for kind in KINDS:
        assert divergence(teacher, student, kind).item() == pytest.approx(slow[kind], rel=1e-5)
        parts = torch.cat([divergence_N(teacher[:2], student[:2], kind), divergence_N(teacher[2:], student[2:], kind)])
        assert parts.mean().item() == pytest.approx(slow[kind], rel=1e-5)
        assert divergence(teacher, teacher.clone(), kind).item() == pytest.approx(0.0, abs=1e-7)


@given(st.integers(0, 1000), st.floats(0.1, 40), st.integers(1, 4), st.integers(2, 9))
@settings(max_examples=60)
def test_the_divergences_keep_their_bounds(seed: int, scale: float, tokens: int, vocabulary: int) -> None:
    teacher, student = (
        scale * numbers(tokens, vocabulary, seed=seed),
        scale * numbers(tokens, vocabulary, seed=seed + 1),
    )
    there, back = (divergence_N(*pair, "jsd") for pair in ((teacher, student), (student, teacher)))
    torch.testing.assert_close(there, back, rtol=1e-4, atol=1e-5)
    assert (there >= -1e-5).all()
    assert (there <= math.log(2) + 1e-5).all()
    forward, reverse = divergence_N(teacher, student, "forward"), divergence_N(student, teacher, "reverse")
    assert torch.equal(forward, reverse)
    assert (forward >= 2 * there * there - 1e-4).all()  # Pinsker, as JSD is at most the total variation
    assert (forward >= -1e-5).all()


def test_forward_wants_all_that_is_likely_and_reverse_only_what_is() -> None:
    two_ways = torch.tensor([[4.0, 4.0, -4.0]])
    covers, chooses = torch.tensor([[4.0, 4.0, 4.0]]), torch.tensor([[8.0, -4.0, -12.0]])
    assert divergence(two_ways, covers, "forward") < divergence(two_ways, chooses, "forward")
    assert divergence(two_ways, chooses, "reverse") < divergence(two_ways, covers, "reverse")
    assert divergence(two_ways, chooses, "reverse").item() == pytest.approx(math.log(2), abs=1e-3)


def test_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    assert cross_entropy(logits, torch.tensor([0, 1])).item() == pytest.approx((math.log(4) + math.log(2)) / 2)
    states = torch.stack([numbers(4, 8), numbers(4, 8, seed=1)])
    ids, head = torch.tensor([3, 1, 0, 2]), numbers(8, 5, seed=2)
    total, terms = next_token(None, states, ids, lambda x: x @ head, Recipe())
    expected = torch.nn.functional.cross_entropy(states[-1] @ head, ids)
    assert total.item() == terms["cross_entropy"].item() == pytest.approx(expected.item())
    nothing = torch.zeros(0, 5, requires_grad=True)
    loss = cross_entropy(nothing, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0.0
    assert nothing.grad is not None


@pytest.mark.parametrize("kind", KINDS)
def test_no_tokens_give_zero_by_every_divergence(kind: Divergence) -> None:
    nothing = torch.zeros(0, 5, requires_grad=True)
    loss = divergence(torch.zeros(0, 5), nothing, kind)
    loss.backward()
    assert loss.item() == 0.0


def test_layers_by_name_and_number() -> None:
    assert hidden_layers("all", 4) == [0, 1, 2, 3]
    assert hidden_layers("last", 4) == [3]
    assert hidden_layers("even", 5) == [0, 2, 4]
    assert hidden_layers("3,0,3", 4) == [0, 3]
    with pytest.raises(ValueError, match="there is no layer 4: the base has 4, counted from 0"):
        hidden_layers("0,4", 4)
    for nonsense in ("", "odd", "-1", "1,", "1.5", "1, 2"):
        with pytest.raises(ValueError, match="hidden_layers must be"):
            hidden_layers(nonsense, 4)


def test_the_recipe_chooses_divergence_and_layers() -> None:
    teacher, student, head = numbers(4, 3, 8), numbers(4, 3, 8, seed=1), numbers(8, 20, seed=2)
    _, terms = distil(teacher[[0, 2, 3]], student, head, hidden_layers="0,2", divergence="jsd")
    assert terms["hidden"].item() == pytest.approx(hidden_distance(teacher[[0, 2]], student[[0, 2]]).item())
    assert terms["jsd"].item() == divergence(teacher[-1] @ head, student[-1] @ head, "jsd").item()
    total, terms = distil(teacher[[3]], student, head, hidden_weight=0.0, divergence="reverse")
    assert set(terms) == {"kl"}
    assert total.item() == divergence(teacher[-1] @ head, student[-1] @ head, "reverse").item()
    with pytest.raises(ValueError, match="no teacher"):
        distillation(None, student, torch.zeros(3, dtype=torch.long), lambda x: x @ head, Recipe())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_trained_by_is_the_divergence_that_the_recipe_names(kind: Divergence) -> None:
    teacher, head = numbers(1, 3, 8), numbers(8, 20, seed=2)
    student = numbers(1, 3, 8, seed=1).requires_grad_()
    total, _ = distil(teacher, student, head, hidden_weight=0.0, divergence=kind)
    wanted = divergence(teacher[-1] @ head, student[-1] @ head, kind)
    found, own = (torch.autograd.grad(one, student)[0] for one in (total, wanted))
    torch.testing.assert_close(found, own, atol=1e-6, rtol=1e-5)
    assert own.abs().max().item() > 0.01


def test_which_layers_of_the_teacher_are_needed() -> None:
    assert kept_layers(Recipe(), 4) == [0, 1, 2, 3]
    assert kept_layers(Recipe(hidden_layers="even"), 4) == [0, 2, 3]
    assert kept_layers(Recipe(hidden_layers="1,3"), 4) == [1, 3]
    assert kept_layers(Recipe(hidden_layers="last"), 4) == [3]
    assert kept_layers(Recipe(hidden_layers="9", hidden_weight=0.0), 4) == [3]
    with pytest.raises(ValueError, match="no layer 9"):
        kept_layers(Recipe(hidden_layers="9"), 4)


def test_distillation_weighs_its_terms_and_reads_the_last_layer_only() -> None:
    teacher, student, head = numbers(3, 4, 8), numbers(3, 4, 8, seed=1), numbers(8, 20, seed=2)
    total, terms = distil(teacher, student, head, kl_weight=2.0, hidden_weight=0.5)
    kl, hidden = forward_kl(teacher[-1] @ head, student[-1] @ head), hidden_distance(teacher, student)
    assert set(terms) == {"kl", "hidden"}
    assert terms["kl"].item() == kl.item()
    assert terms["hidden"].item() == hidden.item()
    assert total.item() == pytest.approx(2 * kl.item() + 0.5 * hidden.item())


def test_only_the_students_states_are_moved() -> None:
    teacher = numbers(2, 3, 4)
    student = numbers(2, 3, 4, seed=1).requires_grad_()
    head = numbers(4, 9, seed=2).requires_grad_()
    distil(teacher, student, head, hidden_weight=0.0)[0].backward()
    assert head.grad is None
    assert student.grad is not None
    moved = student.grad.clone()
    student.grad = None
    forward_kl((teacher[-1] @ head).detach(), student[-1] @ head.detach()).backward()
    torch.testing.assert_close(moved, student.grad)
