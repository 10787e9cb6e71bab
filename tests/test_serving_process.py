"""km serve as a process: keys, limits, a library that changes meanwhile, and its end."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from kmcli import config
from kmcli.library import Library
from kmcli.serving import server
from serving_cases import QUESTIONS, STEPPED, chat, ingested, metric, said, serving, teach, until
from training_cases import one_thread

__all__ = ["one_thread"]


@pytest.fixture(params=STEPPED)
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "llamacpp":
        pytest.importorskip("llama_cpp")
    return str(request.param)


def test_keys(km_home: Path, engine: str) -> None:
    with serving(engine, key="s3cret") as running:
        assert [model.id for model in running.client("s3cret").models.list()] == ["embedded"]
        for wrong in ("s3cre", "none"):
            with pytest.raises(openai.AuthenticationError, match="the API key is missing or wrong"):
                running.client(wrong).models.list()
        assert httpx2.get(f"{running.url}/metrics").status_code == 401
        assert httpx2.get(f"{running.url}/health", headers={"Host": "km.example"}).json() == {"status": "ok"}


# --- limits


def test_too_many_and_too_slow(km_home: Path, engine: str) -> None:
    with serving(engine, parallel=1, waiting=1, seconds=1.5, max_tokens=600) as running:
        running.endless()
        client = running.client()
        running.slow(0.02)  # each of them takes more than its second and a half
        stream = chat(client, "embedded", "Who?", stream=True, max_tokens=600)
        next(iter(stream))
        with ThreadPoolExecutor() as pool:
            second = pool.submit(chat, client, "embedded", "Who?")
            assert until(lambda: running.service.backend.waiting == 1)
            with pytest.raises(openai.RateLimitError) as busy:
                chat(client, "embedded", "Who?")
            assert busy.value.response.headers["Retry-After"] == "1"
            with pytest.raises(openai.APIError, match=r"not finished within 1\.5 seconds"):
                list(stream)
            assert second.exception() is None or isinstance(second.exception(), openai.InternalServerError)
        with pytest.raises(openai.InternalServerError) as slow:
            chat(client, "embedded", "Who?", max_tokens=600)
        assert slow.value.status_code == 504
        assert until(lambda: running.service.backend.running == 0)


def test_a_stream_that_is_left_frees_its_place(km_home: Path, engine: str) -> None:
    with serving(engine, parallel=1) as running:
        running.endless()
        client = running.client()
        for stream in (True, False):
            cancelled = metric(running, "km_cancelled_total")
            if stream:
                chunks = chat(client, "embedded", "Who?", stream=True, max_tokens=600)
                next(iter(chunks))
                chunks.close()
            else:
                with pytest.raises(openai.APITimeoutError):
                    chat(client.with_options(timeout=0.3), "embedded", "Who?", max_tokens=600)
            assert said(client, "embedded", "Who?", max_tokens=2)
            assert metric(running, "km_cancelled_total") == cancelled + 1
        assert until(lambda: running.service.under_way == 0)
        assert metric(running, "km_running") == 0


def test_a_bug_ends_one_answer_and_not_the_server(km_home: Path, engine: str, caplog: pytest.LogCaptureFixture) -> None:
    with serving(engine) as running:
        write = running.rows.write

        def broken(tokens: Any) -> Any:
            raise ZeroDivisionError("a bug")

        running.rows.write = broken
        with pytest.raises(openai.InternalServerError, match="this is a bug in km"):
            said(running.client(), "embedded", "Who?")
        assert "ZeroDivisionError: a bug" in caplog.text
        running.rows.write = write
        assert said(running.client(), "embedded", QUESTIONS[0]) == "The text does not say."
        assert httpx2.get(f"{running.url}/health").status_code == 200


# --- a library that changes


def test_a_module_that_is_trained_while_the_server_runs(km_home: Path, engine: str) -> None:
    old = teach("notes", 1)
    with serving(engine, modules=1) as running:
        client = running.client()
        before = said(client, "notes", QUESTIONS[2])
        assert before == "the notes department, within 11 days"
        running.endless()
        chunks = chat(client, "notes", QUESTIONS[2], stream=True, max_tokens=24)
        begun = next(iter(chunks))
        new = teach("notes", 8)
        after = chat(client, "notes", QUESTIONS[2])
        assert begun.system_fingerprint.endswith(old.id)
        assert after.system_fingerprint.endswith(new.id)
        rest = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert rest.startswith(before), "what was under way is finished by the old one"
        assert "within 88 days" in after.choices[0].message.content
        with pytest.raises(openai.NotFoundError, match=f"That is notes@{new.id}"):
            said(client, f"notes@{old.id}", "Who?")
        teach("later", 3, steps=0)
        assert {model.id for model in client.models.list()} >= {"later", f"notes@{new.id}"}
        assert said(client, "later", "Who?")
        assert metric(running, "km_modules_loaded") == 1
        assert metric(running, "km_module_loads_total") == 3
        with Library.open(config.home()) as library:
            library.remove("later")
        with pytest.raises(openai.NotFoundError):
            said(client, "later", "Who?")


def test_stale_foreign_and_damaged_modules(km_home: Path, engine: str) -> None:
    teach("notes", 1, steps=0)
    teach("foreign", 2, steps=0, model="Qwen/Qwen3-0.6B", revision="c" * 40)
    teach("old", 2, steps=0, revision="0" * 64, base_label="km-base 0.1")
    broken = teach("broken", 3, steps=0)
    with Library.open(config.home()) as library:
        changed = library.add(ingested("notes", "notes was founded in 1927."))
        assert changed.action == "updated"
    (broken.path / "adapter_model.safetensors").write_bytes(b"x")
    with serving(engine) as running:
        client = running.client()
        assert {model.id for model in client.models.list()} == {"embedded", "broken", f"broken@{broken.id}"}
        raw = client.chat.completions.with_raw_response.create(
            model="notes", messages=[{"role": "user", "content": "Who?"}], max_tokens=2
        )
        warning = "notes has changed since its Knowledge Module was trained: km train notes"
        assert raw.headers["X-KM-Warning"] == warning
        assert (
            "X-KM-Warning"
            not in client.chat.completions.with_raw_response.create(
                model="embedded", messages=[{"role": "user", "content": "Who?"}], max_tokens=2
            ).headers
        )
        with pytest.raises(openai.NotFoundError, match=r"fits Qwen/Qwen3-0\.6B, and this server runs embedded"):
            said(client, "foreign", "Who?")
        with pytest.raises(openai.NotFoundError, match=r"was trained on km-base 0\.1.*km train old"):
            said(client, "old", "Who?")
        with pytest.raises(openai.InternalServerError, match=r"cannot be (loaded|read)") as damaged:
            said(client, "broken", "Who?")
        assert damaged.value.status_code == 503


# --- the end


def test_what_is_under_way_is_finished(km_home: Path, engine: str) -> None:
    with serving(engine) as running:
        running.endless()
        chunks = chat(running.client(), "embedded", "Who?", stream=True, max_tokens=60)
        first = next(iter(chunks))
        running.stop()
        rest = list(chunks)
        assert rest[-1].choices[0].finish_reason == "length"
        assert first.choices[0].delta.role == "assistant"
        running.thread.join(20)
        assert running.said == ["stopping: 1 answer under way, 10 seconds to finish (Ctrl-C again stops at once)"]
        with pytest.raises(openai.APIConnectionError):
            running.client().models.list()


def test_what_is_not_finished_in_time_is_told_so(km_home: Path, engine: str) -> None:
    with serving(engine, grace=0.3) as running:
        running.endless()
        running.slow(0.05)
        chunks = chat(running.client(), "embedded", "Who?", stream=True, max_tokens=600)
        next(iter(chunks))
        began = time.monotonic()
        running.stop()
        with pytest.raises(openai.APIError, match="the server is shutting down"):
            list(chunks)
        running.thread.join(20)
        assert time.monotonic() - began < 5
        assert running.said[1:] == ["cut off: 1, which were not finished in time"]


def test_an_address_that_is_taken() -> None:
    sock = server.listen("127.0.0.1", 0)
    port = sock.getsockname()[1]
    with pytest.raises(server.ResourceError, match=f"port {port} of 127.0.0.1 cannot be had"):
        server.listen("127.0.0.1", port)
    sock.close()
    with pytest.raises(server.UsageError, match="there is no address"):
        server.listen("no such host", 0)
