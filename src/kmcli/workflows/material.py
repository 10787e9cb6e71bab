"""Study material: synth writes what is missing, for its own sake or before a training."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kmcli.bases import Base, Loaded
from kmcli.errors import InterruptedRun, KmError
from kmcli.synthesis.write import Unit, confirmed_share, write
from kmcli.training.recipes import resolve
from kmcli.types import Document, Recipe, Sample
from kmcli.workflows.batch import Loader, each
from kmcli.workflows.house import Failure, House, usable


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
class SynthReport:
    """interrupted: Ctrl-C ended the run, and the same command goes on."""

    written: tuple[Synthesised, ...]
    failed: tuple[Failure, ...] = ()
    interrupted: InterruptedRun | None = None


def synth(
    house: House, names: Sequence[str], options: RecipeOptions, force: bool = False, restart: bool = False
) -> SynthReport:
    """Write the study material that is missing. A document that fails does not stop the others.

    force: also where the base cannot read the document. restart: throw away what there is first.
    """
    documents = list(dict.fromkeys(map(house.library.find, names)))
    base = house.base()
    recipe = recipe_for(house, base, options)
    loader = Loader(house)

    def one(document: Document) -> Synthesised:
        loaded = loader.load(base)
        if restart:
            house.library.drop_samples(document)
        return write_missing(house, document, loaded, recipe, force)

    written, failed, interrupted = each(house, documents, "synth", one)
    return SynthReport(tuple(written), tuple(failed), interrupted)


def write_missing(house: House, document: Document, loaded: Loaded, recipe: Recipe, force: bool) -> Synthesised:
    from kmcli.engines.hf import HfEngine

    library, base = house.library, loaded.base
    started = time.monotonic()
    chunks = house.study_chunks(document, loaded, recipe)
    if not chunks:
        raise KmError(f"{document.name} has no text to study.", "Is it the right file? See km show " + document.name)
    maker = _maker(base, recipe)
    log = [line for line in library.work_log(document) if line["maker"] == maker]
    finished = {Unit(line["chunk"], line["task"]) for line in log}
    before: Counter[str] = Counter()
    for line in log:
        before.update(line["counts"])
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

    write(HfEngine(loaded), chunks, recipe, base.prompts, finished, before, hand_over, house.report, force)
    return Synthesised(
        document=document,
        written=sum(counts.values()),
        kept=counts["agree"] + counts["unchecked"],
        samples=len(usable(library.samples(document), base)),
        confirmed=confirmed_share(before + counts),
        seconds=time.monotonic() - started,
    )


def recipe_for(house: House, base: Base, options: RecipeOptions) -> Recipe:
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
