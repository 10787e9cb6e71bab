"""What callers of the Python API give, as the workflows want it, and how several inputs fail."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kmcli.errors import InterruptedRun, KmError, PartlyDone
from kmcli.types import Document, Event
from kmcli.workflows.house import Failure
from kmcli.workflows.material import RecipeOptions

Named = str | Document
"""A document: its name, "@TAG" for all with a tag, or the Document itself."""

PathLike = str | os.PathLike[str]


def warn(event: Event) -> None:
    """The reporter of those who gave none: progress is not shown, warnings are Python's own."""
    if event.warning:
        warnings.warn(event.message, UserWarning, stacklevel=4)


def name_of(given: Named) -> str:
    return given.name if isinstance(given, Document) else given


def names_of(given: Iterable[Named]) -> list[str]:
    return [name_of(one) for one in given]


def recipe_options(preset: str | None, recipe: PathLike | None, settings: Mapping[str, object] | None) -> RecipeOptions:
    """settings: fields of a Recipe, as `--set` takes them."""
    return RecipeOptions(
        preset,
        None if recipe is None else Path(recipe),
        [f"{key}={_text(value)}" for key, value in (settings or {}).items()],
    )


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value)


def raise_failed(failed: Sequence[Failure], finished: int, interrupted: InterruptedRun | None = None) -> None:
    """Raise what a verb on several inputs could not do, when all else is done.

    Ctrl-C's InterruptedRun outranks all; the only input's error is raised as it is; else PartlyDone names what failed,
    or KmError where nothing was finished.
    """
    if interrupted:
        raise interrupted
    if not failed:
        return
    if len(failed) == 1 and not finished:
        raise failed[0].error
    kind = PartlyDone if finished else KmError
    first = failed[0]
    others = f" (and {len(failed) - 1} more failed)" if len(failed) > 1 else ""
    raise kind(f"{first.source}: {first.error.message}{others}", first.error.hint)
