"""Study material: synth writes what is missing, for its own sake or before a training."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from kmcli import bases
from kmcli.bases import Base, quantised
from kmcli.bases.prompts import Prompts
from kmcli.errors import InterruptedRun, KmError, UsageError
from kmcli.synthesis import judge
from kmcli.synthesis.check import KEPT, Counts
from kmcli.synthesis.plan import Planned, plan
from kmcli.synthesis.write import IN_WORDS, Unit, confirmed_share, shares, write
from kmcli.training.mixture import study_tasks
from kmcli.training.recipes import resolve
from kmcli.types import Document, Event, Recipe, Sample, silent
from kmcli.workflows.batch import Loader, each
from kmcli.workflows.house import Failure, House, usable
from kmcli.workflows.naming import find_all
from kmcli.workflows.writer import Writer, open_writer, with_teacher

_OF_ADAPTERS = {"cartridge": "cartridge", "summary": "compressed"}
"""How values of a recipe begin that are of one adapter alone."""


@dataclass(frozen=True, slots=True)
class RecipeOptions:
    """What the command line says of a recipe. settings: "key=value" strings."""

    preset: str | None = None
    recipe: Path | None = None
    settings: Sequence[str] = ()

    @property
    def given(self) -> bool:
        return bool(self.preset or self.recipe or self.settings)


@dataclass(frozen=True, slots=True)
class Synthesised:
    """written: drafts the base wrote in this run; kept: samples made of them; samples: all there are now.

    confirmed: share of the answers asked for again that agreed, over all runs. reasons: drafts of this run by task and what
    became of them (see `synthesis.check`). scores: of all samples that were rated, how many have which (see
    `synthesis.judge`).
    """

    document: Document
    written: int
    kept: int
    samples: int
    confirmed: float
    reasons: Mapping[str, Mapping[str, int]]
    seconds: float
    scores: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class SynthReport:
    """interrupted: Ctrl-C ended the run, and the same command goes on."""

    written: tuple[Synthesised, ...]
    failed: tuple[Failure, ...] = ()
    interrupted: InterruptedRun | None = None


def synth(
    house: House,
    names: Sequence[str],
    options: RecipeOptions,
    force: bool = False,
    restart: bool = False,
    ray: str | None = None,
) -> SynthReport:
    """Write the study material that is missing. A document that fails does not stop the others.

    force: also where the base cannot read the document. restart: throw away what there is first. ray: the address of the
    cluster that does it, see `cluster.run`.
    """
    if ray:
        from kmcli.workflows import cluster, cluster_connection  # whose workers use this module

        cluster_connection.check()
    documents = find_all(house.library, names)
    base = house.base()
    recipe = recipe_for(house, base, options)
    if ray:
        clear = house.library.drop_samples if restart else None
        done = cluster.run(house, "synth", documents, recipe, options, ray, force, restart, clear)
        finished = tuple(one for one in done.finished if isinstance(one, Synthesised))
        return SynthReport(finished, tuple(done.failed), done.interrupted)
    with open_writer(house, Loader(house), base, recipe) as writer:

        def one(document: Document) -> Synthesised:
            if restart:
                writer.engine()  # may fail, and then nothing is lost
                house.library.drop_samples(document)
            return write_missing(house, document, writer, recipe, force)

        written, failed, interrupted = each(house, documents, "synth", one)
    return SynthReport(tuple(written), tuple(failed), interrupted)


def write_missing(house: House, document: Document, writer: Writer, recipe: Recipe, force: bool) -> Synthesised:
    library, base = house.library, writer.base
    started = time.monotonic()
    chunks = house.study_chunks(document, writer, recipe)
    if not chunks:
        raise no_text(document)
    texts = {chunk.sha256: chunk.text for chunk in chunks}
    library.keep_chunks(document, texts.values())
    makers = makers_of(writer, recipe)
    finished, before = work_done(house, document, makers)
    missing = any(Unit(sha, task) not in finished for sha in texts for task in makers)
    if missing and recipe.min_score and not recipe.judge:
        raise judge.not_rated(recipe, f"what is still to be written about {document.name} would have no score")
    seen = {sample.id for sample in usable(library.samples(document), recipe)}  # others may have written the same

    def hand_over(samples: list[Sample], units: list[Unit], counts: Counts) -> None:
        new = [sample for sample in samples if sample.id not in seen]
        seen.update(sample.id for sample in new)
        library.append_samples(document, new)
        last = {unit.task: unit for unit in units}  # of each task: its line has the counts of all
        library.append_work(
            document,
            [
                {
                    "chunk": unit.chunk_sha256,
                    "task": unit.task,
                    "maker": makers[unit.task],
                    "counts": _of_task(counts, unit.task) if unit == last[unit.task] else {},
                }
                for unit in units
            ],
        )

    counts = Counts()
    if missing:
        counts = write(
            writer.engine(),
            chunks,
            recipe,
            writer.prompts,
            finished,
            before,
            hand_over,
            house.report,
            force,
            base.prompts,
        )
    for sentence in shares(counts):
        house.report(Event("write", sentence))
    samples = usable(library.samples(document), recipe)
    unrated = judge.unrated(samples, texts, recipe) if recipe.judge else []
    if unrated:
        keep = partial(library.append_scores, document)
        judge.judge_all(writer.engine(), unrated, texts, writer.prompts, keep, house.report)
        samples = usable(library.samples(document), recipe)
    if recipe.judge and samples:
        house.report(Event("judge", f"scores: {judge.distribution(samples)}"))
    return Synthesised(
        document=document,
        written=sum(counts.values()),
        kept=sum(count for (_, reason), count in counts.items() if reason in KEPT),
        samples=len(samples),
        scores=Counter(sorted(str(sample.score) for sample in samples if sample.score is not None)),
        confirmed=confirmed_share(before + counts),
        reasons={task: _of_task(counts, task) for task, _ in counts},
        seconds=time.monotonic() - started,
    )


def no_text(document: Document) -> KmError:
    return KmError(f"{document.name} has no text to study.", "Is it the right file? See km show " + document.name)


def trainable(samples: Sequence[Sample], chunks: Collection[str], recipe: Recipe) -> bool:
    """Whether any of the samples is about a chunk of these hashes, and of a task that the recipe is trained on."""
    return bool(judge.good_enough(samples, chunks, replace(recipe, tasks=study_tasks(recipe), min_score=0), silent))


def nothing_kept(document: Document, drafts: int, reasons: Mapping[str, Mapping[str, int]], recipe: Recipe) -> KmError:
    """All that was written about a document was dropped, or all was to be imported and nothing that may be trained on was.
    drafts, reasons: of this run, where it wrote any."""
    if not plan(recipe):
        return KmError(
            f"there is no imported study material about {document.name} that can be trained on.",
            f"Import some: km synth {document.name} --import FILE; or have it written: --set tasks=qa,summary",
        )
    said = f"nothing that was written about {document.name} was kept"
    if drafts:
        total: Counter[str] = Counter()
        for one in reasons.values():
            total.update({reason: count for reason, count in one.items() if count and reason in IN_WORDS})
        why = ", ".join(f"{count:,} {IN_WORDS[reason]}" for reason, count in total.most_common())
        said = f"none of {drafts:,} drafts about {document.name} was kept" + (f" ({why})" if why else "")
    larger = "a larger teacher with --teacher" if recipe.teacher else "a larger base with --model (see km models)"
    if "summary" in plan(recipe):
        return KmError(f"{said}.", f"Choose {larger}.")
    tasks = ",".join([*recipe.tasks, "summary"])
    return KmError(f"{said}.", f"Choose {larger}, or let it write more than that: --set tasks={tasks}")


def makers_of(writer: Writer, recipe: Recipe) -> dict[str, str]:
    """What identifies the way of writing of each of the recipe's tasks."""
    return {name: _maker(writer.prompts, writer.base.prompts, recipe, one) for name, one in plan(recipe).items()}


