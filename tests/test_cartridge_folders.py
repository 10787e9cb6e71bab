"""Cartridges as folders: what PEFT and km read of each other, and several together."""

# ruff: noqa: F811 (imported fixtures)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from peft.tuners.cartridge.utils import compose_cartridge_adapters, initialize_kv_prefix_from_text

from cartridge_cases import CARTRIDGE, GREEDY, IDS, TEXT, folder_of, logits, trained
from kmcli import adapters
from kmcli.adapters import cartridge, lora, together
from kmcli.adapters.folder import CONFIG, WEIGHTS
from kmcli.bases import Loaded
from kmcli.engines.hf import HfEngine
from kmcli.errors import KmError, UsageError
from training_cases import RECIPE, disturb, make_tiny, one_thread, samples, tiny  # noqa: F401

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
