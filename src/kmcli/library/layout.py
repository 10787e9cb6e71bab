"""Where everything lies below the library's folder.

A document's text and source carry the start of their hash in their file names. So an update writes new files beside the
old ones, and one database transaction decides which of them are the document: there is no moment in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kmcli.types import Document, text_hash

RUN = "run.json"
"""In a workspace: the note of what is being trained. Without it what lies there belongs to no training."""

UNFINISHED = "training-"
"""What the folders of unfinished extractors begin with."""

SUFFIXES = {
    "pdf": ".pdf",
    "docx": ".docx",
    "html": ".html",
    "epub": ".epub",
    "markdown": ".md",
    "latex": ".tex",
    "text": ".txt",
}


@dataclass(frozen=True, slots=True)
class Layout:
    home: Path

    @property
    def database(self) -> Path:
        return self.home / "km.db"

    @property
    def names(self) -> Path:
        return self.home / "names"

    @property
    def documents(self) -> Path:
        return self.home / "documents"

    @property
    def modules(self) -> Path:
        return self.home / "modules"

    @property
    def extractors(self) -> Path:
        return self.home / "extractors"

    @property
    def compressors(self) -> Path:
        """Made with the first of them."""
        return self.home / "compressors"

    @property
    def locks(self) -> Path:
        return self.home / "locks"

    @property
    def lost(self) -> Path:
        """Where a repair puts what belongs to no document. Made when it is needed."""
        return self.home / "lost"

    @property
    def conversations(self) -> Path:
        """Made with the first of them."""
        return self.home / "conversations"

    @property
    def cache(self) -> Path:
        return self.home / "cache"

    @property
    def document_caches(self) -> Path:
        return self.cache / "documents"

    def document_cache(self, document_id: str) -> Path:
        return self.document_caches / document_id

    @property
    def folders(self) -> tuple[Path, ...]:
        return (self.documents, self.modules, self.extractors, self.locks, self.cache, self.document_caches)

    def document(self, document: Document) -> Path:
        return self.documents / document.id

    def text(self, document: Document) -> Path:
        return self.document(document) / f"text-{document.text_sha256[:12]}.md"

    def source(self, document: Document) -> Path:
        suffix = SUFFIXES.get(document.kind, ".bin")
        return self.document(document) / f"source-{document.sha256[:12]}{suffix}"

    def samples(self, document: Document) -> Path:
        return self.document(document) / "samples.jsonl"

    def chunks(self, document: Document) -> Path:
        return self.document(document) / "chunks.jsonl"

    def scores(self, document: Document) -> Path:
        return self.document(document) / "scores.jsonl"

    def work_log(self, document: Document) -> Path:
        return self.document(document) / "written.jsonl"

    def exam_questions(self, document: Document) -> Path:
        return self.document(document) / "exam.jsonl"

    def workspace(self, document: Document) -> Path:
        return self.document(document) / "training"

    def module(self, module_id: str) -> Path:
        return self.modules / module_id

    def extractor(self, extractor_id: str) -> Path:
        return self.extractors / extractor_id

    def extractor_workspace(self, key: str) -> Path:
        """key: of the extractor's name."""
        return self.extractors / f"{UNFINISHED}{text_hash(key)[:16]}"

    def leftovers(self, document: Document) -> list[Path]:
        """Files of the document that an update or a crash left behind."""
        wanted = {self.text(document), self.source(document)}
        folder = self.document(document)
        found = [path for pattern in ("text-*", "source-*", ".*.tmp") for path in folder.glob(pattern)]
        return sorted(path for path in found if path not in wanted)


def has_weights(module: Path) -> bool:
    return any(file.stat().st_size for file in module.glob("*.safetensors"))


def unfinished(workspace: Path, finished: int | None) -> bool:
    """Whether a workspace holds a training that is not in the module: whether there is a note of one that is no older.

    finished: when the module was, in nanoseconds of the file system's clock; None where there is no module. A workspace
    that only a crash kept from being cleared is older, or has no note.
    """
    try:
        begun = (workspace / RUN).stat().st_mtime_ns
    except FileNotFoundError:
        return False
    return finished is None or begun >= finished
