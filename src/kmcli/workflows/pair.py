"""The base with a Knowledge Module and without it, on one copy, for who asks both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from kmcli.bases import Base
from kmcli.engines import Chat, Engine, Generation, Sampling
from kmcli.engines.server import ServerEngine
from kmcli.workflows import warm
from kmcli.workflows.answering import Answering, Member, Weighed, open_weighed
from kmcli.workflows.house import House


@dataclass(frozen=True, slots=True)
class Pair:
    """The base with a Knowledge Module and without. count: tokens of a text, as the base reads them."""

    km: Engine
    plain: Engine
    count: Callable[[str], int]


class Weighted:
    """One of the engines that a change of weights makes: it changes them whenever it is asked."""

    def __init__(self, weighed: Weighed, weights: Sequence[float]) -> None:
        self._weighed, self._weights = weighed, weights
        engine = weighed(weights).engine
        self.name, self.model, self.revision, self.context = engine.name, engine.model, engine.revision, engine.context

    def count(self, chat: Chat) -> int:
        return self._weighed(self._weights).engine.count(chat)

    def generate(
        self, chats: Sequence[Chat], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[Generation]:
        return self._weighed(self._weights).engine.generate(chats, sampling, progress)

    def stream(self, chat: Chat, sampling: Sampling, on_text: Callable[[str], None]) -> Generation:
        return self._weighed(self._weights).engine.stream(chat, sampling, on_text)


class _Cold:
    """Both engines, opened for the first that is asked for."""

    def __init__(self, house: House, base: Base, member: Member) -> None:
        self._given = house, base, [member]

    @cached_property
    def pair(self) -> Pair:
        weighed = open_weighed(*self._given)
        opened = weighed([1.0])
        engine = opened.engine
        if engine.name == "hf":  # which would load the module anew at every change
            from kmcli.engines.hf import HfEngine

            assert isinstance(engine, HfEngine)
            return Pair(engine, HfEngine(engine.loaded, engine.torch_model, adapter=False), opened.count)
        return Pair(Weighted(weighed, [1.0]), Weighted(weighed, [0.0]), opened.count)


def open_pair(house: House, base: Base, member: Member) -> Pair:
    """The base with a module and without, on one copy: as `answering.open_answering` chooses. A `km serve` answers for
    both, or for neither."""
    cold = _Cold(house, base, member)
    engines: list[ServerEngine] = []
    for members, own in (([member], "km"), ([], "plain")):
        found = warm.engine_of(
            house,
            base,
            members,
            lambda own=own: Answering(getattr(cold.pair, own), cold.pair.count),  # type: ignore[misc]
        )
        if found is None:
            return cold.pair
        engines.append(found)
    return Pair(engines[0], engines[1], engines[0].count_text)
