"""km show --curve: what is drawn, in which width and in which characters, and the figures beside it."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli_cases import Km, command, document, in_terminal, module, returning
from kmcli.cli.curve import ASCII, NARROWEST, ROWS, UNICODE, drawn, facts
from kmcli.workflows import documents
from workflow_cases import km, permits, trained_home

CURVE: Any = [
    {"step": 1, "loss": 4.0, "kl": 3.0},
    {"step": 2, "loss": 3.0},
    {"step": 3, "loss": 2.0, "held_out": 2.5},
    {"step": 4, "loss": 1.0, "held_out": 1.5},
]


def test_by_hand() -> None:
    """Sixteen columns for four steps, twelve rows for 4 to 1."""
    assert drawn(CURVE, 10, "ascii") == [
        "4.00 |.",
        "     |",
        "     |",
        "3.18 |",
        "     |     .",
        "     |",
        "2.36 |          o",
        "     |          .",
        "     |",
        "1.55 |               o",
        "     |",
        "1.00 |               .",
        "     +----------------",
        "      step 1         4",
        "      . training   o held out",
    ]
    assert drawn(CURVE, 10, "utf-8")[-4:] == [
        "1.00 │               ·",
        "     └────────────────",
        "      step 1         4",
        "      · training   ● held out",
    ]


@pytest.mark.parametrize(
    ("high", "low", "labels"),
    [
        (4.524, 0.2464, ["4.52", "3.36", "2.19", "1.02", "0.25"]),
        (0.0512, 0.0104, ["0.0512", "0.0401", "0.0289", "0.0178", "0.0104"]),
        (12345.0, 12.0, ["12345", "8981", "5618", "2254", "12"]),
        (2.0, 2.0, ["2.00"] * 5),
        (0.0, 0.0, ["0"] * 5),
        (3e-9, 1e-9, ["3e-09", "2.45e-09", "1.91e-09", "1.36e-09", "1e-09"]),
    ],
)
def test_the_axis_is_written_in_one_form(high: float, low: float, labels: list[str]) -> None:
    lines = drawn([{"step": 1, "loss": high}, {"step": 2, "loss": low}], 60, "ascii")
    assert [label for line in lines[:ROWS] if (label := line.partition("|")[0].strip())] == labels


@pytest.mark.parametrize(
    ("encoding", "marks"), [("utf-8", UNICODE), ("latin-1", ASCII), ("ascii", ASCII), (None, ASCII)]
)
def test_characters_that_the_encoding_has(encoding: str | None, marks: tuple[str, ...]) -> None:
    lines = drawn(CURVE, 60, encoding)
    assert set("".join(lines[:ROWS])) - set("0123456789. e+-") <= set(marks)
    "\n".join(lines).encode(encoding or "ascii")


@settings(max_examples=50)
@given(
    st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), max_size=400),
    st.integers(40, 200),
    st.integers(1, 50),
)
def test_any_curve_fits_its_width(losses: list[float], width: int, every: int) -> None:
    curve: Any = [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)]
    for point in curve[::every]:
        point["held_out"] = point["loss"]
    lines = drawn(curve, width, "utf-8")
    if not any(loss == loss for loss in losses):
        assert lines == []
        return
    assert len(lines) == ROWS + 3
    assert max(map(len, lines)) == width - 1
    assert sum(line.count("●") + line.count("·") for line in lines[:ROWS]) >= 1


def test_nothing_to_draw() -> None:
    assert drawn([], 80, "utf-8") == []
    assert drawn([{"loss": 1.0}, {"step": "2", "loss": True}, {"step": 3}], 80, "utf-8") == []


def test_figures() -> None:
    metrics = {
        "steps": 150,
        "planned_steps": 360,
        "stopped_early": True,
        "train_loss": 0.25,
        "held_out_loss": 0.5,
        "best_step": 50,
        "seconds": 75.0,
        "tokens_per_second": 1234.5,
        "peak_memory": 1_400_000_000,
    }
    assert facts(metrics) == [
        ("steps", "150 of 360: the held-out loss fell no further"),
        ("loss", "0.25 in training, 0.5 held out, the best, of step 50"),
        ("speed", "1,234 scored tokens a second, 1 min 15 s in all steps"),
        ("peak memory", "1.4 GB"),
    ]
    assert facts({**metrics, "diverged": True})[0] == ("steps", "150 of 360: it diverged")
    assert facts({"steps": 4, "planned_steps": 4, "seconds": None, "train_loss": float("nan"), "curve": "x"}) == [
        ("steps", "4"),
        ("loss", ""),
        ("speed", ""),
        ("peak memory", ""),
    ]


def test_a_modules_curve(km: Km, trained_home: Path) -> None:
    run = km("show", "notes", "--curve")
    assert run.code == 0
    lines = run.out.splitlines()
    assert lines[0] == "notes"
    assert lines[ROWS + 2].split() == ["step", "1", "120"]
    assert lines[ROWS + 3].split() == ["·", "training", "●", "held", "out"]
    assert lines[ROWS + 4].startswith("  steps           ")
    assert max(map(len, lines)) <= 78
    data = km("show", "notes", "--curve", "--json").envelope["data"]
    saved = json.loads((Path(data["path"]) / "metrics.json").read_text())
    assert data["curve"] == saved["curve"]
    assert [point["step"] for point in data["curve"] if "held_out" in point] == [25, 50, 75, 100, 120]
    assert data["metrics"]["scored_tokens"] == saved["scored_tokens"] > 1000
    assert "curve" not in data["metrics"]


def test_in_a_terminal_it_fills_the_width(trained_home: Path) -> None:
    for locale, mark, columns in (("C.UTF-8", "●", "60"), ("C", "o", "110")):
        utf8 = "1" if locale == "C.UTF-8" else "0"
        words = command("show", "notes", "--curve")
        code, out = in_terminal(words, COLUMNS=columns, LC_ALL=locale, PYTHONUTF8=utf8, PYTHONCOERCECLOCALE="0")
        assert code == 0
        lines = out.replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()
        assert len(lines[ROWS + 1]) == int(columns) - 1
        assert any(mark in line for line in lines[1 : ROWS + 1])


def test_without_a_module(km: Km, permits: Path) -> None:
    run = km("show", "permits", "--curve")
    assert (run.code, run.out) == (3, "")
    assert run.err == "km: permits has no Knowledge Module yet. Make one: km train permits\n"


def test_a_module_without_a_record(km: Km, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an older km, or a folder that was imported: its points are not such points."""
    kept = documents.Entry(document(), "fresh", module(), 1)
    monkeypatch.setattr(documents, "show", returning(documents.Shown(kept, {})))
    run = km("show", "report", "--curve")
    assert (run.code, run.err) == (0, "How the loss of this Knowledge Module fell was not recorded.\n")
    assert run.out == "report\n  steps           300\n  loss            0.412 in training, 0.52 held out\n"
    assert km("show", "report", "--curve", "--json").envelope["data"]["curve"] == []
