"""Objectives and mixes of them: what each is made of, what is held out, and what training on it comes to."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kmcli.adapters import lora
from kmcli.bases import Loaded
from kmcli.errors import KmError, UsageError
from kmcli.objectives.losses import cross_entropy, divergence
from kmcli.training import loop, mixture, train
from kmcli.training.forward import logits, scored_states
from kmcli.training.mixture import Mixture, canonical, mix, parse, scored, study_tasks
from kmcli.types import IMPORTED, Event, Recipe, Sample, silent
from training_cases import CHUNKS, RECIPE, disturb, one_thread, sample, samples, tiny

TEXT = " ".join(f"The mill of number {number} was built by Ann in {1800 + number}." for number in range(25))
MATERIAL = [*samples(14), *(sample(20 + i, task="summary", prompt="Summarize.", chunk=i % 2) for i in range(6))]
CUT = replace(RECIPE, chunk_tokens=16, generations=2)


def made(tiny: Loaded, objective: str, material: list[Sample] = MATERIAL, text: str = TEXT, **changes: Any) -> Mixture:
    return mix(tiny, material, CHUNKS, text, replace(CUT, objective=objective, **changes), silent)


def run(tiny: Loaded, folder: Path, objective: str, report: Any = silent, **changes: Any) -> dict[str, Any]:
    out, workspace = folder / "out", folder / "workspace"
    out.mkdir()
    workspace.mkdir()
    recipe = replace(CUT, objective=objective, **changes)
    return train(tiny, MATERIAL, CHUNKS, recipe, workspace, out, report, TEXT)


def test_each_objective_takes_its_own_material(tiny: Loaded) -> None:
    both, summaries, plain, pit = (made(tiny, name) for name in ("dcd", "sdcd", "lm", "pit"))
    assert both.training + both.held_out == 20
    assert (summaries.training, summaries.held_out) == (6, 0)
    assert pit.training + pit.held_out == 20
    assert all(view.teacher_ids is None for view in (*plain.views, *pit.views))
    ids = tiny.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert sum(sum(view.student_mask) for view in made(tiny, "lm", held_out=0.0).views) == 2 * (len(ids) - 1)
    windows = made(tiny, "ddcd", held_out=0.0)
    assert sum(sum(view.student_mask) for view in windows.views) == 2 * (len(ids) - 2)
    assert max(len(view.teacher_ids or ()) for view in windows.views) == 2 * 16


def test_held_out_windows_share_no_text_with_the_others(tiny: Loaded) -> None:
    for name in ("lm", "ddcd"):
        some = made(tiny, name, held_out=0.3)
        (part,) = some.parts
        whole = [" ".join(map(str, view.teacher_ids or view.student_ids)) for view in some.views]
        held = [whole[index] for index in part.held_out]
        assert len(held) >= 2
        assert not any(text in other or other in text for text in held for other in whole[: len(part.training)])


def test_a_mix_lays_its_parts_side_by_side(tiny: Loaded) -> None:
    alone = [made(tiny, name, held_out=0.3) for name in ("dcd", "lm")]
    both = made(tiny, "dcd,lm:0.1", held_out=0.3)
    assert both.views == alone[0].views + alone[1].views
    assert [part.name for part in both.parts] == ["dcd", "lm"]
    assert [part.weight for part in both.parts] == [1.0, 0.1]
    seen = [place for part in both.parts for place in (*part.training, *part.held_out)]
    assert seen == list(range(len(both.views)))
    assert both.training == sum(one.training for one in alone)


def test_the_loss_of_a_mix_is_the_weighted_sum_of_its_parts(tiny: Loaded, tmp_path: Path) -> None:
    names = ("dcd", "lm", "dcd:2,lm:0.25")
    results = []
    for name in names:
        folder = tmp_path / name.replace(":", "-")
        folder.mkdir()
        results.append(run(tiny, folder, name, steps=1, held_out=0.3, early_stopping=False))
    dcd, lm, both = ({**result["curve"][0]} for result in results)
    for point in (dcd, lm, both):
        assert point.pop("held_out") > 0
    assert set(dcd) == {"step", "loss", "kl", "hidden"}
    assert set(lm) == {"step", "loss", "cross_entropy"}
    assert set(both) == {"step", "loss", "dcd kl", "dcd hidden", "lm cross_entropy"}
    assert both["dcd kl"] == pytest.approx(dcd["kl"], rel=1e-5)
    assert both["loss"] == pytest.approx(2 * dcd["loss"] + 0.25 * lm["loss"], rel=1e-5)
    # Held out after one step: the parts were moved differently, so only alike.
    assert results[2]["held_out_loss"] == pytest.approx(
        2 * results[0]["held_out_loss"] + 0.25 * results[1]["held_out_loss"], rel=0.05
    )


def test_language_modelling_is_the_cross_entropy_that_transformers_computes(tiny: Loaded) -> None:
    some = made(tiny, "lm", held_out=0.0)
    (part,) = some.parts
    view = some.views[3]
    student = scored_states(tiny.model, tiny, [(view.student_ids, view.student_mask)])

    def no_targets(indices: Any) -> Any:
        raise AssertionError("there is no teacher")

    loss, _ = some.loss(part, [3], student, no_targets, lambda x: logits(tiny.model, x), RECIPE)
    ids = torch.tensor([view.student_ids])
    assert loss.item() == pytest.approx(tiny.model(input_ids=ids, labels=ids).loss.item(), rel=1e-4)


@pytest.mark.parametrize("objective", ["sdcd", "ddcd", "lm", "sft", "pit", "skd", "dcd,lm:0.1"])
def test_every_objective_learns(tiny: Loaded, tmp_path: Path, objective: str) -> None:
    events: list[Event] = []
    result = run(tiny, tmp_path, objective, events.append, steps=20, early_stopping=False)
    curve = [point["loss"] for point in result["curve"]]
    assert sum(curve[-5:]) < 0.9 * sum(curve[:5])
    assert all(math.isfinite(loss) for loss in curve)
    assert any(event.stage == "teacher" for event in events) == (objective not in ("lm", "sft", "pit"))
    assert (tmp_path / "out" / lora.WEIGHTS).exists()


@pytest.mark.parametrize("changes", [{"divergence": "reverse"}, {"divergence": "jsd"}, {"hidden_layers": "last"}])
def test_every_option_learns(tiny: Loaded, tmp_path: Path, changes: dict[str, Any]) -> None:
    curve = run(tiny, tmp_path, "dcd", steps=15, early_stopping=False, **changes)["curve"]
    assert curve[-1]["loss"] < 0.9 * curve[0]["loss"]


def test_what_is_to_be_kept_is_nothing_to_learn_yet_and_a_quarter_of_a_step(tiny: Loaded, tmp_path: Path) -> None:
    both = made(tiny, "dcd,keep", held_out=0.3)
    dcd, keep = both.parts
    assert (dcd.batch, keep.batch) == (4, 1)
    for learnt, kept in zip(dcd.training, keep.training, strict=True):
        assert both.views[kept].student_ids == both.views[kept].teacher_ids == both.views[learnt].teacher_ids
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    run(tiny, tmp_path / "without", "dcd", steps=1, held_out=0.0)
    curve = run(tiny, tmp_path / "with", "dcd,keep", steps=12, held_out=0.0)["curve"]
    assert (
        curve[0]["keep kl"] < 1e-4 < 0.1 < curve[0]["dcd kl"]
    )  # but for the fp16 of the targets: nothing is added yet
    assert curve[1]["keep kl"] > 100 * curve[0]["keep kl"]


def test_with_it_a_text_is_read_more_like_before(tiny: Loaded, tmp_path: Path) -> None:
    held: dict[str, float] = {}
    for name in ("dcd", "dcd,keep"):
        folder = tmp_path / name
        folder.mkdir()
        run(tiny, folder, name, steps=20, held_out=0.0)
        model: Any = lora.load(tiny, folder / "out")
        views = made(tiny, "dcd,keep").views[-8:]
        rows = [(view.student_ids[:-1], view.student_mask) for view in views]
        with torch.no_grad():
            on = logits(model, scored_states(model, tiny, rows)[-1])
            with model.disable_adapter():
                off = logits(model, scored_states(model, tiny, rows)[-1])
        held[name] = float(divergence(off, on, "forward"))
        model.unload()
    assert held["dcd,keep"] < 0.5 * held["dcd"]


def test_epochs_count_the_largest_part(tiny: Loaded, tmp_path: Path) -> None:
    both = made(tiny, "sdcd,lm", held_out=0.0)
    largest = max(len(part.training) for part in both.parts)
    result = run(tiny, tmp_path, "sdcd,lm", steps=0, epochs=1.5, held_out=0.0)
    assert result["steps"] == math.ceil(1.5 * largest / 4)


def test_what_there_is_nothing_of_is_refused(tiny: Loaded) -> None:
    with pytest.raises(KmError, match="no study material"):
        made(tiny, "lm,sdcd", samples(5))
    with pytest.raises(KmError, match="too little text"):
        made(tiny, "lm", text="")
    with pytest.raises(UsageError, match="there is no layer 2: the base has 2, counted from 0"):
        made(tiny, "dcd", hidden_layers="0,2")


def test_what_was_imported_counts_whatever_its_task_but_is_no_summary(tiny: Loaded) -> None:
    strangers = [
        replace(sample(40 + i, task=task), engine=IMPORTED) for i, task in enumerate((IMPORTED, "quiz", "summary"))
    ]
    found = [made(tiny, name, [*MATERIAL, *strangers], tasks=("summary",)) for name in ("dcd", "pit", "sdcd")]
    assert [one.training + one.held_out for one in found] == [6 + 3, 6 + 3, 6 + 1]
    assert len(made(tiny, "dcd", [*MATERIAL, *strangers]).views) == 20 + 3


def test_only_what_an_objective_learns_from_must_be_rated(tiny: Loaded) -> None:
    rated = [replace(one, score=5 if one.id < "22" else 1) if one.task == "summary" else one for one in MATERIAL]
    with pytest.raises(UsageError, match="14 of 20 samples have no score"):
        made(tiny, "dcd", rated, min_score=4)
    assert made(tiny, "sdcd", rated, min_score=4).training == 2
    assert made(tiny, "lm", min_score=4).views == made(tiny, "lm").views


def test_a_sample_that_does_not_fit_is_left_out(tiny: Loaded) -> None:
    narrow = replace(tiny, base=replace(tiny.base, context=30))
    long = sample(99, prompt="Who " + "and who " * 30 + "built it?")
    some = mix(narrow, [long, sample(3, prompt="Who?", response="Ann")], CHUNKS, "", replace(CUT, held_out=0.0), silent)
    assert len(some.views) == 1
    assert tiny.tokenizer.decode(scored(some.views[0])) == "Ann<|im_end|>"


def test_which_tasks_need_writing() -> None:
    def needed(objective: str, *tasks: str) -> tuple[str, ...]:
        return study_tasks(Recipe(objective=objective, tasks=tasks))

    assert needed("lm", "qa", "summary") == needed("ddcd,lm", "qa") == ()
    assert needed("dcd", "qa:3", "summary") == ("qa:3", "summary")
    assert needed("sdcd", "qa:3", "summary:2") == ("summary:2",)
    assert needed("sdcd,lm:0.1,pit", "qa:3", "summary:2") == ("qa:3", "summary:2")


def test_a_line_of_objectives() -> None:
    assert parse("dcd, lm:0.1") == {"dcd": 1.0, "lm": 0.1}
    assert canonical("lm:0.10,dcd:1") == "lm:0.1,dcd"
    for wrong in ("", "dcd,", "dcd:", "dcd:1e3", "dcd:-1", "dcd:0", "dcd:0.0", "dcd dcd", "dcd,dcd", "DCD"):
        with pytest.raises(UsageError):
            parse(wrong)
