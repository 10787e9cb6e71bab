"""A training and the rounds after its exam share one schedule."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cli_cases import Km
from kmcli.bases import Loaded
from kmcli.errors import KmError
from kmcli.training import WHOLE, Job, Stretch, train_together
from kmcli.training.schedule import learning_rate_factor
from kmcli.types import Recipe, silent
from kmcli.workflows import group
from kmcli.workflows.course import rounds_of, stretch_of
from training_cases import CHUNKS, RECIPE, one_thread, samples, tiny
from workflow_cases import PERMITS, TINY, km


@given(st.sampled_from(["cosine", "linear"]), st.integers(0, 4), st.integers(1, 30))
def test_the_stretches_of_a_schedule_are_the_schedule(schedule: Any, rounds: int, quarter: int) -> None:
    recipe = Recipe(schedule=schedule, warmup=0.0)
    whole = [learning_rate_factor(step, (4 + rounds) * quarter, recipe) for step in range((4 + rounds) * quarter)]
    parts = [learning_rate_factor(step, 4 * quarter, recipe, stretch_of(rounds)) for step in range(4 * quarter)]
    for number in range(1, rounds + 1):
        stretch = stretch_of(rounds, number)
        parts += [learning_rate_factor(step, quarter, recipe, stretch) for step in range(quarter)]
    assert parts == pytest.approx(whole)


def test_a_later_stretch_is_warmed_up_by_its_own_steps() -> None:
    recipe = Recipe(schedule="linear", warmup=0.06)
    found = [learning_rate_factor(step, 50, recipe, Stretch(before=2, after=1)) for step in range(50)]
    decay = [1 - (100 + step - 3) / 197 for step in range(50)]
    assert found == pytest.approx([decay[0] / 3, decay[1] * 2 / 3, *decay[2:]])


@pytest.mark.parametrize(
    ("recipe", "update", "after"),
    [
        (Recipe(exam_rounds=2), False, 0.5),
        (Recipe(exam_rounds=0), False, 0.0),
        (Recipe(exam_rounds=2), True, 0.0),
        (Recipe(exam_rounds=2, exam=False), False, 0.0),
        (Recipe(exam_rounds=2, adapter="cartridge"), False, 0.0),
    ],
)
def test_a_training_leaves_room_for_the_rounds_that_there_may_be(recipe: Recipe, update: bool, after: float) -> None:
    assert stretch_of(rounds_of(recipe, update)) == Stretch(after=after)
    assert (stretch_of(rounds_of(recipe, update)) == WHOLE) is (after == 0)


def test_a_job_trains_at_the_rates_of_its_stretch(
    tiny: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    real = torch.optim.AdamW.step

    def step(optimiser: Any, *given: Any) -> Any:
        rates.extend(group["lr"] for group in optimiser.param_groups)
        return real(optimiser, *given)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    folders = tmp_path / "workspace", tmp_path / "out"
    for folder in folders:
        folder.mkdir()
    job = Job("d", samples(14), CHUNKS, RECIPE, *folders, stretch=Stretch(before=4))
    failed: list[KmError] = []
    train_together(
        tiny, [job], silent, lambda _, result: failed.extend([result] if isinstance(result, KmError) else [])
    )
    assert not failed
    expected = [learning_rate_factor(step, 8, RECIPE, Stretch(before=4)) * RECIPE.learning_rate for step in range(8)]
    assert rates == pytest.approx(expected)
    assert max(rates) < 0.2 * RECIPE.learning_rate, "nearly all of the schedule lies behind it"


@pytest.mark.parametrize(("options", "after"), [(("--set", "exam_rounds=2"), 0.5), (("--no-exam",), 0.0)])
def test_km_train_leaves_room(
    km: Km, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], after: float
) -> None:
    seen: list[Job] = []

    def refuse(loaded: Loaded, jobs: list[Job], *rest: Any) -> None:
        seen.extend(jobs)
        raise KmError("enough")

    monkeypatch.setattr(group, "train_together", refuse)
    (tmp_path / "permits.txt").write_text(PERMITS)
    assert km("add", str(tmp_path / "permits.txt")).code == 0
    assert km("train", "permits", *TINY[:-2], *options).code == 1
    assert [job.stretch for job in seen] == [Stretch(after=after)]
