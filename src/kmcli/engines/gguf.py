"""A GGUF file opened by llama-cpp-python: token ids, chats, the tokens it writes. Nothing is printed, by Python or by C.

llama-cpp-python is the optional extra `gguf`; this is the only module that imports it.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

from kmcli.engines import Chat
from kmcli.errors import KmError, ResourceError

if TYPE_CHECKING:
    from typing_extensions import Self

_ERROR_LEVEL = 4  # GGML_LOG_LEVEL_ERROR in ggml.h
_THREADS = max(1, (os.cpu_count() or 1) // 2)
"""ggml's threads wait for each other by spinning: with one on every core, all wait for whatever else the machine does."""

_complaints: deque[str] = deque(maxlen=8)
"""What llama.cpp last reported as an error: it fails without saying why in any other way."""


@cache
def library() -> ModuleType:
    """llama_cpp, made silent. Raises ResourceError where it is not installed or does not load."""
    try:
        import llama_cpp
    except ImportError:
        raise ResourceError(
            "llama-cpp-python is not installed.", "Install it with: pip install 'kmcli[gguf]'"
        ) from None
    except (OSError, RuntimeError) as error:
        raise ResourceError(
            f"llama-cpp-python does not load: {error}.",
            "Install it again with: pip install --force-reinstall 'kmcli[gguf]'",
        ) from None
    llama_cpp.llama_log_set(_log_callback(llama_cpp), ctypes.c_void_p(0))
    return llama_cpp


@cache  # llama.cpp keeps only the address of the callback, so the object must live as long as the process
def _log_callback(llama_cpp: ModuleType) -> Any:
    @llama_cpp.llama_log_callback
    def keep_errors(level: int, text: bytes, _: object) -> None:
        if level == _ERROR_LEVEL:
            _complaints.append(text.decode("utf-8", "replace").strip())

    return keep_errors


