"""`--estimate` where keys for services are in the environment, whichever engine is to write: a number or a sentence."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

from pathlib import Path

import pytest

from cli_cases import Km
from fakeservice import FakeService, status
from workflow_cases import entry, km, sentences
from writer_cases import FakeVllm, fake_vllm, notes, service

SMALL = (
    "--set",
    "chunk_tokens=96",
    "--set",
    "generations=2",
    "--set",
    "steps=2",
    "--set",
    "batch=2",
    "--set",
    "min_explained=0",
)
KEYS = {
    "OPENAI_API_KEY": "sk-proj-0123456789",
    "ANTHROPIC_API_KEY": "sk-ant-0123456789",
    "AZURE_OPENAI_API_KEY": "0123456789abcdef",
    "HF_TOKEN": "hf_0123456789",
    "KM_API_KEY": "km-0123456789",
}


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)


@pytest.mark.parametrize(("engine", "exam"), [("auto", "yes"), ("hf", "no"), ("llamacpp", "yes"), ("vllm", "no")])
def test_what_writes_here(km: Km, notes: Path, fake_vllm: FakeVllm, engine: str, exam: str) -> None:
    if engine == "llamacpp":
        pytest.importorskip("llama_cpp")
    run = km("train", "notes", "--estimate", "--engine", engine, *SMALL, "--set", f"exam={exam}")
    assert "Traceback" not in run.err
    assert run.code == 0 or sentences(run.err)[-1].startswith(("km: none of ", "km: notes: none of ")), run.err
    assert not any(key in run.out + run.err for key in KEYS.values())


@pytest.mark.parametrize("exam", ["yes", "no"])
@pytest.mark.parametrize("verb", ["train", "synth"])
def test_a_service_writes(
    km: Km, notes: Path, service: FakeService, monkeypatch: pytest.MonkeyPatch, verb: str, exam: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEYS["OPENAI_API_KEY"])
    words = ("--engine", "openai", "--teacher", "big", *SMALL, "--set", f"exam={exam}")
    run = km(verb, "notes", "--estimate", *words)
    assert run.code == 0, run.err
    assert len(service.asked) > 3
    assert not any(key in run.out + run.err for key in KEYS.values())
    assert entry(km, "notes")["state"] == "untrained"


@pytest.mark.parametrize(
    ("changes", "words", "code", "said"),
    [
        ({}, (), 2, "km: the engine openai needs to know which model writes. Name it: --teacher MODEL"),
        ({"AZURE_OPENAI_ENDPOINT": "https://x.example"}, ("--teacher", "big"), 2, "name two services"),
        ({"OPENAI_BASE_URL": ":::bad"}, ("--teacher", "big"), 2, "is no http or https address"),
        ({"OPENAI_API_KEY": "sk-ü two"}, ("--teacher", "big"), 2, "the key holds characters that no key has"),
        ({"OPENAI_BASE_URL": "", "OPENAI_API_KEY": ""}, ("--teacher", "big"), 4, "OPENAI_API_KEY is not set"),
    ],
)
def test_what_cannot_be_meant_is_a_sentence(
    km: Km,
    notes: Path,
    service: FakeService,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str],
    words: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEYS["OPENAI_API_KEY"])
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    run = km("train", "notes", "--estimate", "--engine", "openai", *words, *SMALL)
    assert (run.code, run.out) == (code, "")
    assert said in sentences(run.err)[-1]
    assert service.asked == []


def test_a_key_that_is_refused(km: Km, notes: Path, service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEYS["OPENAI_API_KEY"])
    service.faults = [status(401)] * 8
    run = km("train", "notes", "--estimate", "--engine", "openai", "--teacher", "big", *SMALL)
    assert run.code == 4
    assert "does not accept the key. The key is read from OPENAI_API_KEY." in sentences(run.err)[-1]
