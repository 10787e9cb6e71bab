"""Checkpoints: adapter, optimiser, best adapter and position, replaced atomically; and a Ctrl-C that waits.

A checkpoint is one safetensors file with the position, as JSON, in its metadata: they can never disagree.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from kmcli.errors import KmError, ResourceError
from kmcli.library.files import explained, sync

CHECKPOINT = "checkpoint.safetensors"


@dataclass(slots=True)
class Progress:
    """Where training is. best: the lowest held-out loss so far, at best_step; last: the newest.

    curve: a point a step, with "held_out" where that was measured. written: responses in tokens that took the place of
    others, by the number of their view (`skd`).
    """

    step: int = 0
    best: float | None = None
    best_step: int = 0
    last: float | None = None
    micro_tokens: int = 0
    """Tokens of a micro-batch; 0: not decided yet."""
    curve: list[dict[str, float]] = field(default_factory=list)
    written: dict[str, list[int]] = field(default_factory=dict)
    tokens: int = 0
    """Scored ones that were trained on, each as often as it was."""
    seconds: float = 0.0
    """Over all runs."""


def copy(parameters: Mapping[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    """The parameters as they are now, in main memory."""
    return {name: parameter.detach().to("cpu", copy=True) for name, parameter in parameters.items()}


def bring_back(parameters: Mapping[str, torch.nn.Parameter], values: Mapping[str, torch.Tensor]) -> None:
    """Set the parameters to what `copy` kept."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])


def save(
    folder: Path,
    parameters: Mapping[str, torch.nn.Parameter],
    optimiser: torch.optim.AdamW,
    progress: Progress,
    best: Mapping[str, torch.Tensor],
) -> None:
    """Write a checkpoint into an existing folder. best: the parameters of progress.best_step; empty where there are none.

    Raises ResourceError where the disk is full; the checkpoint before is then as it was.
    """
    tensors = {f"best/{name}": value for name, value in best.items()}
    for name, parameter in parameters.items():
        tensors[f"parameter/{name}"] = parameter.detach().cpu().contiguous()
        for key, value in optimiser.state[parameter].items():
            tensors[f"{key}/{name}"] = value.cpu().contiguous()
    temporary = folder / "checkpoint.tmp"
    try:
        with storing(folder):
            save_file(tensors, temporary, {"progress": json.dumps(asdict(progress))})
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(folder / CHECKPOINT)
            sync(folder)
    finally:
        with suppress(OSError):  # what stands in its way did so before
            temporary.unlink(missing_ok=True)


@contextmanager
def storing(folder: Path) -> Iterator[None]:
    """Within it weights are written into an existing folder. Raises ResourceError for what the disk refuses."""
    try:
        with explained(folder):
            folder.stat()  # PEFT would make one that is gone, and all above it
            yield
    except SafetensorError as error:  # it has no OSError for the disk
        raise ResourceError(f"{folder} cannot be written to: {error}.", "Free some space and try again.") from None


def restore(
    folder: Path, parameters: Mapping[str, torch.nn.Parameter], optimiser: torch.optim.AdamW
) -> tuple[Progress, dict[str, torch.Tensor]]:
    """Fill parameters and optimiser from the folder's checkpoint; returns its progress and best parameters.

    Without a checkpoint nothing changes, and progress is that of the start. Raises KmError where it cannot be read.
    """
    file = folder / CHECKPOINT
    if not file.exists():
        return Progress(), {}
    try:
        tensors = load_file(file)
        with safe_open(file, framework="pt") as reader:
            progress = Progress(**json.loads(reader.metadata()["progress"]))
        best = {name: tensors[f"best/{name}"] for name in parameters} if progress.best is not None else {}
        bring_back(parameters, {name: tensors[f"parameter/{name}"] for name in parameters})
        for name, parameter in parameters.items():
            if f"step/{name}" in tensors:  # not where it never had a gradient, as an expert that no token chose
                optimiser.state[parameter] = {
                    "step": tensors[f"step/{name}"],
                    "exp_avg": tensors[f"exp_avg/{name}"].to(parameter.device),
                    "exp_avg_sq": tensors[f"exp_avg_sq/{name}"].to(parameter.device),
                }
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        raise KmError(
            f"the checkpoint {file} is damaged, or of another training.", "Start the training over with --restart."
        ) from None
    return progress, best


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
