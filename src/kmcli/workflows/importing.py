"""Importing: an adapter from elsewhere, in PEFT's format, becomes the Knowledge Module of a document.

It is checked against the base that it names before anything changes in the library, and kept in the plainest form that its
numbers allow (`export.compose`), so that whatever km does with a module of its own it can do with this one. Nothing in the
folder is unpickled or run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kmcli import adapters, bases
from kmcli.adapters.folder import CONFIG, WEIGHTS
from kmcli.bases import Base
from kmcli.bases.folder import read_json
from kmcli.errors import KmError, NotFoundError, ResourceError, UsageError
from kmcli.library import Added, files
from kmcli.types import IMPORTED, Document, Event, Ingested, KnowledgeModule, Recipe
from kmcli.visible import readable
from kmcli.workflows.house import House
from kmcli.workflows.naming import MARK, find_one

_LONGEST_CARD = 200_000
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_HASH = re.compile(r"[0-9a-f]{64}")
_FRONT = re.compile(r"---\n.*?\n---\n", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ImportReport:
    """added: the document is new in the library. card: it is the adapter's model card, because no document was named."""

    document: Document
    module: KnowledgeModule
    added: bool
    card: bool


def import_module(
    house: House, folder: Path, document: str | None, name: str | None = None, force: bool = False
) -> ImportReport:
    """Take the adapter in a folder as a Knowledge Module.

    document: the name of one that is here, or a file to add; None: the adapter's model card is the document. name: what
    to call a document that is new. force: in place of a module, or an unfinished training, that the document has.

    Raises NotFoundError, UsageError or KmError for a folder that is no adapter of a kind that km has, ResourceError where
    its base cannot be had. Then nothing has changed.
    """
    from kmcli.export import compose

    folder = Path(os.path.abspath(folder.expanduser()))
    config = _config(folder)
    base = _base(house, folder, config)
    told = read_json(folder / "km.json") or {}
    with files.scratch(house.library.cache, "import-") as plain:
        with _as_import():
            compose(base, [folder], plain)
        recipe = _recipe(base, config, told, plain)
        target, added = _document(house, folder, base, recipe, told, document, name, force)
        with house.library.lock(target, "import"):
            _require_free(house, target, force)
            house.library.clear_workspace(target)
            staging = house.library.staging(target)
            for file in plain.iterdir():
                (staging / file.name).write_bytes(file.read_bytes())
            (staging / "card.md").write_text(_card(target, folder, base, recipe), "utf-8")
            metrics = {"imported": str(folder)}
            module = house.library.commit_module(_trained_on(house, target, told, document), staging, recipe, metrics)
    return ImportReport(target, module, added, document is None)


# --- the folder


def _config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        if folder.exists():
            raise UsageError(f"{folder} is a file.", f"Name the folder that holds {CONFIG} and {WEIGHTS}.")
        raise NotFoundError(f"there is no folder {folder}.", "Check how it is written.")
    if not (folder / CONFIG).exists():
        if (folder / "config.json").exists():
            raise UsageError(f"{folder} holds a whole model, no adapter.", f"Use it as a base: --model {folder}")
        raise UsageError(f"{folder} is no adapter in PEFT's format: it has no {CONFIG}.", "Name another folder.")
    config = read_json(folder / CONFIG)
    if config is None:
        raise KmError(f"{folder / CONFIG} is damaged.", "Copy or download the adapter again.")
    if not (folder / WEIGHTS).is_file():
        pickled = sorted(file.name for pattern in _PICKLED for file in folder.glob(pattern))
        if pickled:
            raise KmError(
                f"{folder} holds only pickled weights ({pickled[0]}), which could run code when they are opened.",
                "Save the adapter as safetensors.",
            )
        raise KmError(f"{folder} has no {WEIGHTS}.", "Copy or download the whole adapter.")
    return config


@contextmanager
def _as_import() -> Iterator[None]:
    """What is wrong with an adapter, with a next step for somebody who did not train it here."""
    try:
        yield
    except ResourceError:
        raise
    except KmError as error:
        fits = "does not fit the base" in error.message
        hint = "Name the base that it was made for with --model." if fits else "Nothing was imported."
        raise KmError(error.message, hint) from None


def _recipe(base: Base, config: Mapping[str, Any], told: Mapping[str, Any], plain: Path) -> Recipe:
    """The recipe that km.json tells, where a km has exported the folder; else what the adapter itself says."""
    name = adapters.name_of(plain)
    dropout = config.get("lora_dropout")
    recipe = Recipe(
        objective=IMPORTED, tasks=(IMPORTED,), dropout=float(dropout) if isinstance(dropout, int | float) else 0.0
    )
    try:
        known = json.loads(str(told.get("recipe", "null")))
        recipe = Recipe.from_json(known) if isinstance(known, dict) else recipe
    except (ValueError, TypeError):  # damaged, or of a newer km: it is only told, never used
        pass
    return replace(
        recipe,
        model=base.name,
        revision=base.revision,
        base_label=base.label,
        adapter=name,
        **adapters.ADAPTERS[name].written(plain),
    )


# --- its base


