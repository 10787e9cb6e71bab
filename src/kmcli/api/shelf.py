"""The library from Python: what is in it, and how km is set up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kmcli import config
from kmcli.api.given import Named, PathLike, name_of, names_of, raise_failed, recipe_options, warn
from kmcli.errors import UsageError
from kmcli.evaluation.comparison import Retriever
from kmcli.library import Added, Library
from kmcli.types import Document, Passage, Reporter
from kmcli.workflows import documents, models, searching, setup, watching
from kmcli.workflows.documents import Entry, Shown
from kmcli.workflows.house import House, explaining
from kmcli.workflows.models import ModelEntry, Pulled
from kmcli.workflows.setup import Check
from kmcli.workflows.watching import Happened, Watched

if TYPE_CHECKING:
    from typing_extensions import Self


class Shelf:
    """A library that is open. For one thread; close it, or use it in a `with` statement.

    Any number of processes, `km` itself among them, may have the same library open.
    """

    def __init__(
        self,
        home: PathLike | None = None,
        *,
        model: str | None = None,
        device: str | None = None,
        preset: str | None = None,
        engine: str | None = None,
        processes: int | None = None,
        embedder: str | None = None,
        extractor: str | None = None,
        on_event: Reporter | None = None,
    ) -> None:
        """As `kmcli.open`, which says what they mean."""
        flags = {
            "model": model,
            "device": device,
            "preset": preset,
            "engine": engine,
            "processes": None if processes is None else str(processes),
            "embedder": embedder,
        }
        settings = config.resolve(flags)
        self._until = ExitStack()
        folder = config.home() if home is None else Path(home).expanduser()
        library = self._until.enter_context(Library.open(folder))
        self._house = House(library, settings, on_event or warn, extractor)
        self._open = True

    def close(self) -> None:
        """Give the library back. A second time does nothing."""
        self._open = False
        self._until.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _at_work(self) -> Iterator[House]:
        if not self._open:
            raise UsageError("this library is closed.", "Open it again: kmcli.open()")
        with explaining(self._house.library):
            yield self._house

    @property
    def home(self) -> Path:
        """The library's folder."""
        return self._house.library.home

    @property
    def settings(self) -> Mapping[str, config.Value]:
        """Each setting with its value and where that comes from: "flag" (given to `kmcli.open`), the environment variable,
        the file, or "default". `km config` lists and changes them."""
        return self._house.settings

    # --- documents

    def add(
        self,
        *sources: PathLike,
        name: str | None = None,
        tags: Sequence[str] = (),
        column: str | None = None,
        update: Named | None = None,
    ) -> list[Added]:
        """Add documents: files, folders, URLs, a JSONL file or "hf://datasets/OWNER/NAME" (a document a line).

        name: what to call the one document. column: where a line of JSONL has its text. update: the document whose text
        the one source is now. Returns what was done for each document, in the order of the sources: its `document`, and
        `action`, which is "added", "unchanged" or "updated".

        Raises NotFoundError, UsageError or KmError for a source that cannot be read; with several, PartlyDone once the
        others are in.
        """
        with self._at_work() as house:
            old = None if update is None else name_of(update)
            report = documents.add(house, [str(one) for one in sources], name, tags, column, old)
            raise_failed(report.failed, len(report.added))
            return list(report.added)

    def ls(self, tag: str | None = None, limit: int | None = None) -> list[Entry]:
        """The documents by name, or those with a tag; the first `limit` of them.

        An entry has the `document`, its `state` ("fresh", "stale", "untrained", "interrupted", or "training": by a process
        at this moment), its `module` or None, that module's size in `bytes`, and what its `exam` came to.
        """
        with self._at_work() as house:
            return documents.ls(house, tag, limit)

    def show(self, name: Named, exam: bool = False) -> Shown:
        """One document: its `entry`, how many `samples` of study material it has by task, and with `exam` every question
        of its module's exam. Raises NotFoundError."""
        with self._at_work() as house:
            return documents.show(house, name_of(name), exam)

    def tag(self, *names: Named, add: Sequence[str] = (), remove: Sequence[str] = ()) -> list[Document]:
        """Give documents tags, and take tags away. Returns the documents as they are now.

        Raises NotFoundError for a document that is not there, or a tag to remove that none of them has, UsageError for
        a tag with white space or "@" in it.
        """
        with self._at_work() as house:
            return documents.tag(house, names_of(names), add, remove)

    def tags(self) -> dict[str, int]:
        """Every tag, and how many documents have it."""
        with self._at_work() as house:
            return documents.tags(house)

    def mv(self, old: Named, new: str) -> Document:
        """Rename a document. Raises NotFoundError, and UsageError for a name that is taken or not allowed."""
        with self._at_work() as house:
            return documents.mv(house, name_of(old), new)

    def rm(self, *names: Named) -> list[Document]:
        """Remove documents with their Knowledge Modules, without asking; the files that they came from stay.

        Returns what was removed. Raises NotFoundError for a name that is not there, and KmError where another process
        is at work on one of them; then nothing is removed.
        """
        with self._at_work() as house:
            return documents.rm(house, names_of(names))

    def search(self, query: str, k: int = 10, retriever: Retriever = "bm25") -> list[Passage]:
        """The k best passages of all documents, best first; fewer where there are no more.

        retriever: "bm25" by words; "dense" by meaning and "hybrid" by both need the extra `dense`. A passage has its
        `document`'s name, `text`, `page` (None: no pages) and a `score`, comparable within one call only.

        Raises UsageError for an empty query, NotFoundError for an empty library, ResourceError without the embedder.
        """
        with self._at_work() as house:
            return searching.search(house, query, k, retriever)

    def watch(
        self,
        folder: PathLike,
        on_change: Callable[[Happened], None],
        *,
        tags: Sequence[str] = (),
        train: bool = False,
        preset: str | None = None,
        recipe: PathLike | None = None,
        settings: Mapping[str, object] | None = None,
        every: float = 2.0,
    ) -> Watched:
        """Keep a folder in the library until KeyboardInterrupt; looks at it every so many seconds.

        train: keep its documents trained as well, by preset, recipe and settings as in `Km.train`. Returns how often
        each kind of thing happened. Raises NotFoundError where there is no such folder.
        """
        with self._at_work() as house:
            options = recipe_options(preset, recipe, settings) if train else None
            return watching.watch(house, str(folder), on_change, tags, options, every)

    # --- setup

    def models(self) -> list[ModelEntry]:
        """The base models on this disk, the embedded one first; `in_use`: the one that the settings name.

        Then by their `kind` those that may be worth downloading, and GGUF files of Ollama and LM Studio. `bytes` of the
        weights; `memory`: bytes that training takes here, reckoned.
        """
        with self._at_work() as house:
            return models.models(house)

    def pull(self, name: str) -> Pulled:
        """Download a base from the hub into its cache; what is there is not asked for again, what was cut is gone on with.

        Returns its `path`, `revision`, `bytes`, and whether it was `downloaded` now. Raises UsageError for what is no hub
        model's name, ResourceError where it cannot be had.
        """
        with self._at_work() as house:
            return models.pull(house, name)

    def doctor(self, repair: bool = False) -> list[Check]:
        """Look at the installation and the library; repair mends what can be mended without guessing.

        A check has a `subject`, a `status` ("ok", "warn", "bad"), a `message`, and a `hint`: the next step.
        """
        with self._at_work() as house:
            return setup.doctor(house, repair)
