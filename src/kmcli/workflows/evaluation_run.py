"""The run of an evaluation: documents are added, trained in groups side by side, and asked, as far as that is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kmcli import adapters
from kmcli.bases import Base, Loaded
from kmcli.chunking import join_pages
from kmcli.engines import Engine, Sampling
from kmcli.errors import InterruptedRun, KmError
from kmcli.evaluation import METHODS
from kmcli.evaluation.benchmarks import Benchmark, Case, Item
from kmcli.evaluation.methods import answer_all
from kmcli.library.extractors import Extractor
from kmcli.retrieval import Index
from kmcli.types import Answer, Document, Event, Ingested, Method, Question, Recipe
from kmcli.workflows import due, extracting, study
from kmcli.workflows.evaluation_log import Answered, Log, key_of
from kmcli.workflows.group import TOGETHER
from kmcli.workflows.house import Failure, House, counter
from kmcli.workflows.material import RecipeOptions


class Run:
    """What is done for each case: a document, a module, answers. failed: the cases for which it is not."""

    def __init__(
        self,
        house: House,
        benchmark: Benchmark,
        base: Base,
        options: RecipeOptions,
        recipe: Recipe,
        methods: Sequence[Method],
        log: Log,
        force: bool,
        extractor: Extractor | None,
    ) -> None:
        self.failed: list[Failure] = []
        self._house, self._benchmark, self._base, self._options = house, benchmark, base, options
        self._recipe, self._methods, self._log = recipe, methods, log
        self._force, self._extractor = force, extractor

    def is_done(self, case: Case) -> bool:
        return bool(case.items) and not any(self._missing(case, method) for method in self._methods)

    def work_through(self, cases: Sequence[Case]) -> InterruptedRun | None:
        todo = [case for case in cases if not self.is_done(case)]
        if len(todo) < len(cases):
            self._house.report(Event("eval", f"documents that are done already: {len(cases) - len(todo):,}"))
        try:
            for start in range(0, len(todo), TOGETHER):
                group = todo[start : start + TOGETHER]
                found = self._added(group)
                stopped = self._train(found)
                if stopped:
                    return stopped
                self._ask(found)
                self._house.report(Event("eval", "", start + len(group), len(todo)))
        except InterruptedRun as stopped:
            return stopped
        except KeyboardInterrupt:
            message = "stopped; nothing that was finished is lost."
            return InterruptedRun(message, "The same command goes on from there.")
        return None

    def _missing(self, case: Case, method: Method) -> bool:
        return any(self._log.find(self._key(case, item, method), method) is None for item in case.items)

    def _key(self, case: Case, item: Item, method: Method) -> str:
        return key_of(case, item, method, self._extractor)

    def _fail(self, case: Case, error: KmError) -> None:
        self.failed.append(Failure(case.title, error))

    def _added(self, cases: Sequence[Case]) -> list[tuple[Case, Document]]:
        found = []
        for case in cases:
            try:
                if case.error:
                    raise case.error
                if not case.text.strip() or not case.items:
                    what = "questions" if case.text.strip() else "text"
                    raise KmError(f"it has no {what}.", "The other documents are evaluated.")
                source = f"{self._benchmark.title}: {case.id}"
                read = Ingested(source, "text", case.title, case.text.encode(), case.text, None)
                found.append((case, self._house.library.add(read).document))
            except KmError as error:
                self._fail(case, error)
        return found

    def _train(self, found: list[tuple[Case, Document]]) -> InterruptedRun | None:
        """Leaves out those that fail."""
        needing = [method for method in self._methods if METHODS[method].km]
        missing = [one for case, one in found if any(self._missing(case, method) for method in needing)]
        names = [one.name for one in missing if not due.met(self._house, one, self._recipe, self._options, False)]
        if not names:
            return None
        report = study.train(self._house, list(dict.fromkeys(names)), False, self._options, self._force)
        errors = {failure.source: failure.error for failure in report.failed}
        for case, document in list(found):
            if document.name in errors:
                self._fail(case, errors[document.name])
                found.remove((case, document))
        return report.interrupted

    def _ask(self, found: Sequence[tuple[Case, Document]]) -> None:
        if not found:
            return
        loaded = self._house.load(self._base)
        for case, document in found:
            try:
                todo = [method for method in self._methods if self._missing(case, method)]
                with self._engines(loaded, document, todo) as engines:
                    for method, engine in engines.items():
                        answers = self._answers(loaded, engine, case, document, method)
                        self._log.append(self._lines(case, method, answers))
            except KmError as error:
                self._fail(case, error)

    @contextmanager
    def _engines(self, loaded: Loaded, document: Document, methods: Sequence[Method]) -> Iterator[dict[Method, Engine]]:
        """For each method an engine with what is on the base for it: the document's module, an extractor, both, nothing."""
        from kmcli.engines.hf import HfEngine

        module = self._house.library.module(document)
        folders: dict[str, Path] = {}
        for method in methods:
            how = METHODS[method]
            if how.ke and self._extractor:
                made = (
                    extracting.baked(self._house, document, module, self._extractor)
                    if module and how.km
                    else extracting.alone(self._house, self._extractor)
                )
                folders[_name(method)] = made.path
            elif how.km and module:
                folders[_name(method)] = module.path
        model: Any = adapters.load_side_by_side(loaded, folders) if folders else None
        try:
            yield {method: HfEngine(loaded, model, adapter=_name(method) or model is None) for method in methods}
        finally:
            if model is not None:
                model.unload()

    def _answers(
        self, loaded: Loaded, engine: Engine, case: Case, document: Document, method: Method
    ) -> list[Answer] | None:
        base, passages = self._base, []
        if METHODS[method].reads == "passages":
            with Index(document.name, self._house.passages(document, base, counter(loaded))) as index:
                passages = [index.search(item.question, base.passages) for item in case.items]
        return answer_all(
            method,
            engine,
            [Question(item.question, item.answers, options=item.options) for item in case.items],
            base.prompts,
            text=join_pages(case.text),
            passages=passages,
            sampling=Sampling(max_tokens=self._benchmark.max_tokens),
        )

    def _lines(self, case: Case, method: Method, answers: Sequence[Answer] | None) -> list[Answered]:
        lines = []
        for place, item in enumerate(case.items):
            plain = (self._key(case, item, method), case.id, item.id, method, item.question)
            if answers is None:
                lines.append(Answered(*plain, "", item.answers, {}, fits=False))
                continue
            one = answers[place]
            refused = not item.options and self._base.prompts.refuses(one.text)
            scores = self._benchmark.score(item, one.text, refused)
            spent = (one.prompt_tokens, one.output_tokens, one.seconds)
            lines.append(Answered(*plain, one.text, item.answers, scores, True, refused, *spent))
        return lines


def _name(method: Method) -> str:
    """Of what is on the base for a method; "" for nothing."""
    how = METHODS[method]
    return "-".join(word for word, on in (("km", how.km), ("ke", how.ke)) if on)
