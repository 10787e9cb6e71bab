"""km serve under 64 clients at once, each asking what was asked before, one request after the other: the same answers?

A program: `load.py FOLDER SECONDS [ENGINE]` makes a library in the folder and writes load.json there. The server is a
process of its own. While all still ask it is told to end: every answer then is whole and right, or refused.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cli_cases import command, environment
from serving_cases import QUESTIONS, teach

CLIENTS = 64
NAMES = ("alpha", "beta")
LOST = (ConnectionError, http.client.RemoteDisconnected, http.client.CannotSendRequest, BrokenPipeError)
"""How a server that has ended, or is ending, comes to a client that had sent nothing to be answered yet."""


@dataclass
class Load:
    """megabytes: of the server's memory, every half second from the first answer under load on."""

    answers: int = 0
    wrong: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    megabytes: list[float] = field(default_factory=list)
    code: int | None = None
    seconds_to_end: float = 0.0
    stderr: str = ""

    @property
    def growth(self) -> float:
        """Megabytes by which the last quarter's middle is above the second's: in the first it fills its memory."""
        quarter = len(self.megabytes) // 4
        if not quarter:
            return 0.0
        second, last = self.megabytes[quarter : 2 * quarter], self.megabytes[-quarter:]
        return sorted(last)[len(last) // 2] - sorted(second)[len(second) // 2]


def cases() -> list[dict[str, Any]]:
    """Requests: each module and the base, short and long, whole and streamed, with what went before and with a stop."""
    found: list[dict[str, Any]] = []
    for number, name in enumerate((*NAMES, "embedded")):
        for place, question in enumerate(QUESTIONS):
            chat = [{"role": "user", "content": question}]
            body = {
                "model": name,
                "messages": chat,
                "temperature": 0,
                "max_tokens": (24, 12, 3, 1)[(number + place) % 4],
            }
            found += [body, {**body, "stream": True}]
        chat = [{"role": "user", "content": QUESTIONS[0]}, {"role": "assistant", "content": f"the {name}"}]
        chat = [*chat, {"role": "user", "content": QUESTIONS[1]}]
        found.append({"model": name, "messages": chat, "temperature": 0, "max_tokens": 16})
        found.append({"model": name, "messages": chat[:1], "temperature": 0, "max_tokens": 24, "stop": ["a", "e"]})
        found.append({"model": name, "messages": chat[:1], "temperature": 0.8, "seed": number, "max_tokens": 12})
    return found


class Client:
    """One connection, kept as long as the server keeps it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.connection = http.client.HTTPConnection(address, timeout=180)

    def ask(self, body: dict[str, Any]) -> tuple[int, str]:
        """The status, and what was said: text and why it ended, or the refusal's code."""
        try:
            self.connection.request(
                "POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"}
            )
            response = self.connection.getresponse()
            told = response.read().decode()
        except BaseException:
            self.connection.close()
            self.connection = http.client.HTTPConnection(self.address, timeout=180)
            raise
        if response.status != 200:
            return response.status, str(json.loads(told)["error"]["code"])
        if body.get("stream"):
            return streamed(told)
        choice = json.loads(told)["choices"][0]
        return 200, f"{choice['message']['content']}|{choice['finish_reason']}"


def streamed(told: str) -> tuple[int, str]:
    events = re.findall(r"^data: (.*)$", told, re.MULTILINE)
    if events and '"error"' in events[-1]:
        return 503, str(json.loads(events[-1])["error"]["code"])
    if not events or events[-1] != "[DONE]":
        return 200, f"cut off: {told[-200:]}"
    choices = [json.loads(event)["choices"][0] for event in events[:-1]]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    return 200, f"{text}|{choices[-1]['finish_reason']}"


def run(home: Path, seconds: float, engine: str = "auto") -> Load:
    os.environ["KM_HOME"] = str(home)
    for seed, name in enumerate(() if home.exists() else NAMES, 1):
        teach(name, seed, steps=15)
    said = home.with_name("serve.err")
    words = command("serve", "--port", "0", "--device", "cpu", "--engine", engine, "--json")
    with said.open("w") as err:
        server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=err, env=environment(OMP_NUM_THREADS="1"))
    try:
        return _loaded(server, said, seconds)
    finally:
        server.kill()
        server.communicate()


def _loaded(server: subprocess.Popen[bytes], said: Path, seconds: float) -> Load:
    deadline = time.monotonic() + 300
    while not (found := re.search(r"http://(\S+?)/v1", said.read_text())):
        assert server.poll() is None, said.read_text()
        assert time.monotonic() < deadline, said.read_text()
        time.sleep(0.1)
    load, asked, address = Load(), cases(), found[1]
    alone = Client(address)
    expected = [alone.ask(body) for body in asked]
    assert all(status == 200 for status, _ in expected), expected
    assert len({text for _, text in expected}) > len(expected) / 4, "each answers otherwise: a mixture would show"
    ending = threading.Event()
    lock = threading.Lock()

    def work(number: int) -> None:
        draw, client = random.Random(number), Client(address)
        while True:
            place = draw.randrange(len(asked))
            over = ending.is_set()
            try:
                status, text = client.ask(asked[place])
            except LOST as error:
                with lock:
                    load.refused[type(error).__name__] += 1
                    if not ending.is_set():
                        load.wrong.append(f"{type(error).__name__} before the end")
                if ending.is_set():
                    return
                continue
            except Exception as error:  # noqa: BLE001 (whatever a client comes across is a finding)
                with lock:
                    load.wrong.append(f"{asked[place]}: {error!r}")
                return
            with lock:
                if status == 200:
                    load.answers += 1
                    if (status, text) != expected[place]:
                        load.wrong.append(f"{asked[place]}: {text}, and alone: {expected[place][1]}")
                else:
                    load.refused[text] += 1
                    if text != "shutting_down" and status != 429:
                        load.wrong.append(f"{asked[place]}: {status} {text}")
            if over:
                return

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + seconds
    while time.monotonic() < until or load.answers < CLIENTS:
        time.sleep(0.5)
        load.megabytes.append(resident(server.pid))
        if server.poll() is not None or time.monotonic() > until + 300:
            break
    ending.set()
    began = time.monotonic()
    server.send_signal(signal.SIGTERM)
    try:
        load.code = server.wait(60)
    except subprocess.TimeoutExpired:
        load.wrong.append("the server did not end within a minute")
    load.seconds_to_end = time.monotonic() - began
    for thread in threads:
        thread.join(60)
    if any(thread.is_alive() for thread in threads):
        load.wrong.append("a client waits for an answer that does not come")
    load.stderr = said.read_text()
    if load.code != 0 or "Traceback" in load.stderr or "stopped after" not in load.stderr:
        load.wrong.append(f"the server ends with {load.code}: {load.stderr[-2000:]}")
    return load


def resident(pid: int) -> float:
    """Megabytes of memory that are a process's; 0 where it has ended."""
    try:
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1000 if found else 0.0


def main() -> int:
    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    load = run(folder / "home", seconds, sys.argv[3] if len(sys.argv) > 3 else "auto")
    (folder / "load.json").write_text(json.dumps({**vars(load), "growth": load.growth}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
