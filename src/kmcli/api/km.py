"""Knowledge Modules from Python: making, asking and comparing them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kmcli.api.given import Named, PathLike, name_of, names_of, raise_failed, recipe_options
from kmcli.api.giving import Giving
from kmcli.types import Document, Method, Passage

if TYPE_CHECKING:
    from kmcli.evaluation.comparison import Comparison
    from kmcli.workflows.answer import Asked
    from kmcli.workflows.chat import Chat
    from kmcli.workflows.each import EachReport
    from kmcli.workflows.evaluate import EvalReport
    from kmcli.workflows.material import Synthesised
    from kmcli.workflows.material_files import Material
    from kmcli.workflows.routed import Routed
    from kmcli.workflows.task import Trained


def _unseen(text: str) -> None:
    """For callers who want the whole answer alone."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What `Km.ask` found.

    text: the answer, or why there is none. answered: whether that is an answer. documents: those that were asked (none:
    no document answers). method: how ("km", "rag", ...; None: nobody answered). confidence: how likely it is right, 0
    to 1 (None: nobody looked). supported: whether a passage says so (None: as confidence). evidence: passages, best
    first. prompt_tokens, output_tokens: read and written for this answer; seconds: without opening the base. notes:
    what to know about it. asked, routed: all that the workflow found, candidates and weights among it.
    """

    question: str
    text: str
    answered: bool
    documents: tuple[Document, ...]
    method: Method | None
    confidence: float | None
    supported: bool | None
    evidence: tuple[Passage, ...]
    prompt_tokens: int
    output_tokens: int
    seconds: float
    engine: str
    notes: tuple[str, ...]
    asked: Asked | None
    routed: Routed | None

    def __str__(self) -> str:
        return self.text


class Km(Giving):
    """The verbs of `km` as methods, on an open library. `Shelf` has add, ls, show, tag, mv, rm, search, watch, models and
    doctor; `Giving` has export, import_, serve and extractors.

    Wherever documents are named, "@TAG" stands for all with that tag. Every error for a person is a
    `kmcli.errors.KmError` with a `message`, a `hint` (the next step) and an `exit_code`.
    """

    # --- making

    def train(
        self,
        *names: Named,
        all: bool = False,
        preset: str | None = None,
        recipe: PathLike | None = None,
        settings: Mapping[str, object] | None = None,
        force: bool = False,
        restart: bool = False,
    ) -> list[Trained]:
        """Write study material, then distil it into a Knowledge Module; up to eight documents side by side.

        all: every document that is not fresh, instead of names. preset: "quick", "standard" or "paper". recipe: a TOML
        file. settings: fields of `kmcli.types.Recipe`, such as {"generations": 8, "exam": False}. force: also where it
        is fresh, or the base cannot read the document. restart: from nothing.

        Returns what was trained, with `document`, `module`, `seconds` and `exam`; what is fresh already is not in it.
        Raises NotFoundError for a name, UsageError for a setting, KmError where the base cannot read a document,
        ResourceError where memory, disk or the model is missing, InterruptedRun after KeyboardInterrupt (the same call
        goes on), and PartlyDone where some of several failed.
        """
        from kmcli.workflows import study

        options = recipe_options(preset, recipe, settings)
        with self._at_work() as house:
            report = study.train(house, names_of(names), all, options, force, restart)
            raise_failed(report.failed, len(report.trained) + len(report.skipped), report.interrupted)
            return list(report.trained)

    def synth(
        self,
        *names: Named,
        preset: str | None = None,
        recipe: PathLike | None = None,
        settings: Mapping[str, object] | None = None,
        force: bool = False,
        restart: bool = False,
    ) -> list[Synthesised]:
        """Write study material and train nothing. Takes and raises what `train` does.

        Returns for each document how many samples were `written` and `kept`, and how many there are now (`samples`).
        """
        from kmcli.workflows import material

        options = recipe_options(preset, recipe, settings)
        with self._at_work() as house:
            report = material.synth(house, names_of(names), options, force, restart)
            raise_failed(report.failed, len(report.written), report.interrupted)
            return list(report.written)

    def material(self, name: Named, task: str | None = None) -> Material:
        """A document's study material, of all tasks or one. Raises NotFoundError where there is none."""
        from kmcli.workflows import material_files

        with self._at_work() as house:
            return material_files.show(house, name_of(name), task)

    # --- asking

    def ask(
        self,
        question: str,
        *names: Named,
        method: str | None = None,
        weights: Sequence[float] | Literal["auto"] = (),
        on_text: Callable[[str], None] = _unseen,
    ) -> Reply:
        """Ask one document; of several the one that knows; without names the document of the library that knows.

        method: "km", "rag", "full", "bare" or "auto"; None is what the document allows: after an exam "auto", else its
        module, else retrieval. weights: add the modules up, each times a number. on_text: is given the answer in
        pieces.

        Raises NotFoundError for a name, or a module that is missing, UsageError for an empty or too long question, and
        ResourceError where the base cannot be had. That nobody knows is no error: `answered` is False.
        """
        from kmcli.workflows import asking

        with self._at_work() as house:
            asked, tried = asking.ask(house, names_of(names), question, method, weights, on_text)
        choice = asked.choice if asked else None
        answered = asked is not None and (choice is None or choice.answered)
        answer = asked.answer if asked else None
        return Reply(
            question,
            answer.text if answer else asking.NONE,
            answered,
            asked.documents if asked else (),
            answer.method if answer and answered else None,
            choice.confidence if choice else asked.confidence if asked else None,
            asked.supported if asked else None,
            answer.evidence if answer else (),
            answer.prompt_tokens if answer else 0,
            answer.output_tokens if answer else 0,
            answer.seconds if answer else 0.0,
            asked.engine if asked else "",
            asked.notes if asked else (),
            asked,
            tried,
        )

    def ask_each(self, question: str, *names: Named) -> EachReport:
        """Ask many documents the same; without names every one that has a module.

        One row a document: its `answer` (None, and an `error`, where it has none), and whether a passage bears it out
        (`supported`). Raises NotFoundError and UsageError.
        """
        from kmcli.workflows import each

        with self._at_work() as house:
            return each.ask_each(house, names_of(names), question)

    @contextmanager
    def chat(self, *names: Named, method: str | None = None, reads: int | None = None) -> Iterator[Chat]:
        """Question after question to the same documents, with the base kept open: for many questions the quickest way.

        `chat.ask(question)` gives a reply whose `turn.answer.text` is the answer, and keeps the turn in the library.
        reads: how many earlier turns an answer reads at most; None: as the base can. Raises NotFoundError and
        UsageError.
        """
        from kmcli.workflows import chat

        with self._at_work() as house, chat.open_chat(house, names_of(names), method, reads) as opened:
            yield opened

    def compare(
        self,
        name: Named,
        questions: PathLike | None = None,
        *,
        methods: Sequence[str] = (),
        retrievers: Sequence[str] = (),
        ks: Sequence[int] = (),
        kept: Sequence[float] = (),
        forgetting: Named | None = None,
        judge: str | None = None,
        report: PathLike | None = None,
    ) -> Comparison:
        """Put the same questions by Knowledge Module, retrieval, full text and bare base.

        questions: JSONL or CSV with question and answers; None: held-out study material. methods, retrievers, ks
        (passages to read), kept (shares of the full text's keys and values, 0 to 1): what makes a row; nothing given:
        what suits the base. forgetting: a document on which to measure what the module costs elsewhere. judge: a model
        that says which answers are right. report: a file for it all as a web page.

        Returns `rows`, each with `key`, and `exact_match`, `f1`, `rouge_l` (0 to 1, with their 95% interval), tokens
        read and written, seconds; and the `verdict` in words. Raises NotFoundError, UsageError, ResourceError.
        """
        from kmcli.workflows import comparing, judging, reporting

        if report is not None:
            reporting.check(Path(report))
        wishes = comparing.Wishes(methods, retrievers, ks, kept)
        other = None if forgetting is None else name_of(forgetting)
        asked = None if questions is None else Path(questions)
        with self._at_work() as house, judging.opened(house, judge) as judged:
            comparison = judged(comparing.compare(house, name_of(name), asked, wishes, other=other))
            if report is not None:
                reporting.write(house, comparison, Path(report))
            return comparison

    def eval(
        self,
        benchmark: str,
        data: PathLike,
        *,
        split: str | None = None,
        limit: int | None = None,
        methods: Sequence[str] = (),
        out: PathLike | None = None,
        preset: str | None = None,
        settings: Mapping[str, object] | None = None,
        force: bool = False,
    ) -> EvalReport:
        """Run a published benchmark from its own file: docs/eval.md. limit: the first so many documents. out: the folder.

        Returns `rows` and the `folder` of everything; `failed` documents are in it and no error. Raises UsageError for
        files that are not as published, InterruptedRun after KeyboardInterrupt (the same call goes on).
        """
        from kmcli.workflows import evaluate

        options = recipe_options(preset, None, settings)
        with self._at_work() as house:
            report = evaluate.evaluate(
                house,
                benchmark,
                Path(data),
                options,
                split=split,
                limit=limit,
                methods=methods,
                out=None if out is None else Path(out),
                force=force,
            )
            raise_failed((), 0, report.interrupted)
            return report
