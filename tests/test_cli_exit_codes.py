"""The boundary: every way a command can end, as exit code, sentence and envelope."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import time
from pathlib import Path

import pytest

from cli_cases import Km, command, document, environment, exported, returning, runner, trained
from kmcli import errors
from kmcli.errors import InterruptedRun, KmError, NotFoundError, PartlyDone, ResourceError, UsageError
from kmcli.library import Added
from kmcli.workflows import documents, setup, share, study
from kmcli.workflows.documents import AddReport
from kmcli.workflows.house import Failure
from kmcli.workflows.study import TrainReport


@pytest.fixture
def km(capsys: pytest.CaptureFixture[str]) -> Km:
    return runner(capsys)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KmError("it broke.", "Mend it."), 1),
        (UsageError("it makes no sense.", "Say it otherwise."), 2),
        (NotFoundError("there is none.", "Add one."), 3),
        (ResourceError("memory is short.", "Buy some."), 4),
        (InterruptedRun("stopped.", "The same command goes on."), 5),
        (PartlyDone("one of two failed.", "See above."), 6),
    ],
)
def test_every_error_of_the_family_is_one_line_and_its_code(
    km: Km, monkeypatch: pytest.MonkeyPatch, error: KmError, code: int
) -> None:
    monkeypatch.setattr(documents, "ls", returning(pickle.loads(pickle.dumps(error))))
    plain = km("ls")
    assert (plain.code, plain.out, plain.err) == (code, "", f"km: {error.message} {error.hint}\n")
    told = km("ls", "--json")
    assert told.code == code
    assert told.envelope == {
        "schema": 1,
        "command": "ls",
        "data": None,
        "messages": [],
        "errors": [
            {"type": type(error).__name__, "message": error.message, "hint": error.hint, "exit_code": code},
        ],
    }
    assert code in errors.EXIT_CODES


def test_a_bug_keeps_its_traceback(km: Km, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "ls", returning(ZeroDivisionError("by zero")))
    run = km("ls", "--json")
    assert run.code == 1
    assert "Traceback (most recent call last)" in run.err
    assert "in returning" not in run.out
    assert run.err.endswith("km: this is a bug in km (ZeroDivisionError). Please report it with the lines above.\n")
    assert run.envelope["errors"][0]["exit_code"] == 1


def test_ctrl_c_is_130(km: Km, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "ls", returning(KeyboardInterrupt()))
    run = km("ls")
    assert (run.code, run.out, run.err) == (130, "", "\nkm: stopped.\n")


def test_a_real_interrupt_is_130() -> None:
    process = subprocess.Popen(
        command("add", "-"), stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "add  -\n"  # it reads now
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_a_closed_pipe_is_quiet() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command("completion", "bash"), stdout=write, stderr=subprocess.PIPE, env=environment())
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trian"], "km: there is no command 'trian'. Did you mean train?"),
        (["qqqq"], "km: there is no command 'qqqq'. km --help lists them."),
        (["ls", "extra"], "km: km ls takes no more words, and got 'extra'. See km ls --help."),
        (["doctor", "@a", "b"], "km: km doctor takes no more words, and got '@a b'. See km doctor --help."),
        (["ls", "@work"], "km: km ls takes no more words, and got '@work'. For a tag: km ls --tag work"),
        (["ls", "@work", "b"], "km: km ls takes no more words, and got '@work b'. See km ls --help."),
        (["show"], "km: missing argument 'NAME'. See km show --help."),
        (["ls", "--taag"], "km: there is no option '--taag' of km ls. Did you mean --tag?"),
        (["ls", "--xyz"], "km: there is no option '--xyz' of km ls. See km ls --help."),
        (["export", "--quant", "Z"], "km: invalid value for '--quant': 'Z' is not one of"),
        (["ask", "a", "what", "is", "it"], "km: the question has to be one argument. Put it in quotes: km ask NAME"),
        (["ask", "a", ""], "km: the question is empty."),
        (["train"], "km: name the documents to train, or say --all."),
        (["train", "a", "--preset", "x"], "km: 'x' is no value for 'preset' (flag)."),
        (["config", "get"], "km: km config get takes KEY. Write km config get KEY."),
        (["config", "set", "model"], "km: km config set takes KEY and VALUE."),
        (["config", "path", "x"], "km: km config path takes nothing more."),
        (["config", "get", "modle"], "km: there is no setting 'modle'. Did you mean model?"),
        (["man", "tran"], "km: there is no page 'tran'. Did you mean train?"),
        (["completion", "csh"], "km: invalid value for 'SHELL': 'csh' is not one of 'bash', 'zsh', 'fish'."),
    ],
)
def test_usage_errors_are_one_sentence(km: Km, words: list[str], sentence: str) -> None:
    run = km(*words)
    assert run.code == 2
    assert run.out == ""
    assert run.err.startswith(sentence)
    assert run.err.count("\n") == 1
    told = km(*words, "--json").envelope["errors"]
    assert [error["exit_code"] for error in told] == [2]


def test_a_name_that_almost_exists(km: Km, tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_text("Ann wrote this report in Oslo.")
    assert km("add", str(tmp_path / "report.txt")).code == 0
    for words in (["show", "repotr"], ["mv", "repotr", "x"], ["rm", "--yes", "repotr"], ["ask", "repotr", "Who?"]):
        run = km(*words)
        assert run.code == 3
        assert "Did you mean report?" in run.err


def test_rm_needs_yes_where_nobody_can_be_asked(km: Km, tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_text("Ann wrote this report in Oslo.")
    km("add", str(tmp_path / "report.txt"))
    run = km("rm", "report")
    assert (run.code, run.err) == (2, "km: nobody can be asked here whether to remove report. Add --yes.\n")
    assert len(km("ls", "--json").envelope["data"]) == 1
    assert km("rm", "-y", "report").out == "removed report\n"
    assert km("ls", "--json").envelope["data"] == []
    assert (tmp_path / "report.txt").exists()


# --- several inputs

BAD = Failure("bad.pdf", ResourceError("bad.pdf is encrypted.", "Decrypt it."))
WORSE = Failure("worse.pdf", KmError("it is no PDF.", "Convert it."))
GOOD = Added(document(), "added", False)


@pytest.mark.parametrize(
    ("added", "failed", "code"),
    [((GOOD,), (), 0), ((), (BAD,), 4), ((), (BAD, WORSE), 1), ((GOOD,), (BAD,), 6), ((GOOD,), (BAD, WORSE), 6)],
)
def test_add_codes(
    km: Km, monkeypatch: pytest.MonkeyPatch, added: tuple[Added, ...], failed: tuple[Failure, ...], code: int
) -> None:
    monkeypatch.setattr(documents, "add", returning(AddReport(added, failed)))
    run = km("add", "x")
    assert run.code == code
    assert ("km: bad.pdf is encrypted. Decrypt it.\n" in run.err) == (BAD in failed)
    assert ("km: worse.pdf: it is no PDF. Convert it.\n" in run.err) == (WORSE in failed)
    told = km("add", "x", "--json").envelope
    assert [error["source"] for error in told["errors"]] == [failure.source for failure in failed]
    assert [entry["name"] for entry in told["data"]] == ["report"] * len(added)


@pytest.mark.parametrize(
    ("done", "skipped", "failed", "code"),
    [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 4), (0, 0, 2, 1), (1, 0, 1, 6), (0, 1, 1, 6)],
)
def test_train_codes(km: Km, monkeypatch: pytest.MonkeyPatch, done: int, skipped: int, failed: int, code: int) -> None:
    report = TrainReport((trained(),) * done, (BAD,) * failed, (document("old"),) * skipped)
    monkeypatch.setattr(study, "train", returning(report))
    assert km("train", "--all").code == code
    assert km("distill", "--all", "-q", "--json").envelope["command"] == "train"


def test_real_folder_with_a_bad_file(km: Km, tmp_path: Path) -> None:
    folder = tmp_path / "papers"
    folder.mkdir()
    (folder / "good.txt").write_text("Ann wrote this report in Oslo.")
    (folder / "bad.pdf").write_bytes(b"nothing")
    run = km("add", str(folder))
    assert run.code == 6
    assert run.out == "added  good  text    6 words\n"
    assert "bad.pdf" in run.err
    assert km("add", str(folder / "bad.pdf")).code == 1


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_export_that_fails_its_check(km: Km, monkeypatch: pytest.MonkeyPatch, passed: bool, code: int) -> None:
    monkeypatch.setattr(share, "export", returning(exported(passed)))
    run = km("export")
    assert run.code == code
    assert ("check passed" in run.out) == passed
    assert km("export", "--json").envelope["data"]["checked"]["passed"] is passed


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("warn", 0), ("bad", 1)])
def test_doctor(km: Km, monkeypatch: pytest.MonkeyPatch, status: str, code: int) -> None:
    check = setup.Check(status, "library", "one file is missing", "km doctor --repair")  # type: ignore[arg-type]
    monkeypatch.setattr(setup, "doctor", returning([check]))
    run = km("doctor")
    assert run.code == code
    assert ("km doctor --repair" in run.out) == (status != "ok")
    assert km("doctor", "--json").envelope["data"][0]["status"] == status
