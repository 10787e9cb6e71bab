"""Cartridges: how fast they are trained, and what they should begin as.

    python -m bench.cartridge step [--steps N] [--batch N] [--tokens N]
    python -m bench.cartridge starts [--documents N] [--seeds N] [--steps N] [--rates R ...] [--work FOLDER]

`step`: km's training against PEFT's documented way of self-study, each in a process of its own on one thread, by the
embedded base. The document is the first tokens of examples/handbook.md, as many as the base reads at once, and is the one
chunk that the teacher reads, on both sides; prompts of 16 and answers of 24 tokens; the same samples in the same order, the
same cartridge at the start (the document's first tokens), the same loss (KL over the whole vocabulary), the same optimiser.

    peft     in every step the teacher (`disable_adapter`) reads the whole document again before each sample, rows are
             padded, and each has its copy of the cartridge (`get_prompt`); logits of all positions are made for both
    km       `training.many.run`: the teacher's targets once, packed rows over one cartridge

Time is the process's own from the first step's preparation to the last step; km's includes the teacher's targets, and
neither what is the same on both sides: loading, and the cartridge's first values. Nothing is held out. Where km's kernels
prefer oneDNN's products to those that torch takes by itself, the plain side runs with oneDNN too, and is compared by the
faster. Prints both losses: they must be those of one training. `FIGURE cartridge_step` is PEFT's time over km's.

`starts`: documents of the template world with names that the base's training never drew, study material written once by
the base; a cartridge that begins as the first tokens, as pieces, as random numbers, and a LoRA, at equal steps, by dcd;
questions closed book. Prints F1 with 95% intervals over questions, and the p-value against `first`. --work: as
bench/objectives.py.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from kmcli import bases
from kmcli.adapters import cartridge
from kmcli.bases import Loaded
from kmcli.evaluation.metrics import bootstrap, paired_p, token_f1
from kmcli.objectives import OBJECTIVES
from kmcli.training import kernels, loop, many, schedule
from kmcli.training.mixture import Mixture, Part
from kmcli.training.recipes import resolve
from kmcli.types import Recipe, View, silent

HANDBOOK = Path(__file__).parent.parent / "examples" / "handbook.md"
PROMPT, ANSWER = 16, 24
SAMPLES = 96
SIDES = ("peft", "peft, oneDNN", "km")
STARTS = ("first", "chunks", "random")
RECIPE = Recipe(adapter="cartridge", hidden_weight=0.0, learning_rate=0.005, held_out=0.0, early_stopping=False)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("step", "starts"))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--documents", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rates", nargs="*", type=float, default=[cartridge.DEFAULTS["learning_rate"]])
    parser.add_argument("--work", type=Path)
    parser.add_argument("--side", choices=SIDES)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if asked.what == "starts":
        return starts(asked)
    recipe = replace(RECIPE, steps=asked.steps or 36, batch=asked.batch, cartridge_tokens=asked.tokens)
    if asked.side:
        print(json.dumps(side(asked.side, recipe)))
        return 0
    return step(recipe, list(arguments))


# --- step ---------------------------------------------------------------------------------------------------------


def step(recipe: Recipe, arguments: Sequence[str]) -> int:
    sides = [one for one in SIDES if one != "peft, oneDNN" or kernels.onednn_is_faster()]
    found: dict[str, dict[str, Any]] = {}
    for one in sides:
        command = [sys.executable, "-m", "bench.cartridge", *arguments, "--side", one]
        found[one] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{one}: {found[one]['seconds']:.1f} s", file=sys.stderr, flush=True)
    km = found["km"]
    print(
        f"document {km['document']} tokens, prompts {PROMPT}, answers {ANSWER}, {SAMPLES} samples, {recipe.steps} steps of "
        f"{recipe.batch}, cartridge of {recipe.cartridge_tokens}\n"
    )
    print(
        "| side | CPU s | of these preparing | s a step | loss of the first and the last 4 steps |\n|---|---|---|---|---|"
    )
    for name, one in found.items():
        first, last = fmean(one["losses"][:4]), fmean(one["losses"][-4:])
        print(
            f"| {name} | {one['seconds']:.1f} | {one['preparing']:.1f} | {one['seconds'] / recipe.steps:.3f} | "
            f"{first:.3f}, {last:.3f} |"
        )
    fastest = min(one["seconds"] for name, one in found.items() if name != "km")
    print(f"\nFIGURE cartridge_step {fastest / km['seconds']:.2f}", flush=True)
    return 0


def side(name: str, recipe: Recipe) -> dict[str, Any]:
    if name == "peft, oneDNN":
        _with_onednn()
    loaded = bases.load(bases.find(bases.EMBEDDED, silent), "cpu")
    document, views = material(loaded)
    model, text = cartridge.build(loaded, recipe, text=HANDBOOK.read_text("utf-8")), len(document)
    begin = model.cartridges[model.active].weight.detach().clone()
    run = _km if name == "km" else _peft
    losses, preparing, seconds = run(loaded, model, begin, views, recipe)
    return {"document": text, "losses": losses, "preparing": preparing, "seconds": seconds}


def _with_onednn() -> None:
    """torch's linear layers by oneDNN, as km's kernels take it."""

    def forward(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        return kernels._frozen(layer, x)

    torch.nn.Linear.forward = forward  # type: ignore[method-assign]


def material(loaded: Loaded) -> tuple[list[int], list[View]]:
    """The document's ids, and a view of each sample: its prompt and its answer are pieces of the text."""
    ids = list(loaded.tokenizer(HANDBOOK.read_text("utf-8"), add_special_tokens=False)["input_ids"])
    document = ids[: loaded.base.context - PROMPT - ANSWER]
    draw = random.Random(3)
    views = []
    for _ in range(SAMPLES):
        at = draw.randrange(len(ids) - PROMPT - ANSWER)
        prompt, answer = ids[at : at + PROMPT], ids[at + PROMPT : at + PROMPT + ANSWER]
        scored = [True] * ANSWER
        views.append(
            View(
                document + prompt + answer,
                prompt + answer,
                [False] * (len(document) + PROMPT) + scored,
                [False] * PROMPT + scored,
            )
        )
    return document, views


