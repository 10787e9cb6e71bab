"""Redline: what it takes to bring a Knowledge Module up to date where 1% of the facts have changed, and what it loses.

    python -m bench.redline [--documents N] [--facts N] [--changed N] [--set KEY=VALUE]... [--seed SEED] [--work FOLDER]

Documents of the template world as in bench/corpus.py, of facts that the embedded base reads, trained on study material that
the world writes. Then facts are given another value of their sort, the new text is added as an update, with material about
these facts alone, and `km train` does what it does by itself. Each document is asked, closed book, every question of its
material: before and after where the fact stands, after where it changed. These questions were studied: what is measured
is what an update does to what is known, and version 0 of the embedded base knows little in other words than it studied.
--work: a folder in which the trained library is kept, for other runs with the same documents.

    redline_time      the update's time as a share of the full training's: of the processor, all threads, because
                      a machine that does other things as well says nothing by the clock; writing material is in neither
    redline_lost      points of exact match lost on unchanged facts, with the 95% interval of the paired difference
    superseded        questions about changed facts that are answered with the old value; new: with the new one
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from basemodel import world
from bench.corpus import can_read

from kmcli import bases
from kmcli.adapters import lora
from kmcli.engines.hf import HfEngine
from kmcli.evaluation.methods import answer_all
from kmcli.evaluation.metrics import bootstrap, exact_match, normalise
from kmcli.types import Event, Ingested, Question, Reporter
from kmcli.workflows import material_files, study
from kmcli.workflows.house import House, open_house
from kmcli.workflows.material import RecipeOptions


@dataclass(frozen=True)
class Generated:
    """facts: each with the number of its section."""

    name: str
    sections: list[str]
    facts: list[tuple[world.Fact, int]]

    @property
    def text(self) -> str:
        return "\n\n".join(self.sections) + "\n"


def document(seed: str, number: int, facts: int) -> Generated:
    r = random.Random(f"redline {seed} {number}")
    sections: list[str] = []
    known: list[tuple[world.Fact, int]] = []
    subjects: set[str] = set()
    while len(known) < facts:
        made = world.make(r, r.randint(2, 4), 4, evaluation=True)
        mine = {fact.subject.casefold() for fact in made.facts}
        good = [fact for fact in made.facts if can_read(fact)]
        if good and not mine & subjects:
            subjects |= mine
            known += [(fact, len(sections)) for fact in good]
            sections.append(made.text)
    return Generated(f"redline-{number}", sections, known)


def change(made: Generated, count: int, seed: str) -> tuple[Generated, dict[world.Fact, world.Fact]]:
    """The document with other values for some facts, and the new fact for each old one."""
    r = random.Random(f"change {seed} {made.name}")
    sections, changed = list(made.sections), dict[world.Fact, world.Fact]()
    for fact, place in r.sample(made.facts, len(made.facts)):
        if len(changed) == count:
            break
        if made.text.count(fact.value) != 1:
            continue  # which of them is meant would not be known
        new = fact
        while normalise(new.value) in normalise(made.text) or not new.asked:
            new = world._fact(fact.kind, fact.key, fact.subject, r, True)
        sections[place] = sections[place].replace(fact.value, new.value)
        changed[fact] = new
    facts = [(changed.get(fact, fact), place) for fact, place in made.facts]
    return Generated(made.name, sections, facts), changed


def import_material(house: House, made: Generated, facts: Sequence[world.Fact], options: RecipeOptions) -> None:
    lines = [
        json.dumps({"prompt": asked, "response": fact.value, "context": made.sections[place]})
        for fact, place in made.facts
        if fact in facts
        for asked in fact.asked
    ]
    file = house.library.home / "samples.jsonl"
    file.write_text("\n".join(lines), "utf-8")
    material_files.import_(house, made.name, str(file), options)
    file.unlink()


def add(house: House, made: Generated) -> None:
    data = made.text.encode()
    house.library.add(Ingested(f"/{made.name}.md", "text", made.name, data, made.text, None), None)


def train(house: House, names: Sequence[str], options: RecipeOptions) -> float:
    """Seconds of the processor."""
    began = time.process_time()
    done = study.train(house, names, False, options)
    for failure in done.failed:
        raise failure.error
    return time.process_time() - began


def make_library(folder: Path, documents: Sequence[Generated], options: RecipeOptions, report: Reporter) -> float:
    """Documents and their Knowledge Modules, where they are not there. Returns the seconds that these took."""
    took = folder / "seconds.json"
    if not took.exists():
        os.environ["KM_HOME"] = str(folder)
        with open_house({}, report) as house:
            for made in documents:
                add(house, made)
                import_material(house, made, [fact for fact, _ in made.facts], options)
            took.write_text(json.dumps(train(house, [made.name for made in documents], options)))
    return float(json.loads(took.read_text()))


def right(said: Sequence[str], asked: Sequence[tuple[str, str]]) -> list[float]:
    return [float(exact_match(one, [value])) for one, (_, value) in zip(said, asked, strict=True)]


def answers(house: House, loaded: bases.Loaded, name: str, asked: Sequence[tuple[str, str]]) -> list[str]:
    """asked: questions with their answers."""
    module = house.library.module(house.library.find(name))
    assert module is not None
    model = lora.load(loaded, module.path)
    try:
        put = [Question(question, ()) for question, _ in asked]
        return [said.text for said in answer_all("km", HfEngine(loaded, model), put, loaded.base.prompts) or ()]
    finally:
        model.unload().eval()


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=4)
    parser.add_argument("--facts", type=int, default=100)
    parser.add_argument("--changed", type=int, default=0, help="facts of a document; 0: 1%%, at least one")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--seed", default="generated")
    parser.add_argument("--work", type=Path)
    given = parser.parse_args(arguments)
    options = RecipeOptions(settings=("tasks=import", "held_out=0", *given.settings))
    old = [document(given.seed, number, given.facts) for number in range(given.documents)]
    count = given.changed or max(1, round(given.facts / 100))
    names = [made.name for made in old]

    def report(event: Event) -> None:
        if event.message and event.done is None:
            print(event.message, file=sys.stderr, flush=True)

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        trained = given.work or folder / "trained"
        full = make_library(trained, old, options, report)
        os.environ["KM_HOME"] = str(shutil.copytree(trained, folder / "changed"))
        house = stack.enter_context(open_house({}, report))
        loaded = bases.load(house.base(), "cpu")
        standing, before, known, after = [], list[float](), list[float](), list[float]()
        pairs = [change(made, count, given.seed) for made in old]
        for made, (_, changed) in zip(old, pairs, strict=True):
            stand = [(asked, fact.value) for fact, _ in made.facts if fact not in changed for asked in fact.asked]
            standing.append(stand)
            before += right(answers(house, loaded, made.name, stand), stand)
            was = [(asked, fact.value) for fact in changed for asked in fact.asked]
            known += right(answers(house, loaded, made.name, was), was)
        for new, changed in pairs:
            add(house, new)
            import_material(house, new, list(changed.values()), options)
        update = train(house, names, RecipeOptions())
        superseded, renewed = list[float](), list[float]()
        for (new, changed), stand in zip(pairs, standing, strict=True):
            after += right(answers(house, loaded, new.name, stand), stand)
            now = [(asked, fact.value) for fact in changed.values() for asked in fact.asked]
            was = [(asked, fact.value) for fact in changed for asked in fact.asked]
            said = answers(house, loaded, new.name, now)
            superseded += right(said, was)
            renewed += right(said, now)
            for one, (question, value), (_, other) in zip(said, now, was, strict=True):
                print(f"{new.name}: {question} {other} is {value} now: {one}", file=sys.stderr, flush=True)
        metrics = [house.library.module(house.library.find(name)).metrics for name in names]  # type: ignore[union-attr]
    lost = bootstrap([first - second for first, second in zip(before, after, strict=True)])
    words = sum(len(made.text.split()) for made in old)
    print(
        f"{given.documents} documents of {words / given.documents:,.0f} words on average, {count} facts of each changed"
    )
    print("chunks changed: " + ", ".join(f"{one['update']['changed']} of {one['update']['chunks']}" for one in metrics))
    print(f"seconds of the processor: {full:.0f} for all, {update:.0f} for the update")
    print(
        f"exact match on {len(before)} questions about unchanged facts: {fmean(before):.3f} before, {fmean(after):.3f} after"
    )
    print(f"old values of changed facts: {sum(known):.0f} of {len(known)} right before")
    print(f"FIGURE redline_time {update / full:.3f}")
    print(f"FIGURE redline_lost_points {100 * lost.mean:.1f} ({100 * lost.low:.1f} to {100 * lost.high:.1f})")
    print(f"FIGURE superseded {sum(superseded):.0f} of {len(superseded)}")
    print(f"FIGURE redline_new_right {sum(renewed):.0f} of {len(renewed)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
