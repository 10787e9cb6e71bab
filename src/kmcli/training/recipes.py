"""Presets, and how a recipe is put together: the base's card, then a preset, then a recipe file, then --set."""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kmcli.adapters import ADAPTERS
from kmcli.bases import Base
from kmcli.bases.quantised import BITS
from kmcli.errors import UsageError, did_you_mean
from kmcli.objectives.losses import hidden_layers
from kmcli.synthesis import TASKS
from kmcli.synthesis.judge import BEST
from kmcli.synthesis.plan import canonical_lengths, check_lengths, check_prompts
from kmcli.training.mixture import canonical, study_tasks
from kmcli.types import Recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"generations": 8, "epochs": 12.0, "exam": False},
    "standard": {},
    "paper": {
        "chunk_overlap": 0.1,
        "generations": 16,
        "summary_share": 1.0,
        "top_p": 0.8,
        "min_explained": 0.0,
        "rank": 16,
        "alpha": 16,
        "dropout": 0.05,
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "warmup": 0.06,
        "steps": 1500,
        "batch": 8,
        "early_stopping": False,
        "exam": False,
    },
}
"""What each preset changes of a Recipe's defaults. `paper` is Caccia et al. 2025, appendix A: all that it gives a number
for but the chunk's size, which is the base's, so that no card can change it."""

_FIXED = ("model", "revision", "base_label", "teacher_revision", "init_revision", "group", "format")


def resolve(base: Base, preset: str, file: Path | None = None, settings: Sequence[str] = ()) -> Recipe:
    """The recipe for a base. Raises UsageError for an unknown preset or key, and for a value of the wrong kind."""
    if preset not in PRESETS:
        raise UsageError(f"there is no preset {preset!r}.", "Choose one of " + ", ".join(PRESETS) + ".")
    values: dict[str, Any] = {"chunk_tokens": base.chunk_tokens}
    values.update(_known(base.recipe, f"the card of {base.name}"))
    values.update(PRESETS[preset])
    given = dict(_known(_read(file), str(file))) if file is not None else {}
    given.update(map(_pair, settings))
    adapter = _checked("adapter", given.get("adapter", values.get("adapter", Recipe().adapter)))
    values.update(ADAPTERS[adapter].DEFAULTS)
    values.update(given)
    if values.get("teacher") and "min_explained" not in given:  # the card's is measured on what the base writes
        values["min_explained"] = 0.0
    checked = {key: _checked(key, value) for key, value in values.items()}
    recipe = dataclasses.replace(Recipe(model=base.name, revision=base.revision, base_label=base.label), **checked)
    if not recipe.teacher:
        check_prompts(recipe, base.prompts)
    study_tasks(recipe)
    if recipe.init and "init" not in ADAPTERS[recipe.adapter].ABLE:
        what = ADAPTERS[recipe.adapter].WHAT
        raise UsageError(f"{what} begins from its own document, not from another's module.", "Leave --init out.")
    check_lengths(recipe)
    return recipe


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise UsageError(f"there is no recipe file {file}.", "Check the path.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"the recipe file {file} cannot be read: {error}.", "It must be TOML: rank = 16") from None


def _pair(setting: str) -> tuple[str, Any]:
    key, equals, text = (part.strip() for part in setting.partition("="))
    if not equals:
        raise UsageError(f"--set takes key=value, not {setting!r}.", "For example: --set rank=32")
    _known({key: text}, "--set")
    return key, _from_text(key, text)


def _known(values: Mapping[str, Any], origin: str) -> Mapping[str, Any]:
    known = [field.name for field in dataclasses.fields(Recipe) if field.name not in _FIXED]
    for key in values:
        if key not in known:
            raise UsageError(
                f"a recipe has no {key!r} ({origin}).", did_you_mean(key, known, "It has " + ", ".join(known) + ".")
            )
    return values


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
    if key == "max_tokens" and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is tuple and isinstance(value, (list, tuple)):
        unknown = [task for task in value if not isinstance(task, str)]
        if unknown or not value:
            what = f"there is no task {unknown[0]!r}." if unknown else "a recipe needs at least one task."
            raise UsageError(what, "Choose among " + ", ".join(TASKS) + ".")
        return tuple(dict.fromkeys(value))
    choices = _choices(key)
    if choices:
        if value not in choices:
            raise UsageError(f"{value!r} is no {key}.", "Choose one of " + ", ".join(choices) + ".")
        return value
    default = getattr(Recipe(), key)
    example = ",".join(default) if kind is tuple else str(default).lower()
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        name = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(kind, "a list")
        raise UsageError(f"{key} must be {name}, not {value!r}.", f"For example: --set {key}={example}")
    if key in _LINES:
        return _LINES[key](str(value))
    low, high = _LIMITS.get(key, (0, 10**9))
    if isinstance(value, (int, float)) and not low <= value <= high:
        hint = f"The default is {example}." if low <= default <= high else "Left out, it is what suits the base."
        raise UsageError(f"{key} must lie between {low:,} and {high:,}, not {value:,}.", hint)
    return value


_LIMITS: dict[str, tuple[float, float]] = {
    "chunk_tokens": (16, 1 << 20),
    "chunk_overlap": (0, 0.9),
    "generations": (1, 10_000),
    "temperature": (0, 5),
    "top_p": (0.01, 1),
    "min_explained": (0, 1),
    "min_score": (0, BEST),
    "teacher_top_k": (1, 1 << 20),
    "cartridge_tokens": (0, 1 << 20),
    "cartridge_frozen": (0, 1 << 20),
    "summary_ratio": (4, 1 << 10),
    "rank": (1, 4096),
    "alpha": (1, 1 << 16),
    "dropout": (0, 0.9),
    "learning_rate": (1e-9, 1),
    "warmup": (0, 1),
    "clip": (1e-6, 10**6),
    "epochs": (0.01, 10**6),
    "batch": (1, 1 << 16),
    "held_out": (0, 0.5),
    "exam_rounds": (0, 4),
    "skd_draft": (1, 64),
    "skd_every": (1, 10**6),
    "summary_share": (0, 1),
}


def _layers(value: str) -> str:
    value = value.replace(" ", "")
    try:
        hidden_layers(value, 10_000)  # how many the base has is seen when it is loaded
    except ValueError as error:
        raise UsageError(f"{error}.", "For example: --set hidden_layers=even") from None
    return value


def _bits(value: str) -> int:
    if int(value) not in BITS:
        raise UsageError(f"base_bits must be 4 or 8, not {value}.", "The default, 0, leaves the base as it is.")
    return int(value)


_LINES: dict[str, Callable[[str], Any]] = {
    "base_bits": _bits,
    "objective": canonical,
    "hidden_layers": _layers,
    "max_tokens": canonical_lengths,
}
"""Values that `_LIMITS` cannot say: what checks them and puts them in the one form that recipes keep."""


def _kind(key: str) -> type:
    hint = typing.get_type_hints(Recipe)[key]
    origin = typing.get_origin(hint)
    return str if origin is typing.Literal else origin or hint


def _choices(key: str) -> tuple[str, ...]:
    hint = typing.get_type_hints(Recipe)[key]
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
