"""Which objective makes the best Knowledge Module: all of them on the same study material, at equal steps.

    python -m bench.objectives [--full] [--examples NAME ...] [--documents N] [--objectives NAME ...] [--steps N]
                               [--batch N] [--generations N] [--chunk-tokens N] [--seeds N]

Documents: those of examples/ that are named (default: none; with --full: harbour), and documents of the template world with
names that the base's training never drew, each with its questions. The embedded base writes study material about each
once, as many summaries as question-answer generations, and every objective trains on what it needs of it, for each seed.
Nothing is held out and nothing stops early. Equal steps are not equal work: the table has both. Questions are asked closed
book; a question's score is its mean over the seeds.

Prints a Markdown table with 95% bootstrap intervals over questions, the p-value of a paired randomisation test of F1 against
`dcd`, the loss of the last tenth of the steps (in the objective's own unit), scored tokens and seconds a step; then lines
`FIGURE name value`. --full: 20 generated documents and at least 500 questions, 300 steps: hours on a processor.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

import torch
from basemodel.material import from_world

from kmcli import bases
from kmcli.adapters import lora
from kmcli.bases import Loaded
from kmcli.chunking import chunk, join_pages
from kmcli.engines.hf import HfEngine
from kmcli.evaluation.methods import answer_all, gold_chunk
from kmcli.evaluation.metrics import bootstrap, exact_match, paired_p, token_f1
from kmcli.evaluation.questions import read_questions
from kmcli.synthesis.write import write
from kmcli.training import mixture, train
from kmcli.training.recipes import resolve
from kmcli.types import Passage, Question, Recipe, Sample, silent

EXAMPLES = Path(__file__).parent.parent / "examples"
OBJECTIVES = ("dcd", "sdcd", "ddcd", "lm", "pit", "skd", "dcd,lm:0.1")
AGAINST = "dcd"


@dataclass(frozen=True)
class Studied:
    """A document with its questions and what the base wrote about it. chunks: texts by hash."""

    name: str
    text: str
    questions: list[Question]
    chunks: dict[str, str]
    samples: list[Sample]


@dataclass
class Results:
    """f1, exact: per question, a value a seed."""

    f1: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    exact: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, studied: Studied, said: Sequence[str]) -> None:
        for place, (question, one) in enumerate(zip(studied.questions, said, strict=True)):
            self.f1.setdefault((studied.name, place), []).append(token_f1(one, question.answers))
            self.exact.setdefault((studied.name, place), []).append(exact_match(one, question.answers))


def generated(count: int) -> list[tuple[str, str, list[Question]]]:
    """Name, text and questions of documents of the template world: ten things each, about thirty questions."""
    found = []
    for number in range(count):
        made = from_world(random.Random(f"objectives {number}"), 10, 3, evaluation=True)
        asked = [Question(q, (a, *made.accepted.get(q, ())), "", a) for q, a in made.questions]
        found.append((f"generated-{number}", made.text, asked))
    return found


def study(loaded: Loaded, name: str, text: str, questions: list[Question], recipe: Recipe) -> Studied:
    count = lambda words: len(loaded.tokenizer(words, add_special_tokens=False)["input_ids"])  # noqa: E731
    chunks = chunk(text, recipe.chunk_tokens, recipe.chunk_overlap, count)
    samples: dict[str, Sample] = {}

    def keep(new: list[Sample], *rest: object) -> None:
        samples.update({one.id: one for one in new})

    write(HfEngine(loaded), chunks, recipe, loaded.base.prompts, set(), {}, keep, silent, force=True)
    return Studied(name, join_pages(text), questions, {one.sha256: one.text for one in chunks}, list(samples.values()))


def references(loaded: Loaded, documents: Sequence[Studied]) -> dict[str, Results]:
    """The base closed book, and with the right chunk in front of it."""
    bare, gold = Results(), Results()
    engine, prompts = HfEngine(loaded), loaded.base.prompts
    count = lambda words: len(loaded.tokenizer(words, add_special_tokens=False)["input_ids"])  # noqa: E731
    for one in documents:
        bare.add(one, [a.text for a in answer_all("bare", engine, one.questions, prompts) or ()])
        chunks = chunk(one.text, loaded.base.chunk_tokens, 0.0, count)
        found = [gold_chunk(question, chunks) for question in one.questions]
        passages = [[Passage(one.name, best.text, 1.0)] if best else [] for best in found]
        gold.add(one, [a.text for a in answer_all("gold", engine, one.questions, prompts, passages=passages) or ()])
    return {"(bare base)": bare, "(gold chunk)": gold}


def learn(loaded: Loaded, studied: Studied, recipe: Recipe, results: Results) -> float:
    """Train one module and ask it everything. Returns its F1."""
    with tempfile.TemporaryDirectory() as folder:
        workspace, out = Path(folder) / "workspace", Path(folder) / "out"
        workspace.mkdir()
        out.mkdir()
        began = time.process_time()
        metrics = train(loaded, studied.samples, studied.chunks, recipe, workspace, out, silent, studied.text)
        results.seconds.append((time.process_time() - began) / metrics["steps"])
        curve = [point["loss"] for point in metrics["curve"]]
        results.losses.append(fmean(curve[-max(1, len(curve) // 10) :]))
        model = lora.load(loaded, out)
        try:
            answers = answer_all("km", HfEngine(loaded, model), studied.questions, loaded.base.prompts)
        finally:
            model.unload().eval()
    said = [answer.text for answer in answers or ()]
    results.add(studied, said)
    views = mixture.mix(loaded, studied.samples, studied.chunks, studied.text, recipe, silent)
    share = sum(sum(view.student_mask) for view in views.views) / len(views.views)
    results.tokens.append(round(share * recipe.batch * len(views.parts)))
    return fmean(token_f1(one, question.answers) for one, question in zip(said, studied.questions, strict=True))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--examples", nargs="*")
    parser.add_argument("--documents", type=int)
    parser.add_argument("--objectives", nargs="*", default=list(OBJECTIVES))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--generations", type=int)
    parser.add_argument("--chunk-tokens", type=int)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args(arguments)
    small = {"examples": [], "documents": 1, "steps": 80, "batch": 8, "generations": 8, "chunk_tokens": 64}
    large = {
        "examples": ["harbour"],
        "documents": 20,
        "steps": 300,
        "batch": 16,
        "generations": 16,
        "chunk_tokens": 128,
    }
    size = {key: value if (given := getattr(asked, key)) is None else given
            for key, value in (large if asked.full else small).items()}  # fmt: skip
    torch.set_num_threads(1)
    loaded = bases.load(bases.find(bases.EMBEDDED, silent), "cpu")
    recipe = replace(
        resolve(loaded.base, "standard"),
        steps=size["steps"], batch=size["batch"], generations=size["generations"], chunk_tokens=size["chunk_tokens"],
        summary_share=1.0, early_stopping=False, held_out=0.0,
    )  # fmt: skip
    material = [
        (name, (EXAMPLES / f"{name}.md").read_text("utf-8"), read_questions(EXAMPLES / f"{name}.questions.jsonl"))
        for name in size["examples"]
    ]
    documents = []
    for name, text, questions in [*material, *generated(size["documents"])]:
        documents.append(study(loaded, name, text, questions, recipe))
        said = f"{len(questions)} questions, {len(documents[-1].chunks)} chunks, {len(documents[-1].samples)} samples"
        print(f"{name}: {len(text.split())} words, {said}", file=sys.stderr, flush=True)
    results = references(loaded, documents)
    objectives = [mixture.canonical(name) for name in asked.objectives]
    results |= {objective: Results() for objective in objectives}
    for seed in range(asked.seeds):
        for objective in objectives:
            for one in documents:
                f1 = learn(loaded, one, replace(recipe, objective=objective, seed=seed), results[objective])
                print(f"seed {seed}: {objective} on {one.name}: F1 {f1:.3f}", file=sys.stderr, flush=True)
    show(results, documents, recipe, asked.seeds)
    return 0


def show(results: dict[str, Results], documents: Sequence[Studied], recipe: Recipe, seeds: int) -> None:
    asked = sum(len(one.questions) for one in documents)
    words = sum(len(one.text.split()) for one in documents)
    samples = sum(len(one.samples) for one in documents)
    print(f"{len(documents)} documents, {words:,} words, {asked} questions, {samples:,} samples; ", end="")
    print(f"chunks of {recipe.chunk_tokens} tokens, {recipe.steps} steps, batch {recipe.batch}, {seeds} seeds\n")
    print("| objective | exact match | F1 | p against dcd | last loss | scored tokens a step | CPU s a step |")
    print("|---|---|---|---|---|---|---|")
    figures = []
    per_question = {name: [fmean(values) for values in one.f1.values()] for name, one in results.items()}
    for name, one in results.items():
        f1 = bootstrap(per_question[name])
        exact = bootstrap([fmean(values) for values in one.exact.values()])
        scores = " | ".join(f"{score.mean:.3f} ({score.low:.3f}-{score.high:.3f})" for score in (exact, f1))
        p = "-"
        if AGAINST in results and name != AGAINST:
            p = f"{paired_p(per_question[name], per_question[AGAINST]):.3f}"
        cost = "- | - | -"
        if one.losses:
            cost = f"{fmean(one.losses):.3f} | {fmean(one.tokens):,.0f} | {fmean(one.seconds):.2f}"
        print(f"| {name} | {scores} | {p} | {cost} |")
        key = name.strip("()").replace(" ", "_").replace(",", "+").replace(":", "")
        figures += [f"FIGURE objective_{key}_f1 {f1.mean:.3f}", f"FIGURE objective_{key}_em {exact.mean:.3f}"]
    print("\n" + "\n".join(figures), flush=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
