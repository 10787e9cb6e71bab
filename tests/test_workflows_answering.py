"""On what `km ask` answers: llama.cpp where it can, torch elsewhere, and the same answers from both."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli_cases import Km, environment
from kmcli import bases
from kmcli.engines import bindings
from kmcli.workflows import answering
from workflow_cases import NOTES, TINY, km, sentences, trained_home

__all__ = ["km", "trained_home"]

pytest.importorskip("llama_cpp")

ASKED = (
    "Who founded Grondal Works?",
    "Who designed Lumrick 40?",
    "How much does Lumrick 40 cost?",
    "Which department handles berth permits?",
    "Where is the head office of Grondal Works?",
    "When was the firm established?",
)
METHODS = ("km", "rag", "full", "bare")


def answer(km: Km, question: str, *words: str) -> dict[str, object]:
    run = km("ask", "notes", question, "--json", *words)
    assert run.code == 0, run.err
    return dict(run.envelope["data"])


def cached(home: Path) -> list[str]:
    """The base's files, and then FOLDER/FILE of documents."""
    whole = sorted(file.name for file in (home / "cache" / "gguf").glob("*"))
    return whole + sorted(f"{file.parent.name}/{file.name}" for file in (home / "cache" / "documents").glob("*/*"))


# --- the same answers


@pytest.mark.parametrize("method", METHODS)
def test_both_engines_answer_alike(km: Km, trained_home: Path, method: str) -> None:
    for question in ASKED:
        ours, torchs = (answer(km, question, "--method", method, "--engine", name) for name in ("llamacpp", "hf"))
        assert (ours.pop("engine"), torchs.pop("engine")) == ("llamacpp", "hf")
        assert ours.pop("seconds")
        assert torchs.pop("seconds")
        assert ours == torchs


def test_a_stream_is_the_answer(km: Km, trained_home: Path) -> None:
    assert km("ask", "notes", ASKED[0]).out == f"{answer(km, ASKED[0])['answer']}\n"


# --- the files


def test_the_files_are_made_once_and_said(km: Km, trained_home: Path) -> None:
    first = km("ask", "notes", ASKED[0])
    assert first.err.splitlines() == [
        "writing km-base 0 as GGUF for llama.cpp, once",
        "writing the Knowledge Module of notes as GGUF for llama.cpp, once",
    ]
    module = json.loads(km("show", "notes", "--json").out)["data"]["module"]["id"]
    document = next((trained_home / "documents").iterdir()).name
    revision = bases.find("embedded", print).revision
    assert cached(trained_home) == [f"{revision}.gguf", f"{document}/{module}.gguf"]
    assert (trained_home / "cache" / "gguf").stat().st_mode & 0o777 == 0o700
    again = km("ask", "notes", ASKED[0])
    assert (again.out, again.err) == (first.out, "")
    for folder in ("gguf", "documents"):
        shutil.rmtree(trained_home / "cache" / folder)
    assert km("ask", "notes", ASKED[0]) == first
    assert km("rm", "notes", "--yes").code == 0
    assert cached(trained_home) == [f"{revision}.gguf"]


def test_a_new_module_replaces_the_files_of_the_old(km: Km, trained_home: Path) -> None:
    km("ask", "notes", ASKED[0])
    before = cached(trained_home)
    assert km("train", "notes", *TINY, "--restart", "--force").code == 0
    km("ask", "notes", ASKED[0])
    after = cached(trained_home)
    assert len(before) == len(after) == 2
    assert len(set(before) & set(after)) == 1


# --- who chooses


@pytest.mark.parametrize(
    ("words", "variables", "engine"),
    [
        ((), {}, "llamacpp"),
        (("--device", "cpu"), {}, "llamacpp"),
        (("--engine", "hf"), {}, "hf"),
        ((), {"KM_ENGINE": "hf"}, "hf"),
        ((), {"KM_ENGINE": "vllm"}, "llamacpp"),
        (("--engine", "auto"), {"KM_ENGINE": "hf"}, "llamacpp"),
    ],
)
def test_which_engine(
    km: Km,
    trained_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    variables: dict[str, str],
    engine: str,
) -> None:
    monkeypatch.setattr(bases, "_ACCELERATORS", ())
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert answer(km, ASKED[0], *words)["engine"] == engine


