"""Events to lines and bars."""

from __future__ import annotations

import re
import sys

import pytest

from cli_cases import in_terminal
from kmcli.cli.progress import Reporter
from kmcli.cli.screen import Screen
from kmcli.types import Event


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Reporter(Screen("train"), clock) as report:
        for step in range(301):
            clock.now = step / 10
            report(Event("train", "", step, 300, {"loss": 1 - step / 400}))
    assert capsys.readouterr().err == (
        "train  0/300\n"
        "train  100/300  loss 0.75  about 20 s left\n"
        "train  200/300  loss 0.5  about 10 s left\n"
        "train  300/300  loss 0.25  in 30 s\n"
    )


def test_what_an_earlier_run_did_says_nothing_of_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Reporter(Screen("synth"), clock) as report:
        for step in range(200, 301):
            clock.now = (step - 200) / 5
            report(Event("write", "", step, 300, {"tokens/s": 1234.5}))
    assert capsys.readouterr().err == (
        "write  200/300\nwrite  250/300  tokens/s 1,234  about 10 s left\nwrite  300/300  tokens/s 1,234  in 20 s\n"
    )


def test_an_end_told_twice_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(Screen("train"), Clock()) as report:
        report(Event("teacher", "reading the document", 0, 2))
        report(Event("teacher", "", 2, 2))
        report(Event("teacher", "", 2, 2))
    assert capsys.readouterr().err == ("teacher  reading the document\nteacher  2/2  reading the document  in 0.0 s\n")


def test_a_stage_of_the_next_document_begins_anew(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(Screen("add"), Clock()) as report:
        for name in ("a.pdf", "b.pdf"):
            for page in (1, 2):
                report(Event("read", name, page, 2))
    assert capsys.readouterr().err == (
        "read  a.pdf\nread  2/2  a.pdf  in 0.0 s\nread  b.pdf\nread  2/2  b.pdf  in 0.0 s\n"
    )


def test_what_was_stopped_says_where(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Reporter(Screen("train"), clock) as report:
        report(Event("download", "Qwen/Qwen3-0.6B", 0, 1_200_000_000))
        clock.now = 5
        report(Event("download", "Qwen/Qwen3-0.6B", 300_000_000, 1_200_000_000))
    assert capsys.readouterr().err.splitlines()[-1] == "download  300 MB/1.2 GB  Qwen/Qwen3-0.6B  in 5.0 s"


def test_quiet_keeps_warnings_and_the_envelope_keeps_all(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen("add", quiet=True)
    with Reporter(screen, Clock()) as report:
        report(Event("base", "embedded base"))
        report(Event("read", "a.pdf", 1, 3))
        report(Event("read", "page 2 is damaged", warning=True))
    assert capsys.readouterr().err == "warning: page 2 is damaged\n"
    assert screen.messages == ["embedded base", "page 2 is damaged"]


PROGRAM = """
from kmcli.cli.progress import Reporter
from kmcli.cli.screen import Screen
from kmcli.types import Event
import time
with Reporter(Screen("train"), lambda: 0.0) as report:
    for step in range(1, 41):
        report(Event("train", "", step, 40, {"loss": 1 / step}))
        time.sleep(0.01)
    report(Event("base", "a message"))
    report(Event("write", "bad \\x1b]0;name\\x07", 1, 9))
    time.sleep(0.2)
"""


def test_bars_in_a_terminal() -> None:
    code, shown = in_terminal([sys.executable, "-c", PROGRAM])
    assert code == 0
    assert "━" in shown
    assert "\x1b[" in shown
    assert "train  40/40  loss 0.025  in 0.0 s" in shown
    assert "a message" in shown
    assert "\x1b]0;" not in shown


@pytest.mark.parametrize("settings", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_escape_codes_where_none_are_wanted(settings: dict[str, str]) -> None:
    code, shown = in_terminal([sys.executable, "-c", PROGRAM], **settings)
    assert code == 0
    assert "\x1b" not in shown
    assert "train  40/40  loss 0.025  in 0.0 s" in shown


NARROW = """
from kmcli.cli.progress import Reporter
from kmcli.cli.screen import Screen
from kmcli.types import Event
import time
with Reporter(Screen("synth")) as report:
    for step in range(7):
        report(Event("write", "", step + 0.5, 9, {"kept": 1234, "dropped": 5678, "tokens/s": 91011.0, "agree": 0.5}))
        time.sleep(0.1)
    time.sleep(1)  # for ten more frames: a busy machine leaves some out
"""


def test_in_a_narrow_terminal_the_numbers_are_cut_and_the_rest_stays() -> None:
    code, shown = in_terminal([sys.executable, "-c", NARROW], COLUMNS="40")
    assert code == 0
    frames = [re.sub(r"\x1b\[[0-9;?]*\w", "", line) for line in re.split(r"[\r\n]+", shown)]
    bars = [frame for frame in frames if "━" in frame]
    assert any(
        re.fullmatch(r"write [━╸╺]+ 6/9 \d\d:\d\d kept 1,234.*…", frame) for frame in bars
    )  # whole units: 6 of 6.5
    assert max(map(len, bars)) == 40


def test_figures_stay_in_their_order_where_one_comes_later(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Reporter(Screen("train"), clock) as report:
        report(Event("train", "", 1, 3, {"loss": 2.0, "tokens/s": 90}))
        clock.now = 20
        report(Event("train", "", 2, 3, {"loss": 1.0, "held out": 1.5, "tokens/s": 100}))
        report(Event("train", "", 3, 3, {"loss": 0.5}))
    assert capsys.readouterr().err.splitlines()[1:] == [
        "train  2/3  loss 1  held out 1.5  tokens/s 100  about 20 s left",
        "train  3/3  loss 0.5  held out 1.5  tokens/s 100  in 20 s",
    ]


MESSAGE = """
from kmcli.cli.progress import Reporter
from kmcli.cli.screen import Screen
from kmcli.types import Event
with Reporter(Screen("ask")) as report:
    report(Event("base", "embedded base: for trying km; for real work see km models"))
"""


def test_in_a_narrow_terminal_a_message_is_broken_between_words() -> None:
    code, shown = in_terminal([sys.executable, "-c", MESSAGE], COLUMNS="40")
    assert code == 0
    assert shown.split() == ["embedded", "base:", "for", "trying", "km;", "for", "real", "work", "see", "km", "models"]
    assert max(map(len, shown.splitlines())) <= 40


FINISHED = """
from kmcli.cli.progress import Reporter
from kmcli.cli.screen import Screen
from kmcli.types import Event
with Reporter(Screen("synth")) as report:
    for step in range(3):
        report(Event("write", "", step, 2, {"kept": 1234, "dropped": 5678, "tokens/s": 91011.0, "agree": 0.5}))
"""


def test_a_finished_stage_is_broken_between_its_figures() -> None:
    code, shown = in_terminal([sys.executable, "-c", FINISHED], COLUMNS="40", NO_COLOR="1")
    assert code == 0
    assert shown.replace("\r", "").splitlines()[-2:] == [
        "write  2/2  kept 1,234  dropped 5,678",
        "  tokens/s 91,011  agree 0.5  in 0.0 s",
    ]
