"""How fast a Knowledge Module is trained: km's training against a plain loop with the reference's costs.

    python bench/training.py [qa] [summary] [many]        default: all
    python bench/training.py --gpu [SHAPE ...]            on an accelerator: see bench/training_gpu.py

The embedded base reads chunks of 512 tokens; short answers (prompt 16, answer 24) and summaries (prompt 16, summary 128),
16 a chunk, 12 epochs, batches of 16. The text is examples/handbook.md, cut without regard to sentences. Both sides take
the same samples in the same order through as many steps, in the same run, each in a process of its own on one thread:

    plain    the loop of the reference, with the positions shifted as they must be: in every step the teacher reads the whole
             chunk again, rows are padded, logits of the whole vocabulary are made of all positions on both sides, the
             hidden states of all layers are kept, PEFT's own layers
    km       `training.many.run`, with the teacher's targets

Where km's kernels prefer oneDNN's products to those that torch takes by itself, the plain side runs with oneDNN too, and is
compared by the faster.

Time is the process's own, so that other programs disturb it little; km's includes its held-out evaluations, the plain
side's does not. Memory is the highest of the process during training, above what it was with the weights loaded. FLOPs are
counted from the shapes: what the side must compute, attention's half that is masked not among it. Peak is this machine's
fastest matrix product of 2048 x 2048 in fp32. The held-out loss is computed for both by the plain side's code. Prints a
Markdown table, and lines `FIGURE name value`: train_one_NAME is the plain side's time over km's, train_memory the plain
side's memory over km's, the smallest of all.

`many` is eight documents with short answers, other ones in each: the plain side a process for every document, as its
reference has it, km all of them in one. There the whole process counts, with its start and the loading of the base, on both
sides: train_many is the plain side's mean over its processes, over km's time by eight. The plain side is run for as many
documents as MANY_PLAIN says, for its processes do the same work.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from training_work import ANSWER, CHUNK, CHUNKS, HELD, PROMPT, RECIPE, SAMPLES, peak, sizes, work

from kmcli import bases
from kmcli.adapters import lora
from kmcli.bases import Loaded
from kmcli.objectives import OBJECTIVES
from kmcli.training import kernels, loop, many, schedule
from kmcli.training.mixture import Mixture, Part
from kmcli.types import Recipe, View, silent

HANDBOOK = Path(__file__).parent.parent / "examples" / "handbook.md"
SIDES = ("plain", "plain, oneDNN", "km")
MANY, MANY_PLAIN = 8, 2
"""Documents of `many`, and how many of them the plain side trains."""


def material(loaded: Loaded, kind: str, document: int = 0) -> tuple[list[View], list[View]]:
    """Views to train on, and held out: prompt and answer are pieces of the chunk that the teacher reads before them.

    document: each of them is another part of the text, so far as that reaches.
    """
    ids = loaded.tokenizer(HANDBOOK.read_text("utf-8"), add_special_tokens=False)["input_ids"]
    draw = random.Random(5 + document)
    training, held = [], []
    first = document * CHUNK % (len(ids) - CHUNKS * CHUNK)
    for start in range(first, first + CHUNKS * CHUNK, CHUNK):
        chunk = list(ids[start : start + CHUNK])
        for number in range(SAMPLES + HELD):
            at, size = draw.randrange(CHUNK - PROMPT), ANSWER[kind]
            prompt = chunk[at : at + PROMPT]
            at = draw.randrange(CHUNK - size)
            answer = chunk[at : at + size]
            mask = [False] * PROMPT + [True] * size
            view = View(chunk + prompt + answer, prompt + answer, [False] * CHUNK + mask, mask)
            (training if number < SAMPLES else held).append(view)
    return training, held


# --- the plain side ---

Rows = Sequence[tuple[list[int], list[bool]]]


def plain(model: Any, training: Sequence[View], recipe: Recipe) -> None:
    parameters = lora.trainable(model)
    optimiser = torch.optim.AdamW(parameters.values(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    steps = steps_of(training, recipe)
    model.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * schedule.learning_rate_factor(step, steps, recipe)
        loss = distillation(model, [training[i] for i in schedule.batch_of(step, training, recipe.batch, recipe.seed)])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), recipe.clip)
        optimiser.step()
        print(f"step {step + 1} of {steps}: {loss.item():.4f}", file=sys.stderr, flush=True)


def distillation(model: Any, views: Sequence[View]) -> torch.Tensor:
    """KL over the vocabulary plus the distance of hidden states, over all scored tokens."""
    with torch.no_grad(), model.disable_adapter():
        teacher_logits, teacher_states = read(model, [(v.teacher_ids or [], v.teacher_mask or []) for v in views])
    student_logits, student_states = read(model, [(v.student_ids, v.student_mask) for v in views])
    teacher, student = teacher_logits.log_softmax(-1), student_logits.log_softmax(-1)
    kl = (teacher.exp() * (teacher - student)).sum(-1).mean()
    distances = [
        (theirs.float() - mine).abs().sum() / theirs.float().abs().sum()
        for theirs, mine in zip(teacher_states, student_states, strict=True)
    ]
    return kl + torch.stack(distances).mean()


def read(model: Any, rows: Rows) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits (N, V), and each layer's hidden states (N, D), at the positions that predict the N scored tokens."""
    width = max(len(ids) for ids, _ in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    attention, scored = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for row, (tokens, mask) in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        attention[row, : len(tokens)] = 1
        scored[row, : len(tokens) - 1] = torch.tensor(mask[1:])
    where = model.device
    output = model(
        input_ids=ids.to(where), attention_mask=attention.to(where), output_hidden_states=True, use_cache=False
    )
    scored = scored.to(where)
    return output.logits[scored].float(), [states[scored] for states in output.hidden_states[1:]]


# --- both ---


def steps_of(training: Sequence[View], recipe: Recipe) -> int:
    return round(recipe.epochs * len(training) / recipe.batch)


def side(name: str, kind: str, first: str = "0", count: str = "1") -> dict[str, Any]:
    """Train `count` documents from the `first` on, in this process.

    Seconds of the training and of the whole process, bytes above the loaded weights, and the held-out loss of each.
    """
    torch.set_num_threads(1)
    loaded = bases.load(bases.find(bases.EMBEDDED, silent), "cpu")
    documents = [material(loaded, kind, int(first) + number) for number in range(int(count))]
    adapters = [f"document{number}" for number in range(len(documents))]
    model: Any = lora.build(loaded, RECIPE, adapters[0])
    for adapter in adapters[1:]:
        lora.add(model, loaded, RECIPE, adapter)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest starts anew
    wall, cpu = time.monotonic(), time.process_time()
    if name != "km":
        if (
            "oneDNN" in name
        ):  # where the processor has no products of bf16 in fp32 clothes they stay exact, and oneDNN's
            torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        plain(model, documents[0][0], RECIPE)
        torch.backends.mkldnn.matmul.fp32_precision = "none"
    else:
        with tempfile.TemporaryDirectory() as folder:
            students = []
            for adapter, (training, held) in zip(adapters, documents, strict=True):
                end = len(training)
                part = Part("dcd", 1.0, OBJECTIVES["dcd"], range(end), range(end, end + len(held)), RECIPE.batch)
                own = Path(folder, adapter)
                own.mkdir()
                mixture = Mixture([*training, *held], (part,))
                students.append(loop.Student(model, loaded, mixture, RECIPE, own, silent, adapter, adapter))
            many.run(model, loaded, students, silent, lambda student, result: None)
    cpu, wall, whole = time.process_time() - cpu, time.monotonic() - wall, time.process_time()
    memory = resident("VmHWM") - before
    model.eval()
    losses = []
    for adapter, (_, held) in zip(adapters, documents, strict=True):
        lora.activate(model, [adapter])
        with torch.no_grad():
            losses.append(distillation(model, held).item())
    return {"cpu": cpu, "wall": wall, "process": whole, "memory": memory, "loss": losses}


def resident(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def main(kinds: list[str]) -> int:
    torch.set_num_threads(1)
    best = peak()
    config = bases.load(bases.find(bases.EMBEDDED, silent), "cpu").model.config
    print(f"The fastest matrix product: {best / 1e9:.0f} GFLOP/s on one thread.\n")
    print(
        "| material | side | tokens | TFLOP | CPU s | wall s | share of peak | MB above the weights | held-out loss |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    figures, shares = [], []
    for kind in (kind for kind in kinds if kind in ANSWER):
        results = {}
        for name in SIDES:
            if "oneDNN" in name and not kernels.onednn_is_faster():
                continue
            results[name] = result = in_process(name, kind)
            tokens, flops = work(name, sizes(kind), config)
            print(
                f"| {kind} | {name} | {tokens:,} | {flops / 1e12:.2f} | {result['cpu']:.1f} | {result['wall']:.1f} "
                f"| {flops / result['cpu'] / best:.0%} | {result['memory'] / 1e6:.0f} | {result['loss'][0]:.4f} |",
                flush=True,
            )
        mine = results.pop("km")
        theirs = min(results.values(), key=lambda result: result["cpu"])
        figures.append(f"FIGURE train_one_{kind} {theirs['cpu'] / mine['cpu']:.2f}")
        shares.append(min(result["memory"] / mine["memory"] for result in results.values()))
        apart = abs(mine["loss"][0] - theirs["loss"][0]) / theirs["loss"][0]
        print(f"- {kind}: the held-out losses are {apart:.2%} apart", file=sys.stderr)
    if shares:
        figures.append(f"FIGURE train_memory {min(shares):.2f}")
    if "many" in kinds:
        figures.append(side_by_side(best, config))
    print("\n".join(figures))
    return 0


def in_process(name: str, kind: str, first: int = 0, count: int = 1) -> Any:
    command = [sys.executable, __file__, "side", name, kind, str(first), str(count)]
    return json.loads(subprocess.check_output(command))


def side_by_side(best: float, config: Any) -> str:
    """Eight documents: a table of what each takes, and its figure."""
    print(
        "\n| eight documents, each | tokens | TFLOP | CPU s training | CPU s process | share of peak "
        "| MB above the weights, in all | held-out losses |"
    )
    print("|---|---|---|---|---|---|---|---|")
    means = {}
    for name in SIDES:
        if "oneDNN" in name and not kernels.onednn_is_faster():
            continue
        if name == "km":
            runs = [in_process(name, "qa", 0, MANY)]
        else:
            runs = [in_process(name, "qa", document) for document in range(MANY_PLAIN)]
        count = sum(len(run["loss"]) for run in runs)
        training, means[name] = (sum(run[key] for run in runs) / count for key in ("cpu", "process"))
        tokens, flops = work(name, sizes("qa"), config)
        losses = [loss for run in runs for loss in run["loss"]]
        print(
            f"| {name} | {tokens:,} | {flops / 1e12:.2f} | {training:.2f} | {means[name]:.2f} "
            f"| {flops / training / best:.0%} | {max(run['memory'] for run in runs) / 1e6:.0f} "
            f"| {' '.join(f'{loss:.4f}' for loss in losses)} |",
            flush=True,
        )
    mine = means.pop("km")
    return f"FIGURE train_many {min(means.values()) / mine:.2f}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["side"]:
        print(json.dumps(side(*sys.argv[2:])))
        raise SystemExit(0)
    if sys.argv[1:2] == ["--gpu"]:
        raise SystemExit(
            subprocess.call([sys.executable, str(Path(__file__).with_name("training_gpu.py")), *sys.argv[2:]])
        )
    raise SystemExit(main(sys.argv[1:] or [*ANSWER, "many"]))
