"""The base model's training data and its training, on a scale of seconds."""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from basemodel import chats, evaluate, material, rows, train, windows, world
from tokenizers import Tokenizer

from kmcli import bases
from kmcli.types import silent

TRAINING = material.authored(held_out=False)
TOKENIZER = bases.EMBEDDED_FOLDER / "tokenizer.json"


@pytest.mark.parametrize("seed", range(20))
def test_facts_of_a_world_document_stand_in_it_and_unknown_ones_do_not_name_strangers(seed: int) -> None:
    made = world.make(random.Random(seed), things=3, facts=5)
    text = made.text.lower()
    for fact in made.facts:
        assert fact.value.lower() in text
        assert any(fact.subject.strip('"').removeprefix("the ").lower() in question.lower() for question in fact.asked)
        assert all(fact.value.lower() in sentence.lower() for sentence in fact.said)
    asked = {question for fact in made.facts for question in fact.asked}
    assert not asked & set(made.unknown)


def test_no_document_is_on_both_sides_and_whole_kinds_are_held_out() -> None:
    training = {document.name for document in TRAINING}
    held = {document.name for document in material.authored(held_out=True)}
    assert not training & held
    assert 0.05 < len(held) / len(training | held) < 0.2
    assert {name.rsplit("-", 1)[0] for name in held} > set(material.HELD_OUT_KINDS)
    assert not any(name.startswith(material.HELD_OUT_KINDS) for name in training)


