"""km ask, answered by a km serve that runs: found, proven, and done without where it is gone."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli_cases import Km, environment
from kmcli import bases, config
from kmcli.engines import Sampling
from kmcli.engines.server import LOST, Server, proof
from kmcli.errors import KmError
from kmcli.types import silent
from kmcli.workflows import warm
from kmcli.workflows.answering import Member, open_answering
from kmcli.workflows.house import open_house
from kmcli.workflows.pair import open_pair
from serving_cases import QUESTIONS, teach
from workflow_cases import km, start

__all__ = ["km"]

pytest.importorskip("llama_cpp")


@pytest.fixture
def running(km_home: Path) -> Iterator[subprocess.Popen[str]]:
    """A server of its own process, with a key for clients, over one Knowledge Module."""
    teach("notes", 1)
    words = ("serve", "--port", "0", "--json", "--engine", "llamacpp", "--device", "cpu")
    process = start(*words, OMP_NUM_THREADS="1", KM_API_KEY="s3cret")
    assert process.stderr is not None
    assert any(line.startswith("serving") for line in process.stderr), process.communicate()
    yield process
    process.kill()
    process.communicate()


def asked(km: Km, *words: str) -> dict[str, Any]:
    run = km("ask", "notes", QUESTIONS[2], "--json", *words)
    assert run.code == 0, run.err
    data: dict[str, Any] = run.envelope["data"]
    data.pop("seconds")
    return data


def notes(home: Path) -> list[Path]:
    return sorted((home / "servers").glob("*"))


def test_a_server_answers_as_ask_itself_does(km: Km, km_home: Path, running: subprocess.Popen[str]) -> None:
    for method in ("km", "rag", "full", "bare"):
        warm_one = asked(km, "--method", method)
        cold = asked(km, "--method", method, "--engine", "llamacpp")
        assert (warm_one.pop("engine"), cold.pop("engine")) == ("server", "llamacpp")
        assert warm_one == cold
    assert "within 11 days" in asked(km)["answer"]
    (note,) = notes(km_home)
    assert note.name == f"{running.pid}.json"
    assert note.stat().st_mode & 0o777 == 0o600
    assert note.parent.stat().st_mode & 0o777 == 0o700
    assert "s3cret" not in note.read_text()
    teach("notes", 8)
    assert ("within 88 days" in asked(km)["answer"], asked(km)["engine"]) == (True, "server")
    assert asked(km, "--device", "cpu")["engine"] == "llamacpp", "a flag says where"
    note.chmod(0o644)
    assert asked(km)["engine"] == "llamacpp", "a note that others may write is not read"
    note.chmod(0o600)
    running.terminate()
    running.communicate(timeout=60)
    assert notes(km_home) == []
    assert asked(km)["engine"] == "llamacpp"


def test_how_sure_an_answer_is(km: Km, km_home: Path, running: subprocess.Popen[str]) -> None:
    told = []
    with open_house({}, silent) as house:
        document = house.library.find("notes")
        module = house.library.module(document)
        assert module is not None
        base = house.base_of(document, module)
        pair = open_pair(house, base, Member(document, module))
        assert (pair.km.name, pair.plain.name) == ("server", "server")
        cold = open_pair(
            replace(house, settings=config.resolve({"engine": "llamacpp"})), base, Member(document, module)
        )
        for engine in (pair.km, cold.km, pair.plain, cold.plain):
            (made,) = engine.generate([[("user", QUESTIONS[2])]], Sampling(logprobs=1))
            assert made.logprobs is not None
            told.append((made.text, made.tokens, [one.logprob for one in made.logprobs]))
    assert told[0] == (told[1][0], told[1][1], pytest.approx(told[1][2], abs=1e-3))
    assert told[2] == (told[3][0], told[3][1], pytest.approx(told[3][2], abs=1e-3))
    assert told[0][0] != told[2][0], "one has the module on"


def test_a_server_that_was_killed(km: Km, km_home: Path, running: subprocess.Popen[str]) -> None:
    running.kill()
    running.wait()
    assert len(notes(km_home)) == 1
    run = km("ask", "notes", QUESTIONS[2])
    assert (run.code, "within 11 days" in run.out) == (0, True)
    assert "server" not in run.err
    assert notes(km_home) == [], "the note of a process that is gone is deleted"


def test_it_imports_neither_torch_nor_a_client(km: Km, km_home: Path, running: subprocess.Popen[str]) -> None:
    asked(km)
    script = (
        "import sys; from kmcli.__main__ import main\n"
        "try: main(['ask', 'notes', 'Who?', '--json'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'openai', 'httpx2', 'starlette', 'numpy'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True)
    assert '"engine": "server"' in run.stdout, run.stderr
    assert run.stdout.splitlines()[-1] == "[]"


class Impostor(http.server.BaseHTTPRequestHandler):
    """Another program at the port. heard: what it is told. proven: whether it knows the token."""

    heard: list[str]
    token = ""

    def log_message(self, *words: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.heard.append(f"{self.path.partition('=')[0]} {self.headers.get('Authorization')}")
        shown = proof(self.token or "a guess", self.path.partition("=")[2])
        revision = bases.find("embedded", silent).revision
        body = json.dumps(
            {"proof": shown, "revision": revision, "model": "embedded", "context": 640, "max_tokens": 999}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """Half an answer, or none."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.heard.append("question")
        self.close_connection = True
        self.send_response(200)
        self.end_headers()
        if body["messages"][0]["content"] == "half":
            self.wfile.write(b'data: {"choices": [{"delta": {"content": "one"}, "finish_reason": null}]}\n\n')


