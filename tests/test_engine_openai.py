"""The engine for OpenAI-compatible services, against a real one on this machine: what goes wrong, and what comes of it."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakehub import closed_port
from fakeservice import FakeService, Fault, cut_at_once, cut_body, cut_stream, half_json, hang, status
from kmcli.engines import Chat, Engine, Generation, Sampling
from kmcli.engines.openai import OpenAIEngine, Usage, open_engine, price
from kmcli.engines.openai_answers import Garbled, Pieces, Written, whole
from kmcli.engines.openai_pace import Pace, asked_wait, exhausted_wait, span
from kmcli.engines.openai_service import Service, find
from kmcli.errors import KmError, ResourceError, UsageError
from kmcli.types import Event

KEY = "sk-verysecretkey1234567890"
AZURE_KEY = "azureverysecretkey0987654321"
SAMPLING = Sampling(max_tokens=20, temperature=0.7, top_p=0.9, seed=5)
VARIABLES = (
    "OPENAI_BASE_URL",
    "OPENAI_API_KEY",
    "AZURE_OPENAI_ENDPOINT",
    "AZURE_OPENAI_API_KEY",
    "OPENAI_API_VERSION",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as fake:
        yield fake


class Clock:
    """Time that passes only in sleep."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def time(self) -> float:
        return self.now

    def pace(self, first: float = 0.5, longest: float = 60.0) -> Pace:
        return Pace(first, longest, self.sleep, self.time)


def engine_on(service: FakeService, **given: Any) -> OpenAIEngine:
    given.setdefault("pace", Clock().pace())
    return OpenAIEngine(find("small", f"{service.url}/v1", KEY), **given)


def chats(*prompts: str) -> list[Chat]:
    return [[("user", prompt)] for prompt in prompts]


def texts(generations: list[Generation]) -> list[str]:
    return [generation.text for generation in generations]


def prompts_of(service: FakeService) -> list[str]:
    return [asked.prompt for asked in service.asked]


# --- requests and answers ---


def test_what_is_sent_and_what_comes_back(service: FakeService) -> None:
    engine: Engine = engine_on(service)
    chat: Chat = [("system", "Be brief."), ("user", "Who built the mill?")]
    assert engine.generate([chat], SAMPLING) == [Generation("re: Who built the mill?", 6, 5, True)]
    (asked,) = service.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.headers["content-type"] == "application/json"
    assert asked.body == {
        "model": "small",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Who built the mill?"},
        ],
        "max_tokens": 20,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 5,
    }


def test_greedy_says_nothing_of_top_p(service: FakeService) -> None:
    engine_on(service).generate(chats("a"), Sampling())
    body = service.asked[0].body
    assert (body["temperature"], body["seed"], body["max_tokens"]) == (0.0, 0, 64)
    assert "top_p" not in body
    assert "stream" not in body


def test_without_a_key_none_is_sent(service: FakeService) -> None:
    open_engine("small", base_url=service.url).generate(chats("a"), SAMPLING)
    assert "authorization" not in service.asked[0].headers
    assert "api-key" not in service.asked[0].headers


def test_nothing_to_ask_asks_nothing(service: FakeService) -> None:
    assert engine_on(service).generate([], SAMPLING) == []
    assert service.asked == []


@pytest.mark.parametrize(
    ("reason", "finished"),
    [("stop", True), ("eos_token", True), ("length", False), ("content_filter", False), ("tool_calls", False)],
)
def test_finished_is_what_the_model_ended_itself(service: FakeService, reason: str, finished: bool) -> None:
    service.answer = lambda prompt: (" words \n", reason)
    assert engine_on(service).generate(chats("a"), SAMPLING) == [Generation("words", 1, 1, finished)]


def test_no_content_is_an_empty_answer(service: FakeService) -> None:
    service.answer = lambda prompt: (None, "stop")
    assert engine_on(service).generate(chats("a"), SAMPLING) == [Generation("", 1, 0, True)]


def test_text_of_any_kind_goes_both_ways(service: FakeService) -> None:
    odd = 'Grüße, 世界 \U0001f600 \u2028 \x85 "quoted" \\ <|im_end|>'
    assert texts(engine_on(service).generate(chats(odd), SAMPLING)) == [f"re: {odd}"]


