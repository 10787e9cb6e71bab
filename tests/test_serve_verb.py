"""km serve as a person runs it, in a process of its own."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from cli_cases import Km, environment
from kmcli.engines import Sampling
from serving_cases import QUESTIONS, alone, teach
from workflow_cases import km, sentences, start

__all__ = ["km"]


@pytest.fixture
def process(km_home: Path) -> Iterator[subprocess.Popen[str]]:
    running = start("serve", "--port", "0", "--json", "--device", "cpu", OMP_NUM_THREADS="1", KM_API_KEY="s3cret")
    yield running
    running.kill()
    running.communicate()


def address(process: subprocess.Popen[str]) -> str:
    """What a person reads on stderr until the server answers; with --json nothing else is on stdout."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("serving"):
            return line.split(" at ")[1].split(";")[0]
    raise AssertionError(process.communicate())


def test_ctrl_c_finishes_what_is_under_way(process: subprocess.Popen[str]) -> None:
    url = address(process)
    body = {"model": "embedded", "messages": [{"role": "user", "content": "Who?"}], "stream": True, "temperature": 0}
    headers = {"Authorization": "Bearer s3cret"}
    with httpx2.stream("POST", f"{url}/chat/completions", json=body, headers=headers, timeout=60) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        process.send_signal(signal.SIGINT)
        events = [line for line in lines if line]
    assert events[-1] == "data: [DONE]"
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("stopped after 1 request\n")
    assert "Traceback" not in err
    data = json.loads(out)["data"]
    assert (data["base"], data["requests"], data["interrupted"], data["url"] + "/v1") == ("embedded", 1, True, url)
    assert data["output_tokens"] > 0


def test_sigterm_is_an_end_like_any_other(process: subprocess.Popen[str]) -> None:
    assert httpx2.get(address(process) + "/models").status_code == 401
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(out)["data"]["interrupted"] is False


WITHOUT_TORCH = """
import http.client, json, os, signal, sys, threading
from kmcli.serving import Limits
from kmcli.types import silent
from kmcli.workflows.house import open_house
from kmcli.workflows.serve import serve

def ask(serving):
    connection = http.client.HTTPConnection(serving.url.removeprefix("http://"))
    body = {"model": "notes", "messages": [{"role": "user", "content": sys.argv[1]}]}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    print(json.load(connection.getresponse())["choices"][0]["message"]["content"], serving.engine)
    os.kill(os.getpid(), signal.SIGTERM)

with open_house({}, silent) as house:
    serve(house, "127.0.0.1", 0, None, Limits(), lambda one: threading.Thread(target=ask, args=[one]).start())
print(sorted({"torch", "transformers", "peft"} & set(sys.modules)))
"""


def test_llamacpp_is_what_serves_on_a_processor_and_needs_no_torch(km_home: Path) -> None:
    pytest.importorskip("llama_cpp")
    teach("notes", 1)
    alone(km_home, "llamacpp", "notes", QUESTIONS[:1], Sampling(1))  # the files are there
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, QUESTIONS[2]], env=environment(), capture_output=True, text=True
    )
    assert run.stdout.splitlines() == ["the notes department, within 11 days llamacpp", "[]"], run.stderr


def test_engines(km: Km, monkeypatch: pytest.MonkeyPatch) -> None:
    run = km("serve", "--engine", "openai", "--port", "0", "-q")
    wanted = "km: the engine openai does not serve. Use --engine hf or llamacpp or vllm."
    assert (run.code, sentences(run.err)) == (2, [wanted])
    run = km("serve", "--engine", "vllm", "--port", "0", "-q")
    assert run.code == 4
    assert sentences(run.err)[0].startswith("km: vLLM is not installed.")
    monkeypatch.setenv("KM_VLLM_PYTHON", "/no/such/python")
    assert km("serve", "--engine", "vllm", "--port", "0", "-q").code == 2


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.com"])
def test_other_machines_need_a_key(km: Km, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmcli.serving.server.run", lambda *_: pytest.fail("it serves"))
    run = km("serve", "--host", host, "--port", "0")
    assert (run.code, sentences(run.err)) == (
        2,
        [
            f"km: {host} can be reached from other machines, and there is no API key. "
            "Give one: --api-key KEY, or KM_API_KEY in the environment."
        ],
    )


def test_keys_that_are_none(km: Km, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("", " x", "schlüssel", "a\nb"):
        assert km("serve", "--api-key", key, "--port", "0").code == 2
    monkeypatch.setenv("KM_API_KEY", "")
    assert km("serve", "--port", "0").code == 2


def test_a_port_that_is_taken(km: Km) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = km("serve", "--port", str(port), "-q")
    assert run.code == 4
    assert sentences(run.err)[0].startswith(f"km: port {port} of 127.0.0.1 cannot be had: ")
