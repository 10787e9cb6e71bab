"""Counts what another engine writes, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from kmcli.engines import Chat, Engine, Generation, Sampling


class Metered:
    """tokens: written through it so far. seconds: that it took."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name, self.model, self.revision, self.context = engine.name, engine.model, engine.revision, engine.context
        self.tokens = 0
        self.seconds = 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    def count(self, chat: Chat) -> int:
        return self._engine.count(chat)

    def generate(
        self, chats: Sequence[Chat], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[Generation]:
        began = time.monotonic()
        return self._counted(self._engine.generate(chats, sampling, progress), began)

    def stream(self, chat: Chat, sampling: Sampling, on_text: Callable[[str], None]) -> Generation:
        began = time.monotonic()
        return self._counted([self._engine.stream(chat, sampling, on_text)], began)[0]

    def _counted(self, generations: list[Generation], began: float) -> list[Generation]:
        self.seconds += time.monotonic() - began
        self.tokens += sum(generation.tokens for generation in generations)
        return generations
