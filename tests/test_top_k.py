"""Predictions kept as k tokens and a tail: by hand, against a slow reference, at the edges, and their gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kmcli.objectives import fused, losses
from kmcli.objectives.losses import distillation
from kmcli.objectives.top_k import TopK, divergence, divergence_N, forward_kl, top_k, unpacked
from kmcli.types import Divergence, Recipe

KINDS: tuple[Divergence, ...] = ("forward", "reverse", "jsd")


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def slow(teacher: torch.Tensor, student: torch.Tensor, k: int, kind: Divergence) -> float:
    """Plain Python on probabilities: the k likeliest of the teacher, and one event for the others."""
    total = 0.0
    for t_row, s_row in zip(teacher.softmax(-1).tolist(), student.softmax(-1).tolist(), strict=True):
        order = sorted(range(len(t_row)), key=lambda i: -t_row[i])
        p, q = ([row[i] for i in order[:k]] + [sum(row[i] for i in order[k:])] for row in (t_row, s_row))

        def kl(a: list[float], b: list[float]) -> float:
            return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x)

        middle = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
        total += {"forward": kl(p, q), "reverse": kl(q, p), "jsd": (kl(p, middle) + kl(q, middle)) / 2}[kind]
    return total / len(teacher)


def test_by_hand() -> None:
    """Teacher 1/2, 1/4, 1/8, 1/8; student 1/4 each; k = 1: 1/2 and 1/2 against 1/4 and 3/4."""
    teacher, student = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log(), torch.zeros(1, 4)
    kept = top_k(teacher, 1)
    assert kept.indices.tolist() == [[0]]
    assert kept.log_probs.exp().tolist() == [[pytest.approx(0.5), pytest.approx(0.5)]]
    forward = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    reverse = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert divergence(kept, student, "forward").item() == pytest.approx(forward, abs=1e-6)
    assert divergence(kept, student, "reverse").item() == pytest.approx(reverse, abs=1e-6)
    two = top_k(teacher, 2)  # 1/2, 1/4 and a tail of 1/4 against 1/4, 1/4 and 1/2
    assert two.indices.tolist() == [[0, 1]]
    assert divergence(two, student, "forward").item() == pytest.approx(0.5 * math.log(2) - 0.25 * math.log(2), abs=1e-6)
    middle = [0.375, 0.25, 0.375]
    jsd = sum(
        a * math.log(a / m) + b * math.log(b / m)
        for a, b, m in zip((0.5, 0.25, 0.25), (0.25, 0.25, 0.5), middle, strict=True)
    )
    assert divergence(two, student, "jsd").item() == pytest.approx(jsd / 2, abs=1e-6)


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(2, 12), st.integers(1, 12), st.integers(0, 999), st.sampled_from(KINDS))
def test_equals_the_slow_reference(count: int, vocabulary: int, k: int, seed: int, kind: Divergence) -> None:
    teacher, student = numbers(count, vocabulary, seed=seed), numbers(count, vocabulary, seed=seed + 1)
    found = divergence(top_k(teacher, k), student, kind).item()
    assert found == pytest.approx(slow(teacher, student, k, kind), abs=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_all_tokens_are_the_whole_divergence(kind: Divergence) -> None:
    teacher, student = numbers(4, 9), numbers(4, 9, seed=1)
    whole = losses.divergence_N(teacher, student, kind)
    for k in (9, 50):  # fewer tokens than k: all of them
        torch.testing.assert_close(divergence_N(top_k(teacher, k), student, kind), whole, atol=1e-6, rtol=1e-5)
    coarse = divergence_N(top_k(teacher, 3), student, kind)
    assert bool((coarse <= whole + 1e-6).all())  # of events put together no divergence grows
    assert bool((coarse < whole).any())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 4, 9])
def test_a_student_that_agrees_has_no_loss(kind: Divergence, k: int) -> None:
    logits = numbers(5, 9).requires_grad_()
    kept = top_k(logits.detach(), k)
    value = divergence(kept, logits, kind)
    assert value.item() == pytest.approx(0, abs=1e-7)
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient.abs().max().item() < 1e-7
    elsewhere = logits.detach().clone()
    for row, indices in zip(elsewhere, kept.indices, strict=True):  # how the tail is shared out is the student's affair
        tail = torch.ones(9, dtype=torch.bool).scatter(-1, indices, False)
        row[tail] = row[tail].flip(0)
    assert divergence(kept, elsewhere, kind).item() == pytest.approx(0, abs=1e-7)
    assert torch.equal(elsewhere, logits) == (k == 9)


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows(kind: Divergence) -> None:
    student = numbers(0, 7).requires_grad_()
    value = divergence(top_k(numbers(0, 7), 3), student, kind)
    assert value.item() == 0.0
    assert torch.autograd.grad(value, student)[0].shape == (0, 7)
    states = torch.zeros(1, 0, 4, requires_grad=True)
    empty = TopK(torch.zeros(0, 3, dtype=torch.long), torch.zeros(0, 4))
    loss, terms = distillation(
        empty, states, torch.zeros(0, dtype=torch.long), lambda x: x @ numbers(4, 7), Recipe(divergence=kind)
    )
    assert loss.item() == 0.0
    assert set(terms) == {"jsd" if kind == "jsd" else "kl"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 3, 6])
def test_gradients_by_finite_differences(kind: Divergence, k: int) -> None:
    kept = top_k(numbers(2, 6).double(), k)
    student = numbers(2, 6, seed=3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: divergence(kept, values, kind), student, eps=1e-6, atol=1e-6)


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(2, 12), st.integers(1, 12), st.integers(0, 999))
def test_the_forward_gradient_is_torchs(count: int, vocabulary: int, k: int, seed: int) -> None:
    kept, student = top_k(numbers(count, vocabulary, seed=seed), k), numbers(count, vocabulary, seed=seed + 1)
    student.requires_grad_()
    slow_value = divergence(kept, student, "forward")
    (slow_gradient,) = torch.autograd.grad(slow_value, student)
    value, gradient = forward_kl(kept, student.detach())
    assert value.item() == pytest.approx(slow_value.item(), abs=1e-6)
    torch.testing.assert_close(gradient, slow_gradient, atol=1e-6, rtol=1e-5)


def test_a_student_that_is_certain_of_another_token() -> None:
    """Its tail has no probability in these numbers: the loss is large, and both it and its gradient are numbers."""
    kept = top_k(torch.tensor([[0.0, 0.0, 0.0, 0.0]]), 1)
    student = torch.full((1, 4), -300.0)
    student[0, int(kept.indices)] = 300.0
    value, gradient = forward_kl(kept, student)
    assert math.isfinite(value.item())
    assert value.item() > 50
    assert bool(gradient.isfinite().all())
    own = student.clone().requires_grad_()
    for kind in KINDS:
        (moved,) = torch.autograd.grad(divergence(kept, own, kind), own)
        assert bool(moved.isfinite().all())


def test_kept_in_half_the_numbers() -> None:
    kept = top_k(numbers(5, 70_000), 16)
    assert int(kept.indices.max()) > 65_536  # more than a 16-bit index holds
    packed = kept.packed()
    assert (packed.shape, packed.dtype) == ((1, 5, 3 * 16 + 1), torch.float16)
    again = unpacked(packed)
    assert torch.equal(again.indices, kept.indices)
    torch.testing.assert_close(again.log_probs, kept.log_probs, atol=6e-3, rtol=1e-3)
    torch.testing.assert_close(again.log_probs.exp().sum(-1), torch.ones(5), atol=1e-6, rtol=0)
    whole = unpacked(top_k(numbers(2, 6), 6).packed())  # no tail
    assert whole.log_probs[:, -1].exp().tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_slices_add_up(kind: Divergence, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of training, whose logits are made a few tokens at a time, equals the function on all of them."""
    monkeypatch.setattr(fused, "ELEMENTS", {"cpu": 2 * 30})
    head, states = numbers(8, 30, seed=5), numbers(1, 7, 8, seed=6).requires_grad_()
    kept = top_k(numbers(7, 30), 4)
    recipe = Recipe(divergence=kind, kl_weight=0.5, hidden_weight=1.0)  # which has no say here
    loss, terms = distillation(kept, states, torch.zeros(7, dtype=torch.long), lambda x: x @ head, recipe)
    plain = divergence(kept, states[-1] @ head, kind)
    assert loss.item() == pytest.approx(0.5 * plain.item(), rel=1e-5)
    assert list(terms) == ["jsd" if kind == "jsd" else "kl"]
    (gradient,) = torch.autograd.grad(loss, states)
    (expected,) = torch.autograd.grad(0.5 * plain, states)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4)
    with torch.no_grad():
        again, _ = distillation(kept, states, torch.zeros(7, dtype=torch.long), lambda x: x @ head, recipe)
    assert again.item() == pytest.approx(loss.item(), rel=1e-5)