class GgufFile:
    """A GGUF file in memory; a context manager, because its memory is freed by hand.

    context: tokens of prompt and answer together, for which memory is reserved at once. hint: the next step where the
    file is at fault. options: further arguments of llama_cpp.Llama.
    """

    def __init__(self, path: Path, context: int, hint: str, **options: Any) -> None:
        """Raises KmError where llama.cpp cannot open the file, ResourceError without llama-cpp-python."""
        self._library = library()
        import jinja2  # comes with llama-cpp-python, which compiles the file's chat template as it opens the file

        self._hint = hint
        self._render: Any = None
        _complaints.clear()
        try:
            self._model = self._library.Llama(
                model_path=str(path),
                n_ctx=context,
                n_threads=_THREADS,
                n_threads_batch=_THREADS,
                verbose=False,
                **options,
            )
        except (ValueError, RuntimeError, jinja2.TemplateError) as error:
            reason = _complaints[0] if _complaints else str(error)
            reason = reason.rpartition("error loading model: ")[2]
            raise KmError(f"llama.cpp cannot open {path}: {reason}.", hint) from None
        self._vocabulary = self._library.llama_model_get_vocab(self._model.model)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._model.close()

    @property
    def trained_context(self) -> int | None:
        """Tokens that the file says it can read at once; None where it does not say."""
        metadata = self._model.metadata
        length = metadata.get(f"{metadata.get('general.architecture')}.context_length", "")
        return int(length) if length.isdecimal() and int(length) > 0 else None

    def ids(self, text: str, special: bool = True) -> list[int]:
        """Token ids of a text. special: with the special tokens that the file says are added, and those in the text."""
        return list(self._model.tokenize(text.encode("utf-8", "replace"), add_bos=special, special=special))

    def chat_ids(self, chat: Chat) -> list[int]:
        """Token ids of a chat up to where the assistant starts to write, by the file's own template.

        Without a template: plain text, a turn a paragraph, as in bases.chat_ids.
        """
        template = self._model.metadata.get("tokenizer.chat_template")
        if template is None:
            ids = self.ids("\n\n".join(content for _, content in chat) + "\n")
            return ids[:-1] if ids[-1:] == [self._model.token_eos()] else ids
        import jinja2

        messages: Any = [{"role": role, "content": content} for role, content in chat]
        try:
            prompt = self._template(template)(messages=messages, enable_thinking=False).prompt
        except (ValueError, TypeError, jinja2.TemplateError) as error:
            raise KmError(f"the file's chat template does not accept this chat: {error}.", self._hint) from None
        return list(self._model.tokenize(prompt.encode("utf-8", "replace"), add_bos=False, special=True))

    def _template(self, template: str) -> Any:
        if self._render is None:
            from llama_cpp.llama_chat_format import Jinja2ChatFormatter

            self._render = Jinja2ChatFormatter(
                template=template,
                eos_token=self._text(self._model.token_eos()),
                bos_token=self._text(self._model.token_bos()),
            )
        return self._render

    def _text(self, token: int) -> str:
        return self._library.llama_vocab_get_text(self._vocabulary, token).decode("utf-8") if token >= 0 else ""

    def tokens(
        self, prompt: Sequence[int], temperature: float = 0.0, top_p: float = 1.0, seed: int = 0
    ) -> Iterator[int]:
        """What the model writes after a prompt, up to and with a token that ends a turn, or as long as it is asked.

        The beginning that a prompt shares with what was read and written before is not computed again; that changes
        the last digits of the logits, so `forget` comes first where calls must be repeatable.
        """
        sampler = self._sampler(temperature, top_p, seed)
        try:
            self._read(list(prompt))
            while True:
                token = int(self._library.llama_sampler_sample(sampler, self._model.ctx, -1))
                yield token
                if self.ends(token):
                    return
                self._eval([token])
        finally:
            self._library.llama_sampler_free(sampler)

    def _sampler(self, temperature: float, top_p: float, seed: int) -> Any:
        """Temperature first and then the nucleus, as transformers does it."""
        library = self._library
        chain = library.llama_sampler_chain_init(library.llama_sampler_chain_default_params())
        if temperature > 0:
            library.llama_sampler_chain_add(chain, library.llama_sampler_init_temp(temperature))
            library.llama_sampler_chain_add(chain, library.llama_sampler_init_top_p(top_p, 1))
            library.llama_sampler_chain_add(chain, library.llama_sampler_init_dist(seed))
        else:
            library.llama_sampler_chain_add(chain, library.llama_sampler_init_greedy())
        return chain

    def _read(self, ids: list[int]) -> None:
        """Compute a prompt, from where it parts from what is in memory, but at least its last token: for its logits."""
        held = self._model.input_ids[: min(self._model.n_tokens, len(ids) - 1)].tolist()
        shared = next((i for i, (a, b) in enumerate(zip(held, ids, strict=False)) if a != b), len(held))
        memory = self._library.llama_get_memory(self._model.ctx)
        if not self._library.llama_memory_seq_rm(memory, -1, shared, -1):  # a recurrent model has no beginning to keep
            self._library.llama_memory_clear(memory, True)
            shared = 0
        self._model.n_tokens = shared
        self._eval(ids[shared:])

    def _eval(self, ids: list[int]) -> None:
        _complaints.clear()
        try:
            self._model.eval(ids)
        except RuntimeError as error:
            self.forget()
            reason = _complaints[0] if _complaints else str(error)
            raise ResourceError(f"llama.cpp failed: {reason.rstrip('.')}.", self._hint) from None

    def forget(self) -> None:
        """Start the next prompt from its beginning."""
        self._model.reset()

    def bytes(self, token: int) -> bytes:
        """What a token stands for: often part of a word, sometimes of a character; nothing for a special token."""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = self._library.llama_token_to_piece(self._vocabulary, token, buffer, size, 0, False)
            if length >= 0:
                return buffer.raw[:length]
            size = -length

    def ends(self, token: int) -> bool:
        return bool(self._library.llama_vocab_is_eog(self._vocabulary, token))
