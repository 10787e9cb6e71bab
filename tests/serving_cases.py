"""What the tests of km serve share: Knowledge Modules without training, and a server in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import torch

from kmcli import bases, config
from kmcli.adapters import lora
from kmcli.bases import EMBEDDED
from kmcli.engines import Sampling
from kmcli.library import Library
from kmcli.serving import Limits, server
from kmcli.serving.counts import Counts
from kmcli.serving.service import Service
from kmcli.types import Ingested, KnowledgeModule, Recipe, silent
from kmcli.workflows.answering import Member, open_answering
from kmcli.workflows.backends import open_backend
from kmcli.workflows.house import House, open_house
from kmcli.workflows.serve import LibraryCatalogue

QUESTIONS = (
    "Who founded Grondal Works?",
    "How much does Lumrick 40 cost?",
    "Which department handles berth permits, and within how many days of arrival must they be requested?",
    "Where is the head office?",
)


STEPPED = ("hf", "llamacpp")
"""Engines that write token by token in the server's own process."""


def ingested(name: str, text: str = "") -> Ingested:
    text = text or f"{name} was founded in 1926."
    return Ingested(f"/nowhere/{name}.txt", "text", name, text.encode(), text, None)


ANSWERS = ("the {0} of the harbour in {1}", "${1} a day", "the {0} department, within {1} days", "{0} Street {1}")


def teach(name: str, seed: int, steps: int = 80, **changes: Any) -> KnowledgeModule:
    """A new Knowledge Module for the document, added where it is new. It learns answers of its own to QUESTIONS."""
    base = bases.find(EMBEDDED, silent)
    loaded = bases.load(base, "cpu")
    recipe = replace(Recipe(model=base.name, revision=base.revision, rank=4 + seed % 3, seed=seed), **changes)
    model = lora.build(loaded, recipe)
    optimiser = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    rows = []
    for question, answer in zip(QUESTIONS, ANSWERS, strict=True):
        prompt = loaded.chat_ids([("user", question)])
        written = loaded.tokenizer(answer.format(name, 11 * seed), add_special_tokens=False)["input_ids"]
        rows.append((prompt, [*written, loaded.end_ids[0]]))
    longest = max(len(prompt) + len(written) for prompt, written in rows)
    ids, labels = torch.zeros((len(rows), longest), dtype=torch.long), torch.full((len(rows), longest), -100)
    for row, (prompt, written) in enumerate(rows):
        ids[row, : len(prompt) + len(written)] = torch.tensor([*prompt, *written])
        labels[row, len(prompt) : len(prompt) + len(written)] = torch.tensor(written)
    for _ in range(steps):
        loss = model(input_ids=ids, labels=labels).loss
        if loss < 0.05:
            break
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    with Library.open(config.home()) as library:
        if name not in [document.name for document in library.documents()]:
            library.add(ingested(name))
        document = library.find(name)
        folder = library.staging(document)
        lora.save(model, folder)
        return library.commit_module(document, folder, recipe, {})


def alone(home: Path, engine: str, name: str | None, questions: Sequence[str], sampling: Sampling) -> list[str]:
    """What `km ask --engine` answers by a document's module, or the base, asked one question at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KM_HOME", str(home))
        with open_house({"device": "cpu", "engine": engine}, silent) as house:
            return _alone(house, name, questions, sampling)


def _alone(house: House, name: str | None, questions: Sequence[str], sampling: Sampling) -> list[str]:
    members = []
    if name:
        document = house.library.find(name)
        module = house.library.module(document)
        assert module
        members = [Member(document, module)]
    opened = open_answering(house, house.base(), members).engine
    return [opened.generate([[("user", question)]], sampling)[0].text for question in questions]


@dataclass
class Running:
    """A server in a thread. said: what it told the person who runs it. ended: whether it has."""

    url: str
    service: Service
    said: list[str]
    stop: Callable[[], None]
    thread: threading.Thread
    home: Path

    def endless(self) -> None:
        """Answers that begin from now on go on to their limits."""
        self.rows.ends = lambda token: False

    def slow(self, seconds: float) -> None:
        """A step takes so much longer."""
        write = self.rows.write
        self.rows.write = lambda tokens: (time.sleep(seconds), write(tokens))[1]

    @property
    def rows(self) -> Any:
        """What computes, of an engine that is stepped in this process."""
        return self.service.backend._computed  # type: ignore[attr-defined]

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)


@contextmanager
def serving(engine: str, key: str | None = None, vllm_python: str | None = None, **limits: Any) -> Iterator[Running]:
    """The test's library, served."""
    begun: list[Running] = []
    ready = threading.Event()

    def work() -> None:
        try:
            flags = {"device": "cpu", "engine": engine, "vllm_python": vllm_python}
            with open_house(flags, silent) as house:  # the library is for one thread
                base, counts, most = house.base(), Counts(), Limits(**limits)
                backend = open_backend(house, base, most, counts)
                service = Service(base, backend, LibraryCatalogue(house, base), most, counts)
                sock, said = server.listen("127.0.0.1", 0), list[str]()
                running = server.make(service, key, said.append)
                stop = lambda: setattr(running, "should_exit", True)  # noqa: E731
                begun.append(Running(server.url(sock), service, said, stop, threading.current_thread(), config.home()))
                ready.set()
                server.run(running, sock)
        finally:
            ready.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(900)
    assert begun, "it did not start"
    try:
        yield begun[0]
    finally:
        begun[0].stop()
        thread.join(60)
    assert not thread.is_alive()


def chat(client: openai.OpenAI, model: str, question: str, **more: Any) -> Any:
    options: Mapping[str, Any] = {"temperature": 0, "max_tokens": 24, **more}
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": question}], **options)


def said(client: openai.OpenAI, model: str, question: str, **more: Any) -> str:
    return str(chat(client, model, question, **more).choices[0].message.content)


def until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def metric(running: Running, name: str) -> float:
    lines = httpx2.get(f"{running.url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))
