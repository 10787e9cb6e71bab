"""Redline: what it takes to bring a Knowledge Module up to date where 1% of the facts have changed, and what it loses.

    python -m bench.redline [--documents N] [--facts N] [--wordings N] [--changed N] [--rounds N] [--set KEY=VALUE]...
                            [--seed SEED] [--work FOLDER]

Documents of the template world as in bench/corpus.py, trained on questions that the world writes, those of them that the
embedded base answers rightly with their section in front of it: as in `km synth`, what it does not read is not studied. Then
facts are given another value of their sort, the new text is added as an update, with questions about these facts alone, and
`km train` does what it does by itself. Each document is asked, closed book, every question of its material: before and
after where the fact stands, after where it changed. These questions were studied: what is measured is what an update does to
what is known, and version 0 of the embedded base knows little in other words than it studied.
--wordings: that material asks for each fact in N more ways (bench/wordings.toml). --rounds: so often, from the same modules,
with other facts changed each time. --work: a folder in which the trained library is kept, for other runs with the same
documents and of the same --facts, --wordings, --set and --seed.

    redline_time      the update's time as a share of the full training's: of the processor, all threads, because
                      a machine that does other things as well says nothing by the clock; writing material is in neither
    redline_lost      points of exact match lost on unchanged facts, with the 95% interval of the paired difference
    superseded        questions about changed facts that are answered with the old value; new: with the new one
    redline_auto_...  the same where a passage is read if the module seems wrong, as `km ask` does after an exam; there was
                      none here, so the prior chooses
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from basemodel import world
from bench.corpus import STUDIED, can_read, further

from kmcli import bases
from kmcli.adapters import lora
from kmcli.engines import Chat, Sampling
from kmcli.engines.hf import HfEngine
from kmcli.evaluation.methods import answer_all
from kmcli.evaluation.metrics import bootstrap, exact_match, normalise
from kmcli.routing import confidence
from kmcli.types import Event, Ingested, Question, Reporter
from kmcli.workflows import material_files, study
from kmcli.workflows.auto import Auto, reader_of
from kmcli.workflows.house import House, counter, open_house
from kmcli.workflows.material import RecipeOptions
from kmcli.workflows.pair import Pair


@dataclass(frozen=True)
class Generated:
    """facts: each with the number of its section."""

    name: str
    sections: list[str]
    facts: list[tuple[world.Fact, int]]

    @property
    def text(self) -> str:
        return "\n\n".join(self.sections) + "\n"


def document(seed: str, number: int, facts: int, ways: int) -> Generated:
    r = random.Random(f"redline {seed} {number}")
    sections: list[str] = []
    known: list[tuple[world.Fact, int]] = []
    subjects: set[str] = set()
    while len(known) < facts:
        made = world.make(r, r.randint(2, 4), 4, evaluation=True)
        mine = {fact.subject.casefold() for fact in made.facts}
        good = [in_more_words(fact, ways) for fact in made.facts if can_read(fact)]
        if good and not mine & subjects:
            subjects |= mine
            known += [(fact, len(sections)) for fact in good]
            sections.append(made.text)
    return Generated(f"redline-{number}", sections, known)


def in_more_words(fact: world.Fact, ways: int) -> world.Fact:
    return replace(fact, asked=(*fact.asked, *further(fact)[:ways]))


def readable(loaded: bases.Loaded, made: Generated) -> Generated:
    """With those questions alone that the base answers rightly with the fact's section in front of it."""
    under = loaded.base.prompts.under_text
    asked = [(fact, place, question) for fact, place in made.facts for question in fact.asked]
    chats: list[Chat] = [
        [("user", under.format(text=made.sections[place], question=question))] for _, place, question in asked
    ]
    said = HfEngine(loaded).generate(chats, Sampling(64))
    good = {
        (fact.subject, question) for (fact, _, question), one in zip(asked, said, strict=True) if right(one.text, fact)
    }
    facts = [
        (replace(fact, asked=tuple(q for q in fact.asked if (fact.subject, q) in good)), at) for fact, at in made.facts
    ]
    return replace(made, facts=[(fact, place) for fact, place in facts if fact.asked])


def right(answer: str, fact: world.Fact) -> bool:
    return bool(exact_match(answer, [fact.value]))


