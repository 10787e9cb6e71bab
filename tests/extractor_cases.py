"""What the tests of Knowledge Extractors share: a tiny random base, documents with random modules, and questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cli_cases import Km
from each_cases import make_adapter, make_base, teach
from kmcli.adapters import stack
from kmcli.adapters.extractor import Mixture
from kmcli.bases import Loaded
from kmcli.engines import Sampling
from kmcli.library.extractors import ExtractorRecipe
from kmcli.training.extractor import Example
from kmcli.workflows import answerer, each

RECIPE = ExtractorRecipe(model="tiny", rank=4, alpha=8, batch=4, steps=20, learning_rate=1e-2, held_out=0.25)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return make_base(tmp_path_factory.mktemp("somewhere") / "base")


@pytest.fixture(scope="module")
def folders(loaded: Loaded, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of random modules of rank 2 to 4, by the id of their document."""
    folder = tmp_path_factory.mktemp("modules")
    return {f"d{seed}": make_adapter(loaded, folder / str(seed), seed) for seed in range(6)}


def read(loaded: Loaded, folder: Path) -> stack.Adapter:
    return stack.read(folder, loaded.device)


def disturbed(loaded: Loaded, rank: int = 4) -> Mixture:
    """An extractor whose every number counts."""
    mixture = Mixture(loaded, rank, 2.0 * rank, seed=0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in mixture.parameters.items():
            size = 0.1 if "lora_B" in name else 0.3
            value.add_(size * torch.randn(value.shape, generator=generator))
    return mixture


def example(loaded: Loaded, document: str, question: str, *answers: str, right: int = 0) -> Example:
    tokens = [[*loaded.tokenizer(text, add_special_tokens=False)["input_ids"], loaded.end_ids[0]] for text in answers]
    return Example(document, loaded.chat_ids([("user", question)]), tuple(tokens), right)


def examples(loaded: Loaded, documents: list[str]) -> list[Example]:
    """Two questions about each."""
    return [
        one
        for document in documents
        for one in (
            example(loaded, document, "Who built the mill?", f"Ann of {document}"),
            example(loaded, document, "When was it built, and by whom, after all?", "In 1871."),
        )
    ]


def library(loaded: Loaded, count: int) -> list[str]:
    """A library of so many documents with random modules; their names."""
    names = [f"mill-{number}" for number in range(count)]
    for number, name in enumerate(names):
        teach(loaded, name, number, ("mills",))
    return names


def write_questions(file: Path, names: list[str]) -> Path:
    rows = [
        {"document": name, "question": question, "answers": [answer]}
        for name in names
        for question, answer in (("Who built it?", "Ann"), ("When did it burn down?", "1871"))
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


# --- whole commands

QUICK = ("--set", "steps=6", "--set", "rank=4", "--set", "batch=4", "--set", "learning_rate=0.02", "--device", "cpu")
SHORT = Sampling(max_tokens=9)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(each, "SAMPLING", SHORT)
    monkeypatch.setattr(answerer, "SAMPLING", SHORT)


@pytest.fixture
def names(loaded: Loaded, short: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Six documents with random modules on a tiny base, the setting of the base included."""
    monkeypatch.setenv("KM_MODEL", loaded.base.name)
    return library(loaded, 6)


@pytest.fixture
def questions(names: list[str], tmp_path: Path) -> Path:
    return write_questions(tmp_path / "questions.jsonl", names[:4])


@pytest.fixture
def trained(km: Km, names: list[str], questions: Path) -> dict[str, Any]:
    run = km("extractor", "train", "qa", "--questions", str(questions), *QUICK, "--json")
    assert run.code == 0, run.err
    return dict(run.envelope["data"])


def answer(km: Km, *words: str) -> dict[str, Any]:
    run = km("ask", *words, "--device", "cpu", "--json")
    assert run.code == 0, run.err
    return dict(run.envelope["data"])
