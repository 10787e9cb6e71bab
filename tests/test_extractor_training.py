"""Training a Knowledge Extractor: that it learns, stops, goes on, and says what it did."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from extractor_cases import RECIPE, example, examples, folders, loaded, read
from kmcli.adapters import lora
from kmcli.adapters.extractor import MIXING
from kmcli.bases import Base, Loaded
from kmcli.errors import InterruptedRun, KmError, ResourceError
from kmcli.library.extractors import ExtractorRecipe
from kmcli.training import extractor as training
from kmcli.training import schedule
from kmcli.training.extractor_recipe import resolve
from kmcli.types import Event, silent
from training_cases import one_thread, same

Train = Callable[..., tuple[dict[str, Any], dict[str, torch.Tensor]]]


@pytest.fixture
def run(loaded: Loaded, folders: dict[str, Path], tmp_path: Path) -> Train:
    """Train on questions about d0 to d3, with d4 and d5 held out; metrics and tensors."""

    def call(where: str = "one", report: Any = silent, some: Any = None, **changes: Any) -> Any:
        workspace, out = tmp_path / where, tmp_path / where / "out"
        out.mkdir(parents=True, exist_ok=True)
        taught = some or examples(loaded, ["d0", "d1", "d2", "d3"])
        held = examples(loaded, ["d4", "d5"])
        recipe = replace(RECIPE, **changes)
        metrics = training.train(
            loaded,
            taught,
            held if recipe.held_out else [],
            lambda document: read(loaded, folders[document]) if recipe.modules else None,
            recipe,
            workspace,
            out,
            report,
        )
        return metrics, {**load_file(out / lora.WEIGHTS), **load_file(out / MIXING)}

    return call


def test_the_likelihood_of_the_answers_rises(run: Train, folders: dict[str, Path]) -> None:
    before = {document: (folder / lora.WEIGHTS).read_bytes() for document, folder in folders.items()}
    metrics, tensors = run(steps=30)
    losses = [point["loss"] for point in metrics["curve"]]
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    assert metrics["held_out_loss"] < metrics["module_loss"]
    assert (metrics["steps"], metrics["planned_steps"]) == (30, 30)
    assert (metrics["training_questions"], metrics["held_out_questions"]) == (8, 4)
    mixing = {name: float(value) for name, value in tensors.items() if name.endswith((".w_km", ".w_ke"))}
    assert len(mixing) == 28
    assert not any(value == 0.5 for value in mixing.values())
    halves = [value for name, value in mixing.items() if name.endswith(".w_km")]
    assert metrics["w_km"] == pytest.approx(sum(halves) / len(halves), abs=1e-4)
    assert before == {document: (folder / lora.WEIGHTS).read_bytes() for document, folder in folders.items()}


def test_options_are_learnt_as_a_choice(run: Train, loaded: Loaded) -> None:
    some = [example(loaded, document, "Who?", "Ann", "Bo", "Cy", right=1) for document in ("d0", "d1")]
    metrics, _ = run(some=some, steps=30, held_out=0.0)
    losses = [point["loss"] for point in metrics["curve"]]
    assert losses[-1] < 0.1 < losses[0]
    assert metrics["held_out_loss"] is None
    assert metrics["module_loss"] is None


def test_without_modules_only_the_extractor_learns(run: Train) -> None:
    metrics, tensors = run(modules=False, steps=5)
    assert metrics["w_km"] is None
    assert {float(value) for name, value in tensors.items() if name.endswith(".w_km")} == {0.5}
    assert metrics["curve"][-1]["loss"] < metrics["curve"][0]["loss"]


def test_small_pieces_learn_the_same(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole = run("whole", steps=3)
    monkeypatch.setitem(training.MICRO_TOKENS, "cpu", 30)
    _, cut = run("cut", steps=3)
    assert max(float((whole[name] - cut[name]).abs().max()) for name in whole) < 5e-3
    assert not same(whole, cut)  # it did cut


def test_memory_that_runs_out_makes_pieces_smaller(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, seen = training.answer_scores, []

    def short(loaded: Loaded, mixture: Any, modules: Any, some: Any, alone: bool = False) -> Any:
        if torch.is_grad_enabled():
            seen.append(len(some))
            if len(some) > 1:
                raise MemoryError
        return scores(loaded, mixture, modules, some, alone)

    monkeypatch.setattr(training, "answer_scores", short)
    told: list[Event] = []
    metrics, _ = run(steps=2, report=told.append)
    assert metrics["steps"] == 2
    assert seen[0] > 1
    assert seen[-4:] == [1, 1, 1, 1]
    assert any(event.warning and "memory is short" in event.message for event in told)

    def never(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(
        training, "answer_scores", lambda *a, **k: never() if torch.is_grad_enabled() else scores(*a, **k)
    )
    with pytest.raises(ResourceError, match="one question alone does not fit in memory"):
        run("never", steps=2)


def test_ctrl_c_saves_and_the_next_run_goes_on_alike(run: Train) -> None:
    _, through = run("through", steps=8)

    def stop(event: Event) -> None:
        if event.done == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(InterruptedRun, match="stopped at step 4 of 8; nothing is lost"):
        run("stopped", report=stop, steps=8)
    metrics, resumed = run("stopped", steps=8)
    assert [point["step"] for point in metrics["curve"]] == list(range(1, 9))
    assert same(through, resumed)


def test_the_best_on_other_documents_is_kept(run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "EVALUATE_EVERY", 1)
    losses = iter([9.0, 3.0, 2.0, 4.0, 4.0, 4.0, 4.0, 4.0])
    monkeypatch.setattr(training._Run, "held_out_loss", lambda self, alone=False: next(losses))
    metrics, kept = run("kept", steps=20, schedule="linear")
    assert (metrics["module_loss"], metrics["held_out_loss"]) == (9.0, 2.0)
    assert (metrics["best_step"], metrics["steps"]) == (2, 6)  # four evaluations without a better one
    assert metrics["curve"][1]["held_out"] == 2.0
    losses = iter([9.0, 3.0, 2.0, 4.0])

    def stop(event: Event) -> None:
        if event.done == 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(InterruptedRun):
        run("two", report=stop, steps=20, schedule="linear")
    two = load_file(tmp_path / "two" / "checkpoint.safetensors")
    for name, value in kept.items():
        own = name.removeprefix("base_model.model.")
        assert torch.equal(value, two[f"parameter/{own}"])


def test_a_loss_that_is_no_number_is_a_sentence(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        training, "example_losses", lambda scores, some: torch.stack([s.sum() * float("nan") for s in scores])
    )
    with pytest.raises(KmError, match="training diverged at step 1: the loss is not a number") as diverged:
        run()
    assert diverged.value.hint == "Try a lower learning rate: --restart --set learning_rate=0.003"


def test_modules_that_wait_are_forgotten_where_memory_is_short(
    loaded: Loaded, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def reads(document: str) -> Any:
        asked.append(document)
        return read(loaded, folders[document])

    known = training.Modules(reads)
    for document in ("d0", "d1", "d0", "d1"):
        known.of(document)
    assert asked == ["d0", "d1"]
    monkeypatch.setattr(training, "MODULE_BYTES", 1)
    known.of("d2")
    known.of("d2")
    known.of("d0")
    assert asked == ["d0", "d1", "d2", "d0"]


def test_a_recipe_is_read_back_and_a_newer_one_refused() -> None:
    assert ExtractorRecipe.from_json(json.loads(json.dumps(RECIPE.as_json()))) == RECIPE
    with pytest.raises(TypeError):
        ExtractorRecipe.from_json({**RECIPE.as_json(), "gating": True})


def test_the_learning_rate_is_the_cards_unless_somebody_says_another() -> None:
    base = Base("b", Path("b"), "1", "llama", 512, 64, 2, "embedded", {"learning_rate": 0.003, "epochs": 20.0})
    assert resolve(base, (), True, 0) == ExtractorRecipe("b", "1", learning_rate=0.003)
    assert resolve(base, ("learning_rate=1e-5", "early_stopping=no"), False, 2) == ExtractorRecipe(
        "b", "1", modules=False, passages=2, learning_rate=1e-5, early_stopping=False
    )
    assert resolve(replace(base, recipe={}), (), True, 0).learning_rate == 1e-4


def test_the_weights_have_a_rate_of_their_own(run: Train) -> None:
    _, still = run("still", steps=3, weights_rate=0.0)
    assert {float(value) for name, value in still.items() if name.endswith((".w_km", ".w_ke"))} == {0.5}
    _, quick = run("quick", steps=3, weights_rate=5.0)
    moved = [abs(float(value) - 0.5) for name, value in quick.items() if name.endswith((".w_km", ".w_ke"))]
    assert max(moved) > 0.05  # three steps of 0.05 at most
    assert min(moved) > 0
