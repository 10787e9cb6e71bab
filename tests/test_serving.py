"""km serve, asked by the official client of OpenAI's API."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest

from kmcli import config
from kmcli.engines import Sampling
from kmcli.library import Library
from kmcli.types import KnowledgeModule
from serving_cases import QUESTIONS, STEPPED, Running, alone, chat, ingested, metric, said, serving, teach
from training_cases import one_thread

__all__ = ["one_thread"]

Served = tuple[Running, dict[str, KnowledgeModule]]
VLLM = os.environ.get("KM_VLLM_PYTHON")  # read as this is imported: every test starts without KM_ variables


@pytest.fixture(scope="module", params=(*STEPPED, "vllm"))
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server over three documents with Knowledge Modules and one without. Tests leave it as it is."""
    if request.param == "llamacpp":
        pytest.importorskip("llama_cpp")
    if request.param == "vllm" and not VLLM:
        pytest.skip("KM_VLLM_PYTHON names no interpreter that has vLLM")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KM_HOME", str(tmp_path_factory.mktemp("served")))
        modules = {name: teach(name, seed) for seed, name in enumerate(("alpha", "beta", "gamma"), 1)}
        with Library.open(config.home()) as library:
            library.add(ingested("untaught"))
        with serving(request.param, vllm_python=VLLM) as running:
            yield running, modules


@pytest.fixture
def client(served: Served) -> openai.OpenAI:
    return served[0].client()


# --- what there is


def test_models(served: Served, client: openai.OpenAI) -> None:
    _, modules = served
    listed = {model.id: model for model in client.models.list()}
    pinned = [f"{name}@{module.id}" for name, module in modules.items()]
    assert sorted(listed) == sorted(["embedded", *modules, *pinned])
    assert client.models.retrieve(pinned[0]).id == pinned[0]
    assert client.models.retrieve("embedded").owned_by == "km"
    assert abs(listed["alpha"].created - time.time()) < 600
    with pytest.raises(openai.NotFoundError, match="Did you mean gamma"):
        client.models.retrieve("gama")


# --- answers


def test_different_modules_at_once_answer_as_each_does_alone(served: Served, client: openai.OpenAI) -> None:
    running, modules = served
    names: list[str] = [*modules, "embedded"]
    asked = [(name, question) for question in QUESTIONS for name in names]
    steps, rows = metric(running, "km_steps_total"), metric(running, "km_step_rows_total")
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda one: said(client, *one), asked))
    expected = {
        name: alone(running.home, "hf", name if name in modules else None, QUESTIONS, Sampling(24)) for name in names
    }
    assert dict(zip(asked, together, strict=True)) == {
        (name, question): answer for name in names for question, answer in zip(QUESTIONS, expected[name], strict=True)
    }
    assert len({answer for name in modules for answer in expected[name]}) > 9, "what they learnt must tell them apart"
    steps, rows = metric(running, "km_steps_total") - steps, metric(running, "km_step_rows_total") - rows
    if running.service.backend.name in STEPPED:
        assert rows / steps > 3, "they were not written together"


def test_an_answer_has_its_usage_and_says_which_weights_wrote_it(served: Served, client: openai.OpenAI) -> None:
    running, modules = served
    answer = chat(client, "alpha", QUESTIONS[0], max_tokens=3)
    prompt = len(running.service.backend.read([("user", QUESTIONS[0])]))
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        prompt,
        3,
        prompt + 3,
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.system_fingerprint.endswith(modules["alpha"].id)
    assert answer.model == "alpha"
    pinned = chat(client, f"alpha@{modules['alpha'].id}", QUESTIONS[0], max_tokens=3)
    assert pinned.choices[0].message.content == answer.choices[0].message.content
    ended = chat(client, "embedded", QUESTIONS[0])
    assert (ended.choices[0].finish_reason, ended.choices[0].message.content) == ("stop", "The text does not say.")


