"""The engine `hf` writes what transformers' own generate writes: shared prefixes, batches, rows that leave, draws."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.generation.logits_process import TopPLogitsWarper

from base_cases import embedded
from kmcli.adapters import lora
from kmcli.bases import Loaded
from kmcli.engines import Chat, Sampling, attention, decoding
from kmcli.engines.hf import PLAIN, HfEngine
from kmcli.engines.prefixes import SHORTEST, Group, plan
from training_cases import RECIPE, SMALL, disturb, make_tiny, one_thread, tiny, wrap

MILL = "Ann Verrin built the mill at Tolmar in 1871. Bo Kerrin kept it until it burnt down on a night in March of 1902."
BOAT = "The boat Selka was built at Orrin for Dara Moll. It carried salt and wool, and was sunk in a storm off Pel in 1844."
CHATS: list[Chat] = [
    *[[("user", f"{MILL}\n\nWrite questions and answers about the text.")]] * 3,
    [("user", f"{MILL}\n\nWho built the mill?")],
    [("user", f"{MILL}\n\nWhen did it burn down, and who had kept it until that night?")],
    *[[("user", f"{BOAT}\n\nWho?")], [("user", f"{BOAT}\n\nWhat did the boat Selka carry before it was sunk?")]],
    [("user", "Why?")],
    [("user", "Ann built it. Bo kept it. Who built it?"), ("assistant", "Ann"), ("user", "And who kept it?")],
]
GREEDY = Sampling(max_tokens=24)


def mine(loaded: Loaded, sampling: Sampling, share: bool = True, budget: int = 16_384) -> list[list[int]]:
    """The ids that this project's loop writes, chat by chat."""
    prompts = [loaded.chat_ids(list(chat)) for chat in CHATS]
    draws = torch.rand((len(CHATS), sampling.max_tokens, 2), generator=torch.Generator().manual_seed(sampling.seed))
    written: dict[int, list[int]] = {}
    for batch in plan(prompts, range(len(prompts)), sampling.max_tokens, budget, share):
        order = [row for group in batch for row in group.rows]
        with torch.inference_mode():
            rows = decoding.Rows(loaded.model, prompts, batch, sampling.max_tokens, loaded.device)
            written.update(zip(order, decoding.decode(rows, sampling, loaded.end_ids, draws[order]), strict=True))
    return [written[row] for row in range(len(CHATS))]


def theirs(loaded: Loaded, model: Any = None) -> list[list[int]]:
    """The ids that transformers' generate writes, greedy, one chat at a time."""
    written = []
    for chat in CHATS:
        ids = torch.tensor([loaded.chat_ids(list(chat))])
        output = (model or loaded.model).generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=GREEDY.max_tokens,
            eos_token_id=loaded.end_ids,
            pad_token_id=loaded.end_ids[0],
            **PLAIN | {"do_sample": False},
        )
        written.append(output[0, ids.shape[1] :].tolist())
    return written


def texts(loaded: Loaded, written: list[list[int]]) -> list[str]:
    return [loaded.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in written]


# --- the same ids ---


def test_ids_on_the_embedded_base_equal_those_of_generate(embedded: Loaded) -> None:
    expected = theirs(embedded)
    assert mine(embedded, GREEDY) == mine(embedded, GREEDY, share=False) == expected
    assert len({len(ids) for ids in expected}) > 2  # rows ended at several steps
    engine = HfEngine(embedded)
    assert [generation.text for generation in engine.generate(CHATS, GREEDY)] == texts(embedded, expected)
    assert engine._shares


def test_ids_equal_those_of_generate_with_fewer_key_heads_and_with_norms_of_queries(tiny: Loaded) -> None:
    torch.manual_seed(5)
    for loaded in (tiny, wrap(Qwen3ForCausalLM(Qwen3Config(**SMALL | {"head_dim": 16})))):
        expected = theirs(loaded)
        assert mine(loaded, GREEDY) == expected
        assert mine(loaded, GREEDY, budget=1) == expected
        assert len({tuple(ids) for ids in expected}) == len(CHATS) - 2
        assert decoding.can_share(loaded.model, loaded.chat_ids(list(CHATS[0])), loaded.device)


