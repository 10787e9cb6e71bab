"""Which objective makes the best Knowledge Module: all of them on the same study material, at equal steps.

    python -m bench.objectives [--full] [--examples NAME ...] [--documents N] [--objectives NAME ...] [--steps N] [--batch N]
                               [--generations N] [--chunk-tokens N] [--seeds N] [--work FOLDER] [--minutes N]

Documents: those of examples/ that are named (default: none; with --full: harbour), and documents of the template world with
names that the base's training never drew, each with its questions. The embedded base writes study material about each
once, as many summaries as question-answer generations, and every objective trains on what it needs of it, for each seed.
Nothing is held out and nothing stops early. Equal steps are not equal work: the table has both. Up to eight documents train
side by side. Questions are asked closed book; a question's score is its mean over the seeds.

Prints a Markdown table with 95% bootstrap intervals over questions, the p-value of a paired randomisation test of F1 against
`dcd`, the loss of the first and of the last tenth of the steps (in the objective's own unit), scored tokens and seconds a
step; then lines `FIGURE name value`. --full: 20 generated documents and at least 500 questions. --work: a folder in which
everything that is finished is kept, and from which the same command goes on. --minutes: after so many of the processor's,
print the table of those seeds and groups of documents that all objectives have learnt.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

import torch
from bench.objectives_work import Lesson, Studied, Work, documents

from kmcli import bases
from kmcli.evaluation.metrics import bootstrap, exact_match, paired_p, token_f1
from kmcli.training import mixture
from kmcli.training.recipes import resolve
from kmcli.types import silent
from kmcli.workflows.group import TOGETHER

OBJECTIVES = ("dcd", "sdcd", "lm", "ddcd", "sft", "pit", "dcd,lm:0.1", "skd")
AGAINST = "dcd"
SMALL = {"examples": [], "documents": 1, "steps": 80, "batch": 8, "generations": 8, "chunk_tokens": 64}
FULL = {"examples": [], "documents": 20, "steps": 80, "batch": 4, "generations": 8, "chunk_tokens": 64}


@dataclass
class Results:
    """f1, exact: per question, a value a seed."""

    f1: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    exact: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    lessons: list[Lesson] = field(default_factory=list)

    def add(self, studied: Studied, said: Sequence[str]) -> None:
        for place, (question, one) in enumerate(zip(studied.questions, said, strict=True)):
            self.f1.setdefault((studied.name, place), []).append(token_f1(one, question.answers))
            self.exact.setdefault((studied.name, place), []).append(exact_match(one, question.answers))


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
    parser.add_argument("--work", type=Path)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    asked = parser.parse_args(arguments)
    size = {key: value if (given := getattr(asked, key)) is None else given
            for key, value in (FULL if asked.full else SMALL).items()}  # fmt: skip
    torch.set_num_threads(1)
    loaded = bases.load(bases.find(bases.EMBEDDED, silent), "cpu")
    recipe = replace(
        resolve(loaded.base, "standard"),
        steps=size["steps"], batch=size["batch"], generations=size["generations"], chunk_tokens=size["chunk_tokens"],
        summary_share=1.0, early_stopping=False, held_out=0.0,
    )  # fmt: skip
    objectives = [mixture.canonical(name) for name in asked.objectives]
    with ExitStack() as stack:
        folder = asked.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work = Work(folder, loaded, size, recipe)
        studied = []
        for name, text, questions in documents(size["examples"], size["documents"]):
            studied.append(work.study(name, text, questions))
            said = f"{len(questions)} questions, {len(studied[-1].chunks)} chunks, {len(studied[-1].samples)} samples"
            print(f"{name}: {len(text.split())} words, {said}", file=sys.stderr, flush=True)
        groups = [studied[start : start + TOGETHER] for start in range(0, len(studied), TOGETHER)]
        for seed in range(asked.seeds):
            for objective in objectives:
                for number, group in enumerate(groups):
                    if work.known(objective, seed, number) is None and time.process_time() < 60 * asked.minutes:
                        work.learn(group, objective, seed, number)
                        spent = f"{time.process_time():.0f} s of processor"
                        print(f"seed {seed}, group {number}: {objective}, {spent}", file=sys.stderr, flush=True)
        show(work, groups, objectives, asked.seeds)
    return 0


def show(work: Work, groups: Sequence[Sequence[Studied]], objectives: Sequence[str], seeds: int) -> None:
    results = {name: Results() for name in ("(bare base)", "(gold chunk)", *objectives)}
    counted, done = [], 0
    for number, group in enumerate(groups):
        for seed in range(seeds):
            learnt = {name: work.known(name, seed, number) for name in objectives}
            if None in learnt.values():
                continue
            done += 1
            counted += [one for one in group if one not in counted]
            for name, lessons in learnt.items():
                for one, lesson in zip(group, lessons or (), strict=True):
                    results[name].add(one, lesson.answers)
                    results[name].lessons.append(lesson)
    for one in counted:
        said = work.references(one)
        results["(bare base)"].add(one, said["bare"])
        results["(gold chunk)"].add(one, said["gold"])
    if not counted:
        print("No group of documents has been learnt by all objectives yet.")
        return
    recipe = work.recipe
    print(
        f"{len(counted)} documents, {sum(len(one.text.split()) for one in counted):,} words, "
        f"{sum(len(one.questions) for one in counted)} questions, {sum(len(one.samples) for one in counted):,} samples; "
        f"chunks of {recipe.chunk_tokens} tokens, {recipe.steps} steps, batch {recipe.batch}, {seeds} seeds "
        f"({done} of {seeds * len(groups)} groups and seeds)\n"
    )
    print(
        "| objective | exact match | F1 | p against dcd | loss, first and last | scored tokens a step | CPU s a step |"
    )
    print("|---|---|---|---|---|---|---|")
    figures = []
    per_question = {name: [fmean(values) for values in one.f1.values()] for name, one in results.items()}
    for name, one in results.items():
        f1 = bootstrap(per_question[name])
        exact = bootstrap([fmean(values) for values in one.exact.values()])
        scores = " | ".join(f"{score.mean:.3f} ({score.low:.3f}-{score.high:.3f})" for score in (exact, f1))
        p = "-"
        if AGAINST in results and name != AGAINST:
            p = f"{paired_p(per_question[name], per_question[AGAINST]):.4f}"
        cost = "- | - | -"
        if one.lessons:
            first, last, tokens, seconds = (
                fmean(getattr(lesson, key) for lesson in one.lessons) for key in ("first", "loss", "tokens", "seconds")
            )
            cost = f"{first:.3f}, {last:.3f} | {tokens:,.0f} | {seconds:.2f}"
        print(f"| {name} | {scores} | {p} | {cost} |")
        key = name.strip("()").replace(" ", "_").replace(",", "+").replace(":", "")
        figures += [f"FIGURE objective_{key}_f1 {f1.mean:.3f}", f"FIGURE objective_{key}_em {exact.mean:.3f}"]
    print("\n" + "\n".join(figures), flush=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
