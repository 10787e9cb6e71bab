"""bases: what a model in a folder is, what it reads, where it stops, and one sentence for everything that is wrong."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmcli import bases
from kmcli.bases import folder
from kmcli.bases.chat import end_ids
from kmcli.errors import KmError, ResourceError, UsageError
from kmcli.types import Event, silent

Spoil = Callable[[Path], None]

HIDDEN = 16
SMALL: dict[str, Any] = {
    "vocab_size": 8192,
    "hidden_size": HIDDEN,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("pristine")
    LlamaForCausalLM(LlamaConfig(**SMALL)).save_pretrained(path)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (path / file).write_bytes((bases.EMBEDDED_FOLDER / file).read_bytes())
    return path


@pytest.fixture
def model(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "model"))


@pytest.fixture(scope="module")
def embedded() -> bases.Loaded:
    return bases.load(bases.find("embedded", silent), "cpu")


def rewrite(file: Path, **changes: Any) -> None:
    data = json.loads(file.read_text("utf-8")) | changes
    file.write_text(json.dumps({key: value for key, value in data.items() if value is not None}), "utf-8")


def load(path: Path) -> bases.Loaded:
    return bases.load(bases.find(str(path), silent), "cpu")


# --- what a base is -------------------------------------------------------------------------------------------------


def test_the_embedded_base() -> None:
    base = bases.find("embedded", silent)
    card = json.loads((bases.EMBEDDED_FOLDER / "card.json").read_text("utf-8"))
    weights = (bases.EMBEDDED_FOLDER / "model.safetensors").read_bytes()
    assert base == bases.Base(
        name="embedded",
        path=bases.EMBEDDED_FOLDER,
        revision=hashlib.sha256(weights).hexdigest()[:16],
        family="llama",
        context=card["context"],
        chunk_tokens=card["chunk_tokens"],
        style="embedded",
        recipe=card["recipe"],
    )
    assert base.embedded
    assert base.prompts.ask == "{question}"


def test_a_folder(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = bases.find(str(model), silent)
    assert (base.name, base.path, base.family) == (str(model), model, "llama")
    assert (base.context, base.chunk_tokens, base.style) == (128, 64, "general")
    assert not base.embedded
    monkeypatch.chdir(model.parent)
    assert bases.find("model", silent) == base
    assert bases.find("./model/", silent) == base


@pytest.mark.parametrize(
    ("changes", "context"),
    [
        ({"max_position_embeddings": 32768}, 32768),
        ({"max_position_embeddings": None, "n_positions": 1024}, 1024),
        ({"max_position_embeddings": None}, 2048),
        ({"max_position_embeddings": "long"}, 2048),
        ({"text_config": {"max_position_embeddings": 4096}}, 4096),
    ],
)
def test_context_and_chunks(model: Path, changes: dict[str, Any], context: int) -> None:
    rewrite(model / "config.json", **changes)
    base = bases.find(str(model), silent)
    assert (base.context, base.chunk_tokens) == (context, min(2048, context // 2))


def test_a_card_outranks_the_config(model: Path) -> None:
    (model / "card.json").write_text('{"context": 100, "chunk_tokens": 30, "prompts": "embedded"}')
    base = bases.find(str(model), silent)
    assert (base.context, base.chunk_tokens, base.style) == (100, 30, "embedded")


def test_importing_and_describing_stay_light() -> None:
    code = (
        "import sys; from kmcli import bases; from kmcli.types import silent; bases.find('embedded', silent);"
        "print([m for m in ('torch', 'transformers', 'huggingface_hub', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")


# --- the revision ---------------------------------------------------------------------------------------------------


def test_the_revision_follows_the_weights_alone(model: Path, tmp_path: Path) -> None:
    before = bases.find(str(model), silent).revision
    copy = Path(shutil.copytree(model, tmp_path / "snapshots" / "copy"))  # an unlucky name, and no hub's cache
    rewrite(copy / "config.json", max_position_embeddings=64)
    assert bases.find(str(copy), silent).revision == before
    data = bytearray((model / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (model / "model.safetensors").write_bytes(data)
    assert bases.find(str(model), silent).revision not in (before, "copy")


def test_a_snapshot_of_the_hub_is_named_by_its_commit(model: Path, tmp_path: Path) -> None:
    commit = "ab" * 20
    snapshot = tmp_path / "hub" / "models--a--b" / "snapshots" / commit
    shutil.copytree(model, snapshot)
    assert bases.find(str(snapshot), silent).revision == commit


def test_large_weights_are_hashed_once(model: Path, km_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = bases.find(str(model), silent).revision
    monkeypatch.setattr(folder, "_WORTH_REMEMBERING", 1)
    events: list[Event] = []
    assert bases.find(str(model), events.append).revision == small
    assert [event.stage for event in events] == ["check"]
    folder._hash.cache_clear()
    monkeypatch.setattr(folder, "_hash", lambda files: pytest.fail("hashed again"))
    assert bases.find(str(model), events.append).revision == small
    assert len(events) == 1
    assert len(list((km_home / "cache" / "revisions").iterdir())) == 1


# --- loading --------------------------------------------------------------------------------------------------------


def test_the_embedded_base_writes(embedded: bases.Loaded) -> None:
    import torch

    assert (embedded.device.type, embedded.model.dtype) == ("cpu", torch.float32)
    assert embedded.model.config._attn_implementation == "sdpa"
    assert not embedded.model.training
    assert not any(parameter.requires_grad for parameter in embedded.model.parameters())
    ids = torch.tensor([embedded.chat_ids([("user", "Hello")])])
    logits = embedded.model(ids).logits
    assert logits.shape == (1, ids.shape[1], 8192)
    assert torch.isfinite(logits).all()


def test_loading_draws_nothing(model: Path) -> None:
    code = (
        "from kmcli import bases; from kmcli.types import silent;"
        f"bases.load(bases.find({str(model)!r}, silent), 'cpu').chat_ids([('user', 'x ' * 300)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_unknown_devices() -> None:
    import torch

    assert bases.pick_device("cpu") == torch.device("cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ResourceError, match="there is no CUDA device here"):
            bases.pick_device("cuda")


# --- chats ----------------------------------------------------------------------------------------------------------


def test_chat_ids_by_value(embedded: bases.Loaded) -> None:
    turns = [("user", "Who wrote it?"), ("assistant", "Ada."), ("user", "When?")]
    text = (
        "<|im_start|>user\nWho wrote it?<|im_end|>\n<|im_start|>assistant\nAda.<|im_end|>\n"
        "<|im_start|>user\nWhen?<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = embedded.chat_ids(turns)
    assert embedded.tokenizer.decode(ids) == text
    assert ids == embedded.tokenizer(text, add_special_tokens=False)["input_ids"]
    vocabulary = embedded.tokenizer.get_vocab()
    assert ids[0] == vocabulary["<|im_start|>"]
    assert ids.count(vocabulary["<|im_end|>"]) == 3
    assert embedded.end_ids == [vocabulary["<|im_end|>"]]


def test_a_template_that_writes_bos_is_not_given_another(embedded: bases.Loaded) -> None:
    tokenizer = with_bos(embedded.tokenizer)
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id  # this tokenizer adds it by itself, too
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    ids = bases.chat_ids(tokenizer, [("user", "a")])
    assert ids == tokenizer("<|endoftext|>a", add_special_tokens=False)["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1


def with_bos(original: Any, after: bool = False) -> Any:
    """The embedded base's tokenizer, adding a special token to every text."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(original.name_or_path)
    token, number = ("<|im_end|>", tokenizer.eos_token_id) if after else ("<|endoftext|>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {token}" if after else f"{token} $A", special_tokens=[(token, number)]
    )
    return tokenizer


