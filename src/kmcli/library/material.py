"""A document's study material and unfinished training, and the lock that whatever changes a document holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kmcli.errors import NotFoundError
from kmcli.library import files
from kmcli.library import samples as study
from kmcli.library.database import Database
from kmcli.library.layout import RUN, Layout
from kmcli.library.locks import Locks
from kmcli.types import Document, Sample


def removed(document: Document) -> NotFoundError:
    """Another process has removed it."""
    return NotFoundError(f"{document.name} has been removed meanwhile.", "km ls shows what is there.")


class Material:
    """What the Library has of a document besides its text and its Knowledge Module."""

    def __init__(self, layout: Layout, database: Database) -> None:
        self._layout = layout
        self._database = database
        self._locks = Locks(layout.locks)

    @property
    def is_there(self) -> bool:
        """Whether the library still is where it was opened: not moved, nor on a disk that was taken away."""
        return self._layout.database.exists()

    @contextmanager
    def lock(self, document: Document, verb: str, wait: float = 0.0) -> Iterator[Document]:
        """Keep other processes from changing the document; they are told that `km verb` of this process is at it.

        Gives the document as it is now, which may not be as it was listed. Waits up to `wait` seconds, then raises
        KmError saying who holds it. Raises NotFoundError where the document was removed meanwhile. Taking it again while
        holding it does nothing.
        """
        if self._locks.holds(document.id):
            yield self._database.document("id", document.id) or document
            return
        with self._locks.hold(document.id, document.name, verb, wait):
            if not self.is_there:  # and filelock has made the locks' folder anew
                raise files.gone(self._layout.home)
            current = self._database.document("id", document.id)
            if current is None:
                self._locks.forget(document.id)
                raise removed(document)
            yield current

    def samples(self, document: Document) -> list[Sample]:
        """Raises KmError where a line other than a torn last one is damaged."""
        found = study.samples(self._layout.samples(document), document.name)
        return study.scored(found, self._layout.scores(document))

    def append_samples(self, document: Document, samples: Iterable[Sample]) -> None:
        """Add samples; they are safe on the disk when this returns."""
        with self.lock(document, "synth"), files.explained(self._layout.home):
            study.append(self._layout.samples(document), samples)

    def chunk_texts(self, document: Document) -> dict[str, str]:
        """By hash, the chunks that study material was written about: also those of other sizes, or of an older text."""
        return study.texts(self._layout.chunks(document))

    def keep_chunks(self, document: Document, texts: Iterable[str]) -> None:
        """Keep the chunks that are not kept yet; to be called before samples about them are appended."""
        with self.lock(document, "synth"), files.explained(self._layout.home):
            study.keep_texts(self._layout.chunks(document), texts)

    def append_scores(self, document: Document, samples: Iterable[Sample]) -> None:
        """Note the scores of samples that were appended without one; safe on the disk when this returns."""
        with self.lock(document, "synth"), files.explained(self._layout.home):
            study.append_scores(self._layout.scores(document), samples)

    def drop_samples(self, document: Document) -> None:
        with self.lock(document, "synth"), files.explained(self._layout.home):
            # the log first: it must not promise samples that are gone
            kept = self._layout
            for path in (kept.work_log, kept.samples, kept.chunks, kept.scores, kept.exam_questions):
                path(document).unlink(missing_ok=True)
            files.sync(self._layout.document(document))

    def work_log(self, document: Document) -> list[dict[str, Any]]:
        """What has been written of the study material, as append_work was given it: its samples are all there."""
        return study.work(self._layout.work_log(document))

    def append_work(self, document: Document, group: Iterable[Mapping[str, Any]]) -> None:
        """Note finished work, after its samples were appended; safe on the disk when this returns.

        A group is one line: all of it is noted or, after a crash, nothing, and then the same group is written again.
        """
        with self.lock(document, "synth"), files.explained(self._layout.home):
            study.append_objects(self._layout.work_log(document), [list(group)])

    # --- an unfinished training

    def workspace(self, document: Document) -> Path:
        """The folder for checkpoints and other unfinished files of the document's training; made if it is not there."""
        with files.explained(self._layout.home):
            folder = self._layout.workspace(document)
            files.make_folder(folder)
            return folder

    def clear_workspace(self, document: Document) -> None:
        """For good: the note goes first, without which the rest is of no training."""
        folder = self._layout.workspace(document)
        with self.lock(document, "train"), files.explained(self._layout.home):
            if (folder / RUN).exists():
                (folder / RUN).unlink()
                files.sync(folder)
            files.delete(folder)

    def staging(self, document: Document) -> Path:
        """An empty folder in the workspace, in which to write a module for commit_module."""
        with self.lock(document, "train"), files.explained(self._layout.home):
            folder = self.workspace(document) / "module"
            files.delete(folder)
            files.make_folder(folder)
            return folder