def test_a_family_that_caps_its_scores_shares_no_prefix() -> None:
    config = Gemma2Config(
        **SMALL | {"head_dim": 16, "attn_logit_softcapping": 50.0, "layer_types": ["full_attention"] * 2}
    )
    loaded = wrap(Gemma2ForCausalLM(config))
    assert decoding.can_decode(loaded.model)
    assert not decoding.can_share(loaded.model, loaded.chat_ids(list(CHATS[0])), loaded.device)


def test_an_adapter_is_read_by_prefixes_too(tiny: Loaded) -> None:
    plain = texts(tiny, theirs(tiny))
    model = lora.build(tiny, RECIPE)
    try:
        disturb(model)
        model.eval()
        changed = texts(tiny, theirs(tiny, model))
        on, off = HfEngine(tiny, model), HfEngine(tiny, model, adapter=False)
        for _ in range(2):
            assert [generation.text for generation in on.generate(CHATS, GREEDY)] == changed
            assert [generation.text for generation in off.generate(CHATS, GREEDY)] == plain
        assert on._shares
        assert off._shares
        assert all(one != other for one, other in zip(changed, plain, strict=True))
    finally:
        model.unload()


# --- families that are not as others ---


def test_a_family_with_sliding_windows_is_left_to_transformers() -> None:
    torch.manual_seed(5)
    config = Gemma3TextConfig(**SMALL | {"head_dim": 16, "sliding_window": 8, "layer_types": None})
    loaded = wrap(Gemma3ForCausalLM(config))
    assert "sliding_attention" in config.layer_types
    assert not decoding.can_decode(loaded.model)
    engine, pieces = HfEngine(loaded), list[str]()
    expected = texts(loaded, theirs(loaded))
    assert [generation.text for generation in engine.generate(CHATS, GREEDY)] == expected
    assert engine.stream(CHATS[0], GREEDY, pieces.append).text == "".join(pieces) == expected[0]
    drawn = Sampling(max_tokens=8, temperature=1.0, seed=4)
    assert engine.generate(CHATS, drawn) == engine.generate(CHATS, drawn)


