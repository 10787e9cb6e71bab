"""km models and km doctor: what is on the disk, what suits the machine, and pulling from a hub on 127.0.0.1."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import json
from pathlib import Path

import pytest

import kmcli
from cli_cases import Km, runner
from fakehub import FakeHub
from hub_cases import NAME, cache, files, online, original, server
from kmcli import bases
from kmcli.types import Event
from kmcli.workflows import machine, models, setup
from kmcli.workflows.machine import Gpu, Machine

GIB = 1 << 30


@pytest.fixture
def km(capsys: pytest.CaptureFixture[str]) -> Km:
    return runner(capsys)


@pytest.fixture(autouse=True)
def nobody_elses_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without any, and no Ollama that runs as a service."""
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    return tmp_path


def cuda(gib: int) -> Machine:
    return Machine("Linux x86_64", 16, 128 * GIB, Gpu("cuda", "NVIDIA H200", gib * GIB))


@pytest.mark.parametrize(
    ("here", "best"),
    [
        (Machine("Linux x86_64", 2, 2 * GIB, None), "embedded"),
        (Machine("Linux x86_64", 2, 24 * GIB, None), "Qwen/Qwen2.5-0.5B-Instruct"),
        (Machine("Linux x86_64", 64, 512 * GIB, None), "Qwen/Qwen2.5-0.5B-Instruct"),
        (cuda(1), "embedded"),
        (cuda(8), "Qwen/Qwen2.5-1.5B-Instruct"),
        (cuda(16), "Qwen/Qwen3-4B-Instruct-2507"),
        (cuda(80), "Qwen/Qwen3-8B"),
    ],
)
def test_what_suits(here: Machine, best: str) -> None:
    assert models.suits(here) == best


def test_memory_is_two_bytes_a_weight_on_a_gpu_four_on_a_processor_and_half_again() -> None:
    assert models.memory_of(1_000_000_000, cuda(80)) == 3_000_000_000
    assert models.memory_of(1_000_000_000, Machine("", 2, 0, None)) == 6_000_000_000


def test_a_gpu_is_found_by_its_drivers_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    monkeypatch.setenv("PATH", f"{tool.parent}:/bin:/usr/bin")
    for said, found in (
        ("NVIDIA A100, 40960\nNVIDIA A100, 40960", Gpu("cuda", "NVIDIA A100", 40 * GIB, 2)),
        ("NVIDIA-SMI has failed", None),
        ("", None),
    ):
        tool.write_text(f"#!/bin/sh\necho '{said}'\n")
        tool.chmod(0o755)
        assert machine._nvidia() == found
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert machine._nvidia() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine._nvidia() is None


def test_this_machine() -> None:
    here = machine.look()
    assert here.cores >= 1
    assert here.bytes > GIB / 2


