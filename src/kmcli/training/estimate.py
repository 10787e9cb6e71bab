"""What a training will take, before it is made: measured on a few steps of it, which are thrown away.

They are a training itself, of a few of the views: whole batches, evenly spread. The other steps take as much longer as they
have more tokens; the teacher takes as much longer as there are more views.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kmcli.adapters import ADAPTERS
from kmcli.bases import Loaded
from kmcli.bases.vocabulary import Reader
from kmcli.errors import KmError
from kmcli.objectives.losses import kept_layers
from kmcli.training import figures, loop, many, schedule, targets
from kmcli.training.forward import layers_of, require_room
from kmcli.training.mixture import Mixture, Part
from kmcli.training.predictions import Predictions
from kmcli.types import Event, Recipe, Reporter, View, silent

FEWEST, MOST = 5, 48
"""Steps that are measured."""
ASKED = 8
"""The same under a teacher other than the base, which is closed before they are."""
BUDGET = 30.0
"""Seconds that those may take, when there are more than the fewest."""
STATES = 4
"""What a checkpoint has of every parameter: itself, two moments, and the best of before."""


@dataclass(frozen=True, slots=True)
class TrainingEstimate:
    """steps: all that are planned; early stopping may make them fewer. tokens: scored, in all steps.

    seconds: of all of it. Of that teacher_seconds until the targets are there, evaluation_seconds for held-out losses.
    memory: the most bytes, of the accelerator or else of this process, None where nobody counts. disk: bytes of the
    module; disk_while: what is there beside it while it is trained. measured: steps that this rests on; measured_seconds:
    all that it took.
    """

    steps: int
    early_stopping: bool
    samples: int
    held_out: int
    tokens: int
    seconds: float
    teacher_seconds: float
    step_seconds: float
    evaluation_seconds: float
    memory: int | None
    disk: int
    disk_while: int
    measured: int
    measured_seconds: float


@dataclass(frozen=True, slots=True)
class _Run:
    """What a training of a few steps took, in seconds. tokens: that the student read in `stepping` seconds."""

    fixed: float
    teacher: float
    stepping: float
    tokens: int
    evaluation: float
    disk: int
    parameters: int


def ask(
    base: Reader,
    teacher: Loaded,
    mixture: Mixture,
    recipe: Recipe,
    folder: Path,
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """Seconds that a teacher other than the base takes for all views, by what it takes for some.

    Its predictions of these stay in the folder, for `estimate`, so that the two models need not fit in memory.
    """
    part = _some(mixture, recipe, ASKED)
    began = clock()
    with closing(Predictions(base, part.views, recipe, folder)) as predictions:
        predictions.compute(teacher, silent)
    return (clock() - began) * _with_teacher(mixture) / (_with_teacher(part) or 1)


def estimate(
    loaded: Loaded,
    mixture: Mixture,
    recipe: Recipe,
    folder: Path,
    report: Reporter,
    asked: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    text: str = "",
) -> TrainingEstimate:
    """What a training will take with the same arguments. folder: for files of the measurement. text: the document's.

    asked: what `ask` gave, where the teacher is not the base. Raises as `train` does.
    """
    began = clock()
    steps = schedule.planned_steps(mixture, recipe)
    every = schedule.evaluate_every(steps)
    count = min(FEWEST if asked is None else ASKED, steps)
    report(Event("estimate", f"measuring on {count} of {steps:,} steps"))
    part = _some(mixture, recipe, count)
    run = _measure(loaded, part, recipe, count, folder, clock, text)
    many = min(MOST, steps, int(BUDGET * count / run.stepping) if run.stepping else MOST)
    if many > count and asked is None:
        count = many
        report(Event("estimate", f"measuring on {count} of {steps:,} steps"))
        part = _some(mixture, recipe, count)
        run = _measure(loaded, part, recipe, count, folder, clock, text)
    read = sum(_per_step(mixture, one, _length) for one in mixture.parts)
    scored = sum(_per_step(mixture, one, _scored) for one in mixture.parts)
    step_seconds = run.stepping * read / run.tokens
    evaluations = math.ceil(steps / every) if mixture.held_out else 0
    share = _held_out(mixture) / (_held_out(part) or 1)
    evaluation = run.evaluation * share * evaluations
    teacher = run.teacher * _with_teacher(mixture) / (_with_teacher(part) or 1) if asked is None else asked
    states, kept = _target_bytes(loaded, mixture, recipe), _target_bytes(loaded, part, recipe)
    memory = figures.peak_memory(loaded.device)
    if memory is not None and loaded.device.type == "cpu" and asked is None:
        memory += min(states, targets.MEMORY_BYTES) - min(kept, targets.MEMORY_BYTES)
    beyond = states if asked is not None else max(0, states - targets.MEMORY_BYTES)
    return TrainingEstimate(
        steps=steps,
        early_stopping=recipe.early_stopping and bool(mixture.held_out) and mixture.tells,
        samples=mixture.training,
        held_out=mixture.held_out,
        tokens=round(scored * steps),
        seconds=run.fixed + teacher + steps * step_seconds + evaluation,
        teacher_seconds=teacher,
        step_seconds=step_seconds,
        evaluation_seconds=evaluation,
        memory=memory,
        disk=run.disk,
        disk_while=STATES * run.parameters + beyond,
        measured=count,
        measured_seconds=clock() - began,
    )


def _measure(
    loaded: Loaded,
    mixture: Mixture,
    recipe: Recipe,
    count: int,
    folder: Path,
    clock: Callable[[], float],
    text: str,
) -> _Run:
    """Train so many steps on a mixture, and give the base back as it was."""
    read: list[float] = []
    stepped: list[float] = []
    began = clock()

    def watch(event: Event) -> None:
        if event.stage in ("teacher", "train"):
            (read if event.stage == "teacher" else stepped).append(clock())

    few = replace(recipe, steps=count, early_stopping=False)
    kind = ADAPTERS[recipe.adapter]
    model = kind.build(loaded, recipe, text=text)
    try:
        require_room(model, loaded, mixture.views)
        _train(model, loaded, replace(mixture, views=list(mixture.views)), few, folder, watch)
        parameters = sum(one.numel() * one.element_size() for one in kind.trainable(model).values())
        out = folder / "module"
        out.mkdir(exist_ok=True)
        kind.save(model, out)
    finally:
        model.unload().eval()
    disk = sum(file.stat().st_size for file in out.iterdir())
    start = read[-1] if read else began
    renews = any(getattr(part.objective, "renews", False) for part in mixture.parts)
    # The first step also warms up, the last also measures the held-out loss; but renewing is part of the first.
    first = 0 if renews or count < 3 else 1
    last = count - 1 if mixture.held_out and count > 1 + first else count
    times = [after - before for before, after in zip([start, *stepped], stepped, strict=False)]
    stepping = sum(times[first:last])
    tokens = sum(_tokens_of(mixture, few, step) for step in range(first, last))
    usual = stepping * _tokens_of(mixture, few, count - 1) / tokens
    return _Run(
        fixed=(read[0] - began if read else 0.0) + (clock() - stepped[-1]),
        teacher=read[-1] - read[0] if read else 0.0,
        stepping=stepping,
        tokens=tokens,
        evaluation=max(0.0, times[-1] - usual) if mixture.held_out else 0.0,
        disk=disk,
        parameters=parameters,
    )


def _train(model: Any, loaded: Loaded, mixture: Mixture, recipe: Recipe, folder: Path, watch: Reporter) -> None:
    failed: list[KmError] = []
    student = loop.Student(model, loaded, mixture, recipe, folder, watch)
    with closing(student):
        many.run(
            model, loaded, [student], watch, lambda _, end: failed.extend([end] if isinstance(end, KmError) else [])
        )
    if failed:
        raise failed[0]


def _some(mixture: Mixture, recipe: Recipe, steps: int) -> Mixture:
    """Views for so many steps, and as many batches of held-out ones as there are, or a few."""
    views: list[View] = []
    parts: list[Part] = []
    for part in mixture.parts:
        taught = _stretches(part.training, steps * part.batch, part.batch)
        held = _stretches(part.held_out, 4 * recipe.batch, recipe.batch)
        start, middle = len(views), len(views) + len(taught)
        views += [mixture.views[i] for i in (*taught, *held)]
        parts.append(replace(part, training=range(start, middle), held_out=range(middle, len(views))))
    return Mixture(views, tuple(parts))


def _stretches(span: range, count: int, size: int) -> list[int]:
    """At least `count` of a span, or all of it, in stretches of `size`, evenly spread: neighbours share a chunk."""
    pieces = [span[start : start + size] for start in range(0, len(span), size)]
    wanted = min(len(pieces), math.ceil(count / size))
    return [index for place in range(wanted) for index in pieces[place * len(pieces) // wanted]]


def _tokens_of(mixture: Mixture, recipe: Recipe, step: int) -> int:
    """What the student reads in a step."""
    return sum(
        _length(views[place])
        for part in mixture.parts
        for views in [mixture.views[part.training.start : part.training.stop]]
        for place in schedule.batch_of(step, views, part.batch, recipe.seed)
    )


def _per_step(mixture: Mixture, part: Part, of: Callable[[View], int]) -> float:
    """The mean over an epoch of a part's steps."""
    return sum(map(of, _views(mixture, [part.training]))) / math.ceil(len(part.training) / part.batch)


def _held_out(mixture: Mixture) -> int:
    return sum(map(_length, _views(mixture, [part.held_out for part in mixture.parts])))


def _taught(mixture: Mixture) -> list[View]:
    """Of the views that have a teacher; of several for which it reads the same, one."""
    found = {
        (tuple(view.teacher_ids), tuple(view.teacher_mask or ())): view for view in mixture.views if view.teacher_ids
    }
    return list(found.values())


def _with_teacher(mixture: Mixture) -> int:
    return len(_taught(mixture))


def _target_bytes(loaded: Loaded, mixture: Mixture, recipe: Recipe) -> int:
    """Of all targets: two bytes for a number of a hidden state."""
    scored = sum(map(_scored, _taught(mixture)))
    if recipe.distil_from == "teacher":
        return scored * (6 * recipe.teacher_top_k + 2)
    width = loaded.model.config.get_text_config().hidden_size
    return 2 * scored * len(kept_layers(recipe, layers_of(loaded.model))) * width


def _views(mixture: Mixture, spans: Sequence[range]) -> Iterator[View]:
    return (mixture.views[index] for span in spans for index in span)


def _length(view: View) -> int:
    return len(view.student_ids)


def _scored(view: View) -> int:
    return sum(view.student_mask)
