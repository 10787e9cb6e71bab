"""km eval on small files in the published formats, with a tiny random base and modules that need no study material."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

import benchmark_cases as files
from cli_cases import Km, runner
from each_cases import make_base
from kmcli.bases import Loaded
from kmcli.engines.hf import HfEngine
from kmcli.errors import InterruptedRun
from kmcli.evaluation.methods import build_chat
from kmcli.workflows import evaluation_run as workflow
from workflow_cases import start

QUICK = ("--objective", "lm", *("--set", "steps=2"), *("--set", "batch=2"), *("--set", "chunk_tokens=48"))


@pytest.fixture
def km(capsys: pytest.CaptureFixture[str]) -> Km:
    return runner(capsys)


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    return make_base(tmp_path / "base")


def answers(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def modules(folder: Path) -> set[str]:
    return {path.name for path in (folder / "library" / "modules").iterdir()}


def words(loaded: Loaded, name: str, data: Path, out: Path, *more: str) -> tuple[str, ...]:
    model = str(loaded.base.path)
    return ("eval", name, "--data", str(data), "--out", str(out), "--model", model, "--device", "cpu", *QUICK, *more)


def many(folder: Path, count: int) -> Path:
    """A file of HotpotQA with so many questions."""
    file = files.hotpotqa(folder)
    first = json.loads(file.read_text())[0]
    rows = []
    for number in range(count):
        context = [["Mill", [f"Ann Sarvack built mill {number} in {1800 + number}."]]]
        rows.append({**first, "_id": f"q{number}", "question": f"When was mill {number} built?", "context": context})
    return files.whole(file, rows)


def test_options_are_weighed_by_the_mean_likelihood_of_their_tokens(km: Km, loaded: Loaded, tmp_path: Path) -> None:
    data, out = files.quality(tmp_path / "data"), tmp_path / "out"
    run = km(*words(loaded, "quality", data, out, "--methods", "full,bare"))
    assert run.code == 0, run.err
    assert out.stat().st_mode & 0o777 == 0o700
    found = answers(out)
    assert [(one["case"], one["method"]) for one in found] == [
        *[("52845", "bare")] * 2,
        *[("52845", "full")] * 2,
        ("61007", "bare"),
        ("61007", "full"),
    ]
    assert not (out / "library" / "modules").is_dir() or not modules(out)  # no method needs one
    engine = HfEngine(loaded)
    options = ["Ann Sarvack", "Bo Klimdal", "Eve Tordram", "Ida Felmar"]
    for one, text in ((found[0], ""), (found[2], files.MILL)):
        chat = build_chat(one["method"], "Who built the mill?", loaded.base.prompts, text=text)
        assert not any(option in chat[0][1] for option in options[1:])
        values = [engine.score(chat, option) for option in options]
        means = [sum(value) / len(value) for value in values]
        best = options[means.index(max(means))]
        assert (one["answer"], one["scores"]) == (best, {"accuracy": float(best == "Ann Sarvack")})
        assert one["prompt_tokens"] == engine.count(chat) + sum(map(len, values))


def test_every_method_and_the_published_rows_beside(km: Km, loaded: Loaded, tmp_path: Path) -> None:
    data, out = files.quality(tmp_path / "data"), tmp_path / "out"
    run = km(*words(loaded, "quality", data, out))
    assert run.code == 0, run.err
    assert len(answers(out)) == 5 * 3
    assert len(modules(out)) == 2
    lines = run.out.splitlines()
    assert lines[0] == "QuALITY, dev: 2 documents, 3 questions"
    assert lines[1].split() == ["METHOD", "ACCURACY", "TOKENS", "READ", "SECONDS", "PHI-3", "3B", "LLAMA-3.1", "8B"]
    rows = {line[:22].strip(): line.split() for line in lines[2:12]}
    assert rows["base, closed book"][-2:] == ["26.6", "12.5"]
    assert rows["base, closed book"][3].endswith("%")
    assert rows["KM lm"][-2:] == ["26.4", "26.1"]
    assert rows["KM lm"][2].endswith("%")  # the objective of this run
    assert rows["KM sdcd"][2:] == ["-", "-", "-", "32.5", "37.2"]
    assert rows["RAG + KM + KE"][-5:] == ["-", "-", "-", "55.8", "64.1"]
    assert "Accuracy by kind of question" in run.out
    assert "length" not in run.err
    assert "The options are not in the prompt" in run.out
    assert "figures published by Caccia et al. 2025, in percent" in run.out

    again = km(*words(loaded, "quality", data, out, "--json"))  # nothing is left to do
    assert again.code == 0
    assert len(answers(out)) == 5 * 3
    report = again.envelope["data"]
    assert (report["documents"], report["questions"]) == (2, 3)
    assert [row["method"] for row in report["rows"]] == ["bare", "km", "rag", "km+rag", "full"]
    right = [one["scores"]["accuracy"] for one in answers(out) if one["method"] == "km"]
    assert report["rows"][1]["scores"]["accuracy"]["mean"] == pytest.approx(sum(right) / 3)
    assert report["rows"][1]["p_km"] is None
    assert 0 < report["rows"][0]["p_km"] <= 1


def test_one_document_that_fails_stops_no_other(km: Km, loaded: Loaded, tmp_path: Path) -> None:
    data, out = files.narrativeqa(tmp_path / "data"), tmp_path / "out"
    run = km(*words(loaded, "narrativeqa", data, out, "--json"))
    assert run.code == 6
    report = run.envelope["data"]
    assert (report["documents"], report["questions"]) == (2, 3)
    assert [(one["source"], one["message"]) for one in report["failed"]] == [
        ("The Tower", "its story tmp/c3.content is missing.")
    ]
    assert {one["case"] for one in answers(out)} == {"a1", "b2"}
    assert list(report["rows"][1]["scores"]) == ["rouge_l"]

    (data / "tmp" / "c3.content").write_text(files.TOWER)
    before, known = answers(out), modules(out)
    run = km(*words(loaded, "narrativeqa", data, out, "--json"))
    assert (run.code, run.envelope["data"]["documents"]) == (0, 3)
    assert answers(out)[: len(before)] == before
    assert {one["case"] for one in answers(out)[len(before) :]} == {"c3"}
    assert known < modules(out)


def test_training_that_fails_is_the_documents_own(
    km: Km, loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kmcli.errors import KmError
    from kmcli.workflows.group import Group

    real = Group._job

    def failing(self: Any, task: Any) -> Any:
        if "mill-0" in task.document.name or task.document.name == "q0":
            raise KmError("this one cannot be trained.", "Look at it.")
        return real(self, task)

    monkeypatch.setattr(Group, "_job", failing)
    run = km(*words(loaded, "hotpotqa", many(tmp_path / "data", 2), tmp_path / "out", "--json"))
    assert run.code == 6
    assert [one["message"] for one in run.envelope["data"]["failed"]] == ["this one cannot be trained."]
    assert {one["case"] for one in answers(tmp_path / "out")} == {"q1"}
    assert run.envelope["data"]["documents"] == 1


def test_goes_on_after_it_was_killed(km: Km, loaded: Loaded, tmp_path: Path) -> None:
    data, out = many(tmp_path / "data", 9), tmp_path / "out"
    process = start(*words(loaded, "hotpotqa", data, out, "--methods", "bare,km"))
    deadline = time.monotonic() + 240
    while not (out / "answers.jsonl").exists() or len((out / "answers.jsonl").read_bytes().split(b"\n")) < 4:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate(timeout=60)
    before, trained = answers(out), modules(out)
    assert 3 <= len(before) < 18
    assert len(trained) == 8  # the first group
    with (out / "answers.jsonl").open("a") as file:
        file.write('{"key": "torn')

    run = km(*words(loaded, "hotpotqa", data, out, "--methods", "bare,km", "--json"))
    assert run.code == 0, run.err
    after = answers(out)
    assert after[: len(before)] == before
    assert len({(one["case"], one["method"]) for one in after}) == len(after) == 18
    assert trained < modules(out)
    assert len(modules(out)) == 9
    assert run.envelope["data"]["questions"] == 9


def test_ctrl_c_keeps_what_is_done(km: Km, loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = many(tmp_path / "data", 2), tmp_path / "out"
    real, calls = workflow.answer_all, []

    def stopping(*given: Any, **more: Any) -> Any:
        calls.append(given[0])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*given, **more)

    monkeypatch.setattr(workflow, "answer_all", stopping)
    run = km(*words(loaded, "hotpotqa", data, out, "--methods", "bare,rag", "--json"))
    assert run.code == InterruptedRun.exit_code == 5
    assert run.envelope["errors"][0]["hint"] == "The same command goes on from there."
    assert run.envelope["data"]["documents"] == 1
    assert [one["method"] for one in answers(out)] == ["bare", "rag"]


def test_the_limit_may_grow_and_methods_be_added(km: Km, loaded: Loaded, tmp_path: Path) -> None:
    data, out = many(tmp_path / "data", 3), tmp_path / "out"
    assert km(*words(loaded, "hotpotqa", data, out, "--methods", "bare", "--limit", "1")).code == 0
    assert [one["case"] for one in answers(out)] == ["q0"]
    assert km(*words(loaded, "hotpotqa", data, out, "--methods", "bare,rag", "--limit", "2")).code == 0
    assert [(one["case"], one["method"]) for one in answers(out)] == [
        ("q0", "bare"),
        ("q0", "rag"),
        ("q1", "bare"),
        ("q1", "rag"),
    ]


def test_a_text_that_does_not_fit_is_said(km: Km, loaded: Loaded, tmp_path: Path) -> None:
    file = many(tmp_path / "data", 2)
    rows = json.loads(file.read_text())
    rows[1]["context"] = [["Mill", ["Ann Sarvack built it in 1871. " * 200]]]
    files.whole(file, rows)
    run = km(*words(loaded, "hotpotqa", file, tmp_path / "out", "--methods", "bare,full"))
    assert run.code == 0, run.err
    full = next(line for line in run.out.splitlines() if line.startswith("full"))
    assert " of 1 that fit" in full
    assert [one["fits"] for one in answers(tmp_path / "out")] == [True, True, True, False]


def test_a_folder_is_one_evaluations(km: Km, loaded: Loaded, tmp_path: Path) -> None:
    data, out = many(tmp_path / "data", 1), tmp_path / "out"
    assert km(*words(loaded, "hotpotqa", data, out, "--methods", "bare")).code == 0
    run = km(*words(loaded, "hotpotqa", data, out, "--methods", "bare", "--set", "rank=4"))
    assert run.code == 2
    assert f"km: {out} holds another evaluation (its recipe differs). Choose another folder: --out FOLDER" in run.err
    other = tmp_path / "data"
    run = km(*words(loaded, "hotpotqa", data, other, "--methods", "bare"))
    assert (run.code, f"{other} is not empty, and holds no evaluation." in run.err) == (2, True)


def test_the_embedded_base_has_seen_some(km: Km, km_home: Path, tmp_path: Path) -> None:
    data = files.squad(tmp_path, second=True)
    run = km("eval", "squad", "--data", str(data), "--methods", "bare", "--device", "cpu", "--json")
    assert run.code == 0, run.err
    assert "the embedded base was trained on SQuAD 1.1's development set" in run.err
    data_of = run.envelope["data"]
    assert list(data_of["rows"][0]["kinds"]) == ["answerable", "unanswerable"]
    assert data_of["folder"].startswith(str(km_home / "evaluations" / "squad-"))


@pytest.mark.parametrize(
    ("name", "split", "said", "warned"),
    [
        ("train-v2.0.json", None, "train", False),  # by its name
        ("train-v2.0.json", "train", "train", False),
        ("trained.json", "train", "train", False),
        ("trained.json", None, "dev", True),
        ("dev-v2.0.json", "train", "train", True),  # what is in it is the development set all the same
        ("", "train", "train", False),  # a folder
        ("", None, "dev", True),
    ],
)
def test_of_squad_the_embedded_base_has_seen_the_development_set_alone(
    km: Km, km_home: Path, tmp_path: Path, name: str, split: str | None, said: str, warned: bool
) -> None:
    file = files.squad(tmp_path, second=True)
    data = file.rename(tmp_path / (name or f"{said}-v2.0.json"))
    wanted = ("--split", split) if split else ()
    where = str(data if name else tmp_path)
    run = km("eval", "squad", "--data", where, *wanted, "--methods", "bare", "--device", "cpu", "--json")
    assert run.code == 0, run.err
    assert run.envelope["data"]["split"] == said
    assert ("the embedded base was trained on" in run.err) == warned


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("eval", "qualty", "--data", "."), "there is no benchmark 'qualty'. Did you mean quality?"),
        (("eval", "squad", "--data", ".", "--split", "tst"), "SQuAD has no split 'tst'. It has dev, train."),
        (
            ("eval", "squad", "--data", ".", "--methods", "kms"),
            "a benchmark cannot be asked by 'kms'. Did you mean km?",
        ),
    ],
)
def test_what_makes_no_sense(km: Km, given: tuple[str, ...], said: str) -> None:
    run = km(*given)
    assert run.code == 2
    assert said in run.err


def test_a_split_without_documents(km: Km, loaded: Loaded, tmp_path: Path) -> None:
    run = km(*words(loaded, "narrativeqa", files.narrativeqa(tmp_path / "d"), tmp_path / "o", "--split", "valid"))
    assert run.code == 2
    assert "holds no documents of the split valid." in run.err
