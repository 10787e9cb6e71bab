"""Generation with a transformers model, sampled or greedy, with whatever adapter it carries.

Chats that begin alike (the same chunk, asked again and again) are batched together, and what they share is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from kmcli.bases import Loaded
from kmcli.bases.chat import token_text
from kmcli.engines import Chat, Generation, Sampling
from kmcli.engines.prefixes import Batch, Group, plan
from kmcli.engines.watching import TextPieces, Watcher, decode, up_to_end
from kmcli.engines.writing import Ranked, in_words
from kmcli.errors import ResourceError

if TYPE_CHECKING:
    import torch

    from kmcli.engines.attention import Layers, Prefixes

Made = TypeVar("Made")

TOKENS_PER_BATCH = 16_384
"""Of a batch, answers and padding included, a shared prefix once: bounds memory, and halves when that runs out."""

PLAIN: dict[str, Any] = dict.fromkeys(("temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty"))
"""Unsets what a base's generation_config.json may say. A repetition penalty above all: it is on the prompt's words too,
and an answer is made of them."""


class HfEngine:
    name = "hf"

    def __init__(self, loaded: Loaded, model: Any = None, adapter: bool | str = True) -> None:
        """model: a carrier of adapters over the same base (see `adapters`); the base itself where it is None. adapter False
        switches its off; a name: that one of its adapters is on whenever it computes here."""
        if model is None and adapter is not True:
            raise ValueError("there is no adapter to switch off or on")
        self.loaded = loaded
        self.torch_model: Any = model if model is not None else loaded.model
        self.model = loaded.base.name
        self.revision = loaded.base.revision
        self.context = loaded.base.context
        self.tokens_per_batch = TOKENS_PER_BATCH
        under_adapter: Any = getattr(self.torch_model, "get_base_model", None)
        self._causal: Any = under_adapter() if under_adapter else self.torch_model
        self._shares: bool | None = None  # not tried yet
        self._squeeze: Callable[[Prefixes], Prefixes] | None = None  # what is done to a prefix when it has been read
        self._switched: Callable[[], AbstractContextManager[Any]] = _switch(model, adapter)
        self.standing = 0
        """Tokens that stand before every prompt."""
        if hasattr(model, "before"):  # there is no torch to import otherwise
            with self._switched():
                before = self._before()
            self.standing = before[0][0].shape[1] if before else 0
            self.context -= self.standing

    def count(self, chat: Chat) -> int:
        return len(self.loaded.chat_ids(list(chat)))

    def generate(
        self, chats: Sequence[Chat], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[Generation]:
        """Answers do not depend on the batches but for rounding: each chat draws numbers of its own, by seed and place."""
        import torch

        torch.manual_seed(sampling.seed)  # for transformers' own generate; ours has draws
        prompts = [self.loaded.chat_ids(list(chat)) for chat in chats]
        draws = _draws(len(prompts), sampling)
        return self._in_batches(
            prompts,
            sampling.max_tokens,
            lambda batch: self._batch(prompts, batch, sampling, draws[_rows(batch)]),
            progress,
        )

    def _in_batches(
        self,
        prompts: list[list[int]],
        new: int,
        compute: Callable[[Batch], list[Made]],
        progress: Callable[[int], None] | None,
    ) -> list[Made]:
        """What is computed for each prompt, in order. new: tokens that each may be followed by."""
        import torch

        results: dict[int, Made] = {}
        batches = self._plan(prompts, range(len(prompts)), new)
        while batches:
            rows = _rows(batches[0])
            try:
                made = compute(batches[0])
            except torch.OutOfMemoryError:
                if len(rows) == 1:
                    raise _too_long() from None
                self.tokens_per_batch //= 2
                batches = self._plan(prompts, [row for row in range(len(prompts)) if row not in results], new)
                continue
            del batches[0]
            results.update(zip(rows, made, strict=True))
            if progress:
                progress(len(results))
        return [results[i] for i in range(len(prompts))]

    def stream(self, chat: Chat, sampling: Sampling, on_text: Callable[[str], None]) -> Generation:
        import torch

        torch.manual_seed(sampling.seed)
        prompt = self.loaded.chat_ids(list(chat))
        streamer = TextPieces(self.loaded, on_text)
        try:
            (batch,) = self._plan([prompt], (0,), sampling.max_tokens)
            (generation,) = self._batch([prompt], batch, sampling, _draws(1, sampling), streamer)
        except torch.OutOfMemoryError:
            raise _too_long() from None
        return generation

    def score(self, chat: Chat, answer: str) -> list[float]:
        """See engines.Scorer."""
        import torch

        prompt = self.loaded.chat_ids(list(chat))
        written = self.loaded.tokenizer(answer, add_special_tokens=False)["input_ids"][: self.context - len(prompt)]
        if not written:
            return []
        if hasattr(self.torch_model, "before"):
            return self.score_many([chat], [answer])[0]
        with torch.inference_mode(), self._switched():
            ids = torch.tensor([prompt + written], device=self.loaded.device)
            logits = self._causal(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
            found = logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])
        values: list[float] = found.squeeze(1).tolist()
        return values

    def score_many(self, chats: Sequence[Chat], answers: Sequence[str]) -> list[list[float]]:
        """`score` of each answer after the chat in its place, in batches; what chats have in common is read once."""
        import torch

        from kmcli.engines import decoding

        if not decoding.can_decode(self._causal):
            return [self.score(chat, answer) for chat, answer in zip(chats, answers, strict=True)]
        prompts = [self.loaded.chat_ids(list(chat)) for chat in chats]
        written = [
            self.loaded.tokenizer(answer, add_special_tokens=False)["input_ids"][: self.context - len(prompt)]
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        longest = max(map(len, written), default=0)

        def compute(batch: Batch) -> list[list[float]]:
            with torch.inference_mode(), self._switched():
                device = self.loaded.device
                rows = decoding.Rows(self._causal, prompts, batch, longest, device, self._squeeze, self._before())
                return decoding.force(rows, [written[row] for row in _rows(batch)])

        return self._in_batches(prompts, longest, compute, None)

    def _before(self) -> Layers | None:
        from kmcli.engines import attention

        return attention.before(self.torch_model)

    def _plan(self, prompts: list[list[int]], todo: Sequence[int], new: int) -> list[list[Group]]:
        batches = plan(prompts, todo, new, self.tokens_per_batch, share=self._shares is not False)
        shared = [group for batch in batches for group in batch if group.prefix]
        if shared and self._shares is None:
            self._shares = self._can_share(prompts[shared[0].rows[0]])
            return self._plan(prompts, todo, new)
        return batches

    def _can_share(self, prompt: list[int]) -> bool:
        import torch

        from kmcli.engines import decoding

        model = self._causal
        with torch.inference_mode(), self._switched():
            return decoding.can_decode(model) and decoding.can_share(model, prompt, self.loaded.device)

    def _batch(
        self,
        prompts: list[list[int]],
        batch: Batch,
        sampling: Sampling,
        draws: torch.Tensor,
        streamer: TextPieces | None = None,
    ) -> list[Generation]:
        """Generations of the batch's rows, in its order."""
        import torch

        from kmcli.engines import decoding

        mine = [prompts[row] for row in _rows(batch)]
        ranked: list[list[Ranked]] | None = [[] for _ in mine] if sampling.logprobs else None
        with torch.inference_mode(), self._switched():
            if decoding.can_decode(self._causal):
                if streamer:
                    streamer.put(torch.tensor(mine))
                device = self.loaded.device
                before = self._before()
                rows = decoding.Rows(self._causal, prompts, batch, sampling.max_tokens, device, self._squeeze, before)
                written = decoding.decode(
                    rows, sampling, self.loaded.end_ids, draws, streamer.put if streamer else None, ranked
                )
                if streamer:
                    streamer.end()
            else:
                written = self._generate(mine, sampling, streamer, ranked)
        return [
            self._generation(len(prompt), ids, ranked[row] if ranked else None)
            for row, (prompt, ids) in enumerate(zip(mine, written, strict=True))
        ]

    def _generate(
        self,
        prompts: list[list[int]],
        sampling: Sampling,
        streamer: TextPieces | None,
        ranked: list[list[Ranked]] | None,
    ) -> list[list[int]]:
        """What each prompt is answered, by transformers: for families whose caches `decoding` does not know."""
        import torch

        width = max(map(len, prompts))
        end = self.loaded.end_ids
        pad = end[0]
        ids = torch.full((len(prompts), width), pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):  # padded on the left: all rows write at the same position
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        choice = PLAIN | {"do_sample": False}
        if sampling.temperature > 0:
            choice |= {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
        watcher = Watcher(ranked, sampling.logprobs) if ranked is not None else None
        output = self.torch_model.generate(
            input_ids=ids.to(self.loaded.device),
            attention_mask=mask.to(self.loaded.device),
            max_new_tokens=sampling.max_tokens,
            eos_token_id=end,
            pad_token_id=pad,
            streamer=streamer,
            logits_processor=[watcher] if watcher else None,
            **choice,
        )
        if watcher:
            watcher.rank(output)
        written: list[list[int]] = output[:, width:].tolist()
        return written

    def _generation(self, prompt_tokens: int, written: list[int], ranked: list[Ranked] | None) -> Generation:
        ids = up_to_end(written, self.loaded)
        text = decode(ids, self.loaded).strip()
        told = in_words(ids, ranked, partial(token_text, self.loaded.tokenizer)) if ranked is not None else None
        return Generation(text, prompt_tokens, len(ids), len(ids) < len(written), told)


def _switch(model: Any, adapter: bool | str) -> Callable[[], AbstractContextManager[Any]]:
    if isinstance(adapter, str):
        return partial(_using, model, adapter)
    return nullcontext if adapter else model.disable_adapter


@contextmanager
def _using(model: Any, name: str) -> Iterator[None]:
    if model.active_adapters != [name]:
        model.set_adapter(name)
    yield


def _rows(batch: Batch) -> list[int]:
    return [row for group in batch for row in group.rows]


def _draws(count: int, sampling: Sampling) -> torch.Tensor:
    """(count, max_tokens, 2) uniform numbers. The first rows are the same whatever the count."""
    import torch

    generator = torch.Generator().manual_seed(sampling.seed)
    return torch.rand((count, sampling.max_tokens, 2), generator=generator)


def _too_long() -> ResourceError:
    return ResourceError(
        "one prompt alone does not fit in the accelerator's memory.",
        "Use smaller chunks (--set chunk_tokens=...) or --device cpu.",
    )
