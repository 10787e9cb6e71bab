"""A document that changes: what is studied again, what the new module begins from, and what it is said to answer now."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from cli_cases import Km
from kmcli.cli.boundary import main
from kmcli.library import Library
from kmcli.training import Job
from kmcli.types import Chunk, KnowledgeModule, Recipe, Sample, silent
from kmcli.workflows import group, redline
from kmcli.workflows.house import open_house
from kmcli.workflows.redline import Redline, narrowed
from workflow_cases import NOTES, PERMITS, TINY, entry, is_sound, km, library_like, sentences, trained_home
from written_once import short_calibration, written_once

__all__ = ["km", "short_calibration", "trained_home", "written_once"]

OLD, NEW = "Lumrick 40 costs $185.", "Lumrick 40 costs $240."
CUT = (*TINY, "--set", "rank=4", "--set", "alpha=4")
"""Four chunks of NOTES."""


def _cut_notes(folder: Path) -> None:
    (folder / "notes.txt").write_text(NOTES)
    assert main(["add", "-q", str(folder / "notes.txt")]) == 0
    assert main(["train", "-q", "notes", *CUT]) == 0


@pytest.fixture
def notes(km_home: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The document `notes`, trained for two steps. Its file, which is the test's own."""
    file = tmp_path / "notes.txt"
    file.write_text(NOTES)
    with Library.open(library_like("redline", _cut_notes, km_home, tmp_path_factory)) as library:
        library.found_at(library.find("notes"), str(file))
    return file


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """What is trained from now on."""
    seen: list[Job] = []
    whole = group.train_together

    def spied(loaded: Any, some: Any, *others: Any) -> None:
        seen.extend(some)
        whole(loaded, some, *others)

    monkeypatch.setattr(group, "train_together", spied)
    return seen


def change(km: Km, file: Path, old: str = OLD, new: str = NEW) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    assert km("add", str(file)).code == 0
    assert entry(km, "notes")["state"] == "stale"


def written(home: Path) -> list[str]:
    """The chunks that were written about, in order."""
    with Library.open(home) as library:
        return [line["chunk"] for line in library.work_log(library.find("notes"))]


def module(home: Path) -> KnowledgeModule:
    with Library.open(home) as library:
        found = library.module(library.find("notes"))
    assert found is not None
    return found


def cut(home: Path) -> list[Chunk]:
    found = module(home)
    with Library.open(home) as library:
        return library.cut(found)


def test_only_what_changed_is_studied_from_the_module_there_is(
    km: Km, notes: Path, km_home: Path, jobs: list[Job]
) -> None:
    before, weights, units = (
        module(km_home),
        load_file(module(km_home).path / "adapter_model.safetensors"),
        written(km_home),
    )
    with Library.open(km_home) as library:
        old = library.cut(before)
    change(km, notes)
    run = km("train", "notes")
    assert run.code == 0
    assert f"notes: 1 of {len(old)} chunks changed: only these are studied, " in run.err
    after = module(km_home)
    with Library.open(km_home) as library:
        new = library.cut(after)
    (fresh,) = {chunk.sha256 for chunk in new} - {chunk.sha256 for chunk in old}
    (gone,) = {chunk.sha256 for chunk in old} - {chunk.sha256 for chunk in new}
    assert set(written(km_home)[len(units) :]) == {fresh}
    (job,) = jobs
    assert gone not in {sample.chunk_sha256 for sample in (*job.samples, *job.kept)}
    assert job.start is not None
    key = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    assert job.start["model.layers.0.mlp.up_proj"][0].equal(weights[key])
    assert (after.recipe, after.metrics["update"]) == (
        before.recipe,
        {"from": before.id, "changed": 1, "chunks": len(old)},
    )
    assert (
        f"- It goes on from the Knowledge Module before it: 1 of {len(old)} chunks"
        in (after.path / "card.md").read_text()
    )
    assert entry(km, "notes")["state"] == "fresh"
    assert not before.path.exists()
    assert is_sound(km)
    run = km("train", "notes")
    assert run.err == "notes is trained already. To train again, add --force.\n"
    assert f"1 of {len(old)} chunks had changed" in km("show", "notes").out


