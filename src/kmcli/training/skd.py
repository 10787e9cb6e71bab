"""Interleaved sampling: study material written by student and teacher together.

Speculative Knowledge Distillation (Xu et al. 2025, arXiv 2410.11325).

The student, without the document, drafts a few tokens; the teacher, with the chunk in context, reads them all at once. They
stand up to the first that is not among the teacher's most likely; in its place comes a token that the teacher draws. The
states that the teacher judged with are the targets to train on: it does not read again. Where no token is ever accepted
this is supervised distillation on the teacher's own writing, where every token is, on-policy distillation.

Shapes: B rows, n new tokens, L layers, D hidden size, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from kmcli.bases import Loaded
from kmcli.engines import Sampling, attention
from kmcli.engines.decoding import choose
from kmcli.objectives import OfSamples
from kmcli.training.forward import decoder, logits
from kmcli.training.mixture import Mixture
from kmcli.training.predictions import Predictions
from kmcli.training.teacher import Teacher, together
from kmcli.types import Recipe, View

ROWS = 16
"""Written at a time."""


@dataclass(frozen=True, slots=True)
class Written:
    """A response, with the token that ends it where it came to an end. target: the teacher's states (L, n, D) that
    predict it, None where they are not known."""

    response: list[int]
    target: torch.Tensor | None


class Renewal:
    """Writes a mixture's responses anew while it trains: every skd_every steps those that the next steps read."""

    def __init__(
        self, model: Any, loaded: Loaded, mixture: Mixture, teacher: Teacher | Predictions, recipe: Recipe
    ) -> None:
        self.model, self.loaded, self.mixture, self.teacher, self.recipe = model, loaded, mixture, teacher, recipe
        self.first = list(mixture.views)
        """As they were before anything was renewed: the order of batches goes by these."""
        self.indices = {
            index
            for part in mixture.parts
            if isinstance(part.objective, OfSamples) and part.objective.renews
            for index in part.training
        }
        """The views that are renewed before they are read."""

    def restore(self, written: Mapping[str, list[int]]) -> None:
        """Put back the responses of a checkpoint; the teacher reads them when they are needed."""
        for index, response in written.items():
            self._put(int(index), Written(response, None))

    def renew(self, step: int, batches: Iterable[Iterable[int]]) -> dict[str, list[int]]:
        """Write new responses for what the batches of the next steps read. Returns them, for the checkpoint."""
        wanted = sorted(self.indices.intersection(index for batch in batches for index in batch))
        seeds = [random.Random(f"{self.recipe.seed} {step} {index}").getrandbits(63) for index in wanted]
        views = [self.first[index] for index in wanted]
        written = write(self.model, self.loaded, views, self.recipe, seeds)
        for index, one in zip(wanted, written, strict=True):
            self._put(index, one)
        return {str(index): one.response for index, one in zip(wanted, written, strict=True)}

    def _put(self, index: int, one: Written) -> None:
        view = renewed(self.first[index], one.response)
        self.mixture.views[index] = view
        self.teacher.put(index, view, one.target)


def renewed(view: View, response: list[int]) -> View:
    """The view with another response."""
    teacher, student = prompts(view)
    scored = [True] * len(response)
    return View(
        teacher + response, student + response, [False] * len(teacher) + scored, [False] * len(student) + scored
    )


def prompts(view: View) -> tuple[list[int], list[int]]:
    """What the teacher and the student read before the response."""
    if view.teacher_ids is None or view.teacher_mask is None:
        raise ValueError("there is nobody to judge: the view has no teacher")
    return view.teacher_ids[: view.teacher_mask.index(True)], view.student_ids[: view.student_mask.index(True)]


Asked = tuple[list[int], list[int], int]
"""Of a row: the teacher's prompt, the student's, and the seed of its randomness."""


def write(model: Any, loaded: Loaded, views: Sequence[View], recipe: Recipe, seeds: Sequence[int]) -> list[Written]:
    """A new response to the prompt of every view, at the recipe's temperature. The same for the same view and seed, but for
    rounding, whatever is written beside it.

    model: the student; its adapter is switched off where the teacher reads. A response is at most a chunk long. Raises
    ResourceError where memory does not suffice for one.
    """
    found: dict[int, Written] = {}

    def read(asked: Sequence[Asked]) -> list[Written]:
        return _write(model, loaded, asked, recipe)

    for batch in _batches(views):
        asked = [(*prompts(views[index]), seeds[index]) for index in batch]
        found.update(zip(batch, together(model, asked, read), strict=True))
    return [found[index] for index in range(len(views))]


