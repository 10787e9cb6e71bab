"""A GGUF file opened by llama-cpp-python: token ids, logits, greedy answers. Nothing is printed, by Python or by C.

llama-cpp-python is the optional extra `gguf`; this is the only module of the room that imports it.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

from kmcli.engines import Chat
from kmcli.errors import KmError, ResourceError

if TYPE_CHECKING:
    import numpy as np

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


class GgufModel:
    """A GGUF file in memory; a context manager, because its memory is freed by hand.

    context: tokens of prompt and answer together. all_logits: whether `logits` will be asked for.
    """

    def __init__(self, path: Path, context: int, all_logits: bool = False, vocabulary_only: bool = False) -> None:
        """Raises KmError where llama.cpp cannot open the file, ResourceError without llama-cpp-python."""
        self._library = library()
        import jinja2  # comes with llama-cpp-python, which compiles the file's chat template as it opens the file

        _complaints.clear()
        try:
            self._model = self._library.Llama(
                model_path=str(path),
                n_ctx=context,
                logits_all=all_logits,
                vocab_only=vocabulary_only,
                n_threads=_THREADS,
                n_threads_batch=_THREADS,
                verbose=False,
            )
        except (ValueError, RuntimeError, jinja2.TemplateError) as error:
            reason = _complaints[0] if _complaints else str(error)
            reason = reason.rpartition("error loading model: ")[2]
            raise KmError(f"llama.cpp cannot open {path}: {reason}.", "Export it again.") from None

    def __enter__(self) -> GgufModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._model.close()

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, with the special tokens that the file says are added, and those written in the text."""
        return list(self._model.tokenize(text.encode("utf-8"), add_bos=True, special=True))

    def chat_ids(self, chat: Chat) -> list[int]:
        """Token ids of a chat up to where the assistant starts to write, by the file's own template.

        Without a template: plain text, a turn a paragraph, as in bases.chat_ids.
        """
        template = self._model.metadata.get("tokenizer.chat_template")
        if template is None:
            ids = self.ids("\n\n".join(content for _, content in chat) + "\n")
            return ids[:-1] if ids[-1:] == [self._model.token_eos()] else ids
        import jinja2
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        messages: Any = [{"role": role, "content": content} for role, content in chat]
        render = Jinja2ChatFormatter(
            template=template,
            eos_token=self._text(self._model.token_eos()),
            bos_token=self._text(self._model.token_bos()),
        )
        try:
            prompt = render(messages=messages, enable_thinking=False).prompt
        except (ValueError, TypeError, jinja2.TemplateError) as error:
            raise KmError(f"the file's chat template does not accept this chat: {error}.", "Export it again.") from None
        return list(self._model.tokenize(prompt.encode("utf-8"), add_bos=False, special=True))

    def _text(self, token: int) -> str:
        vocabulary = self._library.llama_model_get_vocab(self._model.model)
        return self._library.llama_vocab_get_text(vocabulary, token).decode("utf-8") if token >= 0 else ""

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Logits after every token: (len(ids), vocabulary), fp32."""
        self._model.reset()
        self._model.eval(list(ids))
        return self._model.scores[: len(ids)].copy()

    def write(self, ids: Sequence[int], max_tokens: int) -> list[int]:
        """What the model writes after a prompt, always the likeliest token, up to and with one that ends a turn."""
        written: list[int] = []
        for token in self._model.generate(list(ids), temp=0.0):
            written.append(token)
            if len(written) == max_tokens or self._ends(token):
                break
        return written

    def text(self, ids: Sequence[int]) -> str:
        """The text of written tokens, without one that ends a turn."""
        kept = ids[:-1] if ids and self._ends(ids[-1]) else ids
        return self._model.detokenize(list(kept)).decode("utf-8", "replace")

    def _ends(self, token: int) -> bool:
        return bool(self._library.llama_vocab_is_eog(self._library.llama_model_get_vocab(self._model.model), token))


def ask_gguf(path: Path, chat: Chat, max_tokens: int) -> str:
    """A GGUF file's greedy answer to a chat, at most max_tokens long.

    Raises KmError where llama.cpp cannot open the file, ResourceError without llama-cpp-python.
    """
    # The context is reserved at once, so the prompt is counted first: a file may allow more than memory does.
    with GgufModel(path, 1, vocabulary_only=True) as tokenizer:
        ids = tokenizer.chat_ids(chat)
    with GgufModel(path, len(ids) + max_tokens) as model:
        return model.text(model.write(ids, max_tokens))