def test_an_accelerator_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(bases, "_ACCELERATORS", (os.devnull,))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not bases.on_processor("auto")
    assert not bases.on_processor("cuda")
    assert bases.on_processor("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bases.on_processor("auto") == (not torch.backends.mps.is_available())


def test_without_llama_cpp_torch_answers(km: Km, trained_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = answer(km, ASKED[0])
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    bindings.library.cache_clear()
    assert answer(km, ASKED[0]) == {**expected, "engine": "hf", "seconds": pytest.approx(1, abs=60)}
    run = km("ask", "notes", ASKED[0], "--engine", "llamacpp")
    assert run.code == 4
    assert sentences(run.err) == ["km: llama-cpp-python is not installed. Install it with: pip install 'kmcli[gguf]'"]


def test_what_llama_cpp_cannot_do_torch_does_and_says_so(km: Km, trained_home: Path) -> None:
    expected = answer(km, ASKED[0])["answer"]
    base = next((trained_home / "cache" / "gguf").glob(f"{bases.find('embedded', print).revision}*"))
    base.write_bytes(b"GGUF" + bytes(100))
    run = km("ask", "notes", ASKED[0], "-q")
    assert (run.code, run.out) == (0, f"{expected}\n")
    assert run.err.startswith("warning: answered by torch, because llama.cpp cannot do it: llama.cpp cannot open ")
    run = km("ask", "notes", ASKED[0], "--engine", "llamacpp")
    assert run.code == 1
    assert sentences(run.err)[0].endswith(f"Delete the folder {base.parent}: km makes its files anew.")


def test_a_disk_that_takes_no_files_does_not_stop_an_answer(
    km: Km, trained_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(answering, "make_folder", full)
    run = km("ask", "notes", ASKED[0], "--json")
    assert (run.code, run.envelope["data"]["engine"]) == (0, "hf")
    assert run.envelope["messages"][-1].endswith("gguf cannot be written to: no space left on device.")


def test_an_engine_that_does_not_answer(km: Km, trained_home: Path) -> None:
    run = km("ask", "notes", ASKED[0], "--engine", "vllm")
    assert run.code == 2
    assert sentences(run.err) == ["km: the engine vllm does not answer questions. Use --engine hf or llamacpp."]
    assert km("ask", "notes", ASKED[0], "--engine", "llama").code == 2


# --- start-up

HEAVY = ("torch", "transformers", "peft", "numpy", "gguf", "safetensors", "tokenizers", "huggingface_hub", "llama_cpp")
PROGRAM = (
    "import sys; from kmcli.cli.boundary import main; code = main(sys.argv[1:]); "
    f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr); sys.exit(code)"
)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_heavy_is_imported_once_the_files_are_there(km: Km, trained_home: Path, method: str) -> None:
    """llama_cpp's C functions are, but not the package around them."""
    assert km("ask", "notes", ASKED[0]).code == 0
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "ask", "notes", ASKED[0], "-q", "--method", method],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert done.stdout == km("ask", "notes", ASKED[0], "-q", "--method", method).out
    assert len(NOTES) > len(done.stdout) > 1


def test_chat_imports_no_more_and_answers_as_ask_does(km: Km, trained_home: Path) -> None:
    answers = [km("ask", "notes", question, "-q").out for question in ASKED]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("'torch'", "'prompt_toolkit', 'torch'"), "chat", "-q"],
        input="\n".join(ASKED),
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert done.stdout == "".join(answers)


def test_the_package_can_be_imported_after_its_functions() -> None:
    program = (
        "import sys; from kmcli.engines.bindings import library; first = library(); "
        "assert 'llama_cpp' not in sys.modules; import llama_cpp; "
        "assert llama_cpp.llama_cpp is first and llama_cpp.Llama and llama_cpp.llama_decode is first.llama_decode"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
