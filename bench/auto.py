"""`--method auto` beside the Knowledge Module alone and retrieval of one passage, and how far its confidence can be trusted.

    python -m bench.auto EXAMPLES [--animals LIBRARY] [--every N] [--start N] [--examined]

EXAMPLES is a library with documents of examples/ (by their names there) that were trained with an exam; LIBRARY is one that
bench.each_library has made, of which every N-th document is taken. Modules without an exam are examined first, which is
kept (--examined: they are left out). Both libraries are written to: give copies.

Questions with an answer: those of examples/, and each animal's about what its document says. Without: of the animals what
their documents leave open of the animal itself, and a question about another animal; of harbour the list below, and a third
as many as it has questions, of the almanac, and the other way round.

Prints a table by library with Wilson's 95% intervals, and lines `FIGURE name value`: accuracy and tokens on the questions
with an answer, calibration error on all. A refusal counts where auto says that the document does not say.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from bench import each_library
from bench.routing import share

from kmcli.adapters import lora
from kmcli.engines.hf import HfEngine
from kmcli.evaluation.methods import build_chat
from kmcli.evaluation.metrics import exact_match
from kmcli.routing.confidence import calibration_error
from kmcli.types import Document, KnowledgeModule, silent
from kmcli.workflows import calibrating
from kmcli.workflows.auto import NOT_SAID, SAMPLING, Auto, Choice, calibration_of, reader_of
from kmcli.workflows.batch import Loader
from kmcli.workflows.house import House, counter, open_house
from kmcli.workflows.pair import Pair

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = ("harbour", "almanac")
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
    """right: exact match, of km and of one passage read by the base. tokens: that each of them read."""

    case: Case
    choice: Choice
    km: bool
    rag: bool
    km_tokens: int
    rag_tokens: int
    best: bool
    """Whether the better answer of the two is right."""

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
        shown = [reader.to_read(plain, one) for one in questions]
        chats = [
            found[0] if found else build_chat("rag", one, base.prompts)
            for one, found in zip(questions, shown, strict=True)
        ]
        read = plain.generate(chats, SAMPLING)
    finally:
        model.unload().eval()
    results = []
    for case, choice, first, second in zip(cases, choices, alone, read, strict=True):
        rights = is_right(first.text, case), is_right(second.text, case)
        results.append(Result(case, choice, *rights, first.prompt_tokens, second.prompt_tokens, any(rights)))
    return results


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
    }
    tokens = fmean(one.choice.prompt_tokens for one in known) / fmean(one.rag_tokens for one in known)
    every = fmean(one.choice.prompt_tokens for one in results) / fmean(one.rag_tokens for one in results)
    error = calibration_error([(one.choice.confidence, one.borne_out) for one in results])
    answered = calibration_error([(one.choice.confidence, one.right) for one in results if one.choice.by])
    flagged = sum(one.choice.doubtful for one in wrong)
    precision, recall = quiet / max(1, len(said)), quiet / max(1, len(unknown))
    cells = [
        *(share(right[way], len(known)) for way in ("auto", "km", "rag")),
        f"{tokens:.2f} ({every:.2f})",
        f"{error:.3f} ({answered:.3f})",
        share(quiet, len(said)),
        share(quiet, len(unknown)),
        f"{at_recall(results, 0.7):.2f}",
        share(flagged, len(wrong)),
    ]
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    gain = 100 * (right["auto"] - max(right["km"], right["rag"])) / max(1, len(known))
    return [
        ("auto_vs_best_single_points", gain),
        ("auto_tokens_vs_rag", tokens),
        ("auto_tokens_vs_rag_all", every),
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("examples", type=Path)
    parser.add_argument("--animals", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--examined", action="store_true")
    given = parser.parse_args()
    print(
        "| documents | auto right | km | rag@1 | tokens of rag@1's, with an answer (all) | ECE (of answers) | ", end=""
    )
    print("'does not say': precision | recall | precision at recall 0.7 | of wrong answers doubtful |")
    print("|" + "---|" * 10)
    everything: list[Result] = []
    for folder, animals in ((given.examples, False), (given.animals, True)):
        if folder is None:
            continue
        os.environ["KM_HOME"] = str(folder)
        with open_house({}, silent) as house:
            loader = Loader(house)
            cases = of_animals(house) if animals else {}
            here = {one.name for one in house.library.documents()}
            names = sorted(cases)[given.start :: given.every] if animals else [one for one in NAMES if one in here]
            results: list[Result] = []
            documents = 0
            for document, module in prepared(house, loader, names, given.examined):
                found = ask(house, document, module, loader, cases.get(document.name) or of_examples(document.name))
                results += found
                documents += 1
                if not animals:
                    tell(document.name, found)
            if animals and results:
                tell(f"{documents} animals", results)
            everything += results
    figures = tell("all", everything)
    print()
    for name, value in figures:
        print(f"FIGURE {name} {value:.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
