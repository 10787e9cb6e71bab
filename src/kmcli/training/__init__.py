"""From study material, and the text itself, to a trained adapter on disk. Knows nothing of documents or libraries.

A training is set up in `together`: views (`mixture.mix`), adapter, student (`loop`). Its steps are taken in `many.run`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmcli.adapters.shelf import EMPTY, Shelf
from kmcli.errors import KmError
from kmcli.metrics import normalise
from kmcli.synthesis import plan
from kmcli.types import Recipe, Reporter, Sample, silent

if TYPE_CHECKING:
    from kmcli.adapters.start import Start
    from kmcli.bases import Loaded
    from kmcli.bases.vocabulary import Reader


@dataclass(frozen=True, slots=True)
class Stretch:
    """Where a training stands in a schedule that is longer than it: how many times as many steps as its own come before and
    after it."""

    before: float = 0.0
    after: float = 0.0


WHOLE = Stretch()
"""A schedule of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One document's training: samples, whose chunks' texts are given by hash.

    name: of the document. workspace: where the checkpoint lives while training; one found there is continued. out: where the
    adapter is saved. text: the document's, without page breaks, for objectives that read windows of it. other: the teacher
    whose predictions are learnt, where it is not the base; `predict` has left them in the workspace. start: the weights to
    begin with, where they are not fresh ones; a checkpoint outranks them. kept: samples to be answered as with those. shelf:
    what else its adapter may begin from. stretch: of a schedule, where others train before it or after.
    """

    name: str
    samples: Sequence[Sample]
    chunks: Mapping[str, str]
    recipe: Recipe
    workspace: Path
    out: Path
    text: str = ""
    other: Reader | None = None
    start: Start | None = None
    kept: Sequence[Sample] = ()
    shelf: Shelf = EMPTY
    stretch: Stretch = WHOLE


Done = Callable[[Job, "dict[str, Any] | KmError"], None]
"""Takes the metrics of a job whose adapter is saved, or what it failed of."""


def train(
    loaded: Loaded,
    samples: Sequence[Sample],
    chunks: Mapping[str, str],
    recipe: Recipe,
    workspace: Path,
    out: Path,
    report: Reporter,
    text: str = "",
    other: Reader | None = None,
    processes: int = 1,
) -> dict[str, Any]:
    """Train one document: see `Job`. Returns the adapter's metrics. processes: that share its steps.

    Raises InterruptedRun after Ctrl-C, KmError where there is nothing to train on or training diverges.
    """
    results: list[dict[str, Any] | KmError] = []
    job = Job("", samples, chunks, recipe, workspace, out, text, other)
    train_together(loaded, [job], report, lambda _, result: results.append(result), processes)
    (result,) = results
    if isinstance(result, KmError):
        raise result
    return result


def train_together(loaded: Loaded, jobs: Sequence[Job], report: Reporter, done: Done, processes: int = 1) -> None:
    """Train several documents, by recipes with one kind of adapter, side by side, each as it would be alone. Each is handed
    over as soon as it is finished or has failed, which does not stop the others. Those of a group are one training, which
    takes them by turns, with a checkpoint in the first one's workspace. processes: that share the steps of one.

    Raises InterruptedRun after Ctrl-C.
    """
    from kmcli.training.together import Together

    with closing(Together(loaded, jobs, report, done, processes)) as together:
        together.run()


def predict(
    base: Reader,
    teacher: Reader,
    load: Callable[[], Loaded],
    samples: Sequence[Sample],
    chunks: Mapping[str, str],
    recipe: Recipe,
    workspace: Path,
    report: Reporter,
    text: str = "",
) -> None:
    """Leave in the workspace what the recipe's teacher predicts, for `train` with the same samples, chunks and text.

    load: of the teacher's weights, only where something is missing. Raises ResourceError where there is no room for it.
    """
    from kmcli.training import mixture
    from kmcli.training.predictions import Predictions

    mix = mixture.mix(base, samples, chunks, text, recipe, silent, teacher)
    with closing(Predictions(base, mix.views, recipe, workspace)) as predictions:
        if predictions.missing():
            predictions.compute(load(), report)


def split(samples: Sequence[Sample], recipe: Recipe) -> tuple[list[Sample], list[Sample]]:
    """Samples to train on, and held out. By a hash of question and seed, so that material that is added later does not
    move the old across the line, and a question is never on both sides, whichever chunk it was asked about.

    A task whose samples are all asked for in the same words, such as a summary, is trained on whole.
    """
    whole = {name for name, planned in plan.plan(recipe).items() if planned.task.parser == "text"}
    taught: list[Sample] = []
    held: list[Sample] = []
    for sample in samples:
        identity = f"{recipe.seed}\0{normalise(sample.prompt)}"
        share = int(hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:8], 16) / 0x1_0000_0000
        (held if share < recipe.held_out and sample.task not in whole else taught).append(sample)
    return taught, held
