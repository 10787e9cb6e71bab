"""Dense and hybrid retrieval: vectors on disk, reciprocal ranks, and sentence-transformers models in a folder."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kmcli.errors import KmError, ResourceError, UsageError
from kmcli.retrieval import Index, embedder
from kmcli.retrieval.dense import Dense, kept_vectors
from kmcli.retrieval.embedder import Embedder
from kmcli.retrieval.hybrid import Hybrid, fuse
from kmcli.types import Chunk, Passage, silent

TEXTS = ["The cat sat.", "A dog ran far.", "Fish swim.", "The dog slept."]
CHUNKS = [Chunk(i, text, 4, 0, i + 1, i + 1) for i, text in enumerate(TEXTS)]


class Letters:
    """Encodes how often a, d and s occur; counts what it was asked."""

    revision = "letters"

    def __init__(self) -> None:
        self.calls: list[tuple[bool, list[str]]] = []

    def encode(
        self, texts: Sequence[str], *, questions: bool, progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        self.calls.append((questions, list(texts)))
        counts = np.array([[text.lower().count(letter) + 0.01 for letter in "ads"] for text in texts], np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def dense(encoder: Letters, chunks: Sequence[Chunk] = CHUNKS) -> Dense:
    vectors = encoder.encode([chunk.text for chunk in chunks], questions=False)
    return Dense("zoo", chunks, vectors, encoder)


def test_passages_come_by_their_cosine_with_their_pages() -> None:
    found = dense(Letters()).search("dd", 2)
    assert [(passage.text, passage.page, passage.document) for passage in found] == [
        ("The dog slept.", 4, "zoo"),
        ("A dog ran far.", 2, "zoo"),
    ]
    assert found[0].score == pytest.approx(
        (1.01 + 0.01 * 0.01 / 2.01 + 1.01 * 0.01 / 2.01) / np.hypot(1.01, 1.01), abs=0.01
    )
    assert found[0].score > found[1].score


def test_equals_come_in_the_documents_order_and_none_is_made_up() -> None:
    twice = [CHUNKS[1], CHUNKS[0], CHUNKS[1]]
    chunks = [Chunk(i, chunk.text, 4, 0, i + 1) for i, chunk in enumerate(twice)]
    found = dense(Letters(), chunks).search("dog", 9)
    assert len(found) == 3
    assert [passage.page for passage in found if passage.text == CHUNKS[1].text] == [1, 3]
    assert dense(Letters()).search("dog", 0) == []
    assert Dense("zoo", [], np.zeros((0, 3), np.float32), Letters()).search("dog", 3) == []


def test_questions_are_encoded_together_and_once() -> None:
    encoder = Letters()
    index = dense(encoder)
    index.prepare(["dd", "ss", "dd"])
    index.search("dd", 1)
    index.search("aa", 1)
    assert encoder.calls[1:] == [(True, ["dd", "ss"]), (True, ["aa"])]


# --- vectors on disk


def test_vectors_are_made_once_for_a_text_and_an_encoder(tmp_path: Path) -> None:
    encoder = Letters()
    first = kept_vectors(tmp_path / "d1", CHUNKS, encoder)
    assert len(encoder.calls) == 1
    again = kept_vectors(tmp_path / "d1", CHUNKS, encoder)
    assert len(encoder.calls) == 1
    assert np.array_equal(first, again)
    kept_vectors(tmp_path / "d2", CHUNKS, encoder)
    kept_vectors(tmp_path / "d1", CHUNKS[:2], encoder)  # the document changed
    assert len(encoder.calls) == 3
    names = sorted((file.parent.name, file.name) for file in tmp_path.rglob("*.npy"))
    assert [(folder, name.split("-")[:2]) for folder, name in names] == [
        ("d1", ["vectors", "letters"]),
        ("d2", ["vectors", "letters"]),
    ]


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"not numbers at all"])
def test_a_damaged_file_is_made_anew(tmp_path: Path, damage: bytes) -> None:
    encoder = Letters()
    first = kept_vectors(tmp_path, CHUNKS, encoder)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage)
    assert np.array_equal(kept_vectors(tmp_path, CHUNKS, encoder), first)
    assert np.array_equal(np.load(file), first)


# --- reciprocal rank fusion


def test_ranks_are_fused_by_hand() -> None:
    a, b, c = (Passage("zoo", text, 1.0) for text in "abc")
    fused = fuse([[a, b, c], [c, a]])
    assert [(one.text, one.score) for one in fused] == [
        ("a", pytest.approx(1 / 61 + 1 / 62)),
        ("c", pytest.approx(1 / 63 + 1 / 61)),
        ("b", pytest.approx(1 / 62)),
    ]
    assert [one.text for one in fuse([[a], [b]])] == ["a", "b"]
    assert fuse([[], []]) == []
    # a document may say the same twice, which makes it no better
    assert [one.text for one in fuse([[b, a, a, a], [b, a, a, a]])] == ["b", "a"]


def test_hybrid_finds_what_either_finds() -> None:
    with Index("zoo", CHUNKS) as words:
        assert [one.text for one in words.search("fish", 4)] == ["Fish swim."]
        found = Hybrid([words, dense(Letters())]).search("fish", 3)
    assert found[0].text == "Fish swim."
    assert len(found) == 3


# --- models


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig, BertModel, BertTokenizerFast

    path = tmp_path_factory.mktemp("bert")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *(":", ".", "a", "cat", "dog", "far", "fish", "query", "ran", "sat", "slept", "swim", "the"),
    ]
    (path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(path / "vocab.txt")).save_pretrained(path)
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=32, **size)).save_pretrained(path)
    return path


def model(
    bert: Path, tmp_path: Path, pooling: dict[str, Any], *more: str, prompts: dict[str, str] | None = None
) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    for file in bert.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    kinds = ["Transformer", "Pooling", *more]
    (path / "modules.json").write_text(
        json.dumps(
            [
                {"path": "" if kind == "Transformer" else kind, "type": f"sentence_transformers.models.{kind}"}
                for kind in kinds
            ]
        )
    )
    (path / "Pooling").mkdir()
    (path / "Pooling" / "config.json").write_text(json.dumps(pooling))
    if prompts:
        (path / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    return path


def states(bert: Path, text: str) -> torch.Tensor:
    from transformers import AutoModel, AutoTokenizer

    read = AutoTokenizer.from_pretrained(bert)(text, return_tensors="pt")
    with torch.no_grad():
        return torch.as_tensor(AutoModel.from_pretrained(bert)(**read).last_hidden_state[0])


@pytest.mark.parametrize(
    ("pooling", "take"),
    [
        ({"pooling_mode_mean_tokens": True}, lambda found: found.mean(0)),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, lambda found: found[0]),
        ({"pooling_mode_lasttoken": True}, lambda found: found[-1]),
    ],
)
def test_a_vector_is_what_the_folder_says(bert: Path, tmp_path: Path, pooling: dict[str, Any], take: Any) -> None:
    made = Embedder(model(bert, tmp_path, pooling, "Normalize"), "cpu", silent).encode(TEXTS, questions=False)
    assert made.shape == (4, 16)
    for text, vector in zip(TEXTS, made, strict=True):
        expected = take(states(bert, text))
        assert vector == pytest.approx((expected / expected.norm()).numpy(), abs=1e-5)


def test_questions_may_have_words_in_front(bert: Path, tmp_path: Path) -> None:
    path = model(bert, tmp_path, {"pooling_mode_mean_tokens": True}, prompts={"query": "query : "})
    encoder = Embedder(path, "cpu", silent)
    (asked,) = encoder.encode(["the cat"], questions=True)
    (told,) = encoder.encode(["query : the cat"], questions=False)
    assert asked == pytest.approx(told, abs=1e-6)
    assert encoder.encode([], questions=True).shape == (0, 16)


def test_a_folder_that_says_nothing_is_averaged_and_a_long_text_cut(bert: Path) -> None:
    encoder = Embedder(bert, "cpu", silent)
    heard: list[int] = []
    (short, long) = encoder.encode(["cat " * 30, "cat " * 500], questions=False, progress=heard.append)
    assert heard == [2]
    assert short == pytest.approx(long, abs=1e-5)


@pytest.mark.parametrize(
    ("pooling", "more", "said"),
    [
        ({"pooling_mode_max_tokens": True}, [], "pools by max_tokens"),
        ({"pooling_mode_mean_tokens": True}, ["Dense"], "is more than a transformer"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, [], "is more than a transformer"),
    ],
)
def test_models_of_other_kinds_are_refused(
    bert: Path, tmp_path: Path, pooling: Any, more: list[str], said: str
) -> None:
    with pytest.raises(ResourceError, match=said):
        Embedder(model(bert, tmp_path, pooling, *more), "cpu", silent)


def test_folders_without_a_model_are_refused(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(KmError):
        Embedder(tmp_path, "cpu", silent)
    path = model(bert, tmp_path, {})
    (path / "modules.json").write_text("[{}]")
    with pytest.raises(ResourceError, match=r"modules\.json is damaged"):
        Embedder(path, "cpu", silent)


# --- which model


def test_a_folder_is_taken_as_it_is_and_nonsense_refused(tmp_path: Path) -> None:
    assert embedder.find(str(tmp_path), silent) == tmp_path
    with pytest.raises(UsageError, match="neither a folder"):
        embedder.find("no such thing", silent)


def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: bytes | None) -> None:
    package = tmp_path / "packed_minilm"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('nobody runs this')")
    if weights is not None:
        (package / "model" / "model.safetensors").write_bytes(weights)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(embedder, "PACKAGE", "packed_minilm")


def test_the_packed_weights_are_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed(tmp_path, monkeypatch, b"weights")
    with pytest.raises(ResourceError, match="does not hold the weights of all-MiniLM-L6-v2"):
        embedder.find("minilm", silent)
    monkeypatch.setattr(embedder, "SHA256", hashlib.sha256(b"weights").hexdigest())
    assert embedder.find("minilm", silent) == tmp_path / "packed_minilm" / "model"


def test_a_package_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed(tmp_path, monkeypatch, None)
    with pytest.raises(ResourceError, match="is damaged"):
        embedder.find("minilm", silent)


@pytest.mark.skipif(importlib.util.find_spec(embedder.PACKAGE) is None, reason="the extra 'dense' is not installed")
def test_the_real_model_knows_what_means_the_same() -> None:
    encoder = Embedder(embedder.find("minilm", silent), "cpu", silent)
    index = Dense("zoo", CHUNKS, encoder.encode(TEXTS, questions=False), encoder)
    assert index.search("Which animal rested?", 1)[0].text in ("The cat sat.", "The dog slept.")
    assert index.search("What do trout do in a river?", 1)[0].text == "Fish swim."
    assert encoder.encode(["That is a happy person"], questions=True)[0] @ encoder.encode(
        ["That is a very happy person"], questions=False
    )[0] == pytest.approx(0.9429, abs=0.001)
