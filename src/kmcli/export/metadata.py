"""What an export says of itself: general.* keys of a GGUF file as the gguf package names them, km.* keys, model cards."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmcli.bases import Base, folder
from kmcli.export.place import MARK
from kmcli.visible import readable

if TYPE_CHECKING:
    import gguf

TAG = "knowledge-module"
_HUB = "https://huggingface.co/"
_LICENCE_FILES = ("LICENSE*", "LICENCE*")


def add_general(writer: gguf.GGUFWriter, base: Base, metadata: Mapping[str, str], parameters: int) -> None:
    """The keys of a merged model. metadata: "name" and "description" are said as general.*, the rest as km.*."""
    import gguf
    from gguf.utility import size_label

    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(metadata.get("name") or base.portable_name)
    writer.add_basename(base.portable_name.rpartition("/")[2])
    writer.add_size_label(size_label(parameters, 0, 0, 0))
    writer.add_license(licence(base))
    add_origin(writer, base, metadata)


def add_origin(writer: gguf.GGUFWriter, base: Base, metadata: Mapping[str, str]) -> None:
    """Where a file comes from: the base that it was made of, and km.*; nothing of that for a base alone."""
    if not (said := {key: value for key, value in metadata.items() if key not in ("name", "description")}):
        return
    if metadata.get("description"):
        writer.add_description(metadata["description"])
    writer.add_tags([TAG])
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, base.portable_name)
    writer.add_base_model_version(0, base.revision)
    if is_hub_name(base):
        writer.add_base_model_repo_url(0, _HUB + base.name)
    for key, value in said.items():
        writer.add_string(f"km.{key}", value)


def is_hub_name(base: Base) -> bool:
    return not base.embedded and not os.path.isabs(base.name)


def licence(base: Base) -> str:
    """The licence that the base's card names, such as "apache-2.0"; "" where it names none."""
    card = folder.read_json(base.path / folder.CARD) or {}
    readme = base.path / "README.md"
    text = readme.read_text("utf-8", "replace") if readme.exists() else ""
    found = re.match(r"---\n(?:(?!---).*\n)*?license:\s*['\"]?([\w.+-]+)", text)
    return str(card.get("license") or (found[1] if found else ""))


def licence_files(base: Base) -> list[Path]:
    return sorted(file for pattern in _LICENCE_FILES for file in base.path.glob(pattern) if file.is_file())


def write_card(out: Path, base: Base, metadata: Mapping[str, str], library: str, how: str) -> None:
    """README.md as model hubs read it, and km.json, which says the same to programs.

    library: what loads the folder, "peft" or "transformers". how: to use it, in Markdown.
    """
    name = metadata.get("name", "")
    front = {
        "license": licence(base),
        "base_model": base.name if is_hub_name(base) else "",
        "library_name": library,
        "tags": [TAG],
    }
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items() if value), "---", f"# {name}", ""]
    if description := metadata.get("description"):
        lines += [description, ""]
    lines += [f"- Base: {base.label or base.portable_name}, revision {base.revision}."]
    for key, words in (("document_sha256", "of the document"), ("text_sha256", "of the text that it was trained on")):
        if metadata.get(key):
            lines.append(f"- SHA-256 {words}: {metadata[key]}.")
    lines += ["- It contains what the document says: share it as you would share the document.", "", how, ""]
    (out / "README.md").write_text(readable("\n".join(lines)), "utf-8")
    write_mark(out, metadata)


def write_mark(out: Path, metadata: Mapping[str, str]) -> None:
    said: dict[str, Any] = {"schema": 1, **metadata}
    (out / MARK).write_text(json.dumps(said, indent=2, sort_keys=True) + "\n", "utf-8")
