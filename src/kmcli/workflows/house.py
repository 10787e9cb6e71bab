"""What every verb is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from kmcli import bases, config
from kmcli.bases import Base, Loaded
from kmcli.chunking import chunk
from kmcli.errors import KmError
from kmcli.library import Library
from kmcli.types import Chunk, Document, Event, Recipe, Reporter, Sample


@dataclass(frozen=True, slots=True)
class House:
    library: Library
    settings: Mapping[str, config.Value]
    report: Reporter

    def base(self) -> Base:
        """The base that the settings name."""
        base = bases.find(self.settings["model"].value, self.report)
        self.announce(base)
        return base

    def announce(self, base: Base) -> None:
        if base.embedded:
            self.report(Event("base", bases.EMBEDDED_NOTICE))

    def load(self, base: Base) -> Loaded:
        return bases.load(base, self.settings["device"].value)

    def chunks(self, document: Document, loaded: Loaded, size: int, overlap: float = 0.0) -> list[Chunk]:
        """The document in chunks of at most `size` tokens of the base."""
        return chunk(self.library.text(document), size, overlap, counter(loaded))

    def study_chunks(self, document: Document, loaded: Loaded, recipe: Recipe) -> list[Chunk]:
        return self.chunks(document, loaded, recipe.chunk_tokens, recipe.chunk_overlap)


@dataclass(frozen=True, slots=True)
class Failure:
    """One input of several that failed."""

    source: str
    error: KmError


@contextmanager
def open_house(flags: Mapping[str, str | None], report: Reporter) -> Iterator[House]:
    """The library and settings for one command. flags: settings given on the command line (None: not given)."""
    settings = config.resolve(flags)
    with Library.open(config.home()) as library:
        yield House(library, settings, report)


def counter(loaded: Loaded) -> Callable[[str], int]:
    """Counts a text's tokens as the base reads them."""
    return lambda text: len(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])


def usable(samples: Sequence[Sample], base: Base) -> list[Sample]:
    """The material that this very base wrote: another's would teach what this one cannot follow."""
    return [sample for sample in samples if (sample.model, sample.revision) == (base.name, base.revision)]
