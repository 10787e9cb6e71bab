"""The writing of a batch, token by token: `generate` of transformers with less to do at each step.

Rows are padded on the left, so that all write at the same place; a row that has ended leaves.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from kmcli.engines import Sampling, attention
from kmcli.engines.prefixes import Batch, Group
from kmcli.engines.writing import Ranked


def can_decode(model: Any) -> bool:
    """Whether this module can write with a model; where not, transformers' own `generate` must."""
    return (
        isinstance(model, PreTrainedModel)
        and "position_ids" in inspect.signature(model.forward).parameters
        and attention.keeps_everything(model.config)
    )


def can_share(model: Any, prompt: list[int], device: torch.device, allowed: float = 0.02) -> bool:
    """Whether rows of a model can read a common prefix: its family may do more to its scores than scale them. allowed: as
    much may the logits differ, of the largest.

    Tried on a prompt of two tokens or more. Families that leave attention to transformers only.
    """
    if not model._supports_attention_backend:
        return False
    plain = Rows(model, [prompt], [Group(0, (0,))], 1, device).logits
    try:
        mine = Rows(model, [prompt], [Group(len(prompt) // 2, (0,))], 1, device).logits
    except TypeError:  # the family does not hand on what its attention is to be given
        return False
    return bool((mine - plain).abs().max() <= allowed * plain.abs().max())


class Rows:
    """A batch's rows while they are written. logits (rows, vocabulary): of the token that each writes next."""

    logits: torch.Tensor

    def __init__(
        self,
        model: Any,
        prompts: Sequence[list[int]],
        batch: Batch,
        new: int,
        device: torch.device,
        squeeze: Callable[[attention.Prefixes], attention.Prefixes] | None = None,
        before: attention.Layers | None = None,
    ) -> None:
        """Reads the prompts. prompts: all that the batch's groups point into. new: tokens a row may write.

        squeeze: what is done to the prefixes when they have been read, before anything reads them.
        before: what stands before all rows; of a family that `can_share`.
        """
        self.model, self.device = model, device
        self.keep_logits = {"logits_to_keep": 1} if model._supports_logits_to_keep() else {}
        self.prefixes: attention.Prefixes | None = None
        if any(group.prefix for group in batch):
            shared = [prompts[group.rows[0]][: group.prefix] for group in batch]
            counts = [len(group.rows) for group in batch]
            read = attention.read_prefixes(model.get_decoder(), shared, counts, device, before)
            self.prefixes = squeeze(read) if squeeze else read
        elif before:
            self.prefixes = attention.only(before, sum(len(group.rows) for group in batch))
        already = before[0][0].shape[1] if before else 0
        rows = [(prompts[row], group.prefix) for group in batch for row in group.rows]
        self.width = max(len(prompt) - prefix for prompt, prefix in rows)
        self.cache = attention.own_cache(model.config, self.width + new)
        self.logits: torch.Tensor
        ids = torch.zeros((len(rows), self.width), dtype=torch.long)
        seen = torch.ones((len(rows), self.width + new), dtype=torch.bool)
        for row, (prompt, prefix) in enumerate(rows):
            own = len(prompt) - prefix
            ids[row, self.width - own :] = torch.tensor(prompt[prefix:])
            seen[row, : self.width - own] = False
        lengths = torch.tensor([already + len(prompt) for prompt, _ in rows])[:, None]
        self.positions = (lengths - 1).to(device)
        self.seen = seen.to(device)
        positions = (lengths - self.width + torch.arange(self.width)).clamp(min=0)
        self._read(ids.to(device), positions.to(device))

    def write(self, tokens: torch.Tensor) -> None:
        """Append a token (rows,) to each row."""
        self.width += 1
        self.positions = self.positions + 1
        self._read(tokens[:, None], self.positions)

    def keep(self, kept: Sequence[int]) -> None:
        """Go on with only the rows of these ascending indices."""
        indices = torch.tensor(kept, device=self.device)
        self.cache.batch_select_indices(indices)
        self.positions, self.seen, self.logits = self.positions[indices], self.seen[indices], self.logits[indices]
        if self.prefixes:
            self.prefixes = self.prefixes.keep(kept)

    def _read(self, ids: torch.Tensor, positions: torch.Tensor) -> None:
        with attention.over(self.prefixes, self.model.config) as more:
            output = self.model(
                input_ids=ids,
                position_ids=positions,
                attention_mask=self._mask(ids.shape[1]),
                past_key_values=self.cache,
                use_cache=True,
                **self.keep_logits,
                **more,
            )
        self.logits = output.logits[:, -1].float()

    def _mask(self, new: int) -> torch.Tensor:
        seen = self.seen[:, : self.width]
        if self.prefixes is None:
            return seen
        causal = torch.ones((new, self.width), dtype=torch.bool, device=self.device).tril(self.width - new)
        hidden = ~(causal & seen[:, None, None])
        return torch.zeros(hidden.shape, dtype=self.model.dtype, device=self.device).masked_fill(hidden, -torch.inf)


def decode(
    rows: Rows,
    sampling: Sampling,
    ends: Sequence[int],
    draws: torch.Tensor,
    on_token: Callable[[torch.Tensor], None] | None = None,
    ranked: list[list[Ranked]] | None = None,
) -> list[list[int]]:
    """The tokens that each row writes, with the one that ends it.

    draws (rows, max_tokens, 2): uniform numbers in [0, 1), two for each token. ranked: a list for each row, to which a step
    is added for each of its tokens, and perhaps some more behind them.
    """
    written: list[list[int]] = [[] for _ in draws]
    going = list(range(len(draws)))  # the rows of `rows`, ended ones that have not left yet among them
    for step in range(sampling.max_tokens):
        tokens = choose(rows.logits, sampling, draws[going, step].to(rows.logits.device))
        if on_token:
            on_token(tokens)
        if ranked is not None:
            for row, step_of_row in zip(going, rank(rows.logits, tokens, sampling.logprobs), strict=True):
                ranked[row].append(step_of_row)
        for row, token in zip(going, tokens.tolist(), strict=True):
            if not _ended(written[row], ends):
                written[row].append(token)
        kept = [place for place, row in enumerate(going) if not _ended(written[row], ends)]
        if not kept or step + 1 == sampling.max_tokens:
            break
        if 8 * (len(going) - len(kept)) >= len(going):  # to leave costs a copy of those that stay
            rows.keep(kept)
            tokens, going = tokens[kept], [going[place] for place in kept]
        rows.write(tokens)
    return written


def force(rows: Rows, answers: Sequence[Sequence[int]]) -> list[list[float]]:
    """The log-probability of each token of an answer (ids) that a row is made to write, row by row."""
    found: list[list[float]] = [[] for _ in answers]
    going = [row for row, answer in enumerate(answers) if answer]
    if 0 < len(going) < len(answers):
        rows.keep(going)
    step = 0
    while going:
        tokens = torch.tensor([answers[row][step] for row in going], device=rows.logits.device)
        values = rows.logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0].tolist()
        for row, value in zip(going, values, strict=True):
            found[row].append(value)
        step += 1
        kept = [place for place, row in enumerate(going) if step < len(answers[row])]
        if kept:
            if len(kept) < len(going):
                rows.keep(kept)
            rows.write(tokens[kept])
        going = [going[place] for place in kept]
    return found


def rank(logits: torch.Tensor, tokens: torch.Tensor, count: int) -> list[Ranked]:
    """For each row of logits (rows, vocabulary): its token's log-probability, and the `count` likeliest."""
    logs = logits.float().log_softmax(-1)
    best = logs.topk(min(count, logs.shape[-1]))
    own = logs.gather(-1, tokens[:, None])[:, 0].tolist()
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [(logprob, list(zip(*top, strict=True))) for logprob, top in zip(own, pairs, strict=True)]


def choose(logits: torch.Tensor, sampling: Sampling, draws: torch.Tensor) -> torch.Tensor:
    """The next token (rows,) of each row: the likeliest at temperature 0, else where its draws (rows, 2) fall.

    top_p leaves the likeliest tokens that together reach it, the one that does so included. Only a row whose first draw
    falls on another is sorted, for a second draw among those that are left: to sort all rows takes as long as a step.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    chances = (logits / sampling.temperature).softmax(-1)
    tokens = _fall(chances, draws[:, 0])
    if sampling.top_p >= 1:
        return tokens
    likelier = chances.where(chances > chances.gather(-1, tokens[:, None]), 0.0).sum(-1)
    again = (likelier >= sampling.top_p).nonzero()[:, 0]  # fell among what top_p leaves out
    if len(again):
        ranked, places = chances[again].sort(-1, descending=True)
        ranked = ranked.where(ranked.cumsum(-1) - ranked < sampling.top_p, 0.0)
        tokens[again] = places.gather(-1, _fall(ranked, draws[again, 1])[:, None])[:, 0]
    return tokens


def _fall(chances: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Where draws (rows,) in [0, 1) fall among chances (rows, n): place i as often as chances[:, i] of their sum."""
    sums = chances.cumsum(-1)
    last = sums[:, -1]
    aim = torch.minimum(draws * last, last.nextafter(torch.zeros_like(last)))  # below the sum, rounding or not
    return torch.searchsorted(sums, aim[:, None], right=True)[:, 0]


def _ended(written: list[int], ends: Sequence[int]) -> bool:
    return bool(written) and written[-1] in ends
