"""Engines of all kinds of adapters over one copy of a base, taking turns."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compressed_cases import TEXT, trained
from each_cases import make_adapter
from kmcli import adapters
from kmcli.adapters import cartridge
from kmcli.bases import Loaded
from kmcli.engines import Chat
from kmcli.engines.hf import HfEngine
from kmcli.evaluation.comparison import Way
from kmcli.workflows.compared import engines_for
from training_cases import RECIPE, make_tiny, one_thread, tiny

CHATS: list[Chat] = [[("user", f"Who kept mill {number}?")] for number in range(4)]
SAID = [TEXT[:240]] * 4
"""Some tens of tokens: a wrong adapter shows at the first, and each is read by itself."""


@pytest.fixture
def folders(tiny: Loaded, tmp_path: Path) -> dict[Way, Path]:
    """A way for each kind, and one for the base alone."""
    trained(tiny, tmp_path / "summary", steps=20)
    (tmp_path / "lora").mkdir()
    found = {
        Way("km", adapter="lora"): make_adapter(tiny, tmp_path / "lora", 1),
        Way("km", adapter="compressed"): tmp_path / "summary" / "out",
    }
    prefix = replace(RECIPE, adapter="cartridge", cartridge_tokens=8, cartridge_start="random")
    (tmp_path / "prefix").mkdir()
    torch.manual_seed(1)
    cartridge.save(cartridge.build(tiny, prefix), tmp_path / "prefix")
    return {**found, Way("km", adapter="cartridge"): tmp_path / "prefix"}


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_each_answers_as_if_it_were_alone(tiny: Loaded, folders: dict[Way, Path], order: tuple[int, ...]) -> None:
    bare = Way("bare")
    alone = {bare: HfEngine(tiny).score_many(CHATS, SAID)}
    for way, folder in folders.items():
        carrier = adapters.load(tiny, folder)
        alone[way] = HfEngine(tiny, carrier).score_many(CHATS, SAID)
        carrier.unload()
    assert len({str(found) for found in alone.values()}) == 4
    ways = [list(folders)[place] for place in order]
    engines = engines_for(tiny, {**{way: folders[way] for way in ways}, bare: None}, TEXT)
    try:
        for way in (*ways, bare, *ways):  # each again, after all the others
            for found, expected in zip(engines[way].score_many(CHATS, SAID), alone[way], strict=True):
                assert found == pytest.approx(expected, abs=1e-4), way
    finally:
        for way in ways:
            engines[way].torch_model.unload()
