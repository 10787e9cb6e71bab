"""train and synth on the embedded base: what is skipped, refused, resumed, begun anew, and what the person is told."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from cli_cases import Km
from kmcli import bases
from kmcli.errors import KmError, ResourceError
from kmcli.library import Library, layout
from kmcli.training.recipes import PRESETS
from kmcli.types import Document, silent
from kmcli.workflows import group
from kmcli.workflows.batch import each
from kmcli.workflows.house import open_house
from workflow_cases import PERMITS, PROSE, TINY, entry, files_below, is_sound, km, permits, sentences, trained_home
from written_once import written_once

__all__ = ["km", "permits", "trained_home", "written_once"]


def module_of(km: Km, name: str) -> Any:
    return entry(km, name)["module"]


def workspace(home: Path) -> Path:
    (folder,) = home.glob("documents/*/training")
    return folder


@pytest.fixture
def unfinished(km: Km, permits: Path, km_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The document `permits`, whose study material is written and whose training was interrupted. Its file."""
    with monkeypatch.context() as patch:
        patch.setattr(group, "train_together", raising(KeyboardInterrupt()))
        run = km("train", "permits", *TINY)
    assert run.code == 5
    assert sentences(run.err) == [
        "km: stopped; nothing that was finished is lost. The same command goes on from there."
    ]
    assert entry(km, "permits")["state"] == "interrupted"
    assert is_sound(km)
    return permits


def raising(error: BaseException) -> Any:
    def fail(*_: object) -> None:
        raise error

    return fail


# --- what is fresh


def test_a_fresh_module_is_left_alone_until_force(km: Km, permits: Path) -> None:
    assert km("train", "permits", *TINY).code == 0
    first = module_of(km, "permits")
    for words in ([], TINY):
        run = km("train", "permits", *words)
        assert (run.code, run.out) == (0, "")
        assert run.err == "permits is trained already. To train again, add --force.\n"
    assert module_of(km, "permits") == first
    run = km("train", "permits", *TINY, "--force", "--json")
    (trained,) = run.envelope["data"]["trained"]
    assert (trained["written"], trained["resumed"]) == (0, False)
    assert trained["samples"] == sum(entry(km, "permits")["samples"].values())
    assert trained["module"]["id"] == module_of(km, "permits")["id"] != first["id"]
    assert is_sound(km)


