"""Which adapter is on while an engine computes: engines over one copy of a base take turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any


def switch(model: Any, adapter: bool | str, others: Sequence[Any]) -> Callable[[], AbstractContextManager[Any]]:
    """Opens a context in which a carrier's adapter is on, off or the one of a name, and those of all others are off."""
    if others:
        return partial(_alone, model, adapter, others)
    if isinstance(adapter, str):
        return partial(_using, model, adapter)
    return nullcontext if adapter else model.disable_adapter


@contextmanager
def _alone(model: Any, adapter: bool | str, others: Sequence[Any]) -> Iterator[None]:
    """The LoRAs of several carriers lie in the same layers of the base: what one says to these, switching off or choosing,
    holds for the others' as well. So one's own is chosen and switched on last."""
    with ExitStack() as switched:
        for other in others:
            switched.enter_context(other.disable_adapter())
        if isinstance(adapter, str):
            model.enable_adapter_layers()
            model.set_adapter(adapter)
        else:
            switched.enter_context(switch(model, adapter, ())())
        yield


@contextmanager
def _using(model: Any, name: str) -> Iterator[None]:
    if model.active_adapters != [name]:
        model.set_adapter(name)
    yield
