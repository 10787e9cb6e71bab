"""Compressed documents: the vectors and their compressor, what reads them, what learns, and one LoRA for a group."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from kmcli import adapters
from kmcli.adapters import compressed, lora, summary, together
from kmcli.adapters.folder import CONFIG, WEIGHTS
from kmcli.adapters.shelf import Shelf
from kmcli.bases import Loaded
from kmcli.engines import Sampling
from kmcli.engines.hf import HfEngine
from kmcli.errors import InterruptedRun, KmError, UsageError
from kmcli.objectives.views import chunk_in_context
from kmcli.training import Job, compressor, loop, packed, train_together
from kmcli.training.compressor_recipe import CompressorRecipe, resolve
from kmcli.training.forward import scored_states
from kmcli.training.segments import Drawn, Text
from kmcli.types import Event, Recipe, silent
from training_cases import CHUNKS, RECIPE, make_tiny, one_thread, same, samples, tiny

TEXT = " ".join(f"Ann built mill {number} in {1800 + number}, and Bo kept it." for number in range(20))
COMPRESSED = replace(RECIPE, adapter="compressed", summary_ratio=8)
IDS = list(range(3, 43))
GREEDY = Sampling(max_tokens=8, temperature=0.0)
FEW = CompressorRecipe(rank=4, alpha=8, steps=30, learning_rate=0.01, ratios=(8, 15), held_out=0.2)


def ids_of(loaded: Loaded, text: str) -> list[int]:
    return list(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])


def logits(model: Any, ids: list[int] = IDS) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(model(input_ids=torch.tensor([ids])).logits[0])


def behind(loaded: Loaded, model: Any, vectors_VH: torch.Tensor, ids: list[int] = IDS) -> torch.Tensor:
    """Logits of ids whose row begins with vectors, by the model's own forward pass."""
    embedded = loaded.model.get_input_embeddings()(torch.tensor(ids))
    with torch.no_grad():
        found = model.get_base_model()(inputs_embeds=torch.cat([vectors_VH, embedded])[None], use_cache=False)
    return torch.as_tensor(found.logits[0, len(vectors_VH) :])


