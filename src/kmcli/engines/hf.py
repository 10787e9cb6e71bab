"""Generation by transformers: chats batched by length, sampled or greedy, with whatever adapter the model carries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from kmcli.bases import Loaded
from kmcli.engines import Chat, Generation, Sampling
from kmcli.errors import ResourceError

if TYPE_CHECKING:
    import torch

TOKENS_PER_BATCH = 16_384
"""Prompt and answer tokens of a batch, padding included: bounds memory, and halves when memory runs out."""

PLAIN: dict[str, Any] = dict.fromkeys(("temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty"))
"""Unsets what a base's generation_config.json may say. A repetition penalty above all: it is on the prompt's words too,
and an answer is made of them."""


class HfEngine:
    name = "hf"

    def __init__(self, loaded: Loaded, model: Any = None, adapter: bool = True) -> None:
        """model: a PEFT model over the same base; the base itself where it is None. adapter False switches its off."""
        if model is None and not adapter:
            raise ValueError("there is no adapter to switch off")
        self.loaded = loaded
        self.torch_model: Any = model if model is not None else loaded.model
        self.model = loaded.base.name
        self.revision = loaded.base.revision
        self.context = loaded.base.context
        self.tokens_per_batch = TOKENS_PER_BATCH
        self._switched: Callable[[], AbstractContextManager[Any]] = nullcontext if adapter else model.disable_adapter

    def count(self, chat: Chat) -> int:
        return len(self.loaded.chat_ids(list(chat)))

    def generate(
        self, chats: Sequence[Chat], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[Generation]:
        import torch

        prompts = [self.loaded.chat_ids(list(chat)) for chat in chats]
        order = sorted(range(len(chats)), key=lambda i: len(prompts[i]))  # like lengths together: little padding
        results: dict[int, Generation] = {}
        torch.manual_seed(sampling.seed)
        while order:
            size = self._batch_size(prompts, order, sampling.max_tokens)
            batch, order = order[:size], order[size:]
            try:
                generations = self._batch([prompts[i] for i in batch], sampling)
            except torch.OutOfMemoryError:
                if size == 1:
                    raise _too_long() from None
                self.tokens_per_batch //= 2
                order = batch + order
                continue
            results.update(zip(batch, generations, strict=True))
            if progress:
                progress(len(results))
        return [results[i] for i in range(len(chats))]

    def stream(self, chat: Chat, sampling: Sampling, on_text: Callable[[str], None]) -> Generation:
        import torch

        torch.manual_seed(sampling.seed)
        streamer = _Pieces(self.loaded, on_text)
        try:
            (generation,) = self._batch([self.loaded.chat_ids(list(chat))], sampling, streamer)
        except torch.OutOfMemoryError:
            raise _too_long() from None
        return generation

    def _batch_size(self, prompts: list[list[int]], order: list[int], new: int) -> int:
        size = 1
        while size < len(order) and (len(prompts[order[size]]) + new) * (size + 1) <= self.tokens_per_batch:
            size += 1
        return size

    def _batch(self, prompts: list[list[int]], sampling: Sampling, streamer: Any = None) -> list[Generation]:
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
        with torch.inference_mode(), self._switched():
            output = self.torch_model.generate(
                input_ids=ids.to(self.loaded.device),
                attention_mask=mask.to(self.loaded.device),
                max_new_tokens=sampling.max_tokens,
                eos_token_id=end,
                pad_token_id=pad,
                streamer=streamer,
                **choice,
            )
        written: torch.Tensor = output[:, width:].cpu()
        return [self._generation(len(prompt), row.tolist()) for prompt, row in zip(prompts, written, strict=True)]

    def _generation(self, prompt_tokens: int, written: list[int]) -> Generation:
        ids = _up_to_end(written, self.loaded)
        text = _decode(ids, self.loaded).strip()
        return Generation(text, prompt_tokens, len(ids), len(ids) < len(written))


class _Pieces:
    """transformers' streamer protocol: hands over text as soon as no later token can change it."""

    def __init__(self, loaded: Loaded, on_text: Callable[[str], None]) -> None:
        self.loaded, self.on_text = loaded, on_text
        self.ids: list[int] = []
        self.shown = ""
        self.prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if not self.prompt_seen:  # generate() hands over the prompt first
            self.prompt_seen = True
            return
        self.ids.extend(value.reshape(-1).tolist())
        text = self._text()
        if not text.endswith("\ufffd"):  # half of a character
            self._show(text)

    def end(self) -> None:
        self._show(self._text())

    def _text(self) -> str:
        return _decode(
            _up_to_end(self.ids, self.loaded), self.loaded
        ).strip()  # white space at the end waits for a word

    def _show(self, text: str) -> None:
        if len(text) > len(self.shown):
            self.on_text(text[len(self.shown) :])
            self.shown = text


def _up_to_end(ids: list[int], loaded: Loaded) -> list[int]:
    return ids[: next((i for i, token in enumerate(ids) if token in loaded.end_ids), len(ids))]


def _decode(ids: list[int], loaded: Loaded) -> str:
    return str(loaded.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _too_long() -> ResourceError:
    return ResourceError(
        "one prompt alone does not fit in the accelerator's memory.",
        "Use smaller chunks (--set chunk_tokens=...) or --device cpu.",
    )
