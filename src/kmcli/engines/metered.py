"""Counts what another engine reads and writes, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from kmcli.engines import Chat, Engine, Generation, Sampling


class Metered:
    """chats: finished through it so far, those under way included as soon as they are done. read, tokens: what the
    finished calls read and wrote. seconds: that those took.
    """

    def __init__(
        self,
        engine: Engine,
        progress: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """progress is called whenever `chats` has grown."""
        self._engine, self._progress, self._clock = engine, progress, clock
        self.name, self.model, self.revision, self.context = engine.name, engine.model, engine.revision, engine.context
        self.chats = self.read = self.tokens = 0
        self.seconds = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Written, not read; 0 before the first call is finished."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def count(self, chat: Chat) -> int:
        return self._engine.count(chat)

    def generate(
        self, chats: Sequence[Chat], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[Generation]:
        before, began = self.chats, self._clock()

        def moved(finished: int) -> None:
            self.chats = before + finished
            self._progress()
            if progress:
                progress(finished)

        return self._counted(self._engine.generate(chats, sampling, moved), before, began)

    def stream(self, chat: Chat, sampling: Sampling, on_text: Callable[[str], None]) -> Generation:
        before, began = self.chats, self._clock()
        return self._counted([self._engine.stream(chat, sampling, on_text)], before, began)[0]

    def _counted(self, generations: list[Generation], before: int, began: float) -> list[Generation]:
        self.seconds += self._clock() - began
        self.chats = before + len(generations)
        self.read += sum(generation.prompt_tokens for generation in generations)
        self.tokens += sum(generation.tokens for generation in generations)
        return generations
