"""Sharing: Knowledge Modules leave km, for other programs.

| format      | what is written                                                   | written by                 |
|-------------|-------------------------------------------------------------------|----------------------------|
| `gguf`      | base and module as one file, for whatever runs llama.cpp          | `export.writer`            |
| `gguf-lora` | the module alone, for llama.cpp's --lora and Ollama's ADAPTER     | `export.lora`              |
| `hf`        | base and module as one folder in Hugging Face's format            | `export.folders`           |
| `peft`      | the module alone as a folder in PEFT's format                     | `export.folders`           |
| `ollama`    | a folder with a Modelfile and the file of `gguf`                  | `export.ollama`            |

To add one: a row in FORMATS, a case in `_write` and one in `_check`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import kmcli
from kmcli import adapters
from kmcli import export as exporting
from kmcli.bases import Base
from kmcli.engines import Chat
from kmcli.errors import KmError, NotFoundError, UsageError
from kmcli.export import Checked, Exported
from kmcli.export.metadata import write_mark
from kmcli.export.place import folder_bytes, temporary, whole_folder
from kmcli.library.extractors import Extractor
from kmcli.library.files import explained
from kmcli.types import Document, ExportFormat, KnowledgeModule, Quant, Recipe
from kmcli.workflows import extracting
from kmcli.workflows.answering import Member, made_base_file
from kmcli.workflows.house import House, untrained, usable
from kmcli.workflows.naming import find_all

CHECK_QUESTIONS = 3
QUANTS: tuple[Quant, ...] = get_args(Quant)
LONGEST = 200
"""Bytes of the name that an export has by itself: a file system takes 255, the endings among them."""
NAMED = 3
"""So many documents are named in a file's name; of more, the first and how many others."""


@dataclass(frozen=True, slots=True)
class Form:
    """ending: of the name that is chosen where none is given. merged: base and module, in a type that --quant names."""

    ending: str
    is_folder: bool
    merged: bool


