"""The values that flow between the rooms of km. No behaviour beyond checking themselves, no heavy import."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

State = Literal["fresh", "stale", "untrained", "interrupted", "training"]
Method = Literal["bare", "km", "auto", "rag", "km+rag", "rag+ke", "km+ke", "rag+km+ke", "full", "full-l2", "gold"]
TaskName = Literal[
    "qa",
    "summary",
    "question",
    "question_for",
    "unanswerable",
    "entities",
    "structure",
    "ask",
    "use-case",
    "creative",
    "generic",
]
"""km's own tasks of study material. A person may add others: see `synthesis.custom`."""
ObjectiveName = Literal["dcd", "sdcd", "ddcd", "lm", "sft", "pit", "skd", "keep"]
Divergence = Literal["forward", "reverse", "jsd"]
AdapterName = Literal["lora", "cartridge", "compressed"]
Quant = Literal["F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q3_K_M", "Q2_K"]
ExportFormat = Literal["gguf", "gguf-lora", "hf", "peft", "ollama"]

SERVICE = "service"
"""The revision of a model that a service runs."""

PAGE_BREAK = "\f"
"""Separates pages in a document's text, as in the output of pdftotext. Text without pages has none."""


def text_hash(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# --- progress -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Event:
    """Something to tell the person about work in progress.

    stage: which bar it belongs to ("read", "download", "write", "check", "teacher", "train", "compare", "export", ...).
    done, total: units of work so far and altogether (None: not known). Both None: a message and no progress.
    numbers: values shown beside the bar, such as {"loss": 0.31, "kept": 40}.
    """

    stage: str
    message: str = ""
    done: float | None = None
    total: float | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    warning: bool = False


Reporter = Callable[[Event], None]


def silent(event: Event) -> None:
    """The reporter for callers that show nothing."""


# --- documents ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ingested:
    """A source as read, before the library knows it.

    source: absolute path, URL, or "-" for standard input; one line of a file has "#" and its name behind it.
    kind: "pdf", "docx", "html", "epub", "markdown", "latex", "text".
    data: the bytes as given. text: extracted text, pages separated by PAGE_BREAK. pages: None where the format has none.
    """

    source: str
    kind: str
    suggested_name: str
    data: bytes
    text: str
    pages: int | None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, slots=True)
