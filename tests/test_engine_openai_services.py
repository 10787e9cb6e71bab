"""Which OpenAI-compatible service is asked, with which key, and how long it wants to be waited for."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakeservice import FakeService, status
from kmcli.engines.openai import OpenAIEngine, open_engine
from kmcli.engines.openai_pace import asked_wait, exhausted_wait, span
from kmcli.engines.openai_service import Service, find
from kmcli.errors import ResourceError, UsageError
from kmcli.types import Event
from openai_cases import AZURE_KEY, KEY, SAMPLING, chats, plain_environment, service, texts

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


@given(st.text(max_size=12))
def test_any_span_is_seconds_or_nothing(text: str) -> None:
    seconds = span(text)
    assert seconds is None or seconds >= 0
