"""What study material will take, against what it takes: with an engine whose rate is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli_cases import Km
from kmcli.engines import Chat, Sampling
from kmcli.engines.metered import Metered
from kmcli.engines.openai import price
from kmcli.engines.scripted import ScriptedEngine
from kmcli.synthesis import estimate as room
from kmcli.synthesis import judge
from kmcli.synthesis.estimate import Estimate, estimate
from kmcli.synthesis.write import Unit, write
from kmcli.types import Chunk, Event, Recipe, Sample, silent
from synthesis_cases import GENERAL, RECIPE, Made
from workflow_cases import files_below, km, permits  # noqa: F401

NAMES = ["Ann", "Bo", "Cy", "Dee", "Eli", "Fay", "Gus", "Hal", "Ida", "Jon", "Kim", "Lou"]
CHUNKS = [
    Chunk(index, f"{name} built mill {index} in {1870 + index}. " * (3 + index % 4), 20, 0)
    for index, name in enumerate(NAMES)
]
SCALE = replace(RECIPE, generations=8, summary_share=0.25, chunk_tokens=200)


class Rated(ScriptedEngine):
    """Reads 1,000 tokens a second and writes 50, a call being a quarter of a second's overhead; two prices."""

    def __init__(self) -> None:
        super().__init__(self.say)
        self.now = 0.0
        self.cost = 0.0
        self.said = 0

    def say(self, chat: Chat, sampling: Sampling) -> str:
        ((_, content),) = chat
        self.said += 1
        name = content.split()[0] if content.split()[0] in NAMES else ""
        if "Rate them" in content:
            text = "Score: 4"
        elif GENERAL.write_qa in content:
            text = (
                f"Q: Who built mill {NAMES.index(name)}?\nA: {name}\nQ: What number {'x' * self.said} is it?\nA: {name}"
            )
        elif GENERAL.summarise in content:
            text = f"{name} built it, {'and ' * (self.said % 7)}that is all."
        else:
            text = name if self.said % 3 else "no idea"
        read, written = self.count(chat), len(text.split())
        self.now += read / 1000 + written / 50
        self.cost += price(read, written, 1.0, 4.0)
        return text

    def generate(self, *given: Any, **named: Any) -> Any:
        self.now += 0.25
        return super().generate(*given, **named)

    def clock(self) -> float:
        return self.now


def estimated(recipe: Recipe, finished: set[Unit], unrated: list[Sample] | None = None) -> tuple[Estimate, Rated]:
    engine = Rated()
    return estimate(engine, CHUNKS, recipe, GENERAL, finished, unrated or [], clock=engine.clock), engine


def taken(recipe: Recipe, finished: set[Unit]) -> tuple[Made, Metered, Rated]:
    engine, made = Rated(), Made()
    meter = Metered(engine, clock=engine.clock)
    write(meter, CHUNKS, recipe, GENERAL, set(finished), {}, made.keep, silent, force=True)
    return made, meter, engine


@pytest.mark.parametrize("judged", [False, True])
@pytest.mark.parametrize("written", [0, 5])
def test_the_estimate_is_near_what_is_taken(judged: bool, written: int) -> None:
    """Within a tenth, of every number. The engine's rate is the same all the time, which no machine's is."""
    recipe = replace(SCALE, judge=judged)
    finished = {Unit(chunk.sha256, task) for chunk in CHUNKS[:written] for task in ("qa", "summary")}
    expected, probe = estimated(recipe, finished)
    made, meter, engine = taken(recipe, finished)
    assert (expected.chunks, expected.units, expected.drafts) == (12, 24 - 2 * written, 10 * (12 - written))
    assert expected.seconds == pytest.approx(engine.now, rel=0.1)
    assert expected.cost == pytest.approx(engine.cost, rel=0.1)
    assert expected.chats == pytest.approx(meter.chats, rel=0.1)
    assert expected.read == pytest.approx(meter.read, rel=0.1)
    assert expected.tokens == pytest.approx(meter.tokens, rel=0.1)
    assert expected.samples == pytest.approx(len(made.samples), rel=0.1)
    assert (expected.measured, expected.measured_seconds) == (60, probe.now)


def test_a_slow_engine_is_measured_on_one_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BUDGET", 5.0)
    expected, probe = estimated(SCALE, set())
    _, _, engine = taken(SCALE, set())
    assert expected.measured == 10
    assert probe.now < engine.now / 8
    assert expected.seconds == pytest.approx(engine.now, rel=0.3)


def test_nothing_to_write_takes_nothing() -> None:
    expected, probe = estimated(SCALE, {Unit(chunk.sha256, task) for chunk in CHUNKS for task in ("qa", "summary")})
    assert probe.calls == []
    assert (expected.units, expected.drafts, expected.chats, expected.seconds, expected.cost) == (0, 0, 0, 0.0, 0.0)


def test_rating_what_was_written_before_is_part_of_it() -> None:
    """No draft is missing, and 40 samples have no score."""
    finished = {Unit(chunk.sha256, task) for chunk in CHUNKS for task in ("qa", "summary")}
    made, _, _ = taken(SCALE, set())
    unrated = made.samples[:40]
    expected, probe = estimated(replace(SCALE, judge=True), finished, unrated)
    engine = Rated()
    judge.judge_all(engine, unrated, {c.sha256: c.text for c in CHUNKS}, GENERAL, lambda group: None, silent)
    assert (len(probe.calls), expected.chats, expected.drafts) == (16, 40, 0)
    assert expected.seconds == pytest.approx(engine.now, rel=0.1)
    assert expected.tokens == pytest.approx(80)


def test_an_engine_without_prices_has_no_cost() -> None:
    events: list[Event] = []
    engine = Rated()
    del engine.cost
    engine.say = lambda chat, sampling: "nothing of use"  # type: ignore[method-assign]
    engine.script = engine.say
    expected = estimate(engine, CHUNKS, SCALE, GENERAL, set(), report=events.append, clock=engine.clock)
    assert expected.cost is None
    assert [event.message for event in events] == ["measuring on 10 of 120 drafts", "measuring on 60 of 120 drafts"]
    assert all(event.done is None for event in events)


def test_the_command_says_what_it_would_take_and_writes_nothing(km: Km, permits: Path, km_home: Path) -> None:  # noqa: F811
    words = ("synth", "permits", "--set", "generations=4", "--set", "chunk_tokens=48")
    before = files_below(km_home)
    run = km(*words, "--estimate")
    assert run.code == 0
    assert run.out.startswith("permits: about ")
    assert "drafts, about" in run.out
    assert "was measured" not in run.err
    assert "cost" not in run.out
    data = json.loads(km(*words, "--estimate", "--json").out)["data"][0]
    assert data["document"]["name"] == "permits"
    assert data["drafts"] == 5 * data["chunks"]
    assert data["chats"] >= data["drafts"]
    assert data["cost"] is None
    changed = {name for name, content in files_below(km_home).items() if before.get(name) != content}
    assert not [name for name in changed if name.startswith(("documents", "modules"))]
    assert km(*words).code == 0
    done = km(*words, "--estimate", "--ray", "auto")  # for which no Ray is needed
    assert done.out == "permits: all its study material is written\n"
    assert "This machine was measured" in done.err
    again = km(*words, "--estimate", "--restart")
    assert "drafts" in again.out
