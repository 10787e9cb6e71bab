"""km serve --engine vllm: the proxy against a server of our own that speaks as vLLM does, and against vLLM itself where
KM_VLLM_PYTHON names an interpreter that has it.

The real ones take some minutes:
KM_VLLM_PYTHON=/venv/with/vllm/bin/python VLLM_CPU_KVCACHE_SPACE=1 pytest tests/test_serving_vllm.py tests/test_serving.py
"""

from __future__ import annotations

import base64
import io
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import torch
from safetensors.torch import load_file, save_file

from kmcli import bases, config
from kmcli.adapters import compressed
from kmcli.engines import Sampling
from kmcli.errors import KmError, ResourceError
from kmcli.library import Library
from kmcli.serving import Entry, Limits
from kmcli.serving.counts import Counts
from kmcli.serving.embeddings import Embeddings, reading
from kmcli.serving.vllm import VllmBackend
from kmcli.types import KnowledgeModule, silent
from kmcli.workflows import backends
from kmcli.workflows.backends import open_backend
from kmcli.workflows.house import open_house
from serving_cases import QUESTIONS, Running, alone, chat, metric, said, serving, teach, until
from vllm_cases import gone

VLLM = os.environ.get("KM_VLLM_PYTHON")  # read as this is imported: every test starts without KM_ variables
FAKE = str(Path(__file__).with_name("fakevllm.py"))


def process(running: Running) -> Any:
    return running.service.backend._server.process  # type: ignore[attr-defined]


# --- against a server that echoes


