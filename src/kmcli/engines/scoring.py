"""How likely a model finds answers that it is shown, whichever engine runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kmcli.engines import Chat, Engine


def can_score(engine: Engine) -> bool:
    return hasattr(engine, "score_many") or hasattr(engine, "score")


def score_all(engine: Any, chats: Sequence[Chat], answers: Sequence[str]) -> list[list[float]]:
    """`Scorer.score` of each answer after the chat in its place, at once where that goes. engine: one that can_score."""
    if hasattr(engine, "score_many"):
        found: list[list[float]] = engine.score_many(chats, answers)
        return found
    return [engine.score(chat, answer) for chat, answer in zip(chats, answers, strict=True)]
