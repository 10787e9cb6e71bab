"""What a compressor is trained on (`compressor`): examples drawn from texts, and those of texts that are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kmcli.adapters import summary
from kmcli.bases import Loaded
from kmcli.objectives.views import second_part
from kmcli.objectives.windows import Window
from kmcli.training.compressor_recipe import CompressorRecipe
from kmcli.types import View

SHORTEST = 8
"""Tokens of a segment at least."""
HELD_OUT = 64
"""Examples of the texts that are held out, at most."""


@dataclass(frozen=True, slots=True)
class Text:
    """ids: of all of it. material: views of its study material, each with the ids of the chunk it is about."""

    ids: list[int]
    material: Sequence[tuple[list[int], View]] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """ratio: tokens for a vector. follows: whether the view is what follows the segments."""

    segments: list[list[int]]
    view: View
    ratio: int
    follows: bool


def usable_text(text: Text) -> bool:
    return len(text.ids) >= 3 * SHORTEST


class Drawn:
    """Examples by the number of the step. Texts count by their tokens; every second example is of study material, where
    there is any."""

    def __init__(self, loaded: Loaded, texts: Sequence[Text], recipe: CompressorRecipe) -> None:
        self.loaded, self.texts, self.recipe = loaded, texts, recipe
        self.size = summary.segment_tokens(loaded.base)
        self._weights = torch.tensor([float(len(text.ids)) for text in texts])
        self._told = [text for text in texts if text.material]

    def batch(self, step: int) -> list[Example]:
        random = torch.Generator().manual_seed(self.recipe.seed * 7919 + step)
        return [self._draw(random, place) for place in range(self.recipe.batch)]

    def held_out(self, texts: Sequence[Text]) -> list[Example]:
        """The same whatever is trained on: windows of each text one after the other, and its material, ratios by turns."""
        found: list[Example] = []
        for text in texts:
            size = min(self.size, len(text.ids) // 3)
            for start in range(0, len(text.ids) - 3 * size + 1, 3 * size) if size >= SHORTEST else ():
                found.append(self._window(text, start, self._by_turns(found)))
            for which in range(len(text.material)):
                found.append(self._of_material(text, which, self._by_turns(found)))
        return found[:: -(-len(found) // HELD_OUT)] if found else []

    def _by_turns(self, found: Sequence[Example]) -> int:
        return self.recipe.ratios[len(found) % len(self.recipe.ratios)]

    def _draw(self, random: torch.Generator, place: int) -> Example:
        ratio = self.recipe.ratios[_number(random, len(self.recipe.ratios))]
        if place % 2 and self._told:
            text = self._told[_number(random, len(self._told))]
            return self._of_material(text, _number(random, len(text.material)), ratio)
        text = self.texts[int(torch.multinomial(self._weights, 1, generator=random))]
        size = min(self.size, len(text.ids) // 3)
        return self._window(text, _number(random, len(text.ids) - 3 * size + 1), ratio)

    def _of_material(self, text: Text, which: int, ratio: int) -> Example:
        chunk, view = text.material[which]
        return Example(summary.segments(chunk, self.size), view, ratio, follows=False)

    def _window(self, text: Text, start: int, ratio: int) -> Example:
        size = min(self.size, len(text.ids) // 3)
        ids = text.ids[start : start + 3 * size]
        view = second_part(Window(ids, start, 2 * size), self.loaded)
        return Example([ids[:size], ids[size : 2 * size]], view, ratio, follows=True)


def _number(random: torch.Generator, below: int) -> int:
    return int(torch.randint(below, (1,), generator=random))