@pytest.fixture
def echo(km_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """Answers are the prompt's own tokens, up to the limit."""
    teach("notes", 1, steps=0)
    teach("wide", 2, steps=0, rank=64)
    monkeypatch.setitem(
        backends.BACKENDS,
        "vllm",
        lambda house, base, limits, counts: VllmBackend(base, [sys.executable, FAKE, "PORT"], 16, limits, counts, 30),
    )
    with serving("vllm", parallel=2, waiting=1, modules=1) as running:
        yield running


def told(running: Running) -> list[str]:
    """What the server was asked, but for its health."""
    server = running.service.backend._server  # type: ignore[attr-defined]
    return list(httpx2.get(f"{server.url}/told").json())


def test_ids_go_out_and_text_comes_back(echo: Running) -> None:
    client = echo.client()
    whole = chat(client, "notes", QUESTIONS[2], max_tokens=12)
    ids = echo.service.backend.read([("user", QUESTIONS[2])])
    backend: Any = echo.service.backend
    assert whole.choices[0].message.content == backend._decode(ids[:12]).strip()
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (len(ids), 12)
    chunks = chat(client, "notes", QUESTIONS[2], max_tokens=12, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 3
    scored = (
        chat(client, "notes", QUESTIONS[2], max_tokens=3, logprobs=True, top_logprobs=1).choices[0].logprobs.content
    )
    assert [one.token for one in scored] == [backend._decode([token]) for token in ids[:3]]
    assert [(one.logprob, [top.logprob for top in one.top_logprobs]) for one in scored] == [(-0.5, [-0.25])] * 3
    stop = whole.choices[0].message.content[8:12]
    assert (
        said(client, "notes", QUESTIONS[2], max_tokens=12, stop=stop) == whole.choices[0].message.content[:8].rstrip()
    )


def test_modules_are_loaded_by_their_hash_and_given_up(echo: Running) -> None:
    client = echo.client()
    with Library.open(config.home()) as library:
        first = library.module(library.find("notes"))
    assert first
    said(client, "notes", "Who?")
    said(client, "notes", "Who?")
    said(client, "embedded", "Who?")
    second = teach("notes", 3, steps=0)
    said(client, "notes", "Who?")
    assert told(echo) == [
        f"load notes@{first.id} {first.path}",
        f"write notes@{first.id}",
        f"write notes@{first.id}",
        "write base",
        f"load notes@{second.id} {second.path}",
        f"unload notes@{first.id}",
        f"write notes@{second.id}",
    ]
    assert metric(echo, "km_modules_loaded") == 1
    with pytest.raises(openai.InternalServerError, match="has rank 64, and vLLM was started for 16 at most"):
        said(client, "wide", "Who?")
    (second.path / "adapter_config.json").write_text("{")
    third = teach("notes", 4, steps=0)
    (third.path / "adapter_config.json").write_text("{")
    with pytest.raises(openai.InternalServerError, match="notes cannot be loaded"):
        said(client, "notes", "Who?")


def compress(name: str, seed: int, **changes: Any) -> KnowledgeModule:
    """A document with a LoRA and, before what it reads, rows that are no token's embedding."""
    module = teach(name, seed, adapter="compressed", summary_ratio=8, **changes)
    rows = torch.randn((12, table().shape[1]), generator=torch.Generator().manual_seed(seed))
    save_file({"vectors": table().std() * rows}, module.path / compressed.BESIDE)
    return module


def table() -> torch.Tensor:
    loaded = bases.load(bases.find(bases.EMBEDDED, silent), "cpu")
    found: torch.Tensor = loaded.model.get_input_embeddings().weight.detach()
    return found


def test_vectors_go_out_before_the_prompt_as_embeddings(echo: Running) -> None:
    echo.service.backend._embeddings = Embeddings(bases.find(bases.EMBEDDED, silent))  # type: ignore[attr-defined]
    client, module = echo.client(), compress("small", 3, steps=0)
    ids = echo.service.backend.read([("user", "Who?")])
    backend: Any = echo.service.backend
    whole = chat(client, "small", "Who?", max_tokens=3)
    assert whole.choices[0].message.content == backend._decode([5, 6, 7]).strip()
    assert whole.usage.prompt_tokens == len(ids)
    load, read, write = told(echo)
    assert (load, write) == (f"load small@{module.id} {module.path}", f"write small@{module.id}")
    sent = torch.load(io.BytesIO(base64.b64decode(read.removeprefix("read "))), weights_only=True)
    vectors = load_file(module.path / compressed.BESIDE)["vectors"]
    assert torch.equal(sent, torch.cat([vectors, table()[ids]]))
    most = backend.module(Entry("small", module)).tokens
    with pytest.raises(openai.BadRequestError, match=f"reads {640 - most} at once"):
        said(client, "small", "word " * 700)
    said(client, "notes", "Who?")
    assert len([line for line in told(echo) if line.startswith("read ")]) == 1, "a LoRA's prompt is ids"


def test_vllm_is_started_for_vectors_where_a_document_has_some(km_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import kmcli.serving.vllm as serving_vllm

    started: list[tuple[str, bool]] = []

    def record(base: Any, command: list[str], *rest: Any, embeddings: bool) -> str:
        started.append((command[-1], embeddings))
        return "backend"

    monkeypatch.setattr(serving_vllm, "VllmBackend", record)
    module = teach("notes", 1, steps=0)
    with open_house({"engine": "vllm", "vllm_python": sys.executable}, silent) as house:
        for _ in range(2):
            assert open_backend(house, house.base(), Limits(), Counts()) == "backend"
            module = compress("small", 3, steps=0)
    (without, no), (with_it, yes) = started
    assert ("--enable-prompt-embeds" in without, "--lora-target-modules" in without, no) == (False, False, False)
    linear = '"down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"'
    assert f'"--enable-prompt-embeds", "--lora-target-modules", {linear}' in with_it, "token embeddings among them"
    assert yes
    with pytest.raises(KmError, match="vLLM was started before small was compressed"):
        reading(Entry("small", module), able=False)


def test_too_many_wait_and_a_place_is_freed(echo: Running) -> None:
    client = echo.client()
    streams = [chat(client, "embedded", "slow " * 9, stream=True, max_tokens=400) for _ in range(2)]
    for stream in streams:
        next(iter(stream))
    with ThreadPoolExecutor() as pool:
        third = pool.submit(said, client, "embedded", "Who?")
        assert until(lambda: echo.service.backend.waiting == 1)
        with pytest.raises(openai.RateLimitError):
            said(client, "embedded", "Who?")
        streams[0].close()
        assert third.result(20)
    streams[1].close()
    assert until(lambda: echo.service.backend.running == 0)
    assert until(lambda: told(echo).count("left") == 2), "vLLM must hear that nobody waits"


def test_what_the_engine_refuses_and_its_end(echo: Running) -> None:
    client = echo.client()
    with pytest.raises(openai.InternalServerError, match="vLLM refuses: no thank you"):
        said(client, "embedded", "refuse " * 20)
    assert httpx2.get(f"{echo.url}/health").status_code == 200
    stream = chat(client, "embedded", "slow " * 9, stream=True, max_tokens=400)
    next(iter(stream))
    os.kill(process(echo).pid, signal.SIGKILL)
    with pytest.raises(openai.APIError, match="vLLM"):
        list(stream)
    assert until(lambda: not echo.service.backend.alive)
    with pytest.raises(openai.InternalServerError, match=r"vLLM has ended: killed by SIGKILL"):
        said(client, "embedded", "Who?")
    assert httpx2.get(f"{echo.url}/health").status_code == 500


def test_it_is_for_this_process_alone_and_ends_with_it(echo: Running) -> None:
    server = echo.service.backend._server  # type: ignore[attr-defined]
    assert httpx2.post(f"{server.url}/v1/completions", json={}).status_code == 401
    assert server.key not in " ".join(server.process.args)
    echo.stop()
    echo.thread.join(20)
    assert gone(server.process.pid)


def test_one_that_does_not_start(km_home: Path) -> None:
    from kmcli import bases
    from kmcli.types import silent

    base = bases.find("embedded", silent)
    script = "raise RuntimeError('no memory')"
    with pytest.raises(ResourceError, match="vLLM does not start: RuntimeError: no memory"):
        VllmBackend(base, [sys.executable, "-c", script], 16, Limits(), Counts(), 30)
    with pytest.raises(ResourceError, match=r"not ready after 0\.5 seconds"):
        VllmBackend(base, [sys.executable, "-c", "import time; time.sleep(60)"], 16, Limits(), Counts(), 0.5)


# --- vLLM itself


@pytest.mark.skipif(not VLLM, reason="KM_VLLM_PYTHON names no interpreter that has vLLM")
def test_vllm_answers_from_compressed_documents(km_home: Path) -> None:
    """As torch does, by several at once, and by a LoRA beside them."""
    compress("small", 3), compress("other", 4), teach("notes", 1)
    greedy = Sampling(max_tokens=24, temperature=0.0)
    names = ("small", "other", "notes")
    wanted = {name: alone(km_home, "hf", name, QUESTIONS, greedy) for name in names}
    assert len({tuple(found) for found in wanted.values()}) == 3
    with serving("vllm", vllm_python=VLLM, parallel=8) as running:
        client = running.client()
        asked = [(name, place) for name in names for place in range(len(QUESTIONS))] * 2
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(lambda one: said(client, one[0], QUESTIONS[one[1]], max_tokens=24), asked))
        assert found == [wanted[name][place] for name, place in asked]


@pytest.mark.skipif(not VLLM, reason="KM_VLLM_PYTHON names no interpreter that has vLLM")
def test_vllm_serves_a_library_that_changes(km_home: Path) -> None:
    """One test, because vLLM takes its time to start."""
    old, other = teach("notes", 1), teach("other", 2)
    with serving("vllm", vllm_python=VLLM, parallel=8) as running:
        client, children = running.client(), process(running).pid
        before = said(client, "notes", QUESTIONS[2])
        assert before == "the notes department, within 11 days"
        with ThreadPoolExecutor() as pool:
            both = list(pool.map(lambda name: said(client, name, QUESTIONS[2]), ["notes", "other"] * 4))
        assert both == [before, "the other department, within 22 days"] * 4
        for stream in [chat(client, "notes", "Who?", stream=True, seed=1, temperature=2, max_tokens=400)]:
            next(iter(stream))
            stream.close()
        assert until(lambda: running.service.backend.running == 0)
        new = teach("notes", 8)
        assert "within 88 days" in said(client, "notes", QUESTIONS[2])
        assert {f"notes@{new.id}", f"other@{other.id}"} < {model.id for model in client.models.list()}
        with pytest.raises(openai.NotFoundError, match=f"That is notes@{new.id}"):
            said(client, f"notes@{old.id}", "Who?")
        backend: Any = running.service.backend
        listed = httpx2.get(
            f"{backend._server.url}/v1/models", headers={"Authorization": f"Bearer {backend._server.key}"}
        )
        assert {f"notes@{new.id}", f"other@{other.id}"} < {model["id"] for model in listed.json()["data"]}
    assert gone(children)
