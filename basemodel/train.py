"""Train the base model, from nothing or from where the last call stopped; the same on a processor and on a GPU.

    python -m basemodel.train OUT --tokenizer TOK.json [--size small|full] [--tokens 2e9] [--minutes 9] [--data FOLDER]

A run has three parts: a language-model stage on prose, where there is some; short texts; then texts of all lengths.
Everything is decided by the number of tokens seen, so a run may be cut into pieces of minutes: OUT/checkpoint.safetensors
holds the weights and the optimisers, and the next call goes on from it. Where only OUT/model was carried (weights in bf16,
no optimisers) it goes on with a warm-up. At the end of each call OUT/model is a folder that km can use by `--model`.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import multiprocessing
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from basemodel.chats import Mixture, Scale
from basemodel.material import natural
from basemodel.rows import END, PAD, TEXT_WEIGHT, rows

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 1},
    "small": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8, "num_attention_heads": 4},
    "full": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 8},
}
MUON_RATE, ADAM_RATE = 0.02, 2e-3
WARM_UP, DECAY_FROM = 100, 0.4
SAVE_STEPS = 250
SHORT_SHARE = 0.1
"""Share of the run, after the prose, with short texts only: copying from the context is learnt there."""
LENGTHS: dict[Scale, int] = {"short": 320, "middle": 576}
"""Tokens of a row; a long one has --length. Attention is half of the work in a row of 1,024 tokens on a processor."""
SCALES: dict[Scale, float] = {"short": 0.7, "middle": 0.2, "long": 0.1}
"""Shares of the batches."""
SHARES = {"prose": (0.0, 0.0, 0.0, 1.0), "short": (0.3, 0.4, 0.3, 0.0), "all": (0.5, 0.42, 0.06, 0.02)}
"""Per part of a run: of template world, authored, natural and prose. More natural text taught a model of 9M parameters
nothing that it could use, and cost it what it could."""
TEXT_SCORED = 0.3
"""Share of the places of a text that are scored: the softmax over the vocabulary costs as much as the rest of the model."""
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{m['role']}}\n{{m['content']}}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build(size: str, vocabulary: int) -> LlamaForCausalLM:
    """A model with random weights, residual outputs scaled down by depth."""
    shape = SIZES[size]
    heads = shape["num_attention_heads"]
    config = LlamaConfig(
        **shape,
        num_key_value_heads=heads,
        head_dim=64,
        vocab_size=vocabulary,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=PAD,
        eos_token_id=END,
        pad_token_id=PAD,
        rms_norm_eps=1e-5,
    )
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            torch.nn.init.normal_(parameter, 0, 0.02 / math.sqrt(2 * shape["num_hidden_layers"]))
    return model


def optimisers(model: LlamaForCausalLM) -> list[tuple[Any, float]]:
    """Muon for the matrices inside the blocks, AdamW for the rest, each with its learning rate."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if not (p.ndim == 2 and "embed" not in name)]
    return [
        (
            torch.optim.Muon(matrices, lr=MUON_RATE, momentum=0.95, weight_decay=0.01, adjust_lr_fn="original"),
            MUON_RATE,
        ),
        (torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0), ADAM_RATE),
    ]


def rate(done: float, steps_since_start: int) -> float:
    """The learning rate's factor: a warm-up after every start, then constant, then linear down to a fiftieth."""
    warm = min(1.0, (steps_since_start + 1) / WARM_UP)
    return warm * (1.0 if done < DECAY_FROM else max(0.02, (1 - done) / (1 - DECAY_FROM)))


