"""What a comparison found: rows of a table, and the answers behind them. Values only; `kmcli.compare` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from kmcli.library.exams import Exam
from kmcli.types import AdapterName, Answer, Method, Question, Score

Measure = Literal["exact_match", "f1"]
Retriever = Literal["bm25", "dense", "hybrid"]
Judgement = Literal["right", "wrong", "unclear"]
"""Of a judge about an answer; unclear: it gave none that could be read."""


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer with its scores, all from 0 to 1; judgement: where a judge was asked."""

    answer: Answer
    exact_match: float
    f1: float
    rouge_l: float
    judgement: Judgement | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class Way:
    """A method with what it is told: one row. retriever and k: of methods that read passages; kept: of `full-l2`, the share
    of the text's keys and values that stays; adapter: whose module, where it is not the one that the document answers by."""

    method: Method
    retriever: Retriever | None = None
    k: int | None = None
    kept: float | None = None
    adapter: AdapterName | None = None

    @property
    def key(self) -> str:
        """As people write and read it: rag@3, rag@3:dense, full-l2@0.5, km:cartridge. Two different rows never have
        the same."""
        key: str = self.method
        if self.k is not None:
            key += f"@{self.k}"
        if self.retriever not in (None, "bm25"):
            key += f":{self.retriever}"
        if self.adapter:
            key += f":{self.adapter}"
        return key if self.kept is None else f"{key}@{self.kept:g}"


@dataclass(frozen=True, slots=True)
class Row:
    """A way's line of the table. Token counts, seconds and bytes are means per question.

    fits False: the questions were not asked, every number is None, and note says why. A note on a row that fits says
    what to know when reading it.

    kv_bytes: the keys and values that the base keeps of what it has read and written. p_km: how likely chance alone makes
    such a difference to the row `km`, by the comparison's measure; None without that row, and in it. kinds: the
    score by that measure for each kind of question. judged: the share that a judge says is right, where one was asked;
    judged_p_km: as p_km, by that.
    """

    key: str
    method: Method
    fits: bool
    retriever: Retriever | None = None
    k: int | None = None
    kept: float | None = None
    exact_match: Score | None = None
    f1: Score | None = None
    rouge_l: Score | None = None
    prompt_tokens: float | None = None
    output_tokens: float | None = None
    seconds: float | None = None
    kv_bytes: float | None = None
    p_km: float | None = None
    kinds: Mapping[str, Score] = field(default_factory=dict)
    note: str = ""
    judged: Score | None = None
    judged_p_km: float | None = None
    adapter: AdapterName | None = None


@dataclass(frozen=True, slots=True)
class Adapter:
    """What a document's module costs, beside what its row says of its answers.

    key: of that row. tokens: how many stand before every question; a LoRA has none. size: bytes on disk. training_seconds:
    None where that is not known.
    """

    key: str
    name: AdapterName
    tokens: int
    size: int
    training_seconds: float | None


@dataclass(frozen=True, slots=True)
class Costs:
    """What there is to pay for beside answers.

    adapter_bytes: of the Knowledge Module on disk. text_tokens, text_kv_bytes: of the whole document, fit it or not.
    training_seconds: what making the module took; None where that is not known, or there is no module.
    rival: the key of the row that break_even speaks of. break_even: after so many questions training has taken no more
    time than that row's longer answers; None where a question takes the KM no less time. adapters: of several modules of the
    document, each; empty where it has one.
    """

    text_tokens: int
    text_kv_bytes: int
    adapter_bytes: int | None = None
    training_seconds: float | None = None
    rival: str | None = None
    break_even: int | None = None
    adapters: tuple[Adapter, ...] = ()


@dataclass(frozen=True, slots=True)
class Forgetting:
    """In-context accuracy on another document, exact match and F1: without the KM, with it, and the difference (with less
    without: below 0 where the base reads worse with it). p: that there is no difference in exact match.

    left_out: questions whose passage is not known or, with the answer, does not fit in the base's context.
    """

    document: str
    without: Score
    with_km: Score
    difference: Score
    p: float
    without_f1: Score
    with_km_f1: Score
    difference_f1: Score
    left_out: int


@dataclass(frozen=True, slots=True)
class Judge:
    """What said which answers are right. answers: how many different ones it was asked about. unclear: of how many its
    judgement could not be read."""

    model: str
    revision: str
    engine: str
    answers: int
    unclear: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """rows are in the order of METHODS, and answers too. answers[key][i] answers questions[i]; only rows that fit.

    measure: what verdict, kinds and p-values go by: exact match, or F1 where no row got anything exactly right.
    reference: the key of the row that the gap is measured to, "gold", or "full" where gold could not be asked. gap_closed
    (by exact match) and gap_closed_f1: 0 is the bare base, 1 the reference; None where a row is missing or the reference
    is not the better one. forgetting, judge: where that was asked for. exam: of the document's module, where there was one.
    """

    document: str
    base: str
    questions: tuple[Question, ...]
    rows: tuple[Row, ...]
    answers: Mapping[str, tuple[Judged, ...]]
    measure: Measure
    reference: str | None
    gap_closed: float | None
    gap_closed_f1: float | None
    costs: Costs | None
    verdict: str
    forgetting: Forgetting | None = None
    judge: Judge | None = None
    exam: Exam | None = None
