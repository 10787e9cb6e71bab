"""The rounds after an exam: what it found unknown is studied again, from the trained adapter on, and asked again.

A round writes about the missed facts (`restudy`; nothing where all material is imported), trains on that and on all else,
the missed facts more often, and puts the exam's own questions again. It goes on in the training's schedule, planned
with the rounds in it. What knows most is kept. All of it lies in the document's workspace, a folder a round, until the last
one is over: until then the Knowledge Module is the one that was first examined, and the same command goes on after Ctrl-C.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from kmcli.bases.vocabulary import reader
from kmcli.chunking import join_pages
from kmcli.errors import InterruptedRun, KmError
from kmcli.library import exams, files
from kmcli.library import samples as study
from kmcli.metrics import normalise
from kmcli.synthesis import judge
from kmcli.synthesis.check import Counts
from kmcli.synthesis.plan import names
from kmcli.synthesis.write import Unit, write
from kmcli.training import Job, split, train_together
from kmcli.types import IMPORTED, Chunk, Event, Sample, silent
from kmcli.workflows import exam, imported, restudy
from kmcli.workflows.batch import Loader
from kmcli.workflows.course import STEPS, Course, Round, folder_of, rank, stretch_of
from kmcli.workflows.house import House, counter
from kmcli.workflows.teaching import compute_predictions
from kmcli.workflows.writer import Writer

SEED = 2_000_003
"""What a round's number is multiplied by in the seed of its writing."""
MATERIAL, TRAINED = "material.jsonl", "trained.json"


def study_again(
    house: House,
    loader: Loader,
    courses: Sequence[Course],
    writer_of: Callable[[Course], Writer],
    close: Callable[[], None],
    together: int,
    processes: int,
) -> None:
    """Take the documents, which are all of one base, through their rounds, so many side by side. A failure ends its
    document's rounds, and what was best before is kept.

    writer_of, close: what opens and ends what writes. Raises InterruptedRun after Ctrl-C.
    """
    going = [course for course in courses if not course.over]
    while going:
        ready: list[tuple[Course, list[Sample], dict[str, str]]] = []
        for course in going[:]:
            with _ending(house, course, going):
                ready.append((course, *_material(house, loader, course, writer_of)))
        close()  # what writes needs memory
        for start in range(0, len(ready), together):
            _train(house, loader, ready[start : start + together], processes, going)
        for course in going:
            if not course.over:
                with _ending(house, course, going):
                    _examine(house, loader, course)
        going = [course for course in going if not course.over]


@contextmanager
def _ending(house: House, course: Course, going: list[Course]) -> Iterator[None]:
    """A failure within it ends a document's rounds, which is said."""
    began = time.monotonic()
    try:
        yield
    except InterruptedRun:
        raise
    except KmError as error:
        going.remove(course)
        house.warn(f"{course.document.name} is not studied again: {error.message}")
    finally:
        course.seconds += time.monotonic() - began


# --- a round ------------------------------------------------------------------------------------------------------


def _material(
    house: House, loader: Loader, course: Course, writer_of: Callable[[Course], Writer]
) -> tuple[list[Sample], dict[str, str]]:
    """What a round trains on, and the texts of its chunks and pieces by hash. What is missing of it is written."""
    document, recipe, number, head = course.document, course.recipe, len(course.rounds) + 1, course.best.head
    reads = reader(course.base, loader.tokenizer(course.base))
    chunks = house.study_chunks(document, reads, recipe)
    unknown = restudy.missed(course.best)
    facts = f"{document.name}: {head.asked - head.known} of {head.asked} facts are not known"
    which = f"in round {number} of at most {recipe.exam_rounds}, " if recipe.exam_rounds > 1 else ""
    house.report(Event("exam", f"{facts}; {which}they are studied again"))
    files.make_folder(course.folder)
    _write(house, course, restudy.pieces(unknown, chunks, recipe.chunk_tokens, counter(reads)), writer_of)
    attached = imported.attach(house, document, reads, recipe, chunks).samples
    texts = {one.sha256: one.text for one in chunks}
    taught, _ = split(judge.good_enough(attached, texts, recipe, silent), recipe)
    _, held = split(attached, recipe)
    asked = [one for _, some in house.library.exams.questions(document) for one in some]
    whose: dict[str, str] = {}
    new: list[Sample] = []
    for one in range(1, number + 1):
        for line in study.read_objects(folder_of(course.workspace, one) / MATERIAL):
            new += [Sample(**sample) for sample in line["samples"]]
            for sha256, (text, chunk) in line["pieces"].items():
                texts[sha256], whose[sha256] = text, chunk
    question_of = course.base.prompts.question_of
    secret = {normalise(question_of(one.prompt)) for one in (*asked, *held)}
    new = [one for one in new if one.score is None or one.score >= recipe.min_score]
    new = restudy.allowed(new, recipe, secret, taught)
    # Also what the prompt asks in a frame of its own.
    studied = [one for one in (*taught, *new) if normalise(question_of(one.prompt)) not in secret]
    if not studied:
        raise KmError("there is nothing to study about what it does not know.")
    course.written = len(new)
    return restudy.chosen(studied, unknown, whose), texts


