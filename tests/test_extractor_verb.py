"""km extractor as a person runs it."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from cli_cases import Km
from extractor_cases import QUICK, answer, loaded, names, questions, short, trained, write_questions
from kmcli import config
from kmcli.adapters import lora
from kmcli.evaluation.questions import read_about, read_questions
from training_cases import one_thread
from workflow_cases import is_sound, km, sentences


def test_it_is_trained_listed_shown_and_removed(km: Km, trained: dict[str, Any], names: list[str]) -> None:
    assert (trained["documents"], trained["held_out"], trained["resumed"]) == (3, 1, False)
    kept = trained["extractor"]
    assert kept["name"] == "qa"
    assert (kept["recipe"]["rank"], kept["recipe"]["modules"], kept["recipe"]["passages"]) == (4, True, 0)
    assert kept["metrics"]["steps"] == 6
    assert "curve" not in kept["metrics"]
    folder = Path(kept["path"])
    assert folder.parent == config.home() / "extractors"
    assert {file.name for file in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "card.md",
        "documents.json",
        "metrics.json",
        "mixing.safetensors",
        "recipe.json",
    }
    assert json.loads((folder / "documents.json").read_text()) == kept["documents"]
    assert len(kept["documents"]) == 4
    assert "6 questions about 3 documents in 6 steps" in (folder / "card.md").read_text()
    assert [path.name for path in (config.home() / "extractors").iterdir()] == [kept["id"]]
    assert is_sound(km)
    assert [one["name"] for one in km("extractor", "ls", "--json").envelope["data"]] == ["qa"]
    assert km("extractor", "show", "QA", "--json").envelope["data"]["id"] == kept["id"]
    shown = km("extractor", "show", "qa").out
    assert ["reads", "Knowledge", "Modules"] in [line.split() for line in shown.splitlines()]
    assert "6 questions about 3 documents" in shown
    assert "without it" in shown
    assert km("extractor", "rm", "qa").out == "removed the extractor qa\n"
    assert not folder.exists()
    run = km("extractor", "show", "qa")
    assert (run.code, sentences(run.err)) == (
        3,
        ["km: there is no extractor 'qa'. Train one with: km extractor train NAME --docs ..."],
    )


def test_training_it_again_replaces_it_and_what_was_made_with_it(
    km: Km, trained: dict[str, Any], questions: Path
) -> None:
    answer(km, "mill-5", "Who?", "--extractor", "qa", "--engine", "hf")
    baked = config.home() / "cache" / "documents"
    assert [path.name.endswith(trained["extractor"]["id"]) for path in baked.glob("*/baked-*")] == [True]
    again = km("extractor", "train", "qa", "--questions", str(questions), *QUICK, "--json").envelope["data"]
    assert again["extractor"]["id"] != trained["extractor"]["id"]
    assert not Path(trained["extractor"]["path"]).exists()
    assert list(baked.glob("*/baked-*")) == []
    assert len(km("extractor", "ls", "--json").envelope["data"]) == 1


def test_documents_are_named_and_tagged_and_others_left_out(km: Km, names: list[str], questions: Path) -> None:
    words = (
        "extractor",
        "train",
        "some",
        "--docs",
        "mill-0",
        "mill-1",
        "mill-5",
        "--questions",
        str(questions),
        *QUICK,
    )
    run = km(*words, "--json")
    assert run.envelope["data"]["documents"] == 2
    assert run.envelope["data"]["held_out"] == 0
    assert "about which the file has no question: mill-5" in run.err
    run = km("extractor", "train", "all", "--docs", "@mills", "--questions", str(questions), *QUICK, "--json")
    assert run.envelope["data"]["documents"] + run.envelope["data"]["held_out"] == 4


def test_ctrl_c_and_the_same_command_goes_on(
    km: Km, names: list[str], questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("extractor", "train", "qa", "--questions", str(questions), *QUICK, "--json")
    through = km(*words).envelope["data"]["extractor"]
    whole = load_file(Path(through["path"]) / lora.WEIGHTS)
    km("extractor", "rm", "qa")
    from kmcli.training import extractor as training

    keep = training._Run._keep

    def stopping(self: Any, stop: bool) -> None:
        keep(self, stop)
        if self.progress.step == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(training._Run, "_keep", stopping)
    run = km(*words)
    assert run.code == 5
    assert "stopped at step 3 of 6; nothing is lost. The same command goes on from there." in run.err
    assert km("extractor", "ls", "--json").envelope["data"] == []
    assert is_sound(km)
    monkeypatch.undo()
    monkeypatch.setenv("KM_HOME", str(Path(through["path"]).parent.parent))
    monkeypatch.setenv("KM_MODEL", through["recipe"]["model"])
    run = km(*words)
    assert run.envelope["data"]["resumed"] is True
    assert "going on with the unfinished training of qa" in run.err
    resumed = load_file(Path(run.envelope["data"]["extractor"]["path"]) / lora.WEIGHTS)
    assert all((whole[name] == resumed[name]).all() for name in whole)


def test_other_questions_start_anew(km: Km, names: list[str], questions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kmcli.training import extractor as training

    def stop(self: Any, stop: bool) -> None:
        (self.folder / "checkpoint.safetensors").write_bytes(b"of a step")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training._Run, "_keep", stop)
        assert km("extractor", "train", "qa", "--questions", str(questions), *QUICK).code == 130
    write_questions(questions, names[:3])
    run = km("extractor", "train", "qa", "--questions", str(questions), *QUICK, "--json")
    assert run.code == 0
    assert run.envelope["data"]["resumed"] is False
    assert "differ from the unfinished training of qa: starting anew" in run.err


LINES = {
    '{"question": "Who?", "answer": "Ann"}': "line 1, does not say which document it is about",
    '{"question": "Who?", "answer": "Ann", "document": "mil-1"}': "line 1: there is no document 'mil-1'",
    '{"question": "Who?", "answer": "Ann", "document": "mill-1", "options": ["Bo", "Cy"]}': "line 1: no option is an",
}


@pytest.mark.parametrize("line", list(LINES))
def test_a_line_that_cannot_be_used_is_named(km: Km, names: list[str], tmp_path: Path, line: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(line)
    run = km("extractor", "train", "qa", "--docs", "@mills", "--questions", str(file))
    assert run.code == 2
    (said,) = sentences(run.err)
    assert LINES[line] in said
    assert list((config.home() / "extractors").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("train",), 2, "the extractor has no name."),
        (("train", "qa"), 2, "say what it is to be trained on."),
        (("train", "no name", "--docs", "mill-1"), 2, "'no name' cannot be the name of an extractor."),
        (("train", "qa", "--docs", "mill-1"), 1, "have no questions that their Knowledge Modules were not trained on."),
        (("train", "qa", "--docs", "mill-9"), 3, "there is no document 'mill-9'."),
        (
            ("train", "qa", "--docs", "@mills", "--set", "rnak=3"),
            2,
            "an extractor's recipe has no 'rnak'. Did you mean rank?",
        ),
        (("train", "qa", "--docs", "@mills", "--set", "rank=x"), 2, "rank must be a whole number, not 'x'."),
        (("train", "qa", "--docs", "@mills", "--set", "epochs=0"), 2, "epochs must lie between 0.01 and 1,000,000"),
        (
            ("train", "qa", "--docs", "@mills", "--no-modules"),
            2,
            "without Knowledge Modules an extractor reads nothing",
        ),
        (("show",), 2, "km extractor show takes a name and nothing more."),
        (("ls", "qa"), 2, "km extractor ls takes nothing more."),
        (("rm", "qa"), 3, "there is no extractor 'qa'."),
    ],
)
def test_bad_input_is_a_sentence(km: Km, names: list[str], words: tuple[str, ...], code: int, said: str) -> None:
    run = km("extractor", *words)
    assert run.code == code
    assert said in run.err
    assert len(sentences(run.err)) == 1
    assert list((config.home() / "extractors").iterdir()) == []


def test_doctor_finds_one_that_has_lost_its_weights(km: Km, trained: dict[str, Any]) -> None:
    (Path(trained["extractor"]["path"]) / lora.WEIGHTS).unlink()
    (Path(trained["extractor"]["path"]) / "mixing.safetensors").unlink()
    run = km("doctor")
    assert run.code == 1
    assert "the Knowledge Extractor qa has lost its weights." in run.out
    assert km("doctor", "--repair").code == 0
    assert km("extractor", "ls", "--json").envelope["data"] == []
    assert is_sound(km)


def test_questions_say_what_they_are_about(tmp_path: Path) -> None:
    file = tmp_path / "q.csv"
    file.write_text("question,answers,document,options\nWho?,Ann,mill,Ann||Bo\nWhen?,1871,,\n")
    (_, about, choice), (_, none, plain) = read_about(file)
    assert (about, none) == ("mill", "")
    assert (choice.question, choice.options, plain.options) == ("Who?", ("Ann", "Bo"), ())
    assert read_questions(file) == [choice, plain]