@pytest.mark.parametrize("fault", ["its attention does more", "it hands nothing on", "it has attention of its own"])
def test_a_family_that_cannot_share_is_found_out_and_read_apart(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = make_tiny()
    if fault == "it has attention of its own":
        loaded.model._supports_attention_backend = False
    else:
        attend = attention._attend

        def other(*given: Any, scaling: float, **named: Any) -> Any:
            if fault == "it hands nothing on":
                del named["shared_prefixes"]
            return attend(*given, scaling=3 * scaling, **named)

        attention.AttentionInterface.register(attention.NAME, other)
        monkeypatch.setattr(attention, "_attend", attend)
    try:
        engine = HfEngine(loaded)
        assert [generation.text for generation in engine.generate(CHATS, GREEDY)] == texts(loaded, theirs(loaded))
        assert engine._shares is False
    finally:
        attention.AttentionInterface.register(attention.NAME, attention._attend)


# --- work that is not done ---


def watch(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of ids that the decoder reads from now on."""
    shapes: list[tuple[int, ...]] = []
    decoder = loaded.model.get_decoder()
    forward = decoder.forward

    def watched(*given: Any, input_ids: torch.Tensor, **named: Any) -> Any:
        shapes.append(tuple(input_ids.shape))
        return forward(*given, input_ids=input_ids, **named)

    monkeypatch.setattr(decoder, "forward", watched)
    return shapes


def test_what_chats_share_is_read_once(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = HfEngine(tiny)
    engine.generate(CHATS, GREEDY)  # finds out that it can
    shapes = watch(tiny, monkeypatch)
    length = engine.count(CHATS[0])
    engine.generate([CHATS[0]] * 8, Sampling(max_tokens=3))
    assert shapes == [(1, length - 1), (8, 1), (8, 1), (8, 1)]


def test_rows_that_have_ended_leave(embedded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = theirs(embedded)
    engine = HfEngine(embedded)
    engine.generate(CHATS, GREEDY)
    shapes = watch(embedded, monkeypatch)
    engine.tokens_per_batch = 10**6
    engine.generate(CHATS, GREEDY)
    going = [sum(len(ids) > step for ids in expected) for step in range(GREEDY.max_tokens)]
    read = sum(rows for rows, width in shapes if width == 1)
    assert sum(going) - going[0] <= read <= 8 / 7 * sum(going)
    assert read < len(CHATS) * max(map(len, expected))


# --- draws ---


def test_seeds_repeat_whatever_the_batches(tiny: Loaded) -> None:
    drawn = Sampling(max_tokens=12, temperature=1.0, top_p=0.9, seed=11)
    first = mine(tiny, drawn)
    assert first == mine(tiny, drawn) == mine(tiny, drawn, budget=200) == mine(tiny, drawn, share=False)
    assert first != mine(tiny, Sampling(max_tokens=12, temperature=1.0, top_p=0.9, seed=12))
    assert len({tuple(ids) for ids in first[:3]}) == 3  # the same chat three times
    engine = HfEngine(tiny)
    assert engine.generate(CHATS[:3], drawn) == engine.generate(CHATS, drawn)[:3]


@pytest.mark.parametrize(("top_p", "scale"), [(1.0, 2.0), (0.9, 4.0), (0.5, 2.0), (0.95, 0.01)])
def test_tokens_are_drawn_as_often_as_they_are_likely(top_p: float, scale: float) -> None:
    torch.manual_seed(2)
    count, temperature, tries = 300, 0.7, 40_000
    logits = torch.randn(1, count) * scale
    scores = logits / temperature
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(torch.zeros(1, 0, dtype=torch.long), scores)
    expected = scores.softmax(-1)[0]
    evenly = (torch.arange(tries) + 0.5) / tries
    draws = torch.stack([evenly, evenly[torch.randperm(tries)]], dim=1)
    sampling = Sampling(temperature=temperature, top_p=top_p)
    share = decoding.choose(logits.expand(tries, -1), sampling, draws).bincount(minlength=count) / tries
    by_chance = 0.0 if top_p == 1 else 5 * (expected * (1 - top_p) / tries).sqrt()  # of second draws
    assert ((share - expected).abs() < 2 / tries + by_chance).all()
    assert not share[expected == 0].any()
    ends = torch.tensor([[0.0, 0.0], [1 - 2**-24, 1 - 2**-24]])
    assert (expected[decoding.choose(logits.expand(2, -1), sampling, ends)] > 0).all()


# --- plans ---

PROMPT = st.builds(
    lambda start, length, rest: [start] * length + rest,
    st.integers(0, 2),
    st.integers(0, 60),
    st.lists(st.integers(0, 3), min_size=1, max_size=20),
)


@given(st.lists(PROMPT, max_size=12), st.integers(1, 30), st.integers(0, 400), st.booleans())
@settings(max_examples=200)
def test_plans_hold_every_prompt_once_and_keep_to_the_budget(
    prompts: list[list[int]], new: int, budget: int, share: bool
) -> None:
    batches = plan(prompts, range(len(prompts)), new, budget, share)
    assert sorted(row for batch in batches for group in batch for row in group.rows) == list(range(len(prompts)))
    for batch in batches:
        own = [len(prompts[row]) - group.prefix for group in batch for row in group.rows]
        assert min(own) > 0
        assert len(own) == 1 or sum(group.prefix for group in batch) + len(own) * (max(own) + new) <= budget
        assert len({bool(group.prefix) for group in batch}) == 1
        for group in batch:
            assert len({tuple(prompts[row][: group.prefix]) for row in group.rows}) == 1
            assert group.prefix == 0 or (share and group.prefix >= SHORTEST)


def test_chats_about_one_chunk_make_a_group_and_a_common_template_makes_none() -> None:
    one, other, template = [1] * 100, [2] * 80, [9] * 20
    prompts = [
        template + one + [5],
        template + other + [5],
        template + one + [6, 7],
        template + other + [5],
        [*template, 3],
    ]
    (alone,), (shorter, longer) = plan(prompts, range(5), 10, 10_000, True)
    assert alone == Group(0, (4,))
    assert shorter == Group(100, (1, 3))
    assert longer == Group(120, (0, 2))
