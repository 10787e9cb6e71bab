"""The exam that ends a training: the Knowledge Module is asked, closed book, about what each passage says.

Questions are written by the one who writes the study material, before the training and into a file of their own, and are
checked like any sample; what is held out of the material is asked too, imported questions as well. One that was trained on,
whatever its case and punctuation, is not asked.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from kmcli import adapters, training
from kmcli.bases import Loaded
from kmcli.bases.prompts import STYLES, Prompts
from kmcli.engines import Chat, Engine
from kmcli.evaluation.exam import grade, references
from kmcli.evaluation.methods import build_chat
from kmcli.library.exams import Exam, Graded, Head, Passage
from kmcli.metrics import normalise
from kmcli.synthesis import TASKS
from kmcli.synthesis.check import Counts
from kmcli.synthesis.custom import SHORT_ANSWERS
from kmcli.synthesis.estimate import estimate
from kmcli.synthesis.plan import plan
from kmcli.synthesis.write import Unit, write
from kmcli.training.mixture import study_tasks
from kmcli.types import IMPORTED, Chunk, Document, Event, KnowledgeModule, Recipe, Sample, text_hash
from kmcli.workflows.held_out import asking_of
from kmcli.workflows.house import House
from kmcli.workflows.imported import attach
from kmcli.workflows.material import makers_of
from kmcli.workflows.writer import Writer

SHARE = 4
"""Of the study material's generations one in so many is written for the exam, with a seed of its own."""
OTHER_SEED = 1_000_003
PHRASINGS = 2
"""In how many ways a fact is asked for at most: a base may write dozens about the one thing that it understands."""
WORDS, LETTERS = 12, 120
"""Of an imported answer at most: a longer one is seldom said again in the same words. What is written here is checked."""
ASKING_SECONDS = 20.0
"""For which questions are asked at least; beyond that, for as long as the training took."""
QUESTIONS_A_TURN = 128
"""Questions between two looks at the clock."""


class _Late(Exception):
    """There is no more time to write."""


def wanted(recipe: Recipe) -> bool:
    """Whether a training by this recipe ends with an exam. What learns from the text itself has nobody who writes."""
    return recipe.exam and bool(study_tasks(recipe))


# --- before the training ------------------------------------------------------------------------------------------


def write_questions(house: House, document: Document, writer: Writer, recipe: Recipe, seconds: float) -> None:
    """Write the questions that are missing, for so long at most. Raises as `synthesis.write.write` does."""
    recipe, chunks, finished = _to_write(house, document, writer, recipe)
    makers = makers_of(writer, recipe)
    if all(Unit(chunk.sha256, task) in finished for chunk in chunks for task in makers):
        return
    deadline = time.monotonic() + seconds

    def hand_over(samples: list[Sample], units: list[Unit], counts: Counts) -> None:
        work = {"units": [(unit.chunk_sha256, unit.task, makers[unit.task]) for unit in units]}
        house.library.exams.append(document, work, samples)
        if time.monotonic() > deadline:
            raise _Late

    def report(event: Event) -> None:
        house.report(replace(event, stage="questions", message=event.message and "writing the exam"))

    student = writer.base.prompts
    with suppress(_Late):  # the other passages are not asked about
        write(writer.engine(), chunks, recipe, writer.prompts, finished, {}, hand_over, report, True, student)


def estimate_questions(house: House, document: Document, writer: Writer, recipe: Recipe) -> float:
    """Seconds that writing the missing questions will take; asking them is a small part of that."""
    recipe, chunks, finished = _to_write(house, document, writer, recipe)
    student = writer.base.prompts
    return estimate(
        writer.engine(), chunks, recipe, writer.prompts, finished, [], house.report, student=student
    ).seconds


def _to_write(
    house: House, document: Document, writer: Writer, recipe: Recipe
) -> tuple[Recipe, list[Chunk], set[Unit]]:
    """The recipe by which questions are written, about which chunks, and what of it is done."""
    recipe = short_answers(recipe, SHARE, recipe.seed + OTHER_SEED)
    makers = makers_of(writer, recipe)
    finished = {
        Unit(chunk, task)
        for work, _ in house.library.exams.questions(document)
        for chunk, task, maker in work["units"]
        if maker == makers.get(task)
    }
    return recipe, _drawn(house.study_chunks(document, writer, recipe)), finished