def test_halves_of_characters_go_nowhere(service: FakeService) -> None:
    service.answer = lambda prompt: ("half \ud83d here, whole \ud83d\ude00 there", "stop")
    (generation,) = engine_on(service).generate(chats("a \ud83d b"), SAMPLING)
    assert service.asked[0].prompt == "a ? b"
    assert generation.text == "half \ufffd here, whole \U0001f600 there"


def test_tokens_that_the_service_does_not_count_are_estimated(service: FakeService) -> None:
    service.usage = False
    engine = engine_on(service)
    assert engine.generate(chats("12345", "1234"), SAMPLING) == [
        Generation("re: 12345", 2, 3, True),
        Generation("re: 1234", 1, 2, True),
    ]
    assert engine.usage == Usage(answers=2, prompt_tokens=3, tokens=5, estimated=2)


def test_the_estimate_is_four_characters_a_token_rounded_up() -> None:
    engine = open_engine("small", base_url="http://127.0.0.1:1")
    assert [engine.count(chats(text)[0]) for text in ("", "a", "abcd", "abcde")] == [0, 1, 1, 2]
    assert engine.count([("system", "ab"), ("user", "cd"), ("assistant", "e")]) == 2


def test_the_price_of_tokens(service: FakeService) -> None:
    assert price(2_000_000, 500_000, 0.15, 0.6) == pytest.approx(0.6)
    engine = engine_on(service, prices=(10.0, 100.0))
    assert engine.cost == 0
    engine.generate(chats("one two three", "four"), SAMPLING)
    assert engine.usage == Usage(answers=2, prompt_tokens=4, tokens=6)
    assert engine.cost == pytest.approx(4 * 10e-6 + 6 * 100e-6)
    assert engine_on(service).cost is None


def test_chats_of_the_same_words_have_seeds_of_their_own(service: FakeService) -> None:
    engine = engine_on(service)
    for seed in (5, 5, 6):
        engine.generate(chats("a", "b", "a", "a"), Sampling(seed=seed))
    seeds = [
        {prompt: sorted(a.body["seed"] for a in service.asked[i : i + 4] if a.prompt == prompt) for prompt in "ab"}
        for i in (0, 4, 8)
    ]
    assert seeds[0] == seeds[1]
    assert seeds[0]["b"] == [5]
    assert 5 in seeds[0]["a"]
    assert len(set(seeds[0]["a"] + seeds[2]["a"])) == 6
    assert all(0 <= seed < 2**32 for seed in seeds[0]["a"])


# --- many at once ---


def test_results_are_in_order_and_progress_counts_up(service: FakeService) -> None:
    slow: Fault = lambda handler: (time.sleep(0.15), handler.send(200, handler.completion()))[1]  # noqa: E731
    prompts = [f"p{i}" for i in range(30)]
    service.faults_of = {"p0": [slow], "p7": [slow]}
    seen: list[int] = []
    assert texts(engine_on(service).generate(chats(*prompts), SAMPLING, seen.append)) == [f"re: {p}" for p in prompts]
    assert seen == list(range(1, 31))
    assert sorted(prompts_of(service)) == sorted(prompts)


def test_as_many_at_once_as_allowed_and_no_more(service: FakeService) -> None:
    together = threading.Barrier(4, timeout=60)
    seen: list[int] = []

    def all_of_them(handler: Any) -> None:
        if together.wait() == 0:
            time.sleep(0.2)
            seen.append(len(service.asked))
        together.wait()
        handler.send(200, handler.completion())

    service.faults = [all_of_them] * 4
    engine_on(service, concurrency=4).generate(chats(*[f"p{i}" for i in range(8)]), SAMPLING)
    assert seen == [4]
    with pytest.raises(ValueError, match="at least one"):
        engine_on(service, concurrency=0)


# --- what passes ---

