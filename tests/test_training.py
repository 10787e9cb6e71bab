"""Training as a whole: what comes out, the split, and what is left of the base."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kmcli.bases import Loaded
from kmcli.errors import KmError, UsageError
from kmcli.metrics import normalise
from kmcli.objectives import OBJECTIVES, OfSamples
from kmcli.objectives.losses import distillation
from kmcli.objectives.views import chunk_in_context
from kmcli.training import mixture, split, targets, teacher
from kmcli.types import Event, Sample, View
from training_cases import RECIPE, Run, one_thread, run, same, sample, samples, tiny

# --- what comes out ---


def test_training_learns_and_says_how(tiny: Loaded, run: Run) -> None:
    events: list[Event] = []
    metrics, adapter = run(steps=40, early_stopping=False, report=events.append)
    taught, held = split(samples(14), RECIPE)
    assert metrics["training_samples"] == len(taught)
    assert metrics["held_out_samples"] == len(held) > 0
    assert metrics["steps"] == metrics["planned_steps"] == len(metrics["curve"]) == 40
    assert not metrics["stopped_early"]
    first, last = metrics["curve"][0], metrics["curve"][-1]
    assert last["loss"] < 0.5 * first["loss"]
    assert metrics["train_loss"] == last["loss"]
    for point in metrics["curve"]:
        assert point["loss"] == pytest.approx(point["kl"] + point["hidden"], rel=1e-5)
    steps = [event for event in events if event.stage == "train"]
    assert [event.done for event in steps] == list(range(1, 41))
    assert {event.total for event in steps} == {40}
    assert "held out" not in steps[23].numbers
    told = {name: last[name] for name in ("loss", "kl", "hidden")} | {"held out": metrics["held_out_loss"]}
    assert steps[-1].numbers == told | {"tokens/s": steps[-1].numbers["tokens/s"]}
    assert steps[-1].numbers["tokens/s"] == pytest.approx(metrics["tokens_per_second"], abs=1)
    assert [point["step"] for point in metrics["curve"] if "held_out" in point] == [25, 40]
    assert last["held_out"] == metrics["held_out_loss"]
    assert metrics["best_step"] == 40
    epochs = 40 / math.ceil(len(taught) / RECIPE.batch)
    once = sum(len(tiny.tokenizer(one.response, add_special_tokens=False)["input_ids"]) + 1 for one in taught)
    assert metrics["scored_tokens"] == pytest.approx(epochs * once, rel=0.02)
    assert metrics["tokens_per_second"] == pytest.approx(metrics["scored_tokens"] / metrics["seconds"], rel=1e-2)
    assert 50e6 < metrics["peak_memory"] < 50e9
    assert len(adapter) == 2 * 7 * 2  # A and B of seven linear layers in two blocks
    assert all(tensor.dtype == torch.float32 for tensor in adapter.values())


def test_the_same_recipe_gives_the_same_adapter_and_another_seed_another(run: Run) -> None:
    first, again, other = run(dropout=0.1), run(dropout=0.1), run(dropout=0.1, seed=2)
    assert same(first[1], again[1])
    assert first[0]["curve"] == again[0]["curve"]
    assert not same(first[1], other[1])


def test_samples_that_score_too_little_are_not_trained_on(run: Run) -> None:
    rated = [replace(one, score=5 if number < 9 else 2) for number, one in enumerate(samples(14))]
    events: list[Event] = []
    metrics, adapter = run(rated, events.append, steps=2, min_score=4)
    assert metrics["training_samples"] + metrics["held_out_samples"] == 9
    assert "left out: 5 of 14 samples, which score less than 4" in [event.message for event in events]
    assert same(adapter, run(rated[:9], steps=2)[1])  # what they score decides nothing else
    with pytest.raises(UsageError, match=r"^14 of 14 samples have no score"):
        run(samples(14), min_score=1)


def test_a_student_that_reads_what_the_teacher_reads_has_nothing_to_learn(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shared(one: Sample, chunk: str, loaded: Any, other: Any) -> View:
        view = chunk_in_context(one, chunk, loaded)
        return View(view.student_ids, view.student_ids, view.student_mask, view.student_mask)

    monkeypatch.setitem(OBJECTIVES, "dcd", OfSamples(shared, distillation))
    metrics, _ = run([sample(3)], steps=1, held_out=0.0, batch=1)
    assert 0 <= metrics["train_loss"] < 5e-4  # what the half precision of kept targets costs


def test_kept_targets_and_recomputed_ones_train_alike(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, kept_adapter = run()
    made = 0
    compute = teacher.Teacher._compute

    def counted(self: teacher.Teacher, indices: Any) -> Any:
        nonlocal made
        made += len(indices)
        return compute(self, indices)

    monkeypatch.setattr(teacher.Teacher, "_compute", counted)
    monkeypatch.setattr(targets, "MEMORY_BYTES", 0)
    monkeypatch.setattr(targets.Targets.__init__, "__defaults__", (0, 0))
    fresh, fresh_adapter = run()
    assert made >= 8 * 3  # every step, not once
    for one, other in zip(kept["curve"], fresh["curve"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    for name in kept_adapter:
        torch.testing.assert_close(kept_adapter[name], fresh_adapter[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("changes", [{"hidden_weight": 0.0}, {"hidden_layers": "last"}, {"hidden_layers": "0"}])
def test_the_layers_that_are_not_kept_are_not_missed(
    run: Run, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    from kmcli.training import loop

    few, adapter = run(**changes)
    monkeypatch.setattr(loop, "kept_layers", lambda recipe, count: [0, 1])
    monkeypatch.setattr("kmcli.objectives.losses.kept_layers", lambda recipe, count: [0, 1])
    all_kept, other = run(**changes)
    for one, two in zip(few["curve"], all_kept["curve"], strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
    assert few["held_out_loss"] == pytest.approx(all_kept["held_out_loss"], rel=1e-5)
    for name in adapter:
        torch.testing.assert_close(adapter[name], other[name], rtol=1e-3, atol=1e-4)


def test_only_material_of_known_chunks_and_wanted_tasks_is_used(run: Run) -> None:
    strangers = [replace(sample(50), chunk_sha256="0" * 64), sample(51, task="summary")]
    metrics, _ = run([*samples(14), *strangers], tasks=("qa",), steps=1)
    assert metrics["training_samples"] + metrics["held_out_samples"] == 14
    with pytest.raises(KmError, match="no study material to train on"):
        run(strangers, tasks=("qa",))


def test_steps_follow_from_epochs_where_none_are_given(run: Run) -> None:
    alike = [sample(number, chunk=number % 2, response=f"Ann of {number % 4}") for number in range(14)]
    metrics, _ = run(alike, steps=0, epochs=2.5, held_out=0.0)
    assert metrics["steps"] == math.ceil(2.5 * 14 / 4) == 9
    assert metrics["held_out_loss"] is None


def test_a_fact_that_is_asked_about_once_is_read_as_often_as_others(run: Run) -> None:
    """Six facts in seven questions count as eighteen samples, as if each were asked about in three ways."""
    seldom = [sample(number, chunk=0, response=f"Ann of {number % 6}") for number in range(7)]
    metrics, _ = run(seldom, steps=0, epochs=1.0, held_out=0.0)
    assert metrics["steps"] == math.ceil(18 / 4) == 5
    metrics, _ = run(seldom, steps=2, held_out=0.0)
    assert metrics["steps"] == 2


# --- the base afterwards ---


def test_the_base_is_exactly_as_before(tiny: Loaded, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = torch.arange(3, 40)[None]
    modules = [name for name, _ in tiny.model.named_modules()]
    weights = {name: value.clone() for name, value in tiny.model.state_dict().items()}
    with torch.no_grad():
        logits = tiny.model(input_ids=ids).logits

    def check() -> None:
        assert [name for name, _ in tiny.model.named_modules()] == modules
        assert same(tiny.model.state_dict(), weights)
        assert not any(parameter.requires_grad for parameter in tiny.model.parameters())
        assert not any(module.training for module in tiny.model.modules())
        with torch.no_grad():
            assert torch.equal(tiny.model(input_ids=ids).logits, logits)

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PEFT warns where the first adapter is still there
        run()
        check()
        run()
        check()

    def broken(*given: Any) -> Any:
        raise RuntimeError("half-way")

    monkeypatch.setitem(OBJECTIVES, "dcd", OfSamples(chunk_in_context, broken))
    with pytest.raises(RuntimeError, match="half-way"):
        run()
    check()


# --- split ---


@given(st.lists(st.tuples(st.text(max_size=6), st.integers(0, 1)), max_size=30), st.integers(0, 5), st.randoms())
@settings(max_examples=60)
def test_the_split_is_stable_and_no_question_is_on_both_sides(
    material: list[tuple[str, int]], seed: int, random: Any
) -> None:
    recipe = replace(RECIPE, held_out=0.4, seed=seed)
    all_of_it = [sample(i, prompt=prompt, chunk=chunk) for i, (prompt, chunk) in enumerate(material)]
    taught, held = split(all_of_it, recipe)
    assert sorted(taught + held, key=lambda one: int(one.id)) == all_of_it
    questions = {normalise(one.prompt) for one in taught}, {normalise(one.prompt) for one in held}
    assert not questions[0] & questions[1]
    some = all_of_it[: len(all_of_it) // 2]
    random.shuffle(some)
    fewer = split(some, recipe)
    assert set(fewer[0]) <= set(taught)
    assert set(fewer[1]) <= set(held)


def test_the_split_by_value() -> None:
    def held(**changes: Any) -> list[str]:
        return [one.id for one in split(samples(2000), replace(RECIPE, **changes))[1]]

    assert held(held_out=0.0) == []
    assert 60 <= len(held(held_out=0.05)) <= 140
    assert set(held(held_out=0.05)) < set(held(held_out=0.2))
    assert held(seed=1) != held(seed=2)
    asked_alike = [sample(1, prompt="Who built it?"), sample(2, prompt="who built  it", chunk=1)]
    for seed in range(20):
        assert 2 in map(len, split(asked_alike, replace(RECIPE, held_out=0.5, seed=seed)))
    summaries = [sample(number, task="summary") for number in range(100)]
    assert split(summaries, replace(RECIPE, held_out=0.5)) == (summaries, [])


def test_which_held_out_samples_tell_what_was_learnt() -> None:
    """Those whose fact is studied in other words: a chunk and a short answer; of a long one, anything about the chunk."""
    long = "Ann built the mill, which burnt down when Bo kept it, in 1871."
    taught = [sample(1, response="1871"), sample(2, task="summary", response=long)]
    same_fact = sample(3, response="1871.")
    others = [sample(4, response="1872"), sample(5, chunk=1, response="1871"), sample(6, chunk=1, response=long)]
    of_the_chunk = sample(7, response=f"Later. {long}")
    assert mixture.also_studied([same_fact, *others, of_the_chunk], taught) == [same_fact, of_the_chunk]
    assert mixture.also_studied([same_fact], []) == []