def change(
    loaded: bases.Loaded, made: Generated, count: int, seed: str, ways: int
) -> tuple[Generated, dict[world.Fact, world.Fact]]:
    """The document with other values for some facts, and the new fact, with the questions that the base can read, for each
    old one."""
    r = random.Random(f"change {seed} {made.name}")
    # which of several equal values is meant would not be known
    some = [(fact, place) for fact, place in made.facts if made.text.count(fact.value) == 1]
    tried = []
    for fact, place in r.sample(some, min(len(some), 8 * count)):
        new = fact
        while normalise(new.value) in normalise(made.text) or not new.asked:
            new = world._fact(fact.kind, fact.key, fact.subject, r, True)
        tried.append((fact, place, in_more_words(new, ways)))
    alone = [made.sections[place].replace(fact.value, new.value) for fact, place, new in tried]
    read = readable(loaded, Generated("", alone, [(new, number) for number, (*_, new) in enumerate(tried)]))
    sections, changed = list(made.sections), dict[world.Fact, world.Fact]()
    for new, number in read.facts[:count]:
        fact, place, _ = tried[number]
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


def make_library(
    folder: Path, documents: Sequence[Generated], options: RecipeOptions, report: Reporter
) -> tuple[float, list[Generated]]:
    """Documents and their Knowledge Modules, where they are not there. Returns the seconds that these took, and the
    documents with the questions that the base can read."""
    kept = folder / "documents.pickle"
    drawn = [(made.text, [fact.asked for fact, _ in made.facts]) for made in documents], options.settings
    if not kept.exists():
        os.environ["KM_HOME"] = str(folder)
        with open_house({}, report) as house:
            loaded = bases.load(house.base(), "cpu")
            documents = [readable(loaded, made) for made in documents]
            for made in documents:
                add(house, made)
                import_material(house, made, [fact for fact, _ in made.facts], options)
            took = train(house, [made.name for made in documents], options)
            kept.write_bytes(pickle.dumps((drawn, took, documents)))
    of, *found = pickle.loads(kept.read_bytes())
    if of != drawn:
        raise SystemExit(f"{folder} was made with other options (see --work). Name another folder, or those.")
    seconds, readings = found
    return seconds, readings


Asked = list[tuple[str, world.Fact]]


def answers(house: House, loaded: bases.Loaded, name: str, asked: Asked) -> list[str]:
    module = house.library.module(house.library.find(name))
    assert module is not None
    model = lora.load(loaded, module.path)
    try:
        put = [Question(question, ()) for question, _ in asked]
        return [said.text for said in answer_all("km", HfEngine(loaded, model), put, loaded.base.prompts) or ()]
    finally:
        model.unload().eval()


def by_auto(house: House, loaded: bases.Loaded, name: str, asked: Asked) -> list[str]:
    """As `answers`, by who is likely right."""
    document = house.library.find(name)
    module = house.library.module(document)
    assert module is not None
    model, count = lora.load(loaded, module.path), counter(loaded)
    try:
        pair = Pair(HfEngine(loaded, model), HfEngine(loaded, model, adapter=False), count)
        reader = reader_of(house, document, module, house.base_of(document, module), count)
        return [one.text for one in Auto(pair, reader, confidence.fit([])).ask([question for question, _ in asked])]
    finally:
        model.unload().eval()


@dataclass
class Found:
    """A row a question: whether it was answered rightly before the update, and after. of_changed, auto: about changed
    facts, whether the answer is the old value, and whether it is the new one. chunks: changed ones, and all."""

    unchanged: list[tuple[bool, bool]] = field(default_factory=list)
    of_changed: list[tuple[bool, bool]] = field(default_factory=list)
    auto: list[tuple[bool, bool]] = field(default_factory=list)
    chunks: list[tuple[int, int]] = field(default_factory=list)
    seconds: float = 0.0


