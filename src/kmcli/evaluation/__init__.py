"""How well questions are answered, method by method.

| method      | what the model reads                                     | what is on the base                        |
|-------------|----------------------------------------------------------|--------------------------------------------|
| `bare`      | the question alone: what the base knows by itself        | nothing                                    |
| `km`        | the question alone                                       | the document's Knowledge Module            |
| `auto`      | the question alone, and where the Knowledge Module is    | the Knowledge Module, then nothing         |
|             | likely wrong under one passage that retrieval finds      |                                            |
| `rag`       | the question under the passages that retrieval finds     | nothing                                    |
| `km+rag`    | the same passages                                        | the Knowledge Module                       |
| `rag+ke`    | the same passages                                        | the Knowledge Extractor                    |
| `km+ke`     | the question alone                                       | Knowledge Module and Knowledge Extractor   |
| `rag+km+ke` | the same passages                                        | both                                       |
| `full`      | the question under the whole document                    | nothing                                    |
| `full-l2`   | the same, most of its keys and values dropped again      | nothing                                    |
| `gold`      | the question under the passage that holds the answer:    | nothing                                    |
|             | the reference                                            |                                            |

A row of a comparison is a method with what it is told (`comparison.Way`): `rag@3:dense` reads the three passages nearest in
meaning, `full-l2@0.5` keeps half.

To add one: its name in `types.Method`, a row in METHODS (in the order of the tables people see) and a row above.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kmcli.bases.prompts import Prompts
from kmcli.evaluation.comparison import Retriever, Way
from kmcli.types import Method


@dataclass(frozen=True, slots=True)
class How:
    """reads: what stands above the question. km, ke: what is on the base. label: how a sentence names the method."""

    reads: Literal["nothing", "passages", "text", "evidence"]
    label: str
    km: bool = False
    ke: bool = False
    compressed: bool = False

    def template(self, prompts: Prompts) -> str:
        """Which prompt of the base the method uses."""
        if self.reads == "nothing":
            return prompts.ask
        return prompts.passages if self.reads == "passages" else prompts.under_text


METHODS: dict[Method, How] = {
    "bare": How("nothing", "the bare base"),
    "km": How("nothing", "the KM", km=True),
    "auto": How("nothing", "the KM and RAG by turns", km=True),
    "rag": How("passages", "RAG"),
    "km+rag": How("passages", "KM and RAG together", km=True),
    "rag+ke": How("passages", "RAG with the extractor", ke=True),
    "km+ke": How("nothing", "the KM with the extractor", km=True, ke=True),
    "rag+km+ke": How("passages", "KM, RAG and extractor together", km=True, ke=True),
    "full": How("text", "the full text"),
    "full-l2": How("text", "the full text, compressed", compressed=True),
    "gold": How("evidence", "the gold passage"),
}


def ways(
    methods: Sequence[Method], retrievers: Sequence[Retriever], ks: Sequence[int], kept: Sequence[float]
) -> list[Way]:
    """The rows of a comparison, in the order of METHODS: of a method that reads passages one for each retriever and k, of
    `full-l2` one for each share kept."""
    found: list[Way] = []
    for method, how in METHODS.items():
        if method not in methods:
            continue
        if how.reads == "passages":
            found += [Way(method, retriever, k) for retriever in retrievers for k in ks]
        elif how.compressed:
            found += [Way(method, kept=share) for share in kept]
        else:
            found.append(Way(method))
    return found
