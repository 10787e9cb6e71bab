"""What people try that nobody thought of: each ends in a sentence with the next step, and loses nothing."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from cli_cases import Km, command, environment, runner
from kmcli import bases
from kmcli.library import Library
from kmcli.types import silent
from library_material import train
from workflow_cases import sentences


@pytest.fixture
def km(capsys: pytest.CaptureFixture[str]) -> Km:
    return runner(capsys)


@pytest.fixture
def notes(km: Km, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A document, and the folder of its file, in which the test stands."""
    (tmp_path / "notes.txt").write_text("The heron waits.")
    monkeypatch.chdir(tmp_path)
    assert km("add", "notes.txt", "-q").code == 0
    return tmp_path


def started(*words: str, redirected: str) -> subprocess.CompletedProcess[str]:
    """km by a shell that redirects some of its streams."""
    line = f'exec "$@" {redirected}'
    return subprocess.run(
        ["sh", "-c", line, "sh", *command(*words)], capture_output=True, text=True, env=environment(), timeout=60
    )


@pytest.mark.usefixtures("notes")
@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["train", "--all", "notes"], 2, "--all is every document, and some are named. Leave one of them out."),
        (
            ["train", "notes", "--tokens", "5"],
            2,
            "cartridge_tokens is for the adapter cartridge, and this one is lora.",
        ),
        (["train", "notes", "--ratio", "5"], 2, "summary_ratio is for the adapter compressed, and this one is lora."),
        (["ask", "--each", "notes", "Who?", "--weight", "1"], 2, "--weight is not for --each. Leave one of them out."),
        (["ask", "--each", "notes", "Who?", "--explain"], 2, "--explain is not for --each. Leave one of them out."),
        (["synth", "notes", "--import", "-", "--restart"], 2, "--restart is for writing, and --import writes nothing."),
        (["synth", "notes", "--show", "--estimate"], 2, "--estimate is for writing, and --show writes nothing."),
        (["watch", ".", "--set", "rank=4"], 2, "how to train is said, and not that it should. Add --train,"),
        (["watch", ".", "--train", "--set", "foo=1"], 2, "a recipe has no 'foo' (--set)."),
        (["add", ""], 2, "a source is empty. Name a file, a folder or a URL."),
        (["add", "--tag"], 2, "option '--tag' requires an argument. See km add --help."),
        (["--json-", "ls"], 2, "there is no option '--json-' of km."),
        (["chat", "--turns", "x"], 2, "invalid value for '--turns': 'x' is not a whole number. See km chat --help."),
        (["watch", ".", "--every", "x"], 2, "invalid value for '--every': 'x' is not a number. See km watch --help."),
        (["show", "@none", "--changes"], 3, "no document has the tag 'none'."),
    ],
)
def test_one_sentence(km: Km, words: list[str], code: int, sentence: str) -> None:
    run = km(*words)
    assert run.code == code
    (said,) = sentences(run.err)
    assert said.startswith(f"km: {sentence}")


def test_json_before_the_command(km: Km) -> None:
    run = km("--json", "ls")
    assert run.code == 2
    (error,) = run.envelope["errors"]
    assert (error["message"], error["hint"]) == ("--json stands behind the command.", "For example: km ls --json")


def test_nothing_to_train(km: Km) -> None:
    for words in (("train", "--all"), ("train", "--all", "--estimate")):
        run = km(*words)
        assert run.code == 3
        assert sentences(run.err) == ["km: the library is empty. Add a document with: km add FILE"]


def test_each_reads_its_question_from_standard_input(notes: Path) -> None:
    for words in (("ask", "--each"), ("ask", "--each", "notes")):
        run = started(*words, redirected="< /dev/null")
        assert run.returncode == 2
        assert sentences(run.stderr)[-1].startswith("km: the question is empty.")
    (notes / "question").write_text("Who waits?\n")
    run = started("ask", "--each", "notes", "--json", redirected="< question")
    assert json.loads(run.stdout)["data"]["question"] == "Who waits?", run.stderr


