"""What every verb is given."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from kmcli import bases, config
from kmcli.adapters.shelf import Shelf
from kmcli.bases import Base, Loaded
from kmcli.chunking import chunk, rechunk
from kmcli.errors import KmError, NotFoundError, ResourceError, UsageError
from kmcli.library import Library
from kmcli.library.files import gone
from kmcli.retrieval import PASSAGE_TOKENS
from kmcli.types import IMPORTED, Chunk, Document, Event, KnowledgeModule, Recipe, Reporter, Sample, State

if TYPE_CHECKING:
    from kmcli.ingest.limits import Limits


class Reads(Protocol):
    """What knows the tokens of a base: the base in memory, or its tokenizer alone."""

    @property
    def tokenizer(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class House:
    library: Library
    settings: Mapping[str, config.Value]
    report: Reporter
    extractor: str | None = None
    """The name of the Knowledge Extractor to answer with."""
    _told: set[str] = field(default_factory=set)

    def base(self) -> Base:
        """The base that the settings name."""
        return bases.find(self.settings["model"].value, self.report)

    def base_of(self, document: Document, module: KnowledgeModule) -> Base:
        """The base that a module was trained on, whatever the settings say: its weights fit no other.

        Warns of what to know before the module is used: that it is stale, that --model is not followed.
        Raises ResourceError where it cannot be had, or only another version of it is here.
        """
        recipe = module.recipe
        try:
            base = bases.find(recipe.model, self.report, recipe.revision)
        except UsageError:  # a folder that is gone is no name of anything
            raise ResourceError(
                f"the base that {document.name} was trained on is gone: {recipe.model}.",
                f"Bring it back, or train on another: km train {document.name} --model MODEL",
            ) from None
        if base.revision != recipe.revision:
            raise self._other_version(document, recipe, base)
        if self.settings["model"].origin == "flag" and not self._is_set(base):
            self.warn(f"--model is not followed: the Knowledge Module of {document.name} fits {base.name} alone")
        if module.text_sha256 != document.text_sha256:
            self.warn(f"{document.name} has changed since its Knowledge Module was trained: km train {document.name}")
        return base

    def common_base(self, modules: Sequence[tuple[Document, KnowledgeModule]], why: str, hint: str) -> Base:
        """The base of all of them, as `base_of` finds it. Raises UsageError where they have several: what one changes is not
        in another. why: not, as the end of that sentence.
        """
        found = [self.base_of(document, module) for document, module in modules]
        for (document, _), base in zip(modules, found, strict=True):
            if base.revision != found[0].revision:
                raise UsageError(
                    f"the Knowledge Modules of {modules[0][0].name} and {document.name} are on different bases "
                    f"({found[0].name} and {base.name}), and {why}.",
                    hint,
                )
        return found[0]

    def outdated(self, document: Document, module: KnowledgeModule) -> ResourceError | None:
        """Why a module can no longer be used: km has come with another embedded base since. Nothing is downloaded."""
        if module.recipe.model != bases.EMBEDDED:
            return None
        base = bases.find(bases.EMBEDDED, self.report)
        return None if base.revision == module.recipe.revision else self._other_version(document, module.recipe, base)

    def state(self, document: Document) -> State:
        """As in the library; a module whose embedded base is gone is stale as well, and an unfinished training on which a
        process is at work is no interrupted one."""
        state, module = self.library.state(document), self.library.module(document)
        if state == "interrupted" and self.library.is_training(document):
            return "training"
        return "stale" if state == "fresh" and module and self.outdated(document, module) else state

    def _other_version(self, document: Document, recipe: Recipe, base: Base) -> ResourceError:
        then, now = f"another version of {recipe.model}", ""
        if base.embedded:
            named = recipe.base_label not in ("", base.label)
            then = recipe.base_label if named else "another version of the embedded base"
            now = f"; this km has {base.label}"
        wish = "" if self._is_set(base) else f" --model {shlex.quote(base.name)}"
        return ResourceError(
            f"the Knowledge Module of {document.name} was trained on {then}{now}.",
            f"Train it on the one that is here: km train {document.name}{wish}",
        )

    def _is_set(self, base: Base) -> bool:
        """Whether the settings name this base."""
        asked = self.settings["model"].value
        return base.name in (asked, os.path.abspath(os.path.expanduser(asked)))

    def warn(self, message: str) -> None:
        self.report(Event("note", message, warning=True))

    def limits(self) -> Limits:
        """What reading one file may cost."""
        from kmcli.ingest.limits import Limits  # not needed by the verbs that must be quick

        return Limits.of({key: value.value for key, value in self.settings.items()})

    def processes(self) -> int:
        """That share the steps of a training. Raises UsageError where the machine has no device for each."""
        count = int(self.settings["processes"].value)
        if count > 1:
            device = bases.pick_device(self.settings["device"].value)
            room = bases.devices(device)
            if count > room:
                raise UsageError(
                    f"{count} processes need a GPU each, and there {'is' if room == 1 else 'are'} {room} here.",
                    f"Leave it out, or say --processes {room}.",
                )
        return count

    def announce(self, base: Base) -> None:
        if base.embedded:
            self.announce_embedded()

    def announce_embedded(self) -> None:
        """Once in a command."""
        if bases.EMBEDDED_NOTICE not in self._told:
            self._told.add(bases.EMBEDDED_NOTICE)
            self.report(Event("base", bases.EMBEDDED_NOTICE))

    def load(self, base: Base, bits: int = 0) -> Loaded:
        return bases.load(base, self.settings["device"].value, bits)

    def shelf(self, document: Document, base: Base) -> Shelf:
        """What an adapter of a document on a base may begin from."""
        return Shelf(self.library.compressors.of(base.revision), self.library.cache_of(document.id))

    def chunks(self, document: Document, reads: Reads, size: int, overlap: float = 0.0) -> list[Chunk]:
        """The document in chunks of at most `size` tokens of the base."""
        return chunk(self.library.text(document), size, overlap, counter(reads))

    def passages(self, document: Document, base: Base, count: Callable[[str], int]) -> list[Chunk]:
        """What retrieval searches. count: of a text's tokens, as the base reads them."""
        return chunk(self.library.text(document), min(PASSAGE_TOKENS, base.chunk_tokens), 0.0, count)

    def study_chunks(self, document: Document, reads: Reads, recipe: Recipe) -> list[Chunk]:
        """The document as a recipe cuts it. Where its module was cut alike, what stands unchanged of that text stays cut as
        it was."""
        module, before = self._cut_alike(document, recipe)
        if module and module.text_sha256 == document.text_sha256:
            return before
        size, overlap = recipe.chunk_tokens, recipe.chunk_overlap
        if not before:
            return self.chunks(document, reads, size, overlap)
        return rechunk(self.library.text(document), size, overlap, counter(reads), [chunk.text for chunk in before])

    def _cut_alike(self, document: Document, recipe: Recipe) -> tuple[KnowledgeModule | None, list[Chunk]]:
        """The document's module and its chunks, where they are known and a recipe would make such."""
        try:
            module = self.library.module(document)
        except KmError:  # of a newer km
            module = None
        if module is None or _cutting(module.recipe) != _cutting(recipe):
            return None, []
        cut = self.library.cut(module)
        return (module, cut) if cut else (None, [])


