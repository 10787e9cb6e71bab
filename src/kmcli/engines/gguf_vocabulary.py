"""What a GGUF file says of itself, and text as its tokens, by llama.cpp: also where only the vocabulary is loaded."""

from __future__ import annotations

import ctypes
from functools import cached_property
from types import ModuleType
from typing import Any

from kmcli.engines import Chat
from kmcli.engines.template import compiled, rendered
from kmcli.errors import KmError
from kmcli.visible import apart


class GgufVocabulary:
    def __init__(self, llama: ModuleType, model: Any, hint: str) -> None:
        """llama: its C functions. model: as these take it. hint: the next step where the file is at fault."""
        self._library, self._model, self._hint = llama, model, hint
        self._vocabulary = llama.llama_model_get_vocab(model)

    @property
    def trained_context(self) -> int | None:
        """Tokens that the file says it can read at once; None where it does not say."""
        length = self._said(f"{self._said('general.architecture')}.context_length") or ""
        return int(length) if length.isdecimal() and int(length) > 0 else None

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
        special = llama.LLAMA_TOKEN_ATTR_CONTROL | llama.LLAMA_TOKEN_ATTR_UNKNOWN
        return [self._text(token) for token in every if llama.llama_vocab_get_attr(vocabulary, token) & special]

    @cached_property
    def _template(self) -> Any:
        ends = self._library.llama_vocab_bos(self._vocabulary), self._library.llama_vocab_eos(self._vocabulary)
        return compiled(self._said("tokenizer.chat_template") or "", *map(self._text, ends))

    def _text(self, token: int) -> str:
        return self._library.llama_vocab_get_text(self._vocabulary, token).decode("utf-8") if token >= 0 else ""

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
