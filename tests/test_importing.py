"""km import: a PEFT folder from elsewhere becomes a module like any other, or one sentence says why not."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cli_cases import Km
from export_cases import make_adapter, make_base
from kmcli import bases
from kmcli.adapters import lora
from share_cases import QUESTION, adapters, km, left, modules
from workflow_cases import entry, is_sound, sentences

__all__ = ["adapters", "km", "modules"]

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def folder(adapters: dict[str, Path], tmp_path: Path) -> Path:
    """An adapter of the embedded base, as another program would have saved it; it says so."""
    copy = shutil.copytree(adapters["one"], tmp_path / "Own Adapter")
    change(copy, base_model_name_or_path="km-base", revision=None)
    return Path(copy)


def change(folder: Path, **values: Any) -> None:
    file = folder / "adapter_config.json"
    config = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def logits(folder: Path) -> np.ndarray:
    loaded = bases.load(bases.find("embedded", lambda event: None), "cpu")
    model: Any = lora.load(loaded, folder)
    with torch.inference_mode():
        return model(input_ids=torch.tensor([loaded.chat_ids([("user", QUESTION)])])).logits[0].numpy()


# --- what it becomes


def test_it_is_a_module_like_any_other(km: Km, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "works.txt").write_text("Grondal Works was founded by Stefan Grondal.")
    run = km("import", str(folder), "--document", str(tmp_path / "works.txt"))
    assert (run.code, run.err) == (0, 'Next: km ask works "question"\n')
    assert run.out.startswith("works: Knowledge Module imported\n")
    shown = entry(km, "works")
    assert shown["state"] == "fresh"
    module = shown["module"]
    assert (module["recipe"]["model"], module["recipe"]["rank"], module["recipe"]["alpha"]) == ("embedded", 4, 56)
    assert "imported, lora of rank 4" in km("show", "works").out
    assert (logits(Path(module["path"])) == logits(folder)).all()
    assert [one["name"] for one in km("ls", "--json").envelope["data"]] == ["works"]
    assert km("ask", "works", QUESTION, "--method", "km").code == 0
    assert is_sound(km)


def test_without_a_document_its_card_is_one(km: Km, folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# An adapter\nIt knows about lamps.\n")
    data = km("import", str(folder), "--json").envelope["data"]
    assert (data["card"], data["added"], data["document"]["name"]) == (True, True, "own-adapter")
    run = km("ask", "own-adapter", "What does it know about?", "--method", "rag", "--evidence")
    assert "It knows about lamps." in run.err
    again = km("import", str(folder))
    assert sentences(again.err) == ["km: own-adapter has a Knowledge Module already. Replace it with --force."]
    assert km("import", str(folder), "--force").code == 0
    assert len(km("ls", "--json").envelope["data"]) == 1
    run = km("import", str(folder), "--force", "--name", "lamps")
    assert "it is in the library already, as own-adapter: km mv own-adapter lamps renames it" in run.err
    assert is_sound(km)


def test_two_adapters_with_the_same_card_are_two_documents(km: Km, folder: Path, adapters: dict[str, Path]) -> None:
    assert km("import", str(folder)).code == 0
    assert km("import", str(adapters["two"]), "--model", "embedded").code == 0
    assert [one["name"] for one in km("ls", "--json").envelope["data"]] == ["own-adapter", "two"]


def test_of_a_document_that_is_here(km: Km, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "works.txt").write_text("Grondal Works was founded by Stefan Grondal.")
    km("add", str(tmp_path / "works.txt"))
    assert km("import", str(folder), "--document", "Works").code == 0
    first = entry(km, "works")["module"]["id"]
    run = km("import", str(folder), "--document", "works")
    assert (run.code, entry(km, "works")["module"]["id"]) == (2, first)
    assert km("import", str(folder), "--document", "works", "--force").code == 0
    assert entry(km, "works")["module"]["id"] != first
    run = km("import", str(folder), "--document", "works", "--name", "other")
    assert "works has a name already" in run.err
    run = km("import", str(folder), "--document", "wroks")
    assert (run.code, sentences(run.err)) == (3, ["km: there is no document 'wroks'. Did you mean works?"])


def test_what_is_refused_has_changed_no_text(km: Km, folder: Path) -> None:
    assert km("import", str(folder)).code == 0
    before = entry(km, "own-adapter")
    weights = load_file(folder / WEIGHTS)
    save_file({name: tensor * 2 for name, tensor in weights.items()}, folder / WEIGHTS)  # its card would be another
    run = km("import", str(folder))
    assert run.code == 2
    assert sentences(run.err) == ["km: own-adapter has a Knowledge Module already. Replace it with --force."]
    assert entry(km, "own-adapter") == before
    assert km("import", str(folder), "--force").code == 0
    assert entry(km, "own-adapter")["text_sha256"] != before["text_sha256"]


def test_an_unfinished_training_is_not_lost(km: Km, folder: Path, tmp_path: Path, km_home: Path) -> None:
    (tmp_path / "works.txt").write_text("Grondal Works was founded by Stefan Grondal.")
    document = km("add", str(tmp_path / "works.txt"), "--json").envelope["data"][0]["id"]
    (km_home / "documents" / document / "training").mkdir()
    (km_home / "documents" / document / "training" / "run.json").write_text("{}")
    run = km("import", str(folder), "--document", "works")
    assert sentences(run.err) == ["km: works has an unfinished training. Drop it with --force."]
    assert km("import", str(folder), "--document", "works", "--force").code == 0
    assert entry(km, "works")["state"] == "fresh"


def test_there_and_back(km: Km, modules: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exported by one library, imported by another: the same module of the same text."""
    answer = km("ask", "one", QUESTION, "--method", "km", "--engine", "hf").out
    path = Path(entry(km, "one")["module"]["path"])
    assert km("export", "one", "--format", "peft", "-q", "-o", str(tmp_path / "shared")).code == 0
    monkeypatch.setenv("KM_HOME", str(tmp_path / "other-home"))
    assert km("import", str(tmp_path / "shared"), "--document", str(tmp_path / "one.txt"), "-q").code == 0
    there = entry(km, "one")
    assert there["state"] == "fresh"
    for name in (WEIGHTS, "adapter_config.json"):
        assert (Path(there["module"]["path"]) / name).read_bytes() == (path / name).read_bytes()
    assert km("ask", "one", QUESTION, "--method", "km", "--engine", "hf").out == answer
    (tmp_path / "later.txt").write_text("Another text.")
    run = km("import", str(tmp_path / "shared"), "--document", str(tmp_path / "later.txt"))
    assert "the module was trained on another text than that of later: it counts as stale" in run.err
    assert entry(km, "later")["state"] == "stale"


