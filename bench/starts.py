"""Faster starts: how many steps are saved where a Knowledge Module begins from others instead of afresh.

    python -m bench.starts [--library FOLDER] [--documents N] [--others N] [--steps N] [--batch N]
                           [--work FOLDER] [--only NAME]

Documents of the template world with names that the base's training never drew, as in bench/objectives.py, and study material
that the embedded base writes about each. Every document is trained by `dcd` at the recipe's own rate, at equal steps and
with the same samples in the same order, side by side, from

    fresh      PEFT's own beginning, which adds nothing
    one        the Knowledge Module of another such document
    mean       the mean of those of --others other such documents
    library    the mean of those of a library that is named, whatever they are about

A fifth of the samples is held out, and their loss is measured every five steps. Steps to equal loss: the first at which a
document's held-out loss is at most the lowest that it reaches from afresh. Prints a table of every document, and lines
`FIGURE start_NAME_saved N`: the share of the steps to the lowest loss from afresh that NAME saves, a mean over documents;
one that never comes there counts as all steps. Because the rate falls to nothing at the end of a training, each is made a
second time with half the steps: the last table has the mean of the lowest losses of both, and F1 of the documents'
questions, asked closed book. --work: a folder in which what is finished is kept, and from which the same command goes
on. --only: one of these, without a table, so that several may run at once.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from bench.objectives_work import Studied, Work, documents

from kmcli import bases
from kmcli.adapters import lora, start
from kmcli.engines.hf import HfEngine
from kmcli.errors import KmError
from kmcli.evaluation.methods import answer_all
from kmcli.evaluation.metrics import bootstrap, paired_p, token_f1
from kmcli.training import Job, schedule, train_together
from kmcli.training.recipes import resolve
from kmcli.types import Recipe, silent
from kmcli.workflows.group import TOGETHER

EVERY = 5
"""Steps between two measurements of the held-out loss."""


def train(work: Work, some: Sequence[Studied], recipe: Recipe, start_: Any, keep: Path) -> dict[str, dict[int, float]]:
    """The held-out loss by step of each document; its adapter is left in `keep`."""
    curves: dict[str, dict[int, float]] = {}

    def done(job: Job, result: dict[str, Any] | KmError) -> None:
        if isinstance(result, KmError):
            raise result
        curves[job.name] = {point["step"]: point["held_out"] for point in result["curve"] if "held_out" in point}

    with tempfile.TemporaryDirectory() as name:
        for first in range(0, len(some), TOGETHER):
            jobs = []
            for one in some[first : first + TOGETHER]:
                workspace, out = Path(name, one.name), keep / one.name
                workspace.mkdir()
                out.mkdir(parents=True, exist_ok=True)
                jobs.append(Job(one.name, one.samples, one.chunks, recipe, workspace, out, one.text, None, start_))
            train_together(work.loaded, jobs, silent, done)
    return curves


def ask(work: Work, some: Sequence[Studied], modules: Path) -> list[float]:
    """F1 of every question, closed book."""
    found = []
    for one in some:
        model = lora.load(work.loaded, modules / one.name)
        try:
            answers = answer_all("km", HfEngine(work.loaded, model), one.questions, work.loaded.base.prompts) or ()
        finally:
            model.unload().eval()
        found += [token_f1(said.text, asked.answers) for said, asked in zip(answers, one.questions, strict=True)]
    return found


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", type=Path)
    parser.add_argument("--documents", type=int, default=8)
    parser.add_argument("--others", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--only", choices=("fresh", "one", "mean", "library"))
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    schedule.EVALUATE_EVERY, schedule.EVALUATIONS = EVERY, asked.steps  # type: ignore[misc]
    loaded = bases.load(bases.find(bases.EMBEDDED, silent), "cpu")
    recipe = replace(
        resolve(loaded.base, "standard"),
        steps=asked.steps, batch=asked.batch, generations=8, chunk_tokens=64, summary_share=1.0, held_out=0.2,
        early_stopping=False, rank=8, alpha=8,
    )  # fmt: skip
    with ExitStack() as stack:
        folder = asked.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work = Work(folder, loaded, {"steps": asked.steps, "batch": asked.batch, "others": asked.others}, recipe)
        studied = [work.study(*one) for one in documents([], asked.documents + asked.others)]
        mine, others = studied[: asked.documents], studied[asked.documents :]
        found: dict[str, dict[str, dict[str, float]]] = {}
        scores: dict[str, list[float]] = {}

        def measure(
            name: str, some: Sequence[Studied], folders: Sequence[Path], shares: Sequence[int] = (1, 2)
        ) -> None:
            begin = start.start(folders, recipe) if folders else None
            for share in shares:
                began, called = time.process_time(), name if share == 1 else f"{name}-half"
                own = replace(recipe, steps=asked.steps // share)
                make = partial(train, work, some, own, begin, folder / called)
                found[called] = work.kept(f"{called}.json", make)
                scores[called] = work.kept(f"f1-{called}.json", partial(ask, work, some, folder / called))
                print(f"{called}: {time.process_time() - began:.0f} s of the processor", file=sys.stderr, flush=True)

        measure("others", others, [], (1,))
        modules = [folder / "others" / one.name for one in others]
        begins = {"fresh": [], "one": modules[:1], "mean": modules}
        if asked.library:
            begins["library"] = sorted(one for one in asked.library.glob("modules/*") if one.is_dir())
        for name, folders in begins.items():
            if asked.only in (None, name):
                measure(name, mine, folders)
        if asked.only:
            return 0
        show(found, scores, asked.steps)
    return 0


def show(found: dict[str, dict[str, dict[str, float]]], scores: dict[str, list[float]], steps: int) -> None:
    names = [name for name in ("one", "mean", "library") if name in found]
    heads = [f"{name}: loss, lowest, steps to fresh's" for name in names]
    print("| document | fresh: loss at step 5, lowest, at step | " + " | ".join(heads) + " |")
    print("|---" * (2 + len(names)) + "|")
    saved: dict[str, list[float]] = {name: [] for name in names}
    for document, fresh in found["fresh"].items():
        best = min(fresh.values())
        at = next(int(step) for step, loss in fresh.items() if loss == best)
        cells = [f"{fresh[str(EVERY)]:.3f}, {best:.3f}, {at}"]
        for name in names:
            curve = found[name][document]
            there = next((int(step) for step, loss in curve.items() if loss <= best), None)
            saved[name].append(1 - (there or steps) / at)
            cells.append(f"{curve[str(EVERY)]:.3f}, {min(curve.values()):.3f}, {there or 'never'}")
        print(f"| {document} | " + " | ".join(cells) + " |")
    print(f"\n| start | lowest loss in {steps} steps, in {steps // 2} | F1 after as many | p against fresh |")
    print("|---|---|---|---|")
    for name in ("fresh", *names):
        both = (name, f"{name}-half")
        losses = ", ".join(f"{fmean(min(curve.values()) for curve in found[one].values()):.3f}" for one in both)
        asked = [bootstrap(scores[one]) for one in both]
        answers = ", ".join(f"{score.mean:.3f} ({score.low:.3f}-{score.high:.3f})" for score in asked)
        p = ", ".join(
            f"{paired_p(scores[one], scores[fresh]):.3f}"
            for one, fresh in zip(both, ("fresh", "fresh-half"), strict=True)
        )
        print(f"| {name} | {losses} | {answers} | {'-' if name == 'fresh' else p} |")
    print()
    for name in names:
        print(f"FIGURE start_{name}_saved {fmean(saved[name]):.2f}")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
