"""Answers by transformers: every row of a batch is written in one forward pass, with the adapter of its own module."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from kmcli import adapters, bases
from kmcli.adapters import stack
from kmcli.bases import Loaded
from kmcli.engines.decoding import choose
from kmcli.engines.slots import Slots
from kmcli.errors import KmError
from kmcli.serving import Entry, Limits, refusals
from kmcli.serving.backend import Job
from kmcli.serving.batching import MEMORY_SHARE, PROMPT_TOKENS, free_memory, let_go
from kmcli.serving.counts import Counts
from kmcli.serving.wire import TokenScore


class HfRows:
    name = "hf"

    def __init__(self, loaded: Loaded, limits: Limits, counts: Counts) -> None:
        """Raises ResourceError where the base cannot be batched."""
        self._loaded, self._counts, self._most = loaded, counts, limits.modules
        self._kept: OrderedDict[str, stack.Adapter] = OrderedDict()
        self._keeping, self._reading = threading.Lock(), threading.Lock()
        self._tokenizer: Any = bases.load_tokenizer(loaded.base)  # tokenizers are for one thread at a time
        self._stack = stack.Stack(loaded.model, limits.parallel)
        self._slots = Slots(loaded.model, loaded.device, self._stack.on)
        self._room = max(loaded.base.context, int(MEMORY_SHARE * _free(loaded.device) / self._slots.bytes_per_token))
        self._jobs: list[Job] = []
        self._draws: list[Iterator[torch.Tensor] | None] = []
        self._logits = torch.empty(0)

    @property
    def modules(self) -> int:
        return len(self._kept)

    def read(self, turns: Sequence[tuple[str, str]]) -> list[int]:
        with self._reading:
            return self._loaded.chat_ids(list(turns))

    def count(self, text: str) -> int:
        with self._reading:
            return len(self._loaded.tokenizer(text, add_special_tokens=False)["input_ids"])

    def module(self, entry: Entry) -> stack.Adapter:
        """Those used last are kept, by their ids."""
        module = entry.module
        with self._keeping:
            if module.id not in self._kept:
                self._kept[module.id] = adapters.read(module.path, self._loaded.device)
                self._counts.loads.inc()
                if len(self._kept) > self._most:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(module.id)
            return self._kept[module.id]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def ends(self, token: int) -> bool:
        return token in self._loaded.end_ids

    def room_for(self, jobs: Sequence[Job]) -> int:
        need, width = self._slots.longest_need, 0
        for count, job in enumerate(jobs):
            rows = len(self._jobs) + count + 1
            before = job.module.tokens if job.module else 0
            need, width = max(need, before + job.need), max(width, len(job.prompt))
            if rows > 1 and rows * need > self._room:
                return count
            if count and (count + 1) * width > PROMPT_TOKENS:  # padding included
                return count
        return len(jobs)

    def join(self, jobs: Sequence[Job]) -> Sequence[Job]:
        start, joined = len(self._jobs), list[Job]()
        with _computing():
            for job in jobs:
                try:
                    self._stack.put(start + len(joined), job.module)
                    joined.append(job)
                except KmError as error:
                    job.on_written(refusals.from_error(error))
            if joined:
                logits = self._slots.join(
                    [list(job.prompt) for job in joined],
                    [job.need for job in joined],
                    [self._stack.before(start + place, job.module) for place, job in enumerate(joined)],
                )
                self._logits = torch.cat([self._logits, logits]) if start else logits
        self._jobs += joined
        self._draws += map(_draws, joined)
        return joined

    def chosen(self) -> list[tuple[int, TokenScore | None]]:
        with _computing():
            tokens = self._choose().tolist()
            return [(token, self._score(place, token)) for place, token in enumerate(tokens)]

    def leave(self, place: int) -> None:
        last = len(self._jobs) - 1
        with _computing():
            self._slots.leave(place)
            if place != last:
                self._stack.move(last, place)
        let_go(self._jobs, place)
        let_go(self._draws, place)

    def write(self, tokens: Sequence[int]) -> None:
        with _computing():
            self._logits = self._slots.write(torch.tensor(tokens))

    def clear(self) -> None:
        self._jobs.clear()
        self._draws.clear()
        self._slots.clear()

    def close(self) -> None:
        self.clear()

    def _choose(self) -> torch.Tensor:
        """The next token (rows,) of each row, by its own sampling."""
        tokens = self._logits.argmax(-1)
        kinds: dict[tuple[float, float], list[int]] = {}
        for place, (job, draws) in enumerate(zip(self._jobs, self._draws, strict=True)):
            if draws is not None:
                kinds.setdefault((job.sampling.temperature, job.sampling.top_p), []).append(place)
        for places in kinds.values():
            drawn = torch.stack(
                [next(draws) for draws in (self._draws[place] for place in places) if draws is not None]
            )
            tokens[places] = choose(self._logits[places], self._jobs[places[0]].sampling, drawn.to(tokens.device))
        return tokens

    def _score(self, place: int, token: int) -> TokenScore | None:
        top = self._jobs[place].top_logprobs
        if top is None:
            return None
        logs = self._logits[place].log_softmax(-1)
        best = logs.topk(top)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        likeliest = tuple((self.decode([other]), value) for other, value in pairs)
        return TokenScore(self.decode([token]), float(logs[token]), likeliest)


@contextmanager
def _computing() -> Iterator[None]:
    try:
        with torch.inference_mode():
            yield
    except torch.OutOfMemoryError as error:
        raise MemoryError from error


def _draws(job: Job) -> Iterator[torch.Tensor] | None:
    """Two uniform numbers for each token; None where the likeliest is taken."""
    if job.sampling.temperature == 0:
        return None
    generator = torch.Generator().manual_seed(job.sampling.seed)
    return iter(torch.rand((job.sampling.max_tokens, 2), generator=generator))


def _free(device: torch.device) -> int:
    """Bytes of memory that nobody uses now."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free_memory()
