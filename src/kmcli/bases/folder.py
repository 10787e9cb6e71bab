"""What lies in a model's folder, read without torch: config, weight files, their size, and what identifies them."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from kmcli import config as settings
from kmcli.errors import ResourceError
from kmcli.types import Event, Reporter

CONFIG = "config.json"
CARD = "card.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")
"""Any one of these makes a tokenizer."""

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")
_GENERATORS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HASH = re.compile(b"[0-9a-f]{16}")
_WORTH_REMEMBERING = 1 << 23
"""Bytes of weights from which the hash is remembered: the embedded base's takes a tenth of a whole `km ask`."""
_WORTH_SAYING = 1 << 28
"""Bytes of weights from which hashing takes long enough to say so."""


def read_json(file: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where it is missing, damaged, or no object."""
    try:
        data = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def read_title(path: Path) -> tuple[str, str]:
    """Name and version by the card of the model in a folder, such as ("km-base", "0"); "" for what it does not say."""
    card = read_json(path / CARD) or {}
    return str(card.get("name", "")), str(card.get("version", ""))


def read_languages(path: Path) -> tuple[str, ...]:
    """Codes of the languages that the model in a folder reads, by its card.json, else by the head of its README.md, as the
    hub has it: "language: en", or a list. () where neither says, or one that it reads many."""
    given = (read_json(path / CARD) or {}).get("languages")
    if isinstance(given, list):
        return tuple(str(one) for one in given)
    try:
        with (path / "README.md").open(encoding="utf-8", errors="replace") as stream:
            head = stream.read(1 << 14)
    except OSError:
        return ()
    if not head.startswith("---"):
        return ()
    lines = iter(head.partition("\n---")[0].splitlines())
    given = next((line.partition(":")[2] for line in lines if line.startswith("language:")), "")
    for line in lines:
        if not line.lstrip().startswith("-"):
            break
        given += line
    codes = re.findall(r"\w+", given)
    return tuple(codes) if all(len(code) == 2 for code in codes) else ()


def read_config(path: Path) -> dict[str, Any]:
    """config.json of the model in a folder. Raises ResourceError where there is none, or none of a text generator."""
    config = read_json(path / CONFIG)
    if config is None:
        wrong = "damaged" if (path / CONFIG).exists() else "missing"
        raise ResourceError(
            f"{path} holds no model: its config.json is {wrong}.",
            "Give a folder in Hugging Face format, or a hub name such as Qwen/Qwen3-0.6B.",
        )
    check_generates(config, str(path))
    return config


def check_generates(config: Mapping[str, Any], name: str) -> None:
    """Raise ResourceError for a model that does not write text from left to right (an encoder, a translator)."""
    architectures = [str(each) for each in config.get("architectures") or []]
    if config.get("is_encoder_decoder") or (architectures and not any(a.endswith(_GENERATORS) for a in architectures)):
        kind = architectures[0] if architectures else config.get("model_type", "unknown")
        raise ResourceError(
            f"{name} cannot be a base: {kind} is not a causal language model.",
            "Choose a model that generates text: see km models.",
        )


def weight_files(path: Path) -> list[Path]:
    """The files that hold the weights in a folder, the ones transformers would load.

    Raises ResourceError where there are none, or where the index names files that are not there.
    """
    if (path / WEIGHTS).is_file():
        return [path / WEIGHTS]
    if not (path / INDEX).exists():
        pickled = sorted(file.name for pattern in _PICKLED for file in path.glob(pattern))
        if pickled:
            raise ResourceError(
                f"{path} holds only pickled weights ({pickled[0]}), which could run code when they are opened.",
                "Take a model with safetensors weights, or convert this one.",
            )
        raise ResourceError(
            f"{path} holds no weights: there is no {WEIGHTS} in it.", "Copy or download the complete model."
        )
    names = shards(path / INDEX)
    absent = [name for name in names if not (path / name).is_file()]
    if absent:
        raise ResourceError(
            f"{path} is incomplete: {absent[0]} is missing ({len(absent)} of {len(names)} weight files).",
            "Copy or download the complete model.",
        )
    return [path / name for name in names]


def shards(index: Path) -> list[str]:
    """The names of the weight files in an index. Raises ResourceError for a damaged one, or names not in its folder."""
    names = (read_json(index) or {}).get("weight_map")
    names = sorted(set(map(str, names.values()))) if isinstance(names, dict) else []
    if not names or any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
        raise ResourceError(f"{index} is damaged.", "Copy or download it again.")
    return names


def count_parameters(files: list[Path]) -> int:
    """Numbers in the weight files, from their headers alone. Raises ResourceError for a damaged or truncated file."""
    return sum(_parameters(file) for file in files)


def _parameters(file: Path) -> int:
    # A safetensors file: eight bytes of header length, the header (JSON), then the tensors without a gap.
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        try:
            header = json.loads(stream.read(length) if length < size else b"")
            tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
            end = max(tensor["data_offsets"][1] for tensor in tensors)
            count = sum(math.prod(tensor["shape"]) for tensor in tensors)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise ResourceError(f"{file} is damaged.", "Copy or download it again.") from None
    if 8 + length + end != size:
        raise ResourceError(
            f"{file} is damaged: it has {size} bytes instead of {8 + length + end}.", "Copy or download it again."
        )
    return int(count)


def revision(path: Path, report: Reporter) -> str:
    """Identifies the weights: the hub's commit for a snapshot in the hub's cache, else a hash over the weight files."""
    return path.name if _is_snapshot(path) else files_revision(path, weight_files(path), report)


def files_revision(path: Path, weights: Sequence[Path], report: Reporter) -> str:
    """A hash over the files of the model at `path`.

    Hashing takes a while, so a hash is remembered in KM_HOME/cache until a file changes; that of a small model only where
    there is a library already.
    """
    files = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in weights]
    total = sum(size for _, size, _ in files)
    cache = settings.home() / "cache"
    if total < _WORTH_REMEMBERING or (total < _WORTH_SAYING and not cache.is_dir()):
        return _hash(tuple(files))
    key = hashlib.sha256(repr(files).encode("utf-8", "surrogatepass")).hexdigest()
    memo = cache / "revisions" / key
    known = memo.read_bytes() if memo.is_file() else b""
    if not _HASH.fullmatch(known):  # or what a crash has left of one
        if total >= _WORTH_SAYING:
            report(Event("check", f"reading {path} once, to recognise it later"))
        memo.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        known = _hash(tuple(files)).encode()
        temporary = memo.with_suffix(f".{os.getpid()}")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            stream.write(known)
        temporary.replace(memo)
    return known.decode()


def _is_snapshot(path: Path) -> bool:
    repository = path.parent.parent
    return (
        path.parent.name == "snapshots"
        and repository.name.startswith("models--")
        and _COMMIT.fullmatch(path.name) is not None
    )


@lru_cache(maxsize=16)
def _hash(files: tuple[tuple[str, int, int], ...]) -> str:
    """Over the contents alone; sizes and times are there for the cache."""
    digest = hashlib.sha256()
    for name, _, _ in files:
        with open(name, "rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:16]
