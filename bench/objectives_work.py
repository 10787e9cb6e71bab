"""What bench/objectives.py does, and keeps in a folder: study material, and what each objective makes of it.

Everything that is finished is a file of its own, so that a run which is stopped goes on where it was.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from basemodel.material import from_world

from kmcli import adapters
from kmcli.bases import Loaded
from kmcli.chunking import chunk, join_pages
from kmcli.engines.hf import HfEngine
from kmcli.errors import KmError
from kmcli.evaluation.methods import answer_all, gold_chunk
from kmcli.evaluation.questions import read_questions
from kmcli.synthesis.write import write
from kmcli.training import Job, train_together
from kmcli.types import Chunk, Passage, Question, Recipe, Sample, silent

EXAMPLES = Path(__file__).parent.parent / "examples"


@dataclass(frozen=True)
class Studied:
    """A document with its questions and what the base wrote about it. chunks: texts by hash."""

    name: str
    text: str
    questions: list[Question]
    chunks: dict[str, str]
    samples: list[Sample]


@dataclass(frozen=True)
class Lesson:
    """One document learnt by one objective with one seed. first, loss: of the first and last tenth of the steps.

    tokens: scored, a step. seconds: of the processor, a step, of the group that the document was in.
    """

    name: str
    answers: list[str]
    first: float
    loss: float
    tokens: float
    seconds: float


def documents(examples: Sequence[str], count: int) -> list[tuple[str, str, list[Question]]]:
    """Name, text and questions: of documents of the template world (ten things, about thirty questions), and of examples."""
    found = []
    for number in range(count):
        made = from_world(random.Random(f"objectives {number}"), 10, 3, evaluation=True)
        asked = [Question(q, (a, *made.accepted.get(q, ())), "", a) for q, a in made.questions]
        found.append((f"generated-{number}", made.text, asked))
    for name in examples:
        text = (EXAMPLES / f"{name}.md").read_text("utf-8")
        found.append((name, text, read_questions(EXAMPLES / f"{name}.questions.jsonl")))
    return found


class Work:
    """A folder of what is finished."""

    def __init__(self, folder: Path, loaded: Loaded, size: dict[str, Any], recipe: Recipe) -> None:
        """size: what a run must have in common with those before it. Raises SystemExit where it does not."""
        self.folder, self.loaded, self.recipe = folder, loaded, recipe
        folder.mkdir(parents=True, exist_ok=True)
        told = self.kept("size.json", lambda: size)
        if told != size:
            raise SystemExit(f"{folder} holds a run of another size: {told}")

    def study(self, name: str, text: str, questions: list[Question]) -> Studied:
        """What the base writes about a document."""
        chunks = self._chunks(text, self.recipe.chunk_tokens)

        def written() -> list[dict[str, Any]]:
            samples: dict[str, Sample] = {}

            def keep(new: list[Sample], *rest: object) -> None:
                samples.update({one.id: one for one in new})

            engine, prompts = HfEngine(self.loaded), self.loaded.base.prompts
            write(engine, chunks, self.recipe, prompts, set(), {}, keep, silent, force=True)
            return [asdict(one) for one in samples.values()]

        samples = [Sample(**one) for one in self.kept(f"material-{name}.json", written)]
        return Studied(name, join_pages(text), questions, {one.sha256: one.text for one in chunks}, samples)

    def references(self, studied: Studied) -> dict[str, list[str]]:
        """What the base answers closed book, and with the right chunk in front of it."""

        def asked() -> dict[str, list[str]]:
            engine, prompts = HfEngine(self.loaded), self.loaded.base.prompts
            bare = answer_all("bare", engine, studied.questions, prompts)
            chunks = self._chunks(studied.text, self.loaded.base.chunk_tokens)
            found = [gold_chunk(question, chunks) for question in studied.questions]
            passages = [[Passage(studied.name, best.text, 1.0)] if best else [] for best in found]
            gold = answer_all("gold", engine, studied.questions, prompts, passages=passages)
            return {"bare": [one.text for one in bare or ()], "gold": [one.text for one in gold or ()]}

        found: dict[str, list[str]] = self.kept(f"references-{studied.name}.json", asked)
        return found

    def known(self, objective: str, seed: int, number: int) -> list[Lesson] | None:
        """What a group of documents has learnt; None where it is still to learn."""
        file = self.folder / _named(objective, seed, number)
        return [Lesson(**one) for one in json.loads(file.read_text("utf-8"))] if file.exists() else None

    def learn(self, group: Sequence[Studied], objective: str, seed: int, number: int) -> None:
        """Train a module for each document of the group, side by side, and ask it everything."""
        recipe = replace(self.recipe, objective=objective, seed=seed)
        self.kept(_named(objective, seed, number), lambda: [asdict(one) for one in self._learn(group, recipe)])

    def _learn(self, group: Sequence[Studied], recipe: Recipe) -> list[Lesson]:
        results: dict[str, dict[str, Any]] = {}

        def done(job: Job, result: dict[str, Any] | KmError) -> None:
            if isinstance(result, KmError):
                raise result
            results[job.name] = result

        with TemporaryDirectory() as name:
            jobs = []
            for one in group:
                workspace, out = Path(name, one.name, "workspace"), Path(name, one.name, "out")
                workspace.mkdir(parents=True)
                out.mkdir()
                jobs.append(Job(one.name, one.samples, one.chunks, recipe, workspace, out, one.text))
            began = time.process_time()
            train_together(self.loaded, jobs, silent, done)
            seconds = (time.process_time() - began) / sum(result["steps"] for result in results.values())
            return [self._asked(one, job.out, results[one.name], seconds) for one, job in zip(group, jobs, strict=True)]

    def _asked(self, studied: Studied, module: Path, metrics: dict[str, Any], seconds: float) -> Lesson:
        model = adapters.load(self.loaded, module)
        try:
            answers = answer_all("km", HfEngine(self.loaded, model), studied.questions, self.loaded.base.prompts)
        finally:
            model.unload().eval()
        curve = [point["loss"] for point in metrics["curve"]]
        tenth = max(1, len(curve) // 10)
        said = [answer.text for answer in answers or ()]
        tokens = metrics["scored_tokens"] / metrics["steps"]
        return Lesson(studied.name, said, fmean(curve[:tenth]), fmean(curve[-tenth:]), tokens, seconds)

    def _chunks(self, text: str, tokens: int) -> list[Chunk]:
        count = lambda words: len(self.loaded.tokenizer(words, add_special_tokens=False)["input_ids"])  # noqa: E731
        return chunk(text, tokens, self.recipe.chunk_overlap, count)

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What the file of that name says, which is made first where there is none."""
        file = self.folder / name
        if not file.exists():
            temporary = file.with_suffix(".tmp")
            temporary.write_text(json.dumps(make()), "utf-8")
            temporary.replace(file)
        return json.loads(file.read_text("utf-8"))


def _named(objective: str, seed: int, number: int) -> str:
    return f"lesson-{seed}-{number}-{objective.replace(',', '+').replace(':', '')}.json"
