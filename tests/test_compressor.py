"""Summary vectors, and the compressor that makes them."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from compressed_cases import (
    COMPRESSED,
    FEW,
    TEXT,
    ids_of,
    interrupting,
    made,
    texts,
)
from kmcli.adapters import compressed, lora, summary
from kmcli.adapters.folder import CONFIG, WEIGHTS
from kmcli.adapters.shelf import Shelf
from kmcli.bases import Loaded
from kmcli.errors import InterruptedRun, KmError, UsageError
from kmcli.training import compressor, schedule
from kmcli.training.compressor_recipe import resolve
from kmcli.training.segments import Drawn
from training_cases import one_thread, same, tiny

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


def test_a_compressor_that_is_stopped_goes_on_bitwise(
    tiny: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "EVALUATE_EVERY", 2)
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
