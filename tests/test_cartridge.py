"""Cartridges: where they begin, and what they learn."""

# ruff: noqa: F811 (imported fixtures)

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file

from cartridge_cases import CARTRIDGE, IDS, TEXT, folder_of, logits, trained
from kmcli.adapters import cartridge
from kmcli.adapters.folder import WEIGHTS
from kmcli.bases import Loaded
from kmcli.bases.vocabulary import Reader
from kmcli.engines import attention
from kmcli.errors import InterruptedRun, KmError, ResourceError
from kmcli.training import Job, predict, schedule, train, train_together
from kmcli.training.forward import scored_states
from kmcli.types import Event, silent
from training_cases import CHUNKS, RECIPE, make_tiny, one_thread, same, samples, tiny  # noqa: F401

# --- where it begins


def test_it_begins_as_the_document_read_by_the_base(tiny: Loaded) -> None:
    model = cartridge.build(tiny, CARTRIDGE, text=TEXT)
    ids = tiny.chat_ids([("user", TEXT)])[:24]
    both = logits(tiny.model, ids + IDS)[24:]
    torch.testing.assert_close(logits(model), both, rtol=1e-4, atol=1e-4)
    assert (logits(model) - logits(tiny.model)).abs().max() > 0.1
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(tiny.model))


def test_chunks_are_pieces_from_all_over_the_document(tiny: Loaded) -> None:
    whole = tiny.tokenizer.decode(tiny.tokenizer(TEXT, add_special_tokens=False)["input_ids"])

    def read(seed: int) -> str:
        return str(tiny.tokenizer.decode(cartridge.opening_ids(tiny, TEXT, "chunks", 120, seed)))

    assert len(cartridge.opening_ids(tiny, TEXT, "chunks", 120, 0)) == 120
    assert read(0) == read(0) != read(1)
    last = [number for number in range(30, 40) if f"mill {number}" in read(0) + read(1)]
    assert last
    assert "mill 39" in whole
    assert cartridge.opening_ids(tiny, "Ann.", "chunks", 120, 0) == tiny.chat_ids([("user", "Ann.")])[:120]


def test_random_needs_no_text_and_goes_by_the_seed(tiny: Loaded) -> None:
    def begin(seed: int) -> torch.Tensor:
        model = cartridge.build(tiny, replace(CARTRIDGE, cartridge_start="random", seed=seed))
        return torch.as_tensor(model.cartridges[model.active].weight.detach())

    assert begin(1).shape == (24, 2 * 2 * 2 * 16)
    assert torch.equal(begin(1), begin(1))
    assert abs(float(begin(1).std()) - 1) < 0.05
    assert not torch.equal(begin(1), begin(2))


def test_a_document_shorter_than_the_cartridge_is_all_of_it(tiny: Loaded) -> None:
    ids = tiny.chat_ids([("user", "Ann built it.")])
    assert attention.before(cartridge.build(tiny, CARTRIDGE, text="Ann built it."))[0][0].shape[1] == min(24, len(ids))  # type: ignore[index]


@pytest.mark.parametrize(
    ("changes", "text", "said"),
    [
        (
            {"cartridge_tokens": 400},
            TEXT,
            "a cartridge of 400 tokens leaves too little of the 512 that tiny reads at once.",
        ),
        ({"cartridge_frozen": 24}, TEXT, "of a cartridge of 24 tokens 24 cannot be frozen: none would be trained."),
        ({}, "", "the document has no text for a cartridge to begin from."),
    ],
)
def test_what_cannot_be_built(tiny: Loaded, changes: dict[str, Any], text: str, said: str) -> None:
    with pytest.raises(KmError) as caught:
        cartridge.build(tiny, replace(CARTRIDGE, **changes), text=text)
    assert caught.value.message == said


