"""What a training will take, against what it takes: on a clock that runs with the tokens that are read."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli_cases import Km
from kmcli.adapters import lora
from kmcli.bases import Loaded
from kmcli.bases.vocabulary import reader
from kmcli.training import estimate as room
from kmcli.training import figures, gradients, loop, many, predictions, targets, teacher
from kmcli.training.estimate import TrainingEstimate, ask, estimate
from kmcli.training.mixture import Mixture, mix
from kmcli.training.predictions import Predictions
from kmcli.types import Chunk, Event, Recipe, Sample, silent
from kmcli.workflows import group
from kmcli.workflows.estimate_train import stand_ins
from training_cases import CHUNKS, RECIPE, make_tiny, one_thread, sample, tiny
from workflow_cases import TINY, entry, files_below, is_sound, km, permits

KEPT = ("cache/revisions/", "locks/")
"""Which may appear: nothing is lost or gained by them."""
LONG = replace(RECIPE, steps=0, epochs=6.0, batch=4, held_out=0.1, early_stopping=False)


class Clock:
    """A student's token takes a millisecond, and with gradients three; a teacher's two. 0.25 s for a training anyway."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.student = gradients.scored_states
        self.teacher = teacher.scored_states
        self.check = many.check_head
        patch.setattr(gradients, "scored_states", self.read)
        patch.setattr(loop, "scored_states", self.read)
        patch.setattr(teacher, "scored_states", self.teach)
        patch.setattr(predictions, "scored_states", self.teach)
        patch.setattr(many, "check_head", self.begin)

    def __call__(self) -> float:
        return self.now

    def read(self, model: Any, loaded: Loaded, rows: Any, documents: Any = ()) -> Any:
        self.now += 0.001 * sum(len(ids) for ids, _ in rows) * (3 if model.training else 1)
        return self.student(model, loaded, rows, documents=documents)

    def teach(self, model: Any, loaded: Loaded, rows: Any, share: bool, layers: Any = None) -> Any:
        self.now += 0.002 * sum(len(ids) for ids, _ in rows)
        return self.teacher(model, loaded, rows, share, layers)

    def begin(self, *given: Any) -> None:
        self.now += 0.25
        self.check(*given)


