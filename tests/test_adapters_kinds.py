"""The protocol of adapters: nothing outside asks which one it is, and each is refused where it cannot be in one sentence."""

# ruff: noqa: F401 (imported fixtures)

from __future__ import annotations

import inspect
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import peft
import pytest
import torch

import kmcli
from cli_cases import Km
from kmcli import bases, config
from kmcli.adapters import ADAPTERS, Kind, cartridge, lora
from kmcli.bases import EMBEDDED
from kmcli.library import Library
from kmcli.training.recipes import resolve
from kmcli.types import AdapterName, KnowledgeModule, Recipe, silent
from serving_cases import QUESTIONS, alone, ingested, said, serving
from serving_cases import teach as teach_lora
from training_cases import one_thread
from workflow_cases import entry, is_sound, km, permits, sentences

__all__ = ["km", "permits"]

ROOMS = Path(kmcli.__file__).parent
KINDS = "|".join([*get_args(AdapterName), "prefix", "reading", "before"])
ASKS = [
    re.compile(rf"kmcli\.adapters\.({KINDS})\b"),
    re.compile(rf"from kmcli\.adapters import .*\b({KINDS})\b"),
    re.compile(rf"[=!]= *[\"']({'|'.join(get_args(AdapterName))})[\"']"),
    re.compile(rf"[\"']({'|'.join(get_args(AdapterName))})[\"'] *[=!]="),
    re.compile(r"isinstance\(.*\b(Prefixed|Reading|PeftModel)\b"),
]


def test_nothing_outside_its_room_asks_which_adapter_it_is() -> None:
    files = [file for file in ROOMS.rglob("*.py") if ROOMS / "adapters" not in file.parents]
    assert len(files) > 200
    asking = [
        f"{file.relative_to(ROOMS)}: {line.strip()}"
        for file in files
        for line in file.read_text("utf-8").splitlines()
        if any(pattern.search(line) for pattern in ASKS)
    ]
    assert asking == []


def test_each_kind_has_what_the_protocol_says() -> None:
    members = [name for name in vars(Kind) if not name.startswith("_")]
    assert {"build", "trainable", "save", "load_sum", "read", "ABLE", "join", "described"} <= set(members)
    for kind in ADAPTERS.values():
        for name in members:
            mine = getattr(kind, name)
            theirs = getattr(Kind, name)
            if inspect.isfunction(theirs):
                wanted = list(inspect.signature(theirs).parameters)[1:]
                assert list(inspect.signature(mine).parameters) == wanted, (kind, name)


def test_the_recipe_of_a_kind_has_its_own_defaults() -> None:
    base = bases.find(EMBEDDED, silent)
    plain = resolve(base, "standard")
    other = resolve(base, "standard", settings=["adapter=cartridge", "cartridge_tokens=32"])
    assert (plain.adapter, plain.learning_rate) == ("lora", base.recipe["learning_rate"])
    assert (other.adapter, other.cartridge_tokens) == ("cartridge", 32)
    assert other.learning_rate == cartridge.DEFAULTS["learning_rate"]
    assert resolve(base, "paper", settings=["adapter=cartridge", "learning_rate=0.5"]).learning_rate == 0.5


def teach(name: str, seed: int = 0, tokens: int = 20) -> KnowledgeModule:
    """A document's cartridge that is not trained, but begun from pieces of a text of its own."""
    base = bases.find(EMBEDDED, silent)
    loaded = bases.load(base, "cpu")
    recipe = Recipe(adapter="cartridge", cartridge_tokens=tokens, model=base.name, revision=base.revision, seed=seed)
    text = f"{name} Works was founded by {name} Brenn in 18{seed + 30}. It makes {name} lamps. " * 4
    with Library.open(config.home()) as library:
        document = library.add(ingested(name, text)).document
        folder = library.staging(document)
        cartridge.save(cartridge.build(loaded, recipe, text=text), folder)
        return library.commit_module(document, folder, recipe, {})


@pytest.mark.parametrize("words", [("--gguf",), ("--format", "gguf-lora"), ("--format", "ollama"), ("--format", "hf")])
def test_what_a_cartridge_is_not_exported_as(km_home: Path, km: Km, words: tuple[str, ...]) -> None:
    teach("selmouth")
    run = km("export", "selmouth", *words, "--out", str(km_home / "there"))
    assert run.code == 2
    (line,) = sentences(run.err)
    cannot = "cannot be merged into a model" if "hf" in words else "no GGUF file can hold"
    assert line == (
        "km: the Knowledge Module of selmouth is a cartridge (keys and values that stand before the question), "
        f"which {cannot}. Export it with --format peft."
    )
    assert not (km_home / "there").exists()


def test_it_leaves_as_a_peft_folder_and_comes_back(km_home: Path, km: Km, tmp_path: Path) -> None:
    weights = (teach("selmouth").path / lora.WEIGHTS).read_bytes()
    out = tmp_path / "folder"
    run = km("export", "selmouth", "--format", "peft", "--out", str(out), "--json")
    assert run.code == 0
    checked = run.envelope["data"]["checked"]
    assert checked["passed"] is True, checked
    loaded = bases.load(bases.find(EMBEDDED, silent), "cpu")
    assert peft.PeftModel.from_pretrained(loaded.model, out).peft_config["default"].num_virtual_tokens == 20
    assert km("import", str(out), "--document", "selmouth").code == 2  # it has one
    assert km("import", str(out), "--document", "selmouth", "--force").code == 0
    again = entry(km, "selmouth")["module"]
    assert (again["recipe"]["adapter"], again["recipe"]["cartridge_tokens"]) == ("cartridge", 20)
    assert (Path(again["path"]) / lora.WEIGHTS).read_bytes() == weights
    assert "cartridge of 20 tokens" in km("show", "selmouth").out
    assert is_sound(km)


