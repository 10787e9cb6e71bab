"""What the folders of all adapters have in common: PEFT's two files, and how damage to them is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kmcli.errors import KmError, ResourceError
from kmcli.library.files import gone

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

FIRST = "default"
"""What PEFT calls an adapter that has no other name; all are saved as if they had this one."""

AGAIN = "Train it again with: km train NAME --restart"


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """What goes wrong within it is told as a KmError: the module in the folder cannot be loaded, or is gone since it was
    looked up."""
    from safetensors import SafetensorError

    try:
        yield
    except FileNotFoundError as error:
        if not folder.is_dir():
            raise missing(folder) from None
        raise _unloadable(folder, error) from None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise _unloadable(folder, error) from None


def missing(folder: Path) -> ResourceError:
    """That an adapter's folder is no longer where it was looked up: it alone, or the library with it."""
    for outer in reversed(folder.parents):
        if not outer.is_dir():
            return gone(outer)
    return ResourceError(f"{folder} was replaced or removed meanwhile.", "Try again.")


def _unloadable(folder: Path, error: Exception) -> KmError:
    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    return KmError(f"the Knowledge Module in {folder} cannot be loaded: {why}", AGAIN)


def require_weights(folder: Path) -> None:
    """Where they are missing PEFT would open pickled ones, or ask the hub for some. Raises FileNotFoundError."""
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"there is no {WEIGHTS} in it")


def config_of(folder: Path) -> dict[str, Any]:
    """PEFT's configuration. Raises KmError where it cannot be read."""
    with explained(folder):
        found = json.loads((folder / CONFIG).read_text("utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"{CONFIG} is damaged")
        return found


def layers_of(folder: Path) -> set[str]:
    """What kinds of linear layers a LoRA changes (`q_proj`, ...), by its weights: PEFT's configuration names them, or each
    layer of its own, or holds a pattern. Raises KmError where they cannot be read."""
    from safetensors import safe_open

    with explained(folder):
        require_weights(folder)
        with safe_open(folder / WEIGHTS, "np") as tensors:
            names = list(tensors.keys())
    return {name.split(".")[-3] for name in names if name.endswith(".lora_A.weight")}
