"""Cartridges: where they begin, what they learn, what PEFT and km read of each other, and several together."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.cartridge.utils import compose_cartridge_adapters, initialize_kv_prefix_from_text
from safetensors.torch import load_file

from kmcli import adapters
from kmcli.adapters import cartridge, lora, prefix, together
from kmcli.adapters.folder import CONFIG, WEIGHTS
from kmcli.bases import Loaded
from kmcli.bases.vocabulary import Reader
from kmcli.engines import Sampling, attention
from kmcli.engines.hf import HfEngine
from kmcli.errors import InterruptedRun, KmError, ResourceError, UsageError
from kmcli.training import Job, loop, predict, train, train_together
from kmcli.training.forward import scored_states
from kmcli.types import Event, Recipe, silent
from training_cases import CHUNKS, RECIPE, disturb, make_tiny, one_thread, same, samples, tiny

TEXT = " ".join(f"Ann built mill {number} in {1800 + number}, and Bo kept it." for number in range(40))
CARTRIDGE = replace(RECIPE, adapter="cartridge", cartridge_tokens=24, learning_rate=0.02)
IDS = list(range(3, 43))
GREEDY = Sampling(max_tokens=8, temperature=0.0)


def folder_of(loaded: Loaded, folder: Path, recipe: Recipe = CARTRIDGE, text: str = TEXT) -> Path:
    model = cartridge.build(loaded, recipe, text=text)
    folder.mkdir()
    cartridge.save(model, folder)
    return folder


def logits(model: Any, ids: list[int] = IDS) -> torch.Tensor:
    with torch.no_grad():
        found = model(input_ids=torch.tensor([ids])).logits[0]
    return torch.as_tensor(found)


def trained(loaded: Loaded, folder: Path, report: Any = silent, **changes: Any) -> tuple[dict[str, Any], torch.Tensor]:
    """A training in a folder, or what is left of it; its metrics and its tensor."""
    for name in ("work", "out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    recipe = replace(CARTRIDGE, **changes)
    metrics = train(loaded, samples(14), CHUNKS, recipe, folder / "work", folder / "out", report, TEXT)
    return metrics, load_file(folder / "out" / WEIGHTS)[cartridge.EMBEDDINGS]


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
    metrics, flat = trained(tiny, tmp_path, objective=objective, steps=12, skd_every=4, chunk_tokens=64, generations=2)
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


def test_ctrl_c_and_the_next_run_ends_bitwise_alike(
    tiny: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "EVALUATE_EVERY", 3)
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


# --- PEFT


def test_plain_peft_loads_it_and_answers_the_same(tiny: Loaded, tmp_path: Path) -> None:
    trained(tiny, tmp_path, steps=6)
    mine = adapters.load(tiny, tmp_path / "out")
    theirs = peft.PeftModel.from_pretrained(make_tiny().model, tmp_path / "out").eval()
    torch.testing.assert_close(logits(mine), logits(theirs), rtol=1e-4, atol=1e-4)
    assert (logits(mine) - logits(tiny.model)).abs().max() > 0.1
    chats = [[("user", f"Who did the thing of number {number}?")] for number in range(3)]
    engine = HfEngine(tiny, mine)
    assert engine.context == 512 - 24
    for chat, made in zip(chats, engine.generate(chats, GREEDY), strict=True):
        ids = torch.tensor([tiny.chat_ids(list(chat))])
        written = theirs.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=GREEDY.max_tokens,
            eos_token_id=tiny.end_ids,
            pad_token_id=0,
        )[0, ids.shape[1] :]
        assert str(tiny.tokenizer.decode(written, skip_special_tokens=True)).strip() == made.text
    assert HfEngine(tiny, mine, adapter=False).context == 512
    scores = engine.score(chats[0], "Ann of 9")
    ids = tiny.chat_ids(list(chats[0]))
    answer = tiny.tokenizer("Ann of 9", add_special_tokens=False)["input_ids"]
    expected = logits(theirs, ids + answer)[len(ids) - 1 : -1].log_softmax(-1)
    assert scores == pytest.approx([float(row[token]) for row, token in zip(expected, answer, strict=True)], abs=1e-3)


def test_prompts_that_begin_alike_share_it_and_their_beginning(tiny: Loaded, tmp_path: Path) -> None:
    model = adapters.load(tiny, folder_of(tiny, tmp_path / "module"))
    chats = [[("user", f"{TEXT[:200]} Who is number {number}?")] for number in range(4)]
    engine = HfEngine(tiny, model)
    at_once = [made.text for made in engine.generate(chats, GREEDY)]
    assert at_once == [engine.generate([chat], GREEDY)[0].text for chat in chats]
    assert at_once != [made.text for made in HfEngine(tiny, model, adapter=False).generate(chats, GREEDY)]


def peft_trained(folder: Path) -> torch.Tensor:
    """A cartridge as PEFT's documentation makes one; the logits with it."""
    base = make_tiny()
    config = peft.CartridgeConfig(task_type="CAUSAL_LM", num_virtual_tokens=20, num_frozen_tokens=2)
    model = peft.get_peft_model(base.model, config)
    initialize_kv_prefix_from_text(model, base.tokenizer, text=TEXT, max_length=64)
    optimiser = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=0.02)
    ids = torch.tensor([IDS])
    for _ in range(3):
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.eval()
    model.save_pretrained(folder)
    return logits(model)