def test_a_base_that_sees_a_window_only_carries_none() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    from training_cases import SMALL, wrap

    windowed = wrap(MistralForCausalLM(MistralConfig(**SMALL, sliding_window=16)))
    with pytest.raises(ResourceError, match="nothing can stand before what tiny reads"):
        cartridge.build(windowed, CARTRIDGE, text=TEXT)


# --- training


@pytest.mark.parametrize("objective", ["dcd", "lm", "ddcd", "dcd,keep", "skd"])
def test_every_objective_trains_it(tiny: Loaded, tmp_path: Path, objective: str) -> None:
    chunk_tokens = 16 if objective == "skd" else 64  # as many does a student write that never ends by itself
    changes = {"objective": objective, "chunk_tokens": chunk_tokens}
    metrics, flat = trained(tiny, tmp_path, steps=12, skd_every=4, generations=2, **changes)
    curve = [point["loss"] for point in metrics["curve"]]
    assert sum(curve[-3:]) < sum(curve[:3])
    fresh = cartridge.build(tiny, CARTRIDGE, text=TEXT).cartridges["default"].weight.detach()
    assert torch.equal(flat[:1], fresh[:1])  # frozen
    moved = (flat[1:] - fresh[1:]).abs().amax(dim=1)
    assert (moved > 0).all()


def test_it_learns_the_likeliest_tokens_of_a_teacher(tiny: Loaded, tmp_path: Path) -> None:
    """Self-study as published: of the teacher's predictions its 20 likeliest tokens, cross-entropy alone."""
    recipe = replace(
        CARTRIDGE,
        distil_from="teacher",
        teacher="big",
        teacher_revision="9",
        teacher_top_k=20,
        hidden_weight=0.0,
        steps=12,
    )
    teacher = Reader(replace(tiny.base, name="big", revision="9"), tiny.tokenizer, tiny.end_ids)
    for name in ("work", "out"):
        (tmp_path / name).mkdir()
    given = samples(14), CHUNKS, recipe, tmp_path / "work"
    predict(tiny, teacher, lambda: replace(tiny, base=teacher.base), *given, silent, TEXT)
    metrics = train(tiny, *given, tmp_path / "out", silent, TEXT, teacher)
    curve = metrics["curve"]
    assert {"kl"} <= set(curve[0])
    assert "hidden" not in curve[0]
    assert sum(point["loss"] for point in curve[-3:]) < 0.9 * sum(point["loss"] for point in curve[:3])


def test_over_a_base_in_half_precision_it_is_in_full() -> None:
    half = make_tiny()
    half.model.bfloat16()
    model = cartridge.build(half, CARTRIDGE, text=TEXT)
    (parameter,) = cartridge.trainable(model).values()
    assert parameter.dtype == torch.float32
    row = IDS, [False] + [True] * (len(IDS) - 1)
    states = scored_states(model, half, [row])
    assert states.dtype == torch.bfloat16
    states.float().sum().backward()
    assert parameter.grad is not None
    assert parameter.grad.dtype == torch.float32
    assert parameter.grad.abs().sum() > 0