@pytest.fixture(scope="module")
def light() -> Loaded:
    """A smaller one: on the clock of these tests a token takes as long in any model."""
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    return make_tiny(**shape, num_hidden_layers=1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def material(count: int) -> list[Sample]:
    """Short answers, and every fifth a long one."""
    texts = ["Ann of Oslo" if number % 5 else "It burnt down when Bo kept it " * 3 for number in range(count)]
    return [sample(number, chunk=number * 2 // count, response=text) for number, text in enumerate(texts)]


def whole(tiny: Loaded, mixture: Mixture, recipe: Recipe, folder: Path) -> dict[str, Any]:
    model = lora.build(tiny, recipe)
    try:
        folder.mkdir(exist_ok=True)
        results: list[Any] = []
        student = loop.Student(model, tiny, mixture, recipe, folder, silent)
        many.run(model, tiny, [student], silent, lambda _, metrics: results.append(metrics))
        return results[0]
    finally:
        model.unload()


@pytest.mark.parametrize("objective", ["dcd", "lm", "dcd,lm:0.5", "dcd,keep"])
def test_the_estimate_is_near_what_is_taken(light: Loaded, tmp_path: Path, clock: Clock, objective: str) -> None:
    recipe = replace(LONG, objective=objective, chunk_tokens=16, generations=4)
    text = " ".join(CHUNKS.values()) * 20

    def mixture() -> Mixture:
        return mix(light, material(80), CHUNKS, text, recipe, silent)

    expected = estimate(light, mixture(), recipe, tmp_path, silent, clock=clock)
    assert expected.measured_seconds == clock.now
    assert expected.measured == 48 < expected.steps
    clock.now = 0.0
    metrics = whole(light, mixture(), recipe, tmp_path / "whole")
    assert expected.seconds == pytest.approx(clock.now, rel=0.1)
    assert expected.evaluation_seconds > 0
    assert (expected.teacher_seconds > 0) == (objective != "lm")
    assert expected.steps == metrics["steps"]
    assert expected.tokens == pytest.approx(metrics["scored_tokens"], rel=0.05)
    assert (expected.samples, expected.held_out) == (metrics["training_samples"], metrics["held_out_samples"])
    assert not expected.early_stopping


def test_with_another_teacher(light: Loaded, tmp_path: Path, clock: Clock) -> None:
    big = make_tiny(hidden_size=32)
    other = replace(big.base, name="big", revision="9")
    big = Loaded(other, big.model, big.tokenizer, big.device)
    recipe = replace(
        LONG, distil_from="teacher", teacher="big", teacher_revision="9", teacher_top_k=8, hidden_weight=0.0
    )
    mixture = mix(light, material(120), CHUNKS, "", recipe, silent, reader(other, big.tokenizer))
    asked = ask(reader(light.base), big, mixture, recipe, tmp_path, clock)
    expected = estimate(light, mixture, recipe, tmp_path, silent, asked, clock)
    assert expected.measured == room.ASKED
    clock.now = 0.0
    (tmp_path / "whole").mkdir()
    whole_predictions = Predictions(light, mixture.views, recipe, tmp_path / "whole")
    whole_predictions.compute(big, silent)
    whole_predictions.close()
    assert expected.teacher_seconds == pytest.approx(clock.now, rel=0.15)
    kept = (tmp_path / "whole" / targets.FILE).stat().st_size
    whole(light, mixture, recipe, tmp_path / "whole")
    assert expected.seconds == pytest.approx(clock.now, rel=0.15)
    assert expected.disk_while - room.STATES * parameters(light, recipe) == pytest.approx(kept, rel=0.3)


def parameters(tiny: Loaded, recipe: Recipe) -> int:
    model = lora.build(tiny, recipe)
    size = sum(4 * one.numel() for one in lora.trainable(model).values())
    model.unload()
    return size


def test_memory_and_disk(tiny: Loaded, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "peak_memory", lambda device: 10_000_000)
    mixture = mix(tiny, material(200), CHUNKS, "", LONG, silent)
    found = estimate(tiny, mixture, LONG, tmp_path, silent, clock=clock)
    own = parameters(tiny, LONG)
    assert own < found.disk < 1.2 * own + 4096
    assert found.disk_while == room.STATES * own
    states = sum(sum(view.student_mask) for view in mixture.views) * 2 * 64 * 2
    assert found.memory is not None
    assert 10_000_000 < found.memory < 10_000_000 + states  # of the measured ones' targets there is a part already
    monkeypatch.setattr(targets, "MEMORY_BYTES", 1000)
    monkeypatch.setattr(room.targets, "MEMORY_BYTES", 1000)
    assert estimate(tiny, mixture, LONG, tmp_path, silent, clock=clock).disk_while == room.STATES * own + states - 1000


def test_the_base_is_given_back_as_it_was(tiny: Loaded, tmp_path: Path, clock: Clock) -> None:
    before = {name: value.clone() for name, value in tiny.model.state_dict().items()}
    events: list[Event] = []
    estimate(tiny, mix(tiny, material(40), CHUNKS, "", LONG, silent), LONG, tmp_path, events.append, clock=clock)
    after = tiny.model.state_dict()
    assert set(before) == set(after)
    assert all(bool((after[name] == value).all()) for name, value in before.items())
    assert [event.message for event in events] == [f"measuring on {count} of 51 steps" for count in (5, 48)]


def test_a_training_of_two_steps(tiny: Loaded, tmp_path: Path, clock: Clock) -> None:
    recipe = replace(LONG, steps=2)
    found = estimate(tiny, mix(tiny, material(12), CHUNKS, "", recipe, silent), recipe, tmp_path, silent, clock=clock)
    assert (found.steps, found.measured) == (2, 2)
    clock.now = 0.0
    whole(tiny, mix(tiny, material(12), CHUNKS, "", recipe, silent), recipe, tmp_path / "whole")
    assert found.seconds == pytest.approx(clock.now, rel=0.3)


def test_stand_ins() -> None:
    chunks = [Chunk(index, f"text {index}", 2, 0) for index in range(3)]
    made = stand_ins(material(4), 10, chunks)
    assert len(made) == len({one.id for one in made}) == len({one.prompt for one in made}) == 10
    like = [material(4)[place] for place in (0, 0, 0, 1, 1, 2, 2, 2, 3, 3)]
    assert [one.response for one in made] == [one.response for one in like]
    assert {one.prompt for one in material(4)} < {one.prompt for one in made}
    assert [one.chunk_sha256 for one in made] == [chunks[place].sha256 for place in (0, 0, 0, 0, 1, 1, 1, 2, 2, 2)]
    assert stand_ins([], 10, chunks) == []


# --- the command


def test_an_estimate_changes_nothing(km: Km, permits: Path, km_home: Path) -> None:
    km("ls")  # opens the library once more
    before = files_below(km_home)
    run = km("train", "permits", "--estimate", *TINY)
    assert run.code == 0
    lines = run.out.splitlines()
    assert lines[0].startswith("permits: about ")
    assert [line[:17].strip() for line in lines[1:]] == [
        "study material",
        "teacher",
        "steps",
        "tokens",
        "peak memory",
        "disk",
        "measured on",
    ]
    assert "samples, of 4 drafts, in about " in lines[1]
    assert lines[3].startswith("  steps           2, in about ")
    assert " and 2 steps, in " in lines[-1]
    envelope = km("train", "permits", "--estimate", "--json", *TINY, "--ray", "auto").envelope
    assert any(message.startswith("This machine was measured") for message in envelope["messages"])
    data = envelope["data"]
    (one,) = data["estimated"]
    assert (one["document"]["name"], one["training"]["steps"], one["material"]["drafts"]) == ("permits", 2, 4)
    assert one["seconds"] >= one["training"]["seconds"] + one["material"]["seconds"] > 0
    assert one["disk"] > one["training"]["disk"] > 1_000_000
    assert data["skipped"] == []
    after = {name: value for name, value in files_below(km_home).items() if not name.startswith(KEPT)}
    assert after == before
    assert entry(km, "permits")["state"] == "untrained"
    assert not list(km_home.glob("documents/*/training"))
    assert is_sound(km)


def test_an_estimate_counts_the_exam_and_its_rounds(km: Km, permits: Path) -> None:
    (alone,) = km("train", "permits", "--estimate", "--json", *TINY).envelope["data"]["estimated"]
    assert (alone["exam"], alone["rounds"]) == (None, 0)
    words = (*TINY[:-2], "--set", "exam_rounds=3")
    (one,) = km("train", "permits", "--estimate", "--json", *words).envelope["data"]["estimated"]
    training, material = one["training"], one["material"]
    assert one["rounds"] == 3
    assert one["exam"] > 3 * training["teacher_seconds"] > 0
    assert one["seconds"] >= training["seconds"] + material["seconds"] + one["exam"]
    run = km("train", "permits", "--estimate", *words)
    (line,) = [line for line in run.out.splitlines() if line.startswith("  exam ")]
    assert line.endswith(", with at most 3 rounds of further study")


def test_an_estimate_of_what_is_written_or_trained(km: Km, permits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert km("train", "permits", *TINY).code == 0
    module = entry(km, "permits")["module"]
    run = km("train", "permits", "--estimate", *TINY)
    assert (run.code, run.out) == (0, "")
    assert run.err == "permits is trained already. To train again, add --force.\n"
    again = km("train", "permits", "--estimate", "--force", *TINY)
    assert "  study material  all written\n" in again.out
    assert "  measured on     2 steps, in " in again.out
    assert entry(km, "permits")["module"] == module


def test_an_estimate_of_an_unfinished_training(km: Km, permits: Path, km_home: Path, monkeypatch: Any) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(group, "train_together", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        assert km("train", "permits", *TINY).code == 5
    before = files_below(km_home)
    run = km("train", "permits", "--estimate", *TINY)
    assert run.code == 0
    assert "permits has an unfinished training, which will go on: this is what it takes from the beginning\n" in run.err
    after = {name: value for name, value in files_below(km_home).items() if not name.startswith(KEPT)}
    assert after == {name: value for name, value in before.items() if not name.startswith(KEPT)}
    assert entry(km, "permits")["state"] == "interrupted"


def test_an_estimate_of_what_cannot_be_read(km: Km, tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text("zzz qqq. " * 40)
    km("add", str(tmp_path / "blank.txt"))
    run = km("train", "blank", "--estimate", *TINY)
    assert run.code == 1
    assert run.err.splitlines()[-1] == (
        "km: none of 8 drafts about blank was kept. "
        "Choose a larger base with --model (see km models), or let it write more than that: --set tasks=qa,summary"
    )
    assert km("train", "--estimate").code == 2
    assert km("train", "nope", "--estimate").code == 3


def test_an_objective_without_study_material(km: Km, permits: Path) -> None:
    run = km("train", "permits", "--estimate", "--objective", "lm", "--set", "steps=3", "--set", "batch=2")
    assert run.code == 0
    assert "  study material  none needed\n" in run.out
    assert "teacher" not in run.out