def _km(
    loaded: Loaded, model: Any, begin: torch.Tensor, views: list[View], recipe: Recipe
) -> tuple[list[float], float, float]:
    part = Part("dcd", 1.0, OBJECTIVES["dcd"], range(len(views)), range(len(views), len(views)), recipe.batch)
    mixture = Mixture(list(views), (part,))
    marks: list[float] = []

    def watch(event: Any) -> None:
        if event.stage == "teacher":
            marks.append(time.process_time())

    results: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        student = loop.Student(model, loaded, mixture, recipe, Path(folder), watch)
        many.run(model, loaded, [student], silent, lambda _, result: results.append(result))
        seconds = time.process_time() - began
        student.teacher.close()
    return [point["loss"] for point in results[0]["curve"]], marks[-1] - began, seconds


def _peft(
    loaded: Loaded, model: Any, begin: torch.Tensor, views: list[View], recipe: Recipe
) -> tuple[list[float], float, float]:
    import peft

    config = peft.CartridgeConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=recipe.cartridge_tokens,
        num_frozen_tokens=recipe.cartridge_frozen,
    )
    other = peft.get_peft_model(loaded.model, config)
    other.prompt_encoder["default"].load_prompt_embeddings(begin)
    parameters = [one for one in other.parameters() if one.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    losses = []
    began = time.process_time()
    for number in range(recipe.steps):
        batch = [views[place] for place in schedule.batch_of(number, views, recipe.batch, recipe.seed)]
        with torch.no_grad(), other.disable_adapter():
            teacher = other(**_padded([view.teacher_ids or [] for view in batch])).logits
        student = other(**_padded([view.student_ids for view in batch])).logits
        theirs = _scored(teacher, [view.teacher_mask or [] for view in batch]).log_softmax(-1)
        mine = _scored(student, [view.student_mask for view in batch]).log_softmax(-1)
        loss = torch.nn.functional.kl_div(mine, theirs, reduction="batchmean", log_target=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * schedule.learning_rate_factor(number, recipe.steps, recipe)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss))
    return losses, 0.0, time.process_time() - began