def short_answers(recipe: Recipe, share: int, seed: int) -> Recipe:
    """The recipe by which the exam is written: the tasks of the study material that ask for short answers, with one in
    `share` of their generations; "qa" where there are none, and nothing where all of the material is imported."""
    planned = plan(recipe)
    asking = {name: one for name, one in planned.items() if one.task.parser in SHORT_ANSWERS}
    tasks = {name: max(1, one.generations // share) for name, one in asking.items() if one.task.check == "agrees"}
    if planned and not tasks:
        tasks = {"qa": max(1, recipe.generations // share)}
    named = tuple(f"{name}:{number}" for name, number in tasks.items())
    return replace(recipe, tasks=named, seed=seed, judge=False, min_score=0, max_tokens="")


def _drawn(chunks: Sequence[Chunk]) -> list[Chunk]:
    """By lot, so that what there is no time for is not the end of the document."""
    return sorted(chunks, key=lambda chunk: text_hash(chunk.sha256))


# --- after it -----------------------------------------------------------------------------------------------------


def examine(
    house: House, document: Document, module: KnowledgeModule, loaded: Loaded, written: float, trained: float
) -> Exam:
    """Question a document's module, and keep what came of it. loaded: its base.

    written: seconds that the questions took; trained: those of the training, and about the most that asking takes.
    """
    from kmcli.engines.hf import HfEngine

    began, recipe, prompts = time.monotonic(), module.recipe, loaded.base.prompts
    chunks = house.study_chunks(document, loaded, recipe)
    by_chunk = questions(house, document, loaded, recipe, chunks)
    todo = [chunk for chunk in _drawn(chunks) if chunk.sha256 in by_chunk]
    looked_at = {chunk for work, _ in house.library.exams.questions(document) for chunk, *_ in work["units"]}
    writes = bool(plan(recipe))  # not where all of the material is imported
    late = sum(writes and chunk.sha256 not in looked_at for chunk in chunks if chunk.sha256 not in by_chunk)
    total, done = sum(map(len, by_chunk.values())), 0
    passages: dict[str, Passage] = {}
    model = adapters.load(loaded, module.path)
    try:
        teacher, student = HfEngine(loaded, model, adapter=False), HfEngine(loaded, model)
        house.report(Event("exam", f"questioning {document.name}", 0, total))
        while todo:
            if time.monotonic() - began > max(ASKING_SECONDS, trained):
                late += len(todo)
                break
            turn, todo = _turn(todo, by_chunk)
            marks = _asked(
                teacher, student, [(one, chunk.text) for chunk in turn for one in by_chunk[chunk.sha256]], prompts
            )
            for chunk in turn:
                mine = tuple(marks[one.id] for one in by_chunk[chunk.sha256] if one.id in marks)
                passages[chunk.sha256] = Passage(chunk.sha256, chunk.start, _pages(chunk), mine)
                done += len(by_chunk[chunk.sha256])
            facts = sum(len(passage.facts) for passage in passages.values())
            known = sum(passage.known for passage in passages.values())
            house.report(Event("exam", "", done, total, {"known": known / max(1, facts)}))
    finally:
        model.unload().eval()
    whole = tuple(passages.get(one.sha256) or Passage(one.sha256, one.start, _pages(one), ()) for one in chunks)
    head = Head(
        known=sum(passage.known for passage in whole),
        asked=sum(len(passage.facts) for passage in whole),
        questions=sum(len(passage.questions) for passage in whole),
        seconds=round(written + time.monotonic() - began, 3),
        training_seconds=round(trained, 3),
        late=late,
    )
    exam = Exam(head, whole)
    house.library.exams.keep(module, exam)
    return exam


def examine_again(house: House, document: Document, loaded: Loaded, folder: Path, before: Exam) -> Exam:
    """Put the questions of an exam to the adapter in a folder. References and times are those of before."""
    from kmcli.engines.hf import HfEngine

    asked = [one for passage in before.passages for one in passage.questions]
    marks: list[Graded] = []
    model = adapters.load(loaded, folder)
    try:
        student = HfEngine(loaded, model)
        house.report(Event("exam", f"questioning {document.name} again", 0, len(asked)))
        while (start := len(marks)) < len(asked):
            turn = asked[start : start + QUESTIONS_A_TURN]
            put, expected = [one.question for one in turn], [one.reference for one in turn]
            marks += grade(student, put, expected, loaded.base.prompts)
            house.report(Event("exam", "", len(marks), len(asked)))
    finally:
        model.unload().eval()
    graded = iter(marks)
    passages = tuple(
        replace(one, questions=tuple(itertools.islice(graded, len(one.questions)))) for one in before.passages
    )
    return Exam(replace(before.head, known=sum(passage.known for passage in passages)), passages)


def _turn(todo: list[Chunk], by_chunk: Mapping[str, Sequence[Sample]]) -> tuple[list[Chunk], list[Chunk]]:
    """The chunks that are asked about before the next look at the clock, and the others."""
    count = 0
    for place, chunk in enumerate(todo, 1):
        count += len(by_chunk[chunk.sha256])
        if count >= QUESTIONS_A_TURN:
            return todo[:place], todo[place:]
    return todo, []


def _asked(
    teacher: Engine, student: Engine, asked: Sequence[tuple[Sample, str]], prompts: Prompts
) -> dict[str, Graded]:
    """Grades by sample; none where the teacher gives no answer, nor where it gave the same one to others of that passage.

    asked: each with the text of its chunk. The teacher reads a question in the words in which it is put to the module, which
    are those of `km ask`. What was imported comes with its answer, and who wrote that was its teacher.
    """
    put = {one.id: prompts.question_of(one.prompt) for one, _ in asked}
    expected = {one.id: one.response for one, _ in asked if one.engine == IMPORTED}
    own = [(one.id, text) for one, text in asked if one.engine != IMPORTED]
    chats: list[Chat] = []
    for name, text in own:
        ((who, question),) = build_chat("km", put[name], prompts)
        chats.append([(who, prompts.under_text.format(text=text, question=question))])
    said = references(teacher, chats, prompts)
    expected |= {name: answer for (name, _), answer in zip(own, said, strict=True)}
    of_fact: Counter[tuple[str, str]] = Counter()
    chosen: list[str] = []
    for one, _ in asked:
        right = expected[one.id]
        fact = one.chunk_sha256, normalise(right)
        if right and of_fact[fact] < PHRASINGS:
            of_fact[fact] += 1
            chosen.append(one.id)
    marks = grade(student, [put[name] for name in chosen], [expected[name] for name in chosen], prompts)
    return dict(zip(chosen, marks, strict=True))


def questions(
    house: House, document: Document, loaded: Loaded, recipe: Recipe, chunks: Sequence[Chunk]
) -> Mapping[str, list[Sample]]:
    """What may be asked, by chunk: written for the exam, or held out of the study material. Each question once, and none
    that was trained on. Those in the document's own words, and in words that the writer uses again, come first."""
    here = {chunk.sha256 for chunk in chunks}
    studied = [one for one in attach(house, document, loaded, recipe, chunks).samples if one.chunk_sha256 in here]
    taught, held = training.split(studied, recipe)
    asking, prompts = asking_of(recipe), loaded.base.prompts
    written = [one for _, samples in house.library.exams.questions(document) for one in samples]
    own = [one for one in written if (one.model, one.revision) == recipe.writer and one.chunk_sha256 in here]
    seen = {normalise(prompts.question_of(one.prompt)) for one in taught}  # imported ones are studied as they came
    used = Counter(word for prompt in seen for word in set(prompt.split()))
    said = set(normalise(house.library.text(document)).split())

    def strange(one: Sample) -> int:
        words = normalise(prompts.question_of(one.prompt)).split()
        return sum(used[word] < 2 and word not in said for word in words)

    found: dict[str, list[Sample]] = {}
    for one in (*own, *(one for one in held if asks(one, asking, prompts))):
        if (words := normalise(prompts.question_of(one.prompt))) not in seen:
            seen.add(words)
            found.setdefault(one.chunk_sha256, []).append(one)
    return {chunk: sorted(some, key=strange) for chunk, some in found.items()}


def asks(sample: Sample, asking: Collection[str], prompts: Prompts) -> bool:
    """Whether study material is a question with a short answer. asking: the tasks that write such."""
    if sample.engine != IMPORTED or (sample.task in TASKS and sample.task not in asking):
        return sample.task in asking
    answer = sample.response
    short = len(answer) <= LETTERS and 0 < len(normalise(answer).split()) <= WORDS
    return short and not any(style.refuses(answer) for style in (prompts, *STYLES.values()))


def _pages(chunk: Chunk) -> tuple[int, int] | None:
    if chunk.first_page is None or chunk.last_page is None:
        return None
    return chunk.first_page, chunk.last_page