@pytest.mark.parametrize(
    "settings",
    [{"use_rslora": True}, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"k_proj": 32}}],
    ids=["rslora", "patterns"],
)
def test_other_scales_are_kept(km: Km, tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = make_adapter(bases.find("embedded", lambda event: None), tmp_path / "adapter", **settings)
    assert km("import", str(folder), "--model", "embedded").code == 0
    found, wanted = logits(Path(entry(km, "adapter")["module"]["path"])), logits(folder)
    np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())
    config = json.loads((Path(entry(km, "adapter")["module"]["path"]) / "adapter_config.json").read_text())
    assert not {"rank_pattern", "alpha_pattern", "use_rslora"} & set(config)


# --- its base


def test_a_base_in_a_folder(km: Km, tmp_path: Path) -> None:
    base = make_base(tmp_path / "small")
    adapter = make_adapter(base, tmp_path / "adapter")
    assert km("import", str(adapter)).code == 0  # PEFT has noted the folder's path
    assert entry(km, "adapter")["module"]["recipe"]["model"] == str(base.path)
    change(adapter, base_model_name_or_path="small", revision=base.revision)
    assert km("import", str(adapter), "--name", "again", "--force").code == 0  # known by the module that is here
    change(adapter, base_model_name_or_path=str(tmp_path / "gone"))
    run = km("import", str(adapter), "--force")
    assert sentences(run.err) == [
        f"km: the adapter was made for the base {tmp_path / 'gone'}, which is not on this machine. "
        "If it is here under another name, say so with --model."
    ]
    assert km("import", str(adapter), "--force", "--model", str(base.path)).code == 0


def test_a_base_that_does_not_fit(km: Km, folder: Path, tmp_path: Path) -> None:
    base = make_base(tmp_path / "small")
    run = km("import", str(folder), "--model", str(base.path))
    assert len(sentences(run.err)) == 1
    assert "the adapter does not fit the base: its delta for" in run.err
    assert "Name the base that it was made for with --model." in run.err
    change(folder, revision="0123456789abcdef")
    run = km("import", str(folder))
    assert "the adapter was made for another version of km-base (0123456789abcdef); here is" in run.err
    assert (run.code, km("ls", "--json").envelope["data"]) == (4, [])
    change(folder, base_model_name_or_path=None)
    assert "does not say for which base it was made. Say it with --model." in km("import", str(folder)).err


# --- folders that are none


class Bomb:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('unpickled')",))


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb()))


def edit(folder: Path, **changes: Any) -> None:
    """Tensors, by the ends of their names."""
    tensors = load_file(folder / WEIGHTS)
    for end, make in changes.items():
        for name in list(tensors):
            if name.endswith(end.replace("__", ".")):
                tensors[name] = make(tensors[name])
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def add_tensor(folder: Path, name: str) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({**tensors, name: torch.ones(2, 2)}, folder / WEIGHTS, {"format": "pt"})


