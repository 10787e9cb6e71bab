"""Summary vectors: what stands for a text in few input embeddings, one for every so many of its tokens (LLoCO, arXiv
2404.07979; its compressor is AutoCompressor's, arXiv 2305.14788, for whatever base).

A text is read segment by segment. Behind each segment stand summary tokens, learned embeddings, one a stretch of it; what
the base, with the compressor's LoRA on it, makes of them at its last layer are the segment's vectors, and the segments after
it read these first. Without a compressor the vectors are the means of the stretches' token embeddings. That is also what a
compressor that has learned nothing gives, for it adds to them.

Shapes: S tokens of a segment, k of its vectors, V of all of a text's, K the most that a segment may have, H the hidden size.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from kmcli.adapters import stack
from kmcli.adapters.folder import explained
from kmcli.adapters.shelf import Shelf
from kmcli.bases import Base, Loaded
from kmcli.errors import KmError, ResourceError, UsageError
from kmcli.library import files
from kmcli.types import text_hash

SEGMENT = 1536
"""Tokens of a segment at most, as published; a base of smaller chunks reads segments of a chunk."""
FINEST = 4
"""Tokens for a vector at least."""
LEARNED = "compressor.safetensors"
"""In a compressor's folder, beside its LoRA: the summary tokens (K, H) and the projection (H, H)."""
TOLD = "compressor.json"
AGAIN = "Train it again with: km compressor train --restart"


def segment_tokens(base: Base) -> int:
    return min(SEGMENT, base.chunk_tokens)


