"""What a Knowledge Extractor adds: km against km+ke on documents that the extractor has never seen.

    python -m bench.extractor [--library FOLDER] [--documents N ...] [--set KEY=VALUE ...] [--passages K]

--library: documents of bench/each_library.py with their Knowledge Modules; it is copied (left out: 12 are trained here, some
minutes). Of these the first N (default: half, 24 at least where there are as many) train the extractor, and the others are
asked. Questions are about "the animal", words that the modules were not trained on; some have the words of the extractor's
training, others not ("other words"). Several N: an extractor for each, and the same documents are asked.

With --passages the extractor reads K of them beside the module; the rivals are retrieval with and without the module, and an
extractor that was trained, and is used, with the same passages and no module.
Prints a table with exact match and 95% bootstrap intervals over questions, the p-value of a paired randomisation test
against the row above it, and lines `FIGURE name value`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from basemodel import world
from bench.each_library import FACTS, KIND, made, make_library

from kmcli.adapters import lora, together
from kmcli.bases import Loaded
from kmcli.engines.hf import HfEngine
from kmcli.errors import KmError
from kmcli.evaluation.methods import GREEDY, build_chat, fit
from kmcli.evaluation.metrics import bootstrap, exact_match, paired_p
from kmcli.library.extractors import Extractor
from kmcli.retrieval import Index
from kmcli.types import Document, Event, KnowledgeModule
from kmcli.workflows import extracting, extractor
from kmcli.workflows.house import House, counter, open_house


@dataclass(frozen=True)
class Asked:
    """A question about a document, and whether the extractor was trained on its words."""

    document: Document
    question: str
    answer: str
    known_words: bool


def questions(house: House) -> list[Asked]:
    facts = {f"animal-{number:03}": one.facts for number, one in enumerate(made(200), 1)}
    found = []
    for document in house.library.documents():
        if house.library.module(document) is None:
            continue
        for fact in facts[document.name]:
            if fact.key in FACTS:
                asks = world.kinds()[KIND]["facts"][fact.key]["ask"]
                found += [
                    Asked(document, ask.format(S="the animal"), fact.value, place == 0)
                    for place, ask in enumerate(asks)
                ]
    return found


def answers(house: House, loaded: Loaded, asked: Sequence[Asked], extra: Extractor | None, way: str) -> list[str]:
    """What each question is answered by a method, with its document's adapter on the base."""
    said: dict[int, str] = {}
    if way in ("km", "km+ke"):  # the same question to many documents, side by side
        for text in dict.fromkeys(one.question for one in asked):
            places = [place for place, one in enumerate(asked) if one.question == text]
            folders = [folder for place in places if (folder := adapter(house, asked[place].document, extra, way))]
            prompt = loaded.chat_ids(list(build_chat("km", text, loaded.base.prompts)))
            for which, made in together.answers(loaded, folders, prompt, GREEDY):
                assert not isinstance(made, KmError)
                said[places[which]] = made.text
        return [said[place] for place in range(len(asked))]
    by_document: dict[str, list[int]] = {}
    for place, one in enumerate(asked):
        by_document.setdefault(one.document.id, []).append(place)
    for places in by_document.values():
        document = asked[places[0]].document
        folder = adapter(house, document, extra, way)
        model = lora.load(loaded, folder) if folder else None
        engine, prompts = HfEngine(loaded, model), loaded.base.prompts
        chats = []
        with Index(document.name, house.passages(document, loaded.base, counter(loaded))) as index:
            for place in places:
                method = "rag" if way.startswith("rag") else "km"
                passages = index.search(asked[place].question, loaded.base.passages) if method == "rag" else ()
                fitted = fit(method, engine, asked[place].question, prompts, GREEDY, passages=passages)
                assert fitted is not None
                chats.append(fitted[0])
        made = engine.generate(chats, GREEDY)
        said |= dict(zip(places, (one.text for one in made), strict=True))
        if model is not None:
            model.unload().eval()
    return [said[place] for place in range(len(asked))]


def adapter(house: House, document: Document, extra: Extractor | None, way: str) -> Path | None:
    module: KnowledgeModule | None = house.library.module(document) if "km" in way else None
    if extra and "ke" in way:
        return (extracting.baked(house, document, module, extra) if module else extracting.alone(house, extra)).path
    return module.path if module else None


def show(rows: dict[str, list[str]], asked: Sequence[Asked]) -> None:
    print("\n| method | all | same words | other words | p against the row above |\n|---|---|---|---|---|")
    above: list[float] | None = None
    for name, said in rows.items():
        right = [exact_match(one, (question.answer,)) for one, question in zip(said, asked, strict=True)]
        parts = [right] + [
            [value for value, one in zip(right, asked, strict=True) if one.known_words == known]
            for known in (True, False)
        ]
        cells = [f"{score.mean:.3f} ({score.low:.3f}-{score.high:.3f}), n={score.n}" for score in map(bootstrap, parts)]
        p = "-" if above is None else f"{paired_p(right, above):.4f}"
        print(f"| {name} | {' | '.join(cells)} | {p} |")
        print(f"FIGURE extractor_{name.replace('+', '_').replace(' ', '_')} {bootstrap(right).mean:.3f}", flush=True)
        above = right


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path)
    parser.add_argument("--documents", type=int, nargs="*")
    parser.add_argument("--set", dest="settings", nargs="*", default=[])
    parser.add_argument("--passages", type=int, default=0)
    parser.add_argument("--limit", type=int, help="documents to ask at most")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "library"
        if given.library:
            shutil.copytree(given.library, home)
        else:
            make_library(home, 12)
        os.environ["KM_HOME"] = str(home)
        with open_house({"device": "cpu", "engine": "hf"}, tell) as house:
            everything = questions(house)
            names = list(dict.fromkeys(one.document.name for one in everything))
            counts = given.documents or [max(len(names) // 2, min(24, len(names) - 1))]
            tested = names[max(counts) :][: given.limit]
            asked = [one for one in everything if one.document.name in tested]
            loaded = house.load(house.base())
            print(f"{len(tested)} documents, {len(asked)} questions", flush=True)
            plain = ("rag", "rag+km") if given.passages else ("bare", "km")
            extracted = ("rag+ke", "rag+km+ke") if given.passages else ("km+ke",)
            rows = {way: answers(house, loaded, asked, None, way) for way in plain}
            for count in counts:
                file = Path(scratch) / "questions.jsonl"
                taught = [one for one in everything if one.document.name in names[:count] and one.known_words]
                lines = [
                    {"document": one.document.name, "question": one.question, "answers": [one.answer]} for one in taught
                ]
                file.write_text("\n".join(map(json.dumps, lines)), "utf-8")
                for way in extracted:
                    label = f"{way} {count}" if len(counts) > 1 else way
                    began = time.process_time()
                    options = extractor.ExtractorOptions("km" in way, given.passages, given.settings)
                    done = extractor.train(house, way.replace("+", "-"), names[:count], file, options).extractor
                    metrics = {key: value for key, value in done.metrics.items() if key != "curve"}
                    print(f"{label}: {time.process_time() - began:.0f} s of processor time: {metrics}", flush=True)
                    rows[label] = answers(house, loaded, asked, done, way)
            show(rows, asked)
    return 0


def tell(event: Event) -> None:
    if event.message:
        print(event.message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
