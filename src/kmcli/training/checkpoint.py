"""Checkpoints: adapter, optimiser and position, in safetensors and JSON, replaced atomically; and a Ctrl-C that waits.

A checkpoint is one file. Its position is in the file's own metadata, so that weights and position can never disagree.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

CHECKPOINT = "checkpoint.safetensors"
BEST = "best.safetensors"


@dataclass(slots=True)
class Progress:
    """Where training is. best: the lowest held-out loss so far, at best_step; last: the newest."""

    step: int = 0
    best: float | None = None
    best_step: int = 0
    last: float | None = None
    curve: list[dict[str, float]] = field(default_factory=list)


def save(
    folder: Path, parameters: Mapping[str, torch.nn.Parameter], optimiser: torch.optim.AdamW, progress: Progress
) -> None:
    """Write a checkpoint into an existing folder."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in parameters.items():
        tensors[f"parameter/{name}"] = parameter.detach().cpu().contiguous()
        for key, value in optimiser.state[parameter].items():
            tensors[f"{key}/{name}"] = value.detach().cpu().contiguous()
    _write(folder / CHECKPOINT, tensors, {"progress": json.dumps(asdict(progress))})


def restore(
    folder: Path, parameters: Mapping[str, torch.nn.Parameter], optimiser: torch.optim.AdamW
) -> Progress | None:
    """Continue from the folder's checkpoint: fills parameters and optimiser. None where there is no checkpoint."""
    file = folder / CHECKPOINT
    if not file.exists():
        return None
    tensors = load_file(file)
    with safe_open(file, framework="pt") as reader:
        progress = Progress(**json.loads(reader.metadata()["progress"]))
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"parameter/{name}"])
            state = {
                key: tensors[f"{key}/{name}"].to(parameter.device if key != "step" else "cpu")
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}/{name}" in tensors
            }
            if state:
                optimiser.state[parameter] = state
    return progress


def save_best(folder: Path, parameters: Mapping[str, torch.nn.Parameter]) -> None:
    """Keep the adapter as it is now, as the best so far."""
    _write(folder / BEST, {name: parameter.detach().cpu().contiguous() for name, parameter in parameters.items()}, {})


def restore_best(folder: Path, parameters: Mapping[str, torch.nn.Parameter]) -> None:
    """Bring back the adapter that `save_best` kept."""
    tensors = load_file(folder / BEST)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def _write(file: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    temporary = file.with_suffix(".tmp")
    save_file(tensors, temporary, metadata)
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(file)


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Within it the first Ctrl-C only sets a flag, which the yielded function reads: a step is never torn in half.

    The second Ctrl-C acts as usual. Outside the main thread, where Python allows no handlers, the flag stays false.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    pressed = False
    before = signal.getsignal(signal.SIGINT)

    def remember(number: int, frame: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