def _write(model: Any, loaded: Loaded, asked: Sequence[Asked], recipe: Recipe) -> list[Written]:
    size = recipe.skd_draft if recipe.skd_accept else 1  # where nothing is accepted, drafts are written for nothing
    teacher = _Reader(model, loaded, [prompt for prompt, _, _ in asked], model.disable_adapter)
    student = _Reader(model, loaded, [prompt for _, prompt, _ in asked], nullcontext)
    room = [max(1, min(recipe.chunk_tokens, loaded.base.context - len(prompt))) for prompt, _, _ in asked]
    pending = torch.tensor([prompt[-1] for prompt, _, _ in asked], device=loaded.device)
    responses: list[list[int]] = [[] for _ in asked]
    targets: list[list[torch.Tensor]] = [[] for _ in asked]
    places = torch.arange(size, device=loaded.device)
    generators = [torch.Generator().manual_seed(seed) for _, _, seed in asked]
    sampling = Sampling(temperature=recipe.temperature)
    ended = [False] * len(asked)
    while not all(ended):
        draws_nB2 = torch.stack([torch.rand((size + 1, 2), generator=one) for one in generators], dim=1).to(
            loaded.device
        )
        drafts = [pending]
        for draws_B2 in draws_nB2[:size]:
            states = student.read(drafts[-1][:, None])
            drafts.append(choose(logits(model, states[-1, :, 0]).float(), sampling, draws_B2))
        block_Bn = torch.stack(drafts[:-1], dim=1)
        judged_LBnD = teacher.read(block_Bn)
        judged_BnV = logits(model, judged_LBnD[-1])
        drafted_Bn = torch.stack(drafts[1:], dim=1)
        chosen_Bn1 = judged_BnV.gather(-1, drafted_Bn[..., None])
        accepted_Bn = (judged_BnV > chosen_Bn1).sum(-1) < recipe.skd_accept
        stand_B = accepted_Bn.long().cumprod(-1).sum(-1)
        refused_BV = judged_BnV[torch.arange(len(asked)), stand_B.clamp_max(size - 1)]
        instead_B = choose(refused_BV.float(), sampling, draws_nB2[size])
        tokens_Bn = torch.where(places == stand_B[:, None], instead_B[:, None], drafted_Bn)
        new_B = (stand_B + 1).clamp_max(size)
        for reader in (teacher, student):
            reader.keep(places < new_B[:, None])
        pending = tokens_Bn.gather(1, new_B[:, None] - 1)[:, 0]
        for row, (tokens, new) in enumerate(zip(tokens_Bn.tolist(), new_B.tolist(), strict=True)):
            if ended[row]:
                continue
            left = tokens[: min(new, room[row] - len(responses[row]))]
            before_end = len(list(takewhile(lambda token: token not in loaded.end_ids, left)))
            left = left[: before_end + 1]
            responses[row] += left
            targets[row].append(judged_LBnD[:, row, : len(left)])
            ended[row] = left[-1] in loaded.end_ids or len(responses[row]) == room[row]
    return [Written(response, torch.cat(parts, dim=1)) for response, parts in zip(responses, targets, strict=True)]


class _Reader:
    """A model that reads rows of tokens as they grow. What was read and is not kept stays in the cache, unseen."""

    def __init__(self, model: Any, loaded: Loaded, prompts: Sequence[list[int]], switched: Any) -> None:
        """Reads the prompts but for their last tokens; what they all begin with, once."""
        self.model, self.loaded = model, loaded
        self.switched: Any = switched
        self.cache: Any = DynamicCache(config=decoder(model).config)
        shared = _shared(prompts)
        self.seen = torch.zeros((1, 0), dtype=torch.long, device=loaded.device)
        with self._on():
            before = attention.before(model) or ()
        for number, (keys, values) in enumerate(before):
            self.cache.update(keys[None], values[None], number)
            self.seen = torch.ones((1, keys.shape[1]), dtype=torch.long, device=loaded.device)
        if before and not shared:
            self.cache.batch_repeat_interleave(len(prompts))
        if shared:
            self.read(torch.tensor([prompts[0][:shared]], device=loaded.device))
            self.cache.batch_repeat_interleave(len(prompts))
        self.seen = self.seen.expand(len(prompts), -1)
        rest = [prompt[shared:-1] for prompt in prompts]
        if width := max(map(len, rest)):
            ids = torch.tensor([row + [0] * (width - len(row)) for row in rest], device=loaded.device)
            there = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rest])
            self.read(ids, there.to(loaded.device))

    def read(self, ids_Bn: torch.Tensor, there_Bn: torch.Tensor | None = None) -> torch.Tensor:
        """States (L, B, n, D) of every layer at n more tokens a row, those of the last layer after the final norm.

        there_Bn: which of them are tokens; the others are padding.
        """
        there = torch.ones_like(ids_Bn) if there_Bn is None else there_Bn.long()
        places = self.seen.sum(-1, keepdim=True) + there.cumsum(-1) - 1
        self.seen = torch.cat([self.seen, there], dim=1)
        with self._on():
            output = decoder(self.model)(
                input_ids=ids_Bn,
                attention_mask=self.seen,
                position_ids=places.clamp(0, self.loaded.base.context - 1),  # rows that have ended run on
                past_key_values=self.cache,
                use_cache=True,
                output_hidden_states=True,
            )
        return torch.stack(output.hidden_states[1:])

    def keep(self, kept_Bn: torch.Tensor) -> None:
        """Of the last n tokens read, which count."""
        count = kept_Bn.shape[1]
        self.seen = torch.cat([self.seen[:, :-count], kept_Bn.long()], dim=1)

    def _on(self) -> AbstractContextManager[Any]:
        switched: AbstractContextManager[Any] = self.switched()
        return switched


def _shared(rows: Sequence[list[int]]) -> int:
    """How many tokens all rows begin with, their last ones apart."""
    first, last = min(rows), max(rows)  # of sorted rows these differ first
    longest = min(map(len, rows)) - 1
    return next((place for place in range(longest) if first[place] != last[place]), longest)


def _batches(views: Sequence[View]) -> Iterator[list[int]]:
    """Views whose teacher reads the same chunk side by side, so that it is read once."""
    batch: list[int] = []
    for index in sorted(range(len(views)), key=lambda index: views[index].teacher_ids or []):
        rows = [prompts(views[other])[0] for other in (*batch[:1], index)]
        if batch and (len(batch) == ROWS or _shared(rows) < len(rows[1]) // 2):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
