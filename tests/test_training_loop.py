"""The loop: divergence, early stopping, the learning rate and the batches."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from kmcli.adapters import lora
from kmcli.bases import Loaded
from kmcli.errors import KmError
from kmcli.objectives import OBJECTIVES, OfSamples
from kmcli.objectives.losses import distillation
from kmcli.objectives.views import chunk_in_context
from kmcli.training import checkpoint, loop, schedule, train
from kmcli.training.schedule import batch_of, learning_rate_factor
from kmcli.types import Event, Recipe, View, silent
from training_cases import CHUNKS, RECIPE, Run, one_thread, plain, run, same, sample, samples, tiny

# --- divergence ---


def exploding(at: int, value: Callable[[torch.Tensor], torch.Tensor]) -> OfSamples:
    calls = 0

    def loss(*given: Any) -> Any:
        nonlocal calls
        total, terms = distillation(*given)
        calls += torch.is_grad_enabled()
        return (value(total) if calls == at else total), terms

    return OfSamples(chunk_in_context, loss)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(lambda total: total * float("nan"), id="loss"),
        pytest.param(lambda total: total.detach() + (total * 0.0).sqrt(), id="gradient"),
    ],
)
def test_what_is_no_number_stops_and_keeps_the_best(
    tiny: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    monkeypatch.setitem(OBJECTIVES, "dcd", exploding(8, value))
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 5)
    monkeypatch.setattr(schedule, "EVALUATE_EVERY", 5)
    out = tmp_path / "out"
    out.mkdir()
    events: list[Event] = []
    metrics = train(tiny, samples(14), CHUNKS, replace(RECIPE, steps=30), tmp_path, out, events.append)
    assert [event.message for event in events if event.warning] == [
        "training diverged at step 8: the loss is not a number. The adapter of step 5 is kept. "
        "Try a lower learning rate: --restart --set learning_rate=0.003"
    ]
    assert (metrics["steps"], metrics["stopped_early"], metrics["diverged"]) == (7, True, True)
    kept = load_file(tmp_path / checkpoint.CHECKPOINT)
    assert {name.split("/")[0] for name in kept} == {"parameter", "best", "step", "exp_avg", "exp_avg_sq"}
    assert all(tensor.isfinite().all() for tensor in kept.values())
    best = {name.removeprefix("best/"): value for name, value in kept.items() if name.startswith("best/")}
    assert same(load_file(out / lora.WEIGHTS), plain(best))


def test_what_is_no_number_before_any_measurement_is_an_error(
    tiny: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OBJECTIVES, "dcd", exploding(3, lambda total: total * float("nan")))
    with pytest.raises(KmError) as caught:
        train(tiny, samples(14), CHUNKS, replace(RECIPE, steps=30), tmp_path, tmp_path, silent)
    assert str(caught.value) == (
        "training diverged at step 3: the loss is not a number. "
        "Try a lower learning rate: --restart --set learning_rate=0.003"
    )
    assert caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_a_held_out_loss_that_is_no_number_stops_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_evaluate", lambda *given: float("nan"))
    with pytest.raises(KmError, match="diverged at step 8: the held-out loss is not a number"):
        run(steps=8)


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([1.5, 9.0], "training diverged at step 8: the held-out loss is 9, and before it was "),
        ([9.0], "training diverged at step 4: the held-out loss is 9, and before it was "),
        ([0.01, 0.9, 0.01], ""),  # no more than a base that knows nothing
    ],
)
def test_a_loss_that_grows_beyond_its_beginning_stops(
    run: Run, monkeypatch: pytest.MonkeyPatch, losses: list[float], said: str
) -> None:
    values = iter(losses)
    monkeypatch.setattr(loop, "_evaluate", lambda *given: next(values))
    monkeypatch.setattr(schedule, "EVALUATE_EVERY", 4)
    events: list[Event] = []
    if len(losses) == 1:
        with pytest.raises(KmError) as caught:
            run(steps=12, early_stopping=False, report=events.append)
        assert caught.value.message.startswith(said)
        assert caught.value.hint == "Try a lower learning rate: --restart --set learning_rate=0.003"
        return
    metrics, _ = run(steps=12, early_stopping=False, report=events.append)
    (*told,) = (event.message for event in events if event.warning)
    assert metrics["diverged"] is bool(said)
    assert metrics["held_out_loss"] == (1.5 if said else 0.01)
    assert [one.startswith(said) for one in told] == ([True] if said else [])
    if said:
        assert metrics["curve"][0]["loss"] < 3
        assert "The adapter of step 4 is kept." in told[0]


def test_what_begins_as_another_adapter_is_not_held_against_its_first_batch(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_evaluate", lambda *given: 9.0)
    metrics, _ = run(steps=8, init="mill")
    assert (metrics["diverged"], metrics["held_out_loss"]) == (False, 9.0)


# --- early stopping ---

ASKED_TWICE = [sample(number, chunk=0, response=f"Ann of {number // 2}") for number in range(14)]
"""Two questions for each fact."""


@pytest.fixture
def scripted_losses(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Held-out losses 3, 1, 2, 2.5, 4, ... every two steps; returns the adapters at each, as they come."""
    values = iter([3.0, 1.0, 2.0, 2.5, 4.0, 5.0])
    seen: list[dict[str, torch.Tensor]] = []

    def evaluate(model: Any, *given: Any) -> float:
        seen.append(checkpoint.copy(lora.trainable(model)))
        return next(values)

    monkeypatch.setattr(loop, "_evaluate", evaluate)
    monkeypatch.setattr(schedule, "EVALUATE_EVERY", 2)
    monkeypatch.setattr(schedule, "PATIENCE", 3)
    return seen


