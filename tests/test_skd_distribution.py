"""Interleaved sampling as a distribution: whose it is at the two ends and between them, and that rows do not mix."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from kmcli.adapters import cartridge, lora
from kmcli.bases import Loaded
from kmcli.training import skd
from kmcli.training.forward import logits, scored_states
from kmcli.types import View
from training_cases import CHUNKS, RECIPE, disturb, one_thread, tiny
from training_cases import views as views_of

ALL = 8192
SHARP = replace(RECIPE, temperature=0.4, chunk_tokens=3, skd_draft=3)
"""So that few of the 8,192 tokens have nearly all the chances."""
ROWS = 1500
Reader = Callable[[list[int]], torch.Tensor]
"""The chances (8192,) of the next token after so much of a response."""


@pytest.fixture(scope="module", params=["lora", "cartridge"])
def student(request: pytest.FixtureRequest, tiny: Loaded) -> Iterator[Any]:
    if request.param == "lora":
        model: Any = lora.build(tiny, RECIPE)
        disturb(model)
    else:
        recipe = replace(RECIPE, adapter="cartridge", cartridge_tokens=8, cartridge_start="random")
        model = cartridge.build(tiny, recipe, text=" ".join(CHUNKS.values()))
    yield model
    model.unload().eval()


def readers(tiny: Loaded, student: Any, view: View) -> tuple[Reader, Reader]:
    """Teacher and student, each reading its whole text anew and alone."""

    def chances(teacher: bool, response: list[int]) -> torch.Tensor:
        ids = skd.prompts(view)[0 if teacher else 1] + response
        row = ([*ids, 0], [False] * len(ids) + [True])
        with torch.no_grad():
            if teacher:
                with student.disable_adapter():
                    found = logits(student, scored_states(student, tiny, [row])[-1])
            else:
                found = logits(student, scored_states(student, tiny, [row])[-1])
        return (found[0].double() / SHARP.temperature).softmax(-1)

    return lambda response: chances(True, response), lambda response: chances(False, response)


def misfit(seen: list[int], chances: torch.Tensor) -> float:
    """Chi-square of what was seen over the value that chance alone exceeds once in a thousand times: below 1 it fits.

    Tokens of which fewer than 5 are expected count as one.
    """
    expected = chances * len(seen)
    own = (expected >= 5).nonzero()[:, 0].tolist()
    counted = Counter(seen)
    pairs = [(counted[token], float(expected[token])) for token in own]
    rest = len(seen) - sum(count for count, _ in pairs), len(seen) - sum(count for _, count in pairs)
    if rest[1] >= 5:
        pairs.append(rest)
    assert len(pairs) >= 3, "too few tokens to compare"
    free = len(pairs) - 1
    limit = free * (1 - 2 / (9 * free) + 3.09 * (2 / (9 * free)) ** 0.5) ** 3  # Wilson and Hilferty
    return sum((count - wanted) ** 2 / wanted for count, wanted in pairs) / limit


def drawn(tiny: Loaded, student: Any, view: View, accept: int, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    monkeypatch.setattr(skd, "ROWS", 250)
    recipe = replace(SHARP, skd_accept=accept)
    written = skd.write(student, tiny, [view] * ROWS, recipe, range(ROWS))
    return [one.response for one in written]


@pytest.mark.parametrize("accept", [ALL, 0])
def test_at_its_two_ends_it_is_sampling_from_one_of_them(
    tiny: Loaded, student: Any, monkeypatch: pytest.MonkeyPatch, accept: int
) -> None:
    """With all accepted the student's distribution, with nothing the teacher's: of the first token, and of the second after
    the commonest first one. The other's distribution fits neither."""
    (view,) = views_of(tiny, 1)
    teacher, own = readers(tiny, student, view)
    whose, other = (own, teacher) if accept else (teacher, own)
    responses = drawn(tiny, student, view, accept, monkeypatch)
    first = [one[0] for one in responses]
    assert misfit(first, whose([])) < 1
    assert misfit(first, other([])) > 2
    ((common, _),) = Counter(one[0] for one in responses if len(one) > 1).most_common(1)
    second = [one[1] for one in responses if one[0] == common]
    assert len(second) > 100
    assert misfit(second, whose([common])) < 1
    assert misfit(second, other([common])) > 2


def test_between_them_a_refused_token_s_chances_go_to_the_teacher(
    tiny: Loaded, student: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a token that the teacher has among its k likeliest the student's chance; and of every token the teacher's chance as
    often as the student drew one that is refused."""
    (view,) = views_of(tiny, 1)
    teacher, own = (read([]) for read in readers(tiny, student, view))
    order = teacher.argsort(descending=True)
    accept = int((own[order].cumsum(0) - 0.5).abs().argmin()) + 1
    among = torch.zeros_like(own, dtype=torch.bool)
    among[order[:accept]] = True
    accepted = float(own[among].sum())
    assert 0.1 < accepted < 0.9
    first = [one[0] for one in drawn(tiny, student, view, accept, monkeypatch)]
    assert misfit(first, own.where(among, 0.0) + (1 - accepted) * teacher) < 1
    assert misfit(first, own) > 2
    assert misfit(first, teacher) > 2


def test_a_batch_of_eight_is_eight_single_runs(tiny: Loaded, student: Any) -> None:
    """With the same randomness, in any order: what else is written beside a row does not reach it."""
    recipe = replace(RECIPE, temperature=1.0, chunk_tokens=16, skd_accept=3000)
    views = views_of(tiny, 8)
    together = skd.write(student, tiny, views, recipe, range(8))
    turned = skd.write(student, tiny, views[::-1], recipe, range(7, -1, -1))[::-1]
    for seed, (view, one, again) in enumerate(zip(views, together, turned, strict=True)):
        (alone,) = skd.write(student, tiny, [view], recipe, [seed])
        assert alone.response == one.response == again.response
        torch.testing.assert_close(alone.target, one.target, rtol=1e-3, atol=1e-4)
    assert len({tuple(one.response) for one in together}) == 8
    same = skd.write(student, tiny, views[:1] * 8, recipe, range(8))
    assert len({tuple(one.response) for one in same}) == 8, "each seed writes another response to one prompt"
