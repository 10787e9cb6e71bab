"""One base, its Knowledge Modules, and the batch: what a request becomes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from kmcli.bases import Base
from kmcli.engines import Sampling
from kmcli.errors import KmError, did_you_mean
from kmcli.serving import Catalogue, Entry, Limits, refusals
from kmcli.serving.backend import Backend, Job
from kmcli.serving.counts import Counts
from kmcli.serving.refusals import Refused
from kmcli.serving.wire import Wanted, Written

TRIES = 3
"""How often a Knowledge Module is looked up again that was replaced while it was being read."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A request that can be answered. fingerprint: which base and which module write the answer."""

    wanted: Wanted
    prompt: list[int]
    module: Any
    max_tokens: int
    fingerprint: str
    warning: str


class Service:
    """Its async methods are for one event loop's thread, the one that the catalogue is used from."""

    def __init__(self, base: Base, backend: Backend, catalogue: Catalogue, limits: Limits, counts: Counts) -> None:
        """backend: this service's alone, and closed with it. counts: the same that the backend counts in."""
        self.base, self.backend = base, backend
        self.base_id = public_name(base)
        self.limits, self.counts = limits, counts
        self._catalogue = catalogue
        self._jobs: set[Job] = set()
        counts.watch("km_running", "Answers being written.", lambda: backend.running)
        counts.watch("km_waiting", "Requests that wait for a place.", lambda: backend.waiting)
        counts.watch("km_modules_loaded", "Knowledge Modules in memory.", lambda: backend.modules)

    @property
    def healthy(self) -> bool:
        return self.backend.alive

    @property
    def under_way(self) -> int:
        """Requests that are not answered yet."""
        return len(self._jobs)

    def entries(self) -> list[Entry]:
        return list(self._catalogue.entries())

    def close(self) -> None:
        self.backend.close()

    def refuse_all(self, refusal: Refused) -> None:
        """End every request that is under way."""
        for job in list(self._jobs):
            job.on_written(refusal)
            self.backend.cancel(job)

    def find(self, model: str) -> Entry | None:
        """The Knowledge Module of that name, NAME or NAME@MODULE; None for the base.

        Raises Refused, with status 404, where it cannot be had from this server.
        """
        if model == self.base_id:
            return None
        name, pinned, module = model.rpartition("@")
        try:
            entry = self._catalogue.find(name if pinned else model)
        except KmError as error:
            raise _no_model("model_unusable", *refusals.told(error)) from None
        if entry is None:
            known = [self.base_id, *(entry.name for entry in self.entries())]
            hint = did_you_mean(name if pinned else model, known, "GET /v1/models lists them.")
            raise _no_model("model_not_found", f"there is no model {model!r}.", hint)
        if pinned and module != entry.module.id:
            message = f"{model} is not the Knowledge Module that {entry.name} has now."
            raise _no_model("model_not_found", message, f"That is {entry.pinned}.")
        return entry

    async def prepare(self, wanted: Wanted) -> Ready:
        """Raises KmError, mostly Refused, where it cannot be answered."""
        entry, module = await self._module(wanted.model)
        prompt = await asyncio.to_thread(self._prompt, wanted, entry is not None)
        context = self.base.context - getattr(module, "tokens", 0)  # those that a module has before the prompt
        if len(prompt) >= context:
            raise Refused(
                400,
                "context_length_exceeded",
                f"the prompt has {len(prompt):,} tokens, and {self.base_id} reads {context:,} at once, the answer included.",
                "Send a shorter one.",
                "messages",
            )
        most = min(wanted.max_tokens or self.limits.max_tokens, self.limits.max_tokens, context - len(prompt))
        fingerprint = self.base.revision[:16] + (f"-{entry.module.id}" if entry else "")
        return Ready(wanted, prompt, module, most, fingerprint, entry.warning if entry else "")

    async def answer(self, ready: Ready, gone: asyncio.Future[None]) -> AsyncGenerator[Written, None]:
        """What is written of the answer, piece by piece; all of it at once where no stream is wanted.

        gone: done when the client has left; cancelled here at the answer's end. Leaving the answer early frees its place.
        Raises Refused where there are too many, it takes too long, or nobody waits for it any more.
        """
        loop = asyncio.get_running_loop()
        written: asyncio.Queue[Written | Refused] = asyncio.Queue()

        def hand_over(piece: Written | Refused) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(written.put_nowait, piece)

        wanted = ready.wanted
        sampling = Sampling(ready.max_tokens, wanted.temperature, wanted.top_p, wanted.seed)
        job = Job(ready.prompt, ready.module, sampling, wanted.stops, wanted.top_logprobs, wanted.stream, hand_over)
        began = time.monotonic()
        finish, tokens = "", 0
        gone.add_done_callback(lambda _: written.put_nowait(refusals.gone()))
        try:
            self.backend.submit(job)
        except Refused:
            gone.cancel()
            raise
        self._jobs.add(job)
        try:
            while not finish:
                piece = await _within(written, began + self.limits.seconds - time.monotonic(), self.limits.seconds)
                if isinstance(piece, Refused):
                    raise piece
                if not tokens:
                    self.counts.first.observe(time.monotonic() - began)
                finish, tokens = piece.finish, piece.tokens
                if finish:  # before the last piece is handed on: nobody may come back after it
                    self.counts.seconds.observe(time.monotonic() - began)
                yield piece
        finally:
            gone.cancel()
            self._jobs.discard(job)
            self.counts.prompt_tokens.inc(len(ready.prompt))
            self.counts.written_tokens.inc(tokens)
            if not finish:
                self.counts.cancelled.inc()
                self.backend.cancel(job)

    async def _module(self, model: str) -> tuple[Entry | None, Any]:
        """The newest module of that name, and what the backend has it as."""
        for left in reversed(range(TRIES)):
            entry = self.find(model)
            if entry is None:
                return None, None
            try:
                return entry, await asyncio.to_thread(self.backend.module, entry)
            except KmError:
                if not left or entry.module.path.is_dir():
                    raise  # else it was replaced between the two
        raise AssertionError

    def _prompt(self, wanted: Wanted, by_module: bool) -> list[int]:
        """A question alone is put to a Knowledge Module as `km ask` puts it, which is how it was trained; any other
        conversation is read as it is."""
        turns = list(wanted.turns)
        if by_module and len(turns) == 1 and not wanted.as_is:
            turns = [("user", self.base.prompts.ask.format(question=turns[0][1].strip()).strip())]
        return self.backend.read(turns)


def public_name(base: Base) -> str:
    """What clients call the base: as km does, but never by a path."""
    return base.name if base.embedded else base.portable_name


def _no_model(code: str, message: str, hint: str) -> Refused:
    return Refused(404, code, message, hint, "model")


async def _within(written: asyncio.Queue[Written | Refused], left: float, seconds: float) -> Written | Refused:
    try:
        return await asyncio.wait_for(written.get(), max(0.0, left))
    except asyncio.TimeoutError:
        raise refusals.too_slow(seconds) from None
