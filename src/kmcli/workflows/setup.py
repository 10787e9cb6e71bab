"""Setup: which bases there are, and whether everything is as it should be."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kmcli import bases
from kmcli.bases import folder, hub
from kmcli.errors import KmError
from kmcli.workflows.house import House

LOW_DISK_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A base on this disk. bytes: of its weights. title, version: by its card, "" where it does not say."""

    name: str
    path: Path | None
    bytes: int
    note: str
    in_use: bool
    title: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    status: Literal["ok", "warn", "bad"]
    subject: str
    message: str
    hint: str = ""


def models(house: House) -> list[ModelEntry]:
    """The bases that are on this disk: the embedded one, those in the hub's cache, and the one in use."""
    used = house.settings["model"].value
    entries = [_entry(bases.EMBEDDED, bases.EMBEDDED_FOLDER, "for trying km, works offline", used)]
    entries += [_entry(name, path, "downloaded from the hub", used) for name, path in hub.cached()]
    if not any(entry.in_use for entry in entries):
        local = Path(used).expanduser()
        if local.is_dir():
            entries.append(_entry(used, local.absolute(), "local folder", used))
        else:
            entries.append(ModelEntry(used, None, 0, "not downloaded yet: the first use does it", True))
    return entries


def _entry(name: str, path: Path, note: str, used: str) -> ModelEntry:
    size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    return ModelEntry(name, path, size, note, name == used, *folder.read_title(path))


def doctor(house: House, repair: bool) -> list[Check]:
    """Look at the library, the base, the disk and the optional packages. repair mends what can be mended."""
    checks: list[Check] = []
    findings = house.library.check(repair)
    for finding in findings:
        status: Literal["ok", "bad"] = "ok" if finding.repaired else "bad"
        checks.append(Check(status, "library", finding.message, "" if finding.repaired else finding.hint))
    if not findings:
        count = house.library.catalogue.count()
        checks.append(
            Check("ok", "library", f"sound: {count} document{'' if count == 1 else 's'} in {house.library.home}")
        )
    checks.append(_base(house))
    free = shutil.disk_usage(house.library.home).free
    low = free < LOW_DISK_BYTES
    hint = "Free some space, or move the library: KM_HOME=FOLDER." if low else ""
    checks.append(Check("warn" if low else "ok", "disk", f"{free / 1e9:.1f} GB free", hint))
    cache = sum(file.stat().st_size for file in house.library.cache.rglob("*") if file.is_file())
    checks.append(
        Check("ok", "cache", f"{cache / 1e6:.1f} MB in {house.library.cache}, which may be deleted at any time")
    )
    checks.append(_torch())
    checks.append(_llama())
    return checks


def _base(house: House) -> Check:
    name = house.settings["model"].value
    try:
        base = bases.find(name, house.report) if name == bases.EMBEDDED or Path(name).expanduser().is_dir() else None
    except KmError as error:
        return Check("bad", "base", error.message, error.hint)
    if base is None:
        if any(name == cached for cached, _ in hub.cached()):
            return Check("ok", "base", f"{name}, downloaded")
        return Check("warn", "base", f"{name} is not downloaded yet", "The first use downloads it.")
    note = f" ({bases.EMBEDDED_NOTICE})" if base.embedded else ""
    return Check("ok", "base", f"{', '.join(filter(None, (base.name, base.label)))}, revision {base.revision}{note}")


def _torch() -> Check:
    version = importlib.metadata.version("torch")
    return Check("ok", "torch", version)


def _llama() -> Check:
    if importlib.util.find_spec("llama_cpp") is None:
        return Check(
            "warn",
            "llama.cpp",
            "not installed: km ask takes seconds to start, and exported files are not checked",
            "pip install 'kmcli[gguf]'",
        )
    return Check("ok", "llama.cpp", f"llama-cpp-python {importlib.metadata.version('llama_cpp_python')}")
