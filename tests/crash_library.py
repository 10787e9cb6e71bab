"""What a library is worth, compared; and libraries to begin with: see crash_verbs.py."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from base_cases import SMALL
from kmcli import bases, migrations
from kmcli.library import Library
from kmcli.types import silent

TEXTS = {
    "heron": "The heron waits by the quay of Lindros. It was seen by Ann in 1871.",
    "works": "The works were built by mason Bo. They burnt down in 1902.\n\nThe quay has nine lamps, and each is green.",
    "rebuilt": "The works were built by mason Bo. They burnt down in 1902.\n\nThe quay has ten lamps, and each is red.",
    "permits": "The fee for berth permits is $75. They are valid for 18 months.",
}


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    other = [name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)]
    return "; ".join(f"{name} is {found.get(name)}, not {wanted.get(name)}" for name in other)


def same(left: Mapping[str, Any], wanted: Mapping[str, Any], gaps: bool = False) -> bool:
    """But for the order of study material where some in the middle had to be written anew, and weights. gaps: what was said
    to be lost of a conversation comes after the rest."""

    def loosely(one: Any) -> Any:
        if not isinstance(one, dict):
            return one
        return {**one, "samples": sorted(one["samples"]), "module": one["module"] and one["module"][1]}

    def reordered(name: str) -> bool:
        both = left[name], wanted[name]
        return all(isinstance(one, dict) for one in both) and both[0]["samples"] != both[1]["samples"]

    def later(name: str) -> bool:
        return gaps and name == "said" and sorted(left[name]) == sorted(wanted[name])

    return left.keys() == wanted.keys() and all(
        left[name] == wanted[name] or later(name) or (reordered(name) and loosely(left[name]) == loosely(wanted[name]))
        for name in wanted
    )


def follows(left: Any, before: Any, after: Any, gaps: bool = False) -> bool:
    """Whether a document may be so on the way from one to the other: it has either text, tags and module, and material
    that only grows; as what was said in conversations does. gaps: some of that was said to be lost."""
    if left in (before, after):
        return True
    if isinstance(left, list) and isinstance(after, list):
        if gaps:
            left = after[: len(left)] if [one for one in after if one in left] == left else left
        return left == after[: len(left)] and len(left) >= len(before or [])
    parts = [one for one in (before, after) if one is not None]
    if not isinstance(left, dict) or not parts:
        return False
    grown = all(one in left["samples"] for one in (before or left)["samples"])
    return grown and all(left[part] in [one[part] for one in parts] for part in ("text", "tags", "module"))


def outcome(root: Path) -> dict[str, Any]:
    """What is worth anything: every document with all that belongs to it, the settings, and what was exported."""
    found: dict[str, Any] = {}
    out = root / "out"
    for file in sorted(out.rglob("*") if out.exists() else ()):
        relative = file.relative_to(root)
        if file.is_file() and not any(part.endswith(".part") for part in relative.parts):
            found[str(relative)] = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    home = root / "home"
    if (config := home / "config.toml").exists():
        found["config"] = config.read_text()
    if not (home / "km.db").exists() or _version(home) == 0:
        return found
    with Library.open(home) as library:
        for document in library.documents():
            module = library.module(document)
            weights = (module.path / "adapter_model.safetensors").read_bytes() if module else b""
            found[document.name] = {
                "text": library.text(document),
                "tags": document.tags,
                "samples": [(one.id, one.response) for one in library.samples(document)],
                "module": (hashlib.sha256(weights).hexdigest()[:12], module.text_sha256 != document.text_sha256)
                if module
                else None,
                "unfinished": library.state(document) == "interrupted",
            }
        for extractor in library.extractors.all():
            weights = [
                (extractor.path / name).read_bytes() for name in ("adapter_model.safetensors", "mixing.safetensors")
            ]
            found[f"extractor {extractor.name}"] = hashlib.sha256(b"".join(weights)).hexdigest()[:12]
        for compressor in library.compressors.all():
            weights = [file.read_bytes() for file in sorted(compressor.path.glob("*.safetensors"))]
            found["compressor"] = hashlib.sha256(b"".join(weights)).hexdigest()[:12]
        said = [(turn.question, turn.answer.text) for one in library.conversations.all() for turn in one.turns]
        if said:  # whichever conversation it was said in: the same command begins another
            found["said"] = list(dict.fromkeys(said))
        names = home / "names"
        if names.exists() and (held := sorted(filter(None, names.read_text().split("\n")))):
            found["names"] = held  # a shell takes an empty file for none
    return found


def _version(home: Path) -> int:
    return int(sqlite3.connect(home / "km.db").execute("PRAGMA user_version").fetchone()[0])


def write_version(home: Path, version: int) -> None:
    """A library with a document, as a km of that version of the database wrote it."""
    home.mkdir()
    text = TEXTS["heron"]
    digest = hashlib.sha256(text.encode()).hexdigest()
    folder = home / "documents" / "d1"
    folder.mkdir(parents=True)
    for name in (f"text-{digest[:12]}.md", f"source-{digest[:12]}.txt"):
        (folder / name).write_text(text)
    (home / "names").write_text("heron\n")
    database = sqlite3.connect(home / "km.db", isolation_level=None)
    for migration in migrations.MIGRATIONS[:version]:
        migration(database)
    database.execute(f"PRAGMA user_version = {version}")
    row = (
        "d1",
        "heron",
        "heron",
        "/books/heron.txt",
        "text",
        digest,
        digest,
        None,
        14,
        "2026-01-01",
        "2026-01-01",
        "[]",
    )
    database.execute(f"INSERT INTO documents VALUES ({', '.join('?' * len(row))})", row)
    database.close()


def make_base(folder: Path) -> bases.Base:
    torch.manual_seed(3)
    LlamaForCausalLM(LlamaConfig(**SMALL | {"max_position_embeddings": 512})).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / file).write_bytes((bases.EMBEDDED_FOLDER / file).read_bytes())
    (folder / "card.json").write_text('{"name": "tiny", "version": "0", "prompts": "embedded", "chunk_tokens": 24}')
    return bases.find(str(folder), silent)