def test_without_a_template_turns_are_paragraphs(embedded: bases.Loaded) -> None:
    tokenizer = with_bos(embedded.tokenizer)
    tokenizer.chat_template = None
    ids = bases.chat_ids(tokenizer, [("system", "Be brief."), ("user", "When?")])
    assert tokenizer.decode(ids) == "<|endoftext|>Be brief.\n\nWhen?\n"


def test_without_a_template_nothing_closes_the_text(embedded: bases.Loaded) -> None:
    tokenizer = with_bos(embedded.tokenizer, after=True)
    tokenizer.chat_template = None
    assert tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id
    ids = bases.chat_ids(tokenizer, [("user", "When?")])
    assert tokenizer.decode(ids) == "When?\n"


def test_models_that_think_aloud_are_asked_not_to(embedded: bases.Loaded) -> None:
    tokenizer = with_bos(embedded.tokenizer)
    tokenizer.chat_template = "{{ 'quiet' if enable_thinking is false else 'aloud' }}"
    assert tokenizer.decode(bases.chat_ids(tokenizer, [("user", "a")])) == "quiet"


def test_a_template_that_refuses(embedded: bases.Loaded) -> None:
    tokenizer = with_bos(embedded.tokenizer)
    tokenizer.chat_template = "{{ raise_exception('System role not supported.') }}"
    with pytest.raises(ResourceError, match=r"does not allow this conversation: System role not supported\. "):
        bases.chat_ids(tokenizer, [("system", "a")])
    assert end_ids(tokenizer) == [tokenizer.eos_token_id]


