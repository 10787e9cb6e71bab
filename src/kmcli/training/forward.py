"""One forward pass over views: hidden states of every layer at the scored positions, and logits from the last of them.

Shapes: N scored tokens of the batch, L decoder layers, D hidden size. Teacher and student go through the same function,
with the adapter off and on.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch

from kmcli.bases import Loaded
from kmcli.engines import attention
from kmcli.errors import ResourceError, UsageError
from kmcli.training import packed
from kmcli.types import View


def scored_states(
    model: Any,
    loaded: Loaded,
    rows: Sequence[tuple[list[int], list[bool]]],
    share: bool = False,
    layers: Sequence[int] | None = None,
    documents: Sequence[int] = (),
) -> torch.Tensor:
    """Hidden states (L, N, D) at the positions that predict the scored tokens of (ids, mask) rows.

    The last layer's are taken after the final norm, so that `logits` of them is exact. share: what rows have in common at
    their beginning is read once. layers: those of these alone, counted from 0. documents: as `packed.pack` takes them.
    """
    base = decoder(model)
    before = attention.before(model)
    last = layers is not None and list(layers) == [layers_of(model) - 1]
    wanted = [[index - 1 for index, on in enumerate(mask) if on] for _, mask in rows]
    if packed.can_pack(base):
        own = [len(ids) - min(places, default=len(ids) - 1) for (ids, _), places in zip(rows, wanted, strict=True)]
        batch = packed.pack([ids for ids, _ in rows], own if share else None, documents)
        positions = [place for row, places in enumerate(wanted) for place in batch.places(row, places)]
        output = packed.read(base, batch, loaded.device, before=before, output_hidden_states=not last)
    elif before:
        raise ResourceError(
            f"km cannot train what stands before a text on {loaded.base.name}: its attention is of another kind.",
            "Use the adapter lora, or choose another base with --model (see km models).",
        )
    else:
        width = max(len(ids) for ids, _ in rows)
        positions = [row * width + place for row, places in enumerate(wanted) for place in places]
        output = _padded(base, loaded, rows, width, output_hidden_states=not last)
    index = torch.tensor(positions, device=loaded.device)
    states = [output.last_hidden_state] if last else output.hidden_states[1:]  # without the embeddings
    if layers is not None and not last:
        states = [states[layer] for layer in layers]
    return torch.stack([state.reshape(-1, state.shape[-1]).index_select(0, index) for state in states])


def _padded(base: Any, loaded: Loaded, rows: Sequence[tuple[list[int], list[bool]]], width: int, **more: Any) -> Any:
    """Rows padded on the right, for families that cannot be packed: with causal attention none sees its padding."""
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    attention = torch.zeros_like(ids)
    for row, (tokens, _) in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        attention[row, : len(tokens)] = 1
    return base(
        input_ids=ids.to(loaded.device),
        attention_mask=attention.to(loaded.device),
        use_cache=False,
        **more,
    )


def logits(model: Any, states_ND: torch.Tensor) -> torch.Tensor:
    """Logits (N, V) of final hidden states, through the base's own head and what its family does to the result."""
    base = causal(model)
    values = base.get_output_embeddings()(states_ND)
    config = base.config.get_text_config()
    if scale := getattr(config, "logit_scale", None):  # Cohere
        values = values * scale
    if scale := getattr(config, "logits_scaling", None):  # Granite
        values = values / scale
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma
        values = torch.tanh(values / cap) * cap
    return values


def check_head(model: Any, loaded: Loaded, row: tuple[list[int], list[bool]]) -> None:
    """Raise ResourceError where `logits` of `scored_states` are not what the base computes: its family does more."""
    ids, mask = row
    training = model.training
    model.eval()
    bare = model.disable_adapter() if attention.before(model) else nullcontext()
    with torch.no_grad(), bare:
        mine = logits(model, scored_states(model, loaded, [row])[-1])
        whole = causal(model)(input_ids=torch.tensor([ids], device=loaded.device), use_cache=False).logits[0]
    model.train(training)
    theirs = whole[[index - 1 for index, on in enumerate(mask) if on]]
    if (mine - theirs).abs().max() > 0.02 * theirs.abs().max():
        raise ResourceError(
            f"km cannot train {loaded.base.name}: its {loaded.base.family} head is of a kind that km does not know.",
            "Choose another base with --model (see km models).",
        )


def require_room(model: Any, loaded: Loaded, views: Sequence[View]) -> None:
    """Raise UsageError where the base does not reach from what stands before a text to the end of every view."""
    before = attention.before(model)
    already = before[0][0].shape[1] if before else 0
    longest = max((len(view.student_ids) for view in views), default=0)
    if before and already + longest > loaded.base.context:
        raise UsageError(
            f"{already:,} tokens before a sample of {longest:,} are more than the {loaded.base.context:,} that "
            f"{loaded.base.name} reads at once.",
            "Make them fewer with --tokens or --ratio, or the samples shorter with --chunk-tokens and --max-tokens.",
        )


class TooLargeError(ResourceError):
    """Memory does not suffice for one row alone."""


SHORT_OF_MEMORY = RuntimeError, MemoryError, TooLargeError
"""What an error may be that `out_of_memory` is asked about."""


def out_of_memory(error: BaseException) -> bool:
    """torch has a class for it on accelerators only."""
    known = MemoryError, torch.OutOfMemoryError, TooLargeError
    return isinstance(error, known) or "can't allocate memory" in str(error)


def too_large(tokens: int) -> TooLargeError:
    return TooLargeError(
        f"one sample of {tokens:,} tokens alone does not fit in memory.",
        "Use a smaller base, smaller chunks (--set chunk_tokens=...), or --device cpu.",
    )


def causal(model: Any) -> Any:
    """The transformers model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def decoder(model: Any) -> Any:
    """The model without its head."""
    return causal(model).get_decoder()


def layers_of(model: Any) -> int:
    """How many the decoder has."""
    return int(causal(model).config.get_text_config().num_hidden_layers)
