"""One question to many documents: each row is what the document answers alone, and none is in the way of the others."""

# ruff: noqa: F401 (imported fixtures)

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from each_cases import QUESTION, add, make_adapter, make_base, teach
from kmcli import config
from kmcli.adapters import lora, together
from kmcli.bases import Loaded
from kmcli.engines import Generation, Sampling, bindings
from kmcli.engines.hf import HfEngine
from kmcli.errors import KmError, NotFoundError, ResourceError, UsageError
from kmcli.library import Library
from kmcli.types import Event, Passage, silent
from kmcli.workflows import answer, answerer, each
from kmcli.workflows.each import ask_each, supports
from kmcli.workflows.house import open_house
from training_cases import one_thread

SHORT = Sampling(max_tokens=9)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return make_base(tmp_path_factory.mktemp("somewhere") / "base")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(each, "SAMPLING", SHORT)
    monkeypatch.setattr(answerer, "SAMPLING", SHORT)


@pytest.fixture(scope="module")
def adapters(loaded: Loaded, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [make_adapter(loaded, folder / str(seed), seed) for seed in range(8)]


@pytest.fixture
def ending(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    """A base of which a random token often ends the answer."""
    monkeypatch.setattr(Loaded, "end_ids", property(lambda _: list(range(0, 8192, 5))))
    return loaded


def alone(loaded: Loaded, folder: Path) -> Generation:
    model = lora.load(loaded, folder)
    try:
        return HfEngine(loaded, model).generate([[("user", QUESTION)]], SHORT)[0]
    finally:
        model.unload()


def prompt(loaded: Loaded) -> list[int]:
    return loaded.chat_ids([("user", QUESTION)])


def house(loaded: Loaded, report: Any = silent, engine: str = "hf") -> Any:
    return open_house({"device": "cpu", "model": loaded.base.name, "engine": engine}, report)


# --- side by side


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_each_row_is_what_its_adapter_answers_alone(ending: Loaded, adapters: list[Path], rows: int) -> None:
    expected = {place: alone(ending, folder) for place, folder in enumerate(adapters)}
    assert len({made.text for made in expected.values()}) == 8
    assert len({made.tokens for made in expected.values()}) > 2
    assert {made.finished for made in expected.values()} == {True, False}
    found = list(together.answers(ending, adapters, prompt(ending), SHORT, rows))
    assert sorted(place for place, _ in found) == list(range(8))
    assert dict(found) == expected


def test_an_adapter_that_cannot_be_used_is_told_at_its_place(
    loaded: Loaded, adapters: list[Path], tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(adapters[1], tmp_path / "broken"))
    (broken / lora.WEIGHTS).write_bytes(b"half")
    asked = [tmp_path / "gone", adapters[2], broken, adapters[3]]
    found = dict(together.answers(loaded, asked, prompt(loaded), SHORT, 2))
    assert found[1] == alone(loaded, adapters[2])
    assert found[3] == alone(loaded, adapters[3])
    gone, damaged = found[0], found[2]
    assert isinstance(gone, KmError)
    assert isinstance(damaged, KmError)
    assert str(gone) == f"{asked[0]} was replaced or removed meanwhile. Try again."
    assert str(damaged).startswith(f"the Knowledge Module in {broken} cannot be loaded: ")
    assert [isinstance(made, KmError) for _, made in together.answers(loaded, [broken], prompt(loaded), SHORT)] == [
        True
    ]
    assert list(together.answers(loaded, [], prompt(loaded), SHORT)) == []


def test_a_batch_holds_no_more_than_the_memory_allows(
    loaded: Loaded, adapters: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []

    class Counting(together.Stack):
        def __init__(self, model: Any, rows: int) -> None:
            held.append(rows)
            super().__init__(model, rows)

    monkeypatch.setattr(together, "Stack", Counting)
    largest = max((folder / lora.WEIGHTS).stat().st_size for folder in adapters)
    expected = dict(together.answers(loaded, adapters, prompt(loaded), SHORT))
    for memory, rows in ((7 * largest, 3), (1, 1)):
        monkeypatch.setattr(together, "MEMORY", memory)
        assert dict(together.answers(loaded, adapters, prompt(loaded), SHORT)) == expected
        assert held.pop() == rows


# --- the workflow


def test_each_document_answers_by_its_own_module(loaded: Loaded, km_home: Path) -> None:
    for seed, name in enumerate(("mill", "lease", "boat")):
        teach(loaded, name, seed, ("wood",) if name != "lease" else ())
    add("draft")
    events: list[Event] = []
    with house(loaded, events.append) as rooms:
        report = ask_each(rooms, [], QUESTION)
        singles = {name: answer.ask(rooms, [name], QUESTION, "km", lambda _: None).answer for name in ("mill", "boat")}
        some = ask_each(rooms, ["mill", "@wood"], QUESTION)
    assert [row.document.name for row in report.rows] == ["boat", "lease", "mill"]
    assert (report.documents, report.answered, report.untrained, report.engine) == (3, 3, (), "hf")
    assert [row.document.name for row in some.rows] == ["mill", "boat"]
    for row in some.rows:
        single = singles[row.document.name]
        assert row.answer is not None
        assert (row.answer.text, row.answer.prompt_tokens, row.answer.output_tokens, row.answer.evidence) == (
            single.text,
            single.prompt_tokens,
            single.output_tokens,
            single.evidence,
        )
    assert len({row.answer.text for row in report.rows if row.answer}) == 3
    assert [(one.done, one.total) for one in events if one.stage == "ask"][:3] == [(1, 3), (2, 3), (3, 3)]


def test_llama_cpp_answers_as_it_answers_alone(loaded: Loaded, km_home: Path) -> None:
    pytest.importorskip("llama_cpp")
    for seed, name in enumerate(("mill", "lease", "boat")):
        teach(loaded, name, seed)
    with house(loaded, engine="llamacpp") as rooms:
        report = ask_each(rooms, [], QUESTION)
        again = ask_each(rooms, [], QUESTION)
        singles = [answer.ask(rooms, [row.document.name], QUESTION, "km", lambda _: None).answer for row in report.rows]
    assert report.engine == "llamacpp"
    for rows in (report.rows, again.rows):
        assert [(row.answer.text, row.answer.output_tokens) for row in rows if row.answer] == [
            (single.text, single.output_tokens) for single in singles
        ]
    assert len({single.text for single in singles}) == 3


@pytest.mark.parametrize("engine", ["hf", "llamacpp"])
def test_one_that_cannot_answer_does_not_stop_the_others(
    loaded: Loaded, km_home: Path, tmp_path: Path, engine: str
) -> None:
    if engine == "llamacpp":
        pytest.importorskip("llama_cpp")
    other = make_base(tmp_path / "other", hidden_size=32)
    gone = make_base(tmp_path / "gone")
    teach(loaded, "mill", 1)
    teach(loaded, "torn", 2)
    teach(loaded, "lease", 3)
    teach(other, "boat", 4)
    teach(gone, "lost", 5)
    add("draft")
    shutil.rmtree(gone.base.path)
    with Library.open(config.home()) as library:
        module = library.module(library.find("torn"))
        assert module is not None
        (module.path / lora.WEIGHTS).write_bytes(b"half")
    with house(loaded, engine=engine) as rooms:
        asked = ("torn", "mill", "draft", "lost", "boat", "lease")
        report = ask_each(rooms, asked, QUESTION)
        expected = {
            name: answer.ask(rooms, [name], QUESTION, "km", lambda _: None).answer.text
            for name in ("mill", "boat", "lease")
        }
        everything = ask_each(rooms, [], QUESTION)
    assert [row.document.name for row in report.rows] == list(asked)
    rows = {row.document.name: row for row in report.rows}
    assert {name: row.answer.text for name, row in rows.items() if row.answer} == expected
    assert [one.name for one in report.untrained] == ["draft"]
    assert str(rows["draft"].error) == "draft has no Knowledge Module yet. Make one: km train draft"
    assert isinstance(rows["torn"].error, KmError)
    assert isinstance(rows["lost"].error, (ResourceError, UsageError))
    assert [row.document.name for row in everything.rows] == ["boat", "lease", "lost", "mill", "torn"]
    assert everything.answered == 3


def test_a_text_that_is_damaged_is_told(loaded: Loaded, km_home: Path) -> None:
    document = teach(loaded, "mill", 1)
    for file in (km_home / "documents" / document.id).glob("text-*"):
        file.write_text("another")
    with house(loaded) as rooms:
        (row,) = ask_each(rooms, ["mill"], QUESTION).rows
    assert row.answer is None
    assert str(row.error).startswith("the text of mill is missing or damaged on disk.")


def test_ctrl_c_keeps_what_is_there(loaded: Loaded, km_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, name in enumerate(("mill", "lease", "boat")):
        teach(loaded, name, seed)
    add("draft")
    whole = each._answers

    def stopped(*given: Any) -> Iterator[Any]:
        rows = whole(*given)
        yield next(rows)
        raise KeyboardInterrupt

    monkeypatch.setattr(each, "_answers", stopped)
    with house(loaded) as rooms:
        report = ask_each(rooms, ["draft", "mill", "lease", "boat"], QUESTION)
    assert report.interrupted
    assert (report.answered, len(report.rows), report.documents) == (1, 2, 4)
    assert report.rows[0].document.name == "draft"


def test_where_llama_cpp_fails_torch_answers(loaded: Loaded, km_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, name in enumerate(("mill", "lease", "boat")):
        teach(loaded, name, seed)
    first = together.answers

    def fails(*_: Any) -> Iterator[Any]:
        raise KmError("it will not.")
        yield

    monkeypatch.setattr(each, "_by_llamacpp", fails)
    events: list[Event] = []
    monkeypatch.setattr(bindings, "installed", lambda: True)
    with house(loaded, events.append, "auto") as rooms:
        report = ask_each(rooms, [], QUESTION)
    assert (report.engine, report.answered) == ("hf", 3)
    assert [one.message for one in events if one.warning] == [
        "answered by torch, because llama.cpp cannot do it: it will not."
    ]
    assert first is together.answers
    with house(loaded, engine="llamacpp") as rooms, pytest.raises(KmError, match="it will not"):
        ask_each(rooms, [], QUESTION)


def test_what_makes_no_sense_is_said(loaded: Loaded, km_home: Path) -> None:
    add("draft", tags=("wood",))
    with house(loaded) as rooms:
        with pytest.raises(NotFoundError, match="no document has a Knowledge Module yet") as none:
            ask_each(rooms, [], QUESTION)
        assert none.value.hint == "Make them: km train --all"
        for question, message in (
            (" ", "the question is empty"),
            ("@wood", "there is no question: @wood stands where it should"),
            ("Draft", "there is no question: Draft stands where it should"),
        ):
            with pytest.raises(UsageError, match=message):
                ask_each(rooms, ["draft"], question)
        with pytest.raises(NotFoundError, match="no document has the tag 'wool'") as wool:
            ask_each(rooms, ["@wool"], QUESTION)
        assert wool.value.hint == "Did you mean wood?"
    teach(loaded, "mill", 1)
    with house(loaded) as rooms, pytest.raises(UsageError, match="the question does not fit in the"):
        ask_each(rooms, ["mill"], "who " * 600)


def test_a_passage_supports_what_it_says() -> None:
    passage = Passage("mill", "The Mill was built by Ann Bo, in 1871; it has 3 wheels.", 1.0)
    for text, expected in (
        ("1871", True),
        ("Ann Bo built it in 1871.", True),
        ("by the Ann Bo", True),
        ("1872", False),
        ("Carl Dee in 1871", False),
        ("", False),
    ):
        assert supports(passage, text) is expected, text
