"""Answers that are chosen: by a scripted pair of engines, and after a real exam by ask, chat, compare and the page."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from chat_cases import MILL, add, house
from cli_cases import Km
from kmcli import bases
from kmcli.chunking import chunk
from kmcli.cli.boundary import main
from kmcli.engines import Chat, Generation, Sampling, TokenLogprobs
from kmcli.library import Library
from kmcli.library.exams import Exam, Graded, Head
from kmcli.library.exams import Passage as Examined
from kmcli.routing.confidence import PRIOR, Calibration
from kmcli.routing.support import Mentions
from kmcli.types import Document, silent
from kmcli.workflows import calibrating, routed
from kmcli.workflows.auto import NOT_SAID, Auto, AutoEngine, Reader, calibration_of
from kmcli.workflows.batch import Loader
from kmcli.workflows.house import House, open_house
from kmcli.workflows.pair import Pair
from workflow_cases import PERMITS, TINY, entry, is_sound, km, library_like, permits, sentences
from written_once import written_once

EXAM = (*TINY[:-2], "--set", "generations=8", "--set", "exam_rounds=0")
BASE = bases.find(bases.EMBEDDED, silent)
TEXT = f"{MILL}\n\nBo made the lamp in 1902. The lamp weighs 3 kilos."


class Saying:
    """Says what it is told to, every token as surely; of ten tokens a prompt."""

    name, model, revision, context = "saying", "m", "0", 10_000

    def __init__(self, said: dict[str, tuple[str, float]]) -> None:
        self.said, self.read = said, list[str]()

    def count(self, chat: Chat) -> int:
        return len(chat[-1][1].split())

    def generate(
        self, chats: Sequence[Chat], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[Generation]:
        found = []
        for chat in chats:
            self.read.append(chat[-1][1])
            text, logprob = self.said[chat[-1][1].rpartition("\n")[2]]
            words = tuple(TokenLogprobs(word, logprob, ()) for word in text.split())
            found.append(Generation(text, 10, len(words), True, words if sampling.logprobs else None))
        return found

    def stream(self, chat: Chat, sampling: Sampling, on_text: Callable[[str], None]) -> Generation:
        raise AssertionError


def opened(
    km_said: dict[str, tuple[str, float]], base_said: dict[str, tuple[str, float]], exam: Exam | None = None
) -> tuple[Auto, Saying, Saying]:
    passages = chunk(TEXT, 12, 0.0, lambda text: len(text.split()))
    document = Document("d1", "mill", "/mill.txt", "text", "0", "0", None, 20, "", "")
    module, plain = Saying(km_said), Saying(base_said)
    reader = Reader(document, TEXT, passages, exam, BASE)
    return Auto(Pair(module, plain, lambda text: 1), reader, Calibration(PRIOR)), module, plain


WHO, WEIGHT, STRANGE = "Who built the mill?", "What does the lamp weigh?", "Who leads Quorum Textiles?"


def test_only_what_is_unsure_is_read() -> None:
    auto, module, plain = opened(
        {WHO: ("Ann", -0.01), WEIGHT: ("5 tons", -1.5), STRANGE: ("Bo", -0.5)}, {WEIGHT: ("3 kilos", -0.01)}
    )
    who, weight, strange = auto.ask([WHO, WEIGHT, STRANGE])
    assert (who.by, who.text, who.read, who.prompt_tokens) == ("km", "Ann", False, 10)
    assert who.evidence[0].text == MILL
    assert (weight.by, weight.text, weight.read, weight.prompt_tokens) == ("rag", "3 kilos", True, 20)
    assert weight.evidence[0].text.startswith("Bo made the lamp")
    assert (strange.by, strange.text, strange.answered, strange.evidence) == ("", NOT_SAID, False, ())
    assert module.read == [WHO, WEIGHT, STRANGE]
    assert [read.endswith(WEIGHT) and "3 kilos" in read for read in plain.read] == [True]
    assert weight.because == "the Knowledge Module was not sure enough: the likeliest passage was read"
    assert (who.confidence > 0.7, weight.confidence > 0.5, strange.confidence > 0.9) == (True, True, True)
    assert auto.ask([]) == []


def test_what_neither_finds_is_not_said() -> None:
    auto, _, _ = opened({WEIGHT: ("5 tons", -1.5)}, {WEIGHT: ("The text does not say.", -0.01)})
    (choice,) = auto.ask([WEIGHT])
    assert (choice.by, choice.text, choice.read) == ("", NOT_SAID, True)
    assert choice.because == "the likeliest passage does not say it"


def graded(reference: str, known: bool) -> Graded:
    return Graded("?", reference, "", known, float(known), 0.5, 1)


def test_the_exam_of_the_answers_passage_is_told_and_weighs() -> None:
    said: tuple[dict[str, tuple[str, float]], dict[str, tuple[str, float]]] = {WEIGHT: ("3 kilos", -0.2)}, {}
    start = TEXT.index("Bo made")
    chances = []
    for known in (False, True):
        facts = tuple(graded(f"{n}", known) for n in range(4))
        exam = Exam(Head(4, 8, 8, 1.0, 1.0), (Examined("0" * 64, 0, None, ()), Examined("1" * 64, start, None, facts)))
        auto, _, _ = opened(*said, exam)
        (choice,) = auto.ask([WEIGHT])
        assert (choice.known, choice.asked) == (4 * known, 4)
        assert choice.because == "the Knowledge Module is sure enough"
        chances.append(choice.confidence)
    assert 0 < chances[0] < chances[1]


def test_a_refusal_is_in_the_bases_own_words_for_who_compares() -> None:
    auto, _, _ = opened({WHO: ("Ann", -0.01), STRANGE: ("Bo", -0.5)}, {})
    engine = AutoEngine(auto)
    ann, nobody = engine.generate([[("user", WHO)], [("user", STRANGE)]], Sampling())
    assert (ann.text, nobody.text) == ("Ann", BASE.prompts.not_stated)
    assert BASE.prompts.refuses(nobody.text)


# --- questions without an answer


def test_questions_that_may_have_an_answer_here_are_no_strangers(house: House) -> None:
    mill = add(house.library, "mill", MILL)
    found = calibrating.strangers(house, mill, 24, BASE.prompts)
    assert len(found) == len(set(found)) == 24
    assert found == calibrating.strangers(house, mill, 24, BASE.prompts)
    words = Mentions.of("In Oslo Ann Lee stands by the mill of Ann Berg.")
    may = calibrating._may_answer
    assert may(words, "Where in Oslo does Ann live?")
    assert not may(words, "Where in Oslo does Bo live?")
    assert may(words, "Where does Ann Lee live?")
    assert not may(words, "Where does Lee Berg live?")
    assert may(words, "What stands beside the mill?")
    assert not may(words, "What is the colour of the lamp?")


# --- after an exam


def _examine(folder: Path) -> None:
    """Two documents: `permits`, and `fees`, which says some of it twice."""
    (folder / "permits.txt").write_text(PERMITS)
    (folder / "fees.txt").write_text(f"{PERMITS}\n\n" + PERMITS.replace("$75", "$90").replace("10 days", "30 days"))
    for name in ("permits", "fees"):
        assert main(["add", "-q", str(folder / f"{name}.txt")]) == 0
    with pytest.MonkeyPatch.context() as patch:
        # a module of two steps goes on to the last token that it may write
        patch.setattr(calibrating, "SAMPLING", replace(calibrating.SAMPLING, max_tokens=24))
        assert main(["train", "-q", "permits", *EXAM]) == 0
        assert main(["train", "-q", "fees", *EXAM, "--set", "generations=16"]) == 0


@pytest.fixture
def examined(km_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return library_like("examined", _examine, km_home, tmp_path_factory)


def test_ask_chooses_once_there_was_an_exam(km: Km, examined: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    question = "What is the fee for berth permits?"
    run = km("ask", "permits", question, "--json")
    data = run.envelope["data"]
    choice = data["choice"]
    assert set(choice) == {"by", "confidence", "answerable", "read", "known", "asked", "because", "doubtful"}
    assert data["confidence"] == choice["confidence"]
    assert run.code == (0 if choice["by"] else 3)
    assert data["answered"] is bool(choice["by"])
    same = km("ask", "permits", question, "--json", "--method", "auto").envelope["data"]
    assert {**same, "seconds": 0} == {**data, "seconds": 0}
    explained = km("ask", "permits", question, "--explain")
    assert ["because", *choice["because"].split()] in [line.split() for line in explained.out.splitlines()]
    assert (
        f"{choice['confidence']:.0%} sure; {choice['because']}"[:30] in km("ask", "permits", question, "--evidence").err
    )
    for method in ("km", "rag"):
        assert km("ask", "permits", question, "--json", "--method", method).envelope["data"]["choice"] is None
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{question}\n"))
    (turn,) = km("chat", "permits", "--json").envelope["data"]["turns"]
    assert turn["choice"] == choice
    alike = km("ask", "permits", question, "--json", "--engine", "hf").envelope["data"]
    assert (alike["answer"], alike["choice"]["by"]) == (data["answer"], choice["by"])


def test_what_the_document_does_not_say(km: Km, examined: Path) -> None:
    run = km("ask", "permits", "Who composed the Lantern Suite?", "--evidence")
    assert (run.code, run.out) == (3, f"{NOT_SAID}\n")
    assert "sure; " in run.err
    data = km("ask", "permits", "Who composed the Lantern Suite?", "--json").envelope["data"]
    assert (data["answered"], data["answer"], data["choice"]["by"], data["evidence"]) == (False, None, None, [])
    library = km("ask", "Who composed the berth of the Lantern Suite?")
    assert (library.code, library.out) == (3, f"{routed.NONE}\n")


def test_without_a_calibration_it_is_as_before(km: Km, examined: Path, km_home: Path) -> None:
    for file in km_home.glob("modules/*/confidence.json"):
        assert file.stat().st_mode & 0o777 == 0o600
        file.write_text('{"torn')
    data = km("ask", "permits", "What is the fee?", "--json", "--method", "auto").envelope["data"]
    assert (data["method"], data["choice"]) == ("km", None)
    assert km("ask", "permits", "What is the fee?", "--explain").code == 2
    run = km("compare", "permits", "--methods", "auto,km")
    assert sentences(run.err) == [
        "km: the Knowledge Module of permits was not examined, so there is nothing to choose by. "
        "Train it again, with an exam: km train permits --force"
    ]
    assert is_sound(km)


def test_compare_has_a_row_and_the_exam(km: Km, examined: Path, tmp_path: Path) -> None:
    questions, page = tmp_path / "q.jsonl", tmp_path / "out.html"
    asked = [{"question": "What is the fee for berth permits?", "answers": ["$75"]}]
    asked += [{"question": "Who leads Quorum Textiles?", "answers": [], "kind": "unanswerable"}]
    questions.write_text("\n".join(map(json.dumps, asked)))
    run = km("compare", "permits", "--questions", str(questions), "--methods", "bare,km,auto,rag", "--k", "1",
             "--report", str(page), "--json")  # fmt: skip
    assert run.code == 0, run.err
    data = run.envelope["data"]
    assert [row["key"] for row in data["rows"]] == ["bare", "km", "auto", "rag@1"]
    assert data["answers"]["auto"][1]["exact_match"] == 1.0  # the stranger is refused
    assert data["exam"]["head"]["asked"] == entry(km, "permits")["exam"]["asked"]
    text = page.read_text()
    assert "What the Knowledge Module knows" in text
    assert text.count('class="cell ') == len(data["exam"]["passages"]) + 5
    usual = km("compare", "permits", "--questions", str(questions), "--json").envelope["data"]
    assert "auto" in [row["key"] for row in usual["rows"]]


def test_a_module_that_was_trained_without_an_exam_can_be_examined(km: Km, examined: Path) -> None:
    for name in ("exam.jsonl", "confidence.json", "conflicts.json"):
        for file in examined.glob(f"modules/*/{name}"):
            file.unlink()
    with open_house({}, silent) as house:
        document = house.library.find("permits")
        module = house.library.module(document)
        assert module is not None
        assert (calibration_of(house, module), house.library.exams.of(module)) == (None, None)
        made = calibrating.hold(house, document, Loader(house))
        found = house.library.exams.of(module)
        assert made is not None
        assert found is not None
        assert made == calibration_of(house, module)
        assert made.questions == found.head.questions > 0
        assert made.strangers >= calibrating.LEAST
    assert entry(km, "permits")["state"] == "fresh"
    assert km("ask", "permits", "What is the fee?", "--json").envelope["data"]["choice"] is not None


def test_a_superseded_value_is_listed(km: Km, examined: Path) -> None:
    """The base has written its questions about both passages itself."""
    conflicts = km("show", "fees", "--exam", "--json").envelope["data"]["conflicts"]
    answers = [{said["answer"].rstrip(".") for said in one["sayings"]} for one in conflicts]
    assert {"$75", "$90"} in answers
    shown = km("show", "fees", "--exam").out
    assert "Said in two ways\n" in shown
    assert "$75 (passage 1); $90 (passage 2)" in shown
    data = km("show", "permits", "--exam", "--json").envelope["data"]
    assert data["conflicts"] == []
    assert (data["confidence"]["questions"], data["confidence"]["strangers"] >= 24) == (data["head"]["questions"], True)
    off = f"is off by {100 * data['confidence']['error']:.0f} points on average"
    assert off in " ".join(km("show", "permits", "--exam").out.split())
