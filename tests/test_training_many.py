"""Several documents side by side: each ends as it would alone, whatever becomes of the others."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kmcli.adapters import lora
from kmcli.bases import Loaded
from kmcli.errors import InterruptedRun, KmError, ResourceError
from kmcli.objectives import OBJECTIVES, OfSamples
from kmcli.objectives.losses import distillation
from kmcli.objectives.views import chunk_in_context
from kmcli.training import Job, gradients, loop, many, schedule, skd, targets, teacher, train_together
from kmcli.types import Event, Recipe, Sample, silent
from training_cases import CHUNKS, RECIPE, make_tiny, one_thread, same, sample, samples, tiny

NAMES = ("first", "second", "third")
SHORT = replace(RECIPE, steps=10, learning_rate=1e-3, early_stopping=False)
Results = dict[str, Any]


def material(number: int) -> list[Sample]:
    """Another one for each document: other questions, of other lengths, and more of them."""
    return [
        replace(one, id=f"{number}-{one.id}", prompt=f"{one.prompt} In {'the old ' * number}town?")
        for one in samples(10 + 3 * number)
    ]


def jobs(folder: Path, recipes: Sequence[Recipe] = (SHORT,) * 3, which: Sequence[int] = range(3)) -> list[Job]:
    """Of the documents `which`, in folders that keep what is there."""
    found = []
    for number in which:
        workspace, out = (folder / f"{NAMES[number]}-{kind}" for kind in ("workspace", "out"))
        workspace.mkdir(parents=True, exist_ok=True)
        out.mkdir(exist_ok=True)
        found.append(Job(NAMES[number], material(number), CHUNKS, recipes[number], workspace, out))
    return found


def train(loaded: Loaded, some: Sequence[Job], report: Any = silent) -> Results:
    """Metrics, or errors, by name, in the order in which they came."""
    results: Results = {}
    train_together(loaded, some, report, lambda job, result: results.update({job.name: result}))
    return results


def alone(loaded: Loaded, folder: Path, recipes: Sequence[Recipe] = (SHORT,) * 3) -> Results:
    results: Results = {}
    for number in range(3):
        results |= train(loaded, jobs(folder, recipes, [number]))
    return results


def adapter(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / f"{name}-out" / lora.WEIGHTS)


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], atol: float = 2e-4) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=atol)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[torch.Tensor]]:
    """The gradients of each student's steps, by the text of its material."""
    found: dict[str, list[torch.Tensor]] = {}
    clip = loop.Student.clip

    def watched(self: loop.Student) -> torch.Tensor:
        parts = [parameter.grad.reshape(-1) for parameter in self.parameters.values() if parameter.grad is not None]
        found.setdefault(self.folder.name, []).append(torch.cat(parts).clone())
        return clip(self)

    monkeypatch.setattr(loop.Student, "clip", watched)
    return found


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Documents and tokens of each forward pass of the students."""
    found: list[tuple[int, int]] = []
    plain = gradients.scored_states

    def watched(model: Any, loaded: Any, rows: Any, **more: Any) -> Any:
        found.append((len(more["documents"]), sum(len(ids) for ids, _ in rows)))
        return plain(model, loaded, rows, **more)

    monkeypatch.setattr(gradients, "scored_states", watched)
    return found


# --- the same as alone ---


@pytest.mark.parametrize("objective", ["dcd", "dcd,lm:0.1,pit,sft", "ddcd", "dcd,keep"])
def test_side_by_side_equals_alone(
    tiny: Loaded, tmp_path: Path, seen: dict[str, list[torch.Tensor]], passes: list[tuple[int, int]], objective: str
) -> None:
    # The hidden term is a sum of absolute values: where one passes zero its gradient jumps, and rounding decides on which
    # side; with 1 in the place of 4 that is one step's on Intel's processors.
    recipes = [
        replace(SHORT, objective=objective, seed=seed, alpha=8 * number, chunk_tokens=32, held_out=0.3)
        for number, seed in enumerate((4, 2, 3), 1)
    ]
    text = " ".join(CHUNKS.values()) * 12
    together = [replace(job, text=text) for job in jobs(tmp_path / "together", recipes)]
    many_results = train(tiny, together)
    assert max(documents for documents, _ in passes) > 1
    mine = {name: list(steps) for name, steps in seen.items()}
    seen.clear()
    single: Results = {}
    for number in range(3):
        (job,) = jobs(tmp_path / "alone", recipes, [number])
        single |= train(tiny, [replace(job, text=text)])
    assert list(many_results) == list(NAMES)
    for name in NAMES:
        for one, other in zip(mine[f"{name}-workspace"], seen[f"{name}-workspace"], strict=True):
            assert (one - other).abs().max() <= 1e-5 * max(1.0, float(other.abs().max()))
        assert len(seen[f"{name}-workspace"]) == 10
        assert many_results[name]["steps"] == single[name]["steps"] == 10
        for key in ("train_loss", "held_out_loss"):
            assert many_results[name][key] == pytest.approx(single[name][key], rel=0.001)
            assert single[name][key] > 0
        close(adapter(tmp_path / "together", name), adapter(tmp_path / "alone", name))
    assert not same(adapter(tmp_path / "together", "first"), adapter(tmp_path / "together", "second"))


def test_what_cannot_share_a_pass_is_bitwise_as_alone(
    tiny: Loaded, tmp_path: Path, passes: list[tuple[int, int]]
) -> None:
    """Dropout draws for all of a batch; adapters of another rank do not stack. A checkpoint's tokens are kept."""
    recipes = [replace(SHORT, dropout=0.2), replace(SHORT, rank=2), replace(SHORT, dropout=0.1)]
    train(tiny, jobs(tmp_path / "together", recipes))
    assert {documents for documents, _ in passes} == {1}
    alone(tiny, tmp_path / "alone", recipes)
    for name in NAMES:
        assert same(adapter(tmp_path / "together", name), adapter(tmp_path / "alone", name))