def test_all_trains_what_is_not_fresh(
    km: Km, trained_home: Path, permits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prose.txt").write_text(PROSE)
    km("add", str(tmp_path / "prose.txt"))
    notes = module_of(km, "notes")
    monkeypatch.setitem(PRESETS, "standard", {"chunk_tokens": 48, "tasks": ["qa"], "generations": 4, "steps": 2})
    run = km("train", "--all")
    assert run.code == 6
    assert "permits, 1 of 2\n" in run.err
    assert "notes is trained already. To train again, add --force.\n" in run.err
    assert [line[:46] for line in sentences(run.err)] == ["km: prose: this base model cannot read the doc"]
    assert run.out.startswith("permits: Knowledge Module trained\n")
    states = {one["name"]: one["state"] for one in km("ls", "--json").envelope["data"]}
    assert states == {"notes": "fresh", "permits": "fresh", "prose": "untrained"}
    assert module_of(km, "notes") == notes
    assert is_sound(km)


def test_all_leaves_alone_what_is_fresh_on_another_base(km: Km, trained_home: Path, tmp_path: Path) -> None:
    other = shutil.copytree(bases.EMBEDDED_FOLDER, tmp_path / "own")
    km("config", "set", "model", str(other))
    run = km("train", "--all")
    assert (run.code, run.err) == (0, "notes is trained already. To train again, add --force.\n")
    assert module_of(km, "notes")["recipe"]["model"] == "embedded"


def test_nothing_named(km: Km, permits: Path) -> None:
    assert km("train").code == 2
    assert km("train", "permits", "--all").code == 2
    assert km("train", "permits", "nope").code == 3
    assert entry(km, "permits")["state"] == "untrained"


# --- what the base cannot read


def test_a_document_that_the_base_cannot_read(km: Km, km_home: Path, tmp_path: Path) -> None:
    (tmp_path / "prose.txt").write_text(PROSE)
    km("add", str(tmp_path / "prose.txt"))
    run = km("train", "prose", *TINY)
    assert (run.code, run.out) == (1, "")
    (sentence,) = sentences(run.err)
    assert sentence.startswith(
        "km: prose: this base model cannot read the document: asked again, it gave the same answer to only "
    )
    assert sentence.endswith("Choose a larger base with --model (see km models), or go on regardless with --force.")
    assert entry(km, "prose")["state"] == "untrained"
    assert not list(km_home.glob("documents/*/training"))
    assert is_sound(km)
    run = km("train", "prose", *TINY, "--force")
    (sentence,) = sentences(run.err)
    assert re.fullmatch(
        r"km: none of (\d+) drafts about prose was kept \(\d+ [a-z, 0-9]+\)\. Choose a larger base with --model "
        r"\(see km models\), or let it write more than that: --set tasks=qa,summary",
        sentence,
    )
    assert entry(km, "prose")["state"] == "untrained"
    run = km("train", "prose", *TINY, "--force")  # all is written, and this run has no drafts
    assert sentences(run.err)[0].startswith("km: nothing that was written about prose was kept. Choose a larger base")
    assert km("train", "prose", *TINY, "--set", "tasks=qa,summary", "--force").code == 0
    assert entry(km, "prose")["state"] == "fresh"


def test_a_training_that_fails_leaves_nothing_unfinished(
    km: Km, km_home: Path, permits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "train_together", raising(KmError("training diverged.", "Try a lower learning rate.")))
    run = km("train", "permits", *TINY)
    assert (run.code, sentences(run.err)) == (1, ["km: permits: training diverged. Try a lower learning rate."])
    assert entry(km, "permits")["state"] == "untrained"
    monkeypatch.setattr(group, "train_together", raising(ResourceError("the disk is full.", "Free some space.")))
    assert km("train", "permits", *TINY).code == 4
    assert entry(km, "permits")["state"] == "interrupted"  # with space made, the same command goes on
    assert is_sound(km)


# --- what is unfinished


def test_going_on(km: Km, unfinished: Path) -> None:
    samples = entry(km, "permits")["samples"]
    run = km("train", "permits")
    assert run.code == 0
    assert "going on with the unfinished training of permits\n" in run.err
    assert run.out.startswith("permits: Knowledge Module finished\n  study material  ")
    assert "samples, written earlier\n  steps           2\n" in run.out
    assert entry(km, "permits")["samples"] == samples
    assert entry(km, "permits")["state"] == "fresh"
    assert is_sound(km)


def test_another_recipe(km: Km, unfinished: Path, tmp_path: Path) -> None:
    other = shutil.copytree(bases.EMBEDDED_FOLDER, tmp_path / "own")
    hint = "Go on with it by leaving the options out, or start over with --restart."
    for words in (["--set", "steps=3"], ["--model", str(other)], ["--preset", "paper"]):
        run = km("train", "permits", *words)
        assert run.code == 2
        assert sentences(run.err) == [
            f"km: permits has an unfinished training by another recipe (base embedded). {hint}"
        ]
        assert entry(km, "permits")["state"] == "interrupted"
    run = km("train", "permits", *TINY, "--set", "steps=3", "--restart")
    assert run.code == 0
    assert "going on" not in run.err
    assert "steps           3" in run.out
    assert entry(km, "permits")["state"] == "fresh"


def test_it_goes_on_with_its_own_base(km: Km, unfinished: Path, tmp_path: Path) -> None:
    """A person who runs what `km` alone suggests must not lose hours of training to a setting."""
    other = shutil.copytree(bases.EMBEDDED_FOLDER, tmp_path / "own")
    km("config", "set", "model", str(other))
    run = km("train", "permits")
    assert run.out.startswith("permits: Knowledge Module finished\n")
    assert module_of(km, "permits")["recipe"]["model"] == "embedded"


def test_a_document_that_changed_meanwhile(km: Km, unfinished: Path) -> None:
    unfinished.write_text(PERMITS.replace("$75", "$80"))
    run = km("add", str(unfinished), "--json")
    assert run.envelope["messages"][-2:] == [
        "permits has changed: its unfinished training was of the old text, and will start anew.",
        "Next: km train permits",
    ]
    assert run.envelope["data"][0]["was_unfinished"] is True
    assert entry(km, "permits")["state"] == "untrained"
    run = km("train", "permits", *TINY)
    assert run.out.startswith("permits: Knowledge Module trained\n")
    assert entry(km, "permits")["state"] == "fresh"


@pytest.mark.parametrize(
    ("key", "value", "what"), [("text_sha256", "0" * 64, "document"), ("revision", "0123456789abcdef", "base")]
)
def test_what_changed_starts_anew(km: Km, km_home: Path, unfinished: Path, key: str, value: str, what: str) -> None:
    file = workspace(km_home) / layout.RUN
    run = json.loads(file.read_text())
    (run if key in run else run["recipe"])[key] = value
    file.write_text(json.dumps(run))
    told = km("train", "permits", *TINY)
    assert told.code == 0
    warning = f"warning: the {what} has changed since the unfinished training of permits: starting anew\n"
    assert warning in told.err
    assert told.out.startswith("permits: Knowledge Module trained\n")


@pytest.mark.parametrize("content", ["{", "[]", '{"recipe": {"of": "tomorrow"}, "text_sha256": ""}'])
def test_a_damaged_note_of_it(km: Km, km_home: Path, unfinished: Path, content: str) -> None:
    (workspace(km_home) / layout.RUN).write_text(content)
    run = km("train", "permits", *TINY)
    assert run.code == 1
    (sentence,) = sentences(run.err)
    assert sentence.endswith("is damaged, or was begun by a newer km. Start over with --restart.")
    assert km("train", "permits", *TINY, "--restart").code == 0


# --- several documents


def test_ctrl_c_in_a_batch_tells_what_is_done(km: Km, permits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("bad", "x"):
        permits.with_name(f"{name}.txt").write_text(f"{PERMITS} The berth is number {name}.")
        km("add", str(permits.with_name(f"{name}.txt")))
    real = group.train_together

    def stopped(loaded: Any, jobs: Any, report: Any, done: Any, processes: int) -> None:
        bad, permits_, _ = jobs
        done(bad, KmError("it failed.", "Look."))
        real(loaded, [permits_], report, done, processes)
        raise KeyboardInterrupt

    monkeypatch.setattr(group, "train_together", stopped)
    run = km("train", "bad", "permits", "x", "bad", *TINY, "--force", "--json")
    assert run.code == 5
    assert [one["document"]["name"] for one in run.envelope["data"]["trained"]] == ["permits"]
    assert [(one["exit_code"], one.get("source")) for one in run.envelope["errors"]] == [(1, "bad"), (5, None)]
    assert {one["name"]: one["state"] for one in km("ls", "--json").envelope["data"]} == {
        "bad": "untrained",
        "permits": "fresh",
        "x": "interrupted",
    }


def test_synth(km: Km, permits: Path) -> None:
    (permits.with_name("prose.txt")).write_text(PROSE)
    km("add", str(permits.with_name("prose.txt")))
    run = km("synth", "prose", "permits", *TINY)
    assert run.code == 6
    assert [line[:9] for line in sentences(run.err)] == ["km: prose"]
    assert run.out.startswith("permits  ")
    assert run.err.endswith("Next: km train permits (with the same options)\n")
    assert entry(km, "permits")["state"] == "untrained"
    samples = entry(km, "permits")["samples"]
    again = km("synth", "permits", *TINY, "--json").envelope["data"][0]
    assert (again["written"], again["kept"], again["samples"]) == (0, 0, sum(samples.values()))
    restarted = km("synth", "permits", *TINY, "--restart", "--json").envelope["data"][0]
    assert restarted["written"] >= restarted["kept"] == restarted["samples"] > 0
    assert entry(km, "permits")["samples"] == samples  # the same seeds write the same


def test_a_document_that_changes_while_others_train(km: Km, km_home: Path, permits: Path) -> None:
    other = permits.with_name("other.txt")
    other.write_text("The Kelvand is a ship.")
    km("add", str(other))
    worked: list[tuple[str, str]] = []

    def work(document: Document) -> None:
        if document.name == "permits":
            other.write_text("The Kelvand is a green ship.")
            assert km("add", str(other)).code == 0
        with Library.open(km_home) as library:
            worked.append((document.name, library.text(document)))

    with open_house({}, silent) as house:
        each(house, [house.library.find("permits"), house.library.find("other")], "train", work)
    assert worked == [("permits", PERMITS), ("other", "The Kelvand is a green ship.")]


def test_a_retraining_that_is_cut_short_keeps_the_module(
    km: Km, trained_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_below(trained_home / "modules")
    answer = km("ask", "notes", "Who founded Grondal Works?").out
    monkeypatch.setattr(group, "train_together", raising(KeyboardInterrupt()))
    assert km("train", "notes", *TINY).code == 5
    assert entry(km, "notes")["state"] == "interrupted"
    assert files_below(trained_home / "modules") == before
    assert km("ask", "notes", "Who founded Grondal Works?").out == answer != "\n"


# --- objectives


def test_an_objective_on_the_document_itself_writes_no_study_material(km: Km, permits: Path, km_home: Path) -> None:
    run = km("train", "permits", *TINY, "--objective", "lm,ddcd:0.5", "--json")
    assert run.code == 0
    (trained,) = run.envelope["data"]["trained"]
    assert (trained["written"], trained["kept"], trained["samples"]) == (0, 0, 0)
    assert entry(km, "permits")["samples"] == {}
    assert not list(km_home.glob("documents/*/samples.jsonl"))
    assert module_of(km, "permits")["recipe"]["objective"] == "lm,ddcd:0.5"
    (card,) = km_home.glob("modules/*/card.md")
    assert "- Made by: lm,ddcd:0.5 on " in card.read_text()
    assert "lm,ddcd:0.5, lora of rank 16" in km("show", "permits").out
    run = km("train", "permits", *TINY, "--objective", "lm", "--force")
    assert run.out.startswith("permits: Knowledge Module trained\n  study material  none needed\n  steps ")
    assert is_sound(km)


def test_an_objective_on_summaries_has_only_summaries_written(km: Km, permits: Path) -> None:
    words = ("--set", "tasks=qa,summary:4", "--set", "chunk_tokens=96", "--objective", "sdcd")
    assert km("train", "permits", *TINY, *words).code == 0
    assert set(entry(km, "permits")["samples"]) == {"summary"}
    run = km("train", "permits", "--objective", "ddpo", "--force")
    assert run.code == 2
    assert sentences(run.err) == [
        "km: 'ddpo' is no objective. Choose one of dcd, sdcd, ddcd, lm, sft, pit, skd, keep; or a mix: dcd,lm:0.1"
    ]
