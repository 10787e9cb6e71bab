"""What an extractor is trained on: questions about documents, of a file, or those of the study material that no Knowledge
Module was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kmcli.bases import Loaded
from kmcli.errors import KmError, NotFoundError, UsageError
from kmcli.evaluation.methods import build_chat
from kmcli.evaluation.questions import read_about
from kmcli.library.extractors import ExtractorRecipe
from kmcli.metrics import exact_match
from kmcli.retrieval import Index
from kmcli.training.extractor import Example
from kmcli.types import Document, KnowledgeModule, Question
from kmcli.workflows import held_out as unseen
from kmcli.workflows.house import House, counter

_EXAMPLE = 'For example: {"document": "report", "question": "...", "answers": ["..."]}'


def of_file(house: House, path: Path, documents: Sequence[Document]) -> dict[str, list[Question]]:
    """The questions of a file by the id of the document that they are about; none for documents: of all that it names.

    Questions about other documents are left out. Raises UsageError, with the line, for one that names none where there are
    several, or one that is not in the library.
    """
    found: dict[str, list[Question]] = {document.id: [] for document in documents}
    for line, name, question in read_about(path):
        if name:
            try:
                about = house.library.find(name).id
            except NotFoundError as error:
                raise UsageError(f"{path}, line {line}: {error.message}", error.hint) from None
        elif len(documents) == 1:
            about = documents[0].id
        else:
            raise UsageError(f"{path}, line {line}, does not say which document it is about.", _EXAMPLE)
        if not documents or about in found:
            found.setdefault(about, []).append(question)
    return {about: questions for about, questions in found.items() if questions}


def held_out(
    house: House, loaded: Loaded, documents: Sequence[Document], modules: Mapping[str, KnowledgeModule]
) -> dict[str, list[Question]]:
    """By document, the questions of its study material that its module was never trained on: to what it was trained on it
    has its answers by heart, and how it is read would not be learnt."""
    found: dict[str, list[Question]] = {}
    for document in documents:
        module = modules[document.id]
        if house.library.samples(document) and (asked := unseen.questions(house, document, module, loaded)):
            found[document.id] = asked
    if not found:
        raise KmError(
            "these documents have no questions that their Knowledge Modules were not trained on.",
            "Give some: --questions FILE",
        )
    return found


def examples(
    house: House, loaded: Loaded, document: Document, questions: Sequence[Question], recipe: ExtractorRecipe
) -> list[Example]:
    """Questions in tokens, with the passages that the recipe asks for; those that do not fit the base are left out."""
    if not recipe.passages:
        found = [_example(loaded, document, question, 0, None) for question in questions]
        return [one for one in found if one]
    with Index(document.name, house.passages(document, loaded.base, counter(loaded))) as index:
        found = [_example(loaded, document, question, recipe.passages, index) for question in questions]
    return [one for one in found if one]


def _example(
    loaded: Loaded, document: Document, question: Question, passages: int, index: Index | None
) -> Example | None:
    """The base is asked as `km ask` asks it; an answer is scored with the token that ends it, an option, as where options
    are chosen from, without. Passages are given up, the worst first, until all fits."""
    texts = question.options or question.answers[:1] or (loaded.base.prompts.not_stated,)
    ends = [] if question.options else loaded.end_ids[:1]
    answers = tuple(list(loaded.tokenizer(text, add_special_tokens=False)["input_ids"]) + ends for text in texts)
    shown = index.search(question.question, passages) if index else []
    while True:
        chat = build_chat("rag" if index else "km", question.question, loaded.base.prompts, passages=shown)
        prompt = loaded.chat_ids(list(chat))
        if len(prompt) + max(map(len, answers)) <= loaded.base.context:
            return Example(document.id, prompt, answers, _right(question))
        if not shown:
            return None
        shown = shown[:-1]


def _right(question: Question) -> int:
    """Which of its options is an answer; 0 where it has none."""
    right = (place for place, option in enumerate(question.options) if exact_match(option, question.answers))
    return next(right, 0)
