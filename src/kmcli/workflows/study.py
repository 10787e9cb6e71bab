"""Making a Knowledge Module: synth writes study material, train writes what is missing and distils it."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmcli.bases import Base, Loaded
from kmcli.errors import InterruptedRun, KmError, UsageError
from kmcli.synthesis.write import Unit, confirmed_share, write
from kmcli.training import train as train_adapter
from kmcli.training.recipes import resolve
from kmcli.types import Document, Event, KnowledgeModule, Recipe, Sample
from kmcli.workflows.house import Failure, House, usable

RUN = "run.json"


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

    confirmed: share of the pairs asked again that agreed, over all runs.
    """

    document: Document
    written: int
    kept: int
    samples: int
    confirmed: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Trained:
    document: Document
    module: KnowledgeModule
    resumed: bool
    seconds: float
    kept: int
    written: int
    samples: int


@dataclass(frozen=True, slots=True)
class TrainReport:
    """skipped: trained already, on this text and by this recipe."""

    trained: tuple[Trained, ...]
    failed: tuple[Failure, ...]
    skipped: tuple[Document, ...]


def synth(
    house: House, names: Sequence[str], options: RecipeOptions, force: bool = False, restart: bool = False
) -> list[Synthesised]:
    """Write the study material that is missing. restart throws away what there is first."""
    documents = [house.library.find(name) for name in names]
    base = house.base()
    recipe = _recipe(house, base, options)
    loaded = house.load(base)
    results = []
    for document in documents:
        with house.library.lock(document, "synth"), _resumable():
            if restart:
                house.library.drop_samples(document)
            results.append(_write(house, document, loaded, recipe, force))
    return results


def train(
    house: House,
    names: Sequence[str],
    everything: bool,
    options: RecipeOptions,
    force: bool = False,
    restart: bool = False,
) -> TrainReport:
    """Train the named documents, or all that are not fresh. A document that fails does not stop the others.

    Raises InterruptedRun after Ctrl-C: what is finished stays, and the same command goes on.
    """
    if everything == bool(names):
        raise UsageError("name the documents to train, or say --all.", "For example: km train report")
    library = house.library
    documents = library.documents() if everything else [library.find(name) for name in names]
    base = house.base()
    wanted = _recipe(house, base, options)
    trained: list[Trained] = []
    failed: list[Failure] = []
    skipped: list[Document] = []
    loaded: Loaded | None = None
    for document in documents:
        module = library.module(document)
        if not restart and library.state(document) == "fresh" and module and _same(module.recipe, wanted, options):
            skipped.append(document)
            continue
        loaded = loaded or house.load(base)
        try:
            with library.lock(document, "train"), _resumable():
                trained.append(_train(house, document, loaded, wanted, options, force, restart))
        except InterruptedRun:
            raise
        except KmError as error:
            failed.append(Failure(document.name, error))
    return TrainReport(tuple(trained), tuple(failed), tuple(skipped))


def _train(
    house: House, document: Document, loaded: Loaded, wanted: Recipe, options: RecipeOptions, force: bool, restart: bool
) -> Trained:
    library = house.library
    started = time.monotonic()
    if restart:
        library.clear_workspace(document)
    recipe, resumed = _unfinished(house, document, wanted, options)
    workspace = library.workspace(document)
    _remember(workspace, recipe, document)
    if resumed:
        house.report(Event("train", f"going on with the unfinished training of {document.name}"))
    try:
        material = _write(house, document, loaded, recipe, force)
    except KmError:
        library.clear_workspace(document)  # refused, not interrupted: there is nothing to go on with
        raise
    chunks = house.study_chunks(document, loaded, recipe)
    samples = usable(library.samples(document), loaded.base)
    staging = library.staging(document)
    metrics: dict[str, Any] = train_adapter(
        loaded, samples, {chunk.sha256: chunk.text for chunk in chunks}, recipe, workspace, staging, house.report
    )
    metrics |= {"confirmed_share": round(material.confirmed, 4), "chunks": len(chunks)}
    (staging / "card.md").write_text(_card(document, recipe, metrics), "utf-8")
    module = library.commit_module(document, staging, recipe, metrics)
    seconds = time.monotonic() - started
    return Trained(document, module, resumed, seconds, material.kept, material.written, material.samples)