@pytest.mark.parametrize(
    ("template", "eos", "named", "expected"),
    [
        ("{{ messages[1].content }}<|im_end|>\n<|endoftext|>", "<|endoftext|>", None, ["<|im_end|>", "<|endoftext|>"]),
        ("{{ messages[1].content }}\n", "<|endoftext|>", None, ["<|endoftext|>"]),
        ("{{ messages[0].content }}", "<|endoftext|>", None, ["<|endoftext|>"]),
        (None, "<|endoftext|>", ["<|endoftext|>", "<|im_start|>"], ["<|endoftext|>", "<|im_start|>"]),
        (None, None, "<|im_start|>", ["<|im_start|>"]),
    ],
)
def test_where_an_answer_ends(embedded: bases.Loaded, template: str, eos: str, named: Any, expected: list[str]) -> None:
    from transformers import GenerationConfig

    tokenizer = with_bos(embedded.tokenizer)
    tokenizer.chat_template, tokenizer.eos_token = template, eos
    numbers = tokenizer.convert_tokens_to_ids(named) if named else None
    found = end_ids(tokenizer, GenerationConfig(eos_token_id=numbers))
    assert tokenizer.convert_ids_to_tokens(found) == expected


def test_a_base_without_an_end(embedded: bases.Loaded) -> None:
    tokenizer = with_bos(embedded.tokenizer)
    tokenizer.chat_template = tokenizer.eos_token = None
    with pytest.raises(ResourceError, match="no token that ends an answer"):
        end_ids(tokenizer)


# --- everything that can be wrong -----------------------------------------------------------------------------------


