"""What a document's Knowledge Module costs on another document: what `km compare --forgetting` asks."""

from __future__ import annotations

from collections.abc import Iterable

from kmcli.bases import Loaded
from kmcli.engines import Engine
from kmcli.errors import KmError, NotFoundError, UsageError
from kmcli.evaluation.comparison import Forgetting
from kmcli.evaluation.forgetting import measure
from kmcli.synthesis import TASKS, custom, plan
from kmcli.types import IMPORTED, Chunk, Document, Event, Question
from kmcli.workflows import held_out
from kmcli.workflows.house import House
from kmcli.workflows.naming import find_one

MOST = 100
"""Questions that are asked, evenly over the study material: the interval is then some ten points at most."""


def find(house: House, name: str, document: Document) -> tuple[Document, list[Question]]:
    """The other document, and questions of its study material. Raises UsageError where it is the same one, NotFoundError
    where it has no material to ask about."""
    other = find_one(house.library, name)
    if other.id == document.id:
        raise UsageError(f"{other.name} is the document that is compared.", "Name another one.")
    texts = house.library.chunk_texts(other)
    samples = [sample for sample in house.library.samples(other) if sample.chunk_sha256 in texts]
    asks = _asking({sample.task for sample in samples})
    found = [
        Question(sample.prompt, (sample.response,), evidence=texts[sample.chunk_sha256])
        for sample in samples
        if sample.task in asks or sample.engine == IMPORTED
    ]
    if not found:
        raise NotFoundError(f"{other.name} has no study material to ask about.", f"Write some: km synth {other.name}")
    step = max(1, len(found) / MOST)
    return other, [found[int(place * step)] for place in range(min(MOST, len(found)))]


def _asking(names: Iterable[str]) -> set[str]:
    """What `held_out` takes as questions too, where the base has confirmed the answer: one that is written freely is seldom
    written twice, with a module or without."""
    known = {*TASKS, *custom.names()}  # a person's own may be gone
    tasks = {name: task for name in names if name in known and (task := plan.find(name)).check != "none"}
    return held_out.asking(tasks)


def measured(
    house: House, other: Document, questions: list[Question], loaded: Loaded, without: Engine, with_km: Engine
) -> Forgetting:
    """How the base reads the other document without the module and with it. Raises KmError where nothing fits in its
    context."""
    prompts = loaded.base.prompts
    asked = [
        Question(prompts.question_of(one.question), one.answers, one.kind, one.evidence) for one in questions
    ]  # as a passage is asked about
    evidence = dict.fromkeys(one.evidence for one in asked)
    chunks = [Chunk(place, text, 0, 0) for place, text in enumerate(evidence)]

    def progress(done: int) -> None:
        house.report(Event("compare", f"reading {other.name}", done, 2 * len(asked)))

    found = measure(without, with_km, other.name, asked, chunks, prompts, progress=progress)
    if found is None:
        raise KmError(f"no passage of {other.name} fits in the base's context.", "Name another document.")
    return found
