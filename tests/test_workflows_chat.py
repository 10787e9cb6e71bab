"""A conversation: what is opened, what is read, what is kept; stopped answers; and that ask answers the same."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from chat_cases import LAMP, MILL, Opened, add, give_module, house, library, listening, scripted
from cli_cases import Km
from kmcli import config
from kmcli.bases.prompts import STYLES
from kmcli.engines import Chat as Turns
from kmcli.engines import Sampling
from kmcli.errors import KmError, NotFoundError, UsageError
from kmcli.types import Passage, silent
from kmcli.workflows import chat as talks
from kmcli.workflows.chat import open_chat
from kmcli.workflows.house import House
from workflow_cases import km, permits

__all__ = ["house", "km", "permits", "scripted"]


def ignore(piece: str) -> None:
    """Text that nobody reads."""


def questions(chats: Sequence[Turns]) -> list[list[str]]:
    return [[content for _, content in chat] for chat in chats]


# --- who answers


def test_one_module_answers_as_ask_would(house: House, scripted: Opened) -> None:
    give_module(house.library, add(house.library, "mill", MILL))
    add(house.library, "lamp", LAMP)
    pieces: list[str] = []
    with open_chat(house, ["MILL"]) as chat:
        replied = chat.ask("Who built the mill?", pieces.append)
        chat.ask("When?", ignore)
    assert scripted.members == [("mill",)]  # opened once
    assert questions(scripted.chats) == [["Who built the mill?"], ["When?"]]
    assert "".join(pieces) == replied.turn.answer.text == "re: Who built the mill?"
    assert (replied.turn.answer.method, replied.engine, replied.notes) == ("km", "scripted", ())
    assert replied.turn.answer.evidence == (Passage("mill", MILL, pytest.approx(0, abs=1)),)


def test_without_a_module_retrieval_answers_and_says_so(house: House, scripted: Opened) -> None:
    house, told = listening(house)
    give_module(house.library, add(house.library, "mill", MILL))
    add(house.library, "lamp", LAMP)
    with open_chat(house, ["lamp"]) as chat:
        replied = chat.ask("Who made the lamp?", ignore)
        assert told[-1:] == ["no Knowledge Module yet: answered by retrieval. km train lamp makes one."]
        count = len(told)
        assert chat.ask("Quis custodiet?", ignore).notes == (
            "no passage of the document has a word of the question in common with it",
        )
        assert len(told) == count  # said once
        with pytest.raises(NotFoundError, match="lamp has no Knowledge Module yet") as refused:
            chat.set_method("km")
        assert refused.value.hint == "Make one: km train lamp"
        assert chat.method is None
        assert chat.ask("Who?", ignore).turn.answer.method == "rag"
    assert scripted.chats[0][-1][1] == f"{LAMP}\n\nWho made the lamp?"
    assert replied.turn.answer.evidence[0].document == "lamp"


def test_a_stale_module_is_said_with_what_mends_it(house: House, scripted: Opened) -> None:
    house, told = listening(house)
    document = add(house.library, "mill", MILL)
    give_module(house.library, document)
    add(house.library, "mill", f"{MILL} It burnt down.")
    with open_chat(house, ["mill"]) as chat:
        assert chat.ask("Who?", ignore).turn.answer.method == "km"
    assert told == ["mill has changed since its Knowledge Module was trained: km train mill"]


def test_several_documents(house: House, scripted: Opened) -> None:
    for name, text in (("mill", MILL), ("lamp", LAMP)):
        give_module(house.library, add(house.library, name, text))
    with open_chat(house, ["mill"]) as chat:
        chat.use(["lamp", "mill", "lamp"])
        chat.ask("Who made the lamp?", ignore)
        chat.set_method("rag")
        replied = chat.ask("Who built the mill, and who made the lamp?", ignore)
        chat.set_method("full")
        chat.ask("Who?", ignore)
    assert scripted.members == [("mill",), ("lamp", "mill"), (), ()]
    assert {passage.document for passage in replied.turn.answer.evidence} == {"mill", "lamp"}
    assert scripted.chats[-1][-1][1] == f"{LAMP}\n\n{MILL}\n\nWho?"
    assert list(replied.turn.documents.values()) == ["lamp", "mill"]


def test_modules_of_different_bases(house: House, scripted: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("mill", MILL), ("lamp", LAMP)):
        give_module(house.library, add(house.library, name, text))
    of = House.base_of
    monkeypatch.setattr(
        House, "base_of", lambda self, document, module: replace(of(self, document, module), revision=document.id)
    )
    with open_chat(house, ["mill"]) as chat:
        with pytest.raises(UsageError, match="the Knowledge Modules of mill and lamp are on different bases"):
            chat.use(["mill", "lamp"])
        assert [document.name for document in chat.documents] == ["mill"]
        assert chat.ask("Who?", ignore).turn.documents == {chat.documents[0].id: "mill"}


def test_what_is_asked_when_nothing_is_named(house: House, scripted: Opened) -> None:
    with open_chat(house, []) as chat:
        with pytest.raises(NotFoundError, match="no document is chosen"):
            chat.ask("Who?", ignore)
        with pytest.raises(UsageError, match="there is no method 'gold'"):
            chat.set_method("gold")
        chat.set_method("bare")
        assert chat.ask("Who?", ignore).turn.documents == {}
    add(house.library, "mill", MILL)
    with open_chat(house, []) as chat:  # the only one
        assert [document.name for document in chat.documents] == ["mill"]
    add(house.library, "lamp", LAMP)
    with open_chat(house, []) as chat:
        assert chat.documents == ()
    with pytest.raises(NotFoundError, match="there is no document 'mil'"), open_chat(house, ["mil"]):
        pass
    with pytest.raises(UsageError, match="fewer than 0"), open_chat(house, ["mill"], reads=-1):
        pass


def test_what_happens_to_the_documents_meanwhile(house: House, scripted: Opened) -> None:
    document = add(house.library, "mill", MILL)
    with open_chat(house, ["mill"]) as chat:
        assert chat.ask("Who?", ignore).turn.answer.method == "rag"
        with library() as other:
            give_module(other, document)
        assert chat.ask("Who?", ignore).turn.answer.method == "km"
        with library() as other:
            give_module(other, document)
        chat.ask("Who?", ignore)
        assert scripted.members == [(), ("mill",), ("mill",)]
        with library() as other:
            other.rename("mill", "works")
        assert list(chat.ask("Who?", ignore).turn.documents.values()) == ["works"]
        with library() as other:
            other.remove("works")
        with pytest.raises(NotFoundError, match="works has been removed meanwhile"):
            chat.ask("Who?", ignore)


# --- earlier turns


def told_with(monkeypatch: pytest.MonkeyPatch, house: House, conversation: bool) -> None:
    found = house.base()
    prompts = replace(STYLES[found.style], conversation=conversation)
    monkeypatch.setitem(STYLES, found.style, prompts)


@pytest.mark.parametrize(
    ("conversation", "reads", "read"),
    [(True, None, 3), (True, 2, 2), (True, 0, 0), (False, None, 0), (False, 2, 2), (False, 9, 3)],
)
def test_how_many_earlier_turns_are_read(
    house: House,
    scripted: Opened,
    monkeypatch: pytest.MonkeyPatch,
    conversation: bool,
    reads: int | None,
    read: int,
) -> None:
    told_with(monkeypatch, house, conversation)
    give_module(house.library, add(house.library, "mill", MILL))
    with open_chat(house, ["mill"], reads=reads) as chat:
        for number in range(4):
            chat.ask(f"q{number}?", ignore)
    expected: list[tuple[str, str]] = []
    for number in range(3 - read, 3):
        expected += [("user", f"q{number}?"), ("assistant", f"re: q{number}?")]
    assert list(scripted.chats[-1]) == [*expected, ("user", "q3?")]


def test_the_embedded_base_reads_none() -> None:
    assert not STYLES["embedded"].conversation
    assert STYLES["general"].conversation


def test_the_oldest_turns_give_way(house: House, scripted: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    told_with(monkeypatch, house, True)
    give_module(house.library, add(house.library, "mill", MILL))
    scripted.context = 128 + 10  # words; a turn has 2 + 3
    scripted.reply = lambda chat, sampling: "a b c"
    with open_chat(house, ["mill"]) as chat:
        for number in range(6):
            chat.ask(f"what {number}?", ignore)
        assert [len(one) for one in scripted.chats] == [1, 3, 3, 3, 3, 3]
        assert [content for _, content in scripted.chats[-1]] == ["what 4?", "a b c", "what 5?"]
        chat.ask("one two three four five six", ignore)
        assert len(scripted.chats[-1]) == 1
        with pytest.raises(KmError, match="the question does not fit"):
            chat.ask("word " * 11, ignore)
        assert len(chat.turns) == 7


def test_the_full_text_stays_in_front(house: House, scripted: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    told_with(monkeypatch, house, True)
    add(house.library, "mill", MILL)
    scripted.reply = lambda chat, sampling: "Ann"
    scripted.context = 128 + 16  # words: the text has 11
    with open_chat(house, ["mill"], "full") as chat:
        for question in ("Who?", "When?", "Where was it built?"):
            chat.ask(question, ignore)
    assert questions(scripted.chats) == [
        [f"{MILL}\n\nWho?"],
        [f"{MILL}\n\nWho?", "Ann", "When?"],
        [f"{MILL}\n\nWhere was it built?"],
    ]


def test_retrieval_looks_for_what_was_asked_before_too(
    house: House, scripted: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(house.library, "mill", MILL)
    for conversation, found in ((False, 0), (True, 1)):
        told_with(monkeypatch, house, conversation)
        with open_chat(house, ["mill"]) as chat:
            chat.ask("Who built the mill?", ignore)
            assert len(chat.ask("Why then?", ignore).turn.answer.evidence) == found
    contents = [content for _, content in scripted.chats[-1]]
    assert (contents[0], contents[2]) == ("Who built the mill?", f"{MILL}\n\nWhy then?")


# --- what is kept


def test_a_conversation_goes_on(house: House, scripted: Opened) -> None:
    house, told = listening(house)
    for name, text in (("mill", MILL), ("lamp", LAMP)):
        give_module(house.library, add(house.library, name, text))
    with open_chat(house, ["mill"]) as chat:
        chat.ask("Who?", ignore)
        chat.use(["lamp", "mill"])
        first = chat.ask("When?", ignore).turn
        chat.new()
        assert (chat.number, chat.turns) == (None, [])
        chat.ask("Where?", ignore)
        assert chat.number == 2
    assert talks.to_continue(house, None).number == 2
    continued = talks.to_continue(house, 1)
    assert continued.turns[-1] == first
    house.library.remove("mill")
    with open_chat(house, [], continued=continued) as chat:
        assert told[-1] == "mill, which this conversation was about, is no longer in the library"
        assert [document.name for document in chat.documents] == ["lamp"]
        chat.ask("Why?", ignore)
    assert [turn.question for turn in talks.to_continue(house, 1).turns] == ["Who?", "When?", "Why?"]
    with (
        open_chat(house, [], continued=continued),
        library() as other,
        pytest.raises(KmError, match="conversation 1 is in use"),
        open_chat(House(other, house.settings, print), [], continued=continued),
    ):
        pass
    assert talks.delete(house, 1) == talks.Deleted(1, 3)
    assert [one.number for one in talks.conversations(house)] == [2]


def test_a_turn_that_cannot_be_kept_is_said(house: House, scripted: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    add(house.library, "mill", MILL)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_chat(house, ["mill"]) as chat, monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        replied = chat.ask("Who built the mill?", ignore)
        assert replied.turn.answer.text
        assert replied.unkept is not None
        assert str(replied.unkept).endswith("no space left on device. Free some space and try again.")
        assert replied.unkept.exit_code == 4


def test_write_new(tmp_path: Path) -> None:
    talks.write_new(tmp_path / "a.md", "text \ud800")
    assert (tmp_path / "a.md").read_text() == "text ?"
    for file, message in (
        ("a.md", "a.md exists already"),
        ("no/a.md", "there is no folder"),
        ("a.md/b.md", "there is no folder"),
        ("", "exists already"),
    ):
        with pytest.raises(UsageError, match=message):
            talks.write_new(tmp_path / file, "text")


# --- stopped answers


def stop_at(count: int) -> Callable[[str], None]:
    """on_text that stops the answer at piece `count`."""
    seen: list[str] = []

    def on_text(piece: str) -> None:
        seen.append(piece)
        if len(seen) == count:
            raise KeyboardInterrupt

    return on_text


def test_a_stopped_answer(house: House, scripted: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    told_with(monkeypatch, house, True)
    give_module(house.library, add(house.library, "mill", MILL))
    scripted.reply = lambda chat, sampling: "one two three"
    with open_chat(house, ["mill"]) as chat:
        turn = chat.ask("Who?", stop_at(3)).turn
        assert (turn.answer.text, turn.stopped, turn.answer.evidence) == ("one two", True, ())
        chat.ask("When?", ignore)
    assert len(scripted.engines) == 1
    assert questions(scripted.chats)[-1] == ["When?"]  # what was stopped is not read again
    assert [one.stopped for one in talks.to_continue(house, None).turns] == [True, False]


def test_an_interrupt_elsewhere_opens_anew(house: House, scripted: Opened) -> None:
    give_module(house.library, add(house.library, "mill", MILL))

    def struck(chat: Turns, sampling: Sampling) -> str:
        raise KeyboardInterrupt

    with open_chat(house, ["mill"]) as chat:
        scripted.reply = struck
        turn = chat.ask("Who?", ignore).turn
        assert (turn.answer.text, turn.stopped) == ("", True)
        scripted.reply = lambda chat, sampling: "Ann"
        assert chat.ask("Who?", ignore).turn.answer.text == "Ann"
    assert len(scripted.engines) == 2


@pytest.mark.parametrize("engine", ["hf", "llamacpp"])
def test_a_real_engine_answers_after_it_was_stopped(km: Km, permits: Path, engine: str) -> None:
    if engine == "llamacpp":
        pytest.importorskip("llama_cpp")
    asked = ("Which department handles berth permits?", "How much do berth permits cost?")
    with library() as opened:
        real = House(opened, config.resolve({"engine": engine, "device": "cpu"}), silent)
        with open_chat(real, ["permits"]) as chat:
            before = [chat.ask(question, ignore).turn.answer.text for question in asked]
            answerer = chat.opened()
            for count in (1, 2):
                stopped = chat.ask(asked[0], stop_at(count))
                assert stopped.turn.stopped
                assert before[0].startswith(stopped.turn.answer.text)
                assert bool(stopped.turn.answer.text) == (count > 1)
                assert stopped.engine == engine
                assert [chat.ask(question, ignore).turn.answer.text for question in reversed(asked)] == before[::-1]
            assert chat.opened() is answerer  # never opened anew


def test_what_was_read_is_not_read_again(km: Km, permits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llama_cpp")
    from kmcli.engines.gguf import GgufFile
    from kmcli.engines.llamacpp import LlamaCppEngine

    read: list[int] = []
    compute = GgufFile._eval

    def counted(self: GgufFile, ids: list[int]) -> None:
        read.append(len(ids))
        compute(self, ids)

    monkeypatch.setattr(GgufFile, "_eval", counted)
    answers: dict[bool, list[str]] = {}
    with library() as opened:
        real = House(opened, config.resolve({"engine": "llamacpp", "device": "cpu"}), silent)
        for remembers in (True, False):
            with open_chat(real, ["permits"], "full", reads=9) as chat:
                answerer = chat.opened()
                assert answerer is not None
                assert isinstance(answerer.answering.engine, LlamaCppEngine)
                assert answerer.answering.engine.remembers
                answerer.answering.engine.remembers = remembers
                answers[remembers] = []
                for question in (
                    "Which department handles berth permits?",
                    "How much do they cost?",
                    "Who approves them?",
                ):
                    read.clear()
                    answer = chat.ask(question, ignore).turn.answer
                    answers[remembers].append(answer.text)
                    longest = max(read)  # the prompt, or what is left of it; an answer's tokens come one by one
                    again = remembers and len(answers[remembers]) > 1
                    assert (longest < 25) if again else (longest == answer.prompt_tokens > 60)
    assert answers[True] == answers[False]
