"""In a real pseudo-terminal: styles, prompts, paging."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_cases import command, in_terminal, runner


@pytest.fixture
def report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.txt").write_text("Ann wrote this report in Oslo.")
    assert runner(capsys)("add", str(tmp_path / "report.txt")).code == 0


def test_headers_are_bold_and_no_color_means_none(report: None) -> None:
    code, shown = in_terminal(command("ls"))
    assert code == 0
    assert "\x1b[1mNAME    STATE" in shown
    for words in (["ls"], ["--help"], ["nonsense"], ["add", "/nowhere"], []):
        _, shown = in_terminal(command(*words), NO_COLOR="1")
        assert shown.strip()
        assert "\x1b" not in shown


@pytest.mark.parametrize(("typed", "left"), [("y\n", 0), ("n\n", 1), ("\n", 1)])
def test_rm_asks(report: None, capsys: pytest.CaptureFixture[str], typed: str, left: int) -> None:
    code, shown = in_terminal(command("rm", "report"), typed)
    assert code == 0
    assert "Remove report? [y/N] " in shown
    assert ("removed report" in shown) == (left == 0)
    assert len(runner(capsys)("ls", "--json").envelope["data"]) == left


def test_ask_asks_for_its_question(report: None) -> None:
    code, shown = in_terminal(command("ask", "report"), "\n")
    assert "Question: " in shown
    assert "the question is empty" in shown
    assert code == 2


def test_ctrl_c_at_a_prompt(report: None) -> None:
    code, shown = in_terminal(command("rm", "report"), "\x03")
    assert code == 130
    assert shown.rstrip().endswith("km: stopped.")


def test_long_names_are_cut_to_the_width(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "a-name-that-goes-on-and-on-and-on-far-beyond-any-reason"
    (tmp_path / "x.txt").write_text("Ann wrote this report in Oslo.")
    runner(capsys)("add", str(tmp_path / "x.txt"), "--name", name)
    _, shown = in_terminal(command("ls"), COLUMNS="60", NO_COLOR="1")
    assert max(map(len, shown.splitlines())) <= 60
    assert "a-name-that-" in shown
    assert "..." in shown
    assert name in runner(capsys)("ls").out
