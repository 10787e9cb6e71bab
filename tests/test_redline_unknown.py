"""A changed document whose module does not say which text it was trained on: of a km that did not write that down."""

from __future__ import annotations

from pathlib import Path

import pytest

from each_cases import make_adapter, make_base
from kmcli import config
from kmcli.library import Library
from kmcli.types import Chunk, Event, KnowledgeModule, Recipe
from kmcli.workflows import redline
from kmcli.workflows.house import House, open_house
from library_material import ingested
from training_cases import one_thread  # noqa: F401

CUT = [Chunk(0, "The heron waits.", 4, 0)]


@pytest.mark.parametrize("cut", [[], CUT])
def test_all_of_it_is_studied_and_why_is_said(km_home: Path, tmp_path: Path, cut: list[Chunk]) -> None:
    base = make_base(tmp_path / "base")
    recipe = Recipe(model=base.base.name, revision=base.base.revision)
    told: list[str] = []

    def report(event: Event) -> None:
        told.append(event.message)

    with Library.open(config.home()) as library:
        document = library.add(ingested()).document
        folder = make_adapter(base, library.staging(document), 1)
        module = library.commit_module(document, folder, recipe, {}, cut)
    with open_house({}, report) as house:
        assert begun(house, recipe) is None  # the text is the same
        assert told == []
        house.library.add(ingested("The heron flies."))
        assert begun(house, recipe) == (module if cut else None)
    said = "heron: which text its Knowledge Module was trained on is not known, so all of it is studied anew"
    assert told == ([] if cut else [said])


def begun(house: House, recipe: Recipe) -> KnowledgeModule | None:
    return redline.begins_from(house, house.library.find("heron"), recipe, False)
