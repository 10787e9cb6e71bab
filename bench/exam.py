"""What an exam is worth: study that it drives against uniform study, at equal total training.

    python -m bench.exam FOLDER [--documents N] [--seeds N] [--seed K] [--words LEAST MOST] [--wordings N]
                         [--library HOME] [--set KEY=VALUE ...]

Documents are those of bench/corpus.py, each with its questions; their study material is the corpus's own beside what the
base writes about them (`tasks=import,qa`), because of that alone the embedded base writes too little. The exam asks what is
held out of the one (`--set held_out=SHARE`; --wordings: in how many more ways that asks for each fact) and what the base
writes for it. --library: a KM_HOME that each seed's library is a copy of, with modules of other documents to begin from
(`--set init=@TAG`), which both sides do; none of these documents may be in it. For each seed:

    examined    `km train`, with an exam and the rounds that it asks for (`--set exam_rounds=N`, at most)
    uniform     each document on the same material as long as the others, by epochs, with a schedule of its own: together as
                many scored tokens as `km train` took for all of them

Nothing ends early by a held-out loss, on either side. What is compared is the exact match of the document's own questions,
closed book, greedy, but for those that the document does not answer: no exam and no training has seen them in these words.
Prints the steps and scored tokens of both sides, a row for each document and seed, and as `FIGURE name value` the mean
difference with its 95% interval (bootstrap over documents, whose seeds stay together), the p-value of a paired
randomisation test, and the accuracy of the worst tenth of the documents (mean of its seeds) on both sides.

Everything is kept in FOLDER: the same command goes on where one was stopped, and another number of seeds adds to what there
is. Documents train eight at a time; --seed K does what one seed needs and prints its table alone, so that several can run
side by side.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from bench import corpus

from kmcli import training
from kmcli.adapters import lora
from kmcli.engines.hf import HfEngine
from kmcli.errors import KmError
from kmcli.evaluation.methods import answer_all
from kmcli.evaluation.metrics import bootstrap, exact_match, paired_p
from kmcli.library import files
from kmcli.training import Job
from kmcli.types import Document, Event, Ingested, Question, Recipe
from kmcli.workflows import imported, material_files, starts, study
from kmcli.workflows.batch import Loader
from kmcli.workflows.house import House, open_house
from kmcli.workflows.material import RecipeOptions

SETTINGS = ("tasks=import,qa", "generations=8", "early_stopping=false", "exam_rounds=2")
"""Of both sides; --set outranks them."""
TOGETHER = 8
SIDES = ("examined", "uniform")


@dataclass(frozen=True)
class Side:
    """What one side did with a document, and which of its questions it answers rightly.

    The examined one's own: first, the steps and scored tokens before the rounds; before, known, asked: facts; seconds: of
    its first exam, and of its training and its rounds with the exams after them."""

    steps: int
    tokens: int
    right: list[bool]
    first: tuple[int, int] = (0, 0)
    before: int = 0
    known: int = 0
    asked: int = 0
    rounds: int = 0
    seconds: tuple[float, float] = (0.0, 0.0)

    @property
    def accuracy(self) -> float:
        return fmean(self.right)


Found = dict[str, dict[str, Side]]
"""By document, by side."""


class Seed:
    """A library for one seed, and what was measured in it."""

    def __init__(
        self, folder: Path, seed: int, documents: Sequence[corpus.Generated], given: argparse.Namespace
    ) -> None:
        self.folder, self.made = folder / f"seed-{seed}", documents
        self.options = RecipeOptions(settings=[*SETTINGS, f"seed={seed}", *given.settings])
        self.folder.mkdir(parents=True, exist_ok=True)
        if given.library and not self.home.exists():
            shutil.copytree(given.library, self.home.with_suffix(".part"), dirs_exist_ok=True)
            self.home.with_suffix(".part").replace(self.home)
        self.asked = {
            one.name: [Question(q["question"], tuple(q["answers"])) for q in one.questions if q["answers"]]
            for one in documents
        }

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def run(self) -> Found:
        os.environ["KM_HOME"] = str(self.home)
        for side, study_some in zip(SIDES, (self._examined, self._uniform), strict=True):
            todo = [one for one in self.made if not self._file(one.name, side).exists()]
            for start in range(0, len(todo), TOGETHER):
                with open_house({}, _report) as house:
                    study_some(house, Loader(house), todo[start : start + TOGETHER])
        return {one.name: {side: self._side(one.name, side) for side in SIDES} for one in self.made}

    def _examined(self, house: House, loader: Loader, todo: Sequence[corpus.Generated]) -> None:
        for one in todo:
            self._add(house, one)
        report = study.train(house, [one.name for one in todo], False, self.options)
        if report.interrupted:
            raise report.interrupted
        if report.failed:
            raise SystemExit(f"{report.failed[0].source}: {report.failed[0].error.message}")
        for one in todo:
            document = house.library.find(one.name)
            module = house.library.module(document)
            head = house.library.exams.head(module) if module else None
            if module is None or head is None:
                raise SystemExit(f"{one.name} has no exam.")
            first = module.metrics["steps"], module.metrics["scored_tokens"]
            self._keep(
                one.name,
                "examined",
                Side(
                    steps=first[0] + head.round_steps,
                    tokens=first[1] + head.round_tokens,
                    right=self._right(house, loader, document, module.path),
                    first=first,
                    before=head.known if head.known_before is None else head.known_before,
                    known=head.known,
                    asked=head.asked,
                    rounds=head.rounds,
                    seconds=(head.seconds, head.training_seconds + head.round_seconds),
                ),
            )

    def _add(self, house: House, one: corpus.Generated) -> None:
        """What an earlier run did of it is not done again."""
        data = one.text.encode()
        if not house.library.has(one.name):
            house.library.add(Ingested(f"/{one.name}.md", "markdown", one.name, data, one.text, None), one.name)
        file = house.library.home / "material.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in one.material), "utf-8")
        material_files.import_(house, one.name, str(file), self.options)
        file.unlink()

    def _uniform(self, house: House, loader: Loader, todo: Sequence[corpus.Generated]) -> None:
        examined = {one.name: self._side(one.name, "examined") for one in self.made}
        times = sum(one.tokens for one in examined.values()) / sum(one.first[1] for one in examined.values())
        jobs: dict[Job, Document] = {}
        done: dict[str, tuple[int, int]] = {}

        def finished(job: Job, result: dict[str, Any] | KmError) -> None:
            if isinstance(result, KmError):
                raise result
            done[job.name] = result["steps"], result["scored_tokens"]

        with TemporaryDirectory() as name:
            for one in todo:
                document = house.library.find(one.name)
                steps = round(times * examined[one.name].first[0])
                jobs[self._job(house, loader, document, steps, Path(name, one.name))] = document
            training.train_together(loader.load(house.base()), list(jobs), house.report, finished)
            for job, document in jobs.items():
                right = self._right(house, loader, document, job.out)
                self._keep(document.name, "uniform", Side(*done[document.name], right))

    def _job(self, house: House, loader: Loader, document: Document, steps: int, folder: Path) -> Job:
        module = house.library.module(document)
        assert module is not None
        recipe: Recipe = replace(module.recipe, steps=steps)
        start = None
        if recipe.init:
            recipe, start = starts.begin(house, document, recipe)
            if recipe.init_revision != module.recipe.init_revision:
                raise SystemExit(f"{document.name} began from other modules: begin from a tag (--set init=@TAG).")
        loaded = loader.load(house.base())
        chunks = house.study_chunks(document, loaded, recipe)
        samples = imported.attach(house, document, loaded, recipe, chunks).samples
        (folder / "out").mkdir(parents=True)
        texts = {chunk.sha256: chunk.text for chunk in chunks}
        out, text = folder / "out", house.library.text(document)
        return Job(document.name, samples, texts, recipe, folder, out, text, start=start)

    def _right(self, house: House, loader: Loader, document: Document, adapter: Path) -> list[bool]:
        asked = self.asked[document.name]
        loaded = loader.load(house.base())
        model = lora.load(loaded, adapter)
        try:
            said = answer_all("km", HfEngine(loaded, model), asked, loaded.base.prompts) or ()
        finally:
            model.unload().eval()
        return [bool(exact_match(one.text, question.answers)) for one, question in zip(said, asked, strict=True)]

    def _file(self, name: str, side: str) -> Path:
        return self.folder / f"{name}-{side}.json"

    def _keep(self, name: str, side: str, found: Side) -> None:
        files.write(self._file(name, side), json.dumps(asdict(found)).encode())

    def _side(self, name: str, side: str) -> Side:
        return Side(**json.loads(self._file(name, side).read_text("utf-8")))


def _report(event: Event) -> None:
    if event.message:
        print(f"  {event.stage}: {event.message}", file=sys.stderr, flush=True)


def tell(by_seed: Mapping[int, Found]) -> None:
    """The table and the figures."""
    print("\n| document | seed | facts known | rounds | steps | scored tokens | examined | uniform |")
    print("|---|---|---|---|---|---|---|---|")
    for seed, documents in by_seed.items():
        for name, of in documents.items():
            examined, uniform = (of[side] for side in SIDES)
            steps, tokens = examined.first
            print(
                f"| {name} | {seed} | {examined.before} to {examined.known} of {examined.asked} | {examined.rounds} "
                f"| {steps} + {examined.steps - steps}; {uniform.steps} "
                f"| {tokens:,} + {examined.tokens - tokens:,}; {uniform.tokens:,} "
                f"| {examined.accuracy:.2f} | {uniform.accuracy:.2f} |"
            )
    found = list(by_seed.values())
    every = [of for documents in found for of in documents.values()]
    for side in SIDES:
        steps, tokens = (sum(getattr(of[side], what) for of in every) for what in ("steps", "tokens"))
        print(f"{side}: {steps:,} steps, {tokens:,} scored tokens")
    asking, training_seconds = (sum(of["examined"].seconds[place] for of in every) for place in (0, 1))
    print(f"the exams before the rounds took {asking / training_seconds:.1%} as long as training and rounds")
    names = list(found[0])
    mean = {side: [fmean(documents[name][side].accuracy for documents in found) for name in names] for side in SIDES}
    gains = [100 * (one - other) for one, other in zip(mean["examined"], mean["uniform"], strict=True)]
    score = bootstrap(gains)
    asked = sum(len(found[0][name]["examined"].right) for name in names)
    print(f"\n{len(names)} documents with {asked} questions together, seeds: {len(found)}")
    for side, values in mean.items():
        tenth = sorted(values)[: math.ceil(len(values) / 10)]
        print(f"{side}: {100 * fmean(values):.1f}% right, the worst tenth of the documents {100 * fmean(tenth):.1f}%")
        print(f"FIGURE exam_{side} {100 * fmean(values):.2f}")
        print(f"FIGURE exam_{side}_worst_decile {100 * fmean(tenth):.2f}")
    print(f"p {paired_p(mean['examined'], mean['uniform']):.4f}; 95% from {score.low:+.1f} to {score.high:+.1f}")
    print(f"FIGURE exam_gain_points {score.mean:.2f}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, help="This one alone.")
    parser.add_argument("--words", type=int, nargs=2, default=(2000, 8000), metavar=("LEAST", "MOST"))
    parser.add_argument("--wordings", type=int, default=0, choices=range(corpus.STUDIED + 1), metavar="N")
    parser.add_argument("--library", type=Path)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    given = parser.parse_args(arguments)
    made = [
        corpus.document("examined", number, tuple(given.words), 25, True, given.wordings)
        for number in range(given.documents)
    ]
    folder = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    size = folder / "size.json"
    told = {name: getattr(given, name) for name in ("documents", "wordings", "settings")} | {"words": list(given.words)}
    if given.library:
        told["library"] = str(given.library.absolute())
    if not size.exists():
        files.write(size, json.dumps(told).encode())
    if json.loads(size.read_text("utf-8")) != told:
        raise SystemExit(f"{folder} holds a run of another size: {size.read_text('utf-8')}")
    seeds = range(given.seeds) if given.seed is None else [given.seed]
    tell({seed: Seed(folder, seed, made, given).run() for seed in seeds})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