def test_the_borders_stay_where_they_were_from_change_to_change(km: Km, notes: Path, km_home: Path) -> None:
    with open_house({}, silent) as house:
        old = house.library.cut(module(km_home))
    for first, second in (
        (OLD, NEW),
        ("It has its head office in Taldrin.", "It is in the small old town of Kolmar now."),
    ):
        change(km, notes, first, second)
        assert km("train", "notes").code == 0
        with open_house({}, silent) as house:
            cut = house.library.cut(module(km_home))
        assert len({one.text for one in cut} - {one.text for one in old}) == 1
        assert "".join("".join(one.text for one in cut).split()) == "".join(notes.read_text().split())
        old = cut


def test_restart_and_another_recipe_study_all_of_it(km: Km, notes: Path, km_home: Path, jobs: list[Job]) -> None:
    change(km, notes)
    run = km("train", "notes", *CUT, "--restart")
    assert (run.code, "chunks changed" in run.err) == (0, False)
    change(km, notes, NEW, OLD)
    run = km("train", "notes", *CUT, "--set", "rank=8")
    assert (run.code, "chunks changed" in run.err) == (0, False)
    assert [job.start for job in jobs] == [None, None]
    assert "update" not in module(km_home).metrics
    change(km, notes)
    assert "1 of " in km("train", "notes", *CUT, "--set", "rank=8").err  # the recipe that it has
    assert module(km_home).metrics["update"]["changed"] == 1


def test_a_text_that_is_quite_another_is_studied_anew(km: Km, notes: Path, km_home: Path, jobs: list[Job]) -> None:
    change(km, notes, NOTES, PERMITS.replace("$75", "$90"))
    run = km("train", "notes")
    assert (run.code, "notes: 1 of 1 chunks changed, so all of it is studied anew\n" in run.err) == (0, True)
    assert jobs[0].start is None
    assert "update" not in module(km_home).metrics


