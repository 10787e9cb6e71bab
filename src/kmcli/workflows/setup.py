"""Setup: whether everything is as it should be, and what to do next."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kmcli import __version__, bases
from kmcli.bases import hub
from kmcli.errors import KmError
from kmcli.workflows import models
from kmcli.workflows.house import House
from kmcli.workflows.machine import EXTRAS, Machine, look

LOW_DISK_BYTES = 2 << 30
LARGE_CACHE_BYTES = 10 << 30
PACKAGES = ("torch", "transformers", "peft", "huggingface-hub", "safetensors")


@dataclass(frozen=True, slots=True)
class Check:
    """hint: the next step, where something is wrong or missing; what is as it should be says it in its message."""

    status: Literal["ok", "warn", "bad"]
    subject: str
    message: str
    hint: str = ""


def doctor(house: House, repair: bool) -> list[Check]:
    """Look at the machine, what is installed, the base, the disk and the library. repair mends what can be mended."""
    machine = look()
    return [
        *_library(house, repair),
        _base(house),
        _machine(machine),
        _suits(house, machine),
        _python(),
        *_packages(machine),
        *_extras(machine),
        _disk(house),
        *_caches(house),
    ]


def _library(house: House, repair: bool) -> Iterator[Check]:
    findings = house.library.check(repair)
    for finding in findings:
        status: Literal["ok", "warn", "bad"] = "ok" if finding.repaired else "warn" if finding.unchecked else "bad"
        yield Check(status, "library", finding.message, "" if finding.repaired else finding.hint)
    if not findings:
        count = house.library.catalogue.count()
        following = "km ls lists them" if count else "next: km add FILE"
        documents = f"{count:,} document{'' if count == 1 else 's'}"
        yield Check("ok", "library", f"sound: {documents} in {house.library.home}; {following}")


def _base(house: House) -> Check:
    name = house.settings["model"].value
    try:
        base = bases.find(name, house.report) if name == bases.EMBEDDED or Path(name).expanduser().is_dir() else None
    except KmError as error:
        return Check("bad", "base", error.message, error.hint)
    if base is None:
        if any(name == cached for cached, _ in hub.cached()):
            return Check("ok", "base", f"{name}, downloaded; others: km models")
        try:
            hub.check_name(name, None)
        except KmError as error:
            return Check("bad", "base", error.message, error.hint)
        return Check(
            "warn", "base", f"{name} is not downloaded yet", f"The first use does it, or: km models pull {name}"
        )
    note = f" ({bases.EMBEDDED_NOTICE})" if base.embedded else ""
    return Check("ok", "base", f"{', '.join(filter(None, (base.name, base.label)))}, revision {base.revision}{note}")


def _machine(machine: Machine) -> Check:
    memory = f"{machine.bytes / 1e9:.0f} GB of memory" if machine.bytes else "memory unknown"
    cores = f"{machine.cores} core{'' if machine.cores == 1 else 's'}"
    gpu = machine.gpu
    if gpu is None:
        found = "no GPU found: training takes long on a larger base than the embedded one"
    else:
        found = f"{f'{gpu.count} x ' if gpu.count > 1 else ''}{gpu.name}, {gpu.bytes / 1e9:.0f} GB"
    return Check("ok", "machine", f"{machine.system}, {cores}, {memory}, {found}")


def _suits(house: House, machine: Machine) -> Check:
    best, used = models.suits(machine), house.settings["model"].value
    if best == bases.EMBEDDED:
        return Check("ok", "suits", "the embedded base: memory for a larger one is lacking; a GPU helps (docs/gpu.md)")
    if used == best:
        return Check("ok", "suits", f"{best}, and it is in use")
    slow = "" if machine.gpu else " (on a processor a training takes hours: docs/scale.md)"
    return Check("ok", "suits", f"{best}, for real documents{slow}: km models pull {best}, km config set model {best}")


def _python() -> Check:
    return Check("ok", "km", f"{__version__}, Python {platform.python_version()}; settings: km config")


def _packages(machine: Machine) -> Iterator[Check]:
    torch, *others = ((name, importlib.metadata.version(name)) for name in PACKAGES)
    if "+cpu" in torch[1] and machine.gpu and machine.gpu.kind == "cuda":
        wrong = f"{torch[1]} cannot use the GPU: it is built for processors"
        yield Check("warn", "torch", wrong, "Install torch for CUDA.")
    else:
        yield Check("ok", "torch", f"{torch[1]}; where it computes: km config set device auto, cpu, cuda or mps")
    found = ", ".join(f"{name} {version}" for name, version in others)
    yield Check("ok", "packages", f"{found}; whether all fit together: pip check")


def _extras(machine: Machine) -> Iterator[Check]:
    for extra in EXTRAS:
        if version := extra.version:
            yield Check("ok", extra.name, f"{extra.distribution} {version}: {extra.gives}")
        elif extra.name == "gguf":
            lacking = "llama.cpp is not installed: km ask takes seconds to start, and exported files are not checked"
            yield Check("warn", extra.name, lacking, "pip install 'kmcli[gguf]'")
        elif extra.name in ("vllm", "bits") and not (machine.gpu and machine.gpu.kind == "cuda"):
            yield Check("ok", extra.name, f"not installed, and of no use without CUDA ({extra.gives})")
        else:
            wanted = f"pip install 'kmcli[{extra.name}]'"
            yield Check("ok", extra.name, f"not installed; for {extra.gives}: {wanted}")


def _disk(house: House) -> Check:
    free = shutil.disk_usage(house.library.home).free
    low = free < LOW_DISK_BYTES
    hint = "Free some space, or move the library: KM_HOME=FOLDER." if low else ""
    others = "" if low else "; the library can be elsewhere: KM_HOME=FOLDER"
    return Check("warn" if low else "ok", "disk", f"{free / 1e9:.1f} GB free{others}", hint)


def _caches(house: House) -> Iterator[Check]:
    from huggingface_hub import constants

    own = house.library.cache
    yield _cache("cache", own, "which may be deleted at any time")
    shared = Path(constants.HF_HUB_CACHE).expanduser()
    if shared.is_dir():
        yield _cache("hub cache", shared, "shared with other programs; hf cache lists and deletes")


def _cache(subject: str, folder: Path, note: str) -> Check:
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    large = size > LARGE_CACHE_BYTES
    unit, name = next((pair for pair in ((1e9, "GB"), (1e6, "MB")) if size >= pair[0]), (1e3, "kB"))
    shown = f"{size / unit:.1f} {name}" if size else "nothing"
    hint = f"Where the disk is full: rm -r {folder}" if large and subject == "cache" else ""
    return Check("warn" if hint else "ok", subject, f"{shown} in {folder}, {note}", hint)