PASSING: dict[str, Fault] = {
    "429": status(429),
    "429, wait": status(429, retry_after="3"),
    "500": status(500),
    "502 of a proxy": status(502, b"<html>Bad Gateway</html>", Content_Type="text/html"),
    "503": status(503, retry_after="2"),
    "504": status(504, b""),
    "an error of status 200": status(200, {"error": {"code": 503, "message": "overloaded"}}),
    "cut at once": cut_at_once,
    "half a body": cut_body,
    "half of the JSON": half_json,
    "no JSON": status(200, b"hello"),
    "other JSON": status(200, b"[]"),
    "no choice": status(200, {"choices": []}),
    "odd content": status(200, {"choices": [{"message": {"content": 7}, "finish_reason": "stop"}]}),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_asked_again(service: FakeService, name: str) -> None:
    service.faults = [PASSING[name]] * 2
    engine = engine_on(service, concurrency=1)
    assert texts(engine.generate(chats("a", "b"), SAMPLING)) == ["re: a", "re: b"]
    assert prompts_of(service) == ["a", "a", "a", "b"]
    assert service.asked[0].body == service.asked[2].body
    assert engine.usage == Usage(answers=2, prompt_tokens=2, tokens=4, retries=2)


def test_a_service_that_says_nothing_is_asked_again(service: FakeService) -> None:
    service.faults = [hang, hang]
    engine = engine_on(service, timeout=0.2)
    assert texts(engine.generate(chats("a", "b"), SAMPLING)) == ["re: a", "re: b"]
    assert set(prompts_of(service)) == {"a", "b"}
    assert engine.usage.retries >= 2  # a busy machine may be late once more
    assert engine.usage.answers == 2


@pytest.mark.parametrize("seed", range(3))
def test_nothing_lost_and_nothing_doubled_in_a_storm(service: FakeService, seed: int) -> None:
    draw = random.Random(seed)
    prompts = [f"prompt {i}" for i in range(40)]
    service.faults_of = {p: draw.choices(list(PASSING.values()), k=draw.choice((0, 0, 1, 2, 4))) for p in prompts}
    injected = {prompt: len(faults) for prompt, faults in service.faults_of.items()}
    engine = engine_on(service)
    seen: list[int] = []
    results = engine.generate(chats(*prompts), SAMPLING, seen.append)
    assert results == [Generation(f"re: {prompt}", 2, 3, True) for prompt in prompts]
    assert Counter(service.answered) == dict.fromkeys(prompts, 1)
    assert Counter(prompts_of(service)) == {prompt: injected[prompt] + 1 for prompt in prompts}
    assert engine.usage == Usage(answers=40, prompt_tokens=80, tokens=120, retries=sum(injected.values()))
    assert seen == list(range(1, 41))


def test_backing_off_doubles_to_a_limit_and_varies(service: FakeService) -> None:
    service.faults = [status(500)] * 7
    clock = Clock()
    engine_on(service, pace=clock.pace(first=1.0, longest=8.0)).generate(chats("a"), SAMPLING)
    full = [1, 2, 4, 8, 8, 8, 8]
    assert len(clock.slept) == 7
    assert all(most / 2 <= slept <= most for slept, most in zip(clock.slept, full, strict=True))
    assert len({slept / most for slept, most in zip(clock.slept, full, strict=True)}) > 1


def test_retry_after_holds_every_request(service: FakeService) -> None:
    service.faults = [status(429, retry_after="30")]
    clock = Clock()
    times: list[float] = []
    note: Fault = lambda handler: (times.append(clock.now), handler.send(200, handler.completion()))[1]  # noqa: E731
    service.faults_of = {"a": [note], "b": [note]}
    engine_on(service, concurrency=1, pace=clock.pace(first=0.1)).generate(chats("a", "b"), SAMPLING)
    assert len(clock.slept) == 1
    assert 30 <= clock.slept[0] <= 30.1
    assert len(times) == 2
    assert min(times) >= 1030


def test_a_used_up_limit_holds_the_next_request(service: FakeService) -> None:
    limits = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m2s"}
    service.headers = limits | {"x-ratelimit-remaining-tokens": "900", "x-ratelimit-reset-tokens": "4m"}
    clock = Clock()
    engine = engine_on(service, concurrency=1, pace=clock.pace(first=0.1))
    engine.generate(chats("a", "b", "c"), SAMPLING)
    assert [round(slept) for slept in clock.slept] == [62, 62]


def test_a_limit_without_a_time_backs_off_all(service: FakeService) -> None:
    service.faults = [status(429), status(429)]
    clock = Clock()
    engine_on(service, pace=clock.pace(first=1.0)).generate(chats("a"), SAMPLING)
    assert 0.5 <= clock.slept[0] <= 2  # its own wait, and a little more as the others would come back with it
    assert 1 <= clock.slept[1] <= 3


def test_waiting_in_a_queue_is_no_failure(service: FakeService) -> None:
    def asked(kind: str) -> int:
        return sum(asked.prompt[0] == kind for asked in service.asked)

    def turned_away(handler: Any) -> None:
        turn = asked("z")
        wait_until(lambda: asked("p") > turn)  # so one of the others got its answer
        status(429)(handler)

    def after_z(handler: Any) -> None:
        turn = min(asked("p"), 10)
        wait_until(lambda: asked("z") >= turn)
        handler.send(200, handler.completion())

    prompts = [f"p{i}" for i in range(12)]
    service.faults_of = {"z": [turned_away] * 9} | {prompt: [after_z] for prompt in prompts}
    engine = engine_on(service, retries=2, concurrency=2)
    assert texts(engine.generate(chats("z", *prompts), SAMPLING))[0] == "re: z"
    assert engine.usage.retries == 9
    service.faults = [status(429)] * 3
    with pytest.raises(ResourceError, match="too many requests, 3 times"):
        engine.generate(chats("y"), SAMPLING)


def test_a_long_wait_is_told_and_an_endless_one_refused(service: FakeService) -> None:
    events: list[Event] = []
    service.faults = [status(429, retry_after="90"), status(429, retry_after="3600")]
    with pytest.raises(ResourceError, match="too many requests, and asks to wait 60 minutes"):
        engine_on(service, report=events.append).generate(chats("a"), SAMPLING)
    assert [event.message for event in events] == [f"{service.host} asks to wait 90 seconds"]
    assert len(service.asked) == 2


# --- what does not pass ---


def test_it_gives_up_in_the_end_and_says_why(service: FakeService) -> None:
    for fault, reason in (
        (status(500), "failed (status 500)"),
        (cut_body, "cut the connection"),
        (half_json, "gave a garbled answer"),
        (hang, "did not answer within 0.1 seconds"),
    ):
        service.faults = []
        engine = engine_on(service, retries=2, timeout=0.1 if fault is hang else 60)
        if fault is not hang:
            engine.generate(chats("first"), SAMPLING)  # what has worked is not told that it is no service
        service.faults = [fault] * 3
        with pytest.raises(ResourceError) as caught:
            engine.generate(chats("a"), SAMPLING)
        assert caught.value.message == f"{service.host} {reason}, 3 times in a row."
        assert caught.value.hint == "Wait a little, then run the same command again."


REFUSED: dict[str, tuple[Fault, type[KmError], str, str]] = {
    "key": (
        status(401, {"error": {"message": f"Incorrect API key: {KEY}"}}),
        ResourceError,
        "not accept the key",
        "OPENAI_API_KEY",
    ),
    "rights": (status(403, {"error": {"message": KEY}}), ResourceError, "does not let this key use small", "account"),
    "model": (status(404), ResourceError, "has no model small", "OPENAI_BASE_URL"),
    "moved": (status(301, b"", Location="http://127.0.0.1:9/"), ResourceError, "no chat completions", "/v1"),
    "credit": (status(429, {"error": {"code": "insufficient_quota"}}), ResourceError, "no credit left", "Add credit"),
    "paid": (status(402), ResourceError, "no credit left", "Add credit"),
    "web page": (status(200, b"<html>", Content_Type="text/html"), ResourceError, "does not answer like", "login"),
    "long": (status(400, {"error": {"code": "context_length_exceeded"}}), KmError, "longer than small", "chunk_tokens"),
    "too long for vllm": (
        status(400, {"object": "error", "message": "This model's maximum context length is 9 tokens."}),
        KmError,
        "longer than small",
        "chunk_tokens",
    ),
    "request": (
        status(400, {"error": {"message": f"bad\n thing\x1b[31m {KEY} here"}}),
        KmError,
        "(status 400): bad thing [31m (key) here",
        "settings",
    ),
    "long words": (status(422, {"detail": "x" * 500}), KmError, ": " + "x" * 199 + "…", "settings"),
    "no words": (status(400, b"nope"), KmError, "(status 400).", "settings"),
    "a prefix": (status(501), KmError, "(status 501): no", "settings"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_one_sentence_and_the_next_step(service: FakeService, name: str, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    fault, kind, message, hint = REFUSED[name]
    service.faults = [fault]
    with pytest.raises(kind) as caught:
        engine_on(service, concurrency=1).generate(chats("a", "b"), SAMPLING)
    assert type(caught.value) is kind
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert len(service.asked) == 1
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + caplog.text
    assert KEY not in shown
    assert "POST" in caplog.text  # so there was something to look through


def test_one_refusal_cancels_the_others(service: FakeService) -> None:
    def last(handler: Any) -> None:
        wait_until(lambda: len(service.asked) == 3)
        status(401)(handler)

    service.faults_of = {f"p{i}": [hang] for i in range(5)} | {"bad": [last]}
    started = time.monotonic()
    with pytest.raises(ResourceError, match="not accept the key"):
        engine_on(service, concurrency=3).generate(chats("p0", "p1", "bad", "p3", "p4"), SAMPLING)
    assert time.monotonic() - started < 60  # of the 120 seconds that they would take
    assert sorted(prompts_of(service)) == ["bad", "p0", "p1"]
    wait_until(lambda: sum(asked.closed for asked in service.asked) == 2)


def test_a_service_that_was_never_there_is_told_at_once() -> None:
    clock = Clock()
    engine = OpenAIEngine(find("small", f"http://127.0.0.1:{closed_port()}/v1"), pace=clock.pace())
    with pytest.raises(ResourceError, match="cannot reach 127"):
        engine.generate(chats("a"), SAMPLING)
    assert clock.slept == []


def test_a_service_that_goes_away_is_waited_for(service: FakeService) -> None:
    engine = engine_on(service, retries=3)
    engine.generate(chats("a"), SAMPLING)
    service.server.shutdown()
    service.server.server_close()
    with pytest.raises(ResourceError, match="could not be reached, 4 times"):
        engine.generate(chats("b"), SAMPLING)


def test_a_filtered_prompt_is_left_out_and_told_once(service: FakeService) -> None:
    refusal = status(400, {"error": {"code": "content_filter", "message": "..."}})
    service.faults_of = {"worse": [refusal], "bad": [refusal]}
    events: list[Event] = []
    engine = engine_on(service, report=events.append)
    assert engine.generate(chats("a", "worse", "b", "bad"), SAMPLING) == [
        Generation("re: a", 1, 2, True),
        Generation("", 2, 0, False),
        Generation("re: b", 1, 2, True),
        Generation("", 1, 0, False),
    ]
    assert engine.usage == Usage(answers=2, prompt_tokens=2, tokens=4, filtered=2)
    assert [event.message for event in events] == [
        f"the content filter of {service.host} refuses a prompt: it is left out"
    ]
    service.faults = [refusal]
    with pytest.raises(KmError, match="refuses this prompt"):
        engine.stream(chats("bad")[0], SAMPLING, lambda text: None)


# --- fields that a service does not take ---


def unsupported(field: str, code: str = "unsupported_parameter") -> Fault:
    return status(400, {"error": {"param": field, "code": code, "message": "no"}})


@pytest.mark.parametrize(
    "fault",
    [
        unsupported("max_tokens"),
        status(400, {"error": {"code": "invalid_request_body", "message": "Use 'max_completion_tokens' instead."}}),
    ],
)
def test_the_newer_name_of_the_limit_is_found(service: FakeService, fault: Fault) -> None:
    service.faults = [fault]
    events: list[Event] = []
    engine = engine_on(service, concurrency=1, report=events.append)
    assert texts(engine.generate(chats("a", "b"), SAMPLING)) == ["re: a", "re: b"]
    limits = [(asked.body.get("max_tokens"), asked.body.get("max_completion_tokens")) for asked in service.asked]
    assert limits == [(20, None), (None, 20), (None, 20)]
    assert (engine.usage.retries, events) == (0, [])


@pytest.mark.parametrize(
    ("field", "fault"),
    [
        ("temperature", unsupported("temperature", "unsupported_value")),
        ("seed", status(422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"]}]})),
        ("seed", status(422, {"message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"]}]}})),
        ("top_p", status(400, {"error": {"message": "Unrecognized request argument supplied: top_p"}})),
    ],
)
def test_a_field_that_is_not_taken_is_left_out_and_told_once(service: FakeService, field: str, fault: Fault) -> None:
    service.refuses = (field, fault)
    events: list[Event] = []
    engine = engine_on(service, concurrency=3, report=events.append)
    assert texts(engine.generate(chats("a", "b", "c", "d"), SAMPLING)) == ["re: a", "re: b", "re: c", "re: d"]
    with_it = Counter(field in asked.body for asked in service.asked)
    assert with_it[False] == 4
    assert 1 <= with_it[True] <= 3
    assert engine.usage.retries == 0
    assert [event.message for event in events] == [f"small at {service.host} takes no {field}: it uses its own"]
    assert events[0].warning


def test_a_value_that_is_wrong_is_no_field_to_leave_out(service: FakeService) -> None:
    service.faults = [unsupported("max_tokens", "invalid_value")]
    with pytest.raises(KmError, match=r"status 400\): no"):
        engine_on(service).generate(chats("a"), SAMPLING)
    service.faults = [unsupported("seed"), unsupported("seed")]  # also where it is not there any more
    with pytest.raises(KmError, match=r"status 400\): no"):
        engine_on(service).generate(chats("a"), SAMPLING)


# --- streams ---


def test_a_stream_hands_over_pieces(service: FakeService) -> None:
    service.answer = lambda prompt: ("  Ann built it,\n\nand Bo kept it. ", "stop")
    pieces: list[str] = []
    engine = engine_on(service)
    generation = engine.stream(chats("Who?")[0], SAMPLING, pieces.append)
    assert generation == Generation("Ann built it,\n\nand Bo kept it.", 1, 7, True)
    assert "".join(pieces) == generation.text
    assert len(pieces) > 5
    assert (service.asked[0].body["stream"], service.asked[0].body["seed"]) == (True, 5)
    assert engine.usage == Usage(answers=1, prompt_tokens=1, tokens=7)


def test_a_stream_holds_text_of_any_kind_and_may_be_cut_short(service: FakeService) -> None:
    odd = '世界 \U0001f600 \u2028 and \x85 " \\ end'
    service.answer = lambda prompt: (odd, "length")
    pieces: list[str] = []
    assert engine_on(service).stream(chats("a")[0], SAMPLING, pieces.append) == Generation(odd, 1, 6, False)
    assert "".join(pieces) == odd


def test_a_stream_without_counts_is_estimated(service: FakeService) -> None:
    service.faults = [status(400, {"error": {"message": "Unrecognized request argument supplied: stream_options"}})]
    engine = engine_on(service)
    assert engine.stream(chats("12345")[0], SAMPLING, lambda text: None) == Generation("re: 12345", 2, 3, True)
    assert engine.usage.estimated == 1


def test_a_service_that_does_not_stream_answers_at_once(service: FakeService) -> None:
    service.faults = [lambda handler: handler.send(200, handler.completion())]
    pieces: list[str] = []
    assert engine_on(service).stream(chats("a")[0], SAMPLING, pieces.append) == Generation("re: a", 1, 2, True)
    assert pieces == ["re: a"]


@pytest.mark.parametrize(
    "fault",
    [
        status(429),
        status(500),
        cut_at_once,
        cut_stream(0),
        cut_stream(3),
        cut_stream(2, b'data: {"error": {"message": "overloaded"}}\n\n'),
        status(200, b"data: {\n\n", Content_Type="text/event-stream"),
        status(200, b"", Content_Type="text/event-stream"),
    ],
)
def test_a_stream_that_showed_nothing_starts_again(service: FakeService, fault: Fault) -> None:
    service.faults = [fault] * 2
    pieces: list[str] = []
    engine = engine_on(service)
    assert engine.stream(chats("a")[0], SAMPLING, pieces.append) == Generation("re: a", 1, 2, True)
    assert "".join(pieces) == "re: a"
    assert engine.usage.retries == 2


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (cut_stream(5), "cut the connection"),
        (cut_stream(5, b"data: {\n"), "gave a garbled answer"),
        (cut_stream(5, b'data: {"error": {"message": "overloaded"}}\n\n'), "failed (status 502)"),
    ],
)
def test_a_stream_that_showed_text_is_not_begun_again(service: FakeService, fault: Fault, reason: str) -> None:
    service.faults = [fault]
    pieces: list[str] = []
    with pytest.raises(ResourceError) as caught:
        engine_on(service).stream(chats("abcdefgh")[0], SAMPLING, pieces.append)
    assert caught.value.message == f"{service.host} {reason} in the middle of the answer."
    assert "".join(pieces) == "re: ab"
    assert len(service.asked) == 1


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(st.characters(), max_size=8), max_size=12))
def test_pieces_add_up_to_the_text(pieces: list[str]) -> None:
    shown: list[str] = []
    events = [{"choices": [{"delta": {"content": piece}}]} for piece in pieces]
    lines = [json.dumps(event) for event in [*events, {"choices": [{"delta": {}, "finish_reason": "stop"}]}]]

    class Response:
        async def aiter_bytes(self) -> Any:
            for line in lines:
                yield b"data: " + line.encode() + b"\n\n"

    written = asyncio.run(Pieces(shown.append).read(Response()))  # type: ignore[arg-type]
    whole_text = "".join(pieces).encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip()
    assert written == Written(whole_text, True, None, None)
    assert "".join(shown) == whole_text


