"""Presets, and how a recipe is put together: the base's card, then a preset, then a recipe file, then --set."""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kmcli.bases import Base
from kmcli.errors import UsageError, did_you_mean
from kmcli.synthesis import TASKS
from kmcli.types import Recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"generations": 8, "epochs": 12.0},
    "standard": {},
    "paper": {
        "steps": 1500,
        "batch": 8,
        "learning_rate": 1e-3,
        "dropout": 0.05,
        "summary_share": 1.0,
        "early_stopping": False,
    },
}
"""What each preset changes of a Recipe's defaults. `paper` is Caccia et al. 2025, appendix A."""

_FIXED = ("model", "revision", "format")


def resolve(base: Base, preset: str, file: Path | None = None, settings: Sequence[str] = ()) -> Recipe:
    """The recipe for a base. Raises UsageError for an unknown preset or key, and for a value of the wrong kind."""
    if preset not in PRESETS:
        raise UsageError(f"there is no preset {preset!r}.", "Choose one of " + ", ".join(PRESETS) + ".")
    values: dict[str, Any] = {"chunk_tokens": base.chunk_tokens, **base.recipe, **PRESETS[preset]}
    if file is not None:
        values.update(_read(file))
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set takes key=value, not {setting!r}.", "For example: --set rank=32")
        _check_key(key.strip(), "--set")
        values[key.strip()] = _from_text(key.strip(), text.strip())
    for key, value in values.items():
        values[key] = _checked(key, value)
    return dataclasses.replace(Recipe(model=base.name, revision=base.revision), **values)


def _read(file: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise UsageError(f"there is no recipe file {file}.", "Check the path.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"the recipe file {file} cannot be read: {error}.", "It must be TOML: rank = 16") from None
    for key in values:
        _check_key(key, str(file))
    return values


def _check_key(key: str, origin: str) -> None:
    known = [field.name for field in dataclasses.fields(Recipe) if field.name not in _FIXED]
    if key not in known:
        raise UsageError(
            f"a recipe has no {key!r} ({origin}).", did_you_mean(key, known, "It has " + ", ".join(known) + ".")
        )


def _from_text(key: str, text: str) -> Any:
    kind = _kind(key)
    if kind is bool:
        return {"true": True, "yes": True, "false": False, "no": False}.get(text.lower(), text)
    if kind is tuple:
        return [word.strip() for word in text.split(",") if word.strip()]
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return text
    return text


def _checked(key: str, value: Any) -> Any:
    kind = _kind(key)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is tuple and isinstance(value, (list, tuple)):
        unknown = [task for task in value if task not in TASKS]
        if unknown or not value:
            what = f"there is no task {unknown[0]!r}." if unknown else "a recipe needs at least one task."
            raise UsageError(what, "Choose among " + ", ".join(TASKS) + ".")
        return tuple(value)
    choices = _choices(key)
    if choices:
        if value not in choices:
            raise UsageError(f"{value!r} is no {key}.", "Choose one of " + ", ".join(choices) + ".")
        return value
    example = getattr(Recipe(), key)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        name = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(kind, "a list")
        raise UsageError(f"{key} must be {name}, not {value!r}.", f"For example: --set {key}={example}")
    low, high = _LIMITS.get(key, (0, float("inf")))
    if isinstance(value, (int, float)) and not low <= value <= high:
        raise UsageError(f"{key} must lie between {low:g} and {high:g}, not {value:g}.", f"The default is {example}.")
    return value


_LIMITS: dict[str, tuple[float, float]] = {
    "chunk_tokens": (16, 1 << 20),
    "chunk_overlap": (0, 0.9),
    "generations": (1, 10_000),
    "temperature": (0, 5),
    "top_p": (0.01, 1),
    "rank": (1, 4096),
    "alpha": (1, 1 << 16),
    "dropout": (0, 0.9),
    "learning_rate": (0, 1),
    "warmup": (0, 1),
    "clip": (1e-6, 1e6),
    "batch": (1, 1 << 16),
    "held_out": (0, 0.5),
    "summary_share": (0, 1),
}


def _kind(key: str) -> type:
    hint = typing.get_type_hints(Recipe)[key]
    origin = typing.get_origin(hint)
    return str if origin is typing.Literal else origin or hint


def _choices(key: str) -> tuple[str, ...]:
    hint = typing.get_type_hints(Recipe)[key]
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
