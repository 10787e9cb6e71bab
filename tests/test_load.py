"""A sample of the load of `make reliability`: some seconds of 64 clients."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import load

ENDED = {"shutting_down", "ConnectionResetError", "ConnectionRefusedError", "RemoteDisconnected", "BrokenPipeError"}


def test_many_at_once_are_answered_as_each_alone(tmp_path: Path) -> None:
    """In a process of its own: its 64 threads are none of pytest's."""
    engine = "llamacpp" if importlib.util.find_spec("llama_cpp") else "hf"
    subprocess.run([sys.executable, load.__file__, tmp_path, "2", engine], check=True, timeout=900)
    found = json.loads((tmp_path / "load.json").read_text())
    assert found["wrong"] == []
    assert found["answers"] >= load.CLIENTS
    assert found["code"] == 0
    assert set(found["refused"]) <= ENDED


def test_growth_is_that_of_the_second_half() -> None:
    def growth(megabytes: list[float]) -> float:
        return load.Load(megabytes=megabytes).growth

    assert growth([100, 150, 200, 210, 210, 210, 211, 212]) == pytest.approx(2, abs=2)
    assert growth([float(100 + 10 * one) for one in range(40)]) == 200
    assert growth([1.0]) == 0


def test_a_stream_that_is_cut_off_is_wrong() -> None:
    event = 'data: {"choices": [{"delta": {"content": "Ann"}, "finish_reason": "stop"}]}\n\n'
    assert load.streamed(event + "data: [DONE]\n\n") == (200, "Ann|stop")
    assert load.streamed(event)[1].startswith("cut off")
    assert load.streamed(event + 'data: {"error": {"code": "shutting_down"}}\n\n') == (503, "shutting_down")
