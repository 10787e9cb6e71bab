"""Engines: batches equal single prompts, stops, streams, seeds, adapters, memory."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from base_cases import embedded
from kmcli.adapters import lora
from kmcli.bases import Loaded
from kmcli.engines import Chat, Generation, Sampling
from kmcli.engines.hf import HfEngine
from kmcli.engines.prefixes import Batch
from kmcli.engines.scripted import ScriptedEngine
from kmcli.errors import ResourceError
from training_cases import RECIPE, disturb, make_tiny, one_thread, tiny

CHATS: list[Chat] = [
    [("user", "Who built the mill in 1871, and who let it burn down?")],
    [("user", "Why?")],
    [("user", "Ann built it. Bo kept it. Who built it?"), ("assistant", "Ann"), ("user", "And who kept it?")],
    [("user", "Where is the mill?")],
]
GREEDY = Sampling(max_tokens=12)


def by_hand(loaded: Loaded, chat: Chat, count: int, model: Any = None) -> list[int]:
    """Greedy continuation, a whole forward pass for each token."""
    ids = loaded.chat_ids(list(chat))
    start = len(ids)
    with torch.no_grad():
        for _ in range(count):
            whole = (model or loaded.model)(input_ids=torch.tensor([ids]), use_cache=False)
            ids.append(int(whole.logits[0, -1].argmax()))
    return ids[start:]


def text(loaded: Loaded, ids: list[int]) -> str:
    return loaded.tokenizer.decode(ids, skip_special_tokens=True).strip()


def speak(loaded: Loaded, ids: list[int]) -> Any:
    """In place of a model: writes these ids, whatever it is asked."""

    class Speaker:
        def generate(self, input_ids: torch.Tensor, streamer: Any, max_new_tokens: int, **given: Any) -> torch.Tensor:
            written = torch.tensor([ids[:max_new_tokens]], dtype=torch.long)
            if streamer:
                streamer.put(input_ids)
                for token in written[0]:
                    streamer.put(token[None])
                streamer.end()
            return torch.cat([input_ids, written], dim=1)

    return HfEngine(loaded, Speaker())


# --- greedy ---


def test_a_greedy_batch_equals_single_prompts_and_a_plain_forward(tiny: Loaded) -> None:
    engine = HfEngine(tiny)
    together = engine.generate(CHATS, GREEDY)
    assert together == [engine.generate([chat], GREEDY)[0] for chat in CHATS]
    for chat, generation in zip(CHATS, together, strict=True):
        ids = by_hand(tiny, chat, 12)
        assert not set(ids) & set(tiny.end_ids)
        assert generation == Generation(text(tiny, ids), engine.count(chat), 12, False)
    assert len({generation.text for generation in together}) == len(CHATS)
    assert len({generation.prompt_tokens for generation in together}) == len(CHATS)  # so there was padding


def test_the_embedded_base_answers_alike_in_a_batch(embedded: Loaded) -> None:
    engine = HfEngine(embedded)
    together = engine.generate(CHATS, GREEDY)
    assert together == [engine.generate([chat], GREEDY)[0] for chat in CHATS]
    assert all(generation.finished for generation in together)
    assert all(0 < generation.tokens < 12 for generation in together)
    assert "<|" not in "".join(generation.text for generation in together)


def test_habits_of_the_base_do_not_bend_what_is_asked_for() -> None:
    loaded = make_tiny()
    plain, drawn = (HfEngine(loaded).generate(CHATS, Sampling(max_tokens=12, temperature=t)) for t in (0.0, 1.0))
    loaded.model.generation_config.update(
        repetition_penalty=8.0, do_sample=True, temperature=3.0, top_k=2, top_p=0.1, min_p=0.5, max_length=3
    )
    assert HfEngine(loaded).generate(CHATS, GREEDY) == plain
    assert HfEngine(loaded).generate(CHATS, Sampling(max_tokens=12, temperature=1.0)) == drawn


# --- where an answer ends ---


def ending_at(token: int) -> Loaded:
    loaded = make_tiny()
    object.__setattr__(loaded, "end_ids", [2, token])
    return loaded


def test_any_end_token_finishes_and_is_not_part_of_the_text(tiny: Loaded) -> None:
    ids = by_hand(tiny, CHATS[0], 12)
    end = next(i for i in range(3, 12) if ids[i] not in ids[:i])
    loaded = ending_at(ids[end])
    engine, pieces = HfEngine(loaded), list[str]()
    expected = Generation(text(tiny, ids[:end]), engine.count(CHATS[0]), end, True)
    assert engine.generate(CHATS, GREEDY)[0] == expected
    assert engine.stream(CHATS[0], GREEDY, pieces.append) == expected
    assert "".join(pieces) == expected.text


def test_the_limit_leaves_it_unfinished_and_an_end_right_at_it_does_not(tiny: Loaded) -> None:
    ids = by_hand(tiny, CHATS[0], 12)
    end = next(i for i in range(3, 12) if ids[i] not in ids[:i])
    engine = HfEngine(ending_at(ids[end]))
    short, exact = (engine.generate([CHATS[0]], Sampling(max_tokens=count))[0] for count in (end, end + 1))
    assert (short.finished, short.tokens) == (False, end)
    assert (exact.finished, exact.tokens) == (True, end)
    assert short.text == exact.text


# --- streams ---


@given(st.text(max_size=60), st.booleans())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_concatenate_to_the_text_whatever_is_written(tiny: Loaded, written: str, ends: bool) -> None:
    ids = tiny.tokenizer(written, add_special_tokens=False)["input_ids"] + tiny.end_ids[:1] * ends
    pieces: list[str] = []
    generation = speak(tiny, ids).stream([("user", "?")], Sampling(max_tokens=1000), pieces.append)
    assert "".join(pieces) == generation.text
    assert all(pieces)
    if not set(tiny.tokenizer.all_special_tokens) & set(written):
        assert generation.text == text(tiny, ids)
    assert generation.finished == ends


@pytest.mark.parametrize("written", ["Größe: 3 €", "日本語のテキスト", "👩‍👩‍👧 family 👍🏽!", "e\u0301 and \u200d"])
def test_no_piece_holds_half_a_character(tiny: Loaded, written: str) -> None:
    ids = tiny.tokenizer(written, add_special_tokens=False)["input_ids"]
    assert len(ids) > len(written.split())
    pieces: list[str] = []
    generation = speak(tiny, ids).stream([("user", "?")], Sampling(max_tokens=1000), pieces.append)
    assert "".join(pieces) == generation.text == written
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) > 1


def test_half_a_character_at_the_very_end_is_shown_as_such(tiny: Loaded) -> None:
    ids = tiny.tokenizer("a 👍", add_special_tokens=False)["input_ids"][:-1]
    pieces: list[str] = []
    generation = speak(tiny, ids).stream([("user", "?")], GREEDY, pieces.append)
    assert "".join(pieces) == generation.text
    assert generation.text.startswith("a")
    assert generation.text.endswith("\ufffd")


def test_a_stream_equals_generate(tiny: Loaded) -> None:
    engine = HfEngine(tiny)
    for sampling in (GREEDY, Sampling(max_tokens=12, temperature=1.0, seed=3)):
        for chat in CHATS:
            pieces: list[str] = []
            assert engine.stream(chat, sampling, pieces.append) == engine.generate([chat], sampling)[0]
            assert "".join(pieces) == engine.generate([chat], sampling)[0].text


# --- sampling ---


def test_seeds_are_repeatable_and_matter(tiny: Loaded) -> None:
    engine = HfEngine(tiny)

    def drawn(seed: int, **changes: Any) -> list[Generation]:
        return engine.generate(
            [CHATS[0]] * 3, Sampling(**{"max_tokens": 12, "temperature": 1.0, "seed": seed} | changes)
        )

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert len({generation.text for generation in drawn(1)}) == 3
    assert drawn(1, top_p=1e-6) == drawn(2, temperature=1e-4) == engine.generate([CHATS[0]] * 3, GREEDY)


# --- adapters ---


def test_the_adapter_can_be_switched_off(tiny: Loaded) -> None:
    plain = HfEngine(tiny).generate(CHATS, GREEDY)
    model = lora.build(tiny, RECIPE)
    try:
        disturb(model)
        model.eval()
        on, off = HfEngine(tiny, model), HfEngine(tiny, model, adapter=False)
        changed = on.generate(CHATS, GREEDY)
        assert off.generate(CHATS, GREEDY) == plain
        assert on.generate(CHATS, GREEDY) == changed
        assert off.stream(CHATS[0], GREEDY, lambda piece: None) == plain[0]
        assert all(one != other for one, other in zip(changed, plain, strict=True))
        assert changed[0].text == text(tiny, by_hand(tiny, CHATS[0], 12, model))
    finally:
        model.unload()
    with pytest.raises(ValueError, match="no adapter to switch off"):
        HfEngine(tiny, adapter=False)


def test_adapters_side_by_side_answer_each_for_itself(tmp_path: Path) -> None:
    folders: dict[str, Path] = {}
    alone: dict[str, list[Generation]] = {}
    for name, scale in (("km", 0.3), ("ke", -0.2)):
        loaded = make_tiny()
        model = lora.build(loaded, RECIPE)
        disturb(model, scale)
        folders[name] = tmp_path / name
        folders[name].mkdir()
        lora.save(model, folders[name])
        model.eval()
        alone[name] = HfEngine(loaded, model).generate(CHATS, GREEDY)
    loaded = make_tiny()
    plain = HfEngine(loaded).generate(CHATS, GREEDY)
    both = lora.load_side_by_side(loaded, folders)
    engines = {name: HfEngine(loaded, both, adapter=name) for name in folders}
    off = HfEngine(loaded, both, adapter=False)
    for name in ("ke", "km", "ke"):
        assert engines[name].generate(CHATS, GREEDY) == alone[name]
        assert off.generate(CHATS, GREEDY) == plain
    assert alone["km"] != alone["ke"]


# --- batches and memory ---


def test_batches_keep_to_the_limit_and_answers_to_their_order(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, sizes, heard = HfEngine(tiny), list[int](), list[int]()
    expected = engine.generate(CHATS * 3, GREEDY)
    batch = engine._batch

    def watched(prompts: list[list[int]], groups: Batch, *given: Any) -> list[Generation]:
        own = [len(prompts[row]) - group.prefix for group in groups for row in group.rows]
        sizes.append(len(own))
        assert len(own) == 1 or sum(group.prefix for group in groups) + (max(own) + 12) * len(own) <= 120
        return batch(prompts, groups, *given)

    monkeypatch.setattr(engine, "_batch", watched)
    engine.tokens_per_batch = 120
    assert engine.generate(CHATS * 3, GREEDY, heard.append) == expected
    assert sum(sizes) == 12
    assert max(sizes) > 1
    assert heard == [sum(sizes[: i + 1]) for i in range(len(sizes))]
    assert engine.generate([], GREEDY) == []


def test_when_memory_runs_out_batches_halve(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = HfEngine(tiny)
    expected = engine.generate(CHATS, GREEDY)
    batch = engine._batch

    def scarce(prompts: list[list[int]], groups: Batch, *given: Any) -> list[Generation]:
        if sum(len(group.rows) for group in groups) > 1:
            raise torch.OutOfMemoryError
        return batch(prompts, groups, *given)

    monkeypatch.setattr(engine, "_batch", scarce)
    assert engine.generate(CHATS, GREEDY) == expected
    assert engine.tokens_per_batch < 16_384


def test_one_prompt_too_long_for_memory_is_one_sentence(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*given: Any) -> list[Generation]:
        raise torch.OutOfMemoryError

    engine = HfEngine(tiny)
    monkeypatch.setattr(engine, "_batch", none)
    for ask in (lambda: engine.generate(CHATS, GREEDY), lambda: engine.stream(CHATS[0], GREEDY, print)):
        with pytest.raises(ResourceError, match="one prompt alone does not fit"):
            ask()


# --- the scripted engine ---


def test_the_scripted_engine_counts_words_and_keeps_to_the_limit() -> None:
    engine, heard, pieces = ScriptedEngine(lambda chat, sampling: chat[-1][1].upper()), list[int](), list[str]()
    chats: list[Chat] = [[("user", "one two three")], [("system", "be brief"), ("user", "four")]]
    assert engine.generate(chats, Sampling(max_tokens=2), heard.append) == [
        Generation("ONE TWO", 3, 2, False),
        Generation("FOUR", 3, 1, True),
    ]
    assert heard == [1, 2]
    assert engine.stream(chats[1], GREEDY, pieces.append).text == "".join(pieces) == "FOUR"
    assert engine.calls == [*chats, chats[1]]
