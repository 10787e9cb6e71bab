"""Answers by vLLM's own OpenAI server, in a process of its own: it is sent token ids, and gives token ids.

So prompts are read, and text, stop strings and logprobs are made, as with the other engines. A Knowledge Module is loaded
when it is first asked for, by vLLM's runtime API, as NAME@MODULE: a retrained one has another name, and vLLM caches by it.
The prompt of a compressed document is sent as input embeddings, its vectors first.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import httpx2

from kmcli import adapters, bases
from kmcli.adapters.folder import CONFIG
from kmcli.bases import Base
from kmcli.bases.chat import chat_ids, end_ids
from kmcli.engines.vllm import START_SECONDS, generation_config
from kmcli.engines.writing import chat_seed
from kmcli.errors import KmError
from kmcli.serving import Entry, Limits, refusals
from kmcli.serving.backend import Job
from kmcli.serving.counts import Counts
from kmcli.serving.embeddings import Embeddings, Reading, reading
from kmcli.serving.growing import Growing
from kmcli.serving.refusals import Refused
from kmcli.serving.vllm_server import BASE_MODEL, VllmServer
from kmcli.serving.wire import TokenScore

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class VllmBackend:
    name = "vllm"

    def __init__(
        self,
        base: Base,
        command: Sequence[str],
        rank: int,
        limits: Limits,
        counts: Counts,
        start_seconds: float = START_SECONDS,
        embeddings: bool = False,
    ) -> None:
        """command: of vllm_server. rank: the largest that it was started for. embeddings: whether it takes those too.

        Raises ResourceError where vLLM does not start, or the base has no tokenizer.
        """
        self._rank, self._limits, self._counts = rank, limits, counts
        self._embeddings = Embeddings(base) if embeddings else None
        self._tokenizer: Any = bases.load_tokenizer(base)
        self._tokenizing = threading.Lock()
        self._ends = end_ids(self._tokenizer, generation_config(base))
        self._server = VllmServer(command)
        try:
            self._server.wait(start_seconds)
        except BaseException:
            self._server.close()
            raise
        self._tasks: dict[Job, Future[None]] = {}
        self._guard = threading.Lock()
        self._closed = False
        # All that follows is for the loop's thread.
        self._running = 0
        self._places = asyncio.Semaphore(limits.parallel)
        self._loaded: OrderedDict[str, Reading] = OrderedDict()
        self._users: Counter[str] = Counter()
        self._loading = asyncio.Lock()
        self._client = httpx2.AsyncClient(
            base_url=self._server.url,
            headers={"Authorization": f"Bearer {self._server.key}"},
            timeout=httpx2.Timeout(limits.seconds + 60, connect=10),  # the service ends what takes too long
            limits=httpx2.Limits(max_connections=None),
            trust_env=False,  # no proxy between this machine and itself
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="km-serve-vllm", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._server.alive and self._thread.is_alive()

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        return len(self._tasks) - self._running

    @property
    def modules(self) -> int:
        return len(self._loaded)

    def read(self, turns: Sequence[tuple[str, str]]) -> list[int]:
        with self._tokenizing:
            return chat_ids(self._tokenizer, list(turns))

    def count(self, text: str) -> int:
        with self._tokenizing:
            return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def module(self, entry: Entry) -> Reading:
        return self._call(self._load(entry))

    def submit(self, job: Job) -> None:
        with self._guard:
            if self._closed:
                raise refusals.ending()
            if len(self._tasks) >= self._limits.parallel + self._limits.waiting:
                raise refusals.busy()
            task = self._tasks[job] = asyncio.run_coroutine_threadsafe(self._write(job), self._loop)
        task.add_done_callback(lambda _: self._tasks.pop(job, None))

    def cancel(self, job: Job) -> None:
        job.cancelled = True
        if task := self._tasks.get(job):
            task.cancel()  # which closes its connection: vLLM then forgets it

    def close(self) -> None:
        with self._guard:
            self._closed = True
        for job in list(self._tasks):
            job.on_written(refusals.ending())
            self.cancel(job)
        self._call(self._client.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._server.close()

    def _call(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    # --- within the loop

    async def _write(self, job: Job) -> None:
        name = job.module.entry.pinned if job.module else BASE_MODEL
        try:
            async with self._places:
                self._running += 1
                self._users[name] += 1
                try:
                    if job.module:
                        await self._load(job.module.entry)  # others may have taken its place while this one waited
                    await self._stream(job, name)
                finally:
                    self._users[name] -= 1
                    self._running -= 1
        except KmError as error:
            job.on_written(refusals.from_error(error))
        except httpx2.HTTPError as error:
            job.on_written(self._lost(error))
        except Exception:  # noqa: BLE001  (a bug: it keeps its traceback, and the client is told that it is one)
            _log.exception("km serve: an answer failed")
            job.on_written(refusals.broken())

    async def _stream(self, job: Job, name: str) -> None:
        growing, whole = Growing(job, self._decode, self._ends_at), False
        request = self._request(job, name)
        if self._embeddings and job.module and job.module.vectors_VH is not None:
            request["prompt_embeds"] = await asyncio.to_thread(
                self._embeddings.prompt, job.module.vectors_VH, request.pop("prompt")
            )
        async with self._client.stream("POST", "/v1/completions", json=request) as response:
            if response.status_code != 200:
                raise _refused(await response.aread())
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                data = json.loads(line.removeprefix("data: "))
                if "error" in data:
                    raise _refused(line.removeprefix("data: ").encode())
                choice = data["choices"][0]
                pairs = zip(choice["token_ids"], self._scores(choice, job), strict=True)
                finished = any(growing.take(token, score) for token, score in pairs)
                whole = bool(
                    choice["finish_reason"]
                )  # the stream's end is read as well: its connection serves the next
                if finished and not whole:
                    return
                if whole and not finished:  # the token that ends an answer may be left out
                    growing.take(self._ends[0], None)
        if not whole:
            raise self._lost(None)

    def _request(self, job: Job, name: str) -> dict[str, Any]:
        sampling = job.sampling
        return {
            "model": name,
            "prompt": list(job.prompt),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": max(sampling.top_p, 1e-6),  # vLLM knows no 0
            "seed": chat_seed(sampling.seed, 0) if sampling.temperature > 0 else None,
            "stop_token_ids": self._ends,
            "logprobs": job.top_logprobs,
            "return_tokens_as_token_ids": True,
            "return_token_ids": True,
            "stream": True,
        }

    def _scores(self, choice: dict[str, Any], job: Job) -> Sequence[TokenScore | None]:
        given = choice["logprobs"]
        if job.top_logprobs is None or not given:
            return [None] * len(choice["token_ids"])
        scores = []
        for token, own, top in zip(given["tokens"], given["token_logprobs"], given["top_logprobs"], strict=True):
            best = sorted(top.items(), key=lambda pair: -pair[1])[
                : job.top_logprobs
            ]  # the token itself may be one more
            scores.append(TokenScore(self._text(token), own, tuple((self._text(one), chance) for one, chance in best)))
        return scores

    def _text(self, token: str) -> str:
        """token: as vLLM names it, such as token_id:17."""
        return self._decode([int(token.partition(":")[2])])

    def _decode(self, ids: Sequence[int]) -> str:
        with self._tokenizing:
            return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _ends_at(self, token: int) -> bool:
        return token in self._ends

    async def _load(self, entry: Entry) -> Reading:
        """Raises KmError where vLLM cannot."""
        if entry.pinned in self._loaded:
            self._loaded.move_to_end(entry.pinned)
            return self._loaded[entry.pinned]
        async with self._loading:
            if entry.pinned not in self._loaded:
                read = await asyncio.to_thread(self._check, entry)
                body = {"lora_name": entry.pinned, "lora_path": str(entry.module.path)}
                try:
                    response = await self._client.post("/v1/load_lora_adapter", json=body)
                except httpx2.HTTPError as error:
                    raise self._lost(error) from None
                if response.status_code != 200:
                    raise _cannot_load(entry, _message(response.content))
                self._counts.loads.inc()
                self._loaded[entry.pinned] = read
            found = self._loaded[entry.pinned]
            self._loaded.move_to_end(entry.pinned)
            for old in [name for name in self._loaded if not self._users[name] and name != entry.pinned]:
                if len(self._loaded) <= self._limits.modules:
                    break
                del self._loaded[old]
                with contextlib.suppress(httpx2.HTTPError):
                    await self._client.post("/v1/unload_lora_adapter", json={"lora_name": old})
            return found

    def _check(self, entry: Entry) -> Reading:
        adapters.require(entry.module, entry.name, "vllm")
        try:
            rank = int(json.loads((entry.module.path / CONFIG).read_text("utf-8"))["r"])
        except (OSError, ValueError, KeyError) as error:
            raise _cannot_load(entry, str(error) or type(error).__name__) from None
        if rank > self._rank:
            raise KmError(
                f"the Knowledge Module of {entry.name} has rank {rank}, and vLLM was started for {self._rank} at most.",
                "Stop km serve and start it again.",
            )
        return reading(entry, self._embeddings is not None)

    def _lost(self, error: httpx2.HTTPError | None) -> Refused:
        if not self._server.alive:
            return Refused(503, "engine_ended", f"vLLM has ended: {self._server.why_it_ended()}.", "Restart km serve.")
        why = type(error).__name__ if error else "its answer broke off"
        return Refused(503, "unavailable", f"vLLM does not answer: {why}.", "Try again in a moment.")


def _refused(body: bytes) -> Refused:
    return Refused(503, "unavailable", f"vLLM refuses: {_message(body)}.", "Try again in a moment.")


def _cannot_load(entry: Entry, why: str) -> KmError:
    return KmError(
        f"the Knowledge Module of {entry.name} cannot be loaded: {why}.", f"Train it again: km train {entry.name}"
    )


def _message(body: bytes) -> str:
    """Of an error in OpenAI's form."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return " ".join(str(json.loads(body)["error"]["message"]).split()).rstrip(".")
    return "it does not say why"
