"""The table of several documents in training."""

from __future__ import annotations

import sys

import pytest
from rich.cells import cell_len

from cli_cases import in_terminal
from kmcli.cli.progress import Reporter
from kmcli.cli.screen import Screen
from kmcli.cli.standings import Standings
from kmcli.types import Event
from kmcli.workflows.standing import Follower, Standing


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def stands(document: str, state: str, **more: float) -> Standing:
    return Standing("train", document=document, state=state, **more)  # type: ignore[arg-type]


def test_whose_progress_it_is() -> None:
    follower = Follower()
    assert follower.about(Event("train", "", 1, 2)) is None
    follower.about(stands("a", "training"))
    follower.about(stands("b", "training"))
    for stage, name in (("train a", "a"), ("train b", "b"), ("train", "b"), ("teacher", "b")):
        found = follower.about(Event(stage, "", 1, 2, {"loss": 0.5}))
        assert (found.document, found.state, found.done, found.numbers) == (name, "training", 1, {"loss": 0.5})
    assert follower.about(Event("train c", "", 1, 2)) is None
    assert follower.about(Event("note", "mind", warning=True)) is None


@pytest.mark.parametrize(("wide", "high"), [(80, 24), (120, 40), (40, 8)])
def test_hundreds_fit(wide: int, high: int) -> None:
    clock = Clock()
    table = Standings(Screen("train", quiet=True), clock)
    names = [f"annual-report-of-the-harbour-authority-{number:03}" for number in range(300)]
    for place, name in enumerate(names):
        table.take(stands(name, "skipped" if place < 30 else "waiting", words=100))
    for name in names[30:150]:
        table.take(stands(name, "writing"))
        table.take(stands(name, "done"))
    table.take(stands(names[150], "failed"))
    for name in names[151:159]:
        table.take(stands(name, "training"))
    for name in names[151:159]:
        for step in (0, 50):
            table.take(Event(f"train {name}", "", step, 100, {"loss": 0.25, "held out": 0.5}))
    clock.now = 60.0

    lines = table.lines(wide, high)
    assert len(lines) < high
    assert all(cell_len(line) < wide for line in lines)
    at_work = [line for line in lines if "training  50/100" in line]
    assert len(at_work) == min(8, high - 4)
    assert all("loss 0.25" in line for line in at_work)
    assert all(("held out 0.5" in line) == (wide >= 100) for line in at_work)
    done, rest = lines[-2:]
    if wide > 60:
        # 121 documents in a minute, and 8 that are in half of five sixths of theirs (nothing had to be written), of 270
        assert done == "120 of 300 documents done, about 1 min 10 s left"
        assert rest == "1 failed, 8 training, 141 waiting, 30 skipped"


def test_no_time_before_there_is_anything_to_say() -> None:
    clock = Clock()
    table = Standings(Screen("train", quiet=True), clock)
    for name in ("a", "b"):
        table.take(stands(name, "waiting", words=10))
    clock.now = 5.0
    assert table.remaining(5.0) is None
    table.take(stands("a", "writing"))
    table.take(Event("write", "", 1, 2))
    assert table.remaining(5.0) == pytest.approx(5.0 * 0.9 / 0.1)
    table.take(stands("a", "waiting"))  # it has failed, and is tried again
    assert table.remaining(5.0) is None


def test_what_an_earlier_run_did_says_nothing_of_the_time_left() -> None:
    clock = Clock()
    table = Standings(Screen("train", quiet=True), clock)
    for state in ("waiting", "writing", "training"):
        table.take(stands("a", state, words=10))
    table.take(Event("train", "", 400, 800))
    assert table.remaining(0.0) is None
    table.take(Event("train", "", 500, 800))
    assert table.remaining(60.0) == pytest.approx(60 * (7 / 12 - 5 / 48) / (5 / 48))


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Reporter(Screen("train"), clock) as report:
        for name in ("a", "b", "c"):
            report(stands(name, "skipped" if name == "c" else "waiting", words=10))
        for name, end in (("a", "done"), ("b", "failed")):
            report(Event("train", f"{name}, 1 of 2"))
            report(stands(name, "writing"))
            report(Event("write", "", 1, 2))
            report(stands(name, "training"))
            clock.now += 30
            report(Event("train", "", 5, 10, {"loss": 0.5}))
            report(Event("note", "mind the gap", warning=True))
            report(stands(name, end))
    assert capsys.readouterr().err == (
        "a, 1 of 2\n"
        "0 of 3 documents done; 1 writing, 1 waiting, 1 skipped\n"
        "warning: mind the gap\n"
        "a  done  30 s\n"
        "1 of 3 documents done, about 30 s left; 1 waiting, 1 skipped\n"
        "b, 1 of 2\n"
        "warning: mind the gap\n"
        "b  failed  30 s\n"
        "1 of 3 documents done; 1 failed, 1 skipped\n"
    )


def test_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(Screen("train", quiet=True)) as report:
        for state in ("waiting", "training", "done"):
            report(stands("a", state))
    assert capsys.readouterr().err == ""


def test_in_a_terminal() -> None:
    code = """
import time
from kmcli.cli.progress import Reporter
from kmcli.cli.screen import Screen
from kmcli.types import Event
from kmcli.workflows.standing import Standing
with Reporter(Screen("train")) as report:
    for name in ("alpha", "beta"):
        report(Standing("train", document=name, state="waiting", words=5))
    report(Event("train", "alpha, 1 of 2"))
    report(Standing("train", document="alpha", state="training"))
    report(Event("train", "", 5, 10, {"loss": 0.5}))
    report(Event("note", "mind the gap", warning=True))
    time.sleep(0.6)
"""
    shown = in_terminal([sys.executable, "-c", code])[1]
    assert "warning: mind the gap" in shown
    assert "alpha  training  5/10  loss 0.5" in shown
    assert "beta   waiting" in shown
    assert "0 of 2 documents done" in shown
    assert "alpha, 1 of 2" not in shown