def test_one_that_peft_made_is_imported(km_home: Path, km: Km, tmp_path: Path) -> None:
    base = bases.find(EMBEDDED, silent)
    loaded = bases.load(base, "cpu")
    model: Any = peft.get_peft_model(
        loaded.model, peft.CartridgeConfig(task_type="CAUSAL_LM", num_virtual_tokens=12, num_frozen_tokens=3)
    )
    model.save_pretrained(tmp_path / "theirs")
    teach("selmouth")
    run = km("import", str(tmp_path / "theirs"), "--document", "selmouth", "--model", EMBEDDED, "--force")
    assert run.code == 0, run.err
    recipe = entry(km, "selmouth")["module"]["recipe"]
    assert (recipe["cartridge_tokens"], recipe["cartridge_frozen"]) == (12, 3)


def test_who_answers_from_one(km_home: Path, km: Km) -> None:
    """By itself torch does."""
    teach("selmouth")
    run = km("ask", "selmouth", "Who founded selmouth Works?", "--json")
    assert run.code == 0
    assert run.envelope["data"]["answer"]


def test_llamacpp_refuses_one(km_home: Path, km: Km) -> None:
    pytest.importorskip("llama_cpp")
    teach("selmouth")
    refused = km("ask", "selmouth", "Who founded selmouth Works?", "--engine", "llamacpp")
    (line,) = sentences(refused.err)
    assert (refused.code, line) == (
        2,
        "km: the Knowledge Module of selmouth is a cartridge (keys and values that stand before the question), "
        "which llama.cpp cannot load. Use --engine hf.",
    )


def test_documents_of_either_kind_are_asked_at_once(km_home: Path, km: Km) -> None:
    teach("selmouth")
    teach_lora("taldrin", 3, steps=2)
    run = km("ask", "--each", "selmouth", "taldrin", "Who founded the Works?", "--json")
    assert run.code == 0, run.err
    assert [row["error"] for row in run.envelope["data"]["rows"]] == [None, None]


def test_a_server_answers_as_km_ask_does(km_home: Path) -> None:
    from kmcli.engines import Sampling

    teach("selmouth", 1)
    teach("taldrin", 2, tokens=31)
    teach_lora("kestrim", 3, steps=4)
    questions = ["Who founded it?", QUESTIONS[0]]
    sampling = Sampling(max_tokens=24, temperature=0.0)
    with serving("hf") as running:
        client = running.client()
        for name in ("selmouth", "taldrin", "kestrim"):
            found = [said(client, name, question) for question in questions]
            assert found == alone(running.home, "hf", name, questions, sampling)


def test_a_server_by_llamacpp_refuses_one(km_home: Path) -> None:
    pytest.importorskip("llama_cpp")
    teach("selmouth", 1)
    with serving("llamacpp") as running, pytest.raises(Exception, match=r"which llama\.cpp cannot load"):
        said(running.client(), "selmouth", QUESTIONS[0])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--adapter", "cartridge", "--init", "permits"), "begins from its own document, not from another's module."),
        (("--adapter", "cartridge", "--tokens", "600"), "a cartridge of 600 tokens leaves too little of the 640"),
        (("--adapter", "prompt"), "'prompt' is no adapter. Choose one of lora, cartridge, compressed."),
        (("--adapter", "cartridge", "--tokens", "many"), "cartridge_tokens must be a whole number, not 'many'."),
    ],
)
def test_training_that_is_refused(permits: Path, km: Km, words: tuple[str, ...], expected: str) -> None:
    run = km("train", "permits", "--objective", "lm", "--no-exam", *words)
    assert run.code != 0
    assert expected in sentences(run.err)[0]


def test_train_ask_compare(permits: Path, km: Km) -> None:
    words = ("--adapter", "cartridge", "--tokens", "12", "--frozen", "2", "--objective", "lm", "--set", "steps=2")
    assert km("train", "permits", *words, "--no-exam").code == 0
    module = entry(km, "permits")["module"]
    recipe = module["recipe"]
    assert (recipe["adapter"], recipe["cartridge_tokens"], recipe["cartridge_frozen"]) == ("cartridge", 12, 2)
    config = json.loads((Path(module["path"]) / "adapter_config.json").read_text("utf-8"))
    assert (config["peft_type"], config["num_virtual_tokens"], config["num_frozen_tokens"]) == ("CARTRIDGE", 12, 2)
    questions = permits.parent / "questions.jsonl"
    questions.write_text(json.dumps({"question": "Who approves them?", "answers": ["Walter Quendal"]}) + "\n")
    run = km("compare", "permits", "--questions", str(questions), "--methods", "bare,km", "--json")
    assert run.code == 0, run.err
    assert run.envelope["data"]["costs"]["adapter_bytes"] == (Path(module["path"]) / lora.WEIGHTS).stat().st_size
    assert is_sound(km)
