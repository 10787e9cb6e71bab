"""The forward divergence by a summary of the teacher's predictions: the numbers that their logits give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from kmcli.bases import Loaded
from kmcli.objectives import OBJECTIVES, fused
from kmcli.objectives.losses import divergence
from kmcli.objectives.predicted import Predicted, forward_kl, summary
from kmcli.training import summaries
from kmcli.training.mixture import Mixture, Part
from kmcli.training.summaries import Summaries, worth_it
from kmcli.training.teacher import Teacher
from kmcli.types import Recipe
from training_cases import (  # noqa: F401
    RECIPE,
    Run,
    make_tiny,
    one_thread,
    run,
    student,
    tiny,
    views,
)


def head_of(bias: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    weight = 0.5 * torch.randn(50, 8, generator=generator)
    shift = torch.randn(50, generator=generator) if bias else None
    return lambda states: torch.nn.functional.linear(
        states, weight.to(states.dtype), None if shift is None else shift.to(states.dtype)
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("count", [1, 3, 64])
@pytest.mark.parametrize("size", [150, 1 << 20])
def test_value_and_gradient_are_those_of_the_logits(
    monkeypatch: pytest.MonkeyPatch, bias: bool, count: int, size: int
) -> None:
    monkeypatch.setattr(fused, "ELEMENTS", {"cpu": size})  # 150: slices of three tokens
    head = head_of(bias)
    teacher = torch.randn(count, 8, generator=torch.Generator().manual_seed(5))
    own = (teacher + torch.randn(count, 8, generator=torch.Generator().manual_seed(6))).requires_grad_()
    exact = own.detach().double().requires_grad_()
    wanted = divergence(head(teacher.double()), head(exact), "forward")
    (2 * wanted).backward()
    known = Predicted(teacher[None], *summary(teacher, head))
    value = forward_kl(known, own, head)
    (2 * value).backward()
    assert value.item() == pytest.approx(wanted.item(), rel=1e-5, abs=1e-6)
    assert own.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(own.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        assert forward_kl(known, own, head).item() == pytest.approx(wanted.item(), rel=1e-5, abs=1e-6)


def test_a_student_that_is_its_teacher_has_no_loss_and_no_gradient() -> None:
    head = head_of(True)
    states = 5 * torch.randn(20, 8, generator=torch.Generator().manual_seed(7))
    own = states.clone().requires_grad_()
    value = forward_kl(Predicted(states[None], *summary(states, head)), own, head)
    value.backward()
    assert value.item() == 0.0
    assert own.grad is not None
    assert own.grad.abs().max().item() == 0.0


def test_no_tokens_no_loss() -> None:
    own = torch.zeros(0, 8, requires_grad=True)
    none = Predicted(torch.zeros(2, 0, 8), torch.zeros(0, 8), torch.zeros(0))
    value = forward_kl(none, own, head_of(False))
    value.backward()
    assert value.item() == 0.0


def test_a_training_by_summaries_is_the_same_training(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    made: list[int] = []
    inner = Summaries.targets

    def watched(self: Summaries, indices: Any) -> Predicted:
        made.append(len(indices))
        return inner(self, indices)

    monkeypatch.setattr(Summaries, "targets", watched)
    by_summaries, adapter = run()
    assert made
    monkeypatch.setattr("kmcli.training.loop.worth_it", lambda *given: False)
    made.clear()
    by_logits, other = run()
    assert not made
    for one, two in zip(by_summaries["curve"], by_logits["curve"], strict=True):
        assert one["kl"] == pytest.approx(two["kl"], rel=1e-4, abs=1e-6)
    assert by_summaries["held_out_loss"] == pytest.approx(by_logits["held_out_loss"], rel=1e-4)
    for name, tensor in adapter.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-2, atol=1e-4)


def test_summaries_are_made_once_and_do_not_depend_on_who_asks_first(
    tiny: Loaded,  # noqa: F811
    student: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(summaries, "TOGETHER", 2)
    some = views(tiny, 5)
    teacher = Teacher(student, tiny, some)
    first, other = Summaries(student, teacher, some), Summaries(student, teacher, some)
    one = first.targets([2, 0, 4])
    other.targets([3])
    monkeypatch.setattr(summaries, "summary", lambda *given: pytest.fail("made twice"))
    two = other.targets([2, 0, 4])
    assert torch.equal(one.mean_ND, two.mean_ND)
    assert torch.equal(one.size_N, two.size_N)
    assert torch.equal(one.states_KND, teacher.targets([2, 0, 4]))
    mean_ND, size_N = summary(one.states_KND[-1], first._head)
    torch.testing.assert_close(one.mean_ND, mean_ND)
    torch.testing.assert_close(one.size_N, size_N)


@pytest.mark.parametrize(
    ("changes", "worth"),
    [({}, True), ({"divergence": "jsd"}, False), ({"divergence": "reverse"}, False), ({"batch": 1}, False)],
)
def test_where_summaries_are_made(tiny: Loaded, student: Any, changes: dict[str, Any], worth: bool) -> None:  # noqa: F811
    recipe, mixture = of_dcd(tiny, changes)
    assert worth_it(student, mixture, recipe, recipe.steps) is worth


def test_where_they_would_be_wrong_or_too_many_none_are_made(
    tiny: Loaded,  # noqa: F811
    student: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, mixture = of_dcd(tiny, {})
    monkeypatch.setattr(student.get_base_model().config, "final_logit_softcapping", 30.0, raising=False)
    assert not worth_it(student, mixture, recipe, 8)
    monkeypatch.undo()
    scored = sum(sum(view.student_mask) for view in mixture.views)
    monkeypatch.setattr(summaries, "BYTES", 4 * 65 * scored)
    assert worth_it(student, mixture, recipe, 8)
    monkeypatch.setattr(summaries, "BYTES", 4 * 65 * scored - 1)
    assert not worth_it(student, mixture, recipe, 8)


def of_dcd(tiny: Loaded, changes: dict[str, Any]) -> tuple[Recipe, Mixture]:  # noqa: F811
    recipe = replace(RECIPE, **changes)
    some = views(tiny, 12)
    part = Part("dcd", 1.0, OBJECTIVES["dcd"], range(10), range(10, 12), recipe.batch)
    return recipe, Mixture(some, (part,))
