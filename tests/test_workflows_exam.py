"""Training that ends with an exam, on the embedded base: what is asked, what is kept, what an interruption leaves."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli_cases import Km
from kmcli.errors import KmError
from kmcli.library import Library
from kmcli.metrics import normalise
from kmcli.training import Job
from kmcli.types import Sample, silent
from kmcli.workflows import exam, group
from kmcli.workflows.house import open_house
from workflow_cases import TINY, entry, is_sound, km, permits, sentences
from written_once import short_calibration, written_once

EXAM = (*TINY[:-2], "--set", "generations=8", "--set", "exam_rounds=0")
"""As tiny, and without what says that there is no exam."""


def questions_of(home: Path) -> list[Sample]:
    with Library.open(home) as library:
        return [one for _, some in library.exams.questions(library.find("permits")) for one in some]


def studied(monkeypatch: pytest.MonkeyPatch) -> list[Sample]:
    """All that is given to a training from now on."""
    seen: list[Sample] = []
    real = group.train_together

    def watched(loaded: Any, jobs: Sequence[Job], *rest: Any) -> None:
        seen.extend(sample for job in jobs for sample in job.samples)
        real(loaded, jobs, *rest)

    monkeypatch.setattr(group, "train_together", watched)
    return seen


def raising(error: BaseException) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_training_ends_with_an_exam_of_which_nothing_was_trained_on(
    km: Km, permits: Path, km_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = studied(monkeypatch)
    run = km("train", "permits", *EXAM, "--json")
    assert run.code == 0
    (trained,) = run.envelope["data"]["trained"]
    head = trained["exam"]
    assert 0 < head["asked"] <= head["questions"]
    assert head["share"] == head["known"] / head["asked"]
    assert head["seconds"] > 0
    assert head["training_seconds"] == trained["module"]["metrics"]["total_seconds"]
    data = km("show", "permits", "--exam", "--json").envelope["data"]
    asked = [one for passage in data["passages"] for one in passage["questions"]]
    assert data["module"] == trained["module"]["id"] == entry(km, "permits")["module"]["id"]
    assert len(asked) == head["questions"]
    assert all(0 < one["probability"] <= 1 and one["reference"] for one in asked)
    # What the training was given holds none of the exam's samples, and nothing asked was among what it learnt.
    written = questions_of(km_home)
    assert {one.seed for one in written} == {exam.OTHER_SEED}
    assert {one.seed for one in seen} == {0}
    with open_house({}, silent) as house:
        document = house.library.find("permits")
        module = house.library.module(document)
        assert module is not None
        taught, _ = exam.training.split(seen, module.recipe)
        assert {normalise(one["question"]) for one in asked}.isdisjoint(normalise(one.prompt) for one in taught)
        assert {one.id for one in house.library.samples(document)} == {one.id for one in seen}
    assert entry(km, "permits")["state"] == "fresh"
    assert entry(km, "permits")["exam"]["asked"] == head["asked"]
    (line,) = [one for one in km("ls").out.splitlines() if one.startswith("permits")]
    assert line.endswith(f"{head['share']:.0%}")
    assert is_sound(km)
    # Another training finds the questions written, and asks the same ones.
    assert km("train", "permits", *EXAM, "--force").code == 0
    assert questions_of(km_home) == written
    again = km("show", "permits", "--exam", "--json").envelope["data"]
    assert [one["question"] for part in again["passages"] for one in part["questions"]] == [
        one["question"] for one in asked
    ]
    out = km("show", "permits", "--exam").out
    assert out.startswith("permits\n  ")
    assert "passage 1" in out
    assert " known, by " in out


def test_a_question_that_was_trained_on_is_not_asked(km: Km, permits: Path) -> None:
    """Whoever wrote it into the exam, and whatever its case and punctuation; nor one that another base wrote."""
    assert km("train", "permits", *EXAM).code == 0
    with open_house({}, silent) as house:
        document = house.library.find("permits")
        module = house.library.module(document)
        assert module is not None
        loaded = house.load(house.base())
        chunks = house.study_chunks(document, loaded, module.recipe)
        taught, _ = exam.training.split(house.library.samples(document), module.recipe)
        same = replace(taught[0], id="same", prompt=taught[0].prompt.upper().replace("?", " !"))
        new = replace(taught[0], id="new", prompt="Whose fee is it?")
        other = replace(new, id="other", prompt="Which fee is it?", revision="of another base")
        house.library.exams.append(document, {"units": []}, [same, new, new, other])
        found = exam.questions(house, document, loaded, module.recipe, chunks)
        ids = [one.id for some in found.values() for one in some]
        assert ids.count("new") == 1
        assert not {"same", "other"} & set(ids)


def test_what_is_held_out_of_imported_material_is_asked(km: Km, permits: Path, tmp_path: Path, km_home: Path) -> None:
    """Its own answer counts, not what the base reads; what is long, or says that there is no answer, is not asked, and
    nothing is written beside it."""
    ways = ("Which fee is due for berth permits", "What do berth permits cost", "How much are berth permits")
    lines = [{"prompt": f"{way} {number}?", "response": "80 dollars"} for way in ways for number in range(10)]
    lines += [
        {"prompt": f"Who approves permit {number}?", "response": "The text does not say."} for number in range(20)
    ]
    long = "Berth permits are handled by the safety department and must be requested within 10 days of arrival."
    lines += [{"prompt": f"What of berth permits {number}?", "response": long} for number in range(20)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert km("synth", "permits", "--import", str(tmp_path / "in.jsonl")).code == 0
    only = ["tasks=import" if word == "tasks=qa" else word for word in EXAM]
    assert "tasks=import" in only
    assert km("train", "permits", *only, "--set", "held_out=0.5").code == 0
    data = km("show", "permits", "--exam", "--json").envelope["data"]
    asked = [one for passage in data["passages"] for one in passage["questions"]]
    assert {one["reference"] for one in asked} == {"80 dollars"}
    assert len(asked) == exam.PHRASINGS
    assert questions_of(km_home) == []


def test_no_exam(km: Km, permits: Path, km_home: Path) -> None:
    quick = ("--preset", "quick", "--set", "tasks=qa", "--set", "steps=2", "--set", "chunk_tokens=48")
    for words in ((*EXAM, "--no-exam"), quick, ("--objective", "lm", "--set", "steps=2")):
        assert km("train", "permits", *words, "--force").code == 0
        assert questions_of(km_home) == []
    assert entry(km, "permits")["exam"] is None
    run = km("show", "permits", "--exam")
    assert (run.code, sentences(run.err)) == (
        3,
        [
            "km: the Knowledge Module of permits was not examined. Train it again, with an exam: km train permits --force"
        ],
    )
    assert km("show", "permits", "--exam", "--curve").code == 2
    assert "KNOWN" not in km("ls").out


def test_an_exam_that_is_interrupted_goes_on(km: Km, permits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(exam, "references", raising(KeyboardInterrupt()))
        run = km("train", "permits", *EXAM)
    assert run.code == 5
    assert sentences(run.err) == [
        "km: stopped; nothing that was finished is lost. The same command goes on from there."
    ]
    module = entry(km, "permits")["module"]  # it can be used meanwhile
    assert entry(km, "permits")["state"] == "interrupted"
    assert is_sound(km)
    with monkeypatch.context() as patch:
        patch.setattr(group, "train_together", raising(AssertionError("it is trained")))
        run = km("train", "permits")
    assert run.code == 0
    assert "going on with the exam of permits\n" in run.err
    assert " known, by " in run.out
    shown = entry(km, "permits")
    assert (shown["state"], shown["module"]["id"]) == ("fresh", module["id"])
    assert shown["exam"]["asked"] > 0


def test_an_exam_that_is_interrupted_can_be_left_out(km: Km, permits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(exam, "references", raising(KeyboardInterrupt()))
        assert km("train", "permits", *EXAM).code == 5
    module = entry(km, "permits")["module"]
    run = km("train", "permits", *EXAM, "--no-exam")
    assert (run.code, run.err) == (0, "permits is trained already. To train again, add --force.\n")
    shown = entry(km, "permits")
    assert (shown["state"], shown["module"]["id"], shown["exam"]) == ("fresh", module["id"], None)


def test_a_failure_costs_the_exam_and_not_the_training(km: Km, permits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(exam, "write", raising(KmError("the service is gone.")))
        run = km("train", "permits", *EXAM)
    assert run.code == 0
    assert "warning: the exam of permits is left out: the service is gone.\n" in run.err
    assert entry(km, "permits")["state"] == "fresh"
    with monkeypatch.context() as patch:
        patch.setattr(exam, "references", raising(KmError("there is no room.")))
        run = km("train", "permits", *EXAM, "--force")
    assert run.code == 0
    assert "warning: the exam of permits is left out: there is no room.\n" in run.err
    assert (entry(km, "permits")["state"], entry(km, "permits")["exam"]) == ("fresh", None)


def test_what_there_is_no_time_for_is_said(km: Km, permits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = exam.examine

    def hurried(*given: Any) -> Any:
        return real(*given[:-1], 0.0)

    monkeypatch.setattr(exam, "examine", hurried)
    monkeypatch.setattr(exam, "ASKING_SECONDS", 0.0)
    run = km("train", "permits", *EXAM, "--json")
    head = run.envelope["data"]["trained"][0]["exam"]
    assert (head["asked"], head["share"]) == (0, None)
    assert head["late"] > 0


def test_what_there_was_no_time_to_write_is_written_later(
    km: Km, permits: Path, km_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = exam.write_questions

    def hurried(*given: Any) -> None:
        real(*given[:-1], -1.0)

    with monkeypatch.context() as patch:
        patch.setattr("kmcli.synthesis.write.CHATS_PER_GROUP", 1)
        patch.setattr(exam, "write_questions", hurried)
        run = km("train", "permits", *EXAM, "--set", "chunk_tokens=24", "--json")
    first = run.envelope["data"]["trained"][0]["exam"]
    units = [unit for work in works(km_home) for unit in work["units"]]
    assert len(units) == 1
    assert first["late"] > 0
    assert km("train", "permits", *EXAM, "--set", "chunk_tokens=24", "--force").code == 0
    later = [unit for work in works(km_home) for unit in work["units"]]
    assert later[:1] == units
    assert len({chunk for chunk, *_ in later}) == len(later) > 1
    assert entry(km, "permits")["exam"]["late"] == 0


def works(home: Path) -> list[dict[str, Any]]:
    with Library.open(home) as library:
        return [work for work, _ in library.exams.questions(library.find("permits"))]


def test_several_documents_are_examined_one_after_the_other(
    km: Km, permits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "second.txt").write_text(permits.read_text().replace("$75", "$80"))
    assert km("add", str(tmp_path / "second.txt")).code == 0
    real, asked = exam.references, list[int]()

    def stopping(*given: Any) -> Any:
        asked.append(1)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(exam, "references", stopping)
        assert km("train", "permits", "second", *EXAM).code == 5
    states = {name: (entry(km, name)["state"], bool(entry(km, name)["exam"])) for name in ("permits", "second")}
    assert states == {"permits": ("fresh", True), "second": ("interrupted", False)}
    module = entry(km, "second")["module"]["id"]
    assert km("train", "--all").code == 0
    assert (entry(km, "second")["state"], entry(km, "second")["module"]["id"]) == ("fresh", module)
    assert entry(km, "second")["exam"]["asked"] > 0