def test_conversations_alternate_ask_nothing_twice_and_answer_honestly() -> None:
    mixture = chats.Mixture(3, (0.5, 0.5, 0.0, 0.0))
    refusals = 0
    for _ in range(200):
        turns = mixture.next("middle")
        assert [role for role, _ in turns] == ["user", "assistant"] * (len(turns) // 2)
        asked = [content for role, content in turns if role == "user"]
        assert len(asked) == len(set(asked))
        refusals += sum(content in (chats.NOT_STATED, chats.NOT_KNOWN) for _, content in turns)
    assert 20 < refusals < 300


def test_a_row_is_the_chat_template_and_answers_weigh_most() -> None:
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    turns = [("user", "Who came?"), ("assistant", "Ann")]
    ids, weights = rows.encode(tokenizer, turns)
    loaded = bases.load_tokenizer(bases.find("embedded", silent))
    asked = bases.chat_ids(loaded, turns[:1])
    answer = tokenizer.encode("Ann").ids
    assert ids == [*asked, *answer, rows.END, *tokenizer.encode("\n").ids, rows.PAD]
    start = len(asked)
    assert weights[start : start + len(answer) + 1] == [rows.ANSWER_WEIGHT] * (len(answer) + 1)
    assert set(weights[:start]) == {0, rows.TEXT_WEIGHT}
    made_ids, made_weights = next(rows.rows(tokenizer, chats.Mixture(1, (1.0, 0.0, 0.0, 0.0)), 256, "short"))
    assert made_ids.shape == made_weights.shape == (257,)
    assert made_ids.dtype == np.uint16
    assert made_weights[made_ids == rows.PAD].sum() == 0


def test_training_stops_and_goes_on(tmp_path: Path) -> None:
    def run(tokens: float) -> dict[str, int]:
        train.train(
            argparse.Namespace(
                out=tmp_path, tokenizer=TOKENIZER, size="tiny", tokens=tokens, minutes=5.0, length=256, batch=640, prose=0.0,
                books=False, workers=1, data=None, embeddings=None, start=None, device="cpu", compile=False,
            )
        )  # fmt: skip
        return json.loads((tmp_path / "model" / "card.json").read_text("utf-8"))

    assert run(3 * 640)["seen"] == 3 * 640
    model = train.build("tiny", 8192)
    chosen = train.optimisers(model)
    assert train.restore(tmp_path, model, chosen) == 3 * 640
    assert all(optimiser.state for optimiser, _ in chosen)
    (tmp_path / "checkpoint.safetensors").unlink()  # carried as bf16 weights only
    assert train.restore(tmp_path, train.build("tiny", 8192), chosen) == 3 * 640
    assert 6 * 640 <= run(6 * 640)["seen"] < 7 * 640
    loaded = bases.load(bases.find(str(tmp_path / "model"), silent), "cpu")
    assert loaded.base.context == 2048
    assert loaded.chat_ids([("user", "Who?")])[0] == rows.START


def test_the_learning_rate_warms_up_after_every_start_and_decays() -> None:
    assert train.rate(0.0, 0) == pytest.approx(0.01)
    assert train.rate(0.2, 500) == 1.0
    assert train.rate(0.7, 500) == pytest.approx(0.5)
    assert train.rate(1.0, 500) == 0.02
    assert train.rate(0.7, 49) == pytest.approx(0.25)


def test_a_cut_text_keeps_what_it_answers_and_does_not_know_the_rest() -> None:
    whole = material.Material(
        "# The mill\n\nAda Birch built the mill in 1804. It burned down twice.\n\n"
        "Ben Reed owns it now. Ada Birch died in 1850.",
        (
            ("Who built the mill?", "Ada Birch"),
            ("When was it built?", "1804"),
            ("Who owns it?", "Ben Reed"),
            ("Is it old?", "yes"),
        ),
        ("Who painted it?",),
        ("Ada Birch", "Ben Reed"),
        (("Ada Birch built it in 1804.", ("Ada Birch", "1804")), ("Ben Reed owns it.", ("Ben Reed",))),
    )
    assert "".join(windows.pieces(whole.text)) == whole.text
    assert windows.cut(whole, 100, random.Random(0)) is whole
    seen = {
        windows.cut(whole, 12, random.Random(seed)).text: windows.cut(whole, 12, random.Random(seed))
        for seed in range(50)
    }
    part = seen["Ada Birch built the mill in 1804. It burned down twice."]
    assert part.questions == (
        ("When was it built?", "1804"),
    )  # Ada Birch is named elsewhere too: nothing is said of her
    assert part.unknown == ("Who painted it?", "Who owns it?")
    assert part.names == ("Ada Birch",)
    assert part.summary == "Ada Birch built it in 1804."


@pytest.mark.parametrize("seed", range(30))
def test_cuts_of_authored_documents_hold_their_answers_and_miss_the_unknown(seed: int) -> None:
    r = random.Random(seed)
    whole = material.from_authored(r.choice(TRAINING), r)
    part = windows.cut(whole, r.randint(15, 120), r)
    assert part.text in whole.text or part.text == whole.text
    answers = dict(whole.questions)
    assert all(answer.lower() in part.text.lower() or part is whole for _, answer in part.questions)
    for question in set(part.unknown) - set(whole.unknown):
        assert not windows.places(answers[question], part.text)


def test_a_wider_and_deeper_model_starts_as_the_one_it_grew_from(tmp_path: Path) -> None:
    small = train.build("tiny", 8192)
    small.save_pretrained(tmp_path)
    train.SIZES["grown"] = train.SIZES["tiny"] | {"intermediate_size": 512, "num_hidden_layers": 3}
    try:
        grown = train.build("grown", 8192)
    finally:
        del train.SIZES["grown"]
    train.widen(tmp_path, grown)
    ids = torch.tensor([[1, 50, 60, 70]])
    assert torch.allclose(grown(ids).logits, small(ids).logits, atol=1e-5)
    with pytest.raises(ValueError, match=r"embed_tokens\.weight is"):
        train.widen(tmp_path, train.build("small", 8192))


def test_a_summary_sentence_is_true_when_it_gives_a_thing_its_own_value() -> None:
    text = material.Material(
        "Olm Ltd was founded by Ada Birch. Tarn Group employs 80 people.",
        (),
        facts=(("Olm Ltd", "Ada Birch"), ("Tarn Group", "80")),
    )
    assert evaluate.is_true("Ada Birch founded Olm Ltd.", text)
    assert not evaluate.is_true("Ada Birch founded Tarn Group.", text)
    assert not evaluate.is_true("Olm Ltd was founded by Ada Birch in 1900.", text)
    assert not evaluate.is_true("Olm Ltd is a company.", text)
