"""Questions that look for their document: which is tried, which answers, and when none does; and modules added up."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from cli_cases import Km
from kmcli import bases
from kmcli.engines import Chat, Sampling
from kmcli.engines.bindings import installed
from kmcli.engines.scripted import ScriptedEngine
from kmcli.routing.gate import NAMED
from kmcli.types import Event
from kmcli.workflows import routed
from kmcli.workflows.answering import Answering, Member, open_weighed
from kmcli.workflows.chat import open_chat
from kmcli.workflows.house import open_house
from workflow_cases import TINY, km, sentences, trained_home

__all__ = ["km", "trained_home"]

FOUNDER = "Who founded Grondal Works?"
HARBOUR = "Taldrin Harbour was founded in 1743. The mayor of Taldrin Harbour is Clara Stalmor."

Scripted = Callable[..., list[tuple[tuple[float, ...], Chat]]]


@pytest.fixture
def home(km: Km, trained_home: Path, tmp_path: Path) -> Path:
    """A library with `notes`, trained, and `harbour`, not trained."""
    (tmp_path / "harbour.txt").write_text(HARBOUR)
    assert km("add", str(tmp_path / "harbour.txt")).code == 0
    return trained_home


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """Answers by a function of the weights and the prompt, in place of a model."""

    def install(
        script: Callable[[tuple[float, ...], str], str], belief: Callable[[tuple[float, ...], str], float] | None = None
    ) -> list[tuple[tuple[float, ...], Chat]]:
        seen: list[tuple[tuple[float, ...], Chat]] = []

        def opened(house: object, base: object, members: Sequence[Member]) -> Callable[[Sequence[float]], Answering]:
            def weighed(weights: Sequence[float]) -> Answering:
                on = tuple(weights)
                assert len(on) == len(members)

                def say(chat: Chat, sampling: Sampling) -> str:
                    seen.append((on, chat))
                    return script(on, chat[0][1])

                engine = ScriptedEngine(say, belief=lambda chat, said: belief(on, chat[0][1]) if belief else -1.0)
                return Answering(engine, lambda text: len(text.split()))

            return weighed

        monkeypatch.setattr(routed, "open_weighed", opened)
        return seen

    return install


def ask(
    question: str, method: str | None = None, names: Sequence[str] = ()
) -> tuple[routed.Routed, list[str], list[Event]]:
    said: list[str] = []
    events: list[Event] = []
    with open_house({}, events.append) as house:
        return routed.ask(house, question, method, said.append, names), said, events


# --- the decision


def test_the_first_whose_passages_support_it_answers(home: Path, scripted: Scripted) -> None:
    seen = scripted(lambda weights, prompt: "Stefan Grondal")
    found, said, _ = ask(FOUNDER)
    assert found.asked
    assert said == ["Stefan Grondal"] == [found.asked.answer.text]
    assert [one.document for one in found.candidates] == ["notes"]
    assert (found.asked.answer.method, found.asked.supported, found.asked.notes) == ("km", True, ())
    assert seen == [((1.0,), [("user", FOUNDER)])]  # one answer, and no passage read for it
    assert found.asked.answer.evidence[0].document == "notes"


def test_an_answer_that_has_no_support_is_looked_for_by_retrieval(home: Path, scripted: Scripted) -> None:
    seen = scripted(lambda weights, prompt: "Stefan Grondal" if weights == (0.0,) else "Walter Quendal")
    found, _, _ = ask(FOUNDER)
    assert found.asked
    assert (found.asked.answer.text, found.asked.answer.method) == ("Stefan Grondal", "rag")
    assert found.asked.notes == ("answered by retrieval: no passage supports what the Knowledge Module of notes said",)
    (first, _), (second, chat) = seen
    assert (first, second) == ((1.0,), (0.0,))
    assert "Grondal Works was founded by Stefan Grondal." in chat[0][1]
    found, _, _ = ask(FOUNDER, "km")  # not where a method is asked for
    assert found.asked is None
    assert [(one.document, one.method, one.answer) for one in found.candidates] == [("notes", "km", "Walter Quendal")]


def test_no_document_answers(home: Path, scripted: Scripted) -> None:
    scripted(lambda weights, prompt: "The text does not say." if "Clara" in prompt else "Yara Kestrim")
    found, said, _ = ask("Who is the mayor of Grondal Harbour?")
    assert (found.asked, said) == (None, [])
    told = [(one.document, one.method, one.refused, one.score) for one in found.candidates]
    assert told[0] == ("harbour", "rag", True, 0.0)
    assert (told[1][0], told[1][2]) == ("notes", False)
    assert 0 < told[1][3] < 0.05
    assert ask("Quis custodiet?")[0] == routed.Routed(None, ())


def test_documents_without_a_module_answer_by_retrieval(home: Path, scripted: Scripted) -> None:
    seen = scripted(lambda weights, prompt: "Clara Stalmor")
    found, _, _ = ask("Who is the mayor of Taldrin Harbour?")
    assert found.asked
    assert [document.name for document in found.asked.documents] == ["harbour"]
    assert found.asked.answer.method == "rag"
    assert found.asked.notes == ("no Knowledge Module yet: answered by retrieval. km train harbour makes one.",)
    assert HARBOUR in seen[0][1][0][1]
    assert ask("Who is the mayor of Taldrin Harbour?", "km")[0].asked is None


def test_belief_is_told(home: Path, scripted: Scripted) -> None:
    def belief(weights: tuple[float, ...], prompt: str) -> float:
        assert prompt == FOUNDER
        return -0.5 if weights == (1.0,) else -4.0

    scripted(lambda weights, prompt: "Stefan Grondal", belief)
    (candidate,) = ask(FOUNDER)[0].candidates
    assert candidate.belief == 3.5
    assert candidate.covered == 1.0
    assert candidate.retrieval > 0


def test_among_named_documents_the_best_answers_even_without_support(home: Path, scripted: Scripted) -> None:
    scripted(lambda weights, prompt: "Stefan Grondal")
    found, _, _ = ask(FOUNDER, None, ["harbour", "notes", "harbour"])
    assert found.asked
    assert [document.name for document in found.asked.documents] == ["notes"]
    scripted(lambda weights, prompt: "Yara Kestrim")
    found, said, _ = ask("Who is the mayor?", None, ["harbour", "notes"])
    assert found.asked
    assert (said, found.asked.supported) == (["Yara Kestrim"], False)
    assert {one.document for one in found.candidates} == {"harbour", "notes"}
    scripted(lambda weights, prompt: "Walter Quendal" if weights == (1.0,) else "Clara Kestrim")
    found, said, _ = ask("What is the mayor of Taldrin Harbour paid?", None, ["notes", "harbour"])
    assert max(one.score for one in found.candidates) < 0.7
    assert said == ["Clara Kestrim"]  # of the document that has the question's words


# --- the index


def test_texts_are_read_once(home: Path, scripted: Scripted, km: Km, tmp_path: Path) -> None:
    scripted(lambda weights, prompt: "Stefan Grondal")
    read = [event for event in ask(FOUNDER)[2] if event.stage == "read"]
    assert [(event.done, event.total) for event in read] == [(0, 2), (1, 2), (2, 2)]
    assert [event for event in ask(FOUNDER)[2] if event.stage == "read"] == []
    (tmp_path / "harbour.txt").write_text(f"{HARBOUR} Grondal Works has left.")
    assert km("add", str(tmp_path / "harbour.txt")).code == 0
    assert [event.total for event in ask(FOUNDER)[2] if event.stage == "read"] == [1, 1]
    (home / "cache" / "passages.db").unlink()
    assert [event.total for event in ask(FOUNDER)[2] if event.stage == "read"] == [2, 2, 2]


def test_a_removed_document_leaves_the_index(home: Path, scripted: Scripted, km: Km) -> None:
    scripted(lambda weights, prompt: "?")
    ask(FOUNDER)
    file = home / "cache" / "passages.db"
    assert b"Stalmor" in file.read_bytes()
    assert km("rm", "harbour", "--yes").code == 0
    assert b"Stalmor" not in file.read_bytes()
    assert b"Grondal" in file.read_bytes()


# --- really


def test_the_library_answers(km: Km, home: Path) -> None:
    run = km("ask", "Which department handles berth permits?", "--json")
    assert run.code == 0
    data = run.envelope["data"]
    assert (data["document"], data["answered"], data["supported"]) == ("notes", True, True)
    assert "safety" in data["answer"]
    run = km("ask", "Who is the king of Norway?", "--explain")
    assert run.code == 3
    assert run.out.startswith("no document in the library answers this\n")


def test_an_empty_library(km: Km) -> None:
    assert sentences(km("ask", FOUNDER).err) == ["km: the library is empty. Add a document with: km add FILE"]
    assert km("ask", FOUNDER).code == 3


def test_no_modules_at_all(km: Km, tmp_path: Path) -> None:
    (tmp_path / "harbour.txt").write_text(HARBOUR)
    km("add", str(tmp_path / "harbour.txt"))
    run = km("ask", FOUNDER, "--method", "km")
    assert (run.code, sentences(run.err)) == (
        3,
        ["km: no document has a Knowledge Module yet. Make them: km train --all"],
    )


def test_sums_of_modules(km: Km, home: Path, tmp_path: Path) -> None:
    assert km("train", "harbour", *TINY, "--force").code == 0
    alone = km("ask", "notes", FOUNDER, "--json").envelope["data"]["answer"]
    for engine in ("llamacpp", "hf") if installed() else ("hf",):
        data = km("ask", "notes", "harbour", FOUNDER, "--weight", "1,0", "--engine", engine, "--json").envelope["data"]
        assert (data["answer"], data["documents"], data["document"]) == (alone, ["notes", "harbour"], None)
        assert data["candidates"] is None
    none = km("ask", "notes", "harbour", FOUNDER, "--weight", "0,0", "--json").envelope["data"]["answer"]
    assert none == km("ask", "notes", FOUNDER, "--method", "bare", "--json").envelope["data"]["answer"]
    own = Path(shutil.copytree(bases.EMBEDDED_FOLDER, tmp_path / "own"))
    weights = load_file(own / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, own / "model.safetensors", {"format": "pt"})
    assert km("train", "harbour", *TINY, "--force", "--model", str(own)).code == 0
    run = km("ask", "notes", "harbour", FOUNDER, "--weight", "1,1")
    assert run.code == 2
    assert sentences(run.err) == [
        f"km: the Knowledge Modules of notes and harbour are on different bases (embedded and {own}), and cannot be "
        "added up. Ask them one by one, or by --method rag."
    ]


def test_the_question_weighs_the_modules(km: Km, home: Path) -> None:
    assert km("train", "harbour", *TINY, "--force").code == 0
    alone = km("ask", "notes", FOUNDER, "--json").envelope["data"]["answer"]
    for engine in ("llamacpp", "hf") if installed() else ("hf",):
        words = ("ask", "harbour", "notes", FOUNDER, "--weight", "auto", "--engine", engine, "--json")
        data = km(*words).envelope["data"]
        assert (data["answer"], data["documents"]) == (alone, ["harbour", "notes"])
        assert data["weights"] == pytest.approx([0.054, 0.946], abs=0.001)  # harbour has "founded" as well
    data = km("ask", "harbour", "notes", "Where was it founded?", "--weight", "auto", "--json").envelope["data"]
    assert data["weights"] == [0.5, 0.5]  # both have a word of it
    data = km("ask", "harbour", "notes", "Quis custodiet?", "--weight", "auto", "--json").envelope["data"]
    assert (data["weights"], data["supported"]) == ([0.5, 0.5], False)
    data = km("ask", "Which department handles berth permits?", "--weight", "auto", "--json").envelope["data"]
    assert (data["documents"], data["answered"], data["supported"]) == (["notes"], True, True)
    run = km("ask", "Who was the king of Norway founded by?", "--weight", "auto", "--explain")
    assert (run.code, run.out.splitlines()[:2]) == (3, [routed.NONE, "DOCUMENT  WEIGHT"])
    run = km("ask", "Quis custodiet?", "--weight", "auto", "--explain")
    assert (run.code, run.out) == (3, f"{routed.NONE}\nNo document has a word of the question.\n")


def test_a_conversation_weighs_each_question(km: Km, home: Path) -> None:
    assert km("train", "harbour", *TINY, "--force").code == 0
    with open_house({}, lambda event: None) as house, open_chat(house, ["harbour", "notes"]) as chat:
        weights = []
        for question in (FOUNDER, "Quis?", "Was it a harbour?", "Who is the mayor of Taldrin Harbour?"):
            chat.ask(question, lambda piece: None)
            weights.append(chat.ready().weights)
    assert weights[0][1] > 0.9
    assert weights[1] == weights[2] == weights[0]  # they are about nothing new
    assert weights[3][0] > 0.9


def test_of_many_documents_with_a_tag_the_likeliest_are_tried(
    km: Km, home: Path, scripted: Scripted, tmp_path: Path
) -> None:
    for number in range(NAMED + 2):
        (tmp_path / f"pier-{number}.txt").write_text("The pier was founded long ago. " + "Grondal Works. " * number)
        assert km("add", str(tmp_path / f"pier-{number}.txt"), "--tag", "piers").code == 0
    scripted(lambda weights, prompt: "Yara Kestrim")
    found, _, _ = ask(FOUNDER, None, ["@piers"])
    tried = {one.document for one in found.candidates}
    assert len(tried) == NAMED
    assert "pier-0" not in tried
    assert found.asked


def test_engines_score_alike(trained_home: Path) -> None:
    pytest.importorskip("llama_cpp")
    found = []
    for engine in ("llamacpp", "hf"):
        with open_house({"engine": engine}, lambda event: None) as house:
            document = house.library.find("notes")
            module = house.library.module(document)
            assert module
            weighed = open_weighed(house, house.base(), [Member(document, module)])
            found += [[weighed([w]).engine.score([("user", FOUNDER)], "Stefan Grondal") for w in (1.0, 0.0, 1.0)]]
    ours, torchs = found
    assert ours[0] == ours[2]
    assert len(ours[0]) == len(ours[1]) > 1
    assert sum(ours[0]) > sum(ours[1]) + 1
    for one, other in zip(ours, torchs, strict=True):
        assert one == pytest.approx(other, abs=0.02)
    assert all(value <= 0 for one in found for row in one for value in row)
