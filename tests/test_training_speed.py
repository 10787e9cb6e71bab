"""What makes training fast changes nothing of it: packed rows, shared beginnings, faster layers."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer

from kmcli.adapters import lora
from kmcli.bases import Loaded
from kmcli.objectives import fused
from kmcli.objectives.losses import distillation
from kmcli.training import kernels, packed, train
from kmcli.training.forward import causal, decoder, logits, scored_states
from kmcli.training.kernels import fast_layers
from training_cases import RECIPE, disturb, make_tiny, one_thread, student, tiny

NO_IDS = torch.zeros(0, dtype=torch.long)
"""Distillation does not look at the scored ids."""

# --- packed rows ---

IDS = st.lists(st.integers(3, 40), min_size=1, max_size=9)


@given(st.lists(IDS, min_size=1, max_size=6), IDS, st.data())
@settings(max_examples=40)
def test_packing_holds_every_row_and_shares_only_what_may_be(
    rows: list[list[int]], start: list[int], data: st.DataObject
) -> None:
    rows = [start * 4 + row if data.draw(st.booleans()) else row for row in rows]
    own = [data.draw(st.integers(1, len(row))) for row in rows]
    for batch in (packed.pack(rows), packed.pack(rows, own)):
        assert len(batch.ids) == len(batch.positions) == sum(prefix + sum(lengths) for prefix, lengths in batch.blocks)
        for row, ids in enumerate(rows):
            before = batch.starts[row][1]
            places = batch.places(row, range(before, len(ids)))
            assert [batch.ids[place] for place in places] == ids[before:]
            assert [batch.positions[place] for place in places] == list(range(before, len(ids)))
            assert before <= len(ids) - own[row]
    assert all(prefix == 0 for prefix, _ in packed.pack(rows).blocks)


def rows_of(*lengths: int) -> list[tuple[list[int], list[bool]]]:
    return [
        ([(7 * row + 3 * index) % 90 + 3 for index in range(size)], [index > 0 for index in range(size)])
        for row, size in enumerate(lengths)
    ]


def test_another_sample_in_the_batch_changes_nothing_of_the_others(tiny: Loaded, student: Any) -> None:
    student.eval()
    rows = rows_of(12, 5, 12, 9, 3)
    rows[2] = ([*rows[0][0][:8], 50, 51, 52, 53], rows[2][1])  # begins like another
    changed = [*rows]
    changed[2] = ([60] * 12, rows[2][1])
    with fast_layers(student, causal(student).get_output_embeddings()), torch.no_grad():
        before, after = (logits(student, scored_states(student, tiny, some)[-1]) for some in (rows, changed))
    mine = slice(11 + 4, 11 + 4 + 11)
    others = [index for index in range(len(before)) if not mine.start <= index < mine.stop]
    assert torch.equal(before[others], after[others])
    assert (before[mine] - after[mine]).abs().max() > 0.1


@pytest.mark.parametrize("lengths", [(7,), (7, 7, 7), (20, 18, 6, 5, 2), (30, 2)])
def test_packed_equals_alone_with_gradients(tiny: Loaded, student: Any, lengths: tuple[int, ...]) -> None:
    rows = rows_of(*lengths)
    found = []
    for batches in ([rows], [[row] for row in rows]):
        student.zero_grad()
        states = torch.cat([scored_states(student, tiny, batch) for batch in batches], dim=1)
        states.square().sum().backward()
        found.append((states.detach(), {name: p.grad.clone() for name, p in lora.trainable(student).items()}))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("window", [None, 6])
def test_a_shared_beginning_is_read_once_and_seen_by_all(window: int | None) -> None:
    if window:
        import transformers

        from training_cases import SMALL, wrap

        torch.manual_seed(3)
        loaded = wrap(transformers.MistralForCausalLM(transformers.MistralConfig(**SMALL, sliding_window=window)))
    else:
        loaded = make_tiny()
    assert packed.can_pack(decoder(loaded.model))
    start = list(range(5, 45))
    rows = [(start + [100 + row] * size, [False] * 41 + [True] * (size - 1)) for row, size in enumerate((5, 9, 2))]
    rows.append(([9, 8, 7, 6], [False, True, True, True]))
    seen = []
    hook = (
        loaded.model.get_decoder().layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    )
    with torch.no_grad():
        together = scored_states(loaded.model, loaded, rows, share=True)
        alone = torch.cat([scored_states(loaded.model, loaded, [row]) for row in rows], dim=1)
    hook.remove()
    assert seen[0] == 40 + 5 + 9 + 2 + 4
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_a_family_that_caps_its_scores_is_not_packed() -> None:
    import transformers

    from training_cases import SMALL, wrap

    config = transformers.Gemma2Config(**SMALL, head_dim=16, attn_logit_softcapping=2.0)
    loaded = wrap(transformers.Gemma2ForCausalLM(config))
    assert not packed.can_pack(decoder(loaded.model))
    with torch.no_grad():
        states = scored_states(loaded.model, loaded, rows_of(6, 4))
        whole = loaded.model.get_decoder()(torch.tensor([rows_of(6, 4)[1][0]])).last_hidden_state
    torch.testing.assert_close(states[-1, 5:], whole[0, :3], rtol=1e-4, atol=1e-5)


def test_a_family_with_states_beside_attention_is_not_packed() -> None:
    import transformers

    from training_cases import SMALL, wrap

    more = {"head_dim": 16, "num_experts": 2, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8}
    loaded = wrap(transformers.Qwen3NextForCausalLM(transformers.Qwen3NextConfig(**SMALL | more)))
    assert not packed.can_pack(decoder(loaded.model))


def test_a_window_that_attention_is_not_told_of_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    from training_cases import SMALL, wrap

    torch.manual_seed(3)
    loaded = wrap(transformers.MistralForCausalLM(transformers.MistralConfig(**SMALL, sliding_window=300)))
    for layer in loaded.model.get_decoder().layers:
        plain = layer.self_attn.config
        monkeypatch.setattr(layer.self_attn, "config", Untold(plain))
    assert not packed.can_pack(decoder(loaded.model))


class Untold:
    """A config of which one value is not passed on."""

    sliding_window = None

    def __init__(self, config: Any) -> None:
        self.config = config

    def __getattr__(self, name: str) -> Any:
        return getattr(self.config, name)


# --- layers ---


def test_fast_layers_compute_what_pefts_do_and_leave_nothing_behind(tiny: Loaded, student: Any) -> None:
    rows, head = rows_of(9, 7), causal(student).get_output_embeddings()
    teacher = torch.randn((2, 14, 64), generator=torch.Generator().manual_seed(1))
    found = []
    for fast in (False, True):
        student.zero_grad()
        layers = fast_layers(student, head) if fast else fast_layers(torch.nn.Module(), torch.nn.Module())
        with layers:
            patched = [module for module in student.modules() if "forward" in vars(module)]
            assert len(patched) == (2 * 7 + 1) * fast
            states = scored_states(student, tiny, rows)
            loss, _ = distillation(teacher, states, NO_IDS, partial(logits, student), RECIPE)
            loss.backward()
            with torch.no_grad(), student.disable_adapter():
                bare = scored_states(student, tiny, rows)
        grads = {name: p.grad.clone() for name, p in lora.trainable(student).items()}
        found.append((states.detach(), loss.detach(), bare, grads))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    assert all(grad.abs().max() > 0 for grad in found[1][3].values())
    assert not any("forward" in vars(module) for module in student.modules())


def test_a_changed_adapter_is_seen_at_once(tiny: Loaded, student: Any) -> None:
    """The fused optimiser changes parameters without torch's version counters noticing."""
    optimiser = torch.optim.AdamW(lora.trainable(student).values(), lr=0.1, fused=True)
    with fast_layers(student, causal(student).get_output_embeddings()):
        states = scored_states(student, tiny, rows_of(9))
        states.square().mean().backward()
        optimiser.step()
        with torch.no_grad():
            after = scored_states(student, tiny, rows_of(9))
    with torch.no_grad():
        torch.testing.assert_close(after, scored_states(student, tiny, rows_of(9)), rtol=1e-3, atol=1e-4)
    assert (after - states).abs().max() > 0.01


