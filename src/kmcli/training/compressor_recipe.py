"""How a compressor's recipe is put together: the defaults, then `--set`. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kmcli.errors import UsageError, did_you_mean


@dataclass(frozen=True, slots=True)
class CompressorRecipe:
    """Everything that decides what a compressor becomes, beside the base and the texts."""

    rank: int = 16
    alpha: int = 16
    learning_rate: float = 1e-3
    steps: int = 1000
    batch: int = 4
    warmup: float = 0.06
    clip: float = 1.0
    ratios: tuple[int, ...] = (4, 8, 15, 30)
    """Tokens for a vector: one of these for every example."""
    next_weight: float = 1.0
    """Of the next-token loss on what follows; 0: distillation alone."""
    held_out: float = 0.05
    """Share of the texts that is never trained on; decides early stopping."""
    early_stopping: bool = True
    seed: int = 0


_LIMITS: dict[str, tuple[float, float]] = {
    "rank": (1, 4096),
    "alpha": (1, 1 << 16),
    "learning_rate": (1e-9, 1),
    "steps": (1, 10**9),
    "batch": (1, 1 << 16),
    "warmup": (0, 1),
    "clip": (1e-6, 10**6),
    "ratios": (4, 1 << 10),
    "next_weight": (0, 10**6),
    "held_out": (0, 0.5),
    "seed": (0, 10**9),
}
_TRUTH = {"true": True, "yes": True, "false": False, "no": False}


def resolve(settings: Sequence[str]) -> CompressorRecipe:
    """Raises UsageError for an unknown key, and a value of the wrong kind."""
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = (part.strip() for part in setting.partition("="))
        if not equals:
            raise UsageError(f"--set takes key=value, not {setting!r}.", "For example: --set steps=2000")
        values[key] = _value(key, text)
    return CompressorRecipe(**values)


def _value(key: str, text: str) -> Any:
    known = [field.name for field in dataclasses.fields(CompressorRecipe)]
    if key not in known:
        hint = did_you_mean(key, known, "It has " + ", ".join(known) + ".")
        raise UsageError(f"a compressor's recipe has no {key!r}.", hint)
    default = getattr(CompressorRecipe(), key)
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default).lower()
    if isinstance(default, bool):
        if text.lower() not in _TRUTH:
            raise UsageError(f"{key} must be true or false, not {text!r}.", f"For example: --set {key}={shown}")
        return _TRUTH[text.lower()]
    kind = float if isinstance(default, float) else int
    try:
        numbers = [kind(part) for part in (text.split(",") if isinstance(default, tuple) else [text])]
    except ValueError:
        name = "a number" if kind is float else "a whole number"
        raise UsageError(f"{key} must be {name}, not {text!r}.", f"For example: --set {key}={shown}") from None
    low, high = _LIMITS[key]
    for number in numbers:
        if not low <= number <= high:
            raise UsageError(
                f"{key} must lie between {low:,} and {high:,}, not {number:,}.", f"The default is {shown}."
            )
    return tuple(numbers) if isinstance(default, tuple) else numbers[0]
