"""Streamed answers of an OpenAI-compatible service, and what any JSON is read as."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakeservice import FakeService, Fault, cut_at_once, cut_stream, status
from kmcli.engines import Generation
from kmcli.engines.openai import Usage
from kmcli.engines.openai_answers import Garbled, Pieces, Written, whole
from kmcli.errors import ResourceError
from openai_cases import SAMPLING, chats, engine_on, plain_environment, service

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


@settings(max_examples=60)
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


@settings(max_examples=60)
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