def shard(model: Path, *names: str) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    weight_map = {f"tensor{i}": name for i, name in enumerate(names)}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def pickled(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def cut(file: str, left: int) -> Spoil:
    def spoil(model: Path) -> None:
        (model / file).write_bytes((model / file).read_bytes()[:left])

    return spoil


def config(**changes: Any) -> Spoil:
    return lambda model: rewrite(model / "config.json", **changes)


def write(file: str, text: str) -> Spoil:
    def spoil(model: Path) -> None:
        (model / file).write_text(text)

    return spoil


def remove(*files: str) -> Spoil:
    def spoil(model: Path) -> None:
        for file in files:
            (model / file).unlink()

    return spoil


def drop_a_tensor(model: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


CODE = {"model_type": "homemade", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("config.json"), "holds no model: its config.json is missing."),
        (write("config.json", "{"), "holds no model: its config.json is damaged."),
        (write("config.json", "[]"), "holds no model: its config.json is damaged."),
        (write("card.json", "{"), "card.json is damaged, or made for another km."),
        (write("card.json", '{"prompts": ["x"]}'), "card.json is damaged, or made for another km."),
        (remove("model.safetensors"), "holds no weights: there is no model.safetensors in it."),
        (pickled, "holds only pickled weights (pytorch_model.bin), which could run code when they are opened."),
        (
            lambda model: shard(model, "model-00001-of-00002.safetensors", "b.safetensors"),
            "b.safetensors is missing (1 of 2",
        ),
        (lambda model: shard(model, "../x.safetensors"), "model.safetensors.index.json is damaged."),
        (lambda model: shard(model), "model.safetensors.index.json is damaged."),
        (cut("model.safetensors", 100_000), "model.safetensors is damaged: it has 100000 bytes instead of"),
        (cut("model.safetensors", 40), "model.safetensors is damaged."),
        (cut("model.safetensors", 0), "model.safetensors is damaged."),
        (drop_a_tensor, "do not fit its config.json: model.norm.weight is missing or has another shape."),
        (config(hidden_size=32), "do not fit its config.json: "),
        (config(architectures=["BertForMaskedLM"]), "BertForMaskedLM is not a causal language model."),
        (config(architectures=["BartForCausalLM"], is_encoder_decoder=True), "BartForCausalLM is not a causal"),
        (config(architectures=None, model_type="vit"), "vit is not a causal language model."),
        (config(model_type="nobodyknows"), "does not know the architecture of "),
        (config(model_type=None), "(no model_type)."),
        (config(**CODE), "needs program code that comes with the model, and km never runs such code."),
        (remove("tokenizer.json", "tokenizer_config.json"), "has no tokenizer."),
        (write("tokenizer.json", "{}"), "is damaged, or of a kind that transformers does not know."),
        (write("tokenizer.json", "{"), "is damaged, or of a kind that transformers does not know."),
        (
            write("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["evil.T", null]}}'),
            "needs program code that comes with the model, and km never runs such code.",
        ),
    ],
)
def test_one_sentence_for_everything_wrong(model: Path, spoil: Spoil, message: str) -> None:
    (model / "evil.py").write_text(f"open({str(model / 'evil.ran')!r}, 'w')")
    spoil(model)
    with pytest.raises(ResourceError) as caught:
        load(model)
    assert message in caught.value.message
    assert "\n" not in str(caught.value)
    assert caught.value.message.endswith(".")
    assert caught.value.hint
    assert not (model / "evil.ran").exists()


def test_weights_larger_than_the_machine(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = bases.find(str(model), silent)
    monkeypatch.setattr(bases.os, "sysconf", lambda name: 700)
    assert folder.count_parameters([model / "model.safetensors"]) * 4 > 700 * 700
    with pytest.raises(ResourceError, match="does not fit in memory"):
        bases.load(base, "cpu")


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "does not fit in memory.", "smaller"),
        (MemoryError(), "does not fit in memory.", "smaller"),
        (ImportError("Loading a GPTQ model requires gptqmodel.\nMore."), "requires gptqmodel.", "Install"),
        (OSError("Input/output error"), "cannot be loaded: Input/output error.", "again"),
    ],
)
def test_what_fails_while_loading(
    model: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str, hint: str
) -> None:
    from transformers import AutoModelForCausalLM

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(ResourceError) as caught:
        load(model)
    assert caught.value.message.endswith(message)
    assert hint in caught.value.hint


def test_parameters_are_counted_from_the_header(model: Path) -> None:
    attention, mlp, norms = 4 * HIDDEN * HIDDEN, 3 * HIDDEN * 32, 3 * HIDDEN
    assert folder.count_parameters([model / "model.safetensors"]) == 8192 * HIDDEN + attention + mlp + norms


@given(st.binary(max_size=200))
def test_any_bytes_are_weights_or_damaged(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.safetensors"
    file.write_bytes(data)
    with pytest.raises(ResourceError, match="is damaged"):
        folder.count_parameters([file])


def test_a_file_is_no_base(model: Path) -> None:
    with pytest.raises(UsageError, match="is a file, and a base is a folder"):
        bases.find(str(model / "model.safetensors"), silent)


@pytest.mark.parametrize("name", ["/no/such/folder", "~nobody/x", "a\0b", "x" * 5000, "embeddd "])
def test_names_of_nothing(name: str) -> None:
    with pytest.raises(KmError) as caught:
        bases.find(name, silent)
    assert caught.value.exit_code == 2
