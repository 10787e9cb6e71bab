"""Nothing that km opens is run: not by its own code, not by what it asks of other libraries."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import ast
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import kmcli
from base_cases import embedded, load, model, pristine
from cli_cases import Km
from kmcli.adapters import lora
from kmcli.bases import Loaded
from kmcli.errors import KmError
from kmcli.types import Recipe
from workflow_cases import km

SOURCE = Path(kmcli.__file__).parent
UNPICKLE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
RUN = {"eval", "exec", "compile", "__import__"}
LOADS = {"from_pretrained", "from_config"}


def calls() -> Iterator[tuple[str, ast.Call]]:
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                yield f"{file.relative_to(SOURCE)}:{node.lineno}", node


def named(call: ast.Call) -> str:
    return ast.unparse(call.func)


def said(call: ast.Call, name: str) -> str | None:
    return next((ast.unparse(word.value) for word in call.keywords if word.arg == name), None)


def test_nothing_is_unpickled() -> None:
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not UNPICKLE & {name.partition(".")[0] for name in names}, file
    for where, call in calls():
        name = named(call)
        assert not name.endswith("torch.load"), where
        if name in ("np.load", "numpy.load"):
            assert said(call, "allow_pickle") == "False", where


def test_nothing_is_run_that_was_read() -> None:
    for where, call in calls():
        assert named(call) not in RUN, where
        assert named(call) not in ("os.system", "os.popen"), where
        assert said(call, "shell") in (None, "False"), where
        if named(call).endswith("Environment") and "jinja2" in where:
            assert "Sandboxed" in named(call), where


def test_no_model_brings_code_of_its_own() -> None:
    found = []
    for where, call in calls():
        room, _, what = named(call).rpartition(".")
        if what in LOADS and room.startswith(("Auto", "transformers.")):
            assert said(call, "trust_remote_code") == "False", where
            found.append(where)
            assert "Model" not in room or said(call, "use_safetensors") == "True", where
        assert said(call, "trust_remote_code") in (None, "False"), where
    assert len(found) >= 4


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self._file,)


@pytest.mark.parametrize("beside", [False, True], ids=["instead of safetensors", "beside them"])
def test_pickled_weights_of_a_base_are_never_opened(model: Path, tmp_path: Path, beside: bool) -> None:
    struck = tmp_path / "struck"
    if not beside:
        (model / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "model.pt", "training_args.bin", "optimizer.pt"):
        (model / name).write_bytes(pickle.dumps(Bomb(struck)))
    if beside:
        assert load(model).model is not None
    else:
        with pytest.raises(KmError, match="pickled weights"):
            load(model)
    assert not struck.exists()
    pickle.loads((model / "pytorch_model.bin").read_bytes())
    assert struck.exists(), "the bomb would have struck"


def test_a_models_code_is_never_run(model: Path, tmp_path: Path) -> None:
    struck = tmp_path / "struck"
    (model / "evil.py").write_text(f"import pathlib\npathlib.Path({str(struck)!r}).touch()\n")
    config = json.loads((model / "config.json").read_text())
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (model / "config.json").write_text(json.dumps({**config, "model_type": "evil", "auto_map": auto_map}))
    tokenizer = json.loads((model / "tokenizer_config.json").read_text())
    own = {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}
    (model / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "tokenizer_class": "Evil", "auto_map": own}))
    with pytest.raises(KmError, match="code"):
        load(model)
    assert not struck.exists()


def test_a_template_of_a_model_is_kept_in(model: Path, tmp_path: Path) -> None:
    struck = tmp_path / "struck"
    reach = "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__.os.system('touch " + str(
        struck
    )
    (model / "chat_template.jinja").write_text(reach + "') }}")
    with pytest.raises(KmError, match="chat template"):
        load(model).chat_ids([("user", "Who?")])
    from jinja2 import TemplateError

    from kmcli.engines.template import compiled, rendered

    with pytest.raises(TemplateError):
        rendered(compiled(reach + "') }}", "", ""), [("user", "Who?")])
    assert not struck.exists()


def test_a_module_with_pickled_weights_alone(embedded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT would take them."""
    adapter = lora.build(embedded, Recipe(model=embedded.base.name, revision=embedded.base.revision, rank=1))
    lora.save(adapter, tmp_path)
    adapter.unload()
    (tmp_path / "adapter_model.safetensors").unlink()
    torch.save({}, tmp_path / "adapter_model.bin")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpickled"))
    for load_it in (
        lambda: lora.load(embedded, tmp_path),
        lambda: lora.load_sum(embedded, [(tmp_path, 0.5)]),
        lambda: lora.load_side_by_side(embedded, {"one": tmp_path}),
    ):
        with pytest.raises(KmError, match=r"there is no adapter_model\.safetensors in it"):
            load_it()


def test_pickled_adapters(km: Km, tmp_path: Path) -> None:
    struck, folder = tmp_path / "struck", tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "km-base", "r": 1, "lora_alpha": 1})
    )
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(struck)))
    run = km("import", str(folder))
    assert run.code == 1
    assert "only pickled weights (adapter_model.bin)" in run.err
    (folder / "adapter_model.safetensors").write_bytes((folder / "adapter_model.bin").read_bytes())
    run = km("import", str(folder))
    assert run.code == 1
    assert "Traceback" not in run.err
    assert not struck.exists()