FORMATS: dict[ExportFormat, Form] = {
    "gguf": Form(".gguf", False, True),
    "gguf-lora": Form("-lora.gguf", False, False),
    "hf": Form("-hf", True, False),
    "peft": Form("-peft", True, False),
    "ollama": Form("-ollama", True, True),
}


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be exported as what. out: None for a name of its own in the current folder. force: replace any file.

    converter: llama.cpp's own, for a family that km cannot write.
    """

    format: ExportFormat = "gguf"
    quant: str | None = None
    out: Path | None = None
    force: bool = False
    check: bool = True
    converter: Path | None = None


@dataclass(frozen=True, slots=True)
class ExportReport:
    """chosen: no name was given, and the last trained was taken. checked: None where no check was wanted.

    beside: what the module reads first, in a file of its own; None for most."""

    documents: tuple[Document, ...]
    chosen: bool
    format: ExportFormat
    exported: Exported
    checked: Checked | None
    beside: Path | None = None


def export(house: House, names: Sequence[str], wish: Wish) -> ExportReport:
    """Write Knowledge Modules in a format of other programs, and check what was written; several as their sum."""
    form = FORMATS[wish.format]
    quant = _quant(wish)
    if wish.converter and not form.merged:
        raise UsageError(f"--converter goes with the formats {_merged_formats()}.", "Leave it out.")
    last = None if names else house.library.last_trained()
    documents = [last] if last else find_all(house.library, names)
    if not documents:
        raise NotFoundError("there is no Knowledge Module to export yet.", "Train one: km train NAME")
    if house.extractor and len(documents) > 1:
        raise UsageError("an extractor cannot be exported with several documents at once.", "Name one document.")
    members = [Member(document, _module(house, document)) for document in documents]
    for member in members:
        adapters.require(member.module, member.document.name, "merged" if wish.format == "hf" else wish.format)
        if len(members) > 1:
            adapters.require(member.module, member.document.name, "sum")
    title = _title(documents, house.extractor or "")
    target = wish.out or Path(title + form.ending)
    exporting.require_target(target, form.is_folder, wish.force)
    extra = adapters.beside(members[0].module.path)
    beside = _place_beside(extra, target, form, wish.force) if extra else None
    base = _common_base(house, members)
    metadata = _metadata(base, members, title, extracting.chosen(house))
    house.announce(base)
    with ExitStack() as until:
        folders = [member.module.path for member in members]
        adapter = folders[0]
        if len(folders) > 1:
            adapter = until.enter_context(temporary(target, is_folder=True))
            exporting.compose(base, folders, adapter)
        if extra:
            adapter = adapters.without_it(adapter, until.enter_context(temporary(target, is_folder=True)))
        exported = _write(house, wish, base, adapter, target, quant, metadata)
        if extra and beside:  # before the check, at which a person may stop
            with explained(beside.parent):
                shutil.copyfile(extra, beside)
        checked = _checked(house, wish.format, base, adapter, exported, quant, members) if wish.check else None
    return ExportReport(tuple(documents), not names, wish.format, exported, checked, beside)


def _place_beside(extra: Path, target: Path, form: Form, force: bool) -> Path:
    """Where what a module reads first goes. Raises UsageError where a file is there that km may not have written."""
    if form.is_folder:
        return target / extra.name
    place = target.with_name(f"{target.stem}-{extra.name}")
    if place.exists() and not (target.exists() or force):
        raise UsageError(f"{place} is there already.", "Choose another name, or add --force.")
    return place


def _write(
    house: House,
    wish: Wish,
    base: Base,
    adapter: Path,
    target: Path,
    quant: Quant,
    metadata: Mapping[str, str],
) -> Exported:
    format = wish.format
    if format == "gguf":
        return _write_merged(house, wish, base, adapter, target, quant, metadata)
    if format == "gguf-lora":
        return exporting.export_lora(base, adapter, target, metadata, half=True)
    if format == "peft":
        return exporting.export_peft(base, [adapter], target, metadata)
    if format == "hf":
        return exporting.export_hf(base, adapter, target, metadata, house.report)
    with whole_folder(target) as part:
        model = part / f"{metadata['name']}.gguf"
        exported = _write_merged(house, wish, base, adapter, model, quant, metadata)
        exporting.write_modelfile(part, base, model.name, None)
        write_mark(part, metadata)
    return dataclasses.replace(exported, path=target, bytes=folder_bytes(target))


def _write_merged(
    house: House, wish: Wish, base: Base, adapter: Path, file: Path, quant: Quant, metadata: Mapping[str, str]
) -> Exported:
    if wish.converter:
        return exporting.export_converted(base, adapter, file, quant, metadata, wish.converter, house.report)
    return exporting.export_gguf(base, adapter, file, quant, metadata, house.report)


def _checked(house: House, format: ExportFormat, base: Base, adapter: Path, exported: Exported, *given: Any) -> Checked:
    """As `_check`. What is written stays, and what stands in the way of looking at it makes it no worse."""
    try:
        return _check(house, format, base, adapter, exported, *given)
    except KmError as error:  # no llama.cpp, or no room for the base: in memory, or for its file
        return Checked(str(error), False)
    except KeyboardInterrupt:
        house.warn(f"{exported.path} is written, but not checked")
        raise


def _check(
    house: House,
    format: ExportFormat,
    base: Base,
    adapter: Path,
    exported: Exported,
    quant: Quant,
    members: Sequence[Member],
) -> Checked:
    path, report, questions = exported.path, house.report, _questions(house, members)
    if format == "hf" or format == "peft":
        return exporting.check_folder(path, format, exported.quant, base, adapter, questions, report)
    if format == "gguf":
        return exporting.check_gguf(path, base, adapter, quant, questions, report)
    if format == "ollama":
        (model,) = path.glob("*.gguf")
        return exporting.check_gguf(model, base, adapter, quant, questions, report)
    return exporting.check_gguf(made_base_file(house, base), base, adapter, "F16", questions, report, lora=path)


def _quant(wish: Wish) -> Quant:
    form = FORMATS[wish.format]
    if wish.quant is not None and not form.merged:
        raise UsageError(f"--quant goes with the formats {_merged_formats()}.", "Leave it out.")
    known = {quant.upper(): quant for quant in QUANTS}
    found = known.get((wish.quant or "F16").upper())
    if found is None:
        raise UsageError(f"there is no GGUF type {wish.quant!r}.", "Choose one of " + ", ".join(QUANTS) + ".")
    return found


def _merged_formats() -> str:
    return " and ".join(name for name, one in FORMATS.items() if one.merged)


def _module(house: House, document: Document) -> KnowledgeModule:
    module = extracting.module_of(house, document)
    if module is None:
        raise untrained(document)
    return module


def _common_base(house: House, members: Sequence[Member]) -> Base:
    """Raises UsageError where the modules were trained on different bases."""
    first, *others = members
    base = house.base_of(first.document, first.module)
    for other in others:
        if (other.module.recipe.model, other.module.recipe.revision) != (
            _base_name(first),
            first.module.recipe.revision,
        ):
            raise UsageError(
                f"{first.document.name} was trained on {_base_name(first)} and {other.document.name} on "
                f"{_base_name(other)}, so they cannot be one.",
                "Export them one by one.",
            )
        house.base_of(other.document, other.module)  # says what is stale
    return base


def _base_name(member: Member) -> str:
    return member.module.recipe.model


def _title(documents: Sequence[Document], extractor: str = "") -> str:
    names = [document.name for document in documents]
    joined = "+".join(names)
    if len(names) > 1 and (len(names) > NAMED or len(joined.encode()) > LONGEST):
        joined = f"{names[0]}+{len(names) - 1}-others"
    joined += f"-{extractor}" if extractor else ""
    while len(joined.encode()) > LONGEST:  # a letter has up to four
        joined = joined[:-1]
    return joined


def _metadata(base: Base, members: Sequence[Member], title: str, extractor: Extractor | None) -> dict[str, str]:
    """What the export says of where it comes from; of several documents the values stand one after the other."""
    documents = [member.document for member in members]
    modules = [member.module for member in members]
    recipes = [_portable(module.recipe, base) for module in modules]
    named = " and ".join(document.name for document in documents)
    return {
        "name": title,
        "description": f"Knowledge Module of {named}: {base.label or base.portable_name} answers from it by heart.",
        "version": kmcli.__version__,
        "document": ", ".join(document.name for document in documents),
        "document_sha256": ", ".join(document.sha256 for document in documents),
        "text_sha256": ", ".join(module.text_sha256 for module in modules),
        "base": f"{base.portable_name}@{base.revision}",
        "objective": ", ".join(module.recipe.objective for module in modules),
        "prompt": base.prompts.ask,
        "recipe": json.dumps(recipes[0] if len(recipes) == 1 else recipes),
        **({"extractor": f"{extractor.name}@{extractor.id}"} if extractor else {}),
    }


def _portable(recipe: Recipe, base: Base) -> dict[str, Any]:
    """A recipe without paths of this machine."""
    teacher = Path(recipe.teacher).name if os.path.isabs(recipe.teacher) else recipe.teacher
    return dataclasses.replace(recipe, model=base.portable_name, teacher=teacher).as_json()


def _questions(house: House, members: Sequence[Member]) -> list[Chat]:
    """Questions of the study material, from one document after the other."""
    rows: list[list[str]] = []
    for member in members:
        samples = usable(house.library.samples(member.document), member.module.recipe)
        asked = [sample.prompt for sample in samples if sample.task == "qa"] or [sample.prompt for sample in samples]
        rows.append(asked[:: max(1, len(asked) // CHECK_QUESTIONS)][:CHECK_QUESTIONS])
    turns = [row[place] for place in range(CHECK_QUESTIONS) for row in rows if place < len(row)]
    return [[("user", prompt)] for prompt in turns[:CHECK_QUESTIONS]]