BAD: dict[str, tuple[Any, str]] = {
    "no config": (lambda f: (f / "adapter_config.json").unlink(), "it has no adapter_config.json"),
    "a model": (
        lambda f: [(f / "adapter_config.json").unlink(), (f / "config.json").write_text("{}")],
        "holds a whole model, no adapter",
    ),
    "damaged config": (lambda f: (f / "adapter_config.json").write_text("{"), "adapter_config.json is damaged"),
    "config of another kind": (
        lambda f: (f / "adapter_config.json").write_text("[1]"),
        "adapter_config.json is damaged",
    ),
    "pickled": (pickled, "holds only pickled weights (adapter_model.bin)"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), f"has no {WEIGHTS}"),
    "torn weights": (lambda f: (f / WEIGHTS).write_bytes(b"\0" * 7), "cannot be read"),
    "IA3": (lambda f: change(f, peft_type="IA3"), "of the type IA3"),
    "prompt tuning": (lambda f: change(f, peft_type="PROMPT_TUNING"), "of the type PROMPT_TUNING"),
    "DoRA": (lambda f: change(f, use_dora=True), "uses DoRA"),
    "biases": (lambda f: change(f, bias="all"), "trained the base's biases"),
    "PiSSA": (lambda f: change(f, init_lora_weights="pissa"), "started by 'pissa'"),
    "trained tokens": (lambda f: change(f, trainable_token_indices=[1, 2]), "uses trained tokens"),
    "whole modules": (lambda f: change(f, modules_to_save=["lm_head"]), "uses fully trained modules"),
    "embedding": (
        lambda f: add_tensor(f, "base_model.model.model.embed_tokens.lora_embedding_A"),
        "holds base_model.model.model.embed_tokens.lora_embedding_A",
    ),
    "unknown module": (
        lambda f: [
            add_tensor(f, "base_model.model.model.layers.99.self_attn.q_proj.lora_A.weight"),
            add_tensor(f, "base_model.model.model.layers.99.self_attn.q_proj.lora_B.weight"),
        ],
        "does not fit the base: its delta for model.layers.99.self_attn.q_proj.weight",
    ),
    "wrong shape": (
        lambda f: edit(f, layers__1__mlp__up_proj__lora_B__weight=lambda t: t[:-1].clone()),
        "does not fit the base: its delta for model.layers.1.mlp.up_proj.weight",
    ),
    "half a pair": (
        lambda f: add_tensor(f, "base_model.model.model.layers.99.mlp.up_proj.lora_B.weight"),
        "layers.99.mlp.up_proj.lora_B.weight, which cannot be merged",
    ),
    "NaN": (
        lambda f: edit(f, layers__1__mlp__up_proj__lora_B__weight=lambda t: t * float("nan")),
        "change of model.layers.1.mlp.up_proj has values that are no numbers",
    ),
    "whole numbers": (
        lambda f: edit(f, layers__1__mlp__up_proj__lora_B__weight=lambda t: t.to(torch.int8)),
        "as I8, which is no usual type",
    ),
    "no alpha": (lambda f: change(f, lora_alpha=None), "lora_alpha"),
    "alpha of another kind": (lambda f: change(f, lora_alpha="much"), "lora_alpha"),
    "pattern of another kind": (lambda f: change(f, alpha_pattern=[8]), "alpha_pattern is damaged"),
    "pattern that is none": (lambda f: change(f, alpha_pattern={"(": 8}), "alpha_pattern is damaged"),
    "a number alone": (
        lambda f: edit(f, layers__1__mlp__up_proj__lora_A__weight=lambda t: t[0, 0].clone()),
        "layers.1.mlp.up_proj.lora_A.weight, which cannot be merged",
    ),
    "of a convolution": (
        lambda f: edit(f, layers__1__mlp__up_proj__lora_A__weight=lambda t: t[..., None].clone()),
        "layers.1.mlp.up_proj.lora_A.weight, which cannot be merged",
    ),
    "nothing": (lambda f: save_file({}, f / WEIGHTS), "changes nothing"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_folder_is_one_sentence_and_changes_nothing(km: Km, folder: Path, case: str, km_home: Path) -> None:
    spoil, sentence = BAD[case]
    spoil(folder)
    run = km("import", str(folder))
    assert run.code in (1, 2)
    assert len(sentences(run.err)) == 1
    assert sentence in run.err
    assert km("ls", "--json").envelope["data"] == []
    assert left(km_home / "modules") == []
    assert not list((km_home / "cache").glob("import-*"))


def test_no_folder(km: Km, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, sentence in ((tmp_path / "gone", "there is no folder"), (tmp_path / "file", "is a file.")):
        run = km("import", str(path))
        assert run.code in (2, 3)
        assert sentence in run.err