def _write(
    house: House,
    course: Course,
    pieces: Mapping[str, tuple[Chunk, str]],
    writer_of: Callable[[Course], Writer],
) -> None:
    """Write about pieces of chunks, which come with their chunks' hashes, what this round has not written yet."""
    recipe, file = course.recipe, course.folder / MATERIAL
    seed = recipe.seed + SEED * (len(course.rounds) + 1)
    asked = replace(exam.short_answers(recipe, 1, seed), judge=recipe.judge)
    finished = {Unit(*unit) for line in study.read_objects(file) for unit in line["units"]}
    if all(Unit(sha256, task) in finished for sha256 in pieces for task in names(asked.tasks)):
        return

    def hand_over(samples: list[Sample], units: list[Unit], counts: Counts) -> None:
        about = {unit.chunk_sha256: pieces[unit.chunk_sha256] for unit in units}
        line = {
            "units": [(unit.chunk_sha256, unit.task) for unit in units],
            "samples": [asdict(sample) for sample in samples],
            "pieces": {sha256: (piece.text, chunk) for sha256, (piece, chunk) in about.items()},
        }
        with files.explained(house.library.home):
            study.append_objects(file, [line])

    def report(event: Event) -> None:
        house.report(replace(event, message=event.message and "writing about what is not known"))

    writer, some = writer_of(course), [piece for piece, _ in pieces.values()]
    student = course.base.prompts
    write(writer.engine(), some, asked, writer.prompts, finished, {}, hand_over, report, True, student)


def _job(house: House, loader: Loader, course: Course, samples: list[Sample], texts: dict[str, str]) -> Job:
    """A round's training: from the best adapter on. The exam decides which is kept, so nothing is held out."""
    from kmcli.adapters.start import start

    document, recipe = course.document, course.recipe
    more = {one.task for one in samples} - {IMPORTED, *names(recipe.tasks)}
    recipe = replace(
        recipe,
        tasks=(*recipe.tasks, *sorted(more)),
        steps=max(1, round(STEPS * int(course.module.metrics["steps"]))),
        held_out=0.0,
        min_score=0,
        seed=recipe.seed + len(course.rounds) + 1,
    )
    out = course.folder / "module"
    files.delete(out)
    files.make_folder(out)
    reads = reader(course.base, loader.tokenizer(course.base))
    text = join_pages(house.library.text(document))
    other = compute_predictions(house, loader, reads, recipe, samples, texts, text, course.folder)
    begin = start([course.where], recipe)
    return Job(
        document.name,
        samples,
        texts,
        recipe,
        course.folder,
        out,
        text,
        other,
        begin,
        shelf=house.shelf(document, course.base),
        stretch=stretch_of(course.planned, len(course.rounds) + 1),
    )


def _train(
    house: House,
    loader: Loader,
    ready: Sequence[tuple[Course, list[Sample], dict[str, str]]],
    processes: int,
    going: list[Course],
) -> None:
    """Train a round of several documents side by side; those that fail leave `going`."""
    jobs: dict[Job, Course] = {}
    for course, samples, texts in ready:
        if not (course.folder / TRAINED).exists():
            with _ending(house, course, going):
                jobs[_job(house, loader, course, samples, texts)] = course
    if not jobs:
        return
    began, count, left = time.monotonic(), len(jobs), dict(jobs)

    def done(job: Job, result: dict[str, Any] | KmError) -> None:
        course = left.pop(job)
        with _ending(house, course, going):
            course.seconds += (time.monotonic() - began) / count
            if isinstance(result, KmError):
                raise result
            kept = {name: result[name] for name in ("steps", "scored_tokens")} | {"samples": len(job.samples)}
            with files.explained(house.library.home):
                files.write(course.folder / TRAINED, json.dumps(kept).encode())

    first = ready[0][0]
    try:
        train_together(loader.load(first.base, first.recipe.base_bits), list(jobs), house.report, done, processes)
    except InterruptedRun:
        raise
    except KmError as error:  # not of one document
        for course in left.values():
            with _ending(house, course, going):
                raise error from None


def _examine(house: House, loader: Loader, course: Course) -> None:
    """Put the exam's questions to a round's adapter, which ends the round."""
    loaded, out = loader.load(course.base, course.recipe.base_bits), course.folder / "module"
    began = time.monotonic()
    found = exam.examine_again(house, course.document, loaded, out, course.first)
    with files.explained(house.library.home):
        exams.write(out, found)
        trained = json.loads((course.folder / TRAINED).read_text("utf-8"))
        one = Round(
            known=found.head.known,
            questions=rank(found)[1],
            steps=trained["steps"],
            tokens=trained["scored_tokens"],
            samples=trained["samples"],
            written=course.written,
            seconds=round(course.seconds + time.monotonic() - began, 3),
        )
        course.keep(one)
