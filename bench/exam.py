"""What an exam is worth: study that it drives against uniform study, at equal total training.

    python -m bench.exam FOLDER [--documents N] [--seeds N] [--words LEAST MOST] [--wordings N] [--rounds N]
                         [--library HOME] [--set KEY=VALUE ...]

Documents are those of bench/corpus.py, each with its questions; their study material is the corpus's own beside what the
base writes about them (`tasks=import,qa`), because of that alone the embedded base writes too little. The exam asks what is
held out of the one (`--set held_out=SHARE`; --wordings: in how many more ways that asks for each fact) and what the base
writes for it. --library: a KM_HOME that each seed's library is a copy of, with modules of other documents to begin from
(`--set init=@TAG`), which both sides do; none of these documents may be in it. For each seed:

    first       `km train` with an exam and no rounds
    examined    from there the rounds that the exam asks for (workflows/rounds.py), as `km train` takes them
    uniform     one training on the same material, of as many scored tokens as both of these together, from where the first
                began

Nothing ends early by a held-out loss, on either side. What is compared is the exact match of the document's own questions,
closed book, greedy, but for those that the document does not answer: no exam and no training has seen them in these words.
Prints the steps and scored tokens of both sides, a row for each document and seed, and as `FIGURE name value` the mean
difference with its 95% interval (bootstrap over documents, whose seeds stay together), the p-value of a paired
randomisation test, and the accuracy of the worst tenth of the documents (mean of its seeds) on both sides.

Everything is kept in FOLDER: the same command goes on where one was stopped, and another number of documents or seeds adds
to what there is. Documents train eight at a time.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
from collections.abc import Sequence
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
from kmcli.training import Job
from kmcli.types import Document, Event, Ingested, Question, Recipe
from kmcli.workflows import imported, material_files, rounds, starts, study
from kmcli.workflows.batch import Loader
from kmcli.workflows.course import Course, begun, finish
from kmcli.workflows.house import House, open_house
from kmcli.workflows.material import RecipeOptions
from kmcli.workflows.writer import Writer

SETTINGS = ("tasks=import,qa", "generations=8", "early_stopping=false", "exam_rounds=0")
"""Of the first training; --set outranks them."""
TOGETHER = 8


@dataclass(frozen=True)
class Side:
    """What one side did with a document, and which of its questions it answers rightly."""

    steps: int
    tokens: int
    right: list[bool]
    known: int = 0
    asked: int = 0
    rounds: int = 0

    @property
    def accuracy(self) -> float:
        return fmean(self.right)


class Seed:
    """A library for one seed, and what was measured in it."""

    def __init__(
        self, folder: Path, seed: int, documents: Sequence[corpus.Generated], given: argparse.Namespace
    ) -> None:
        self.folder, self.seed, self.made, self.count = folder / f"seed-{seed}", seed, documents, given.rounds
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

    def run(self) -> dict[str, dict[str, Side]]:
        """Sides by document: "first", "examined", "uniform"."""
        os.environ["KM_HOME"] = str(self.home)
        for start in range(0, len(self.made), TOGETHER):
            with open_house({}, _report) as house:
                self._some(house, self.made[start : start + TOGETHER])
        return {one.name: found for one in self.made if (found := self._found(one.name))}

    def _some(self, house: House, made: Sequence[corpus.Generated]) -> None:
        todo = [one for one in made if not self._file(one.name, "uniform").exists()]
        if not todo:
            return
        loader = Loader(house)
        self._first(house, loader, todo)
        documents = [house.library.find(one.name) for one in todo if self._file(one.name, "first").exists()]
        self._examined(house, loader, documents)
        self._uniform(house, loader, documents)

    def _first(self, house: House, loader: Loader, todo: Sequence[corpus.Generated]) -> None:
        new = [one for one in todo if not self._file(one.name, "first").exists()]
        for one in new:
            self._add(house, one)
        if new:
            report = study.train(house, [one.name for one in new], False, self.options, force=True)
            for failure in report.failed:
                print(f"{failure.source} is left out: {failure.error.message}", flush=True)
            if report.interrupted:
                raise report.interrupted
        for one in new:
            document = house.library.find(one.name)
            module = house.library.module(document)
            exam = house.library.exams.head(module) if module else None
            if module and exam:
                steps, tokens = module.metrics["steps"], module.metrics["scored_tokens"]
                right = self._right(house, loader, document, module.path)
                self._keep(one.name, "first", Side(steps, tokens, right, exam.known, exam.asked))

    def _add(self, house: House, one: corpus.Generated) -> None:
        """What an earlier run did of it is not done again."""
        data = one.text.encode()
        if not house.library.has(one.name):
            house.library.add(Ingested(f"/{one.name}.md", "markdown", one.name, data, one.text, None), one.name)
        file = house.library.home / "material.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in one.material), "utf-8")
        material_files.import_(house, one.name, str(file), self.options)
        file.unlink()

    def _examined(self, house: House, loader: Loader, documents: Sequence[Document]) -> None:
        courses: list[Course] = []
        for document in documents:
            module = house.library.module(document)
            if module and not self._file(document.name, "examined").exists():
                recipe = replace(module.recipe, exam_rounds=self.count)
                course = begun(house, document, house.base(), recipe, module)
                if course:
                    courses.append(course)
        writers: dict[str, Writer] = {}

        def writer_of(course: Course) -> Writer:
            return writers.setdefault("", Writer(house, loader, course.base, course.recipe))

        rounds.study_again(house, loader, courses, writer_of, lambda: None, TOGETHER, 1)
        for course in courses:
            first = self._side(course.document.name, "first")
            steps = first.steps + sum(one.steps for one in course.rounds)
            tokens = first.tokens + sum(one.tokens for one in course.rounds)
            right = self._right(house, loader, course.document, course.where)
            side = Side(steps, tokens, right, course.best.head.known, course.best.head.asked, len(course.rounds))
            self._keep(course.document.name, "examined", side)
            finish(house, course)

    def _uniform(self, house: House, loader: Loader, documents: Sequence[Document]) -> None:
        todo = [one for one in documents if not self._file(one.name, "uniform").exists()]
        jobs: dict[Job, Document] = {}
        steps: dict[str, tuple[int, int]] = {}

        def done(job: Job, result: dict[str, Any] | KmError) -> None:
            if isinstance(result, KmError):
                raise result
            steps[job.name] = result["steps"], result["scored_tokens"]

        with TemporaryDirectory() as name:
            for document in todo:
                jobs[self._job(house, loader, document, Path(name, document.name))] = document
            if jobs:
                training.train_together(loader.load(house.base()), list(jobs), house.report, done)
            for job, document in jobs.items():
                right = self._right(house, loader, document, job.out)
                self._keep(document.name, "uniform", Side(*steps[document.name], right))

    def _job(self, house: House, loader: Loader, document: Document, folder: Path) -> Job:
        """One training of as many tokens as the other side had."""
        first, all_of_it = (self._side(document.name, side) for side in ("first", "examined"))
        module = house.library.module(document)
        assert module is not None
        recipe: Recipe = replace(module.recipe, steps=round(all_of_it.tokens * first.steps / first.tokens))
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
        file = self._file(name, side)
        file.with_suffix(".tmp").write_text(json.dumps(asdict(found)), "utf-8")
        file.with_suffix(".tmp").replace(file)

    def _side(self, name: str, side: str) -> Side:
        return Side(**json.loads(self._file(name, side).read_text("utf-8")))

    def _found(self, name: str) -> dict[str, Side]:
        if not self._file(name, "uniform").exists():
            return {}
        return {side: self._side(name, side) for side in ("first", "examined", "uniform")}


def _report(event: Event) -> None:
    if event.message:
        print(f"  {event.stage}: {event.message}", file=sys.stderr, flush=True)


def tell(found: Sequence[dict[str, dict[str, Side]]]) -> None:
    """The table and the figures. found: by seed, by document."""
    print("\n| document | seed | facts known | rounds | steps | scored tokens | first | examined | uniform |")
    print("|---|---|---|---|---|---|---|---|---|")
    for seed, documents in enumerate(found):
        for name, of in documents.items():
            first, examined, uniform = of["first"], of["examined"], of["uniform"]
            print(
                f"| {name} | {seed} | {first.known} to {examined.known} of {first.asked} | {examined.rounds} "
                f"| {first.steps} + {examined.steps - first.steps}; {uniform.steps} "
                f"| {first.tokens:,} + {examined.tokens - first.tokens:,}; {uniform.tokens:,} "
                f"| {first.accuracy:.2f} | {examined.accuracy:.2f} | {uniform.accuracy:.2f} |"
            )
    names = [name for name in found[0] if all(name in documents for documents in found)]
    if not names:
        return
    mean = {
        side: [fmean(documents[name][side].accuracy for documents in found) for name in names]
        for side in ("first", "examined", "uniform")
    }
    gains = [100 * (one - other) for one, other in zip(mean["examined"], mean["uniform"], strict=True)]
    score = bootstrap(gains)
    asked = sum(len(found[0][name]["first"].right) for name in names)
    print(f"\n{len(names)} documents with {asked} questions together, seeds: {len(found)}")
    for side, values in mean.items():
        tenth = sorted(values)[: math.ceil(len(values) / 10)]
        print(f"{side}: {100 * fmean(values):.1f}% right, the worst tenth of the documents {100 * fmean(tenth):.1f}%")
        print(f"FIGURE exam_{side} {100 * fmean(values):.2f}")
        print(f"FIGURE exam_{side}_worst_decile {100 * fmean(tenth):.2f}")
    print(f"p {paired_p(mean['examined'], mean['uniform']):.3f}; 95% from {score.low:+.1f} to {score.high:+.1f}")
    print(f"FIGURE exam_gain_points {score.mean:.2f}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--words", type=int, nargs=2, default=(2000, 8000), metavar=("LEAST", "MOST"))
    parser.add_argument("--wordings", type=int, default=0, choices=range(corpus.STUDIED + 1), metavar="N")
    parser.add_argument("--rounds", type=int, default=4, help="At most.")
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
    told = {"words": list(given.words), "wordings": given.wordings, "rounds": given.rounds, "settings": given.settings}
    if given.library:
        told["library"] = str(given.library.absolute())
    if size.exists() and json.loads(size.read_text("utf-8")) != told:
        raise SystemExit(f"{folder} holds a run of another size: {size.read_text('utf-8')}")
    size.write_text(json.dumps(told), "utf-8")
    tell([Seed(folder, seed, made, given).run() for seed in range(given.seeds)])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
