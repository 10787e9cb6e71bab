"""Study material: what a base writes about a document with a chunk of it in context.

| task      | the base writes             | the student is asked | checked by                                   |
|-----------|-----------------------------|----------------------|----------------------------------------------|
| `qa`      | question-answer pairs       | the question         | asking again with the chunk in context       |
| `summary` | a summary of the chunk      | for a summary        | being finished, and not a repeat             |

To add one: a `Task` in TASKS with its instruction (a row of the prompt table in `bases.prompts`), its parser, and whether
its answers are asked again; then its name in `types.TaskName`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kmcli.bases.prompts import Prompts
from kmcli.synthesis.parse import Draft, pairs, summary
from kmcli.types import Recipe, TaskName


@dataclass(frozen=True, slots=True)
class Task:
    """instruction: what is asked under the chunk. drafts: parses (text, finished, prompts) into drafts.

    confirmed: responses are asked for again with the chunk in context, and only those that agree are kept.
    tokens: how long one generation may be, as a multiple of the chunk's size. generations: how many per chunk.
    """

    instruction: Callable[[Prompts], str]
    drafts: Callable[[str, bool, Prompts], list[Draft]]
    confirmed: bool
    tokens: float
    generations: Callable[[Recipe], int]


def _pairs(text: str, finished: bool, prompts: Prompts) -> list[Draft]:
    return [Draft(prompts.ask.format(question=draft.prompt), draft.response) for draft in pairs(text, finished)]


def _summary(text: str, finished: bool, prompts: Prompts) -> list[Draft]:
    written = summary(text, finished)
    return [Draft(prompts.summarise, written)] if written else []


def _few(recipe: Recipe) -> int:
    return max(1, round(recipe.generations * recipe.summary_share))


TASKS: dict[TaskName, Task] = {
    "qa": Task(
        lambda prompts: prompts.write_qa,
        _pairs,
        confirmed=True,
        tokens=1.5,
        generations=lambda recipe: recipe.generations,
    ),
    "summary": Task(lambda prompts: prompts.summarise, _summary, confirmed=False, tokens=1.0, generations=_few),
}
