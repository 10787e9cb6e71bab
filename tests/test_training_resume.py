"""Stopping and going on: Ctrl-C, checkpoints, and that a resumed run does what an uninterrupted one would."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from kmcli.adapters import lora
from kmcli.bases import Loaded
from kmcli.errors import InterruptedRun, KmError, ResourceError
from kmcli.training import checkpoint, loop, many, schedule, targets, train
from kmcli.training.checkpoint import CHECKPOINT, Progress, deferred_interrupt
from kmcli.types import Event, silent
from training_cases import CHUNKS, RECIPE, disturb, one_thread, same, samples, tiny

DROPPING = replace(RECIPE, steps=20, dropout=0.2)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "workspace").mkdir()
    return tmp_path / "workspace"


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def position(workspace: Path) -> Any:
    with safe_open(workspace / CHECKPOINT, framework="pt") as reader:
        return reader.metadata()["progress"]


def uninterrupted(tiny: Loaded, tmp_path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    for name in ("whole", "whole-out"):
        (tmp_path / name).mkdir()
    metrics = train(tiny, samples(14), CHUNKS, DROPPING, tmp_path / "whole", tmp_path / "whole-out", silent)
    return metrics, load_file(tmp_path / "whole-out" / lora.WEIGHTS)


def comparable(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if "second" not in key and key != "peak_memory"}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "EVALUATE_EVERY", 3)
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 4)


def test_ctrl_c_stops_after_a_whole_step_and_the_next_run_ends_bitwise_alike(
    tiny: Loaded, tmp_path: Path, workspace: Path, out: Path
) -> None:
    whole_metrics, whole = uninterrupted(tiny, tmp_path)
    before = signal.getsignal(signal.SIGINT)
    seen: list[float] = []

    def interrupting(event: Event) -> None:
        if event.stage == "train":
            seen.append(event.done or 0)
            if event.done in (6, 13):
                press()

    for stopped_at in (7, 14):
        with pytest.raises(InterruptedRun) as caught:
            train(tiny, samples(14), CHUNKS, DROPPING, workspace, out, interrupting)
        assert caught.value.message == f"stopped at step {stopped_at} of 20; nothing is lost."
        assert caught.value.exit_code == 5
        assert seen[-1] == stopped_at
        assert f'"step": {stopped_at},' in position(workspace)
        assert list(out.iterdir()) == []
        assert signal.getsignal(signal.SIGINT) is before
        assert not any("lora" in name for name, _ in tiny.model.named_modules())
    metrics = train(tiny, samples(14), CHUNKS, DROPPING, workspace, out, interrupting)
    assert seen == [float(step) for step in range(1, 21)]  # no step twice, none left out
    assert comparable(metrics) == comparable(whole_metrics)
    assert same(load_file(out / lora.WEIGHTS), whole)


def test_a_crash_goes_on_from_the_last_checkpoint(tiny: Loaded, tmp_path: Path, workspace: Path, out: Path) -> None:
    whole_metrics, whole = uninterrupted(tiny, tmp_path)
    seen: list[float] = []

    def dying(event: Event) -> None:
        seen.append(event.done or 0)
        if event.stage == "train" and event.done == 11:
            raise RuntimeError("the power is gone")

    with pytest.raises(RuntimeError, match="power"):
        train(tiny, samples(14), CHUNKS, DROPPING, workspace, out, dying)
    assert '"step": 8,' in position(workspace)
    seen.clear()
    metrics = train(
        tiny,
        samples(14),
        CHUNKS,
        DROPPING,
        workspace,
        out,
        lambda e: seen.append(e.done or 0) if e.stage == "train" else None,
    )
    assert seen == [float(step) for step in range(9, 21)]
    assert comparable(metrics) == comparable(whole_metrics)
    assert same(load_file(out / lora.WEIGHTS), whole)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_twenty_random_moments_it_still_ends_bitwise_alike(
    tiny: Loaded, tmp_path: Path, workspace: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without warning, as by a power cut: also while a checkpoint is written, and while targets are."""
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 1)
    monkeypatch.setattr(targets, "MEMORY_BYTES", 0)
    recipe = replace(RECIPE, steps=60, rank=2, early_stopping=False)
    whole_out = tmp_path / "whole-out"
    for folder in (tmp_path / "whole", whole_out):
        folder.mkdir()
    train(tiny, samples(14), CHUNKS, recipe, tmp_path / "whole", whole_out, silent)
    random = Random(4)
    reached = 0
    for _ in range(20):
        reading, writing = os.pipe()
        if not (child := os.fork()):
            try:
                train(
                    tiny,
                    samples(14),
                    CHUNKS,
                    recipe,
                    workspace,
                    out,
                    lambda _, pipe=writing: os.write(pipe, b".") and None,
                )
            finally:
                os._exit(0)
        os.close(writing)
        for _ in range(random.randrange(9)):
            os.read(reading, 1)
        time.sleep(random.random() * 0.02)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        if (workspace / CHECKPOINT).exists():
            reached = max(reached, json.loads(position(workspace))["step"])
    assert 10 < reached < 60
    train(tiny, samples(14), CHUNKS, recipe, workspace, out, silent)
    assert same(load_file(out / lora.WEIGHTS), load_file(whole_out / lora.WEIGHTS))


