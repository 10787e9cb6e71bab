"""An OpenAI-compatible server over a library: every Knowledge Module is a model name.

    refusals.py   what a client is told instead of an answer
    wire.py       OpenAI's JSON: requests read and checked, answers and chunks written
    text.py       the text of an answer while its tokens come
    batching.py   answers written together, those of different Knowledge Modules too
    service.py    one base, its Knowledge Modules, and the batch: what a request becomes
    connections.py which connections are kept
    app.py        the HTTP routes and who may use them
    server.py     the socket, and how it ends
    counts.py     what /metrics shows
    vllm.py       the door to vLLM's own server; embeddings: prompts of compressed documents for it

The server knows no library: it is handed a Catalogue, which is asked anew for each request, so that a Knowledge Module
trained a moment ago answers the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kmcli.types import KnowledgeModule


@dataclass(frozen=True, slots=True)
class Entry:
    """A document's Knowledge Module that fits the served base. warning: what to know of its answers, else ""."""

    name: str
    module: KnowledgeModule
    warning: str = ""

    @property
    def pinned(self) -> str:
        """The name of this very module: the document's next training makes another."""
        return f"{self.name}@{self.module.id}"


class Catalogue(Protocol):
    """What there is to serve, as of now. Used from the server's own thread alone."""

    def entries(self) -> Sequence[Entry]:
        """Every fresh one, by name."""

    def find(self, name: str) -> Entry | None:
        """The one of a document, stale or fresh; None where there is no such document.

        Raises KmError, with the next step, where its Knowledge Module cannot be used here.
        """


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server does at most. seconds: for a request, waiting included. grace: seconds to finish in at the end."""

    parallel: int = 32
    """Answers written at a time."""
    waiting: int = 128
    """Requests that wait for a place."""
    max_tokens: int = 1024
    """Of an answer; a request that asks for more gets as many."""
    body_bytes: int = 1 << 20
    seconds: float = 120.0
    modules: int = 64
    """Knowledge Modules kept in memory."""
    grace: float = 10.0