@settings(deadline=None, max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["choices", "message", "content", "usage", "prompt_tokens", "finish_reason"]), inner
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_an_answer_or_garbled(body: Any) -> None:
    try:
        written = whole(body)
    except Garbled:
        return
    assert written.text == (body["choices"][0]["message"].get("content") or "").strip()


# --- Ctrl-C ---

ASKING = """
import sys
from kmcli.engines import Sampling
from kmcli.engines.openai import open_engine
engine = open_engine("small", base_url=sys.argv[1], concurrency=4)
done = []
try:
    engine.generate([[("user", f"p{i}")] for i in range(20)], Sampling(), done.append)
except KeyboardInterrupt:
    print("stopped after", done)
"""


def wait_until(true: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_ctrl_c_cancels_what_is_under_way(service: FakeService) -> None:
    service.faults = [None, None, *[hang] * 18]
    asking = subprocess.Popen([sys.executable, "-c", ASKING, service.url], stdout=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: len(service.asked) == 6, 120)
        asking.send_signal(signal.SIGINT)
        out, _ = asking.communicate(timeout=60)  # of the 120 seconds that they would take
    finally:
        asking.kill()
    assert (asking.returncode, out) == (0, "stopped after [1, 2]\n")
    assert len(service.asked) == 6
    wait_until(lambda: sum(asked.closed for asked in service.asked) == 4)


# --- which service, and its key ---


def test_the_environment_names_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    assert find("m") == Service(
        "https://api.openai.com/v1/chat/completions",
        "api.openai.com",
        "m",
        "OPENAI_API_KEY",
        {"Authorization": f"Bearer {KEY}"},
    )
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:8000/v1/")
    assert find("m").url == "http://localhost:8000/v1/chat/completions"
    assert find("m", "http://[::1]:8/v1", "other").headers == {"Authorization": "Bearer other"}
    assert find("m", "https://a.example/x/chat/completions").url == "https://a.example/x/chat/completions"
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://mine.openai.azure.com")
    with pytest.raises(UsageError, match="two services"):
        find("m")


def test_azure_has_addresses_and_a_header_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://mine.openai.azure.com/")
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", AZURE_KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)  # is not for Azure
    service = find("my gpt/4")
    place = "https://mine.openai.azure.com/openai/deployments/my%20gpt%2F4/chat/completions"
    assert service.url == f"{place}?api-version=2024-10-21"
    assert service.headers == {"api-key": AZURE_KEY}
    monkeypatch.setenv("OPENAI_API_VERSION", "2025-01-01-preview")
    assert find("my gpt/4").url == f"{place}?api-version=2025-01-01-preview"
    assert find("my gpt/4", api_version="x").url == f"{place}?api-version=x"
    assert find("d", azure_endpoint="https://h.example/openai").url.startswith(
        "https://h.example/openai/deployments/d/"
    )
    newer = find("d", azure_endpoint="https://h.example/openai/v1/")
    assert (newer.url, newer.azure) == ("https://h.example/openai/v1/chat/completions", True)
    assert find("m", base_url="http://localhost:1").headers == {"Authorization": f"Bearer {KEY}"}


def test_azure_is_asked_and_its_refusals_speak_of_deployments(service: FakeService) -> None:
    engine = open_engine("dep", azure_endpoint=service.url, api_key=AZURE_KEY, api_version="v")
    assert texts(engine.generate(chats("a"), SAMPLING)) == ["re: a"]
    assert service.asked[0].path == "/openai/deployments/dep/chat/completions?api-version=v"
    assert service.asked[0].headers["api-key"] == AZURE_KEY
    assert "authorization" not in service.asked[0].headers
    service.faults = [status(404), status(401, {"error": {"message": AZURE_KEY}})]
    service.faults.append(status(200, b"<html>", Content_Type="text/html"))
    with pytest.raises(ResourceError, match="no deployment dep") as caught:
        engine.generate(chats("a"), SAMPLING)
    assert "OPENAI_API_VERSION" in caught.value.hint
    with pytest.raises(ResourceError, match="read from AZURE_OPENAI_API_KEY") as caught:
        engine.generate(chats("a"), SAMPLING)
    assert AZURE_KEY not in str(caught.value)
    with pytest.raises(ResourceError, match="Check AZURE_OPENAI_ENDPOINT"):
        engine.generate(chats("a"), SAMPLING)


def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResourceError, match="OPENAI_API_KEY is not set"):
        find("m")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(ResourceError, match="AZURE_OPENAI_API_KEY is not set"):
        find("m", azure_endpoint="https://mine.openai.azure.com")