def most_vectors(base: Base) -> int:
    """K."""
    return max(1, segment_tokens(base) // FINEST)


def vectors_for(tokens: int, ratio: int) -> int:
    """k, for a segment of so many tokens."""
    return max(1, round(tokens / ratio))


def segments(ids: Sequence[int], size: int) -> list[list[int]]:
    """Of at most `size` tokens, as alike as can be: a short rest by itself would have a vector like any other."""
    count = -(-len(ids) // size)
    ends = [len(ids) * place // count for place in range(count + 1)] if count else []
    return [list(ids[start:end]) for start, end in pairwise(ends)]


def pooled(embedded_SH: torch.Tensor, count: int) -> torch.Tensor:
    """The means of so many stretches (count, H)."""
    return torch.stack([stretch.mean(0) for stretch in embedded_SH.tensor_split(count)])


def summarise(
    decoder: Any,
    embedded_SH: torch.Tensor,
    count: int,
    earlier_VH: torch.Tensor,
    tokens_KH: torch.Tensor,
    projection_HH: torch.Tensor,
) -> torch.Tensor:
    """The vectors (count, H) of a segment behind those of the segments before it, with gradients. decoder: with the
    compressor's LoRA on."""
    means_kH = pooled(embedded_SH, count)
    asked_kH = means_kH + tokens_KH[:count]
    rows = torch.cat([earlier_VH, embedded_SH, asked_kH]).to(decoder.dtype)
    read = decoder(inputs_embeds=rows[None], use_cache=False).last_hidden_state[0, -count:]
    return means_kH + read.to(projection_HH.dtype) @ projection_HH.t()


def embedder(loaded: Loaded) -> Callable[[Sequence[int]], torch.Tensor]:
    """Token ids as the base's input embeddings (S, H), in fp32."""
    table: Any = loaded.model.get_input_embeddings()

    def embedded(ids: Sequence[int]) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = table(torch.tensor(list(ids), dtype=torch.long, device=loaded.device)).float()
        return found

    return embedded


def spread(loaded: Loaded) -> float:
    """The standard deviation of the numbers in the base's input embeddings."""
    table: Any = loaded.model.get_input_embeddings()
    return float(table.weight.detach().float().std())


def kept_earlier(base: Base, size: int, count: int) -> int:
    """How many vectors of the segments before fit in front of one: the last ones are kept."""
    return max(0, base.context - size - count)


@dataclass(frozen=True, slots=True)
class Compressor:
    """One that is trained. id: of this training."""

    id: str
    lora: stack.Adapter
    tokens_KH: torch.Tensor
    projection_HH: torch.Tensor


def read_compressor(folder: Path, device: torch.device) -> Compressor:
    """Raises KmError where the folder is damaged."""
    from safetensors.torch import load_file

    try:
        with explained(folder):
            learned = load_file(folder / LEARNED, device=str(device))
            told = json.loads((folder / TOLD).read_text("utf-8"))
            lora = stack.read(folder, device)
            return Compressor(str(told["id"]), lora, learned["tokens"].float(), learned["projection"].float())
    except ResourceError:  # it is gone
        raise
    except KmError as error:
        why = error.message.partition("cannot be loaded: ")[2] or error.message
        raise KmError(f"the compressor in {folder} cannot be loaded: {why}", AGAIN) from None


def compressor_id(folder: Path | None) -> str:
    """Of the compressor in a folder; "" where there is none, or it is damaged."""
    try:
        return str(json.loads((folder / TOLD).read_text("utf-8"))["id"]) if folder else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def vectors_of(loaded: Loaded, text: str, ratio: int, shelf: Shelf, model: Any = None) -> torch.Tensor:
    """The summary vectors (V, H) of a text, in fp32 on the processor: from the cache where they are there, which else
    keeps them. model: a carrier that has changed the base's layers.

    Raises KmError where there is no text, or the compressor is damaged; UsageError where they would leave too little of the
    base's context.
    """
    ids = list(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])
    if not ids:
        raise KmError("the document has no text for summary vectors.", "Is it the right file? See km show NAME")
    parts = segments(ids, segment_tokens(loaded.base))
    total = sum(vectors_for(len(part), ratio) for part in parts)
    if total > loaded.base.context // 2:
        raise UsageError(
            f"{total:,} summary vectors leave too little of the {loaded.base.context:,} tokens that "
            f"{loaded.base.name} reads at once.",
            f"Make them fewer: --ratio {-(-ratio * total // (loaded.base.context // 2))}",
        )
    name = compressor_id(shelf.compressor) or "means"
    file = shelf.cache / f"vectors-{name}-{ratio}-{text_hash(text)[:16]}.safetensors" if shelf.cache else None
    kept = _kept(file)
    if kept is not None:
        return kept
    with torch.no_grad():
        found = _computed(loaded, parts, ratio, shelf.compressor, model).cpu()
    if file:
        _keep(file, found)
    return found


def _computed(loaded: Loaded, parts: Sequence[list[int]], ratio: int, folder: Path | None, model: Any) -> torch.Tensor:
    embedded = embedder(loaded)
    if folder is None:
        return torch.cat([pooled(embedded(part), vectors_for(len(part), ratio)) for part in parts])
    one = read_compressor(folder, loaded.device)
    decoder: Any = loaded.model.get_decoder()
    found = embedded([])
    was_training = loaded.model.training
    loaded.model.eval()
    try:
        with model.disable_adapter() if model is not None else nullcontext(), _on(loaded.model, one.lora):
            for part in parts:
                count = min(vectors_for(len(part), ratio), len(one.tokens_KH))
                earlier = kept_earlier(loaded.base, len(part), count)
                before = found[max(0, len(found) - earlier) :]
                new = summarise(decoder, embedded(part), count, before, one.tokens_KH, one.projection_HH)
                found = torch.cat([found, new])
    finally:
        loaded.model.train(was_training)
    return found


@contextmanager
def _on(model: Any, adapter: stack.Adapter) -> Iterator[None]:
    """Within it a LoRA is added to a model, whatever else is on it."""

    def added(down: torch.Tensor, up: torch.Tensor) -> Any:
        def add(layer: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
            return output + (inputs[0].to(down.dtype) @ down @ up).to(output.dtype)

        return add

    handles = [model.get_submodule(name).register_forward_hook(added(*pair)) for name, pair in adapter.factors.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _kept(file: Path | None) -> torch.Tensor | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)["vectors"] if file else None
    except (OSError, SafetensorError, KeyError):  # not there, or damaged: computed again
        return None


def _keep(file: Path, vectors_VH: torch.Tensor) -> None:
    from safetensors.torch import save as as_bytes

    with files.explained(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        for old in file.parent.glob("vectors-*.safetensors"):
            if old.stem.rpartition("-")[2] != file.stem.rpartition("-")[2]:  # of another text
                files.delete(old)
        files.write(file, as_bytes({"vectors": vectors_VH.contiguous()}), synced=False)
