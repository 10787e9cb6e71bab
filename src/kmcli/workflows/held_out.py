"""Questions of a document's study material that its Knowledge Module was never trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kmcli.bases import Loaded
from kmcli.metrics import normalise
from kmcli.synthesis import TASKS, Task
from kmcli.synthesis.custom import SHORT_ANSWERS
from kmcli.synthesis.plan import plan
from kmcli.types import IMPORTED, Document, KnowledgeModule, Question, Recipe, Sample, TaskName
from kmcli.workflows.house import House
from kmcli.workflows.imported import attach


def questions(house: House, document: Document, module: KnowledgeModule, loaded: Loaded) -> list[Question]:
    """Each with its answer, and its chunk as evidence. None of what is no question: a summary, or what is said of a name."""
    from kmcli import training

    recipe = module.recipe
    chunks = house.study_chunks(document, loaded, recipe)
    texts = {chunk.sha256: chunk.text for chunk in chunks}
    made = attach(house, document, loaded, recipe, chunks).samples
    taught, held = training.split([sample for sample in made if sample.chunk_sha256 in texts], recipe)
    names = asking_of(recipe)
    held = [sample for sample in held if sample.task in names or sample.engine == IMPORTED]
    check_unseen(held, taught)
    prompts = loaded.base.prompts
    return [
        Question(prompts.question_of(sample.prompt), (sample.response,), evidence=texts[sample.chunk_sha256])
        for sample in held
    ]


def asking(tasks: Mapping[str, Task] | Mapping[TaskName, Task]) -> set[str]:
    """Those of the tasks, by name, whose samples are questions with a short answer."""
    return {name for name, task in tasks.items() if task.parser in SHORT_ANSWERS}


def asking_of(recipe: Recipe) -> set[str]:
    """The same of km's own tasks and the recipe's."""
    return asking({**TASKS} | {name: planned.task for name, planned in plan(recipe).items()})


def check_unseen(held: Sequence[Sample], taught: Sequence[Sample]) -> None:
    """Raises AssertionError where a question was trained on, whatever its case and punctuation, or whatever its answer."""
    known = {normalise(sample.prompt) for sample in taught}
    seen = [sample.prompt for sample in held if normalise(sample.prompt) in known]
    if seen:
        raise AssertionError(f"{len(seen)} of {len(held)} held-out questions were trained on, such as {seen[0]!r}")
