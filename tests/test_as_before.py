"""A training that goes on from an adapter and keeps what that answers to some of the samples."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kmcli.adapters import lora, start
from kmcli.bases import Loaded
from kmcli.errors import InterruptedRun
from kmcli.objectives.losses import divergence
from kmcli.objectives.views import unaided
from kmcli.training import Job, train_together
from kmcli.training.forward import logits, scored_states
from kmcli.training.mixture import mix
from kmcli.types import Event, Reporter, Sample, silent
from training_cases import CHUNKS, RECIPE, one_thread, same, sample, samples, tiny

__all__ = ["one_thread", "tiny"]

GOING_ON = replace(RECIPE, held_out=0.0, early_stopping=False, init="notes", init_revision="module", steps=12)
STANDS = samples(12)
CHANGED = [sample(100 + number, response="Bo, in the year 2020") for number in range(3)]


@pytest.fixture(scope="module")
def old(tiny: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an adapter that was trained on what stands."""
    folder = tmp_path_factory.mktemp("old")
    trained(tiny, folder, STANDS, recipe=replace(GOING_ON, init="", steps=40))
    return folder / "out"


def trained(
    loaded: Loaded,
    folder: Path,
    some: list[Sample],
    kept: tuple[Sample, ...] = (),
    begin: Path | None = None,
    recipe: Any = GOING_ON,
    report: Reporter = silent,
) -> dict[str, Any]:
    for name in ("workspace", "out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    values = start.start([begin], recipe) if begin else None
    job = Job("", some, CHUNKS, recipe, folder / "workspace", folder / "out", start=values, kept=kept)
    results: list[Any] = []
    train_together(loaded, [job], report, lambda _, result: results.append(result))
    return dict(results[0])


def predictions(loaded: Loaded, folder: Path, some: list[Sample]) -> torch.Tensor:
    """Logits (N, V) of an adapter at what it answers."""
    views = [unaided(one, "", loaded) for one in some]
    model = lora.load(loaded, folder)
    try:
        with torch.no_grad():
            rows = [(view.student_ids, view.student_mask) for view in views]
            return logits(model, scored_states(model, loaded, rows)[-1])
    finally:
        model.unload()


def test_what_is_kept_stays_while_something_else_is_learnt(tiny: Loaded, old: Path, tmp_path: Path) -> None:
    free = trained(tiny, tmp_path / "free", CHANGED, begin=old)
    held = trained(tiny, tmp_path / "held", CHANGED, tuple(STANDS), begin=old)
    first, last = held["curve"][0], held["curve"][-1]
    assert abs(first["kept kl"]) < 1e-4  # it begins as its own teacher
    assert first["dcd kl"] == pytest.approx(free["curve"][0]["kl"], rel=1e-4)
    assert last["dcd kl"] < 0.5 * first["dcd kl"]
    before = predictions(tiny, old, STANDS)
    moved = [
        float(divergence(before, predictions(tiny, tmp_path / name / "out", STANDS), "forward"))
        for name in ("held", "free")
    ]
    assert moved[0] < 0.7 * moved[1], moved
    assert held["training_samples"] == len(CHANGED) + len(STANDS)


def test_stopped_it_goes_on_alike_also_where_what_it_was_is_lost(tiny: Loaded, old: Path, tmp_path: Path) -> None:
    def pressing(event: Event) -> None:
        if event.stage == "train" and event.done == 5:
            os.kill(os.getpid(), signal.SIGINT)

    whole = trained(tiny, tmp_path / "whole", CHANGED, tuple(STANDS), begin=old)
    again = tmp_path / "again"
    with pytest.raises(InterruptedRun):
        trained(tiny, again, CHANGED, tuple(STANDS), begin=old, report=pressing)
    shutil.rmtree(again / "workspace" / "before")
    resumed = trained(tiny, again, CHANGED, tuple(STANDS), begin=old)
    assert [point["loss"] for point in resumed["curve"]] == [point["loss"] for point in whole["curve"]]
    assert same(*(load_file(tmp_path / name / "out" / lora.WEIGHTS) for name in ("again", "whole")))


def test_a_helping_process_knows_what_is_to_stay(tiny: Loaded) -> None:
    mixture = mix(tiny, CHANGED, CHUNKS, "", GOING_ON, silent, kept=STANDS)
    (kept,) = (part for part in mixture.parts if part.name == "kept")
    assert (mixture.as_before, kept.weight) == (range(3, 15), 4.0)
    assert pickle.loads(pickle.dumps(mixture)).as_before == mixture.as_before
    assert len(mix(tiny, CHANGED, CHUNKS, "", GOING_ON, silent).as_before) == 0
