"""What is stopped between the end of the exam's rounds and the end of the training is made up for by the same command."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

from pathlib import Path

import pytest

from cli_cases import Km
from kmcli.workflows import calibrating, group
from test_workflows_exam import EXAM, raising
from workflow_cases import entry, is_sound, km, permits
from written_once import written_once


def beside(km: Km) -> set[str]:
    module = Path(entry(km, "permits")["module"]["path"])
    return {file.name for file in module.glob("con*.json")}


def test_a_calibration_that_was_stopped_is_made_up_for(km: Km, permits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it began, and between the two things that it finds out."""
    monkeypatch.setattr(calibrating, "LEAST", 2)
    with monkeypatch.context() as patch:
        patch.setattr(calibrating, "calibrate", raising(KeyboardInterrupt()))
        assert km("train", "permits", *EXAM).code == 5
    before = entry(km, "permits")
    assert before["state"] == "fresh"
    assert beside(km) == set()
    monkeypatch.setattr(group, "train_together", raising(AssertionError("it is trained already")))
    with monkeypatch.context() as patch:
        patch.setattr(calibrating, "conflicts", raising(KeyboardInterrupt()))
        assert km("train", "permits", *EXAM).code == 5
    assert beside(km) == {"confidence.json"}
    run = km("train", "permits", *EXAM, "--json")
    assert run.code == 0, run.err
    assert beside(km) == {"confidence.json", "conflicts.json"}
    after = entry(km, "permits")
    assert (after["module"]["id"], after["exam"]) == (before["module"]["id"], before["exam"])
    (trained,) = run.envelope["data"]["trained"]
    assert trained["exam"]["known"] == before["exam"]["known"]
    assert is_sound(km)
    again = km("train", "permits", *EXAM, "--json")
    assert (again.code, again.envelope["data"]["trained"]) == (0, []), "and there is nothing left to do"
    assert len(again.envelope["data"]["skipped"]) == 1