def test_an_update_that_is_interrupted_goes_on_as_one(
    km: Km, notes: Path, km_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = module(km_home)
    change(km, notes)
    with monkeypatch.context() as patch:
        patch.setattr(group, "train_together", stop)
        assert km("train", "notes").code == 5
    assert entry(km, "notes")["state"] == "interrupted"
    assert module(km_home) == before
    run = km("train", "notes", "--json")
    (trained,) = run.envelope["data"]["trained"]
    assert (trained["resumed"], trained["module"]["metrics"]["update"]["from"]) == (True, before.id)
    assert is_sound(km)


def test_what_changed_in_the_answers_is_kept_and_shown(
    km: Km, trained_home: Path, tmp_path: Path, jobs: list[Job]
) -> None:
    old = {chunk.sha256 for chunk in cut(trained_home)}
    run = km("show", "notes", "--changes")
    assert (run.code, sentences(run.err)) == (
        3,
        [
            "km: there is nothing to compare the Knowledge Module of notes with. "
            "Changes are kept where km train goes on from a module whose document has changed."
        ],
    )
    file = tmp_path / "second.txt"
    file.write_text(NOTES.replace(OLD, NEW))
    run = km("add", "--update", "notes", str(file))
    assert run.code == 0
    assert run.err.endswith("\nnotes has changed: its Knowledge Module is stale until km train notes.\n")
    assert km("train", "notes").code == 0
    (job,) = jobs
    assert {sample.chunk_sha256 for sample in job.samples} == {chunk.sha256 for chunk in cut(trained_home)} - old
    assert {sample.chunk_sha256 for sample in job.kept} <= old
    assert len(job.kept) > len(job.samples) > 0
    found = km("show", "notes", "--changes", "--json").envelope["data"]
    assert found["changed"] == 1
    assert found["asked"] >= len(found["differences"]) > 0
    about = [row for row in found["differences"] if row["changed"]]
    assert any("185" in row["before"] and "240" in row["now"] for row in about), found
    shown = km("show", "notes", "--changes").out
    row = next(row for row in about if "240" in row["now"])
    assert f"About what changed\n  {row['question']}\n" in shown
    assert f"    before  {row['before']}\n    now     {row['now']}\n" in shown
    assert found["known"] is None
    assert "240" in km("ask", "notes", "What does Lumrick 40 cost?", "--method", "km").out
    assert is_sound(km)
    assert km("show", "notes", "--changes", "--curve").code == 2


def test_an_update_is_examined_whole_and_may_go_without(km: Km, notes: Path, km_home: Path) -> None:
    examined = (*CUT, "--set", "exam=yes", "--set", "exam_rounds=0", "--set", "generations=8")
    assert km("train", "notes", *examined).code == 0
    before = module(km_home)
    change(km, notes)
    assert km("train", "notes").code == 0
    after = module(km_home)
    with Library.open(km_home) as library:
        exam, cut = library.exams.of(after), library.cut(after)
    assert exam is not None
    assert [one.chunk_sha256 for one in exam.passages] == [one.sha256 for one in cut]
    assert (after.metrics["update"]["from"], after.metrics["update"]["changed"]) == (before.id, 1)
    new, old = km("show", "notes", "--changes", "--json").envelope["data"]["known"]
    assert (new[0] + old[0], new[1] + old[1]) == (exam.head.known, exam.head.asked)
    assert f" of {exam.head.asked - new[1]} fact" in km("show", "notes", "--changes").out
    change(km, notes, NEW, OLD)
    assert km("train", "notes", *examined, "--set", "exam=no").code == 0
    last = module(km_home)
    assert (last.metrics["update"]["from"], last.recipe.exam) == (after.id, False)
    with Library.open(km_home) as library:
        assert library.exams.of(last) is None
    assert km("show", "notes", "--changes", "--json").envelope["data"]["known"] is None


def test_imported_answers_that_the_text_no_longer_has_are_left_out(
    km: Km, notes: Path, km_home: Path, jobs: list[Job], tmp_path: Path
) -> None:
    lamp = NOTES.strip().split("\n\n")[2]
    rows = [("What does Lumrick 40 cost?", "$185"), ("Who designed Lumrick 40?", "Yara Kestrim")]
    lines = [json.dumps({"prompt": prompt, "response": said, "context": lamp}) for prompt, said in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    assert km("synth", "notes", "--import", str(tmp_path / "rows.jsonl")).code == 0
    assert km("train", "notes", *CUT, "--force").code == 0
    change(km, notes)
    run = km("train", "notes")
    assert "imported samples left out, whose answer the text no longer has: 1\n" in run.err
    first, second = ({sample.prompt for sample in job.samples if sample.engine == "import"} for job in jobs)
    assert (first, rows[0][0] in second) == ({prompt for prompt, _ in rows}, False)


# --- the mixture


@pytest.fixture
def samples() -> Callable[[str, int], list[Sample]]:
    def make(chunk: str, count: int) -> list[Sample]:
        return [Sample(f"{chunk}-{n}", chunk, "qa", f"{chunk} {n}?", "It.", "hf", "tiny", "0", 0) for n in range(count)]

    return make


def test_what_changed_is_taught_and_the_rest_is_to_stay(
    km_home: Path, samples: Callable[[str, int], list[Sample]]
) -> None:
    recipe = Recipe(model="tiny", revision="0", epochs=20, batch=16)
    every = [*samples("gone", 40), *samples("new", 40), *(one for n in range(30) for one in samples(f"kept{n}", 40))]
    texts = {"new": "New."} | {f"kept{n}": "Kept." for n in range(30)}
    old = KnowledgeModule("m", "d", km_home, recipe, {}, "", "")
    with open_house({}, silent) as house:
        from library_material import ingested

        document = house.library.add(ingested()).document
    change = Redline(old, frozenset(["new"]), frozenset(["gone"]), 31)
    new, kept, short = narrowed(change, every, texts, recipe, document)
    assert (new, kept, short) == narrowed(change, every, texts, recipe, document)
    assert {sample.chunk_sha256 for sample in new} == {"new"}
    assert {sample.id for sample in kept} == {sample.id for sample in every if sample.chunk_sha256.startswith("kept")}
    assert short.steps == 60  # 20 times three batches
    assert (
        replace(short, steps=0, init="", init_revision="", early_stopping=True, hidden_weight=1.0, learning_rate=1e-3)
        == recipe
    )
    assert short.init_revision == "m"
    none = Redline(old, frozenset(), frozenset(["gone"]), 31)
    some, others, short = narrowed(none, every, texts, recipe, document)
    assert (len(some), others, short.steps) == (1240, [], redline.LEAST_STEPS)
    assert narrowed(change, every, texts, replace(recipe, steps=3), document)[2].steps == 3
