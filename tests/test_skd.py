"""Interleaved sampling: its two limits, what is accepted between them, the targets, and training on what was written."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kmcli.adapters import lora
from kmcli.bases import Loaded
from kmcli.errors import InterruptedRun
from kmcli.objectives.views import chunk_in_context
from kmcli.training import loop, skd, train
from kmcli.training.forward import logits, scored_states
from kmcli.training.mixture import mix, scored
from kmcli.training.schedule import batch_of
from kmcli.training.teacher import Teacher
from kmcli.types import Event, View, silent
from training_cases import CHUNKS, RECIPE, disturb, make_tiny, one_thread, samples, tiny

ALL = 8192
GREEDY = replace(RECIPE, temperature=0.0, chunk_tokens=12)
MATERIAL = samples(6)
SEEDS = range(6)


@pytest.fixture(scope="module")
def student(tiny: Loaded) -> Iterator[Any]:
    model = lora.build(tiny, RECIPE)
    disturb(model)
    model.train()
    yield model
    model.unload().eval()


@pytest.fixture(scope="module")
def views(tiny: Loaded) -> list[View]:
    return [chunk_in_context(one, CHUNKS[one.chunk_sha256], tiny) for one in MATERIAL]


def greedy(tiny: Loaded, student: Any, teacher: bool) -> list[list[int]]:
    """What the engine writes: with the chunk and without the adapter, or the other way round."""
    student.eval()
    template = tiny.base.prompts.under_text
    asked = [
        template.format(text=CHUNKS[one.chunk_sha256], question=one.prompt) if teacher else one.prompt
        for one in MATERIAL
    ]
    found = []
    for prompt in asked:
        ids = torch.tensor([tiny.chat_ids([("user", prompt)])])
        if teacher:
            with student.disable_adapter():
                made = student.generate(
                    input_ids=ids, max_new_tokens=12, do_sample=False, eos_token_id=2, pad_token_id=0
                )
        else:
            made = student.generate(input_ids=ids, max_new_tokens=12, do_sample=False, eos_token_id=2, pad_token_id=0)
        found.append(made[0, ids.shape[1] :].tolist())
    student.train()
    return found


def test_where_all_is_accepted_the_student_writes(tiny: Loaded, student: Any, views: list[View]) -> None:
    expected = greedy(tiny, student, teacher=False)
    assert expected != greedy(tiny, student, teacher=True)
    for draft in (1, 3, 5, 40):
        written = skd.write(student, tiny, views, replace(GREEDY, skd_accept=ALL, skd_draft=draft), SEEDS)
        assert [one.response for one in written] == expected
    assert student.training


@pytest.mark.parametrize("accept", [0, 1])
def test_where_nothing_is_accepted_the_teacher_writes(
    tiny: Loaded, student: Any, views: list[View], accept: int
) -> None:
    """At temperature 0 accepting the likeliest token alone comes to the same, and leaves drafts that are struck out."""
    expected = greedy(tiny, student, teacher=True)
    for draft in (1, 4):
        written = skd.write(student, tiny, views, replace(GREEDY, skd_accept=accept, skd_draft=draft), SEEDS)
        assert [one.response for one in written] == expected


def test_between_them_each_token_is_the_student_s_where_the_teacher_agrees(
    tiny: Loaded, student: Any, views: list[View]
) -> None:
    recipe = replace(GREEDY, skd_accept=3000)
    kept = replaced = 0
    for view, one in zip(views, skd.write(student, tiny, views, recipe, SEEDS), strict=True):
        new = skd.renewed(view, one.response)
        assert scored(new) == one.response
        student.eval()
        with torch.no_grad():
            own = logits(student, scored_states(student, tiny, [(new.student_ids, new.student_mask)])[-1])
            with student.disable_adapter():
                judged = logits(
                    student, scored_states(student, tiny, [(new.teacher_ids or [], new.teacher_mask or [])])[-1]
                )
        student.train()
        for token, mine, theirs in zip(one.response, own, judged, strict=True):
            draft = int(mine.argmax())
            accepted = int((theirs > theirs[draft]).sum()) < 3000
            assert token == (draft if accepted else int(theirs.argmax()))
            kept += accepted
            replaced += not accepted
    assert kept > 5
    assert replaced > 5


@pytest.mark.parametrize("accept", [0, 3000, ALL])
def test_the_states_that_judged_are_those_that_the_teacher_would_compute(
    tiny: Loaded, student: Any, views: list[View], accept: int
) -> None:
    recipe = replace(RECIPE, temperature=1.0, chunk_tokens=12, skd_accept=accept)
    written = skd.write(student, tiny, views, recipe, SEEDS)
    new = [skd.renewed(view, one.response) for view, one in zip(views, written, strict=True)]
    expected = Teacher(student, tiny, new).targets(range(len(new)))
    torch.testing.assert_close(torch.cat([one.target for one in written], dim=1), expected, rtol=1e-3, atol=1e-4)


def test_a_row_does_not_depend_on_the_others(tiny: Loaded, student: Any, views: list[View]) -> None:
    recipe = replace(GREEDY, skd_accept=3000)
    together = skd.write(student, tiny, views, recipe, SEEDS)
    for view, one in zip(views, together, strict=True):
        (alone,) = skd.write(student, tiny, [view], recipe, [0])
        assert alone.response == one.response
        torch.testing.assert_close(alone.target, one.target, rtol=1e-3, atol=1e-4)


def test_the_seed_decides(tiny: Loaded, student: Any, views: list[View]) -> None:
    recipe = replace(RECIPE, temperature=1.0, chunk_tokens=12, skd_accept=3000)
    first, again, other = (
        [one.response for one in skd.write(student, tiny, views, recipe, seeds)]
        for seeds in (range(6), range(6), range(6, 12))
    )
    assert first == again != other
    assert all(1 <= len(one) <= 12 for one in first)


def test_a_response_ends_at_the_end_token_and_within_the_context(tiny: Loaded, student: Any, views: list[View]) -> None:
    whole = skd.write(student, tiny, views, replace(GREEDY, skd_accept=ALL), SEEDS)
    stop = whole[0].response[4]
    ending = replace(tiny)
    object.__setattr__(ending, "end_ids", [stop])
    (one, *_) = skd.write(student, ending, views[:1], replace(GREEDY, skd_accept=ALL), [0])
    expected = whole[0].response
    assert one.response == expected[: expected.index(stop) + 1]
    assert one.target.shape[1] == len(one.response)
    prompt = len(skd.prompts(views[0])[0])
    narrow = replace(tiny, base=replace(tiny.base, context=prompt + 3))
    (one, *_) = skd.write(student, narrow, views[:1], replace(GREEDY, skd_accept=ALL), [0])
    assert one.response == expected[:3]


# --- as an objective


def test_it_trains_on_what_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = make_tiny()
    calls: list[int] = []
    write = skd.write

    def counted(model: Any, loaded: Loaded, views: Any, recipe: Any, seeds: Any) -> Any:
        calls.append(len(views))
        return write(model, loaded, views, recipe, seeds)

    monkeypatch.setattr(skd, "write", counted)
    out = tmp_path / "out"
    out.mkdir()
    recipe = replace(RECIPE, objective="skd", chunk_tokens=12, skd_every=3, steps=8, skd_accept=3000, batch=2)
    metrics = train(tiny, samples(14), CHUNKS, recipe, tmp_path, out, silent)
    (part,) = mix(tiny, samples(14), CHUNKS, "", recipe, silent).parts
    first = mix(tiny, samples(14), CHUNKS, "", recipe, silent).views[: len(part.training)]
    read = [set(batch_of(step, first, recipe.batch, recipe.seed)) for step in range(8)]
    assert calls == [len(set().union(*some)) for some in (read[:3], read[3:6], read[6:])]
    assert metrics["steps"] == 8
    assert metrics["curve"][-1]["loss"] < metrics["curve"][0]["loss"]


def test_a_stopped_run_goes_on_with_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = make_tiny()
    recipe = replace(RECIPE, objective="skd", chunk_tokens=12, skd_every=4, steps=8, skd_accept=3000, batch=2)

    def go(folder: str, report: Any = silent) -> list[float]:
        out = tmp_path / f"out-{folder}"
        workspace = tmp_path / folder
        out.mkdir(exist_ok=True)
        workspace.mkdir(exist_ok=True)
        metrics = train(tiny, samples(14), CHUNKS, recipe, workspace, out, report)
        return [point["loss"] for point in metrics["curve"]]

    whole = go("whole")
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 1)

    def stop(event: Event) -> None:
        if event.stage == "train" and event.done == 6:
            raise InterruptedRun("stopped", "")

    with pytest.raises(InterruptedRun):
        go("parts", stop)
    assert go("parts") == pytest.approx(whole, rel=1e-4)  # the teacher reads again: equal but for rounding