def _padded(rows: Sequence[list[int]]) -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def _scored(logits: torch.Tensor, masks: Sequence[list[bool]]) -> torch.Tensor:
    """Logits at the positions that predict the scored tokens, one row after the other."""
    parts = [logits[row, [place - 1 for place, on in enumerate(mask) if on]] for row, mask in enumerate(masks)]
    return torch.cat(parts)


# --- starts -------------------------------------------------------------------------------------------------------


def starts(asked: argparse.Namespace) -> int:
    from bench.objectives_work import Work, documents

    loaded = bases.load(bases.find(bases.EMBEDDED, silent), "cpu")
    size = {"generations": 8, "chunk_tokens": 64}
    plain = replace(
        resolve(loaded.base, "standard"), **size, steps=asked.steps or 80, batch=4, summary_share=1.0,
        early_stopping=False, held_out=0.0,
    )  # fmt: skip
    cartridges = {
        f"{start} {rate:g}": replace(
            plain, adapter="cartridge", cartridge_tokens=asked.tokens, cartridge_start=start, learning_rate=rate
        )
        for rate in asked.rates
        for start in STARTS
    }
    scores: dict[str, list[float]] = {}
    curves: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Work(asked.work or Path(folder), loaded, size, plain)
        for name, text, questions in documents([], asked.documents):
            studied = work.study(name, text, questions)
            said = work.references(studied)
            for title in ("bare", "gold"):
                scores.setdefault(title, []).extend(map(_f1, said[title], questions))
            for title, recipe in {**cartridges, "lora": plain}.items():
                key = f"{title.replace(' ', '-')}-{recipe.steps}-{asked.tokens}"
                per_seed = []
                for seed in range(asked.seeds):
                    made = work.kept(f"cartridge-{key}-{seed}-{name}.json", lambda r=recipe, s=seed, one=studied: [
                        asdict(lesson) for lesson in work._learn([one], replace(r, seed=s))
                    ])  # fmt: skip
                    (lesson,) = made
                    per_seed.append(
                        [_f1(answer, question) for answer, question in zip(lesson["answers"], questions, strict=True)]
                    )
                    curves.setdefault(title, []).append((lesson["first"], lesson["loss"]))
                    print(f"{name}: {title}, seed {seed}: F1 {fmean(per_seed[-1]):.3f}", file=sys.stderr, flush=True)
                scores.setdefault(title, []).extend(map(fmean, zip(*per_seed, strict=True)))
    print(
        f"{asked.documents} documents, {len(scores['bare'])} questions, {plain.steps} steps of {plain.batch}, cartridges "
        f"of {asked.tokens} tokens, {asked.seeds} seeds\n"
    )
    print("| begins as, learning rate | F1 | p against first | loss, first and last tenth |\n|---|---|---|---|")
    against = f"first {asked.rates[0]:g}"
    for title, values in scores.items():
        score = bootstrap(values)
        p = f"{paired_p(values, scores[against]):.4f}" if title != against else "-"
        first, last = (fmean(one) for one in zip(*curves[title], strict=True)) if title in curves else (0.0, 0.0)
        loss = f"{first:.3f}, {last:.3f}" if title in curves else "-"
        print(f"| {title} | {score.mean:.3f} ({score.low:.3f}-{score.high:.3f}) | {p} | {loss} |")
    print()
    for title in cartridges:
        print(f"FIGURE cartridge_{title.replace(' ', '_')}_f1 {fmean(scores[title]):.3f}")
    return 0


def _f1(answer: str, question: Any) -> float:
    return token_f1(answer, question.answers)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