def loss_of(
    core: Any, model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted mean cross-entropy, and that of the answers alone. ids and weights: (rows, length + 1)."""
    with torch.autocast(ids.device.type, dtype=torch.bfloat16):
        hidden = core(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        flat = weights[:, 1:].reshape(-1).float()
        scored = (flat > 0).nonzero()[:, 0]  # logits only where something is scored
        table: Any = model.get_input_embeddings().weight
        logits = hidden.reshape(-1, hidden.shape[-1])[scored] @ table.t()
    losses = torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:].reshape(-1)[scored], reduction="none")
    weight = flat[scored]
    answers = losses[weight > 5]
    return (losses * weight).sum() / weight.sum(), answers.mean().detach()


def batches(
    arguments: argparse.Namespace, part: str, seed: int
) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
    """Endless batches (rows, length + 1) of ids and weights of one part of the run, made by worker processes."""
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue(maxsize=8)
    made = [
        context.Process(target=_produce, args=(queue, arguments, part, seed * 1000 + number), daemon=True)
        for number in range(arguments.workers)
    ]
    for process in made:
        process.start()
    try:
        while all(process.is_alive() for process in made):
            with suppress(Empty):
                yield queue.get(timeout=10)
        raise RuntimeError("a process that makes batches has died; its error is above")
    finally:
        for process in made:
            process.terminate()


def _produce(queue: Any, arguments: argparse.Namespace, part: str, seed: int) -> None:
    data: Path | None = arguments.data
    passages = natural(data / "rc.jsonl.xz", held_out=False) if data else []
    mixture = Mixture(seed, SHARES[part], passages, prose(data, arguments.books) if data else ())
    tokenizer = Tokenizer.from_file(str(arguments.tokenizer))
    lengths = LENGTHS | {"long": arguments.length}
    streams = {scale: rows(tokenizer, mixture, length, scale) for scale, length in lengths.items()}
    draw = np.random.default_rng(seed)
    while True:
        scale: Scale = "long" if part == "prose" else "short"
        if part == "all":
            scale = draw.choice(list(SCALES), p=list(SCALES.values()))
        some = [next(streams[scale]) for _ in range(max(1, arguments.batch // lengths[scale]))]
        weights = np.stack([weights for _, weights in some])
        weights[(weights == TEXT_WEIGHT) & (draw.random(weights.shape) > TEXT_SCORED)] = 0
        queue.put((np.stack([ids for ids, _ in some]), weights))


def prose(data: Path, books: bool) -> list[str]:
    """Documents of prose, in the files' order."""
    found: list[str] = []
    for name in ("prose-modern.txt.xz", *(("prose-books.txt.xz",) if books else ())):
        with lzma.open(data / name, "rt", encoding="utf-8") as text:
            found += [document.strip() for document in text.read().split("<|doc|>") if document.strip()]
    return found


def save(folder: Path, model: LlamaForCausalLM, chosen: list[tuple[Any, float]], seen: int, tokenizer: Path) -> None:
    """The checkpoint, and a model folder in bf16."""
    tensors = {f"weight/{name}": p.detach().cpu().contiguous() for name, p in model.named_parameters()}
    for index, (optimiser, _) in enumerate(chosen):
        for number, state in enumerate(optimiser.state.values()):
            tensors |= {
                f"optimiser/{index}/{number}/{key}": value.detach().cpu().contiguous()
                for key, value in state.items()
                if isinstance(value, torch.Tensor)
            }
    temporary = folder / "checkpoint.tmp"
    save_file(tensors, temporary, {"seen": str(seen)})
    temporary.replace(folder / "checkpoint.safetensors")
    copy: Any = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(folder / "model", max_shard_size="15MB")
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(tokenizer)),
        eos_token="<|im_end|>",
        bos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    )
    wrapped.chat_template = TEMPLATE
    wrapped.save_pretrained(folder / "model")
    card = {"name": "km-base", "languages": ["en"], "prompts": "embedded", "context": 2048, "seen": seen}
    (folder / "model" / "card.json").write_text(json.dumps(card, indent=2) + "\n", "utf-8")


def restore(folder: Path, model: LlamaForCausalLM, chosen: list[tuple[Any, float]]) -> int:
    """Go on from a checkpoint, or from bf16 weights alone. Returns the tokens seen so far."""
    file = folder / "checkpoint.safetensors"
    if file.exists():
        tensors = load_file(file)
        model.load_state_dict(
            {key[7:]: value for key, value in tensors.items() if key.startswith("weight/")}, strict=False
        )
        for index, (optimiser, _) in enumerate(chosen):
            for number, parameter in enumerate(optimiser.param_groups[0]["params"]):
                prefix = f"optimiser/{index}/{number}/"
                state = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
                on_device = {
                    key: value if key == "step" else value.to(parameter.device) for key, value in state.items()
                }
                if on_device:
                    optimiser.state[parameter] = on_device
        with safe_open(file, framework="pt") as reader:
            return int(reader.metadata()["seen"])
    if (folder / "model" / "config.json").exists():
        carried = LlamaForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
        model.load_state_dict(carried.state_dict())
        return int(json.loads((folder / "model" / "card.json").read_text("utf-8"))["seen"])
    return 0


