"""What engines outside transformers share: how much there is room to write, seeds, and pieces of text that are final."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from kmcli.errors import KmError


def room(prompt_tokens: int, max_tokens: int, context: int) -> int:
    """Tokens that may be written after a prompt. Raises KmError where the prompt alone fills the context."""
    if prompt_tokens >= context:
        raise KmError(
            f"a prompt of {prompt_tokens:,} tokens leaves no room to write in the {context:,} that the model can read "
            "at once.",
            f"Use smaller chunks: --set chunk_tokens={context // 3}",
        )
    return min(max_tokens, context - prompt_tokens)


def chat_seed(seed: int, index: int) -> int:
    """A seed for each chat of a call, so that equal chats differ and the order they are written in does not matter.

    Below 2^31, because no runtime gives such a number a meaning of its own.
    """
    return int(hashlib.sha256(f"{seed}\0{index}".encode()).hexdigest()[:8], 16) >> 1


class Pieces:
    """Hands over growing text as soon as nothing later can change it."""

    def __init__(self, on_text: Callable[[str], None]) -> None:
        self._on_text = on_text
        self._shown = 0

    def grow(self, text: str) -> None:
        """text: all that is written so far, stripped, because white space at its end waits for a word."""
        if not text.endswith("\ufffd"):  # half of a character
            self.end(text)

    def end(self, text: str) -> None:
        if len(text) > self._shown:
            self._on_text(text[self._shown :])
            self._shown = len(text)