@pytest.mark.usefixtures("notes")
def test_closed_streams_are_empty_ones() -> None:
    run = started("ls", redirected=">&-")
    assert (run.returncode, run.stderr) == (0, "")
    run = started("add", "-", redirected="<&-")
    assert run.returncode == 1
    assert sentences(run.stderr) == [
        "km: -: standard input is empty. Is it the right file, and was it written completely?"
    ]


@pytest.mark.usefixtures("notes")
@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no such device")
def test_a_full_disk_behind_standard_output_is_no_fault_of_the_library() -> None:
    for words in (("ls",), ("ls", "--json")):
        run = started(*words, redirected="> /dev/full")
        assert run.returncode == 4
        assert sentences(run.stderr) == [
            "km: standard output cannot be written to: no space left on device. Send it somewhere else."
        ]


def test_a_wrong_setting_is_mended_by_the_command_that_is_named(km: Km, km_home: Path) -> None:
    km_home.mkdir()
    (km_home / "config.toml").write_text('device = "gpu"\nmodle = "x"\n')
    assert sentences(km("ls").err)[0].endswith("Or: km config unset device")
    assert km("config", "set", "device", "cpu").code == 0
    assert sentences(km("ls").err)[0].endswith("Or: km config unset modle")
    assert km("config", "unset", "modle").code == 0
    assert km("ls").code == 0
    assert km("config", "unset", "modle").code == 2


def test_a_file_that_now_says_what_another_does(km: Km, notes: Path) -> None:
    (notes / "birds.txt").write_text("The otter swims.")
    assert km("add", "birds.txt").code == 0
    (notes / "birds.txt").write_text("The heron waits.")
    run = km("add", "birds.txt")
    assert run.out.startswith("unchanged  notes")
    keeps = "birds, which was read from it before, keeps its old text: km rm birds"
    assert f"birds.txt has the same contents as notes now; {keeps}" in run.err


def test_what_is_imported_for_a_trained_document_is_studied_by_force(km: Km, notes: Path, km_home: Path) -> None:
    line = {"prompt": "Who waits?", "response": "The heron", "context": "The heron waits."}
    (notes / "material.jsonl").write_text(json.dumps(line) + "\n")
    assert km("synth", "notes", "--import", "material.jsonl").err.endswith("Next: km train notes\n")
    base = bases.find(bases.EMBEDDED, silent)
    with Library.open(km_home) as library:
        train(library, library.find("notes"), model=base.name, revision=base.revision)  # type: ignore[arg-type]
    line["prompt"] = "Which bird waits?"
    (notes / "material.jsonl").write_text(json.dumps(line) + "\n")
    assert km("synth", "notes", "--import", "material.jsonl").err.endswith("Next: km train notes --force\n")


def test_a_link_to_nothing_and_a_text_that_is_empty(km: Km, notes: Path) -> None:
    (notes / "link.txt").symlink_to(notes / "nowhere.txt")
    assert sentences(km("add", "link.txt").err) == [
        f"km: {notes / 'link.txt'} is a link to a file that is not there. Check where it leads."
    ]
    (notes / "lines.jsonl").write_text('{"text": "", "body": "The otter swims."}\n')
    assert km("add", "lines.jsonl").code == 0
    (error,) = sentences(km("add", "lines.jsonl", "--column", "boddy").err)
    assert "the first line of " in error
    assert "Did you mean body?" in error


def test_a_base_that_can_be_none(km: Km, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KM_MODEL", os.path.join(os.sep, "nowhere"))
    (base,) = [one for one in km("doctor", "--json").envelope["data"] if one["subject"] == "base"]
    assert base["status"] == "bad"
    assert base["message"] == "'/nowhere' is neither a folder on this machine nor the name of a hub model."
