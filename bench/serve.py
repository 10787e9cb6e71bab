"""How much more `km serve --engine hf` writes than one-at-a-time answers by PEFT, adapters switched for each.

    python bench/serve.py [--clients 32] [--modules 8] [--questions 4] [--tokens 24] [--rounds 3]

32 clients ask 8 Knowledge Modules, four questions each, one after the other; every answer is of --tokens tokens, whatever
the model would rather write. Against it transformers and PEFT in a loop: the adapters loaded beforehand, set_adapter for
each request, `generate` with its cache, batches of one; no HTTP. Both sides by turns in one run, each with the same
threads. The modules are random, which changes nothing of the work; that both sides write the same is counted on the way.
Prints `FIGURE serve_32 N`, the median over the rounds of how many times as long PEFT takes for the same tokens, and
`FIGURE serve_32_computed N`, the same by seconds of computing, which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftModel

from kmcli import bases
from kmcli.adapters import lora
from kmcli.bases import Base, Loaded
from kmcli.serving import Entry, Limits, server
from kmcli.serving.service import Service
from kmcli.types import KnowledgeModule, Recipe, silent

QUESTIONS = (
    "Who founded Grondal Works?",
    "How much does Lumrick 40 cost?",
    "Which department handles berth permits?",
    "Where is the head office of Grondal Works?",
    "In which year did the lamp go on sale?",
)


class Modules:
    """A catalogue without a library."""

    def __init__(self, entries: list[Entry]) -> None:
        self._entries = {entry.name: entry for entry in entries}

    def entries(self) -> list[Entry]:
        return list(self._entries.values())

    def find(self, name: str) -> Entry | None:
        return self._entries.get(name)


def make_modules(base: Base, count: int, folder: Path) -> list[Entry]:
    """Untrained adapters with something in their second factor."""
    entries = []
    for number in range(count):
        recipe = Recipe(model=base.name, revision=base.revision, seed=number)
        model = lora.build(bases.load(base, "cpu"), recipe)
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator))
        path = folder / str(number)
        path.mkdir()
        lora.save(model, path)
        module = KnowledgeModule(f"m{number}", f"d{number}", path, recipe, {}, "", "2026-01-01T00:00:00+00:00")
        entries.append(Entry(f"doc{number}", module))
    return entries


@contextmanager
def serving(base: Base, entries: list[Entry], clients: int) -> Iterator[str]:
    """km serve in a thread of this process; its address."""
    service = Service(without_end(bases.load(base, "cpu")), Modules(entries), Limits(parallel=clients))
    sock = server.listen("127.0.0.1", 0)
    running = server.make(service, None, print)
    thread = threading.Thread(target=server.run, args=(running, sock))
    thread.start()
    try:
        yield server.url(sock)
    finally:
        running.should_exit = True
        thread.join()


def without_end(loaded: Loaded) -> Loaded:
    loaded.end_ids.clear()  # every answer has its full length
    return loaded


def by_server(url: str, work: list[list[tuple[str, str]]], tokens: int) -> dict[tuple[str, str], str]:
    """Each client's questions one after the other, all clients at once."""

    def client(mine: list[tuple[str, str]]) -> list[str]:
        return [post(url, model, question, tokens) for model, question in mine]

    with concurrent.futures.ThreadPoolExecutor(len(work)) as pool:
        answers = list(pool.map(client, work))
    return {ask: text for mine, texts in zip(work, answers, strict=True) for ask, text in zip(mine, texts, strict=True)}


def post(url: str, model: str, question: str, tokens: int) -> str:
    messages = [{"role": "user", "content": question}]
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": tokens}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=600) as response:
        answer = json.load(response)
    assert answer["usage"]["completion_tokens"] == tokens, answer
    return str(answer["choices"][0]["message"]["content"])


def by_peft(
    model: PeftModel, loaded: Loaded, work: list[list[tuple[str, str]]], tokens: int
) -> dict[tuple[str, str], str]:
    """The same questions, one at a time, in the order in which the clients would come round."""
    answers = {}
    for asks in zip(*work, strict=True):
        for name, question in asks:
            model.set_adapter(name)
            ids = torch.tensor([loaded.chat_ids([("user", question)])])
            made = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                do_sample=False,
                use_cache=True,
                eos_token_id=None,
                pad_token_id=0,
                repetition_penalty=None,
            )
            written = made[0, ids.shape[1] :].tolist()
            assert len(written) == tokens
            answers[name, question] = loaded.tokenizer.decode(written, skip_special_tokens=True).strip()
    return answers


def timed(run: Callable[[], dict[tuple[str, str], str]]) -> tuple[float, float, dict[tuple[str, str], str]]:
    """Seconds on the clock, seconds of this process's threads, and the answers."""
    began, computed = time.perf_counter(), time.process_time()
    answers = run()
    return time.perf_counter() - began, time.process_time() - computed, answers


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--modules", type=int, default=8)
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    base = bases.find(bases.EMBEDDED, silent)
    work = [
        [
            (f"doc{client % given.modules}", QUESTIONS[(client + turn) % len(QUESTIONS)])
            for turn in range(given.questions)
        ]
        for client in range(given.clients)
    ]
    tokens = given.clients * given.questions * given.tokens
    with tempfile.TemporaryDirectory() as folder:
        entries = make_modules(base, given.modules, Path(folder))
        loaded = bases.load(base, "cpu")
        model = PeftModel.from_pretrained(loaded.model, entries[0].module.path, entries[0].name)
        for entry in entries[1:]:
            model.load_adapter(entry.module.path, entry.name)
        model.eval()
        times, computed = [], []
        with serving(base, entries, given.clients) as url, torch.inference_mode():
            by_server(url, [mine[:1] for mine in work], 2)  # both warm
            by_peft(model, loaded, [mine[:1] for mine in work[: given.modules]], 2)
            for turn in range(given.rounds):
                ours, our_cpu, mine = timed(lambda: by_server(url, work, given.tokens))
                theirs, their_cpu, other = timed(lambda: by_peft(model, loaded, work, given.tokens))
                same = sum(mine[ask] == other[ask] for ask in other)
                times.append(theirs / ours)
                computed.append(their_cpu / our_cpu)
                for who, seconds, cpu in (("km serve", ours, our_cpu), ("PEFT", theirs, their_cpu)):
                    rate = f"{tokens / seconds:,.0f}/s; {cpu:.1f} s computed"
                    print(f"round {turn + 1}: {who:<8} {tokens:,} tokens in {seconds:.1f} s ({rate})")
                print(
                    f"  {same} of {len(other)} answers the same, {len(set(other.values()))} different ones", flush=True
                )
    print(f"{torch.get_num_threads()} of {os.cpu_count()} processors")
    print(f"FIGURE serve_32 {statistics.median(times):.1f}")
    print(f"FIGURE serve_32_computed {statistics.median(computed):.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