def test_a_full_disk_is_one_sentence_and_leaves_the_checkpoint(
    tiny: Loaded, tmp_path: Path, workspace: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_metrics, whole = uninterrupted(tiny, tmp_path)
    plain, calls = checkpoint.save_file, 0

    def full(tensors: Any, file: Path, metadata: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            file.write_bytes(b"half of it")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        plain(tensors, file, metadata)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(ResourceError, match=r"cannot be written to: .*No space left.*Free some space and try again\."):
        train(tiny, samples(14), CHUNKS, DROPPING, workspace, out, silent)
    assert '"step": 8,' in position(workspace)
    assert [file.name for file in workspace.iterdir()] == [CHECKPOINT]
    metrics = train(tiny, samples(14), CHUNKS, DROPPING, workspace, out, silent)
    assert comparable(metrics) == comparable(whole_metrics)
    assert same(load_file(out / lora.WEIGHTS), whole)


def test_a_smaller_micro_batch_is_remembered(
    tiny: Loaded, workspace: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many, "MICRO_TOKENS", {"cpu": 44})
    with pytest.raises(InterruptedRun):
        train(tiny, samples(14), CHUNKS, DROPPING, workspace, out, lambda e: press() if e.done == 4 else None)
    assert '"micro_tokens": 44' in position(workspace)
    monkeypatch.setattr(many, "MICRO_TOKENS", {"cpu": 1000})
    seen: list[int] = []
    plain = many.Gradients

    def watched(*given: Any) -> Any:
        seen.append(given[3])
        return plain(*given)

    monkeypatch.setattr(many, "Gradients", watched)
    train(tiny, samples(14), CHUNKS, DROPPING, workspace, out, silent)
    assert seen == [44]


def test_ctrl_c_at_any_moment_leaves_a_whole_step(tiny: Loaded, workspace: Path, out: Path) -> None:
    """From a timer, so wherever the step then is; the last step told is the one saved."""
    seen: list[Event] = []
    timer = threading.Timer(0.3, press)

    def watching(event: Event) -> None:
        if event.stage == "train":
            if not seen:
                timer.start()
            seen.append(event)

    with pytest.raises(InterruptedRun, match="of 100000"):
        train(tiny, samples(14), CHUNKS, replace(RECIPE, steps=100_000, early_stopping=False), workspace, out, watching)
    assert len(seen) > 1
    assert f'"step": {int(seen[-1].done or 0)},' in position(workspace)


def test_a_finished_training_is_not_trained_further(tiny: Loaded, workspace: Path, out: Path) -> None:
    def at_the_end(event: Event) -> None:
        if event.stage == "train" and event.done == 19:
            press()

    with pytest.raises(InterruptedRun, match="stopped at step 20 of 20"):
        train(tiny, samples(14), CHUNKS, DROPPING, workspace, out, at_the_end)
    seconds = json.loads(position(workspace))["seconds"]
    events: list[Event] = []
    metrics = train(tiny, samples(14), CHUNKS, DROPPING, workspace, out, events.append)
    assert metrics["steps"] == 20
    assert not [event for event in events if event.stage == "train"]
    assert metrics["seconds"] == round(seconds, 3) > 0  # of all runs
    assert (out / lora.WEIGHTS).exists()


# --- the checkpoint's file ---


def test_a_checkpoint_brings_everything_back(tiny: Loaded, workspace: Path) -> None:
    model = lora.build(tiny, RECIPE)
    try:
        disturb(model)
        parameters = lora.trainable(model)
        optimiser = torch.optim.AdamW(parameters.values())
        without = [*parameters][-1]  # one that never had a gradient
        for name, parameter in parameters.items():
            parameter.grad = None if name == without else torch.ones_like(parameter)
        optimiser.step()
        progress = Progress(3, 0.5, 2, 0.6, [{"step": 3, "loss": 1.5}])
        best = {name: torch.full_like(value, 2.0) for name, value in checkpoint.copy(parameters).items()}
        checkpoint.save(workspace, parameters, optimiser, progress, best)
        assert [file.name for file in workspace.iterdir()] == [CHECKPOINT]
        saved = checkpoint.copy(parameters)
        moments = {name: dict(optimiser.state[parameter]) for name, parameter in parameters.items()}
        disturb(model, 0.7)
        fresh = torch.optim.AdamW(parameters.values())
        found, found_best = checkpoint.restore(workspace, parameters, fresh)
        assert found == progress
        assert same(found_best, best)
        assert same(checkpoint.copy(parameters), saved)
        for name, parameter in parameters.items():
            assert same(fresh.state[parameter], moments[name])
    finally:
        model.unload().eval()


def test_without_a_checkpoint_training_starts_at_zero(tiny: Loaded, workspace: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    assert checkpoint.restore(workspace, {"x": parameter}, torch.optim.AdamW([parameter])) == (Progress(), {})


@pytest.mark.parametrize("how", ["torn", "empty", "other", "no position"])
def test_a_damaged_checkpoint_is_one_sentence(workspace: Path, how: str) -> None:
    parameters = {"x": torch.nn.Parameter(torch.ones(2))}
    optimiser = torch.optim.AdamW(parameters.values())
    parameters["x"].sum().backward()
    optimiser.step()
    file = workspace / CHECKPOINT
    checkpoint.save(workspace, parameters, optimiser, Progress(1), {})
    if how == "torn":
        file.write_bytes(file.read_bytes()[:-3])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "other":
        parameters = {"y": torch.nn.Parameter(torch.ones(2))}
    else:
        save_file({"parameter/x": torch.ones(2)}, file)
    with pytest.raises(KmError, match=r"is damaged, or of another training\. Start the training over with --restart"):
        checkpoint.restore(workspace, parameters, optimiser)


# --- Ctrl-C ---


def test_the_second_ctrl_c_acts_as_usual() -> None:
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupt() as interrupted:
        assert not interrupted()
        press()
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            press()
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_nothing_is_installed() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with deferred_interrupt() as interrupted:
            seen.append((interrupted(), signal.getsignal(signal.SIGINT) is before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, True)]
