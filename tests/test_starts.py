"""A training that begins from other Knowledge Modules: where it begins, what is refused, what is recorded."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cli_cases import Km
from kmcli.adapters import lora, start
from kmcli.bases import Loaded
from kmcli.errors import InterruptedRun, KmError
from kmcli.training import Job, train_together
from kmcli.types import Event, Recipe, Reporter, silent
from training_cases import CHUNKS, RECIPE, one_thread, same, samples, tiny
from workflow_cases import TINY, entry, is_sound, km, permits, sentences, trained_home
from written_once import written_once

__all__ = ["km", "permits", "trained_home"]


def saved(loaded: Loaded, folder: Path, seed: int, recipe: Recipe = RECIPE) -> Path:
    """A random adapter in a folder."""
    model = lora.build(loaded, recipe)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in lora.trainable(model).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    folder.mkdir()
    lora.save(model, folder)
    model.unload()
    return folder


def added(folder: Path) -> dict[str, torch.Tensor]:
    """What an adapter adds to each layer (out, in)."""
    tensors = load_file(folder / lora.WEIGHTS)
    config = json.loads((folder / lora.CONFIG).read_text())
    scale = config["lora_alpha"] / config["r"]
    layers = {name.partition(".lora_")[0] for name in tensors}
    return {
        layer.removeprefix("base_model.model."): scale
        * tensors[f"{layer}.lora_B.weight"]
        @ tensors[f"{layer}.lora_A.weight"]
        for layer in layers
    }


def adds(values: start.Start, recipe: Recipe) -> dict[str, torch.Tensor]:
    return {layer: recipe.alpha / recipe.rank * b @ a for layer, (a, b) in values.items()}


def test_one_adapter_begins_as_it_is_whatever_its_scale(tiny: Loaded, tmp_path: Path) -> None:
    folder = saved(tiny, tmp_path / "one", 1)
    for recipe in (RECIPE, replace(RECIPE, alpha=3)):
        torch.testing.assert_close(adds(start.start([folder], recipe), recipe), added(folder))


def test_the_mean_is_the_nearest_of_its_rank_and_always_the_same(tiny: Loaded, tmp_path: Path) -> None:
    folders = [saved(tiny, tmp_path / str(seed), seed) for seed in (1, 2, 3)]
    state = torch.random.get_rng_state()
    values = start.start(folders, RECIPE)
    assert torch.equal(torch.random.get_rng_state(), state)
    for layer, (a, b) in start.start(folders, RECIPE).items():
        assert torch.equal(a, values[layer][0])
        assert torch.equal(b, values[layer][1])
    mean = {layer: sum(added(folder)[layer] for folder in folders) / 3 for layer in values}
    for layer, mine in adds(values, RECIPE).items():
        least = torch.linalg.svdvals(mean[layer])[RECIPE.rank :].norm()
        assert least > 0
        assert float((mine - mean[layer]).norm()) == pytest.approx(float(least), rel=0.02)
    alike = start.start([folders[0]] * 3, RECIPE)
    torch.testing.assert_close(adds(alike, RECIPE), added(folders[0]), rtol=1e-3, atol=1e-3)


def trained(
    loaded: Loaded, folder: Path, recipe: Recipe, begin: start.Start | None = None, report: Reporter = silent
) -> dict[str, Any]:
    for name in ("workspace", "out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    job = Job("", samples(10), CHUNKS, recipe, folder / "workspace", folder / "out", start=begin)
    results: list[Any] = []
    train_together(loaded, [job], report, lambda _, result: results.append(result))
    if isinstance(results[0], KmError):
        raise results[0]
    return dict(results[0])


def pressing(at: int) -> Reporter:
    def report(event: Event) -> None:
        if event.stage == "train" and event.done == at:
            os.kill(os.getpid(), signal.SIGINT)

    return report


def test_training_goes_on_from_there_and_a_checkpoint_outranks_it(tiny: Loaded, tmp_path: Path) -> None:
    recipe = replace(RECIPE, held_out=0.0, early_stopping=False)
    first = trained(tiny, tmp_path / "first", replace(recipe, steps=40))
    begin = start.start([tmp_path / "first" / "out"], recipe)
    fresh, second = trained(tiny, tmp_path / "fresh", recipe), trained(tiny, tmp_path / "second", recipe, begin)
    assert second["curve"][0]["loss"] < 0.9 * fresh["curve"][0]["loss"]
    assert second["curve"][0]["loss"] < 1.5 * first["curve"][-1]["loss"]
    with pytest.raises(InterruptedRun):
        trained(tiny, tmp_path / "again", recipe, begin, pressing(4))
    again = trained(tiny, tmp_path / "again", recipe)
    assert [point["loss"] for point in again["curve"]] == [point["loss"] for point in second["curve"]]
    assert same(*(load_file(tmp_path / name / "out" / lora.WEIGHTS) for name in ("again", "second")))


def test_an_adapter_of_another_shape_is_refused(tiny: Loaded, tmp_path: Path) -> None:
    begin = start.start([saved(tiny, tmp_path / "wide", 1, replace(RECIPE, rank=6))], RECIPE)
    with pytest.raises(KmError, match="changes other layers of the base, or has another rank"):
        trained(tiny, tmp_path / "narrow", RECIPE, begin)


# --- by the command ---


def recipe_of(km: Km, name: str) -> dict[str, Any]:
    return dict(entry(km, name)["module"]["recipe"])


def card_of(home: Path, km: Km, name: str) -> str:
    return (home / "modules" / entry(km, name)["module"]["id"] / "card.md").read_text()


def test_it_begins_from_a_document_or_from_all_others(km: Km, trained_home: Path, permits: Path) -> None:
    notes = entry(km, "notes")["module"]["id"]
    assert km("tag", "notes", "permits", "--add", "old").code == 0
    for init, said in (
        ("notes", "the Knowledge Module of notes"),
        ("library", "the mean of 1 Knowledge Module"),
        ("@old", "the mean of 1 Knowledge Module"),
    ):
        run = km("train", "permits", *TINY, "--init", init, "--force", "--json")
        assert run.code == 0
        assert f"permits begins from {said}" in run.err
        recipe = recipe_of(km, "permits")
        assert (recipe["init"], recipe["init_revision"]) == (init, notes)  # its own is no part of the mean
        assert "It began from" in card_of(trained_home, km, "permits")
        assert "permits is trained already" in km("train", "permits", *TINY, "--init", init).err
    run = km("train", "permits", *TINY, "--force", "--json")
    assert (recipe_of(km, "permits")["init"], "begins from" in run.err) == ("", False)
    assert "It began from" not in card_of(trained_home, km, "permits")
    assert is_sound(km)


def test_what_it_cannot_begin_from_is_refused_before_anything_is_written(
    km: Km, trained_home: Path, permits: Path
) -> None:
    for words, code, message in (
        (["--init", "nots"], 3, "km: there is no document 'nots'."),
        (["--init", "permits"], 3, "km: permits has no Knowledge Module yet."),
        (["--init", "@none"], 3, "km: no document has the tag 'none'."),
        (
            ["--init", "notes", "--set", "rank=4"],
            2,
            "km: the Knowledge Module of notes has rank 16, and this recipe 4.",
        ),
        (
            ["--init", "library", "--set", "rank=4"],
            2,
            "km: no other document has a Knowledge Module of rank 4 on embedded",
        ),
        (["--set", "init_revision=x"], 2, "km: a recipe has no 'init_revision' (--set)."),
    ):
        run = km("train", "permits", *TINY, *words)
        assert run.code == code
        assert sentences(run.err)[0].startswith(message)
    shown = entry(km, "permits")
    assert (shown["state"], shown["samples"]) == ("untrained", {})