@pytest.fixture
def impostor(km_home: Path) -> Iterator[type[Impostor]]:
    kind = type("Kind", (Impostor,), {"heard": [], "protocol_version": "HTTP/1.1"})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folder = km_home / "servers"
    folder.mkdir(parents=True, mode=0o700)
    note = {
        "url": f"http://127.0.0.1:{server.server_port}",
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "revision": bases.find("embedded", silent).revision,
        "token": "the token",
    }
    (folder / "1.json").write_text(json.dumps(note))
    (folder / "1.json").chmod(0o600)
    yield kind
    server.shutdown()
    server.server_close()


def test_who_took_the_port_learns_nothing(km: Km, km_home: Path, impostor: type[Impostor]) -> None:
    teach("notes", 1)
    assert asked(km)["engine"] == "llamacpp"
    assert impostor.heard == ["/km/hello?nonce None"]


def test_a_server_that_leaves_in_the_middle(km_home: Path, impostor: type[Impostor]) -> None:
    impostor.token = "the token"
    with open_house({}, silent) as house:
        engine = open_answering(house, house.base()).engine
        assert engine.name == "server"
        pieces: list[str] = []
        with pytest.raises(KmError, match="has left"):
            engine.stream([("user", "half")], Sampling(8), pieces.append)
        assert pieces == ["one"]
        made = engine.stream([("user", QUESTIONS[0])], Sampling(24), pieces.append)
        assert (made.text, engine.name) == ("The text does not say.", "llamacpp")
        assert "".join(pieces) == "one" + made.text
        assert impostor.heard.count("question") == 2


def test_what_is_never_asked_of_a_server(km_home: Path, impostor: type[Impostor]) -> None:
    impostor.token = "the token"
    with open_house({}, silent) as house:
        base = house.base()
        member: Any = Member(None, None, 0.5)  # type: ignore[arg-type]

        def cold() -> Any:
            raise AssertionError

        assert warm.engine_of(house, base, [member], cold) is None
        assert warm.engine_of(house, base, [member, member], cold) is None
        assert warm.engine_of(house, base, [], cold)
    for flags in ({"engine": "auto"}, {"engine": "hf"}, {"device": "cpu"}):
        with open_house(flags, silent) as house:
            assert warm.engine_of(house, base, [], cold) is None
    with pytest.raises(LOST):
        Server(json.loads((km_home / "servers" / "1.json").read_text())["url"], "the token", "another revision")


def test_addresses() -> None:
    assert [warm._loopback(url) for url in ("http://127.0.0.1:8", "http://0.0.0.0:8", "http://[::]:8")] == [
        "http://127.0.0.1:8",
        "http://127.0.0.1:8",
        "http://[::1]:8",
    ]
    assert [warm._loopback(url) for url in ("http://192.168.1.2:8", "http://example.com:8", "x")] == [None] * 3
