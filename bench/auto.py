"""`--method auto` beside the Knowledge Module alone and retrieval of one passage, and how far its confidence can be trusted.

    python -m bench.auto [--examples LIBRARY] [--animals LIBRARY] [--corpus LIBRARY QUESTIONS] [--every N] [--start N]
                         [--examined] [--keep FILE]

--examples: a library with documents of examples/ (by their names there) that were trained with an exam. --animals: one that
bench.each_library has made. --corpus: one with documents of bench.corpus by their names there, and its questions. Of
animals and corpus every N-th document is taken. Modules without an exam are examined first, which is kept (--examined: they
are left out). All libraries are written to: give copies. --keep: every answer as a line of JSON, at the end of this file.

Questions with an answer: those of examples/ and of the corpus, and each animal's about what its document says. Without: of
the animals what their documents leave open of the animal itself, and a question about another animal; of harbour the list
below, and a third as many as it has questions, of the almanac, and the other way round; of the corpus what it says has none,
and a third as many questions about things of its other documents that it does not name.

Prints a table by library with Wilson's 95% intervals, and lines `FIGURE name value`: accuracy and tokens on the questions
with an answer, calibration error on all. A refusal counts where auto says that the document does not say.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from bench import each_library
from bench.routing import share

from kmcli.adapters import lora
from kmcli.engines import Chat
from kmcli.engines.hf import HfEngine
from kmcli.evaluation.methods import build_chat, fit
from kmcli.evaluation.metrics import exact_match
from kmcli.routing.confidence import calibration_error
from kmcli.types import Document, KnowledgeModule, silent
from kmcli.workflows import calibrating
from kmcli.workflows.auto import NOT_SAID, SAMPLING, Auto, Choice, Reader, calibration_of, reader_of
from kmcli.workflows.batch import Loader
from kmcli.workflows.house import House, counter, open_house
from kmcli.workflows.pair import Pair

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = ("harbour", "almanac")
WIDE = 5
LEFT_OPEN = """\
Who designed the lighthouse of Taldrin?
How long is the Brennik river?
When was Clara Stalmor born?
Who founded Seldram Group?
How many visitors does the lantern festival draw?
What does Torvack Ltd produce?
How many people work at Torvack Ltd?
What did Stefan Grondal study?
Where was Irene Haldock born?
Who is the main rival of Klimbar Foods?
Where was Nadia Fennik born?
How fast does the Kelvand sail?
Who built the Kelvand?
What colour is the hull of the Tolmira?
How many sailors are in the crew of the Tolmira?
What does a ticket for the Kelvand cost?
Who is Emil Dorsak married to?
What did Emil Dorsak study?
Which medal did Emil Dorsak win?
When was Greta Vossar born?
What is the favourite dish of Greta Vossar?
How old is the tortoise Bistok?
How far can the light of Lumrick 40 be seen?
Where was Yara Kestrim born?
What colour is Lumrick 40?
Who founded the Sandrok Foundation?
When did Project Marvold begin?
How long will the new sea wall be?
Who won the Taldrin Games in 2023?
How many boats took part in the Taldrin Games?
When was Gulmar founded?
How many inhabitants does Sturmel have?
What is the telephone number of the safety department?
How many berth permits were approved in 2024?
Who is the captain of the Tolmira's sister ship?
How many engines does Grondal Works build in a year?
"""
"""Of harbour: its own things, and what it does not say of them."""


@dataclass(frozen=True)
class Case:
    """answers: none where the document does not say."""

    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """right: exact match, of km, of one passage read by the base, and of as many as fit of five. tokens: that each read."""

    case: Case
    choice: Choice
    km: bool
    rag: bool
    wide: bool
    km_tokens: int
    rag_tokens: int
    wide_tokens: int

    @property
    def best(self) -> bool:
        """Whether the better answer of the two that auto chooses from is right."""
        return self.km or self.rag

    @property
    def right(self) -> bool:
        return bool(self.choice.by) and is_right(self.choice.text, self.case)

    @property
    def silent(self) -> bool:
        return self.choice.text == NOT_SAID

    @property
    def borne_out(self) -> bool:
        """What the confidence speaks of came true."""
        if self.choice.by:
            return self.right
        return not self.case.answers if self.silent else self.best


def is_right(said: str, case: Case) -> bool:
    return bool(case.answers) and bool(exact_match(said, case.answers))


def of_examples(name: str) -> list[Case]:
    asked = {
        one: [json.loads(line) for line in (EXAMPLES / f"{one}.questions.jsonl").read_text("utf-8").splitlines()]
        for one in NAMES
    }
    (other,) = (one for one in NAMES if one != name)
    mine = [Case(one["question"], tuple(one["answers"])) for one in asked[name]]
    left = [Case(line, ()) for line in LEFT_OPEN.splitlines()] if name == "harbour" else []
    drawn = random.Random(name).sample(asked[other], len(mine) // 3)
    return [*mine, *left, *(Case(one["question"], ()) for one in drawn)]


def of_animals(house: House) -> dict[str, list[Case]]:
    """By document, of those that have a module."""
    made = {f"animal-{number:03}": one for number, one in enumerate(each_library.made(200), 1)}
    names = [one.name for one in house.library.documents() if house.library.module(one) and one.name in made]
    found: dict[str, list[Case]] = {}
    for name in names:
        drawn = random.Random(name)
        other = made[drawn.choice([one for one in names if one != name])]
        far = drawn.choice([fact for fact in other.facts if fact.key in each_library.FACTS])
        facts = [fact for fact in made[name].facts if fact.key in each_library.FACTS]
        found[name] = [
            *(Case(fact.asked[0], (fact.value,)) for fact in facts),
            *(Case(question, ()) for question in made[name].unknown),
            Case(far.asked[0], ()),
        ]
    return found


def of_corpus(house: House, questions: Path) -> dict[str, list[Case]]:
    """By document, of those that have a module."""
    lines = [json.loads(line) for line in questions.read_text("utf-8").splitlines()]
    trained = {one.name for one in house.library.documents() if house.library.module(one)}
    found: dict[str, list[Case]] = {}
    for one in lines:
        if one["document"] in trained:
            found.setdefault(one["document"], []).append(Case(one["question"], tuple(one["answers"])))
    for name, cases in found.items():
        text = house.library.text(house.library.find(name)).casefold()
        # things of different documents may have one name: asked for such a one, this document may have an answer of its own
        others = [one["question"] for one in lines if one["answers"] and one["about"].casefold() not in text]
        cases += [Case(one, ()) for one in random.Random(name).sample(others, min(len(others), len(cases) // 3))]
    return found


def ask(
    house: House, document: Document, module: KnowledgeModule, loader: Loader, cases: Sequence[Case]
) -> list[Result]:
    calibration = calibration_of(house, module)
    assert calibration is not None
    base = house.base_of(document, module)
    loaded = loader.load(base, 0)
    model = lora.load(loaded, module.path)
    try:
        km, plain = HfEngine(loaded, model), HfEngine(loaded, model, adapter=False)
        reader = reader_of(house, document, module, base, counter(loaded))
        questions = [case.question for case in cases]
        choices = Auto(Pair(km, plain, counter(loaded)), reader, calibration).ask(questions)
        alone = km.generate([build_chat("km", one, base.prompts) for one in questions], SAMPLING)
        read, wide = (
            plain.generate([_under(reader, plain, one, passages) for one in questions], SAMPLING)
            for passages in (1, WIDE)
        )
    finally:
        model.unload().eval()
    results = []
    for case, choice, *said in zip(cases, choices, alone, read, wide, strict=True):
        right = (is_right(one.text, case) for one in said)
        results.append(Result(case, choice, *right, *(one.prompt_tokens for one in said)))
    return results


def _under(reader: Reader, plain: HfEngine, question: str, passages: int) -> Chat:
    found = fit("rag", plain, question, reader.prompts, SAMPLING, passages=reader.index.search(question, passages))
    return found[0] if found else build_chat("rag", question, reader.prompts)


def prepared(
    house: House, loader: Loader, names: Sequence[str], examined: bool
) -> Iterator[tuple[Document, KnowledgeModule]]:
    """Those with a module, examined where they were not, and calibrated as this version does. examined: only those that
    were."""
    for name in names:
        document = house.library.find(name)
        module = house.library.module(document)
        if module and house.library.exams.of(module):
            calibrating.calibrate(house, document, module, loader.load(house.base_of(document, module), 0))
        elif module and not examined:
            calibrating.hold(house, document, loader)
        else:
            continue
        if module and calibration_of(house, module):
            yield document, module


def tell(name: str, results: Sequence[Result]) -> list[tuple[str, float]]:
    known = [one for one in results if one.case.answers]
    unknown = [one for one in results if not one.case.answers]
    said = [one for one in results if one.silent]
    quiet = sum(not one.case.answers for one in said)
    wrong = [one for one in results if one.choice.by and not one.right]
    right = {
        "auto": sum(one.right for one in known),
        "km": sum(one.km for one in known),
        "rag": sum(one.rag for one in known),
        "wide": sum(one.wide for one in known),
    }
    read = fmean(one.choice.prompt_tokens for one in known)
    tokens, wide = (read / fmean(of) for of in ([one.rag_tokens for one in known], [one.wide_tokens for one in known]))
    error = calibration_error([(one.choice.confidence, one.borne_out) for one in results])
    answered = calibration_error([(one.choice.confidence, one.right) for one in results if one.choice.by])
    flagged = sum(one.choice.doubtful for one in wrong)
    precision, recall = quiet / max(1, len(said)), quiet / max(1, len(unknown))
    cells = [
        *(share(right[way], len(known)) for way in ("auto", "km", "rag", "wide")),
        f"{tokens:.2f}, {wide:.2f}",
        f"{error:.3f} ({answered:.3f})",
        share(quiet, len(said)),
        share(quiet, len(unknown)),
        f"{at_recall(results, 0.7):.2f}",
        share(flagged, len(wrong)),
    ]
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    gain = 100 * (right["auto"] - max(right["km"], right["rag"], right["wide"])) / max(1, len(known))
    return [
        ("auto_vs_best_single_points", gain),
        ("auto_tokens_vs_rag", wide),
        ("auto_tokens_vs_rag_1", tokens),
        ("calibration_error", error),
        ("unanswerable_precision", precision),
        ("unanswerable_recall", recall),
        ("unanswerable_precision_at_recall_0.7", at_recall(results, 0.7)),
        ("unanswerable_f1", 2 * precision * recall / max(1e-9, precision + recall)),
        ("flagged_wrong", flagged / max(1, len(wrong))),
    ]


def at_recall(results: Sequence[Result], recall: float) -> float:
    """Precision of "the document does not say" where just so many of the questions without an answer get it: those that are
    likeliest to have one are taken last."""
    ranked = sorted(results, key=lambda one: one.choice.answerable)
    wanted = recall * sum(not one.case.answers for one in results)
    found = 0
    for place, one in enumerate(ranked, 1):
        found += not one.case.answers
        if found >= wanted:
            return found / place
    return 0.0


def asked(house: House, way: str, questions: Path | None) -> dict[str, list[Case]]:
    """By document, of one of the three kinds of library."""
    if way == "animals":
        return of_animals(house)
    if way == "documents" and questions:
        return of_corpus(house, questions)
    here = {one.name for one in house.library.documents()}
    return {name: of_examples(name) for name in NAMES if name in here}


def keep(file: Path, name: str, results: Sequence[Result]) -> None:
    with file.open("a", encoding="utf-8") as out:
        for one in results:
            out.write(json.dumps({"document": name, **asdict(one), "right": one.right, "silent": one.silent}) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=Path)
    parser.add_argument("--animals", type=Path)
    parser.add_argument("--corpus", type=Path, nargs=2, metavar=("LIBRARY", "QUESTIONS"), default=(None, None))
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--examined", action="store_true")
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    if not (given.examples or given.animals or given.corpus[0]):
        parser.error("name a library: --examples, --animals or --corpus")
    corpus, questions = given.corpus
    print("| documents | auto right | km | rag@1 | rag@5 | tokens of rag@1's, of rag@5's | ECE (of answers) | ", end="")
    print("'does not say': precision | recall | precision at recall 0.7 | of wrong answers doubtful |")
    print("|" + "---|" * 11)
    everything: list[Result] = []
    for way, folder in (("examples", given.examples), ("animals", given.animals), ("documents", corpus)):
        if folder is None:
            continue
        os.environ["KM_HOME"] = str(folder)
        with open_house({}, silent) as house:
            loader = Loader(house)
            cases = asked(house, way, questions)
            names = list(cases) if way == "examples" else sorted(cases)[given.start :: given.every]
            of_library: list[Result] = []
            documents = 0
            for document, module in prepared(house, loader, names, given.examined):
                found = ask(house, document, module, loader, cases[document.name])
                of_library += found
                documents += 1
                if given.keep:
                    keep(given.keep, document.name, found)
                if way == "examples":
                    tell(document.name, found)
            if way != "examples" and of_library:
                tell(f"{documents} {way}", of_library)
            everything += of_library
    figures = tell("all", everything)
    print()
    for name, value in figures:
        print(f"FIGURE {name} {value:.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
