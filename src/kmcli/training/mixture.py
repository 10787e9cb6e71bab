"""A recipe's objective, which may be a mix of several: what it needs, its views, and its loss.

The recipe says it in one line: "dcd", or "dcd,lm:0.1" with weights (1 where none is given). Every step takes a batch of each
part and adds the parts' losses, each a mean over its own tokens, times its weight.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

from kmcli.bases import Loaded
from kmcli.errors import KmError, UsageError, did_you_mean
from kmcli.metrics import normalise
from kmcli.objectives import AS_BEFORE, OBJECTIVES, Objective, OfSamples, OfWindows, windows
from kmcli.objectives.losses import hidden_layers
from kmcli.objectives.views import Reads, opening_size
from kmcli.synthesis import plan
from kmcli.synthesis.judge import good_enough
from kmcli.training import split
from kmcli.types import ObjectiveName, Recipe, Reporter, Sample, View

if TYPE_CHECKING:
    import torch

    from kmcli.objectives.losses import Head, Taught

NAMES: dict[str, ObjectiveName] = {name: name for name in get_args(ObjectiveName)}
WINDOW_CHUNKS = 2
"""A window's tokens, in chunks: the context that a chunk is, and as much again to predict."""
KEPT_BATCHES = 2
"""Of samples that are to be answered as before, in each step, as multiples of the recipe's batch."""
KEPT_WEIGHT = 30.0
"""Of these, at most: a mean over the few samples of what changed is loud, and these speak for many times as many."""

SHORT = 8
"""Words of an answer that is a fact by itself."""

_WEIGHT = re.compile(r"\d{1,6}(\.\d{1,6})?")


@dataclass(frozen=True, slots=True)
class Part:
    """One objective of a mix. training, held_out: which of the mixture's views are its own. batch: how many a step takes.

    tells: whether the loss on what is held out says what was learnt: it speaks of facts that are studied in other words.
    facts: what the views to train on are about. adapter: which is on for it, where it is not the student's only one; turn:
    which steps it has a part in, of several documents that take turns.
    """

    name: str
    weight: float
    objective: Objective
    training: range
    held_out: range
    batch: int
    tells: bool = True
    facts: int = 0
    adapter: str = ""
    turn: int = 0


