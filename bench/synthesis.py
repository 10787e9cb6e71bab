"""How fast study material is written: the engine `hf` against plain loops over transformers' generate.

    python bench/synthesis.py [ROUNDS] [card|large]       default: 5 rounds, both sizes

The embedded base writes about examples/handbook.md in the chunks of its card, and about the same text in chunks of about
512 tokens: question-answer pairs, sampled, and then its questions again, greedy, as a training would ask for them. The
sides do the same work in turn:

    one by one      model.generate, a prompt at a time
    batched         model.generate on batches of like lengths, padded on the left
    hf              the engine
    vllm            the engine in its own process, where KM_VLLM_PYTHON names an interpreter with vLLM; start-up excluded

The loops over generate take the batch size and the kind of cache that are fastest in a trial.

Time is the processes' own on one thread, so that other programs disturb it little; the wall clock is shown too. Sampled
answers differ in length from side to side, so sides are compared by seconds per written token; prompt and written tokens
are printed. Prints a Markdown table, and lines `FIGURE name value`, medians over the rounds: the ratio on the handbook in
chunks of 512 tokens for synth_vs_batched, the smaller of the two sizes' ratios for synth_vs_one_by_one and
synth_vllm_vs_hf (above 1: vLLM is the faster).
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kmcli import bases
from kmcli.bases import Loaded
from kmcli.chunking import chunk
from kmcli.engines import Chat, Engine, Sampling, vllm
from kmcli.engines.hf import PLAIN, HfEngine
from kmcli.types import silent

HANDBOOK = Path(__file__).parent.parent / "examples" / "handbook.md"
CHUNKS = {"card": 128, "large": 512}
GENERATIONS = 16
QUESTIONS = 12
"""A chunk: how many the base is asked again."""
WRITTEN = {"card": 192, "large": 120}
"""Most tokens of one generation: 1.5 chunks, or what the base's context leaves."""
BATCHES = (8, 16, 32)
CACHES: dict[str, dict[str, Any]] = {"growing": {}, "static": {"cache_implementation": "static"}}
"""What the loops over generate try first, keeping what is fastest."""

Side = Callable[[list[Chat], Sampling], list[tuple[int, int]]]
Work = list[tuple[list[Chat], Sampling]]


@dataclass(frozen=True)
class Turn:
    """What one side did in one round. cpu, wall: seconds."""

    prompt: int
    written: int
    cpu: float
    wall: float

    @property
    def pace(self) -> float:
        return self.cpu / self.written


def timed(side: Side, work: Work, pid: int = 0) -> Turn:
    """pid: of another process whose time counts too."""
    wall, cpu = time.monotonic(), time.process_time() + seconds_of(pid)
    counts = [count for chats, sampling in work for count in side(chats, sampling)]
    cpu, wall = time.process_time() + seconds_of(pid) - cpu, time.monotonic() - wall
    return Turn(sum(prompt for prompt, _ in counts), sum(written for _, written in counts), cpu, wall)


def seconds_of(pid: int) -> float:
    """CPU seconds of another process and its threads so far; 0 for none."""
    if not pid:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def engine_side(engine: Engine) -> Side:
    def side(chats: list[Chat], sampling: Sampling) -> list[tuple[int, int]]:
        return [(one.prompt_tokens, one.tokens + one.finished) for one in engine.generate(chats, sampling)]

    return side


def generate_side(loaded: Loaded, size: int, cache: str) -> Side:
    """transformers' generate on batches of `size` prompts, sorted by length."""

    def side(chats: list[Chat], sampling: Sampling) -> list[tuple[int, int]]:
        torch.manual_seed(sampling.seed)
        prompts = sorted((loaded.chat_ids(list(chat)) for chat in chats), key=len)
        counts: list[tuple[int, int]] = []
        for start in range(0, len(prompts), size):
            counts += batch(prompts[start : start + size], sampling)
        return counts

    def batch(prompts: list[list[int]], sampling: Sampling) -> list[tuple[int, int]]:
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), loaded.end_ids[0])
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        choice: dict[str, Any] = PLAIN | CACHES[cache] | {"do_sample": False}
        if sampling.temperature:
            choice |= {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
        with torch.inference_mode():
            output = loaded.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=sampling.max_tokens,
                eos_token_id=loaded.end_ids,
                pad_token_id=loaded.end_ids[0],
                use_cache=True,
                **choice,
            )
        return [(len(prompt), length(row)) for prompt, row in zip(prompts, output[:, width:].tolist(), strict=True)]

    def length(written: list[int]) -> int:
        """Up to the end token, and with it."""
        ends = (place + 1 for place, token in enumerate(written) if token in loaded.end_ids)
        text = loaded.tokenizer.decode(written[: (stop := next(ends, len(written)))], skip_special_tokens=True)
        assert isinstance(text, str)  # reading what was written is part of the work
        return stop

    return side


