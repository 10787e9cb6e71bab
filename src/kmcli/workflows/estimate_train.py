"""What `train` will take, before it is begun: nothing is changed in the library.

The study material is measured as for `synth`. The training is measured on the material that there is, and for what is still
to be written on what was written for the measurement, over and over, as many samples as there are expected to be.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from kmcli import bases
from kmcli.bases.vocabulary import reader
from kmcli.chunking import join_pages
from kmcli.errors import InterruptedRun
from kmcli.synthesis.estimate import Estimate
from kmcli.synthesis.judge import BEST
from kmcli.training.estimate import TrainingEstimate, ask, estimate
from kmcli.training.mixture import mix, study_tasks
from kmcli.types import Chunk, Document, Event, Recipe, Sample, silent
from kmcli.workflows import exam, imported, redline
from kmcli.workflows.batch import Loader, each
from kmcli.workflows.course import STEPS, rounds_of
from kmcli.workflows.due import as_wished
from kmcli.workflows.estimate import estimate_missing
from kmcli.workflows.house import Failure, House
from kmcli.workflows.material import RecipeOptions, nothing_kept, recipe_for, trainable
from kmcli.workflows.naming import named_or_all
from kmcli.workflows.writer import open_writer


@dataclass(frozen=True, slots=True)
class EstimatedTraining:
    """material: None where the objective needs none. exam: seconds of it and of all its rounds, None where there is none.
    seconds: of all that and of loading the base. disk: bytes that stay, which are those of the module and of new study
    material. rounds: how often is studied again, at most."""

    document: Document
    material: Estimate | None
    training: TrainingEstimate
    seconds: float
    disk: int
    exam: float | None = None
    rounds: int = 0


@dataclass(frozen=True, slots=True)
class TrainEstimateReport:
    """skipped: trained already, as in TrainReport."""

    estimated: tuple[EstimatedTraining, ...]
    failed: tuple[Failure, ...]
    skipped: tuple[Document, ...]
    interrupted: InterruptedRun | None = None


def estimate_train(
    house: House, names: Sequence[str], everything: bool, options: RecipeOptions, again: bool = False
) -> TrainEstimateReport:
    """What `study.train` will take with the same options, from the beginning of the training.

    again: also where the module is fresh. A document that fails does not stop the others.
    """
    library = house.library
    documents = named_or_all(library, names, everything, "km train report --estimate")
    base = house.base()
    recipe = recipe_for(house, base, options)
    todo = [document for document in documents if again or not as_wished(house, document, recipe, options, everything)]
    loader = Loader(house)

    def one(document: Document) -> EstimatedTraining:
        if library.state(document) == "interrupted":
            goes_on = f"{document.name} has an unfinished training, which will go on"
            house.report(Event("note", f"{goes_on}: this is what it takes from the beginning"))
        elif not again and redline.begins_from(house, document, recipe, options.given):
            changed = f"{document.name} has changed, and only what changed will be studied"
            house.report(Event("note", f"{changed}: this is what all of it takes"))
        return _estimated(house, document, loader, recipe)

    estimated, failed, interrupted = each(house, todo, "train", one)
    skipped = tuple(document for document in documents if document not in todo)
    return TrainEstimateReport(tuple(estimated), tuple(failed), skipped, interrupted)


def _estimated(house: House, document: Document, loader: Loader, recipe: Recipe) -> EstimatedTraining:
    base = bases.find(recipe.model, house.report, recipe.revision)
    reads = reader(base, loader.tokenizer(base))
    chunks = house.study_chunks(document, reads, recipe)
    texts = {chunk.sha256: chunk.text for chunk in chunks}
    tasks = study_tasks(recipe)
    material, samples, bytes_written, questions = None, list[Sample](), 0, None
    if tasks:
        made: list[Sample] = []
        studied = replace(recipe, tasks=tasks)
        with open_writer(house, loader, base, recipe) as writer:
            material = estimate_missing(house, document, writer, studied, made=made)
            if exam.wanted(recipe):
                questions = exam.estimate_questions(house, document, writer, recipe)
        there = imported.attach(house, document, reads, recipe, chunks).samples
        new = stand_ins(made or there, material.samples, chunks)
        bytes_written = sum(len(json.dumps(asdict(sample))) + 1 for sample in new)
        samples = [replace(sample, score=BEST if sample.score is None else sample.score) for sample in (*there, *new)]
        if not trainable(samples, texts, recipe):
            raise nothing_kept(document, material.measured, {}, recipe)
    text = join_pages(house.library.text(document))
    with tempfile.TemporaryDirectory(prefix="km-estimate-") as name:
        folder, asked, other = Path(name), None, None
        if recipe.distil_from == "teacher":
            found = bases.find(recipe.teacher, house.report, recipe.teacher_revision)
            other = reader(found, loader.tokenizer(found))
            views = mix(reads, samples, texts, text, recipe, silent, other)
            asked = ask(reads, loader.load(found), views, recipe, folder)
        began = time.monotonic()
        loaded = loader.load(base, recipe.base_bits)
        loading = time.monotonic() - began
        views = mix(loaded, samples, texts, text, recipe, silent, other)
        training = estimate(loaded, views, recipe, folder, house.report, asked, text=text)
    seconds = loading + training.seconds + (material.seconds if material else 0.0)
    disk = training.disk + bytes_written
    if questions is None:
        return EstimatedTraining(document, material, training, seconds, disk)
    # What a round writes is about a few passages, with all generations: about as much as the exam's.
    stepping = training.seconds - training.teacher_seconds - training.evaluation_seconds
    rounds = rounds_of(recipe, update=False)
    examined = questions + rounds * (questions + training.teacher_seconds + STEPS * stepping)
    return EstimatedTraining(document, material, training, seconds + examined, disk, examined, rounds)


def stand_ins(like: Sequence[Sample], count: int, chunks: Sequence[Chunk]) -> list[Sample]:
    """So many samples like those, each with a prompt of its own, because equal ones would be held out together; about all
    chunks in turn. Those like one stand together, so that a fact is asked about in several ways."""
    places = [number * len(like) // count for number in range(count)] if like else []
    return [
        replace(
            like[place],
            id=f"{like[place].id}-{number}",
            prompt=like[place].prompt if place not in places[number - 1 : number] else f"{like[place].prompt} {number}",
            chunk_sha256=chunks[number * len(chunks) // count].sha256,
        )
        for number, place in enumerate(places)
    ]