def trained(loaded: Loaded, folder: Path, report: Any = silent, **changes: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """A training in a folder, or what is left of it: its metrics, and the tensors of both its files."""
    job = job_of(folder, **changes)
    results: list[Any] = []
    train_together(loaded, [job], report, lambda _, result: results.append(result))
    return results[0], tensors(job.out)


def job_of(folder: Path, count: int = 14, **changes: Any) -> Job:
    for name in ("work", "out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    text = changes.pop("text", TEXT)
    recipe = replace(COMPRESSED, **changes)
    return Job(folder.name, samples(count), CHUNKS, recipe, folder / "work", folder / "out", text)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / WEIGHTS) | load_file(folder / compressed.BESIDE)


def texts(loaded: Loaded) -> list[Text]:
    """Of five documents with material on the chunks that `samples` are about."""
    material = [
        (ids_of(loaded, CHUNKS[one.chunk_sha256]), chunk_in_context(one, CHUNKS[one.chunk_sha256], loaded))
        for one in samples(6)
    ]
    return [Text(ids_of(loaded, TEXT[start * 40 :]), material[start : start + 2]) for start in range(5)]


def made(loaded: Loaded, folder: Path, report: Any = silent, **changes: Any) -> tuple[dict[str, Any], Path]:
    for name in ("work", "out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    given = texts(loaded)
    recipe = replace(FEW, **changes)
    return compressor.train(
        loaded, given[1:], given[:1], recipe, folder / "work", folder / "out", report
    ), folder / "out"


# --- the vectors


def test_segments_are_alike_and_each_has_its_share_of_vectors(tiny: Loaded) -> None:
    assert [len(one) for one in summary.segments(range(130), 64)] == [43, 43, 44]
    assert summary.segments([], 64) == []
    assert [summary.vectors_for(43, ratio) for ratio in (4, 15, 30, 1000)] == [11, 3, 1, 1]
    assert (summary.segment_tokens(tiny.base), summary.most_vectors(tiny.base)) == (64, 16)
    assert summary.segment_tokens(replace(tiny.base, chunk_tokens=4096)) == 1536


def test_without_a_compressor_they_are_the_means_of_what_they_stand_for(tiny: Loaded) -> None:
    ids = ids_of(tiny, "Ann built the mill in 1871, and Bo kept it until the fire.")
    table = tiny.model.get_input_embeddings().weight  # type: ignore[union-attr]
    found = summary.vectors_of(tiny, "Ann built the mill in 1871, and Bo kept it until the fire.", 8, Shelf())
    assert len(found) == round(len(ids) / 8) == 2
    middle = -(-len(ids) // 2)
    expected = torch.stack([table[ids[:middle]].mean(0), table[ids[middle:]].mean(0)])
    torch.testing.assert_close(found, expected)


def test_what_has_no_vectors(tiny: Loaded) -> None:
    with pytest.raises(KmError, match="the document has no text for summary vectors"):
        summary.vectors_of(tiny, "", 8, Shelf())
    with pytest.raises(
        UsageError, match=r"summary vectors leave too little of the 512 tokens that tiny reads"
    ) as caught:
        summary.vectors_of(tiny, TEXT * 6, 4, Shelf())
    ratio = int(caught.value.hint.removeprefix("Make them fewer: --ratio "))
    assert len(summary.vectors_of(tiny, TEXT * 6, ratio, Shelf())) <= 256


def test_a_compressor_adds_to_the_means_and_is_learned(tiny: Loaded, tmp_path: Path) -> None:
    metrics, folder = made(tiny, tmp_path)
    assert metrics["means_loss"] - metrics["held_out_loss"] > 0.2, metrics
    assert {file.name for file in folder.iterdir()} == {CONFIG, WEIGHTS, summary.LEARNED, summary.TOLD}
    learned = load_file(folder / summary.LEARNED)
    assert {name: tuple(one.shape) for name, one in learned.items()} == {"tokens": (16, 64), "projection": (64, 64)}
    means, found = (summary.vectors_of(tiny, TEXT, 8, shelf) for shelf in (Shelf(), Shelf(folder)))
    assert found.shape == means.shape
    assert (found - means).abs().max() > 0.1 * means.abs().max()
    save_file({name: torch.zeros_like(one) for name, one in learned.items()}, folder / summary.LEARNED)
    torch.testing.assert_close(summary.vectors_of(tiny, TEXT, 8, Shelf(folder)), means)  # adds nothing, learned nothing


def test_its_vectors_are_those_of_training_and_later_segments_read_earlier_ones(tiny: Loaded, tmp_path: Path) -> None:
    """By hooks, and beside another adapter, as by PEFT's own layers."""
    _, folder = made(tiny, tmp_path, steps=8)
    one = summary.read_compressor(folder, tiny.device)
    parts = summary.segments(ids_of(tiny, TEXT), 64)
    with_peft, decoder = lora.load(tiny, folder), tiny.model.get_decoder()
    embedded, found = summary.embedder(tiny), torch.empty(0, 64)
    with torch.no_grad():
        for part in parts:
            new = summary.summarise(
                decoder, embedded(part), round(len(part) / 8), found, one.tokens_KH, one.projection_HH
            )
            found = torch.cat([found, new])
    with_peft.unload()  # type: ignore[operator]
    mine = summary.vectors_of(tiny, TEXT, 8, Shelf(folder))
    torch.testing.assert_close(mine, found, rtol=1e-4, atol=1e-5)
    model = compressed.build(tiny, COMPRESSED, text="Other.")
    torch.testing.assert_close(summary.vectors_of(tiny, TEXT, 8, Shelf(folder), model), found, rtol=1e-4, atol=1e-5)
    model.unload()
    changed = summary.vectors_of(tiny, "Bo " + TEXT, 8, Shelf(folder))
    assert (changed[-1] - mine[-1]).abs().max() > 1e-3


def test_vectors_are_cached_by_compressor_ratio_and_text(tiny: Loaded, tmp_path: Path) -> None:
    _, folder = made(tiny, tmp_path, steps=2)
    shelf = Shelf(folder, tmp_path / "cache" / "document")
    for ratio in (8, 30):
        summary.vectors_of(tiny, TEXT, ratio, shelf)
    summary.vectors_of(tiny, TEXT, 8, Shelf(None, shelf.cache))
    files = sorted(file.name.split("-")[1:3] for file in (tmp_path / "cache" / "document").iterdir())
    ours = summary.compressor_id(folder)
    assert files == sorted([[ours, "30"], [ours, "8"], ["means", "8"]])
    (kept,) = (tmp_path / "cache" / "document").glob("*-30-*")
    save_file({"vectors": torch.ones(3, 64)}, kept)
    assert torch.equal(summary.vectors_of(tiny, TEXT, 30, shelf), torch.ones(3, 64))  # not computed again
    kept.write_bytes(b"\0")
    assert len(summary.vectors_of(tiny, TEXT, 30, shelf)) > 3  # damaged: computed again
    summary.vectors_of(tiny, "Another text, and others.", 8, shelf)
    assert len(list((tmp_path / "cache" / "document").iterdir())) == 1  # those of the text before are gone


def interrupting(at: int, steps: list[float]) -> Any:
    def report(event: Event) -> None:
        if event.stage == "train" and event.done:
            steps.append(event.done)
            if event.done == at and steps.count(at) == 1:
                os.kill(os.getpid(), signal.SIGINT)

    return report


def test_a_compressor_that_is_stopped_goes_on_bitwise(
    tiny: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressor, "EVALUATE_EVERY", 2)
    whole_metrics, whole = made(tiny, tmp_path / "whole", steps=6)
    steps: list[float] = []
    with pytest.raises(InterruptedRun, match="stopped at step 4 of 6; nothing is lost"):
        made(tiny, tmp_path / "torn", interrupting(3, steps), steps=6)
    metrics, torn = made(tiny, tmp_path / "torn", interrupting(3, steps), steps=6)
    assert steps == [1, 2, 3, 4, 5, 6]
    assert metrics["held_out_loss"] == whole_metrics["held_out_loss"]
    for name in (WEIGHTS, summary.LEARNED):
        assert same(load_file(whole / name), load_file(torn / name))


def test_half_of_the_examples_are_study_material_and_all_is_drawn_by_the_step(tiny: Loaded) -> None:
    drawn = Drawn(tiny, texts(tiny), FEW)
    batch = drawn.batch(3)
    assert [one.follows for one in batch] == [True, False, True, False]
    assert batch == drawn.batch(3) != drawn.batch(4)
    window = batch[0]
    assert window.view.teacher_ids is not None
    assert [*window.segments[0], *window.segments[1]] == window.view.teacher_ids[: 2 * len(window.segments[0])]
    assert {one.ratio for step in range(8) for one in drawn.batch(step)} == {8, 15}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("steps", "--set takes key=value, not 'steps'."),
        ("stepps=3", "a compressor's recipe has no 'stepps'."),
        ("ratios=3,30", "ratios must lie between 4 and 1,024, not 3."),
        ("learning_rate=big", "learning_rate must be a number, not 'big'."),
    ],
)
def test_settings_that_make_no_sense(setting: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve([setting])
    assert caught.value.message == said


def test_a_damaged_compressor_is_one_sentence(tiny: Loaded, tmp_path: Path) -> None:
    _, folder = made(tiny, tmp_path, steps=1)
    (folder / summary.LEARNED).write_bytes(b"\0" * 7)
    with pytest.raises(KmError, match=r"the compressor in .* cannot be loaded: ") as caught:
        summary.vectors_of(tiny, TEXT, 8, Shelf(folder))
    assert caught.value.hint == "Train it again with: km compressor train --restart"


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
    monkeypatch.setattr(loop, "EVALUATE_EVERY", 3)
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