def test_early_stopping_brings_back_the_best(run: Run, scripted_losses: list[dict[str, torch.Tensor]]) -> None:
    metrics, adapter = run(ASKED_TWICE, steps=12)
    assert (metrics["steps"], metrics["planned_steps"], metrics["stopped_early"]) == (10, 12, True)
    assert metrics["held_out_loss"] == 1.0
    assert len(scripted_losses) == 5
    assert same(adapter, plain(scripted_losses[1]))
    assert not same(adapter, plain(scripted_losses[4]))


def test_a_loss_on_facts_that_nothing_else_speaks_of_stops_nothing(
    run: Run, scripted_losses: list[dict[str, torch.Tensor]]
) -> None:
    """It grows while the document is learnt, so it is shown and decides nothing."""
    metrics, adapter = run(samples(14), steps=12)
    assert (metrics["steps"], metrics["stopped_early"], metrics["held_out_loss"]) == (12, False, 5.0)
    assert same(adapter, plain(scripted_losses[5]))


def test_without_early_stopping_the_last_step_is_kept(run: Run, scripted_losses: list[dict[str, torch.Tensor]]) -> None:
    metrics, adapter = run(steps=12, early_stopping=False)
    assert (metrics["steps"], metrics["stopped_early"], metrics["held_out_loss"]) == (12, False, 5.0)
    assert same(adapter, plain(scripted_losses[5]))


def test_the_held_out_loss_is_weighted_by_tokens_and_trains_nothing(tiny: Loaded) -> None:
    view = View(None, [1, 2, 3, 4], None, [False, False, False, True])
    long = View(None, [1, 2, 3, 4], None, [False, True, True, True])
    model = lora.build(tiny, RECIPE)

    def loss_of(indices: Any) -> Any:
        assert not torch.is_grad_enabled()
        assert not model.training
        return torch.tensor(float(sum(indices))), {}

    views = [view, view, long, view]
    assert loop._evaluate(model, loss_of, views, range(1, 4), replace(RECIPE, batch=2)) == pytest.approx(
        ((1 + 2) * 4 + 3 * 1) / 5
    )
    assert model.training
    model.unload().eval()


# --- schedule ---