@dataclass(frozen=True, slots=True)
class Mixture:
    """views: of all parts, one after the other, each part's to train on before those it holds out. turns: of how many
    documents: each step is about one."""

    views: list[View]
    parts: tuple[Part, ...]
    turns: int = 1

    @property
    def training(self) -> int:
        return sum(len(part.training) for part in self.parts)

    @property
    def held_out(self) -> int:
        return sum(len(part.held_out) for part in self.parts)

    @property
    def as_before(self) -> range:
        """The views whose teacher is the adapter that training begins with; they come last."""
        return next((part.training for part in self.parts if part.objective == AS_BEFORE), range(len(self.views), 0))

    @property
    def tells(self) -> bool:
        """Whether early stopping can go by what is held out."""
        return all(part.tells for part in self.parts if part.held_out)

    def loss(
        self,
        part: Part,
        indices: Sequence[int],
        student_LND: torch.Tensor,
        targets: Callable[[Sequence[int]], Taught],
        head: Head,
        recipe: Recipe,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """A part's loss on some of its views, weighted, and its terms by name: "kl"; in a mix "dcd kl".

        student_LND: states at the views' scored positions, one view after the other. targets: gives the teacher's for
        views that have one.
        """
        import torch

        teacher_LND = None if self.views[indices[0]].teacher_ids is None else targets(indices)
        ids = torch.tensor([token for index in indices for token in scored(self.views[index])], dtype=torch.long)
        value, terms = part.objective.loss(teacher_LND, student_LND, ids.to(student_LND.device), head, recipe)
        prefix = f"{part.name} " if len({one.name for one in self.parts}) > 1 else ""
        return part.weight * value, {prefix + name: term for name, term in terms.items()}


def by_turns(mixtures: Mapping[str, Mixture]) -> Mixture:
    """Several documents' in one, by the names of their adapters."""
    views: list[View] = []
    parts: list[Part] = []
    for turn, (adapter, one) in enumerate(mixtures.items()):
        shift = len(views)
        views += one.views
        parts += [
            replace(
                part,
                training=range(shift + part.training.start, shift + part.training.stop),
                held_out=range(shift + part.held_out.start, shift + part.held_out.stop),
                adapter=adapter,
                turn=turn,
            )
            for part in one.parts
        ]
    return Mixture(views, tuple(parts), len(mixtures))


def scored(view: View) -> list[int]:
    """The ids of the tokens that a view scores."""
    return [token for token, on in zip(view.student_ids, view.student_mask, strict=True) if on]


def parse(text: str) -> dict[ObjectiveName, float]:
    """Weights by objective of a recipe's line. Raises UsageError where it makes no sense."""
    weights: dict[ObjectiveName, float] = {}
    for entry in text.split(","):
        name, colon, number = (part.strip() for part in entry.partition(":"))
        if name not in NAMES:
            known = "Choose one of " + ", ".join(NAMES) + "; or a mix: dcd,lm:0.1"
            raise UsageError(f"{name!r} is no objective.", did_you_mean(name, list(NAMES), known))
        if NAMES[name] in weights:
            raise UsageError(f"the objective {name!r} stands twice in the recipe.", "Name each objective once.")
        if colon and not (_WEIGHT.fullmatch(number) and float(number)):
            raise UsageError(
                f"{number!r} is no weight for the objective {name!r}.",
                f"It is a number above 0. For example: {name}:0.1",
            )
        weights[NAMES[name]] = float(number) if colon else 1.0
    if set(weights) == {"keep"}:
        raise UsageError("the objective keep teaches nothing of the document.", "Put it beside another: dcd,keep")
    return weights


def canonical(text: str) -> str:
    """The line as recipes keep it, the same for the same mix: weights of 1 left out."""
    return ",".join(name if weight == 1 else f"{name}:{weight:g}" for name, weight in parse(text).items())


def study_tasks(recipe: Recipe) -> tuple[str, ...]:
    """The entries of the recipe's tasks that its objectives learn from; () where they need no study material.

    Raises UsageError where an objective finds none of its own among them.
    """
    needed: set[str] = set()
    for name in parse(recipe.objective):
        objective = OBJECTIVES[name]
        if isinstance(objective, OfSamples):
            mine = [entry for entry in recipe.tasks if not objective.tasks or plan.names([entry])[0] in objective.tasks]
            if not mine:
                raise UsageError(
                    f"the objective {name} learns from "
                    + " and ".join(objective.tasks)
                    + ", and the recipe has no such task.",
                    f"Add it: --set tasks={','.join([*recipe.tasks, *objective.tasks])}",
                )
            needed.update(mine)
    return tuple(entry for entry in recipe.tasks if entry in needed)


def mix(
    loaded: Reads,
    samples: Sequence[Sample],
    chunks: Mapping[str, str],
    text: str,
    recipe: Recipe,
    report: Reporter,
    other: Reads | None = None,
    kept: Sequence[Sample] = (),
) -> Mixture:
    """The views of a recipe's objectives on a document; one that would score nothing is left out.

    chunks: texts by hash; of the samples those are taken that are `good_enough`. text: the document's, without page breaks.
    other: the teacher, where it is not the base. kept: samples that are to be answered as before.
    Raises KmError where an objective has nothing to train on, UsageError where the base has no such layers, or samples
    were not rated and should be.
    """
    try:
        if isinstance(loaded, Loaded):
            hidden_layers(recipe.hidden_layers, loaded.model.config.get_text_config().num_hidden_layers)
    except ValueError as error:
        raise UsageError(f"{error}.", "Leave it out to compare all layers.") from None
    studied = replace(recipe, tasks=study_tasks(recipe))
    good = good_enough(samples, chunks, studied, report) if studied.tasks else []
    views: list[View] = []
    parts: list[Part] = []
    for name, weight in parse(recipe.objective).items():
        objective = OBJECTIVES[name]
        if isinstance(objective, OfSamples):
            own = [one for one in good if not objective.tasks or one.task in objective.tasks]
            study, rest = split(own, recipe)
            telling = also_studied(rest, study)
            taught, held = (
                [
                    view
                    for one in some
                    if any((view := objective.view(one, chunks[one.chunk_sha256], loaded, other)).student_mask)
                ]
                for some in (study, telling or rest)
            )
            tells, facts = bool(telling), len({_fact(sample) for sample in study})
            if not taught:
                raise _nothing_taught(name, objective, good, own)
        else:
            taught, held = _of_windows(objective, text, loaded, recipe, other)
            tells, facts = True, 0
            if not taught:
                raise KmError("the document has too little text to train on.", "Is it the right file? See km show NAME")
        start, middle = len(views), len(views) + len(taught)
        views += taught + held
        share = objective.share if isinstance(objective, OfSamples) else 1.0
        batch = max(1, round(share * recipe.batch))
        held_out = range(middle, len(views))
        parts.append(Part(name, weight, objective, range(start, middle), held_out, batch, tells, facts))
    if kept:
        start, others = len(views), sum(len(part.training) for part in parts)
        views += [AS_BEFORE.view(one, chunks[one.chunk_sha256], loaded, None) for one in split(kept, recipe)[0]]
        weight = min(KEPT_WEIGHT, (len(views) - start) / others)
        batch = KEPT_BATCHES * recipe.batch
        parts.append(Part("kept", weight, AS_BEFORE, range(start, len(views)), range(0), batch))
    return Mixture(views, tuple(parts))


def _nothing_taught(name: str, objective: OfSamples, good: Sequence[Sample], own: Sequence[Sample]) -> KmError:
    """good: what may be trained on; own: what of it the objective learns from."""
    if not good:
        return KmError("there is no study material to train on.", "Write some first: km synth NAME")
    if not own:
        kinds = " and ".join(objective.tasks or ())
        return KmError(
            f"of {kinds}, which the objective {name} learns from, nothing that was written was kept.",
            f"Choose a larger base with --model (see km models), or leave {name} out of --objective.",
        )
    return KmError(
        f"of {len(own):,} samples of study material none is left to train on: they are held out, or have no answer.",
        "Have more written: --set generations=N",
    )


def also_studied(held: Sequence[Sample], taught: Sequence[Sample]) -> list[Sample]:
    """Those held out whose fact is studied in other words. A fact: a chunk and a short answer; for a long one, the chunk.

    What nothing else speaks of cannot be learnt from the rest, so a loss on it grows while the document is learnt.
    """
    known = {_fact(sample) for sample in taught} | {sample.chunk_sha256 for sample in taught}
    return [sample for sample in held if _fact(sample) in known]


def _fact(sample: Sample) -> tuple[str, str] | str:
    answer = normalise(sample.response)
    return (sample.chunk_sha256, answer) if len(answer.split()) <= SHORT else sample.chunk_sha256


def _of_windows(
    objective: OfWindows, text: str, loaded: Reads, recipe: Recipe, other: Reads | None
) -> tuple[list[View], list[View]]:
    """Views to train on and held out, of windows that have no token in common."""
    ids = list(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])
    room = min(reads.base.context - opening_size(reads) for reads in (loaded, other or loaded))
    size = min(WINDOW_CHUNKS * recipe.chunk_tokens, room)
    context = int(size * objective.context)
    stretches, held = windows.split(ids, size, recipe.held_out, recipe.seed)
    taught = [
        objective.view(window, loaded, other)
        for stretch in stretches
        for window in windows.windows(ids, stretch, size, context, recipe.generations, recipe.seed)
    ]
    return taught, [objective.view(windows.whole(ids, one, context), loaded, other) for one in held]