@dataclass(frozen=True, slots=True)
class Failure:
    """One input of several that failed."""

    source: str
    error: KmError


def _cutting(recipe: Recipe) -> tuple[str, str, int, float]:
    return recipe.model, recipe.revision, recipe.chunk_tokens, recipe.chunk_overlap


def untrained(document: Document) -> NotFoundError:
    return NotFoundError(f"{document.name} has no Knowledge Module yet.", f"Make one: km train {document.name}")


@contextmanager
def open_house(flags: Mapping[str, str | None], report: Reporter) -> Iterator[House]:
    """The library and settings for one command. flags: settings given on the command line (None: not given), and
    the name of an extractor."""
    settings = config.resolve(flags)
    with Library.open(config.home()) as library, explaining(library):
        yield House(library, settings, report, flags.get("extractor"))


@contextmanager
def explaining(library: Library) -> Iterator[None]:
    """Within it, where the library itself was taken away meanwhile, that is what is said."""
    try:
        yield
    except (KmError, FileNotFoundError) as error:
        if library.is_there:
            raise
        raise gone(library.home) from error  # which explains whatever was missing


def counter(reads: Reads) -> Callable[[str], int]:
    """Counts a text's tokens as the base reads them."""
    return lambda text: len(reads.tokenizer(text, add_special_tokens=False)["input_ids"])


def usable(samples: Sequence[Sample], recipe: Recipe) -> list[Sample]:
    """The material that the recipe's base wrote, or its teacher: no other's is mixed in. And what was imported, which a
    person chose."""
    return [
        sample for sample in samples if sample.engine == IMPORTED or (sample.model, sample.revision) == recipe.writer
    ]
