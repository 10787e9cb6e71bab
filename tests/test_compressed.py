"""Compressed documents: what reads their vectors, what learns, and one LoRA for a group."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from compressed_cases import (
    COMPRESSED,
    GREEDY,
    IDS,
    TEXT,
    behind,
    interrupting,
    job_of,
    logits,
    tensors,
    trained,
)
from kmcli import adapters
from kmcli.adapters import compressed, lora, summary, together
from kmcli.adapters.shelf import Shelf
from kmcli.bases import Loaded
from kmcli.engines.hf import HfEngine
from kmcli.errors import InterruptedRun, KmError, UsageError
from kmcli.training import packed, schedule, train_together
from kmcli.training.forward import scored_states
from kmcli.types import silent
from training_cases import RECIPE, make_tiny, one_thread, same, tiny

# --- what reads them


def test_they_stand_before_the_text_as_input_embeddings(tiny: Loaded) -> None:
    model = compressed.build(tiny, COMPRESSED, text=TEXT)
    vectors = summary.vectors_of(tiny, TEXT, 8, Shelf())
    torch.testing.assert_close(logits(model), behind(tiny, model, vectors), rtol=1e-4, atol=1e-4)
    with model.disable_adapter():
        plain = logits(model)
    model.unload()
    assert torch.equal(plain, logits(tiny.model))
    with_lora = lora.build(tiny, RECIPE)
    assert (behind(tiny, with_lora, vectors) - plain).abs().max() > 0.1
    with_lora.unload()  # type: ignore[operator]


def test_gradients_go_through_them(tiny: Loaded) -> None:
    """Of packed rows that share them, as of each row by itself behind the vectors."""
    model = compressed.build(tiny, replace(COMPRESSED, summary_refined=True), text=TEXT)
    rows = [IDS[:20], IDS[5:12]]
    masks = [[False] + [True] * (len(ids) - 1) for ids in rows]
    wanted = torch.tensor([token for ids in rows for token in ids[1:]])
    states = scored_states(model, tiny, list(zip(rows, masks, strict=True)))[-1]
    torch.nn.functional.cross_entropy(tiny.model.lm_head(states), wanted).backward()  # type: ignore[operator]
    parameters = compressed.trainable(model)
    mine = {name: one.grad.clone() for name, one in parameters.items() if one.grad is not None}
    assert mine.keys() == parameters.keys()
    for one in parameters.values():
        one.grad = None
    table: Any = tiny.model.get_input_embeddings()
    found = []
    for ids in rows:
        embedded = torch.cat([model.embeddings(model.active), table(torch.tensor(ids))])
        output = model.get_base_model()(inputs_embeds=embedded[None], use_cache=False)
        found.append(output.logits[0, -len(ids) : -1])
    torch.nn.functional.cross_entropy(torch.cat(found), wanted).backward()
    model.unload()
    for name, one in parameters.items():
        torch.testing.assert_close(mine[name], one.grad, rtol=1e-3, atol=1e-6)
    assert mine["vectors.0"].abs().max() > 0


def test_gradients_are_the_same_where_memory_is_saved(tiny: Loaded) -> None:
    found = []
    for saving in (False, True):
        model = compressed.build(tiny, replace(COMPRESSED, summary_refined=True), text=TEXT)
        base: Any = model.get_base_model()
        model.train()
        if saving:
            base.gradient_checkpointing_enable({"use_reentrant": False})
        states = scored_states(model, tiny, [(IDS, [False] + [True] * (len(IDS) - 1))])[-1]
        with packed.attending(base.get_decoder()):
            states.square().mean().backward()
        found.append({name: one.grad for name, one in compressed.trainable(model).items()})
        base.gradient_checkpointing_disable()
        model.unload().eval()
    assert found[0]["vectors.0"].abs().max() > 0
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, rtol=1e-4, atol=1e-7)


def test_training_moves_the_lora_and_the_vectors_where_they_are_refined(tiny: Loaded, tmp_path: Path) -> None:
    means = summary.vectors_of(tiny, TEXT, 8, Shelf())
    for refined in (False, True):
        metrics, found = trained(tiny, tmp_path / str(refined), steps=12, summary_refined=refined)
        curve = [point["loss"] for point in metrics["curve"]]
        assert sum(curve[-3:]) < 0.95 * sum(curve[:3])
        moved = (found.pop("vectors") - means).abs().max()
        assert moved > 0.01 if refined else moved < 1e-6
        assert all(one.abs().max() > 0 for name, one in found.items() if "lora_B" in name)


def test_ctrl_c_and_the_next_run_ends_bitwise_alike(
    tiny: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "EVALUATE_EVERY", 3)
    _, whole = trained(tiny, tmp_path / "whole", steps=8, summary_refined=True)
    steps: list[float] = []
    with pytest.raises(InterruptedRun):
        trained(tiny, tmp_path / "torn", interrupting(5, steps), steps=8, summary_refined=True)
    _, torn = trained(tiny, tmp_path / "torn", interrupting(5, steps), steps=8, summary_refined=True)
    assert steps == list(range(1, 9))
    assert same(torn, whole)


def test_many_are_asked_side_by_side_as_alone(tiny: Loaded, tmp_path: Path) -> None:
    for number in range(3):
        trained(tiny, tmp_path / str(number), steps=6, seed=number, summary_refined=True, text=TEXT[50 * number :])
    folders = [tmp_path / str(number) / "out" for number in range(3)]
    chat = [("user", "Who did the thing of number 3?")]
    alone = []
    for folder in folders:
        model = adapters.load(tiny, folder)
        engine = HfEngine(tiny, model)
        assert engine.standing == len(load_file(folder / compressed.BESIDE)["vectors"])
        assert engine.context == 512 - engine.standing
        alone.append(engine.generate([chat], GREEDY)[0].text)
        model.unload()
    found = dict(together.answers(tiny, folders, tiny.chat_ids(list(chat)), GREEDY))
    assert [found[place].text for place in range(3)] == alone  # type: ignore[union-attr]
    assert len(set(alone)) > 1


# --- one LoRA for several documents


def test_a_group_has_one_lora_and_each_its_vectors(tiny: Loaded, tmp_path: Path) -> None:
    given = {"group": "a,b,c", "steps": 5, "summary_refined": True}
    jobs = [
        job_of(tmp_path / name, 6 + 4 * place, text=TEXT[90 * place :], **given) for place, name in enumerate("abc")
    ]
    results: dict[str, Any] = {}
    train_together(tiny, jobs, silent, lambda job, result: results.update({job.name: result}))
    found = {job.name: tensors(job.out) for job in jobs}
    vectors = {name: one.pop("vectors") for name, one in found.items()}
    assert same(found["a"], found["b"])
    assert same(found["a"], found["c"])
    assert {metrics["steps"] for metrics in results.values()} == {15}  # five for each
    for place, name in enumerate("abc"):
        began = summary.vectors_of(tiny, TEXT[90 * place :], 8, Shelf())
        assert vectors[name].shape == began.shape
        assert (vectors[name] - began).abs().max() > 1e-3
    assert adapters.name_of(jobs[1].out) == "compressed"


def test_the_steps_of_a_group_take_turns_and_read_the_right_vectors(
    tiny: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = compressed.activate
    monkeypatch.setattr(compressed, "activate", lambda model, names: (seen.append(names[0]), real(model, names))[1])
    jobs = [job_of(tmp_path / name, group="a,b", steps=2, held_out=0.0) for name in "ab"]
    train_together(tiny, jobs, silent, lambda job, result: None)
    assert seen[-4:] == ["document0", "document1", "document0", "document1"]


# --- its folder


def test_peft_loads_the_lora_of_it_and_km_all(tiny: Loaded, tmp_path: Path) -> None:
    trained(tiny, tmp_path, steps=4)
    folder = tmp_path / "out"
    assert adapters.name_of(folder) == "compressed"
    assert adapters.beside(folder) == folder / compressed.BESIDE
    mine = adapters.load(tiny, folder)
    read = logits(mine)
    vectors = load_file(folder / compressed.BESIDE)["vectors"]
    mine.unload()
    theirs = peft.PeftModel.from_pretrained(make_tiny().model, folder).eval()
    torch.testing.assert_close(read, behind(tiny, theirs, vectors), rtol=1e-4, atol=1e-4)
    (tmp_path / "plain").mkdir()
    assert adapters.name_of(adapters.without_it(folder, tmp_path / "plain")) == "lora"
    assert adapters.beside(tmp_path / "plain") is None


def test_what_cannot_be_loaded(tiny: Loaded, tmp_path: Path) -> None:
    trained(tiny, tmp_path, steps=1)
    folder = tmp_path / "out"
    with pytest.raises(UsageError, match="a compressed document takes no weight"):
        adapters.load_sum(tiny, [(folder, 0.5)])
    with pytest.raises(UsageError, match="compressed documents cannot be on the base together"):
        adapters.load_sum(tiny, [(folder, 1.0), (folder, 1.0)])
    save_file({"vectors": torch.ones(3, 32)}, folder / compressed.BESIDE)
    with pytest.raises(KmError, match="they have 32 numbers each, its embeddings 64"):
        adapters.load(tiny, folder)
    (folder / compressed.BESIDE).write_bytes(b"\0")
    with pytest.raises(KmError, match="cannot be loaded: "):
        adapters.load(tiny, folder)
