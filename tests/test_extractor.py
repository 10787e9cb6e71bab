"""The Knowledge Extractor as arithmetic: what learns, what it adds, and that baking changes nothing."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from extractor_cases import RECIPE, disturbed, example, examples, folders, loaded, read
from kmcli.adapters import lora, stack
from kmcli.adapters.extractor import MIXING, Mixture, bake, linear_layers
from kmcli.bases import Loaded
from kmcli.errors import KmError, ResourceError
from kmcli.training.extractor import Example, Modules, answer_scores, batch_of, example_losses, pieces
from kmcli.training.stepwise import split
from training_cases import one_thread

IDS = torch.tensor([[3, 44, 500, 6001, 17, 28], [9, 80, 71, 6, 500, 4001], [5, 4, 3, 2000, 100, 7]])


def logits(loaded: Loaded) -> torch.Tensor:
    with torch.no_grad():
        return loaded.model(input_ids=IDS, use_cache=False).logits


def logits_by_peft(loaded: Loaded, folder: Path) -> torch.Tensor:
    model = lora.load(loaded, folder)
    try:
        with torch.no_grad():
            return model(input_ids=IDS, use_cache=False).logits
    finally:
        model.unload()


def modules(loaded: Loaded, folders: dict[str, Path]) -> Modules:
    return Modules(lambda document: read(loaded, folders[document]))


# --- what it is


def test_every_layer_begins_with_half_of_each_and_an_extractor_that_adds_nothing(loaded: Loaded) -> None:
    mixture = Mixture(loaded, 4, 8, seed=0)
    names = {name.rpartition("model.")[2] for name in linear_layers(loaded.model)}
    assert len(names) == 14  # seven in each of two layers, and not the head
    assert len(mixture.parameters) == 4 * 14
    weights = [value for name, value in mixture.parameters.items() if name.endswith((".w_km", ".w_ke"))]
    assert len(weights) == 28
    assert {value.item() for value in weights} == {0.5}
    ups = [value for name, value in mixture.parameters.items() if "lora_B" in name]
    assert not any(value.any() for value in ups)
    assert mixture.weights() == (0.5, 0.5)


def test_a_fresh_one_halves_what_the_module_changes(loaded: Loaded, folders: dict[str, Path]) -> None:
    mixture = Mixture(loaded, 4, 8, seed=0)
    half = read(loaded, folders["d0"])
    halved = stack.Adapter(half.rank, {name: (down, up / 2) for name, (down, up) in half.factors.items()})
    with mixture.on([half] * 3):
        mine = logits(loaded)
    with mixture.on([halved] * 3, alone=True):
        theirs = logits(loaded)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_alone_means_the_modules_as_they_are(loaded: Loaded, folders: dict[str, Path]) -> None:
    mixture = disturbed(loaded)
    with mixture.on([read(loaded, folders["d1"])] * 3, alone=True):
        mine = logits(loaded)
    torch.testing.assert_close(mine, logits_by_peft(loaded, folders["d1"]), rtol=1e-4, atol=1e-4)


def test_a_layer_adds_what_the_formula_says(loaded: Loaded, folders: dict[str, Path]) -> None:
    mixture, module = disturbed(loaded), read(loaded, folders["d2"])
    name = "model.layers.1.mlp.up_proj"
    layer = loaded.model.get_submodule(name)
    states = torch.randn(1, 3, 64, generator=torch.Generator().manual_seed(1))
    down, up = (mixture.parameters[f"{name}.lora_{side}.weight"] for side in "AB")
    w_km, w_ke = (mixture.parameters[f"{name}.{key}"] for key in ("w_km", "w_ke"))
    first, second = module.factors[name]
    expected = layer(states) + w_km * (states @ first @ second) + w_ke * 2.0 * (states @ down.T @ up.T)
    with mixture.on([module]):
        torch.testing.assert_close(layer(states), expected, rtol=1e-5, atol=1e-5)
    assert not layer._forward_hooks


def test_rows_side_by_side_equal_rows_alone(loaded: Loaded, folders: dict[str, Path]) -> None:
    mixture = disturbed(loaded)
    mixed = [read(loaded, folders["d0"]), None, read(loaded, folders["d5"])]  # ranks 2 and 4
    with mixture.on(mixed):
        together = logits(loaded)
    for row, module in enumerate(mixed):
        with mixture.on([module] * 3):
            torch.testing.assert_close(together[row], logits(loaded)[row], rtol=1e-4, atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 0.1


def test_gradients_go_to_the_extractor_and_the_weights_alone(loaded: Loaded, folders: dict[str, Path]) -> None:
    mixture, some = disturbed(loaded), examples(loaded, ["d0", "d1"])
    known = modules(loaded, folders)
    example_losses(answer_scores(loaded, mixture, known, some), some).sum().backward()
    for name, value in mixture.parameters.items():
        assert value.grad is not None, name
        assert value.grad.abs().max() > 0, name
    assert all(parameter.grad is None for parameter in loaded.model.parameters())
    factors = [one for document in ("d0", "d1") for pair in known.of(document).factors.values() for one in pair]
    assert not any(one.requires_grad or one.grad is not None for one in factors)


def test_a_module_of_another_base_is_refused(loaded: Loaded) -> None:
    odd = stack.Adapter(1, {"model.layers.9.q_proj": (torch.zeros(64, 1), torch.zeros(1, 64))})
    refused = pytest.raises(ResourceError, match=r"changes model\.layers\.9\.q_proj, which is no linear layer")
    with refused, Mixture(loaded, 4, 8, seed=0).on([odd]):
        pass


# --- scores and losses


def test_a_score_is_the_mean_log_likelihood_of_the_answer(loaded: Loaded, folders: dict[str, Path]) -> None:
    mixture = disturbed(loaded)
    short, long = examples(loaded, ["d3"])
    options = example(loaded, "d0", "Who?", "Ann", "Bo of the mill", "nobody", right=2)
    scores = answer_scores(loaded, mixture, modules(loaded, folders), [short, options, long])
    assert [len(one) for one in scores] == [1, 3, 1]
    for one, found in zip((short, options, long), scores, strict=True):
        for answer, score in zip(one.answers, found, strict=True):
            ids = torch.tensor([one.prompt + answer])
            with torch.no_grad(), mixture.on([read(loaded, folders[one.document])]):
                logs = loaded.model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
            places = range(len(one.prompt) - 1, ids.shape[1] - 1)
            by_hand = sum(float(logs[place, ids[0, place + 1]]) for place in places) / len(answer)
            assert float(score) == pytest.approx(by_hand, abs=1e-4)


def test_losses_by_hand() -> None:
    plain = Example("d", [1], ([2],))
    choice = Example("d", [1], ([2], [3], [4]), right=1)
    scores = [torch.tensor([-1.5]), torch.tensor([-1.0, -2.0, -3.0])]
    losses = example_losses(scores, [plain, choice])
    # -log(e^-2 / (e^-1 + e^-2 + e^-3)) = 2 + log(0.36788 + 0.13534 + 0.04979) = 2 - 0.59239
    assert losses.tolist() == pytest.approx([1.5, 1.40761], abs=1e-4)


def test_pieces_hold_every_question_once_and_as_many_tokens_as_they_may() -> None:
    some = [Example("d", [1] * size, ([2, 3],)) for size in (9, 3, 4, 20, 5)]
    found = list(pieces(some, 12))
    assert sorted(len(one.prompt) for piece in found for one in piece) == [3, 4, 5, 9, 20]
    assert [[len(one.prompt) for one in piece] for piece in found] == [[3, 4], [5], [9], [20]]


def test_each_epoch_asks_every_question_once_in_another_order() -> None:
    some = [Example("d", [number], ([2],)) for number in range(10)]
    epochs = [
        [one.prompt[0] for step in steps for one in batch_of(step, some, RECIPE)] for steps in ((0, 1, 2), (3, 4, 5))
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]


def test_documents_are_held_out_whole() -> None:
    names = [f"d{number}" for number in range(8)]
    taught, held = split(names, RECIPE.held_out, RECIPE.seed)
    assert len(held) == 2
    assert sorted(taught + held) == names
    assert split(list(reversed(names)), RECIPE.held_out, RECIPE.seed) == (taught, held)
    assert split(names[:3], RECIPE.held_out, RECIPE.seed)[1] == []


# --- baked


def saved(mixture: Mixture, folder: Path) -> Path:
    folder.mkdir()
    mixture.save(folder)
    return folder


@pytest.mark.parametrize("document", ["d0", "d5", None])
def test_baked_equals_unbaked(loaded: Loaded, folders: dict[str, Path], tmp_path: Path, document: str | None) -> None:
    mixture = disturbed(loaded)
    out = tmp_path / "baked"
    out.mkdir()
    bake(saved(mixture, tmp_path / "ke"), folders[document] if document else None, out)
    module = read(loaded, folders[document]) if document else None
    with mixture.on([module] * 3):
        unbaked = logits(loaded)
    assert (unbaked - logits(loaded)).abs().max() > 0.1
    torch.testing.assert_close(logits_by_peft(loaded, out), unbaked, rtol=1e-4, atol=1e-4)
    config = json.loads((out / lora.CONFIG).read_text())
    ranks = {"d0": 2, "d5": 4, None: 0}
    assert (config["r"], config["lora_alpha"]) == (4 + ranks[document],) * 2
    assert config["revision"] == loaded.base.revision
    assert config["target_modules"] == sorted(config["target_modules"])
    assert read(loaded, out).rank == config["r"]  # so everything that takes a plain LoRA takes it


def test_the_extractor_itself_is_a_lora_that_peft_loads(loaded: Loaded, tmp_path: Path) -> None:
    mixture = disturbed(loaded)
    with torch.no_grad():
        for name, value in mixture.parameters.items():
            if name.endswith(".w_ke"):
                value.fill_(1.0)
    with mixture.on([None] * 3):
        mine = logits(loaded)
    theirs = logits_by_peft(loaded, saved(mixture, tmp_path / "ke"))
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_damage_is_a_sentence(loaded: Loaded, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = saved(disturbed(loaded), tmp_path / "ke")
    out = tmp_path / "out"
    out.mkdir()
    (folder / MIXING).write_bytes(b"nonsense")
    with pytest.raises(KmError, match=r"the Knowledge Extractor in .* cannot be loaded") as damaged:
        bake(folder, folders["d0"], out)
    assert damaged.value.hint == "Train it again with: km extractor train NAME --restart"
    (folder / lora.WEIGHTS).unlink()
    with pytest.raises(KmError, match="the Knowledge Extractor in"):
        bake(folder, None, out)
    folder.rename(tmp_path / "away")
    with pytest.raises(ResourceError, match=f"^{folder} was replaced or removed meanwhile. Try again.$"):
        bake(folder, None, out)
    with pytest.raises(ResourceError, match=f"^{tmp_path / 'moved'} is gone"):
        bake(tmp_path / "moved" / "extractors" / "ke", None, out)
    assert list(out.iterdir()) == []