def test_a_stream_is_the_answer_in_pieces(client: openai.OpenAI) -> None:
    whole = chat(client, "beta", QUESTIONS[2])
    chunks = list(chat(client, "beta", QUESTIONS[2], stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len(pieces) > 3
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + [
        whole.choices[0].finish_reason
    ]
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    assert len({chunk.id for chunk in chunks}) == 1


def test_sampling_is_that_of_km_ask_and_repeats_by_its_seed(served: Served, client: openai.OpenAI) -> None:
    engine = served[0].service.backend.name
    options: dict[str, Any] = {"temperature": 2.0, "top_p": 0.9}
    first = said(client, "gamma", QUESTIONS[1], seed=5, **options)
    if engine in STEPPED:
        assert first == alone(served[0].home, engine, "gamma", QUESTIONS[1:2], Sampling(24, 2.0, 0.9, seed=5))[0]
    assert first == said(client, "gamma", QUESTIONS[1], seed=5, **options)
    others = {said(client, "embedded", QUESTIONS[2], temperature=2) for _ in range(6)}
    assert len(others) > 1, "without a seed they differ"


def test_stop_strings_end_an_answer_before_them(client: openai.OpenAI) -> None:
    whole = said(client, "beta", QUESTIONS[2])
    stop = whole[len(whole) // 2 :][:4]
    answer = chat(client, "beta", QUESTIONS[2], stop=[stop, "never to be seen"])
    assert answer.choices[0].message.content == whole[: whole.index(stop)].rstrip()
    assert answer.choices[0].finish_reason == "stop"
    chunks = chat(client, "beta", QUESTIONS[2], stop=stop, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole[: whole.index(stop)].rstrip()


def test_logprobs(client: openai.OpenAI) -> None:
    answer = chat(client, "alpha", QUESTIONS[1], max_tokens=6, logprobs=True, top_logprobs=3)
    scores = answer.choices[0].logprobs.content
    assert "".join(score.token for score in scores).strip() == answer.choices[0].message.content
    for score in scores:
        assert (score.token, score.logprob) == (score.top_logprobs[0].token, score.top_logprobs[0].logprob)
        assert bytes(score.bytes).decode() == score.token
        chances = [math.exp(top.logprob) for top in score.top_logprobs]
        assert chances == sorted(chances, reverse=True)
        assert len(chances) == 3
        assert 0 < sum(chances) <= 1
    streamed = chat(client, "alpha", QUESTIONS[1], max_tokens=6, logprobs=True, top_logprobs=3, stream=True)
    tokens = [one.token for chunk in streamed if chunk.choices[0].logprobs for one in chunk.choices[0].logprobs.content]
    assert tokens == [score.token for score in scores]


def test_a_conversation_is_read_whole(served: Served, client: openai.OpenAI) -> None:
    messages: list[Any] = [
        {"role": "developer", "content": "Answer briefly."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Ann."},
        {"role": "user", "content": [{"type": "text", "text": "Where "}, {"type": "text", "text": "is she?"}]},
    ]
    answer = client.chat.completions.create(model="alpha", messages=messages, max_tokens=2)
    turns = [("system", "Answer briefly."), ("user", "Who?"), ("assistant", "Ann."), ("user", "Where is she?")]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(served[0].service.backend.read(turns))


# --- refusals


@pytest.mark.parametrize(
    ("changes", "status", "code", "param", "message"),
    [
        ({"model": "alpa"}, 404, "model_not_found", "model", "there is no model 'alpa'. Did you mean alpha?"),
        ({"model": "zzz"}, 404, "model_not_found", "model", "there is no model 'zzz'. GET /v1/models lists them."),
        (
            {"model": "untaught"},
            404,
            "model_unusable",
            "model",
            "untaught has no Knowledge Module yet. Make one: km train untaught",
        ),
        ({"messages": []}, 400, "invalid_value", "messages", "messages must be a list of at least one message."),
        ({"temperature": 2.5}, 400, "invalid_value", "temperature", "temperature must be a number from 0 to 2."),
        ({"n": 2}, 400, "unsupported_parameter", "n", "n is not supported by km serve."),
        (
            {"messages": [{"role": "user", "content": "why " * 700}]},
            400,
            "context_length_exceeded",
            "messages",
            "at once, the answer included. Send a shorter one.",
        ),
        (
            {"messages": [{"role": "user", "content": "x" * 2_000_000}]},
            413,
            "body_too_large",
            None,
            "the body is larger than the 1,048,576 bytes allowed. Send a shorter one.",
        ),
    ],
)
def test_what_is_refused(
    client: openai.OpenAI, changes: dict[str, Any], status: int, code: str, param: str | None, message: str
) -> None:
    options: dict[str, Any] = {"model": "alpha", "messages": [{"role": "user", "content": "Who?"}], **changes}
    for stream in (False, True):
        with pytest.raises(openai.APIStatusError) as refused:
            client.chat.completions.create(**options, stream=stream)
        error = refused.value
        assert (error.status_code, error.code, error.param) == (status, code, param)
        assert message in error.body["message"]  # type: ignore[index]


def test_requests_that_are_none(served: Served) -> None:
    url = served[0].url
    as_json = {"Content-Type": "application/json"}
    answers = [
        httpx2.post(f"{url}/v1/chat/completions", content=b"{", headers=as_json),
        httpx2.post(f"{url}/v1/chat/completions", content=b"{}", headers={"Content-Type": "text/plain"}),
        httpx2.get(f"{url}/v1/chat/completions"),
        httpx2.get(f"{url}/v2"),
        httpx2.get(f"{url}/v1/models", headers={"Host": "evil.example"}),
    ]
    assert [answer.status_code for answer in answers] == [400, 415, 405, 404, 403]
    assert all(set(answer.json()["error"]) == {"message", "type", "param", "code"} for answer in answers)