def _base(house: House, folder: Path, config: Mapping[str, Any]) -> Base:
    """The base of this installation that the adapter was made for; the one that --model names goes first."""
    named, revision = str(config.get("base_model_name_or_path") or ""), config.get("revision")
    if house.settings["model"].origin == "flag":
        return house.base()
    if not named:
        raise UsageError(f"{folder / CONFIG} does not say for which base it was made.", "Say it with --model.")
    here = _known(house, named, str(revision or ""))
    if here:
        return here
    absent = (
        f"the adapter was made for the base {named}, which is not on this machine.",
        "If it is here under another name, say so with --model.",
    )
    if os.path.isdir(named):
        return bases.find(named, house.report)
    if os.path.isabs(named) or named.startswith((".", "~")) or "\\" in named or named.count("/") != 1:
        raise ResourceError(*absent)
    return bases.find(named, house.report, str(revision) if revision else None)


def _known(house: House, named: str, revision: str) -> Base | None:
    """A base in use here that is called so on other machines. Raises ResourceError where only another version of it is."""
    candidates = [bases.EMBEDDED, house.settings["model"].value]
    for document in house.library.documents():
        module = house.library.module(document)
        if module:
            candidates.append(module.recipe.model)
    other = None
    for name in dict.fromkeys(candidates):
        if name != bases.EMBEDDED and not os.path.isdir(os.path.expanduser(name)):
            continue  # a hub name, which says itself what it is
        base = bases.find(name, house.report)
        if named in (base.portable_name, str(base.path)):
            if revision in ("", base.revision):
                return base
            other = base
    if other:
        raise ResourceError(
            f"the adapter was made for another version of {other.portable_name} ({revision}); here is {other.revision}.",
            f"If it fits all the same: --model {other.name}",
        )
    return None


# --- its document


def _document(
    house: House,
    folder: Path,
    base: Base,
    recipe: Recipe,
    told: Mapping[str, Any],
    given: str | None,
    name: str | None,
    force: bool,
) -> tuple[Document, bool]:
    """The document, and whether it is new here."""
    library = house.library

    def add(ingested: Ingested) -> Added:
        here = library.known(ingested)
        if here:
            _require_free(house, here, force)  # before its text is another
        return library.add(ingested, name)

    if given is not None and (library.has(given) or given.startswith(MARK)):
        if name is not None:
            raise UsageError(f"{given} has a name already.", "Leave --name out, or rename it with km mv.")
        return find_one(library, given), False
    if given is None:
        found = add(_card_as_document(folder, base, recipe, told))
    elif os.path.exists(os.path.expanduser(given)) or "://" in given:
        from kmcli import ingest
        from kmcli.ingest.worker import Worker

        with Worker() as worker:
            found = add(ingest.read(given, None, house.report, house.limits(), worker.parse))
    else:
        return library.find(given), False  # which says that there is none
    here = found.document.name
    if name is not None and found.action != "added" and here != name.lower():
        house.report(Event("note", f"it is in the library already, as {here}: km mv {here} {name} renames it"))
    return found.document, found.action == "added"


def _card_as_document(folder: Path, base: Base, recipe: Recipe, told: Mapping[str, Any]) -> Ingested:
    from kmcli.ingest.text import clean

    title = str(told.get("name") or folder.name)
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    readme = folder / "README.md"
    card = ""
    if readme.is_file() and readme.resolve().is_relative_to(_whole(folder.resolve())):
        card = readme.read_bytes()[:_LONGEST_CARD].decode("utf-8", "replace")
    text = clean(
        f"# {title}\n\n"
        f"This is the model card of an imported Knowledge Module: {adapters.ADAPTERS[recipe.adapter].WHAT} for the base "
        f"{base.label or base.portable_name}. What it was trained on is not in this library.\n\n"
        f"SHA-256 of its weights: {digest}\n\n" + _FRONT.sub("", card, count=1)
    )
    return Ingested(str(folder), "markdown", title, text.encode(), text, None)


def _whole(folder: Path) -> Path:
    """The folder, or what the hub's cache keeps beside it: links in an adapter lead to nothing else."""
    return folder.parent.parent if folder.parent.name == "snapshots" else folder


def _require_free(house: House, document: Document, force: bool) -> None:
    if force:
        return
    if house.library.module(document) is not None:
        raise UsageError(f"{document.name} has a Knowledge Module already.", "Replace it with --force.")
    if house.library.state(document) == "interrupted":
        raise UsageError(f"{document.name} has an unfinished training.", "Drop it with --force.")


def _trained_on(house: House, document: Document, told: Mapping[str, Any], given: str | None) -> Document:
    """The document with the text that the module was trained on, as far as the folder says."""
    theirs = str(told.get("text_sha256", ""))
    if given is None or not _HASH.fullmatch(theirs) or theirs == document.text_sha256:
        return document
    house.warn(f"the module was trained on another text than that of {document.name}: it counts as stale")
    return replace(document, text_sha256=theirs)


def _card(document: Document, folder: Path, base: Base, recipe: Recipe) -> str:
    what = adapters.ADAPTERS[recipe.adapter].WHAT
    lines = [
        f"# Knowledge Module of {document.name}",
        "",
        f"The adapter is {what}, in PEFT's format, imported from {readable(folder.name)}.",
        "",
        f"- Base: {base.label or base.portable_name}, revision {base.revision}. It fits no other weights.",
    ]
    return "\n".join(lines) + "\n"