def test_another_sample_of_one_leaves_the_gradients_of_the_others(
    tiny: Loaded, tmp_path: Path, seen: dict[str, list[torch.Tensor]]
) -> None:
    found = []
    for change in (False, True):
        some = jobs(tmp_path / str(change), [replace(SHORT, steps=1)] * 3)
        if change:
            other = [replace(one, response="nobody at all, and never") for one in some[0].samples]
            some[0] = replace(some[0], samples=other)
        seen.clear()
        train(tiny, some)
        found.append(dict(seen))
    before, after = found
    assert not torch.allclose(before["first-workspace"][0], after["first-workspace"][0], atol=1e-3)
    for name in ("second-workspace", "third-workspace"):
        torch.testing.assert_close(before[name], after[name], rtol=0, atol=1e-6)


def test_a_base_whose_rows_cannot_be_packed_trains_them_in_turn(
    tiny: Loaded, tmp_path: Path, passes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmcli.training.packed.can_pack", lambda decoder: False)
    results = train(tiny, jobs(tmp_path))
    assert {documents for documents, _ in passes[3:]} == {1}
    assert all(result["steps"] == 10 for result in results.values())


# --- whoever leaves ---


def test_one_that_is_finished_leaves_the_batch(tiny: Loaded, tmp_path: Path, passes: list[tuple[int, int]]) -> None:
    recipes = [SHORT, replace(SHORT, steps=4), replace(SHORT, steps=7)]
    results = train(tiny, jobs(tmp_path / "together", recipes))
    assert list(results) == ["second", "third", "first"]
    assert [documents for documents, _ in passes] == [3] * 4 + [2] * 3 + [1] * 3
    alone(tiny, tmp_path / "alone", recipes)
    for name in NAMES:
        close(adapter(tmp_path / "together", name), adapter(tmp_path / "alone", name))
    assert not any("lora" in name for name, _ in tiny.model.named_modules())


@pytest.mark.parametrize("measured", [False, True])
def test_one_that_diverges_leaves_the_others_as_they_are(
    tiny: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: bool
) -> None:
    calls = 0

    def loss(teacher_LND: Any, student_LND: Any, ids_N: Any, head: Any, recipe: Recipe) -> Any:
        nonlocal calls
        total, terms = distillation(teacher_LND, student_LND, ids_N, head, recipe)
        calls += recipe.seed == 9 and torch.is_grad_enabled()
        return (total * float("nan") if calls == 6 and recipe.seed == 9 else total), terms

    monkeypatch.setitem(OBJECTIVES, "dcd", OfSamples(chunk_in_context, loss))
    monkeypatch.setattr(schedule, "EVALUATE_EVERY", 4 if measured else 25)
    recipes = [SHORT, replace(SHORT, seed=9), SHORT]
    events: list[Event] = []
    results = train(tiny, jobs(tmp_path / "together", recipes), events.append)
    message = "the training of second diverged at step 6: the loss is not a number."
    if measured:
        assert (results["second"]["diverged"], results["second"]["steps"]) == (True, 5)
        assert [e.message.split(" Try")[0] for e in events if e.warning] == [
            f"{message} The adapter of step 4 is kept."
        ]
    else:
        assert isinstance(results["second"], KmError)
        assert results["second"].message == message
        assert list((tmp_path / "together" / "second-out").iterdir()) == []
    calls = -100
    for number in (0, 2):
        name = NAMES[number]
        train(tiny, jobs(tmp_path / "alone", recipes, [number]))
        assert results[name]["steps"] == 10
        close(adapter(tmp_path / "together", name), adapter(tmp_path / "alone", name))


def test_one_with_nothing_to_train_on_fails_alone(tiny: Loaded, tmp_path: Path) -> None:
    some = jobs(tmp_path)
    some[0] = replace(some[0], samples=[])
    results = train(tiny, some)
    assert str(results["first"]).startswith("there is no study material to train on.")
    assert [results[name]["steps"] for name in NAMES[1:]] == [10, 10]


def test_one_whose_targets_are_gone_fails_alone(
    tiny: Loaded, tmp_path: Path, passes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, asked = teacher.Teacher.targets, 0

    def gone(self: teacher.Teacher, indices: Any) -> Any:
        nonlocal asked
        asked += "second" in str(self.store.path)
        if asked > 4:
            asked = 0
            raise ResourceError("what big predicts is gone.", "The same command goes on.")
        return plain(self, indices)

    monkeypatch.setattr(teacher.Teacher, "targets", gone)
    results = train(tiny, jobs(tmp_path / "together"))
    assert max(documents for documents, _ in passes) > 1
    assert isinstance(results["second"], ResourceError)
    assert results["second"].message == "what big predicts is gone."
    monkeypatch.undo()
    single = train(tiny, jobs(tmp_path / "alone", which=[0])) | train(tiny, jobs(tmp_path / "alone", which=[2]))
    for name in ("first", "third"):
        assert results[name]["steps"] == single[name]["steps"] == 10
        close(adapter(tmp_path / "together", name), adapter(tmp_path / "alone", name))


def test_one_that_cannot_write_anew_fails_alone(tiny: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, renewed = skd.write, 0

    def write(*given: Any) -> Any:
        nonlocal renewed
        renewed += 1
        if renewed == 2:
            raise ResourceError("memory is short.", "Use less.")
        return plain(*given)

    monkeypatch.setattr(skd, "write", write)
    results = train(tiny, jobs(tmp_path, [replace(SHORT, objective="skd", steps=3, skd_every=2)] * 3))
    assert str(results["second"]) == "memory is short. Use less."
    assert [results[name]["steps"] for name in ("first", "third")] == [3, 3]


def test_each_tells_of_itself(tiny: Loaded, tmp_path: Path) -> None:
    events: list[Event] = []
    results = train(tiny, jobs(tmp_path), events.append)
    for name in NAMES:
        own = [event for event in events if event.stage == f"train {name}"]
        assert [(event.done, event.total) for event in own] == [(step, 10) for step in range(1, 11)]
        assert own[-1].numbers["loss"] == results[name]["train_loss"]
        assert own[-1].numbers.get("held out") == results[name]["held_out_loss"]
    assert results["third"]["held_out_loss"] > 0


# --- memory ---


def test_a_pass_and_the_targets_keep_within_their_bounds(
    tiny: Loaded, tmp_path: Path, passes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many, "MICRO_TOKENS", {"cpu": 200})
    monkeypatch.setattr(targets, "MEMORY_BYTES", 3 * 4096)
    used: list[int] = []
    put = targets.Targets.put

    def watched(self: targets.Targets, *given: Any) -> bool:
        kept = put(self, *given)
        used.append(self.used)
        return kept

    monkeypatch.setattr(targets.Targets, "put", watched)
    train(tiny, jobs(tmp_path))
    assert max(tokens for _, tokens in passes) <= 200
    assert {documents for documents, _ in passes} > {1}
    assert 2048 < max(used) <= 4096


def test_memory_that_runs_out_halves_the_passes_of_all(
    tiny: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = gradients.scored_states

    def limited(model: Any, loaded: Any, rows: Any, **more: Any) -> Any:
        if sum(len(ids) for ids, _ in rows) > 80:
            raise torch.OutOfMemoryError("out of memory")
        return plain(model, loaded, rows, **more)

    monkeypatch.setattr(gradients, "scored_states", limited)
    some = jobs(tmp_path)
    some[1] = replace(some[1], samples=[replace(one, response="word " * 100) for one in some[1].samples])
    events: list[Event] = []
    results = train(tiny, some, events.append)
    assert any(event.message.startswith("memory is short") for event in events)
    assert "alone does not fit in memory" in results["second"].message
    assert [results[name]["steps"] for name in ("first", "third")] == [10, 10]


# --- stopping and going on ---


def pressing(at: int) -> Callable[[Event], None]:
    def report(event: Event) -> None:
        if event.stage == "train first" and event.done == at:
            os.kill(os.getpid(), signal.SIGINT)

    return report


def test_after_ctrl_c_they_go_on_together_bitwise_or_with_others(tiny: Loaded, tmp_path: Path) -> None:
    train(tiny, jobs(tmp_path / "whole"))
    for name in ("again", "apart"):
        with pytest.raises(InterruptedRun) as caught:
            train(tiny, jobs(tmp_path / name), pressing(4))
        assert caught.value.exit_code == 5
        assert caught.value.message == "stopped while 3 documents were trained; nothing is lost."
    train(tiny, jobs(tmp_path / "again"))
    train(tiny, jobs(tmp_path / "apart", which=[2]))
    train(tiny, jobs(tmp_path / "apart", which=[1, 0]))
    for name in NAMES:
        whole = adapter(tmp_path / "whole", name)
        assert same(adapter(tmp_path / "again", name), whole)
        close(adapter(tmp_path / "apart", name), whole)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_moments_each_still_ends_alike(
    tiny: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a random step of one that writes a checkpoint, so that some are a step ahead of others."""
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 1)
    train(tiny, jobs(tmp_path / "whole"))
    random = Random(3)
    replaced = Path.replace
    for _ in range(4):
        if not (child := os.fork()):
            left = random.randrange(1, 9)

            def dying(self: Path, *given: Any) -> Any:
                nonlocal left
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                return replaced(self, *given)

            monkeypatch.setattr(Path, "replace", dying)
            try:
                train(tiny, jobs(tmp_path / "killed"))
            finally:
                os._exit(1)
        random.random()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    results = train(tiny, jobs(tmp_path / "killed"))
    for name in NAMES:
        assert results[name]["steps"] == 10
        assert [point["step"] for point in results[name]["curve"]] == list(range(1, 11))
        close(adapter(tmp_path / "killed", name), adapter(tmp_path / "whole", name))
