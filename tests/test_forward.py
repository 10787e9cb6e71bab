"""Hidden states and logits at the scored positions, and the teacher's targets made of them."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from kmcli.adapters import lora
from kmcli.bases import Loaded
from kmcli.errors import ResourceError
from kmcli.objectives.views import chunk_in_context
from kmcli.training import teacher as teacher_room
from kmcli.training.forward import check_head, logits, scored_states
from kmcli.training.packed import can_pack, pack
from kmcli.training.teacher import Teacher
from kmcli.types import Event, View, silent
from training_cases import CHUNKS, RECIPE, SMALL, disturb, make_tiny, one_thread, samples, student, tiny, wrap

ROWS = [
    ([5, 6, 7, 8, 9], [False, False, True, False, True]),
    ([11, 12, 13, 14, 15, 16, 17, 18], [False] * 5 + [True] * 3),
    ([21, 22], [False, True]),
]
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {"sliding_window": 4},
    "Qwen2": {},
    "Qwen3": {"head_dim": 16},
    "Phi3": {"num_key_value_heads": 4},
    "Gemma2": {"head_dim": 16, "final_logit_softcapping": 2.0},
    "Cohere": {"logit_scale": 0.125},
    "Granite": {"logits_scaling": 6.0},
    "GPT2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512},
}


def family(name: str) -> Loaded:
    torch.manual_seed(3)
    config = getattr(transformers, f"{name}Config")(**SMALL | FAMILIES[name])
    head = "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
    return wrap(getattr(transformers, head)(config))


def views(count: int) -> list[View]:
    loaded = make_tiny()
    return [chunk_in_context(one, CHUNKS[one.chunk_sha256], loaded) for one in samples(count)]


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")  # PEFT, of GPT-2's transposed layers
@pytest.mark.parametrize("name", FAMILIES)
def test_states_and_logits_equal_the_whole_forward(name: str) -> None:
    loaded = family(name)
    assert can_pack(loaded.model.get_decoder()) is (name != "Gemma2")  # whose scores have a cap
    model = lora.build(loaded, RECIPE)
    model.eval()
    disturb(model)
    seen = []
    for adapter in (True, False):
        with torch.no_grad():
            if adapter:
                states = scored_states(model, loaded, ROWS)
            else:
                with model.disable_adapter():
                    states = scored_states(model, loaded, ROWS)
            mine = logits(model, states[-1])
        row = 0
        for ids, mask in ROWS:
            with torch.no_grad():
                if not adapter:
                    model.base_model.disable_adapter_layers()
                whole = model(input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True)
                model.base_model.enable_adapter_layers()
            for at in (index - 1 for index, on in enumerate(mask) if on):
                torch.testing.assert_close(mine[row], whole.logits[0, at], rtol=1e-4, atol=1e-4)
                for layer in (0, 1):
                    torch.testing.assert_close(
                        states[layer, row], whole.hidden_states[layer + 1][0, at], rtol=1e-4, atol=1e-4
                    )
                row += 1
        assert states.shape == (2, row, 64)
        seen.append(mine)
        check_head(model, loaded, ROWS[1])
    assert (seen[0] - seen[1]).abs().max() > 0.01  # the adapter was really on and off


def test_a_row_does_not_see_its_neighbours_or_the_padding(tiny: Loaded) -> None:
    with torch.no_grad():
        together = scored_states(tiny.model, tiny, ROWS)
        alone = torch.cat([scored_states(tiny.model, tiny, [row]) for row in ROWS], dim=1)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_a_head_that_is_not_known_is_refused() -> None:
    class Odd(transformers.LlamaForCausalLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 1.5
            return output

    odd = wrap(Odd(transformers.LlamaConfig(**SMALL)))
    with pytest.raises(ResourceError, match="km cannot train tiny: its llama head"):
        check_head(odd.model, odd, ROWS[0])


@pytest.mark.parametrize("budget", [0, 8_000, 1 << 30])
def test_targets_are_the_base_without_the_adapter(tiny: Loaded, student: Any, budget: int) -> None:
    some = views(9)
    teacher = Teacher(student, tiny, some, budget)
    events: list[Event] = []
    teacher.precompute(events.append)
    assert {
        0: len(teacher.store.kept) == 0,
        8_000: 0 < len(teacher.store.kept) < 9,
        1 << 30: len(teacher.store.kept) == 9,
    }[budget]
    with torch.no_grad(), student.disable_adapter():
        expected = [scored_states(student, tiny, [(view.teacher_ids or [], view.teacher_mask or [])]) for view in some]
    for indices in ([0], [8, 3, 5], [2, 2], list(range(9))):
        torch.testing.assert_close(
            teacher.targets(indices), torch.cat([expected[i] for i in indices], dim=1), rtol=6e-4, atol=1e-5
        )
    assert [event.stage for event in events] == ["teacher"] * len(events)
    assert [event.done for event in events] == sorted(event.done or 0 for event in events)
    assert (events[0].done, events[-1].done, events[-1].total) == (0, 9, 9)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_room, "TOKENS_PER_BATCH", 150)


def test_batches_keep_to_the_limit_and_hold_every_view_once(tiny: Loaded, student: Any) -> None:
    some = views(13)
    teacher = Teacher(student, tiny, some)
    batches = list(teacher._batches(range(13)))
    assert sorted(i for batch in batches for i in batch) == list(range(13))
    assert len(batches) == 2  # one a chunk
    for batch in batches:
        rows = [(view.teacher_ids or [], view.teacher_mask or []) for view in (some[i] for i in batch)]
        own = [len(ids) - mask.index(True) + 1 for ids, mask in rows]
        assert len(pack([ids for ids, _ in rows], own).ids) <= 4 * max(len(ids) for ids, _ in rows)
    assert list(teacher._batches([])) == []


def test_reading_as_the_teacher_changes_nothing_of_the_student(tiny: Loaded, student: Any) -> None:
    for training in (True, False):
        student.train(training)
        Teacher(student, tiny, views(2)).precompute(silent)
        assert student.training is training
        assert len(lora.trainable(student)) == 2 * 7 * 2
    targets = Teacher(student, tiny, views(2)).targets([0, 1])
    assert not targets.requires_grad
    assert not targets.is_inference()  # such tensors cannot be used in a backward pass


def test_views_without_a_teacher_are_passed_over(tiny: Loaded, student: Any) -> None:
    plain = View(None, [1, 2], None, [False, True])
    events: list[Event] = []
    Teacher(student, tiny, [plain]).precompute(events.append)
    assert events == []
    mixed = Teacher(student, tiny, [plain, *views(2)])
    mixed.precompute(events.append)
    assert set(mixed.store.kept) == set(mixed.keys[1:])
    assert [(event.done, event.total) for event in events[:1] + events[-1:]] == [(0, 2), (2, 2)]
    with pytest.raises(ValueError, match="has no teacher"):
        mixed.targets([0])