def _write(house: House, document: Document, loaded: Loaded, recipe: Recipe, force: bool) -> Synthesised:
    from kmcli.engines.hf import HfEngine

    library, base = house.library, loaded.base
    started = time.monotonic()
    chunks = house.study_chunks(document, loaded, recipe)
    if not chunks:
        raise KmError(f"{document.name} has no text to study.", "Is it the right file? See km show " + document.name)
    maker = _maker(base, recipe)
    log = [line for line in library.work_log(document) if line["maker"] == maker]
    finished = {Unit(line["chunk"], line["task"]) for line in log}
    seen = {sample.id for sample in library.samples(document)}
    counts: Counter[str] = Counter()

    def hand_over(samples: list[Sample], units: list[Unit], what: dict[str, int]) -> None:
        new = [sample for sample in samples if sample.id not in seen]
        seen.update(sample.id for sample in new)
        library.append_samples(document, new)
        lines = [{"chunk": unit.chunk_sha256, "task": unit.task, "maker": maker, "counts": {}} for unit in units]
        lines[-1]["counts"] = what
        library.append_work(document, lines)
        counts.update(what)

    before: Counter[str] = Counter()
    for line in log:
        before.update(line["counts"])
    write(HfEngine(loaded), chunks, recipe, base.prompts, finished, before, hand_over, house.report, force)
    return Synthesised(
        document=document,
        written=sum(counts.values()),
        kept=counts["agree"] + counts["unchecked"],
        samples=len(usable(library.samples(document), base)),
        confirmed=confirmed_share(before + counts),
        seconds=time.monotonic() - started,
    )


def _recipe(house: House, base: Base, options: RecipeOptions) -> Recipe:
    preset = options.preset or house.settings["preset"].value
    return resolve(base, preset, options.recipe, options.settings)


def _maker(base: Base, recipe: Recipe) -> str:
    """Identifies how material is written, so that a unit counts as finished only for the same way of writing."""
    how = (
        base.name,
        base.revision,
        recipe.generations,
        recipe.summary_share,
        recipe.temperature,
        recipe.top_p,
        recipe.seed,
    )
    return hashlib.sha256(repr(how).encode()).hexdigest()[:16]


def _same(trained: Recipe, wanted: Recipe, options: RecipeOptions) -> bool:
    """Whether the wish, as far as it was spoken, is met: the same base, and the same recipe where one was given."""
    if (trained.model, trained.revision) != (wanted.model, wanted.revision):
        return False
    return not options.given or trained == wanted


def _unfinished(house: House, document: Document, wanted: Recipe, options: RecipeOptions) -> tuple[Recipe, bool]:
    """The recipe to train by, and whether it is that of an unfinished training, which goes on."""
    file = house.library.workspace(document) / RUN
    if not file.exists():
        return wanted, False
    run = json.loads(file.read_text("utf-8"))
    recipe = Recipe.from_json(run["recipe"])
    if run["text_sha256"] != document.text_sha256 or recipe.revision != wanted.revision:
        why = "the document" if run["text_sha256"] != document.text_sha256 else "the base"
        house.report(Event("train", f"{why} has changed since the unfinished training: starting anew", warning=True))
        house.library.clear_workspace(document)
        return wanted, False
    if options.given and recipe != wanted:
        raise UsageError(
            f"{document.name} has an unfinished training by another recipe.",
            "Go on with it by leaving the options out, or start over with --restart.",
        )
    return recipe, True


def _remember(workspace: Path, recipe: Recipe, document: Document) -> None:
    temporary = workspace / "run.tmp"
    temporary.write_text(
        json.dumps({"recipe": recipe.as_json(), "text_sha256": document.text_sha256}, indent=2), "utf-8"
    )
    temporary.replace(workspace / RUN)


@contextmanager
def _resumable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedRun(
            "stopped; nothing that was finished is lost.", "The same command goes on from there."
        ) from None


def _card(document: Document, recipe: Recipe, metrics: dict[str, Any]) -> str:
    loss = metrics.get("held_out_loss")
    lines = [
        f"# Knowledge Module of {document.name}",
        "",
        f"A LoRA adapter (PEFT format) that answers from one document of {document.words:,} words "
        f"(SHA-256 of its text: {document.text_sha256}).",
        "",
        f"- Base: {recipe.model}, revision {recipe.revision}. It fits no other weights.",
        f"- Made by: {recipe.objective} on {metrics['training_samples']} samples in {metrics['steps']} steps.",
        f"- Loss on held-out study material: {'not measured' if loss is None else format(loss, '.3f')}.",
        "- It contains what the document says: share it as you would share the document.",
    ]
    return "\n".join(lines) + "\n"
