"""The loss in slices is the loss, and so is its gradient."""

# ruff: noqa: F401 (imported fixtures)

from __future__ import annotations

from functools import partial

import pytest
import torch

from kmcli.objectives import fused
from kmcli.objectives.losses import divergence
from kmcli.types import Divergence
from training_cases import one_thread, tiny

# --- the loss in slices ---


KINDS: list[tuple[Divergence, fused.Gradient | None]] = [
    ("forward", None),
    ("forward", fused.forward_kl),
    ("reverse", None),
    ("jsd", None),
]


@pytest.mark.parametrize(("kind", "gradient"), KINDS)
@pytest.mark.parametrize("count", [0, 1, 6, 7, 13])
def test_slices_give_the_mean_and_its_gradient(
    monkeypatch: pytest.MonkeyPatch, count: int, kind: Divergence, gradient: fused.Gradient | None
) -> None:
    function = partial(divergence, kind=kind)
    monkeypatch.setattr(fused, "ELEMENTS", {"cpu": 40 * 3})
    generator = torch.Generator().manual_seed(0)
    head = torch.randn((8, 40), generator=generator)
    teacher = torch.randn((count, 8), generator=generator)
    ours, theirs = (torch.randn((count, 8), generator=generator.manual_seed(1)).requires_grad_() for _ in range(2))
    mine = fused.mean(function, teacher, ours, lambda states: states @ head, gradient)
    plain = function(teacher @ head, theirs @ head)
    (3 * mine).backward()
    (3 * plain).backward()
    torch.testing.assert_close(mine, plain)
    torch.testing.assert_close(ours.grad, theirs.grad)
    with torch.no_grad():
        torch.testing.assert_close(fused.mean(function, teacher, ours, lambda states: states @ head), plain)


def test_a_slices_logits_stay_small() -> None:
    """A third of a million words on a processor: three tokens at a time; and one, where not even that is small."""
    states = torch.zeros((7, 1))
    for words, tokens in (((1 << 20) // 3, 3), (1 << 21, 1)):
        found = list(fused.slices(states, lambda some, words=words: some.expand(-1, words)))  # type: ignore[misc]
        assert [(part.start, part.stop) for part, _ in found] == [(at, at + tokens) for at in range(0, 7, tokens)]
        assert [share for _, share in found] == [min(tokens, 7 - at) / 7 for at in range(0, 7, tokens)]


def test_the_simpler_gradient_is_exact_where_sides_are_close_and_far() -> None:
    teacher = torch.randn((5, 300), generator=torch.Generator().manual_seed(2)) * 8
    for own in (teacher.clone(), teacher + 50, teacher + 0.01 * teacher.roll(1, -1), -teacher):
        value, moved = fused.forward_kl(teacher, own)
        exact = own.double().requires_grad_()
        wanted = forward_kl_in_double(teacher.double(), exact)
        (gradient,) = torch.autograd.grad(wanted, exact)
        assert value.item() == pytest.approx(wanted.item(), rel=1e-4, abs=1e-5)
        torch.testing.assert_close(moved.double(), gradient, rtol=1e-4, atol=1e-7)
    assert fused.forward_kl(teacher, teacher.clone())[0].item() == 0.0


def forward_kl_in_double(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    difference = teacher.log_softmax(-1) - student.log_softmax(-1)
    return (teacher.softmax(-1) * difference).sum(-1).mean()