def work_on(loaded: Loaded, size: str) -> Work:
    """The calls that writing study material makes: pairs about each chunk, and its questions again."""
    prompts = loaded.base.prompts
    count = lambda text: len(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])  # noqa: E731
    chunks = chunk(HANDBOOK.read_text("utf-8"), CHUNKS[size], 0.0, count)
    drawn = Sampling(max_tokens=WRITTEN[size], temperature=1.0, top_p=0.95, seed=1)
    asked = Sampling(max_tokens=64)
    work: Work = []
    for start in range(0, len(chunks), 64 // GENERATIONS):  # synthesis hands over 64 chats at a time
        texts = [each.text for each in chunks[start : start + 64 // GENERATIONS]]
        write = [about(prompts.under_text, text, prompts.write_qa) for text in texts]
        work.append(([chat for chat in write for _ in range(GENERATIONS)], drawn))
        questions = [
            about(prompts.under_text, text, f"What does the text say about {word}?")
            for text in texts
            for word in sorted({word for word in text.split() if word.isalpha() and len(word) > 5})[:QUESTIONS]
        ]
        work.append((questions, asked))
    return work


def about(template: str, text: str, question: str) -> Chat:
    return [("user", template.format(text=text, question=question))]


def fastest(loaded: Loaded, sizes: Sequence[int], trial: Work) -> tuple[int, str]:
    """The batch size and the kind of cache to use generate with."""
    choices = [(size, cache) for size in sizes for cache in CACHES]
    return min(choices, key=lambda choice: timed(generate_side(loaded, *choice), trial).pace)


def main(arguments: list[str]) -> int:
    rounds = int(arguments[0]) if arguments else 5
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # vLLM's
    loaded = bases.load(bases.find(bases.EMBEDDED, silent), "cpu")
    python = os.environ.get("KM_VLLM_PYTHON")
    other = vllm.open_engine(bases.EMBEDDED, python=python) if python else None
    pid = other._worker.process.pid if other else 0
    ratios: dict[str, dict[str, float]] = {}
    print("| chunks of | side | prompt tokens | written tokens | CPU s | wall s | written/CPU s |")
    print("|---|---|---|---|---|---|---|")
    for size in arguments[1:] or list(CHUNKS):
        work = work_on(loaded, size)
        trial = [(chats[:: len(chats) // 24], sampling) for chats, sampling in work[:2]]
        few = [(chats[::6], sampling) for chats, sampling in trial]
        mine = engine_side(HfEngine(loaded))
        timed(mine, trial)  # warms up
        cache = fastest(loaded, [1], few)[1]
        best, batched_cache = fastest(loaded, BATCHES, trial)
        sides: dict[str, tuple[str, Side, int]] = {
            "one": (f"one by one, {cache} cache", generate_side(loaded, 1, cache), 0),
            "batched": (f"batched by {best}, {batched_cache} cache", generate_side(loaded, best, batched_cache), 0),
            "hf": ("hf", mine, 0),
        }
        if other:
            timed(engine_side(other), trial)
            sides["vllm"] = (f"vllm {other.version}", engine_side(other), pid)
        turns: dict[str, list[Turn]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, (_, side, process) in sides.items():
                turns[name].append(timed(side, work, process))
                print(f"{size}: {name}: {turns[name][-1]}", file=sys.stderr, flush=True)
        ratios[size] = {}
        for name, done in turns.items():
            middle = [statistics.median(column) for column in zip(*((t.cpu, t.wall) for t in done), strict=True)]
            pace = statistics.median(turn.pace for turn in done)
            print(
                f"| {CHUNKS[size]} | {sides[name][0]} | {done[0].prompt:,} | {done[0].written:,} | {middle[0]:.1f} "
                f"| {middle[1]:.1f} | {1 / pace:,.0f} |",
                flush=True,
            )
            pairs = zip(done, turns["hf"], strict=True)
            ratios[size][name] = statistics.median(theirs.pace / ours.pace for theirs, ours in pairs)
    print(f"FIGURE synth_vs_one_by_one {min(by['one'] for by in ratios.values()):.2f}")
    if "large" in ratios:
        print(f"FIGURE synth_vs_batched {ratios['large']['batched']:.2f}")
    if other:
        print(f"FIGURE synth_vllm_vs_hf {min(1 / by['vllm'] for by in ratios.values()):.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
