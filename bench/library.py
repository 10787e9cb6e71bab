"""A library of ten, a thousand and ten thousand documents: what a verb about one document costs in each.

    python -m bench.library FOLDER [--sizes 10 1000 10000] [--rounds 15]

One library grows, by `km add` of a folder for each size, through the code that a person's command runs, with processes that
read. At each size every verb runs so many times in this process, the library opened anew each time as by a command; what
counts is the least processor time, because other work on the machine can only add to it. A verb's growth exponent is the
slope of a line through the logarithms of size and time: 0 where it costs the same in any library, 1 where it costs ten times
as much in one that is ten times as large.

add: a new file; update: a file that has another text; ls: ten documents of its first page; show, tag, mv, rm: of one; meant:
a name that is nearly right; route: the documents for ten questions (`km ask "question"` before anything is answered), a
question; route-new: the same, and a document has changed before. Questions hold words that one document has, that some have,
and that most have. After that, in the largest library: searches by words and by vectors (which are drawn by chance: to make
real ones is a matter of the model), in milliseconds that passed and of the processor, which other work adds less to.
Prints a Markdown table, and lines `FIGURE name value`.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import numpy as np
from bench.parishes import ENDINGS, STEMS, WORDS

from kmcli.errors import NotFoundError
from kmcli.routing import vectors
from kmcli.routing.gate import CANDIDATES
from kmcli.types import silent
from kmcli.workflows import documents, passages
from kmcli.workflows.house import House, open_house

KINDS = ("harbour office", "ferry", "mill", "market", "library", "bridge", "school", "chapel")
NEVER = "Who painted the bridge?"
"""All words of which most documents have."""


PAGE = 10
"""Of `ls`: as many as the smallest library has."""
NOT_OF_ONE = ("meant",)
"""Costs of no verb: of a mistake, and bounded by a thousand names, which a line through three sizes cannot show."""


@dataclass(frozen=True)
class Made:
    name: str
    text: str
    questions: tuple[str, ...]


@dataclass(frozen=True)
class Verb:
    """prepare: what a round needs, which is not measured, and whose result `run` is given. times: that `run` does it."""

    run: Callable[[House, str], object]
    prepare: Callable[[int], str] = str
    times: int = 1


@dataclass(frozen=True)
class Cost:
    """Milliseconds of the processor, and that passed; of several rounds the least of the one, the median of the other."""

    cpu: float
    wall: float


def made(number: int, text: str = "") -> Made:
    """No two places are called the same; the people and things of one are met in many others."""
    drawn = random.Random(f"library-{number}-{text}")
    places = len(STEMS) * len(ENDINGS)
    place = (
        STEMS[number % len(STEMS)]
        + ENDINGS[number // len(STEMS) % len(ENDINGS)]
        + (ENDINGS[number // places % len(ENDINGS)] * (number >= places))
    )
    lines, questions = [], []
    for kind in drawn.sample(KINDS, 6):
        person = f"{drawn.choice(WORDS['woman'] + WORDS['man'])} {drawn.choice(STEMS)}{drawn.choice(ENDINGS)}"
        colour, month, year = drawn.choice(WORDS["colour"]), drawn.choice(WORDS["month"]), drawn.randint(1700, 1999)
        lines.append(f"The {kind} of {place} is painted {colour}. {person} has run the {kind} since {month} {year}.")
        questions += [f"Who runs the {kind} of {place}?", f"What colour is the {kind} that {person} runs?"]
    return Made(f"{place}-{number}", f"# {place}\n\n" + "\n\n".join(lines) + "\n", tuple(questions))


def write(folder: Path, *documents_made: Made) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{one.name}.md" for one in documents_made]
    for file, one in zip(files, documents_made, strict=True):
        file.write_text(one.text, "utf-8")
    return [str(file) for file in files]


def grow(folder: Path, begin: int, end: int) -> float:
    """Seconds that it took to add the documents from `begin` to `end`, by their folder."""
    write(folder / f"texts-{end}", *map(made, range(begin, end)))
    began = time.perf_counter()
    with open_house({}, silent) as house:
        report = documents.add(house, [str(folder / f"texts-{end}")])
        assert len(report.added) == end - begin, report.failed[:3]
        added = time.perf_counter() - began
        passages.search(house, NEVER)  # reads all, once
    print(f"| {end:,} | {added:.1f} | {time.perf_counter() - began - added:.1f} |", flush=True)
    return added


def verbs(folder: Path, size: int) -> dict[str, Verb]:
    drawn = random.Random("verbs")
    questions = [drawn.choice(made(drawn.randrange(size)).questions) for _ in range(9)] + [NEVER]
    with open_house({}, silent) as house:
        names = [one.name for one in house.library.documents()]

    def name(turn: int) -> str:
        return names[turn * 7919 % len(names)]

    def file(turn: int) -> str:
        return write(folder / "own", made(2_000_000 + turn, "own"))[0]

    def changed(turn: int) -> str:
        path = Path(file(999))
        path.write_text(made(2_000_000, f"{size}-{turn}").text, "utf-8")
        return str(path)

    def changed_in_library(turn: int) -> str:
        with open_house({}, silent) as house:
            documents.add(house, [changed(turn)])
        return ""

    def asked(house: House, _: str) -> None:
        for question in questions:
            passages.search(house, question, CANDIDATES)

    def meant(house: House, wrong: str) -> None:
        with suppress(NotFoundError):
            house.library.find(wrong)
            raise AssertionError(wrong)

    def there_and_back(house: House, old: str) -> None:
        documents.mv(house, old, f"{old}.x")
        documents.mv(house, f"{old}.x", old)

    def tagged(house: House, one: str) -> None:
        documents.tag(house, [one], ["bench"], [])
        documents.tag(house, [one], [], ["bench"])

    return {
        "add": Verb(lambda house, path: documents.add(house, [path]), file),
        "rm": Verb(lambda house, one: documents.rm(house, [one]), lambda turn: Path(file(turn)).stem),
        "update": Verb(lambda house, path: documents.add(house, [path]), changed),
        "ls": Verb(lambda house, _: documents.ls(house, limit=PAGE)),
        "show": Verb(documents.show, name),
        "tag": Verb(tagged, name, 2),
        "mv": Verb(there_and_back, name, 2),
        "meant": Verb(meant, lambda turn: name(turn) + "x"),
        "route": Verb(asked, times=len(questions)),
        "route-new": Verb(asked, changed_in_library, len(questions)),
    }


def measured(verb: Verb, rounds: int) -> Cost:
    took: list[Cost] = []
    for turn in range(rounds):
        given = verb.prepare(turn)

        def whole(given: str = given) -> None:
            with open_house({}, silent) as house:
                verb.run(house, given)

        took.append(spent(whole))
    return Cost(min(one.cpu for one in took) / verb.times, median(one.wall for one in took) / verb.times)


def searches(size: int) -> list[Cost]:
    """Of questions to a library that is open."""
    drawn = random.Random("searches")
    asked = [drawn.choice(made(drawn.randrange(size)).questions) for _ in range(95)] + [NEVER] * 5
    with open_house({}, silent) as house:
        return [spent(lambda question=question: passages.search(house, question, 10)) for question in asked]


def spent(search: Callable[[], object]) -> Cost:
    began, cpu = time.perf_counter(), time.process_time()
    search()
    return Cost(1000 * (time.process_time() - cpu), 1000 * (time.perf_counter() - began))


class Drawn:
    """Makes vectors by chance, as long as MiniLM's: what a search costs does not depend on what they are."""

    revision = "drawn"

    def __init__(self) -> None:
        self._drawn = np.random.default_rng(0)

    def encode(
        self, texts: Sequence[str], *, questions: bool, progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        made = self._drawn.standard_normal((len(texts), 384), np.float32)
        return made / np.linalg.norm(made, axis=1, keepdims=True)


def vector_searches() -> tuple[int, list[Cost]]:
    """How many passages there are, and searches by vectors in a library that is open."""
    encoder = Drawn()
    with open_house({}, silent) as house, passages.index_of_library(house) as index:
        count = vectors.update(index, encoder)
        return count, [spent(lambda: vectors.search(index, encoder, "", 10)) for _ in range(20)]


def exponent(costs: dict[int, Cost]) -> float:
    x, y = [math.log(size) for size in costs], [math.log(cost.cpu) for cost in costs.values()]
    mx, my = fmean(x), fmean(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 1000, 10_000])
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    os.environ["KM_HOME"] = str(given.folder / "home")
    costs: dict[str, dict[int, Cost]] = {}
    last = 0
    print("| documents | seconds to add those that are new | to read them for the index |\n|---:|---:|---:|")
    for size in given.sizes:
        seconds = grow(given.folder, last, size)
        for name, verb in verbs(given.folder, size).items():
            costs.setdefault(name, {})[size] = measured(verb, given.rounds)
        last, number = size, size - last
    print("\n| verb | " + " | ".join(f"{size:,}: cpu ms (wall)" for size in given.sizes) + " | exponent |")
    print("|---|" + "---:|" * (len(given.sizes) + 1))
    for name, of_size in costs.items():
        shown = " | ".join(f"{cost.cpu:.2f} ({cost.wall:.1f})" for cost in of_size.values())
        print(f"| {name} | {shown} | {exponent(of_size):.3f} |")
    for name, of_size in costs.items():
        print(f"FIGURE growth_exponent_{name.replace('-', '_')} {exponent(of_size):.3f}")
    print(f"FIGURE growth_exponent {max(exponent(one) for name, one in costs.items() if name not in NOT_OF_ONE):.3f}")
    print(f"FIGURE documents_a_second {number / seconds:.0f}")
    count, by_vectors = vector_searches()
    print(f"FIGURE passages {count}")
    for what, took in (("search", searches(last)), ("vector_search", by_vectors)):
        print(f"FIGURE {what}_ms {median(one.wall for one in took):.1f}")
        print(f"FIGURE {what}_ms_least {min(one.wall for one in took):.1f}")
        print(f"FIGURE {what}_cpu_ms {median(one.cpu for one in took):.1f}")
        print(f"FIGURE {what}_cpu_ms_worst {max(one.cpu for one in took):.1f}")


if __name__ == "__main__":
    main()
