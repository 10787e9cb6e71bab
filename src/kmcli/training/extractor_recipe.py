"""How an extractor's recipe is put together: the defaults, the base's card, then `--set`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from kmcli.bases import Base
from kmcli.errors import UsageError, did_you_mean
from kmcli.library.extractors import ExtractorRecipe

_FIXED = ("model", "revision", "base_label", "modules", "format")
_LIMITS: dict[str, tuple[float, float]] = {
    "passages": (0, 100),
    "rank": (1, 4096),
    "alpha": (1, 1 << 16),
    "learning_rate": (1e-9, 1),
    "weights_rate": (0, 1000),
    "warmup": (0, 1),
    "weight_decay": (0, 10),
    "clip": (1e-6, 10**6),
    "steps": (0, 10**9),
    "epochs": (0.01, 10**6),
    "batch": (1, 1 << 16),
    "held_out": (0, 0.5),
    "seed": (0, 10**9),
}
_TRUTH = {"true": True, "yes": True, "false": False, "no": False}


def resolve(base: Base, settings: Sequence[str], modules: bool, passages: int) -> ExtractorRecipe:
    """The recipe for a base: its learning rate is what the base's card says for modules.

    Raises UsageError for an unknown key, a value of the wrong kind, and for an extractor that would have nothing of a
    document to read.
    """
    values: dict[str, Any] = {"passages": passages, "modules": modules}
    if "learning_rate" in base.recipe:
        values["learning_rate"] = float(base.recipe["learning_rate"])
    for setting in settings:
        key, equals, text = (part.strip() for part in setting.partition("="))
        if not equals:
            raise UsageError(f"--set takes key=value, not {setting!r}.", "For example: --set rank=32")
        values[key] = _value(key, text)
    recipe = ExtractorRecipe(base.name, base.revision, base.label)
    recipe = dataclasses.replace(recipe, **values)
    if not recipe.modules and not recipe.passages:
        raise UsageError(
            "without Knowledge Modules an extractor reads nothing of a document.", "Give it passages: --passages 3"
        )
    return recipe


def _value(key: str, text: str) -> Any:
    known = [field.name for field in dataclasses.fields(ExtractorRecipe) if field.name not in _FIXED]
    if key not in known:
        hint = did_you_mean(key, known, "It has " + ", ".join(known) + ".")
        raise UsageError(f"an extractor's recipe has no {key!r}.", hint)
    default = getattr(ExtractorRecipe(), key)
    example = f"For example: --set {key}={str(default).lower()}"
    if key == "schedule":
        if text not in ("cosine", "linear"):
            raise UsageError(f"{text!r} is no schedule.", "Choose one of cosine, linear.")
        return text
    if isinstance(default, bool):
        if text.lower() not in _TRUTH:
            raise UsageError(f"{key} must be true or false, not {text!r}.", example)
        return _TRUTH[text.lower()]
    try:
        value = type(default)(text)
    except ValueError:
        name = "a whole number" if isinstance(default, int) else "a number"
        raise UsageError(f"{key} must be {name}, not {text!r}.", example) from None
    low, high = _LIMITS[key]
    if not low <= value <= high:
        raise UsageError(f"{key} must lie between {low:,} and {high:,}, not {value:,}.", f"The default is {default}.")
    return value