def test_layers_with_dropout_compute_as_pefts(tiny: Loaded) -> None:
    model = lora.build(tiny, replace(RECIPE, dropout=0.5))
    disturb(model)
    model.train()
    found = []
    for fast in (False, True):
        torch.manual_seed(3)
        with fast_layers(model if fast else torch.nn.Module(), torch.nn.Module()):
            found.append(scored_states(model, tiny, rows_of(9, 7)))
    assert torch.equal(*found)
    assert not torch.equal(found[0], scored_states(model, tiny, rows_of(9, 7)))
    model.unload().eval()


class TwoLayers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Linear(24, 12), torch.nn.Linear(12, 10, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.last(self.first(x).tanh())
        return states


@pytest.mark.parametrize("lengths", [(4, 4, 4), (7, 2, 4)])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64]
)  # the second is no kind of which kernels.py knows more
def test_each_adapter_adds_to_its_own_tokens(dtype: torch.dtype, lengths: tuple[int, ...]) -> None:
    torch.manual_seed(5)
    names = ("one", "two", "three")
    model: Any = TwoLayers()
    for number, name in enumerate(names, 1):
        config = LoraConfig(r=3, lora_alpha=2 * number, target_modules=["first", "last"], init_lora_weights=False)
        if name == "one":
            model = get_peft_model(model, config, adapter_name=name)
        else:
            model.add_adapter(name, config)
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.get_base_layer().to(dtype)
    x = torch.randn(1, sum(lengths), 24, dtype=dtype)

    model.base_model.set_adapter(list(names))
    assert kernels.can_stack(model, names)
    with fast_layers(model, torch.nn.Module()) as stacked:
        stacked.set(lengths)
        mine = model(x)
        mine.square().sum().backward()
        with pytest.raises(kernels.NotStackedError):
            model(x[:, 1:])
    grads = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    assert len(grads) == 12
    for name, some in zip(names, zip(mine.split(lengths, 1), x.split(lengths, 1), strict=True), strict=True):
        model.zero_grad()
        model.base_model.set_adapter(name)
        alone = model(some[1])
        alone.square().sum().backward()
        torch.testing.assert_close(some[0], alone, rtol=1e-4, atol=1e-5)
        own = {key: p.grad for key, p in model.named_parameters() if f".{name}." in key}
        assert len(own) == 4
        torch.testing.assert_close({key: grads[key] for key in own}, own, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="without oneDNN")
def test_both_kinds_of_product_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(17, 24), torch.randn(24, 10).t()
    for onednn in (True, False):
        monkeypatch.setattr(kernels, "onednn_is_faster", lambda onednn=onednn: onednn)
        torch.testing.assert_close(kernels.product(x, weight), x @ weight.t(), rtol=1e-5, atol=1e-5)
