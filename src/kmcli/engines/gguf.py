"""A GGUF file opened by llama.cpp, with LoRA files on it: token ids, chats, the tokens it writes. Prints nothing."""

from __future__ import annotations

import ctypes
import math
import os
import weakref
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

from kmcli.engines import Chat
from kmcli.engines.bindings import complaints, library
from kmcli.engines.template import compiled, rendered
from kmcli.engines.writing import Ranked
from kmcli.errors import KmError, ResourceError
from kmcli.visible import apart

if TYPE_CHECKING:
    from typing_extensions import Self

_THREADS = max(1, (os.cpu_count() or 1) // 2)
"""ggml's threads wait for each other by spinning: with one on every core, all wait for whatever else the machine does."""

BATCH = 512
"""Tokens that are read at once."""

_ALL_LAYERS = 0x7FFFFFFF


class GgufFile:
    """A GGUF file, mapped into memory; a context manager, because that is given back by hand.

    context: tokens of prompt and answer together, for which memory is reserved at once; None: none, for `gguf_lanes`.
    hint: the next step where the file is at fault. adapters: LoRA files, and what each one's change is multiplied by.
    n_gpu_layers: -1 for all.
    """

    def __init__(
        self,
        path: Path,
        context: int | None,
        hint: str,
        *,
        adapters: Sequence[tuple[Path, float]] = (),
        n_gpu_layers: int = 0,
        vocab_only: bool = False,
    ) -> None:
        """Raises KmError where llama.cpp cannot open a file, ResourceError without llama-cpp-python."""
        self._library = llama = library()
        self._hint = hint
        self._held: list[int] = []
        """The tokens whose keys and values are in memory."""
        self._context: Any = None
        complaints.clear()
        settings = llama.llama_model_default_params()
        settings.n_gpu_layers = _ALL_LAYERS if n_gpu_layers < 0 else n_gpu_layers
        settings.vocab_only = vocab_only
        self._model = llama.llama_model_load_from_file(str(path).encode("utf-8", "surrogateescape"), settings)
        if not self._model:
            raise self._cannot_open(path)
        self._free = weakref.finalize(self, _free, llama, owned := [self._model])
        self._free.atexit = False  # the end of the process does it
        self._vocabulary = llama.llama_model_get_vocab(self._model)
        if vocab_only or context is None:
            return
        self._loras = [(file, self.lora(file)) for file, _ in adapters]  # before the context, which reserves memory
        self._context = llama.llama_init_from_model(self._model, context_settings(llama, context))
        if not self._context:
            raise self._cannot_open(path)
        owned.insert(0, self._context)
        if adapters:
            self._set([weight for _, weight in adapters])

    def weigh(self, weights: Sequence[float]) -> None:
        """What each LoRA file's change is multiplied by from now on; 0 takes it off. What was read is forgotten."""
        self._set(weights)
        self.forget()

    def _set(self, weights: Sequence[float]) -> None:
        on = [(file, lora, weight) for (file, lora), weight in zip(self._loras, weights, strict=True) if weight]
        scales = (ctypes.c_float * len(on))(*(weight for *_, weight in on))
        pointers = (self._library.llama_adapter_lora_p_ctypes * len(on))(*(lora for _, lora, _ in on))
        if self._library.llama_set_adapters_lora(self._context, pointers, len(on), scales):
            raise self._cannot_open(on[0][0])

    def lora(self, file: Path) -> Any:
        """A LoRA file in memory, until the model is closed. Raises KmError where llama.cpp cannot open it."""
        complaints.clear()
        found = self._library.llama_adapter_lora_init(self._model, str(file).encode("utf-8", "surrogateescape"))
        if not found:
            raise self._cannot_open(file)
        return found

    def _cannot_open(self, path: Path) -> KmError:
        reason = complaints[0] if complaints else "it does not say why"
        for beginning in ("error loading model: ", "failed to apply lora adapter: "):
            reason = reason.rpartition(beginning)[2]
        return KmError(f"llama.cpp cannot open {path}: {reason.rstrip('.')}.", self._hint)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._free()

    @property
    def trained_context(self) -> int | None:
        """Tokens that the file says it can read at once; None where it does not say."""
        length = self._said(f"{self._said('general.architecture')}.context_length") or ""
        return int(length) if length.isdecimal() and int(length) > 0 else None

    @property
    def library(self) -> ModuleType:
        return self._library

    @property
    def model(self) -> Any:
        """llama.cpp's own, as its functions take it."""
        return self._model

    @property
    def bytes_per_token(self) -> int:
        """Of keys and values in F16."""
        llama, model = self._library, self._model
        said = self._said(f"{self._said('general.architecture')}.attention.key_length") or ""
        size = int(said) if said.isdecimal() else llama.llama_model_n_embd(model) // llama.llama_model_n_head(model)
        return int(2 * 2 * llama.llama_model_n_layer(model) * llama.llama_model_n_head_kv(model) * size)

    def _said(self, key: str) -> str | None:
        """A value of the file's metadata, as text."""
        size = 1 << 16
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = self._library.llama_model_meta_val_str(self._model, key.encode(), buffer, size)
            if length < size:
                return buffer.raw[:length].decode("utf-8", "replace") if length >= 0 else None
            size = length + 1

    def ids(self, text: str, special: bool = True) -> list[int]:
        """Token ids of a text. special: with the special tokens that the file says are added, and those in the text."""
        return self._tokenize(text, special, special)

    def count(self, text: str) -> int:
        """Tokens of a text by itself: none is added."""
        return len(self._tokenize(text, False, True))

    def _tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        data = text.encode("utf-8", "replace")
        size = len(data) + 8  # a token has a byte at least
        ids = (self._library.llama_token * size)()
        count = self._library.llama_tokenize(self._vocabulary, data, len(data), ids, size, add_special, parse_special)
        if count < 0:
            raise KmError("llama.cpp cannot read this text.", self._hint)
        return ids[:count]

    def chat_ids(self, chat: Chat) -> list[int]:
        """Token ids of a chat up to where the assistant starts to write, by the file's own template.

        Without a template: plain text, a turn a paragraph, as in bases.chat_ids.
        """
        chat = [(role, self._only_text(content)) for role, content in chat]
        source = self._said("tokenizer.chat_template")
        if source is None:
            ids = self.ids("\n\n".join(content for _, content in chat) + "\n")
            return ids[:-1] if ids[-1:] == [self._library.llama_vocab_eos(self._vocabulary)] else ids
        import jinja2

        try:
            prompt = rendered(self._template, chat)
        except (ValueError, TypeError, jinja2.TemplateError) as error:
            raise KmError(f"the file's chat template does not accept this chat: {error}.", self._hint) from None
        return self._tokenize(prompt, False, True)

    def _only_text(self, content: str) -> str:
        """See bases.chat_ids."""
        if self._tokenize(content, False, True) == self._tokenize(content, False, False):
            return content
        return apart(content, self._special)

    @cached_property
    def _special(self) -> list[str]:
        """The names of the special tokens."""
        llama, vocabulary = self._library, self._vocabulary
        every = range(llama.llama_vocab_n_tokens(vocabulary))
        return [self._text(token) for token in every if llama.llama_vocab_is_control(vocabulary, token)]

    @cached_property
    def _template(self) -> Any:
        ends = self._library.llama_vocab_bos(self._vocabulary), self._library.llama_vocab_eos(self._vocabulary)
        return compiled(self._said("tokenizer.chat_template") or "", *map(self._text, ends))

    def _text(self, token: int) -> str:
        return self._library.llama_vocab_get_text(self._vocabulary, token).decode("utf-8") if token >= 0 else ""

    def tokens(
        self, prompt: Sequence[int], temperature: float = 0.0, top_p: float = 1.0, seed: int = 0
    ) -> Iterator[int]:
        """What the model writes after a prompt, up to and with a token that ends a turn, or as long as it is asked.

        The beginning that a prompt shares with what was read and written before is not computed again; that changes
        the last digits of the logits, so `forget` comes first where calls must be repeatable.
        """
        sampler = self.sampler(temperature, top_p, seed)
        try:
            self._read(list(prompt))
            while True:
                token = int(self._library.llama_sampler_sample(sampler, self._context, -1))
                yield token
                if self.ends(token):
                    return
                self._eval([token])
        finally:
            self._library.llama_sampler_free(sampler)

    def sampler(self, temperature: float, top_p: float, seed: int) -> Any:
        """What chooses tokens; to be freed by hand. Temperature first and then the nucleus, as transformers does it."""
        llama = self._library
        chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        if temperature > 0:
            llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_temp(temperature))
            llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_top_p(top_p, 1))
            llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_dist(seed))
        else:
            llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_greedy())
        return chain

    def _read(self, ids: list[int]) -> None:
        """Compute a prompt, from where it parts from what is in memory, but at least its last token: for its logits."""
        held = self._held[: len(ids) - 1]
        shared = next((i for i, (a, b) in enumerate(zip(held, ids, strict=False)) if a != b), len(held))
        memory = self._library.llama_get_memory(self._context)
        if not self._library.llama_memory_seq_rm(memory, -1, shared, -1):  # a recurrent model has no beginning to keep
            self._library.llama_memory_clear(memory, True)
            shared = 0
        del self._held[shared:]
        self._eval(ids[shared:])

    def _eval(self, ids: list[int]) -> None:
        for start in range(0, len(ids), BATCH):
            self._eval_batch(ids[start : start + BATCH])

    def _eval_batch(self, ids: list[int], all_logits: bool = False) -> None:
        """Compute tokens after those that are held. all_logits: of every one of them, and not of the last alone."""
        complaints.clear()
        if status := self._decode(ids, all_logits):
            self.forget()
            reason = complaints[0] if complaints else f"llama_decode returned {status}"
            raise ResourceError(f"llama.cpp failed: {reason.rstrip('.')}.", self._hint)
        self._held += ids

    def _decode(self, ids: list[int], all_logits: bool) -> int:
        tokens = (self._library.llama_token * len(ids))(*ids)
        batch = self._library.llama_batch_get_one(tokens, len(ids))
        if all_logits:
            batch.logits = (ctypes.c_int8 * len(ids))(*[1] * len(ids))
        return int(self._library.llama_decode(self._context, batch))

    def logprobs(self, prompt: Sequence[int], written: Sequence[int]) -> list[float]:
        """The natural logarithm of the probability of each token of what is written after a prompt."""
        found: list[float] = []
        self._read(list(prompt))
        row = -1  # of the logits that predict the next token
        for start in range(0, len(written), BATCH):
            part = list(written[start : start + BATCH])
            found.append(self._logprob(row, part[0]))
            self._eval_batch(part, all_logits=True)
            found += [self._logprob(place, token) for place, token in enumerate(part[1:])]
        return found

    def _logprob(self, row: int, token: int) -> float:
        """Plain Python: an answer has few tokens, and numpy takes longer to import than they take to add up."""
        width = self._library.llama_vocab_n_tokens(self._vocabulary)
        logits: list[float] = self._library.llama_get_logits_ith(self._context, row)[:width]
        largest = max(logits)
        return logits[token] - largest - math.log(sum(math.exp(logit - largest) for logit in logits))

    def forget(self) -> None:
        """Start the next prompt from its beginning."""
        self._held.clear()
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), False)

    def ranked(self, token: int, count: int) -> Ranked:
        """Of the step that `tokens` has last handed a token over from: its log-probability, and the `count` likeliest."""
        import numpy as np

        width = self._library.llama_vocab_n_tokens(self._vocabulary)
        logits = np.ctypeslib.as_array(self._library.llama_get_logits_ith(self._context, -1), shape=(width,))
        logs = logits - logits.max().astype(np.float64)
        logs -= np.log(np.exp(logs).sum())
        best = np.argsort(-logs, kind="stable")[:count]
        return float(logs[token]), [(int(other), float(logs[other])) for other in best]

    def bytes(self, token: int, special: bool = False) -> bytes:
        """What a token stands for: often part of a word, sometimes of a character.

        special: the name of a special token, which is nothing otherwise.
        """
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = self._library.llama_token_to_piece(self._vocabulary, token, buffer, size, 0, special)
            if length >= 0:
                return buffer.raw[:length]
            size = -length

    def ends(self, token: int) -> bool:
        return bool(self._library.llama_vocab_is_eog(self._vocabulary, token))


def context_settings(llama: ModuleType, context: int) -> Any:
    settings = llama.llama_context_default_params()
    settings.n_ctx = context
    settings.n_batch = settings.n_ubatch = min(context, BATCH)
    settings.n_threads = settings.n_threads_batch = _THREADS
    settings.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    settings.no_perf = True
    return settings


def _free(llama: ModuleType, owned: list[Any]) -> None:
    """owned: the model, after the context where there is one."""
    if len(owned) > 1:
        llama.llama_free(owned[0])
    llama.llama_model_free(owned[-1])
