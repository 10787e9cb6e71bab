"""Writing study material in groups: going on after a stop, progress, and giving up on what cannot be read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from kmcli.bases.prompts import Prompts
from kmcli.engines import Chat, Sampling, metered
from kmcli.engines.scripted import ScriptedEngine
from kmcli.errors import KmError
from kmcli.synthesis import TASKS
from kmcli.synthesis import write as room
from kmcli.synthesis.check import KEPT
from kmcli.synthesis.write import Unit, confirmed_share, shares, write
from kmcli.types import Chunk, Event, silent
from synthesis_cases import BARN, BOAT, EMBEDDED, GENERAL, MILL, QA_ONLY, RECIPE, Made, chunk_of, counted, run, script

# --- groups, and going on ---


def test_groups_are_filled_by_chats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "CHATS_PER_GROUP", 9)
    made, _ = run(script(), [MILL, BARN, BOAT], RECIPE)
    assert [[unit.task for unit in group] for group in made.groups] == [["qa", "summary"]] * 3  # 4 + 2 chats each
    monkeypatch.setattr(room, "CHATS_PER_GROUP", 1)
    made, _ = run(script(), [MILL, BARN, BOAT], RECIPE)
    assert [len(group) for group in made.groups] == [1] * 6  # a unit is never torn


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_a_resumed_run_makes_the_same_groups_and_samples(monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    monkeypatch.setattr(room, "CHATS_PER_GROUP", 5)
    whole, engine = run(script(), [MILL, BARN, BOAT], RECIPE)
    assert len(whole.groups) == 6
    made = Made()

    def dying(*handed: Any) -> None:
        if len(made.groups) == stop:
            raise KeyboardInterrupt
        made.keep(*handed)

    first = ScriptedEngine(script(), 10_000)
    with pytest.raises(KeyboardInterrupt):
        write(first, [MILL, BARN, BOAT], RECIPE, EMBEDDED, set(), {}, dying, silent)
    before = list(made.groups)
    _, second = run(script(), [MILL, BARN, BOAT], RECIPE, made)
    assert made.groups == whole.groups
    assert made.groups[:stop] == before
    assert made.samples == whole.samples
    assert made.counts == whole.counts
    assert second.calls == engine.calls[-len(second.calls) :]  # the same questions to the base, none of the finished


def test_what_is_finished_is_not_written_again() -> None:
    made, _ = run(script(), [MILL, BARN], RECIPE)
    count = len(made.samples)
    _, engine = run(script(), [MILL, BARN], RECIPE, made)
    assert engine.calls == []
    assert len(made.samples) == count
    _, engine = run(script(), [MILL, BARN, BOAT], RECIPE, made)  # the document has grown
    assert {chunk_of(content) for ((_, content),) in engine.calls} == {BOAT, None}
    assert made.finished == {Unit(chunk.sha256, task) for chunk in (MILL, BARN, BOAT) for task in RECIPE.tasks}


def test_a_chunk_that_stands_twice_in_a_document_is_studied_once() -> None:
    events: list[Event] = []
    made, _ = run(script(), [MILL, replace(MILL, index=1)], report=events.append)
    assert made.pairs == [("Who built the mill?", "Ann"), ("When was it built?", "1871")]
    assert (events[-1].done, events[-1].total) == (1, 1)


def test_progress_counts_units_and_shows_what_was_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "CHATS_PER_GROUP", 6)
    events: list[Event] = []
    made = Made()
    made.keep([], [Unit(MILL.sha256, "qa"), Unit(MILL.sha256, "summary")], counted("qa", agree=1, disagree=1))
    run(script(), [MILL, BARN, BOAT], RECIPE, made, report=events.append)
    assert [(event.stage, event.done, event.total) for event in events] == [("write", n, 6) for n in (2, 4, 6)]
    assert [event.numbers for event in events] == [
        {},
        {"kept": 2, "agree": pytest.approx(2 / 3), "tokens/s": pytest.approx(0, abs=1e9)},
        {"kept": 4, "agree": pytest.approx(3 / 4), "tokens/s": pytest.approx(0, abs=1e9)},
    ]


def test_the_rate_is_of_tokens_written_while_the_engine_works(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 10_000, 2))  # every look at the clock is two seconds later
    monkeypatch.setattr(metered, "time", SimpleNamespace(monotonic=lambda: next(now)))
    events: list[Event] = []
    _, engine = run(script(), [MILL], QA_ONLY, report=events.append)
    written = 4 * 11 + 2 + 2 * 3  # four drafts, two answers with the chunk, and twice "I don't know." without it
    assert len(engine.calls) == 4 + 2 + 2
    assert events[-1].numbers["tokens/s"] == written / 6


# --- documents the base cannot read ---


def unreadable(share: float) -> Callable[[Chat, Sampling], str]:
    """Ten new questions a generation, of which the given share is confirmed."""
    count = 0

    def wrote(chunk: Chunk) -> str:
        nonlocal count
        count += 10
        return "\n".join(f"Q: what of thing {'x' * number}?\nA: right" for number in range(count - 9, count + 1))

    return script(wrote, lambda question: "right" if question.count("x") % 10 < 10 * share else "wrong")


def test_an_unreadable_document_stops_with_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "CHATS_PER_GROUP", 4)
    made = Made()
    with pytest.raises(KmError) as caught:
        run(unreadable(0.1), [MILL, BARN, BOAT], made=made)
    assert str(caught.value) == (
        "this base model cannot read the document: asked again, it agreed with itself on 8 of 80 questions (10%). "
        "Choose a larger base with --model (see km models), or go on regardless with --force."
    )
    assert len(made.groups) == 1  # forty questions were too few to judge by; the second group is not kept
    forced, _ = run(unreadable(0.1), [MILL, BARN, BOAT], force=True)
    assert len(forced.finished) == 3
    assert forced.counts == counted("qa", agree=12, disagree=108)
    assert run(unreadable(0.2), [MILL, BARN, BOAT])[0].counts == counted("qa", agree=24, disagree=96)


def test_a_short_document_is_judged_at_its_end() -> None:
    with pytest.raises(KmError, match=r"on 0 of 2 questions \(0%\)"):
        run(script(answer=lambda question: "wrong"), [MILL])
    assert run(script(lambda chunk: "nothing"), [MILL])[0].samples == []  # nothing asked, nothing judged


@pytest.mark.parametrize(("agreed", "stops"), [(0, True), (20, False)])
def test_counts_of_earlier_runs_are_judged_too(monkeypatch: pytest.MonkeyPatch, agreed: int, stops: bool) -> None:
    monkeypatch.setattr(room, "CHATS_PER_GROUP", 4)
    made = Made()
    made.keep([], [Unit(MILL.sha256, "qa")], counted("qa", agree=agreed, disagree=30))
    if stops:
        with pytest.raises(KmError, match=r"on 4 of 70 questions \(6%\)"):
            run(unreadable(0.1), [MILL, BARN, BOAT], made=made)
    else:
        run(unreadable(0.1), [MILL, BARN, BOAT], made=made)
        assert made.counts == counted("qa", agree=28, disagree=102)


def test_the_share_that_is_confirmed() -> None:
    assert confirmed_share({}) == 0
    assert confirmed_share(counted("qa", agree=2, known=1, disagree=1, names=50, unchecked=9)) == 0.75
    both = counted("qa", agree=3, disagree=1) + counted("exam", disagree=4)
    assert confirmed_share(both) == 0.375


def test_shares_in_words() -> None:
    counts = counted("qa", agree=3, names=1, duplicate=1_200) + counted("summary", unchecked=2)
    assert shares(counts) == ["qa: 3 of 1,204 kept, dropped: 1,200 duplicate, 1 names", "summary: 2 of 2 kept"]
    assert shares({}) == []


# --- every task ---


def lively(prompts: Prompts) -> Callable[[Chat, Sampling], str]:
    """A base that says something for every task, other things for other seeds, and is not always sure."""

    def say(chat: Chat, sampling: Sampling) -> str:
        ((_, content),) = chat
        chunk = chunk_of(content)
        drawn = sampling.seed if sampling.temperature and "y?" not in content else ""
        digest = hashlib.sha256(f"{content}{drawn}".encode()).digest()
        name = ("Ann", "Bo", "Cy")[digest[0] % 3]
        asked = content[len(chunk.text) + 2 :] if chunk else content
        if asked == prompts.write_qa:
            return f"Q: What of thing {'x' * (digest[1] % 5)}?\nA: {name}\nQ: Who was it?\nA: Ann"
        if asked in (prompts.question, prompts.unanswerable) or asked.startswith("Write one question about the text"):
            return f"Who of all {'y' * (digest[1] % 7)}?"
        if asked == prompts.summarise:
            return f"{name} built and sank whatever there was to build and sink."
        if asked == prompts.entities:
            return "Ann\nBo\nCy\nOslo"
        if asked in prompts.seeds.values():
            return f"Would you tell us about {'z' * (digest[1] % 7)}?"
        if "y?" in asked:
            return GENERAL.not_stated if digest[2] % 2 else name
        return f"{name}" if digest[2] % 5 else "A long answer about it all."

    return say


@pytest.mark.parametrize("size", [5, 12])
def test_a_resumed_run_of_every_task_ends_with_the_same_samples(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(room, "CHATS_PER_GROUP", size)
    chunks = [MILL, BARN, BOAT]
    recipe = replace(RECIPE, tasks=tuple(TASKS), chunk_tokens=80)
    whole, _ = run(lively(GENERAL), chunks, recipe, prompts=GENERAL, force=True)
    assert {sample.task for sample in whole.samples} == set(TASKS)
    assert len({sample.id for sample in whole.samples}) == len(whole.samples)
    for stop in range(1, len(whole.groups), 3):
        made = Made()

        def dying(*handed: Any, made: Made = made, stop: int = stop) -> None:
            if len(made.groups) == stop:
                raise KeyboardInterrupt
            made.keep(*handed)

        with pytest.raises(KeyboardInterrupt):
            write(ScriptedEngine(lively(GENERAL)), chunks, recipe, GENERAL, set(), {}, dying, silent, True)
        run(lively(GENERAL), chunks, recipe, made, prompts=GENERAL, force=True)
        assert made.samples == whole.samples
        assert (made.groups, made.counts) == (whole.groups, whole.counts)


def test_what_write_returns_is_what_it_handed_over() -> None:
    made = Made()
    counts = write(
        ScriptedEngine(lively(GENERAL)),
        [MILL],
        replace(RECIPE, tasks=("qa", "entities")),
        GENERAL,
        set(),
        {},
        made.keep,
        silent,
        True,
    )
    assert counts == made.counts
    assert {task for task, _ in counts} == {"qa", "entities"}
    assert sum(counts[key] for key in counts if key[1] in KEPT) == len(made.samples)