@pytest.mark.parametrize("key", [f"{KEY}\nX-Other: 1", f"{KEY} b", f"{KEY}“", f"{KEY}\x00"])
def test_a_key_that_is_none_is_refused_unseen(key: str) -> None:
    with pytest.raises(UsageError, match="characters that no key has") as caught:
        find("m", "http://localhost:1", key)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "localhost:8000",
        "ftp://a.example",
        "https://",
        "https://a.example:port",
        "https://a b.example",
        "https://user:verysecret@a.example/v1",
        "https://a.example/v1?api-key=verysecret",
        "https://a.example/v1#verysecret",
        "https://[verysecret",
    ],
)
def test_an_address_that_is_none_is_refused_unseen(address: str) -> None:
    with pytest.raises(UsageError) as caught:
        find("m", address, KEY)
    assert "base URL" in caught.value.message
    assert "verysecret" not in str(caught.value)


def test_the_key_is_in_no_repr_and_an_open_line_is_told() -> None:
    events: list[Event] = []
    service = find("m", "http://models.example/v1", KEY)
    engine = OpenAIEngine(service, report=events.append)
    assert KEY not in repr(service) + repr(engine)
    assert [event.message for event in events] == [
        "the key and the prompts go to models.example unencrypted: its address begins with http://"
    ]
    for address, key in (
        ("https://models.example", KEY),
        ("http://localhost:1", KEY),
        ("http://127.0.0.1:1", KEY),
        ("http://[::1]:1", KEY),
        ("http://models.example", ""),
    ):
        assert not find("m", address, key).exposed


# --- waits ---

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "2", "retry-after-ms": "1234"}, 1.234),
        ({"retry-after": "Sat, 21 Nov 2026 12:00:40 GMT"}, 40),
        ({"retry-after": "Sat, 21 Nov 2026 12:00:40 -0000"}, 40),
        ({"retry-after": "Sat, 21 Nov 2026 11:00:00 GMT"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "120ms"}, 0.12),
        ({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "120ms"}, None),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1h2m3.5s"}, 3723.5),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1790000000"}, None),
        ({"x-ratelimit-remaining-tokens": "0"}, None),
    ],
)
def test_what_headers_ask_for(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_wait(headers, NOW) == (None if seconds is None else pytest.approx(seconds))


def test_the_last_of_the_used_up_limits_counts() -> None:
    limits = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2s"}
    limits |= {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}
    assert exhausted_wait(limits) == 360


@settings(deadline=None)
@given(st.text(max_size=12))
def test_any_span_is_seconds_or_nothing(text: str) -> None:
    seconds = span(text)
    assert seconds is None or seconds >= 0