class Document:
    id: str
    name: str
    source: str
    kind: str
    sha256: str
    """Of the bytes as given."""
    text_sha256: str
    pages: int | None
    words: int
    added: str
    """UTC, ISO 8601; so is `updated`."""
    updated: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document, sized in tokens of the base that reads it. Pages count from 1 (None: no pages)."""

    index: int
    text: str
    tokens: int
    start: int
    """Offset of the chunk's first character in the document's text."""
    first_page: int | None = None
    last_page: int | None = None

    @property
    def sha256(self) -> str:
        return text_hash(self.text)


@dataclass(frozen=True, slots=True)
class Passage:
    """A retrieved piece of a document. score: higher is better, comparable within one query only."""

    document: str
    text: str
    score: float
    page: int | None = None


IMPORTED = "import"
"""The engine of samples that km did not write, and the task by which a recipe asks for nothing but them."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of study material: what the student reads (prompt) and what is scored (response).

    chunk_sha256: the chunk that the teacher reads in front of the prompt. `prompt` is what the student is given, so that
    objectives need to know nothing of the task that made the sample. score: 1 to 5 by `synthesis.judge`, 0 where it could
    give none, None where nobody asked.
    """

    id: str
    chunk_sha256: str
    task: str
    prompt: str
    response: str
    engine: str
    model: str
    revision: str
    seed: int
    score: int | None = None


# --- training -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what a Knowledge Module becomes. Saved beside its weights; outranks flags when it is used."""

    model: str = "embedded"
    revision: str = ""
    """Hash or hub revision of the base; filled in when training starts."""
    base_label: str = ""
    """What the base's card calls it, such as "km-base 0": for people. What identifies it is `revision`."""
    base_bits: int = 0
    """Of a weight of the base's linear layers, while it trains, and writes by torch: 4 or 8; 0: all that it has."""
    teacher: str = ""
    """The model that writes the study material: hub name, folder, GGUF file, a service's name for it. "": the base."""
    teacher_revision: str = ""
    """As `revision`; SERVICE for a model of a service, which says no other. Filled in when writing starts."""
    distil_from: Literal["base", "teacher"] = "base"
    """Whose predictions are learnt: the base's with the document in context, or those of the teacher, which must have the
    base's vocabulary. It has no say in the hidden term: that is off then."""
    teacher_top_k: int = 64
    """Of how many tokens, the likeliest, the teacher's predictions are kept; the others count together."""
    adapter: AdapterName = "lora"
    cartridge_tokens: int = 0
    """0: as many as a chunk has, or as the document has where it is shorter."""
    cartridge_frozen: int = 1
    """Of its tokens, the first ones, which are never trained: much attention rests on them."""
    cartridge_start: Literal["first", "chunks", "random"] = "first"
    """What it begins as: the document's first tokens, pieces from all over it, or random numbers."""
    summary_ratio: int = 30
    """Of a compressed document: tokens that a summary vector stands for."""
    summary_refined: bool = False
    """Whether its vectors are trained as well."""
    group: str = ""
    """Documents that one adapter is trained for, as they were named; "": each has its own."""
    objective: str = "dcd"
    """One of `ObjectiveName`, or several with their weights: "dcd,lm:0.1". See `training.mixture`."""
    tasks: tuple[str, ...] = ("qa", "summary")
    """Names, each with its own number of generations where one is given: "qa", "summary:4"."""
    chunk_tokens: int = 0
    """0: what the base's card recommends."""
    chunk_overlap: float = 0.1
    generations: int = 16
    """Per chunk and task; for objectives on windows, how often the document is cut into windows anew."""
    summary_share: float = 0.25
    """Generations of a summary, as a share of `generations`: summaries of one chunk are much alike."""
    max_tokens: str = ""
    """How long a draft, and an answer that is not short, may be: "256" for every task, "summary:400", "256,summary:400".
    "": each task's own, by the size of a chunk."""
    temperature: float = 0.8
    top_p: float = 0.95
    min_explained: float = 0.0
    """A written question is studied only where the chunk takes away so large a share of how unlikely it is; 0: whatever it
    is. A card says it for a base that it was measured for. See `synthesis.check`."""
    judge: bool = False
    """Have every sample rated from 1 to 5."""
    min_score: int = 0
    """Samples with a lower score are not trained on."""
    rank: int = 16
    alpha: int = 16
    dropout: float = 0.0
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "linear"] = "cosine"
    warmup: float = 0.06
    """Share of the steps."""
    weight_decay: float = 0.0
    clip: float = 1.0
    steps: int = 0
    """0: as many as `epochs` over the study material take, in which a fact counts as three samples at least."""
    epochs: float = 12.0
    batch: int = 16
    kl_weight: float = 1.0
    divergence: Divergence = "forward"
    """forward: KL(teacher || student), reverse: KL(student || teacher), jsd: Jensen-Shannon."""
    hidden_weight: float = 1.0
    """0 turns the hidden term off."""
    hidden_layers: str = "all"
    """Whose states it compares: "all", "last", "even", or numbers from 0, such as "0,3,7"."""
    skd_draft: int = 5
    """For `skd`: tokens that the student drafts before the teacher judges them."""
    skd_accept: int = 25
    """For `skd`: a drafted token stands while it is among so many that the teacher finds likeliest."""
    skd_every: int = 50
    """For `skd`: after so many steps the samples of the next ones are written anew."""
    held_out: float = 0.05
    """Share of the samples or windows that is never trained on; decides early stopping."""
    early_stopping: bool = True
    seed: int = 0
    init: str = ""
    """What the adapter begins as: "" adds nothing yet, a document's name its Knowledge Module, "library" the mean of those
    of all other documents that fit the base and have this rank."""
    init_revision: str = ""
    """Of the modules that were meant; filled in when training starts."""
    exam: bool = True
    """Whether training ends by questioning the Knowledge Module on every passage. See `workflows.exam`."""
    exam_rounds: int = 1
    """How often, at most, what the exam found unknown is studied again, each time for a quarter of the steps: the learning
    rate falls over all of them. See `workflows.rounds`."""
    format: int = 1

    @property
    def writer(self) -> tuple[str, str]:
        """Model and revision of what writes the study material, as its samples record them."""
        return (self.teacher, self.teacher_revision) if self.teacher else (self.model, self.revision)

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recipe:
        """Unknown keys are an error (TypeError): a recipe of a newer km must not be half understood."""
        values = dict(data)
        if "tasks" in values:
            values["tasks"] = tuple(values["tasks"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class View:
    """What the teacher and the student read for one sample, and which tokens are scored.

    mask[i] says that token i is scored, that is: predicted from position i-1. Both masks select the same tokens.
    """

    teacher_ids: list[int] | None
    student_ids: list[int]
    teacher_mask: list[bool] | None
    student_mask: list[bool]

    def __post_init__(self) -> None:
        student = _scored(self.student_ids, self.student_mask, "student")
        if (self.teacher_ids is None) != (self.teacher_mask is None):
            raise ValueError("a view has both the teacher's ids and mask, or neither")
        if self.teacher_ids is not None and self.teacher_mask is not None:
            teacher = _scored(self.teacher_ids, self.teacher_mask, "teacher")
            if teacher != student:
                raise ValueError("teacher and student are scored on different tokens")


def _scored(ids: list[int], mask: list[bool], who: str) -> list[int]:
    if len(ids) != len(mask):
        raise ValueError(f"{who}: {len(ids)} ids but {len(mask)} mask entries")
    if mask and mask[0]:
        raise ValueError(f"{who}: the first token has no position that predicts it, so it cannot be scored")
    return [token for token, on in zip(ids, mask, strict=True) if on]


@dataclass(frozen=True, slots=True)
class KnowledgeModule:
    """A trained adapter on disk, bound to the text it was trained on."""

    id: str
    document_id: str
    path: Path
    recipe: Recipe
    metrics: Mapping[str, Any]
    text_sha256: str
    created: str


# --- answers and scores -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """prompt_tokens and output_tokens count what the answering model read and wrote; seconds exclude loading it."""

    text: str
    method: Method
    prompt_tokens: int
    output_tokens: int
    seconds: float
    evidence: tuple[Passage, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """evidence: words of the document that contain the answer, to find the gold chunk; empty where unknown.

    answers: each is right; none for a question of the kind "unanswerable", which is rightly refused. options: of a multiple
    choice, where they are given; the answers are among them.
    """

    question: str
    answers: tuple[str, ...]
    kind: str = ""
    evidence: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """A mean over n questions with its 95% bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int