def widen(source: Path, model: LlamaForCausalLM) -> None:
    """Start from another model's weights. What is larger in `model` gets weights that change nothing at first.

    Raises ValueError for a source of another width, vocabulary or head count, or with more layers.
    """
    old = LlamaForCausalLM.from_pretrained(source, dtype=torch.float32).state_dict()
    for name, new in model.state_dict().items():
        if name not in old:
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                new.zero_()  # a layer more: passes its input on
            continue
        theirs = old[name]
        grown = [have - want for have, want in zip(new.shape, theirs.shape, strict=True)]
        if min(grown) < 0 or (any(grown) and "mlp" not in name):
            raise ValueError(f"{name} is {tuple(theirs.shape)} in {source}, {tuple(new.shape)} here")
        if name.endswith("down_proj.weight"):
            new.zero_()
        new[tuple(slice(size) for size in theirs.shape)] = theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--tokens", type=float, default=40e6, help="of the whole run: decides the learning rate")
    parser.add_argument("--minutes", type=float, default=1e9, help="of this call")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=8192, help="tokens")
    parser.add_argument("--prose", type=float, default=0.0, help="share of the run that is the stage on prose")
    parser.add_argument("--books", action="store_true", help="prose from prose-books.txt.xz too")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--data", type=Path, default=None, help="folder with rc.jsonl.xz and prose-modern.txt.xz")
    parser.add_argument(
        "--embeddings", type=Path, default=None, help="safetensors with `embeddings` for the first start"
    )
    parser.add_argument("--start", type=Path, default=None, help="folder of a model whose weights the run starts from")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true")
    train(parser.parse_args())


def part_of(done: float, prose_share: float) -> str:
    """The part of the run at `done`, from 0 to 1."""
    if done < prose_share:
        return "prose"
    return "short" if done < prose_share + SHORT_SHARE * (1 - prose_share) else "all"


def train(arguments: argparse.Namespace) -> None:
    """One call's share of the run."""
    logging.disable_progress_bar()
    torch.manual_seed(0)
    arguments.out.mkdir(parents=True, exist_ok=True)
    model = build(arguments.size, Tokenizer.from_file(str(arguments.tokenizer)).get_vocab_size())
    if arguments.embeddings:
        table: Any = model.get_input_embeddings()
        table.weight.data.copy_(load_file(arguments.embeddings)["embeddings"])
    if arguments.start:
        widen(arguments.start, model)
    model.to(arguments.device)
    chosen = optimisers(model)
    seen = restore(arguments.out, model, chosen)
    core: Any = torch.compile(model.model, dynamic=False) if arguments.compile else model.model
    began, step, fresh = time.monotonic(), 0, 0
    part = ""
    source: Generator[tuple[np.ndarray, np.ndarray], None, None] | None = None
    while seen < arguments.tokens and time.monotonic() - began < 60 * arguments.minutes:
        done = seen / arguments.tokens
        if part != part_of(done, arguments.prose):
            part = part_of(done, arguments.prose)
            if source:
                source.close()
            source = batches(arguments, part, seen // 1000 + 1)  # other batches at each place in the run
        ids_array, weights_array = next(source or iter(()))
        ids = torch.from_numpy(ids_array.astype(np.int64)).to(arguments.device)
        weights = torch.from_numpy(weights_array.astype(np.int64)).to(arguments.device)
        loss, answers = loss_of(core, model, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, base_rate in chosen:
            for group in optimiser.param_groups:
                group["lr"] = base_rate * rate(done, step)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        step += 1
        fresh += ids.shape[0] * (ids.shape[1] - 1)
        seen += ids.shape[0] * (ids.shape[1] - 1)
        if step % 50 == 0:
            speed = fresh / (time.monotonic() - began)
            shown = f"answers {float(answers):.3f}" if part != "prose" else f"loss {float(loss.detach()):.3f}"
            print(f"{seen / 1e6:.1f}M tokens  {part}  {shown}  {speed:,.0f} tokens/s", flush=True)
        if step % SAVE_STEPS == 0:
            save(arguments.out, model, chosen, seen, arguments.tokenizer)
    if source:
        source.close()
    save(arguments.out, model, chosen, seen, arguments.tokenizer)


if __name__ == "__main__":
    main()