def one_round(
    house: House,
    loaded: bases.Loaded,
    old: Sequence[Generated],
    before: dict[str, list[str]],
    count: int,
    seed: str,
    ways: int,
    found: Found,
) -> None:
    """before: what each document's module answers to all its questions."""
    options = RecipeOptions(settings=("tasks=import", "held_out=0"))
    pairs = [change(loaded, made, count, seed, ways) for made in old]
    for made, changed in pairs:
        add(house, made)
        import_material(house, made, list(changed.values()), options)
    found.seconds += train(house, [made.name for made in old], RecipeOptions())
    for made, (_, changed) in zip(old, pairs, strict=True):
        every: Asked = [(question, fact) for fact, _ in made.facts for question in fact.asked]
        said = answers(house, loaded, made.name, every)
        for (question, fact), was, now in zip(every, before[made.name], said, strict=True):
            if fact in changed:
                found.of_changed.append((right(now, fact), right(now, changed[fact])))
                print(f"{made.name}: {question} {fact.value} is {changed[fact].value} now: {now}", file=sys.stderr)
            else:
                found.unchanged.append((right(was, fact), right(now, fact)))
        again = [(question, fact) for question, fact in every if fact in changed]
        for (question, fact), now in zip(again, by_auto(house, loaded, made.name, again), strict=True):
            found.auto.append((right(now, fact), right(now, changed[fact])))
            print(f"{made.name}: {question} {fact.value} is {changed[fact].value} now; auto: {now}", file=sys.stderr)
        module = house.library.module(house.library.find(made.name))
        assert module is not None
        found.chunks.append((module.metrics["update"]["changed"], module.metrics["update"]["chunks"]))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=4)
    parser.add_argument("--facts", type=int, default=100)
    parser.add_argument("--wordings", type=int, default=0, choices=range(STUDIED + 1), metavar="N")
    parser.add_argument("--changed", type=int, default=0, help="facts of a document; 0: 1%%, at least one")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--seed", default="generated")
    parser.add_argument("--work", type=Path)
    given = parser.parse_args(arguments)
    options = RecipeOptions(settings=("tasks=import", "held_out=0", "exam=no", *given.settings))
    drawn = [document(given.seed, number, given.facts, given.wordings) for number in range(given.documents)]
    count = given.changed or max(1, round(given.facts / 100))

    def report(event: Event) -> None:
        if event.message and event.done is None:
            print(event.message, file=sys.stderr, flush=True)

    found = Found()
    with tempfile.TemporaryDirectory() as name:
        trained = given.work or Path(name) / "trained"
        full, old = make_library(trained, drawn, options, report)
        before: dict[str, list[str]] = {}
        for number in range(given.rounds):
            os.environ["KM_HOME"] = str(shutil.copytree(trained, Path(name) / str(number)))
            with open_house({}, report) as house:
                loaded = bases.load(house.base(), "cpu")
                for made in old if number == 0 else ():
                    every: Asked = [(question, fact) for fact, _ in made.facts for question in fact.asked]
                    before[made.name] = answers(house, loaded, made.name, every)
                one_round(house, loaded, old, before, count, f"{given.seed} {number}", given.wordings, found)
            shutil.rmtree(Path(name) / str(number))
    was, now = (fmean(pair[side] for pair in found.unchanged) for side in (0, 1))
    lost = bootstrap([float(first) - second for first, second in found.unchanged])
    words = sum(len(made.text.split()) for made in old) / len(old)
    print(f"{len(old)} documents of {words:,.0f} words on average, {count} facts of each changed, {given.rounds} times")
    print("chunks changed: " + ", ".join(f"{changed} of {chunks}" for changed, chunks in found.chunks[:8]))
    print(f"seconds of the processor: {full:.0f} for all, {found.seconds / given.rounds:.0f} for an update of each")
    print(f"exact match on {len(found.unchanged)} questions about unchanged facts: {was:.3f} before, {now:.3f} after")
    print(f"FIGURE redline_time {found.seconds / given.rounds / full:.3f}")
    print(f"FIGURE redline_lost_points {100 * lost.mean:.1f} ({100 * lost.low:.1f} to {100 * lost.high:.1f})")
    print(f"FIGURE superseded {sum(old for old, _ in found.of_changed)} of {len(found.of_changed)}")
    print(f"FIGURE redline_new_right {sum(new for _, new in found.of_changed)} of {len(found.of_changed)}")
    print(f"FIGURE redline_auto_superseded {sum(old for old, _ in found.auto)} of {len(found.auto)}")
    print(f"FIGURE redline_auto_new_right {sum(new for _, new in found.auto)} of {len(found.auto)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
