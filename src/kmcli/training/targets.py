"""Where the teacher's targets are kept: in memory as far as a budget reaches, then in a file; what is beyond is not kept.

The file may be deleted at any time: it only saves work. It is read with pread rather than mapped into memory, because a
mapped file that another program cuts short kills the process that reads it; the system's cache makes both as fast.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import torch

from kmcli.types import View

FILE = "targets.bin"
MEMORY_BYTES = 2 << 30
DISK_BYTES = 32 << 30
"""At most; and never more than half of what is free."""
_HEADER = struct.Struct("<32sQIIII")
"""Before each tensor in the file: key, its bytes, layers, tokens, kind of number, checksum."""
_KINDS = (torch.float16, torch.bfloat16, torch.float32)


def key(view: View, base: str) -> bytes | None:
    """What a view's targets depend on: the base's revision, what the teacher reads, and where it is scored.

    None where the view has no teacher.
    """
    if view.teacher_ids is None or view.teacher_mask is None:
        return None
    scored = [index for index, on in enumerate(view.teacher_mask) if on]
    return hashlib.sha256(json.dumps([base, view.teacher_ids, scored]).encode()).digest()


def half(states: torch.Tensor) -> torch.Tensor:
    """fp32 states in half the bytes: fp16, whose error is an eighth of bf16's; as they are where a value is too large."""
    if states.dtype != torch.float32:
        return states
    small = states.half()
    return small if bool(small.isfinite().all()) else states


class Targets:
    """Tensors (L, n, D) by key."""

    def __init__(self, folder: Path | None, memory: int = MEMORY_BYTES, disk: int = DISK_BYTES) -> None:
        """folder: of the file, whose records are used again; None: no file."""
        self.memory = memory
        self.kept: dict[bytes, torch.Tensor] = {}
        self.places: dict[bytes, int] = {}
        self.path = folder / FILE if folder else None
        self.disk = min(disk, shutil.disk_usage(folder).free // 2) if folder else 0
        self.used = self.end = 0
        self.descriptor: int | None = None
        if self.path and self.path.exists():
            self._open()
            self._scan()

    def get(self, key: bytes) -> torch.Tensor | None:
        """None where they are not kept, or the file no longer holds what was written."""
        if key in self.kept:
            return self.kept[key]
        if key not in self.places:
            return None
        found = self._read(key, self.places[key])
        if found is None:
            del self.places[key]
        return found

    def put(self, key: bytes, target: torch.Tensor) -> bool:
        """Keep a target where there is room; says whether there was."""
        target = half(target.detach()).cpu()
        size = target.numel() * target.element_size()
        if self.used + size <= self.memory:
            self.kept[key] = target.clone()  # not a piece of a larger tensor
            self.used += size
            return True
        return self._write(key, target)

    def forget(self, key: bytes) -> None:
        """Make room in memory; the file keeps what it has."""
        if (kept := self.kept.pop(key, None)) is not None:
            self.used -= kept.numel() * kept.element_size()

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def _open(self) -> int:
        if self.descriptor is None:
            assert self.path is not None
            self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        return self.descriptor

    def _scan(self) -> None:
        """Find the records, up to the first that is no whole one: from there the file is written anew."""
        whole = os.fstat(self._open()).st_size
        while self.end + _HEADER.size < whole:
            key, size, *_ = _HEADER.unpack(os.pread(self._open(), _HEADER.size, self.end))
            if self.end + _HEADER.size + size > whole:
                return
            self.places[key] = self.end
            self.end += _HEADER.size + size

    def _write(self, key: bytes, target: torch.Tensor) -> bool:
        content = target.contiguous().view(torch.uint8).numpy().tobytes()
        if self.end + _HEADER.size + len(content) > self.disk:
            return False
        layers, tokens = target.shape[:2]
        header = _HEADER.pack(key, len(content), layers, tokens, _KINDS.index(target.dtype), zlib.crc32(content))
        try:
            written = os.pwrite(self._open(), header + content, self.end)
        except OSError:
            written = 0
        if written < len(header) + len(content):  # the disk is full: the rest is computed when it is needed
            self.disk = 0
            return False
        self.places[key] = self.end
        self.end += written
        return True

    def _read(self, key: bytes, place: int) -> torch.Tensor | None:
        header = os.pread(self._open(), _HEADER.size, place)
        if len(header) < _HEADER.size:
            return None
        found, size, layers, tokens, kind, checksum = _HEADER.unpack(header)
        content = bytearray(os.pread(self._open(), size, place + _HEADER.size)) if found == key else bytearray()
        if len(content) != size or not size or zlib.crc32(content) != checksum or kind >= len(_KINDS):
            return None
        return torch.frombuffer(content, dtype=_KINDS[kind]).view(layers, tokens, -1)
