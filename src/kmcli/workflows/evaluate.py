"""eval: a published benchmark from its files to a table, each of its documents with a Knowledge Module of its own.

Everything lies in one folder: a library of its own, and the answers. What is there is not done again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from kmcli.bases import Base
from kmcli.errors import InterruptedRun, UsageError, did_you_mean
from kmcli.evaluation import METHODS
from kmcli.evaluation.benchmarks import BENCHMARKS, Benchmark, Case
from kmcli.library import Library
from kmcli.library.extractors import Extractor
from kmcli.library.files import explained
from kmcli.library.locks import Locks
from kmcli.types import Method, Recipe, text_hash
from kmcli.workflows import extracting
from kmcli.workflows.evaluation_log import Log, claim
from kmcli.workflows.evaluation_rows import Measured, row
from kmcli.workflows.evaluation_run import Run
from kmcli.workflows.house import Failure, House
from kmcli.workflows.material import RecipeOptions, recipe_for

ASKED = tuple(
    method for method, how in METHODS.items() if how.reads != "evidence" and not how.compressed and method != "auto"
)
"""The methods that a benchmark's questions can be put by, in the order of the table: `gold` needs to know the passage, and
`auto` an exam."""


@dataclass(frozen=True, slots=True)
class EvalReport:
    """documents, questions: those that every method was asked about, or did not fit. folder: where all of it lies.
    extractor: the name of the one that methods with `ke` used."""

    benchmark: str
    split: str
    base: Base
    recipe: Recipe
    documents: int
    questions: int
    rows: tuple[Measured, ...]
    folder: Path
    failed: tuple[Failure, ...] = ()
    interrupted: InterruptedRun | None = None
    extractor: str | None = None


def evaluate(
    house: House,
    name: str,
    data: Path,
    options: RecipeOptions,
    *,
    split: str | None = None,
    limit: int | None = None,
    methods: Sequence[str] = (),
    out: Path | None = None,
    force: bool = False,
) -> EvalReport:
    """Read a benchmark's files, train a Knowledge Module for each document, and ask its questions by each method.

    limit: only the first so many documents. out: the folder; left out, one of its own for these files, base and recipe.
    force: also documents that the base cannot read. Methods with `ke` use the extractor that was asked for, which lies in
    the person's library. A document that fails does not stop the others. Raises UsageError for files that are not as
    published, for an extractor of another base, and for a folder that holds something else.
    """
    benchmark = _benchmark(name)
    extractor = extracting.chosen(house)
    wanted = _methods(methods, extractor is not None)
    split = _split(benchmark, split, data)
    cases = list(islice(benchmark.read(data, split), limit))
    if not cases:
        raise UsageError(f"{data} holds no documents of the split {split}.", f"Give {benchmark.file}.")
    base = house.base()
    options = replace(options, settings=("exam=no", *options.settings))  # the benchmark examines
    extracting.require_base(extractor, base)
    if "km" not in wanted:  # training says it too
        house.announce(base)
    if base.embedded and benchmark.seen and not {split, *benchmark.named_by(data)} <= set(benchmark.unseen):
        house.warn(f"the embedded base was trained on {benchmark.seen}: what it scores there means nothing")
    if extractor:
        _warn_of_seen(house, extractor, cases)
    recipe = recipe_for(house, base, options)
    identity = {
        "benchmark": name,
        "split": split,
        "model": base.portable_name,
        "revision": base.revision,
        "recipe": recipe.as_json(),
    }
    with _opened(house, _folder(house, out, name, data, identity), identity) as (inside, log):
        run = Run(inside, benchmark, base, options, recipe, wanted, log, force, extractor)
        interrupted = run.work_through(cases)
        done = [case for case in cases if run.is_done(case)]
        rows = tuple(row(benchmark, method, done, log, wanted, extractor) for method in wanted) if done else ()
        folder = inside.library.home.parent
    questions = sum(len(case.items) for case in done)
    failed, used = tuple(run.failed), extractor.name if extractor else None
    return EvalReport(name, split, base, recipe, len(done), questions, rows, folder, failed, interrupted, used)


def _benchmark(name: str) -> Benchmark:
    if name not in BENCHMARKS:
        known = "The benchmarks are " + ", ".join(BENCHMARKS) + "."
        raise UsageError(f"there is no benchmark {name!r}.", did_you_mean(name, BENCHMARKS, known))
    return BENCHMARKS[name]


def _split(benchmark: Benchmark, wanted: str | None, data: Path) -> str:
    """The one that is wished for, or that the file's name says, or the usual one."""
    named = benchmark.named_by(data)
    split = wanted or (named[0] if len(named) == 1 else benchmark.splits[0])
    if split not in benchmark.splits:
        raise UsageError(f"{benchmark.title} has no split {split!r}.", f"It has {', '.join(benchmark.splits)}.")
    return split


def _methods(given: Sequence[str], extractor: bool) -> tuple[Method, ...]:
    """Those that are named; without names all that there is what they need for."""
    for method in given:
        if method not in ASKED:
            raise UsageError(
                f"a benchmark cannot be asked by {method!r}.",
                did_you_mean(method, ASKED, f"Choose among {', '.join(ASKED)}."),
            )
        if METHODS[method].ke and not extractor:
            raise UsageError(f"{method} needs a Knowledge Extractor.", "Name one: --extractor NAME")
    return tuple(method for method in ASKED if (method in given if given else extractor or not METHODS[method].ke))


def _warn_of_seen(house: House, extractor: Extractor, cases: Sequence[Case]) -> None:
    taught = {one.text_sha256 for one in house.library.documents() if one.id in extractor.documents}
    seen = sum(text_hash(case.text) in taught for case in cases)
    if seen:
        house.warn(
            f"the extractor {extractor.name} was trained on questions about {seen} of these documents: what it scores "
            "on them means little"
        )


def _folder(house: House, out: Path | None, name: str, data: Path, identity: Mapping[str, Any]) -> Path:
    if out is not None:
        return out.expanduser().absolute()
    known = json.dumps([str(data.absolute()), identity], sort_keys=True)
    return house.library.home / "evaluations" / f"{name}-{hashlib.sha256(known.encode()).hexdigest()[:8]}"


@contextmanager
def _opened(house: House, folder: Path, identity: Mapping[str, Any]) -> Iterator[tuple[House, Log]]:
    """The library in the folder, and its answers, for this process alone."""
    with explained(folder):
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is a file.", "Choose another folder: --out FOLDER")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        claim(folder, identity)
        with (
            Locks(folder).hold("eval", "the evaluation", "eval", 0),
            Library.open(folder / "library") as library,
        ):
            yield dataclasses.replace(house, library=library), Log(folder)
