"""Three chunks, an engine that says what it is told to about them, and what `write` handed over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kmcli.bases.prompts import STYLES, Prompts
from kmcli.engines import Chat, Sampling
from kmcli.engines.scripted import ScriptedEngine
from kmcli.synthesis.check import Counts
from kmcli.synthesis.write import Unit, write
from kmcli.types import Chunk, Recipe, Sample, silent

EMBEDDED, GENERAL = STYLES["embedded"], STYLES["general"]
MILL, BARN, BOAT = (
    Chunk(index, text, 8, 0)
    for index, text in enumerate(
        ["Ann built the {mill} in 1871.", "Bo painted the barn red in 1902.", "Cy sank the boat near Oslo in 1950."]
    )
)
RECIPE = Recipe(model="scripted", revision="0", chunk_tokens=40, generations=4, summary_share=0.5, seed=5)
QA_ONLY = replace(RECIPE, tasks=("qa",))
PAIRS = {
    MILL: "Q: Who built the mill?\nA: Ann\nQ: When was it built?\nA: 1871",
    BARN: "Q: What colour is the barn?\nA: red",
    BOAT: "Q: Who sank the boat?\nA: Cy",
}
ANSWERS = {
    "Who built the mill?": "Ann",
    "When was it built?": "1871",
    "What colour is the barn?": "Red.",
    "Who sank the boat?": "Cy",
}


def script(
    wrote: Callable[[Chunk], str] = lambda chunk: PAIRS[chunk],
    answer: Callable[[str], str] = lambda question: ANSWERS.get(question, "no idea"),
    summary: Callable[[Chunk], str] = lambda chunk: f"A summary of {chunk.text}",
    bare: Callable[[str], str] = lambda question: "I don't know.",
    prompts: Prompts = EMBEDDED,
) -> Callable[[Chat, Sampling], str]:
    def say(chat: Chat, sampling: Sampling) -> str:
        ((role, content),) = chat
        assert role == "user"
        chunk = chunk_of(content)
        if chunk is None:
            assert sampling.temperature == 0
            return bare(prompts.question_of(content))
        asked = content[len(chunk.text) + 2 :]
        if asked == prompts.write_qa:
            return wrote(chunk)
        if asked == prompts.summarise:
            return summary(chunk)
        assert sampling.temperature == 0  # asked again, and no longer guessing
        return answer(prompts.question_of(asked))

    return say


def chunk_of(content: str) -> Chunk | None:
    """The chunk that a base is asked about; None where it is asked without one."""
    return next((chunk for chunk in (MILL, BARN, BOAT) if content.startswith(chunk.text + "\n\n")), None)


def counted(task: str, **reasons: int) -> Counts:
    return Counts({(task, reason): count for reason, count in reasons.items()})


class Made:
    """What `write` handed over, as a caller keeps it."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.groups: list[list[Unit]] = []
        self.counts = Counts()

    def keep(self, samples: list[Sample], units: list[Unit], counts: Counts) -> None:
        self.samples += samples
        self.groups.append(units)
        self.counts.update(counts)

    @property
    def finished(self) -> set[Unit]:
        return {unit for group in self.groups for unit in group}

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return [(sample.prompt, sample.response) for sample in self.samples]


def run(
    say: Callable[[Chat, Sampling], str],
    chunks: list[Chunk],
    recipe: Recipe = QA_ONLY,
    made: Made | None = None,
    prompts: Prompts = EMBEDDED,
    context: int = 10_000,
    **given: Any,
) -> tuple[Made, ScriptedEngine]:
    made, engine = made or Made(), ScriptedEngine(say, context)
    report = given.pop("report", silent)
    write(engine, chunks, recipe, prompts, made.finished, made.counts, made.keep, report, **given)
    return made, engine