def test_its_gradients_are_those_of_peft(tiny: Loaded, tmp_path: Path) -> None:
    """Rows of several lengths, packed, against PEFT's padded batch whose rows have a copy each."""
    folder = folder_of(tiny, tmp_path / "module")
    rows = [IDS, IDS[5:30], IDS[2:9]]
    mine = cartridge.build(tiny, CARTRIDGE, text=TEXT)
    masks = [[False] + [True] * (len(ids) - 1) for ids in rows]
    states = scored_states(mine, tiny, list(zip(rows, masks, strict=True)))[-1]
    wanted = torch.tensor([token for ids in rows for token in ids[1:]])
    torch.nn.functional.cross_entropy(tiny.model.lm_head(states), wanted).backward()

    other = peft.PeftModel.from_pretrained(make_tiny().model, folder)
    other.peft_config["default"].inference_mode = False
    theirs = other.prompt_encoder["default"].trainable_embedding.requires_grad_()
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    found = other(input_ids=ids, attention_mask=mask).logits
    scored = torch.cat([found[place, : len(row) - 1] for place, row in enumerate(rows)])
    torch.nn.functional.cross_entropy(scored, wanted).backward()
    (parameter,) = cartridge.trainable(mine).values()
    assert float(theirs.grad.abs().max()) > 0
    torch.testing.assert_close(parameter.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_rows_share_it_and_none_has_a_copy(tiny: Loaded) -> None:
    """Of all that is kept for the gradients of 16 rows, nothing is as large as 16 copies of a layer's keys."""
    tokens, count = 200, 16
    model = cartridge.build(tiny, replace(CARTRIDGE, cartridge_tokens=tokens, cartridge_start="random"))
    kept: list[tuple[int, ...]] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    row = IDS[:4], [False, True, True, True]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        scored_states(model, tiny, [row] * count)
    assert (2, 200, 16) in [shape for shape in kept if len(shape) == 3] or (2, 16, 200) in kept
    with_size = [shape for shape in kept if tokens in shape and 16 in shape[-2:] and len(shape) > 3]
    assert all(count not in shape[:1] for shape in with_size)
    layers = attention.before(model)
    assert layers
    shared = attention.only(layers, count)
    assert all(keys.data_ptr() == own.data_ptr() for (keys, _), (own, _) in zip(shared.layers, layers, strict=True))


def test_it_trains_without_denormals_which_are_back_afterwards(tiny: Loaded, tmp_path: Path) -> None:
    """With them a step takes twice the time on Intel's processors."""

    def tiny_product() -> float:
        return float(torch.full((1,), 1e-30) * 1e-10)

    during: list[float] = []

    def watch(event: Event) -> None:
        if event.stage == "train":
            during.append(tiny_product())

    assert tiny_product() > 0
    trained(tiny, tmp_path, watch, steps=2)
    assert during == [0.0, 0.0]
    assert tiny_product() > 0


def test_ctrl_c_and_the_next_run_ends_bitwise_alike(
    tiny: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "EVALUATE_EVERY", 3)
    whole_metrics, whole = trained(tiny, tmp_path / "whole", steps=12, cartridge_start="chunks")
    steps: list[float] = []

    def interrupting(event: Event) -> None:
        if event.stage == "train":
            steps.append(event.done or 0)
            if event.done == 5:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRun):
        trained(tiny, tmp_path / "torn", interrupting, steps=12, cartridge_start="chunks")
    metrics, flat = trained(tiny, tmp_path / "torn", interrupting, steps=12, cartridge_start="chunks")
    assert steps == list(range(1, 13))
    assert metrics["held_out_loss"] == whole_metrics["held_out_loss"]
    assert torch.equal(flat, whole)


def test_documents_side_by_side_end_as_alone(tiny: Loaded, tmp_path: Path) -> None:
    def job(number: int, place: str) -> Job:
        paths = tmp_path / f"{place}-work{number}", tmp_path / f"{place}-out{number}"
        for path in paths:
            path.mkdir()
        recipe = replace(CARTRIDGE, seed=number, cartridge_tokens=12 + 4 * number)
        return Job(str(number), samples(8 + 4 * number), CHUNKS, recipe, *paths, TEXT)

    def learnt(jobs: list[Job]) -> dict[str, torch.Tensor]:
        results: dict[str, Any] = {}
        train_together(tiny, jobs, silent, lambda one, result: results.update({one.name: result}))
        assert all(isinstance(result, dict) for result in results.values())
        return {one.name: load_file(one.out / WEIGHTS)[cartridge.EMBEDDINGS] for one in jobs}

    side_by_side = learnt([job(number, "both") for number in range(2)])
    for number in range(2):
        assert same(learnt([job(number, "alone")]), {str(number): side_by_side[str(number)]})
    assert [len(flat) for flat in side_by_side.values()] == [12, 16]