def work_done(house: House, document: Document, makers: Mapping[str, str]) -> tuple[set[Unit], Counts]:
    """The units that were written in just this way, and what became of their drafts."""
    log = [line for line in house.library.work_log(document) if line["maker"] == makers.get(line["task"])]
    counts = Counts()
    for line in log:
        counts.update({(line["task"], reason): count for reason, count in line["counts"].items()})
    return {Unit(line["chunk"], line["task"]) for line in log}, counts


def recipe_for(house: House, base: Base, options: RecipeOptions) -> Recipe:
    preset = options.preset or house.settings["preset"].value
    recipe = resolve(base, preset, options.recipe, options.settings)
    for key in (setting.partition("=")[0].strip() for setting in options.settings):
        of = _OF_ADAPTERS.get(key.partition("_")[0])
        if of and recipe.adapter != of:
            what = f"{key} is for the adapter {of}, and this one is {recipe.adapter}."
            raise UsageError(what, f"Add --adapter {of}, or leave it out.")
    if recipe.base_bits:  # what cannot be is refused before anything is begun
        quantised.check(base, recipe.base_bits, bases.pick_device(house.settings["device"].value))
    return with_teacher(house, base, recipe)


def _of_task(counts: Counts, task: str) -> dict[str, int]:
    return {reason: count for (one, reason), count in counts.items() if one == task}


def _maker(prompts: Prompts, student: Prompts, recipe: Recipe, planned: Planned) -> str:
    """Identifies how a task's material is written, so that a unit counts as finished only for the same way of writing.

    What runs the writer is no part of that.
    """
    how = (
        *recipe.writer,
        planned.generations,
        planned.task.prompt(prompts),
        planned.task.parser,
        planned.task.distilled(student),
        planned.task.check,
        recipe.temperature,
        recipe.top_p,
        recipe.seed,
        # what was written before there were any stays
        *([planned.task.max_tokens] if planned.task.max_tokens else []),
        *([f"explained {recipe.min_explained}"] if recipe.min_explained and planned.task.check == "agrees" else []),
    )
    return hashlib.sha256(repr(how).encode()).hexdigest()[:16]