@pytest.mark.parametrize("clip", [0.01, 1e6])
def test_gradients_are_clipped_before_the_optimiser_sees_them(
    run: Run, monkeypatch: pytest.MonkeyPatch, clip: float
) -> None:
    lengths: list[float] = []
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, *given: Any) -> Any:
        found = [one.grad for group in self.param_groups for one in group["params"] if one.grad is not None]
        lengths.append(float(torch.cat([one.reshape(-1) for one in found]).norm()))
        return step(self, *given)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    run(steps=4, held_out=0.0, clip=clip)
    assert len(lengths) == 4
    if clip < 1:
        assert lengths == pytest.approx([clip] * 4, rel=1e-3)
    else:
        assert 0.02 < min(lengths) < max(lengths) < 1e3


def test_the_learning_rate_by_value() -> None:
    cosine, linear = Recipe(schedule="cosine", warmup=0.06), Recipe(schedule="linear", warmup=0.06)
    assert [learning_rate_factor(step, 100, cosine) for step in range(6)] == pytest.approx(
        [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0]
    )
    assert learning_rate_factor(6, 100, cosine) == 1.0
    assert learning_rate_factor(53, 100, cosine) == pytest.approx(0.5)
    assert learning_rate_factor(29, 100, cosine) == pytest.approx(0.5 * (1 + math.cos(math.pi * 23 / 94)))
    assert learning_rate_factor(99, 100, cosine) == pytest.approx(0.000279, abs=1e-6)
    assert learning_rate_factor(53, 100, linear) == pytest.approx(0.5)
    assert learning_rate_factor(99, 100, linear) == pytest.approx(1 / 94)
    assert learning_rate_factor(0, 100, replace(cosine, warmup=0.0)) == 1.0
    assert learning_rate_factor(99, 100, replace(cosine, warmup=1.0)) == 1.0
    assert learning_rate_factor(0, 1, cosine) == 1.0


@given(st.integers(1, 300), st.floats(0, 1), st.sampled_from(["cosine", "linear"]))
@settings(max_examples=80)
def test_the_learning_rate_rises_then_falls_and_stays_in_range(steps: int, warmup: float, schedule: Any) -> None:
    factors = [learning_rate_factor(step, steps, Recipe(schedule=schedule, warmup=warmup)) for step in range(steps)]
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) == 1.0


@pytest.mark.parametrize(("steps", "factor"), [(1, 1.0), (100, 1 / 6)])
def test_the_optimiser_follows_the_schedule(
    run: Run, monkeypatch: pytest.MonkeyPatch, steps: int, factor: float
) -> None:
    """AdamW's first step moves every parameter by the learning rate, whatever the gradient's size; B starts at zero."""
    moved = []
    step = torch.optim.AdamW.step

    def first(self: Any, *given: Any) -> Any:
        result = step(self, *given)
        if not moved:
            moved.extend(p.abs().max().item() for group in self.param_groups for p in group["params"][1::2])
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", first)
    run(steps=steps, early_stopping=False, held_out=0.0)
    assert len(moved) == 14
    assert moved == pytest.approx([1e-2 * factor] * 14, rel=1e-3)


# --- batches ---


@given(st.integers(1, 90), st.integers(1, 12), st.integers(0, 9), st.data())
@settings(max_examples=50)
def test_every_epoch_visits_each_sample_once(count: int, batch: int, seed: int, data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(2, 30), min_size=count, max_size=count))
    views = [View(None, [1] * length, None, [False] * (length - 1) + [True]) for length in lengths]
    per_epoch = math.ceil(count / batch)
    for epoch in range(2):
        batches = [batch_of(epoch * per_epoch + step, views, batch, seed) for step in range(per_epoch)]
        assert sorted(i for one in batches for i in one) == list(range(count))
        assert all(0 < len(one) <= batch for one in batches)


def test_epochs_differ_and_batches_hold_like_lengths() -> None:
    views = [View(None, [1] * (2 + i % 40), None, [False] * (1 + i % 40) + [True]) for i in range(160)]
    first, second = ([batch_of(16 * epoch + step, views, 10, 0) for step in range(16)] for epoch in range(2))
    assert first != second
    assert first == [batch_of(step, views, 10, 0) for step in range(16)]
    spans = [max(lengths) - min(lengths) for lengths in ([len(views[i].student_ids) for i in one] for one in first)]
    assert sum(spans) / len(spans) < 8  # of 40; drawn blindly it would be about 33