def ollama(top: Path, host: str, model: str, tag: str, digest: str, size: int) -> None:
    manifest = top / "manifests" / host / model / tag
    manifest.parent.mkdir(parents=True)
    layers = [
        {"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:ff", "size": 1},
        {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": size},
    ]
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    (top / "blobs").mkdir(exist_ok=True)
    (top / "blobs" / f"sha256-{digest}").write_bytes(b"G" * size)


def test_files_of_other_programs(km: Km, nobody_elses_models: Path) -> None:
    top = nobody_elses_models / "ollama"
    ollama(top, "registry.ollama.ai", "library/qwen3", "4b", "aa", 7)
    ollama(top, "registry.ollama.ai", "ann/mill", "latest", "bb", 5)
    (top / "manifests/registry.ollama.ai/library/qwen3/damaged").write_text("{")
    (top / "manifests/registry.ollama.ai/library/qwen3/odd").write_text('{"layers": ["x", {"mediaType": 3}]}')
    ollama(top, "registry.ollama.ai", "library/gone", "1b", "cc", 3)
    (top / "blobs/sha256-cc").unlink()
    studio = nobody_elses_models / "person/.lmstudio/models/maker/model"
    studio.mkdir(parents=True)
    (studio / "model-Q4.gguf").write_bytes(b"GGUF")
    (studio / "mmproj-model.gguf").write_bytes(b"GGUF")
    found = [one for one in km("models", "--json").envelope["data"] if one["kind"] == "gguf"]
    assert [(one["name"], one["bytes"], one["path"]) for one in found] == [
        ("ann/mill:latest", 5, str(top / "blobs/sha256-bb")),
        ("maker/model/model-Q4.gguf", 4, str(studio / "model-Q4.gguf")),
        ("qwen3:4b", 7, str(top / "blobs/sha256-aa")),
    ]
    assert "Other programs' files" in km("models").out


def test_recommended_by_size_with_what_they_need(km: Km, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "look", lambda: cuda(16))
    entries = [one for one in km("models", "--json").envelope["data"] if one["kind"] == "recommended"]
    assert [one["name"].split("-")[1] for one in entries] == ["0.5B", "1.5B", "4B", "8B"]
    assert [one["memory"] for one in entries] == sorted(one["memory"] for one in entries)
    assert [one["name"] for one in entries if one["note"] == "suits this machine"] == ["Qwen/Qwen3-4B-Instruct-2507"]
    shown = km("models").out
    assert shown.index("embedded") < shown.index("To download") < shown.index("Qwen/Qwen3-8B")


def test_pull(km: Km, online: FakeHub) -> None:
    run = km("models", "pull", NAME)
    assert run.code == 0
    assert run.out.startswith(f"downloaded  {NAME}  ")
    assert f"Next: km config set model {NAME}" in run.err
    assert any(line.startswith("download  ") for line in run.err.splitlines())
    here = [one["name"] for one in km("models", "--json").envelope["data"] if one["kind"] == "here"]
    assert here == ["embedded", NAME]
    again = km("models", "pull", NAME, "--json").envelope["data"]
    assert (again["downloaded"], again["bytes"] > 1000) == (False, True)


def test_pull_from_python_reports_progress(online: FakeHub) -> None:
    events: list[Event] = []
    with kmcli.open(on_event=events.append) as library:
        pulled = library.pull(NAME)
    assert pulled.downloaded
    assert (pulled.path / "config.json").is_file()
    assert {event.stage for event in events} == {"download"}
    assert events[-1].done == events[-1].total


def test_pull_without_a_hub_fails_with_a_sentence(km: Km) -> None:
    run = km("models", "pull", NAME)
    assert run.code == 4
    assert "km: cannot reach the model hub at http://127.0.0.1:" in run.err
    assert "These work without a connection: --model embedded" in run.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["pull"], "km models pull takes a name on the hub."),
        (["ls", "x"], "km models ls takes nothing more."),
        (["pull", "embedded"], "embedded is on this disk: there is nothing to pull."),
        (["pull", "no such name"], "'no such name' is neither a folder on this machine nor the name of a hub model."),
    ],
)
def test_what_makes_no_sense(km: Km, words: list[str], sentence: str) -> None:
    run = km("models", *words)
    assert run.code == 2
    assert sentence in " ".join(run.err.split())


def test_doctor_says_what_to_do_next(km: Km, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "look", lambda: cuda(80))
    monkeypatch.setattr(setup.importlib.metadata, "version", lambda name: "2.13.0+cpu")
    data = km("doctor", "--json").envelope["data"]
    checks = {one["subject"]: one for one in data}
    wanted = [
        "library",
        "base",
        "machine",
        "suits",
        "km",
        "torch",
        "packages",
        "gguf",
        "dense",
        "vllm",
        "ray",
        "ocr",
        "bits",
    ]
    assert [one["subject"] for one in data][: len(wanted)] == wanted
    assert {"disk", "cache"} <= set(checks)
    assert checks["library"]["message"].endswith("next: km add FILE")
    assert (checks["torch"]["status"], checks["torch"]["hint"]) == ("warn", "Install torch for CUDA.")
    assert "km models pull Qwen/Qwen3-8B" in checks["suits"]["message"]
    assert "NVIDIA H200, 86 GB" in checks["machine"]["message"]
    assert "pip install 'kmcli[vllm]'" in checks["vllm"]["message"]


def test_doctor_on_a_small_machine(km: Km, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "look", lambda: Machine("Linux x86_64", 1, 2 * GIB, None))
    monkeypatch.setattr(machine.Extra, "version", None)
    checks = {one["subject"]: one for one in km("doctor", "--json").envelope["data"]}
    assert checks["suits"]["message"].startswith("the embedded base: memory for a larger one is lacking")
    assert "1 core, 2 GB of memory, no GPU found" in checks["machine"]["message"]
    assert (checks["gguf"]["status"], checks["gguf"]["hint"]) == ("warn", "pip install 'kmcli[gguf]'")
    assert checks["vllm"]["message"].startswith("not installed, and of no use without CUDA")
    assert (checks["base"]["status"], bases.EMBEDDED in checks["base"]["message"]) == ("ok", True)
