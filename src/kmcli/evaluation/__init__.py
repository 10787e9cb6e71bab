"""How well questions are answered, method by method.

| method | what the model reads                                                   |
|--------|------------------------------------------------------------------------|
| `bare` | the question alone: what the base knows by itself                      |
| `km`   | the question alone, with the document's Knowledge Module on            |
| `rag`  | the question under the passages that retrieval finds                   |
| `full` | the question under the whole document                                  |
| `gold` | the question under the passage that holds the answer: the reference    |

To add one: its name in `types.Method`, a row in METHODS (in the order of the tables people see) with the prompt it
uses, a row above, and in `compare` what it is given to read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kmcli.bases.prompts import Prompts
from kmcli.types import Method


@dataclass(frozen=True, slots=True)
class How:
    """template: which prompt of the base the method uses. label: how a sentence names the method."""

    template: Callable[[Prompts], str]
    label: str


METHODS: dict[Method, How] = {
    "bare": How(lambda prompts: prompts.ask, "the bare base"),
    "km": How(lambda prompts: prompts.ask, "the KM"),
    "rag": How(lambda prompts: prompts.passages, "RAG"),
    "full": How(lambda prompts: prompts.under_text, "the full text"),
    "gold": How(lambda prompts: prompts.under_text, "the gold passage"),
}
