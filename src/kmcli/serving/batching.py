"""Answers written together: a thread that takes requests in at any step and lets each go when it has ended.

Every step writes one token of every answer under way, each with the adapter of its own Knowledge Module.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kmcli.adapters.stack import Adapter, Stack
from kmcli.bases import Loaded
from kmcli.engines import Sampling
from kmcli.engines.decoding import choose
from kmcli.engines.slots import Slots
from kmcli.serving import Limits, refusals
from kmcli.serving.counts import Counts
from kmcli.serving.refusals import Refused
from kmcli.serving.text import Text
from kmcli.serving.wire import TokenScore, Written

PROMPT_TOKENS = 1024
"""Read at once, padding included: those who are being written to wait meanwhile."""

MEMORY_SHARE = 0.25
"""Of the memory that is free at the start, for the cache of all answers."""

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Job:
    """One answer to write. on_written is called from the batch's thread, with pieces where stream is set, and once
    otherwise; after one with `finish`, or a Refused, there is no other."""

    prompt: Sequence[int]
    adapter: Adapter | None
    sampling: Sampling
    stops: Sequence[str]
    top_logprobs: int | None
    stream: bool
    on_written: Callable[[Written | Refused], None]
    cancelled: bool = False


class _Row:
    """A job while it is written."""

    def __init__(self, job: Job, decode: Callable[[list[int]], str]) -> None:
        self.job = job
        self.text = Text(decode, job.stops)
        self.tokens = 0
        self.pieces = ""
        self.scores: list[TokenScore] = []
        generator = torch.Generator().manual_seed(job.sampling.seed)
        sampled = job.sampling.temperature > 0
        self.draws = torch.rand((job.sampling.max_tokens, 2), generator=generator) if sampled else None

    def take(self, token: int, ends: Sequence[int], score: TokenScore | None) -> bool:
        """The next token, handed on as the job wants it. Whether it is the last."""
        finish = "stop" if token in ends else ""
        if not finish:
            self.tokens += 1
            self.pieces += self.text.add(token)
            if score:
                self.scores.append(score)
            if self.text.stopped:
                finish = "stop"
            elif self.tokens == self.job.sampling.max_tokens:
                finish = "length"
        if finish:
            self.pieces += self.text.end()
        if finish or (self.job.stream and (self.pieces or self.scores)):
            self.job.on_written(Written(self.pieces, self.tokens, tuple(self.scores), finish))
            self.pieces, self.scores = "", []
        return bool(finish)


class Batch:
    """All answers that one base writes."""

    def __init__(self, loaded: Loaded, tokenizer: Any, limits: Limits, counts: Counts) -> None:
        """tokenizer: for this batch's thread alone. Raises ResourceError where the base cannot be batched."""
        self._loaded, self._tokenizer, self._limits, self._counts = loaded, tokenizer, limits, counts
        self._stack = Stack(loaded.model, limits.parallel)
        self._slots = Slots(loaded.model, loaded.device, self._stack.on)
        self._room = max(loaded.base.context, int(MEMORY_SHARE * _free(loaded.device) / self._slots.bytes_per_token))
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._rows: list[_Row] = []
        self._logits = torch.empty(0)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="km-serve-batch", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        return len(self._rows)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, job: Job) -> None:
        """Raises Refused where too many wait already."""
        with self._changed:
            if self._closed:
                raise refusals.ending()
            if len(self._waiting) >= self._limits.waiting:
                raise refusals.busy()
            self._waiting.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Nobody waits for it any more: its place is free from the next step on."""
        with self._changed:
            job.cancelled = True
            with contextlib.suppress(ValueError):
                self._waiting.remove(job)
            self._changed.notify()

    def close(self) -> None:
        """End the thread; answers under way are told so."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    # --- within the thread

    def _run(self) -> None:
        with torch.inference_mode():
            while self._wait():
                self._step()

    def _wait(self) -> bool:
        """Until there is something to do; False at the end."""
        with self._changed:
            while not (self._closed or self._waiting or self._rows):
                self._changed.wait()
            if self._closed:
                self._refuse([*self._waiting, *(row.job for row in self._rows)], refusals.ending())
                self._waiting.clear()
            return not self._closed

    def _step(self) -> None:
        """What goes wrong in it ends the answers under way, and not the server."""
        joining: list[Job] = []
        try:
            if self._rows:
                self._write()
            joining += self._admit()
            if joining:
                self._join(joining)
            return
        except torch.OutOfMemoryError:
            refusal = Refused(503, "out_of_memory", "memory ran out.", "Ask for fewer tokens, or lower --parallel.")
        except Exception:  # noqa: BLE001  (a bug: it keeps its traceback, and the clients are told that it is one)
            _log.exception("km serve: a step failed")
            refusal = refusals.broken()
        self._refuse([*(row.job for row in self._rows), *joining], refusal)
        self._rows.clear()
        self._slots.clear()

    def _write(self) -> None:
        """A token of each row; those that have ended leave, the others read theirs."""
        tokens = self._choose()
        chosen = tokens.tolist()
        scores = [self._score(row, place, chosen[place]) for place, row in enumerate(self._rows)]
        ended = [
            row.job.cancelled or row.take(chosen[place], self._loaded.end_ids, scores[place])
            for place, row in enumerate(self._rows)
        ]
        stay = list(range(len(chosen)))
        for place in reversed(range(len(chosen))):
            if ended[place]:
                self._leave(place)
                stay[place] = stay[-1]
                stay.pop()
        if stay:
            self._counts.steps.inc()
            self._counts.rows.inc(len(stay))
            self._logits = self._slots.write(tokens[stay])

    def _leave(self, place: int) -> None:
        self._slots.leave(place)
        last = len(self._rows) - 1
        if place != last:
            self._stack.move(last, place)
            self._rows[place] = self._rows[last]
        self._rows.pop()

    def _admit(self) -> list[Job]:
        """The next in line, as many as there is room for; one at least where nobody is written to."""
        joining: list[Job] = []
        need, width = self._slots.longest_need, 0
        with self._changed:
            while self._waiting and len(self._rows) + len(joining) < self._limits.parallel:
                job = self._waiting[0]
                rows = len(self._rows) + len(joining) + 1
                need, width = max(need, _need(job)), max(width, len(job.prompt))
                if rows > 1 and rows * need > self._room:
                    break
                if joining and (len(joining) + 1) * width > PROMPT_TOKENS:
                    break
                joining.append(self._waiting.popleft())
        return joining

    def _join(self, joining: list[Job]) -> None:
        start = len(self._rows)
        for place, job in enumerate(joining, start):
            self._stack.put(place, job.adapter)
        logits = self._slots.join([list(job.prompt) for job in joining], [_need(job) for job in joining])
        self._logits = torch.cat([self._logits, logits]) if start else logits
        self._rows += [_Row(job, self._decode) for job in joining]

    def _choose(self) -> torch.Tensor:
        """The next token (rows,) of each row, by its own sampling."""
        tokens = self._logits.argmax(-1)
        kinds: dict[tuple[float, float], list[int]] = {}
        for place, row in enumerate(self._rows):
            if row.draws is not None:
                kinds.setdefault((row.job.sampling.temperature, row.job.sampling.top_p), []).append(place)
        for places in kinds.values():
            rows = [self._rows[place] for place in places]
            draws = torch.stack([row.draws[row.tokens] for row in rows if row.draws is not None])
            tokens[places] = choose(self._logits[places], rows[0].job.sampling, draws.to(tokens.device))
        return tokens

    def _score(self, row: _Row, place: int, token: int) -> TokenScore | None:
        top = row.job.top_logprobs
        if top is None:
            return None
        logs = self._logits[place].log_softmax(-1)
        best = logs.topk(top)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        likeliest = tuple((self._decode([other]), value) for other, value in pairs)
        return TokenScore(self._decode([token]), float(logs[token]), likeliest)

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _refuse(self, jobs: Sequence[Job], refusal: Refused) -> None:
        for job in jobs:
            job.on_written(refusal)


def _need(job: Job) -> int:
    return len(job.prompt) + job.sampling.max_tokens


def _free(device: torch.device) -> int:
    """Bytes of memory that nobody uses now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    names = ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES")
    name = next(name for name in names if name in os.sysconf_names)
    return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
