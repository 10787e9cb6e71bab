"""--extractor wherever a Knowledge Module answers."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli_cases import Km
from extractor_cases import QUICK, SHORT, answer, loaded, names, questions, short, trained
from kmcli import config
from kmcli.adapters import lora
from kmcli.bases import Loaded
from kmcli.engines import Sampling, bindings
from kmcli.engines.hf import HfEngine
from kmcli.errors import UsageError
from kmcli.evaluation.methods import build_chat
from kmcli.types import Event, silent
from kmcli.workflows import extracting
from kmcli.workflows.house import open_house
from kmcli.workflows.serve import LibraryCatalogue
from training_cases import one_thread
from workflow_cases import km, sentences


def by_hand(loaded: Loaded, name: str, question: str, sampling: Sampling = SHORT) -> str:
    """What base, module and extractor answer, without the program around them."""
    with open_house({"device": "cpu", "extractor": "qa"}, silent) as house:
        module = extracting.module_of(house, house.library.find(name))
    assert module is not None
    model = lora.load(loaded, module.path)
    try:
        return HfEngine(loaded, model).generate([build_chat("km", question, loaded.base.prompts)], sampling)[0].text
    finally:
        model.unload()


@pytest.mark.parametrize("engine", ["hf", "llamacpp"])
def test_ask_answers_with_it(km: Km, loaded: Loaded, trained: dict[str, Any], engine: str) -> None:
    if engine == "llamacpp" and not bindings.installed():
        pytest.skip("llama-cpp-python is not installed")
    plain = answer(km, "mill-5", "Who built it?", "--engine", engine)
    mine = answer(km, "mill-5", "Who built it?", "--engine", engine, "--extractor", "QA")
    assert mine["answer"] != plain["answer"]
    assert (mine["extractor"], plain["extractor"], mine["method"], mine["engine"]) == ("QA", None, "km", engine)
    if engine == "hf":
        assert mine["answer"] == by_hand(loaded, "mill-5", "Who built it?")
    assert answer(km, "mill-5", "Who built it?", "--engine", engine) == {**plain, "seconds": pytest.approx(0, abs=60)}
    if engine == "llamacpp":  # both files stay: neither is written again
        document = km("show", "mill-5", "--json").envelope["data"]
        assert len(list((config.home() / "cache" / "documents" / document["id"]).glob("*.gguf"))) == 2


def test_many_documents_and_a_conversation(
    km: Km, loaded: Loaded, trained: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    run = km(
        "ask", "--each", "@mills", "Who built it?", "--extractor", "qa", "--engine", "hf", "--device", "cpu", "--json"
    )
    rows = {row["document"]: row["answer"] for row in run.envelope["data"]["rows"]}
    assert rows == {name: by_hand(loaded, name, "Who built it?") for name in rows}
    assert len(rows) == 6
    routed = answer(km, "mill-4", "mill-5", "Who built it?", "--extractor", "qa", "--engine", "hf")
    assert routed["document"] in ("mill-4", "mill-5")
    monkeypatch.setattr("sys.stdin", io.StringIO("Who built it?\n"))
    run = km("chat", "mill-5", "--extractor", "qa", "--engine", "hf", "--device", "cpu", "--json")
    assert [turn["answer"] for turn in run.envelope["data"]["turns"]] == [rows["mill-5"]]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("mill-5", "Who?", "--extractor", "qaa"), 3, "there is no extractor 'qaa'. Did you mean qa?"),
        (
            ("mill-5", "Who?", "--extractor", "qa", "--method", "rag"),
            2,
            "the extractor qa was trained without passages.",
        ),
        (("mill-4", "mill-5", "Who?", "--extractor", "qa", "--weight", "1,1"), 2, "is for one document at a time."),
        (("Who built it?", "--extractor", "qa", "--method", "rag"), 2, "--extractor is for Knowledge Modules here."),
    ],
)
def test_what_it_is_not_for(km: Km, trained: dict[str, Any], words: tuple[str, ...], code: int, said: str) -> None:
    run = km("ask", *words, "--device", "cpu")
    assert run.code == code
    assert said in run.err
    assert len(sentences(run.err)) == 1


@pytest.mark.parametrize("more", [(), ("--no-modules",)])
def test_with_passages_it_answers_by_retrieval(
    km: Km, names: list[str], questions: Path, more: tuple[str, ...]
) -> None:
    run = km("extractor", "train", "qa", "--questions", str(questions), "--passages", "1", *more, *QUICK, "--json")
    assert run.code == 0, run.err
    extractor = run.envelope["data"]["extractor"]
    assert (extractor["recipe"]["passages"], extractor["recipe"]["modules"]) == (1, not more)
    mine = answer(km, "mill-5", "Who built it?", "--extractor", "qa", "--engine", "hf")
    plain = answer(km, "mill-5", "Who built it?", "--method", "rag", "--engine", "hf")
    assert mine["method"] == "rag"
    assert len(mine["evidence"]) == 1
    assert mine["answer"] != plain["answer"]
    folder = next((config.home() / "cache" / "documents").glob(f"*/*/{lora.CONFIG}")).parent
    rank = json.loads((folder / lora.CONFIG).read_text())["r"]
    assert rank == (4 if more else 4 + 4)  # mill-5 has a module of rank 4
    with (
        open_house({"extractor": "qa"}, silent) as house,
        pytest.raises(UsageError, match="reads passages, and none are"),
    ):
        extracting.module_of(house, house.library.find("mill-5"))


def test_a_module_of_another_base_is_refused(km: Km, trained: dict[str, Any], tmp_path: Path) -> None:
    from each_cases import make_base, teach

    teach(make_base(tmp_path / "other", hidden_size=32), "stranger", 3)
    run = km("ask", "stranger", "Who?", "--extractor", "qa", "--device", "cpu")
    assert run.code == 2
    assert "the extractor qa fits" in run.err


def test_a_server_has_it_as_a_model_of_its_own(loaded: Loaded, trained: dict[str, Any], names: list[str]) -> None:
    with open_house({"device": "cpu"}, silent) as house:
        catalogue = LibraryCatalogue(house, loaded.base)
        assert [entry.name for entry in catalogue.entries()] == names
        both, alone = catalogue.find("mill-5+QA"), catalogue.find("mill-5")
        assert both is not None
        assert alone is not None
        assert both.name == "mill-5+qa"
        assert both.module.id == f"{alone.module.id}-{trained['extractor']['id']}"
        assert (both.module.path / lora.WEIGHTS).exists()
        assert both.pinned == f"mill-5+qa@{both.module.id}"
        assert catalogue.find("mill-5+nobody") is None
        assert catalogue.find("mill-9+qa") is None
        module = extracting.baked(
            house, house.library.find("mill-5"), alone.module, house.library.extractors.find("qa")
        )
        assert extracting.served_name(house, house.library.find("mill-5"), alone.module) == f"mill-5@{alone.module.id}"
    with open_house({"device": "cpu", "extractor": "qa"}, silent) as house:
        catalogue = LibraryCatalogue(house, loaded.base)
        listed = catalogue.entries()
        assert [entry.name for entry in listed] == names + [f"{name}+qa" for name in names]
        assert [catalogue.find(entry.name).pinned for entry in listed] == [entry.pinned for entry in listed]
        assert extracting.served_name(house, house.library.find("mill-5"), module) == f"mill-5+qa@{module.id}"


def test_compare_has_its_methods(km: Km, loaded: Loaded, trained: dict[str, Any], questions: Path) -> None:
    rows = [json.loads(line) | {"document": "mill-5"} for line in questions.read_text().splitlines()]
    questions.write_text("\n".join(map(json.dumps, rows)))
    methods = ["km", "rag+ke", "km+ke", "rag+km+ke"]
    words = ("--questions", str(questions), "--methods", ",".join(methods), "--k", "1", "--device", "cpu", "--json")
    run = km("compare", "mill-5", *words, "--extractor", "qa")
    assert run.code == 0, run.err
    found = run.envelope["data"]
    assert [row["method"] for row in found["rows"]] == ["km", "rag+ke", "km+ke", "rag+km+ke"]
    texts = {key: [one["answer"]["text"] for one in some] for key, some in found["answers"].items()}
    asked = [one["question"] for one in found["questions"]][:2]
    assert texts["km+ke"][:2] == [by_hand(loaded, "mill-5", question, Sampling()) for question in asked]
    assert len({tuple(some) for some in texts.values()}) == 4
    run = km("compare", "mill-5", *words)
    assert (run.code, sentences(run.err)[0]) == (
        2,
        "km: rag+ke needs a Knowledge Extractor. Name one: --extractor NAME",
    )


def test_compare_does_not_ask_what_it_was_trained_on(loaded: Loaded, trained: dict[str, Any]) -> None:
    told: list[Event] = []
    with open_house({"extractor": "qa"}, told.append) as house:
        known, other = (house.library.find(name) for name in ("mill-0", "mill-5"))
        with pytest.raises(UsageError, match="the extractor qa was trained on questions about mill-0"):
            extracting.baker(house, known, loaded.base, held_out=True)
        module = house.library.module(known)
        assert module is not None
        for document, held_out in ((known, False), (other, True)):
            assert extracting.baker(house, document, loaded.base, held_out) is not None
        assert [event.message for event in told if event.warning] == [
            "the extractor qa was trained on questions about mill-0: if these are among them, what it scores says nothing "
            "about others"
        ]
        baked = extracting.baker(house, known, loaded.base, held_out=False)
        assert baked is not None
        assert baked(module) == extracting.baked(house, known, module, house.library.extractors.find("qa")).path
        assert baked(None).name == f"extractor-{trained['extractor']['id']}"
        with pytest.raises(UsageError, match="the extractor qa fits"):
            extracting.baker(house, known, replace(loaded.base, revision="other"), held_out=False)
    with open_house({}, silent) as house:
        assert extracting.baker(house, known, loaded.base, held_out=True) is None


def test_an_export_has_it_in_it(km: Km, loaded: Loaded, trained: dict[str, Any], tmp_path: Path) -> None:
    words = ("--format", "peft", "--no-check", "--extractor", "qa")
    out = tmp_path / "out"
    run = km("export", "mill-5", *words, "-o", str(out), "--json")
    assert run.code == 0, run.err
    model = lora.load(loaded, out)
    try:
        chat = build_chat("km", "Who built it?", loaded.base.prompts)
        assert HfEngine(loaded, model).generate([chat], SHORT)[0].text == by_hand(loaded, "mill-5", "Who built it?")
    finally:
        model.unload()
    assert json.loads((out / "km.json").read_text())["extractor"] == f"qa@{trained['extractor']['id']}"
    run = km("export", "mill-4", "mill-5", *words)
    assert (run.code, sentences(run.err)) == (
        2,
        ["km: an extractor cannot be exported with several documents at once. Name one document."],
    )