def test_what_peft_has_trained_is_read(tiny: Loaded, tmp_path: Path) -> None:
    expected = peft_trained(tmp_path / "theirs")
    assert cartridge.written(tmp_path / "theirs") == {"cartridge_tokens": 20, "cartridge_frozen": 2}
    torch.testing.assert_close(logits(adapters.load(tiny, tmp_path / "theirs")), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder: (folder / WEIGHTS).unlink(), "cannot be loaded: "),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"\0" * 7), "cannot be loaded: "),
        (lambda folder: (folder / CONFIG).write_text("{"), "cannot be loaded: "),
        (
            lambda folder: (folder / CONFIG).write_text('{"peft_type": "IA3"}'),
            "is of the type IA3, which km does not know.",
        ),
    ],
)
def test_a_damaged_folder_is_one_sentence(
    tiny: Loaded, tmp_path: Path, harm: Callable[[Path], object], said: str
) -> None:
    folder = folder_of(tiny, tmp_path / "module")
    harm(folder)
    with pytest.raises(KmError) as caught:
        adapters.load(tiny, folder)
    assert said in caught.value.message
    assert "\n" not in caught.value.message


def test_one_of_another_base_does_not_fit(tmp_path: Path, tiny: Loaded) -> None:
    folder = folder_of(tiny, tmp_path / "module")
    with pytest.raises(KmError, match="its layers, heads and sizes are 2 x 2 x 16, the base's 3 x 2 x 16"):
        adapters.load(make_tiny(num_hidden_layers=3), folder)


# --- several


def read_apart(loaded: Loaded, parts: list[list[int]], question: list[int]) -> torch.Tensor:
    """Logits of a question behind texts of which none sees the others: what a composition is to compute."""
    ids = [token for part in parts for token in part] + question
    visible = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
    start = 0
    for part in parts:
        visible[start : start + len(part), :start] = False
        start += len(part)
    mask = torch.zeros(visible.shape).masked_fill(~visible, -torch.inf)[None, None]
    with torch.no_grad():
        found = loaded.model(input_ids=torch.tensor([ids]), attention_mask=mask).logits[0, start:]
    return torch.as_tensor(found)


def test_composed_cartridges_stand_one_behind_the_other(tiny: Loaded, tmp_path: Path) -> None:
    """Why positions are re-based: PEFT's own composition leaves all at the same ones, and computes something else."""
    texts = [TEXT, TEXT[300:], TEXT[600:]]
    folders = [folder_of(tiny, tmp_path / str(place), text=text) for place, text in enumerate(texts)]
    parts = [cartridge.opening_ids(tiny, text, "first", 24, 1) for text in texts]
    expected = read_apart(tiny, parts, IDS)
    mine = logits(adapters.load_sum(tiny, [(folder, 1.0) for folder in folders]))
    torch.testing.assert_close(mine, expected, rtol=1e-3, atol=1e-3)
    compose_cartridge_adapters(folders, output_path=tmp_path / "theirs")
    theirs = logits(adapters.load(tiny, tmp_path / "theirs"))
    spread = float(expected.std())
    assert float((mine - expected).abs().max()) < 0.01 * spread
    assert float((theirs - expected).abs().max()) > 0.5 * spread


def test_a_composition_is_a_folder_that_peft_reads(tmp_path: Path) -> None:
    from each_cases import make_base

    loaded = make_base(tmp_path / "base")
    folders = [folder_of(loaded, tmp_path / str(place), text=TEXT[300 * place :]) for place in range(2)]
    (tmp_path / "out").mkdir()
    assert cartridge.join(loaded.base, folders, tmp_path / "out") == 1
    theirs = peft.PeftModel.from_pretrained(loaded.model, tmp_path / "out").eval()
    expected = logits(adapters.load_sum(loaded, [(folder, 1.0) for folder in folders]))
    torch.testing.assert_close(logits(theirs), expected, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_put_together(tiny: Loaded, tmp_path: Path) -> None:
    one, two = (folder_of(tiny, tmp_path / name, replace(CARTRIDGE, cartridge_tokens=200)) for name in "ab")
    with pytest.raises(UsageError, match="a cartridge takes no weight"):
        adapters.load_sum(tiny, [(one, 0.5)])
    with pytest.raises(UsageError, match="cartridges of 400 tokens together leave too little of the 512"):
        adapters.load_sum(tiny, [(one, 1.0), (two, 1.0)])
    model = lora.build(tiny, RECIPE)
    (tmp_path / "lora").mkdir()
    lora.save(model, tmp_path / "lora")
    model.unload()
    with pytest.raises(UsageError, match=r"a cartridge \(.*\) and a LoRA cannot be on the base together"):
        adapters.load_sum(tiny, [(one, 1.0), (tmp_path / "lora", 1.0)])


def test_rows_of_a_batch_carry_modules_of_either_kind(tiny: Loaded, tmp_path: Path) -> None:
    folders = [
        folder_of(tiny, tmp_path / "first"),
        folder_of(tiny, tmp_path / "random", replace(CARTRIDGE, cartridge_start="random", cartridge_tokens=9)),
    ]
    model = lora.build(tiny, RECIPE)
    disturb(model)
    (tmp_path / "lora").mkdir()
    lora.save(model, tmp_path / "lora")
    model.unload()
    folders.insert(1, tmp_path / "lora")
    chat = [("user", "Who built mill 7?")]
    found = dict(together.answers(tiny, folders, tiny.chat_ids(chat), GREEDY))
    texts = []
    for place, folder in enumerate(folders):
        carrier = adapters.load(tiny, folder)
        expected = HfEngine(tiny, carrier).generate([chat], GREEDY)[0]
        carrier.unload()
        made = found[place]
        assert not isinstance(made, KmError)
        texts.append(made.text)
        assert made.text == expected.text
    assert len(set(texts)) == 3
