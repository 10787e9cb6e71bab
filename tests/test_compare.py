from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

import pytest

from kmcli.bases.prompts import STYLES
from kmcli.compare import Comparison, Facts, Judged, Way, compare
from kmcli.engines import Chat, Engine, Sampling
from kmcli.engines.scripted import ScriptedEngine
from kmcli.evaluation import ways
from kmcli.evaluation.verdict import p_km, verdict
from kmcli.retrieval import Index
from kmcli.types import Answer, Chunk, Document, Event, Method, Passage, Question, silent

N = 24
NAMES = [f"Person{number}" for number in range(N)]
FACTS = [f"{name} keeps exactly {number + 100} sheep on the hill." for number, name in enumerate(NAMES)]
TEXT = "\f".join(FACTS)
CHUNKS = [Chunk(i, fact, 8, TEXT.index(fact), i + 1, i + 1) for i, fact in enumerate(FACTS)]
QUESTIONS = [
    Question(f"How many sheep keeps {name}?", (str(number + 100),), "number", FACTS[number])
    for number, name in enumerate(NAMES)
]
DOCUMENT = Document("d1", "flock", "-", "text", "0", "0", N, 8 * N, "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z")

Knows = Callable[[int], bool]


def engine(knows: Knows = lambda number: False, reads: bool = True, context: int = 1_000_000) -> ScriptedEngine:
    """Answers from the text in its prompt if it reads, else from memory the questions that it knows."""

    def script(chat: Chat, sampling: Sampling) -> str:
        prompt = chat[-1][1]
        number = NAMES.index(prompt.split("sheep keeps ")[1].split("?")[0])
        if (reads and FACTS[number] in prompt) or knows(number):
            return str(number + 100)
        return "no idea"

    return ScriptedEngine(script, context)


def run(engines: Mapping[Method, Engine], ks: Sequence[int] = (2,), **changes: object) -> Comparison:
    table = {way: engines[way.method] for way in ways(list(engines), ["bm25"], ks, [0.5])}
    return run_ways(table, **changes)


def run_ways(engines: Mapping[Way, Engine], **changes: object) -> Comparison:
    searchers = {"bm25": Index("flock", CHUNKS)}
    arguments = {"searchers": searchers, "report": silent, "questions": QUESTIONS, "text": TEXT} | changes
    return compare(engines, DOCUMENT, "tiny", chunks=CHUNKS, prompts=STYLES["embedded"], **arguments)  # type: ignore[arg-type]


def test_every_method_with_scores_tokens_and_gap() -> None:
    result = run(
        {
            "gold": engine(),
            "full": engine(context=100),
            "rag": engine(),
            "km": engine(lambda number: number % 2 == 0),
            "bare": engine(),
        }
    )
    assert [row.method for row in result.rows] == ["bare", "km", "rag", "full", "gold"]
    scores = {row.method: row.exact_match.mean for row in result.rows if row.exact_match}
    assert scores == {"bare": 0.0, "km": 0.5, "rag": 1.0, "gold": 1.0}
    bare, km, rag, full, gold = result.rows
    assert (bare.prompt_tokens, km.prompt_tokens, rag.prompt_tokens, gold.prompt_tokens) == (5, 5, 21, 13)
    assert (bare.output_tokens, km.output_tokens, gold.output_tokens) == (2, 1.5, 1)
    assert km.seconds is not None
    assert km.seconds > 0
    assert (full.fits, full.exact_match, full.prompt_tokens) == (False, None, None)
    assert full.note == "prompt and answer do not fit in 100 tokens"
    assert km.exact_match is not None
    assert 0.2 < km.exact_match.low < 0.5 < km.exact_match.high < 0.8
    assert (result.document, result.reference, result.gap_closed, result.gap_closed_f1) == ("flock", "gold", 0.5, 0.5)
    assert result.verdict == (
        "Over 24 questions the KM is right on 50% and RAG 100%: RAG is better (p < 0.01), and the KM reads 4.2 times "
        "fewer prompt tokens. It closes 50% of the gap between the bare base (0%) and the gold passage (100%)."
    )


def test_answers_are_kept_with_their_scores_and_evidence() -> None:
    result = run({"rag": engine(), "bare": engine(lambda number: number == 3)})
    assert list(result.answers) == ["bare", "rag@2"]
    judged = result.answers["rag@2"][5]
    assert judged == Judged(judged.answer, 1.0, 1.0, 1.0)
    assert isinstance(judged.answer, Answer)
    assert judged.answer.text == "105"
    assert judged.answer.evidence[0].text == FACTS[5]
    assert judged.answer.evidence[0].page == 6
    assert [one.exact_match for one in result.answers["bare"]] == [float(number == 3) for number in range(N)]
    assert result.questions == tuple(QUESTIONS)
    assert (result.document, result.base, result.measure) == ("flock", "tiny", "exact_match")


def test_a_km_better_than_rag() -> None:
    result = run({"km": engine(lambda number: number < 20), "rag": engine(reads=False), "bare": engine()})
    assert result.verdict.startswith("Over 24 questions the KM is right on 83% and RAG 0%: the KM is better (p < 0.01)")
    assert (result.reference, result.gap_closed) == (None, None)
    assert "gap" not in result.verdict


def test_no_clear_difference_and_a_third_method_that_does_best() -> None:
    result = run(
        {
            "km": engine(lambda number: number < 12),
            "rag": engine(lambda number: 2 <= number < 12, reads=False),
            "full": engine(),
            "bare": engine(lambda number: number < 6),
        }
    )
    assert "the KM is right on 50% and RAG 42%: no clear difference (p = 0." in result.verdict
    assert "; the full text does best with 100%. " in result.verdict
    assert result.reference == "full"
    assert result.gap_closed == pytest.approx((0.5 - 0.25) / (1 - 0.25))
    assert result.verdict.endswith("It closes 33% of the gap between the bare base (25%) and the full text (100%).")


def test_the_best_of_several_rows_must_be_better_by_more() -> None:
    """Six questions of six speak for it: p = 0.03 alone, and three times that as the best of three (Holm 1979)."""
    answer = run({"rag": engine()}).answers["rag@2"][0].answer

    def right_on(count: int) -> list[Judged]:
        return [Judged(answer, *[float(number < count)] * 3) for number in range(N)]

    def told(judged: dict[Way, list[Judged]]) -> str:
        return verdict(judged, {way: p_km(judged, way, "exact_match") for way in judged})

    km, best = Way("km"), Way("rag", "bm25", 1)
    assert "RAG is better (p = 0.03)" in told({km: right_on(8), best: right_on(14)})
    others = {Way("rag", "bm25", 3): right_on(13), Way("rag", "bm25", 5): right_on(13)}
    said = told({km: right_on(8), best: right_on(14), **others})
    assert "the KM is right on 33% and RAG (1 passage) 58%: no clear difference (p = 0.09)" in said


def test_what_km_ask_does_by_itself_is_said() -> None:
    result = run({"km": engine(), "auto": engine(lambda number: number < 18), "rag": engine()})
    assert result.verdict.endswith(" Left to choose (auto), km ask is right on 75% and reads 5 prompt tokens.")


def test_without_a_km_the_best_method_is_named() -> None:
    result = run({"rag": engine(), "bare": engine(), "gold": engine()})
    assert result.verdict == "Over 24 questions RAG does best: right on 100%."


def test_a_km_below_the_base_closes_none_of_the_gap() -> None:
    result = run({"km": engine(), "bare": engine(lambda number: number < 6), "gold": engine()})
    assert result.gap_closed == pytest.approx(-0.25 / 0.75)
    assert "the KM is right on 0% and the bare base 25%: the bare base is better" in result.verdict
    assert "It closes none of the gap" in result.verdict


def test_a_reference_that_does_not_help_leaves_no_gap() -> None:
    result = run({"km": engine(), "bare": engine(lambda number: True), "gold": engine()})
    assert result.gap_closed is None
    assert result.verdict.endswith("The gold passage does no better than the bare base, so there is no gap to close.")


def test_few_questions_are_called_few_and_decide_nothing() -> None:
    result = run({"km": engine(lambda number: True), "bare": engine()}, questions=QUESTIONS[:4])
    assert result.verdict.startswith(
        "Over only 4 questions the KM is right on 100% and the bare base 0%: no clear difference (p = 0.1"
    )


def test_where_nothing_is_exactly_right_the_verdict_goes_by_f1() -> None:
    chatty = ScriptedEngine(lambda chat, sampling: "they keep " + str(100 + NAMES.index(chat[-1][1].split()[-1][:-1])))
    result = run({"km": chatty, "bare": engine()})
    assert "the KM is at an F1 of 50% and the bare base 0%: the KM is better" in result.verdict
    assert result.rows[1].f1 is not None
    assert (result.rows[1].f1.mean, result.rows[1].exact_match.mean) == (0.5, 0.0)  # type: ignore[union-attr]


def test_gold_without_evidence_is_not_asked_and_says_so() -> None:
    unproved = [*QUESTIONS[:3], Question("How many sheep keeps Person9?", ("109",))]
    gold = engine()
    result = run({"gold": gold, "bare": engine()}, questions=unproved)
    assert result.rows[1].fits is False
    assert result.rows[1].note == "no evidence found for 1 of 4 questions"
    assert gold.calls == []
    assert result.verdict == "Over only 4 questions the bare base is at an F1 of 0%."


def test_rag_says_when_passages_did_not_fit() -> None:
    # 64 tokens for the answer, 5 for the question, 8 for one passage of the two
    result = run({"rag": engine(context=64 + 14)})
    assert result.rows[0].note == "read 24 of the 48 passages found: the rest did not fit"
    assert result.rows[0].exact_match is not None
    assert result.rows[0].exact_match.mean == 1.0


def test_full_text_is_read_without_page_marks() -> None:
    reader = engine()
    run({"full": reader}, questions=QUESTIONS[:1])
    assert reader.calls == [[("user", "\n".join(FACTS) + "\n\nHow many sheep keeps Person0?")]]


def test_nothing_that_fits_is_said_plainly() -> None:
    result = run({"km": engine(context=10), "full": engine(context=10)})
    assert [row.fits for row in result.rows] == [False, False]
    assert result.answers == {}
    assert result.verdict == "No method could be asked, so there is nothing to compare."


def test_progress_runs_from_nothing_to_all_answered() -> None:
    events: list[Event] = []
    run({"bare": engine(), "km": engine(), "full": engine(context=10)}, report=events.append)
    assert {event.stage for event in events} == {"compare"}
    assert {event.total for event in events} == {3 * N}
    done = [event.done for event in events if event.done is not None]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 3 * N)
    assert set(done) == {*range(2 * N + 1), 3 * N}
    assert [event.message for event in events][:: N + 2] == ["bare", "km", "full"]


def test_no_questions_is_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no questions"):
        run({"bare": engine()}, questions=[])


# --- several rows of a method


def test_a_row_for_every_k_in_order_and_the_best_of_them_is_the_rival() -> None:
    result = run({"km": engine(lambda number: number < 12), "rag": engine(), "bare": engine()}, ks=(1, 3))
    assert [(row.key, row.method, row.retriever, row.k) for row in result.rows] == [
        ("bare", "bare", None, None),
        ("km", "km", None, None),
        ("rag@1", "rag", "bm25", 1),
        ("rag@3", "rag", "bm25", 3),
    ]
    assert {len(one.answer.evidence) for one in result.answers["rag@3"]} == {3}
    # both are right on all: the one that reads less is named
    assert "the KM is right on 50% and RAG (1 passage) 100%: RAG (1 passage) is better" in result.verdict


class Backwards:
    """Finds the wrong passages first."""

    def search(self, query: str, k: int) -> list[Passage]:
        with Index("flock", CHUNKS) as index:
            return index.search(query, N)[::-1][:k]


def test_retrievers_side_by_side() -> None:
    table = {way: engine() for way in ways(["rag", "km"], ["bm25", "dense"], [1], [])}
    result = run_ways(table, searchers={"bm25": Index("flock", CHUNKS), "dense": Backwards()})
    assert [row.key for row in result.rows] == ["km", "rag@1", "rag@1:dense"]
    scores = {row.key: row.exact_match.mean for row in result.rows if row.exact_match}
    assert scores == {"km": 0.0, "rag@1": 1.0, "rag@1:dense": 0.0}
    assert "the KM is right on 0% and RAG (bm25) 100%" in result.verdict
    p = {row.key: row.p_km for row in result.rows}
    assert p["km"] is None
    assert p["rag@1:dense"] == 1.0
    assert p["rag@1"] is not None
    assert p["rag@1"] < 0.01


def test_the_share_kept_is_part_of_the_row() -> None:
    result = run_ways({way: engine() for way in ways(["full-l2", "full"], [], [], [0.5, 0.1])})
    assert [row.key for row in result.rows] == ["full", "full-l2@0.5", "full-l2@0.1"]
    assert result.rows[2].kept == 0.1
    assert result.reference == "full"


# --- kinds, choices, costs


def test_scores_by_kind_of_question() -> None:
    mixed = [
        *QUESTIONS[:3],
        Question("Who keeps the most sheep?", ("nobody",)),
        Question("Which colour has the hill?", (), "unanswerable"),
        Question("Is Person3 poor?", ("The text does not say.",)),
    ]

    def script(chat: Chat, sampling: Sampling) -> str:
        asked = chat[-1][1]
        return "nobody" if asked.startswith("Who") else "The text does not say" if "hill" in asked else "yes"

    result = run({"km": ScriptedEngine(script), "bare": engine_of("nobody")}, questions=mixed)
    km, bare = result.rows[1], result.rows[0]
    assert [question.kind for question in result.questions] == [*["number"] * 3, "who", "unanswerable", "unanswerable"]
    assert {kind: (score.mean, score.n) for kind, score in km.kinds.items()} == {
        "who": (1.0, 1),
        "unanswerable": (0.5, 2),
        "number": (0.0, 3),
    }
    assert list(km.kinds) == ["who", "unanswerable", "number"]
    assert bare.kinds["unanswerable"].mean == 0.0
    assert [one.f1 for one in result.answers["km"]] == [0, 0, 0, 1, 1, 0]


def engine_of(answer: str) -> ScriptedEngine:
    return ScriptedEngine(lambda chat, sampling: answer)


def test_gold_of_what_the_text_does_not_say_is_the_nearest_passage() -> None:
    gold = engine_of("The text does not say.")
    result = run({"gold": gold}, questions=[Question("How many goats keeps Person7 on the hill?", (), "unanswerable")])
    assert result.rows[0].exact_match is not None
    assert result.rows[0].exact_match.mean == 1.0
    assert FACTS[7] in gold.calls[0][0][1]


def test_costs_by_hand() -> None:
    facts = Facts(lambda tokens: 1000 * tokens, 192, 5000, 10.0)
    result = run({"km": engine(), "rag": slow(engine(), 0.01), "bare": engine()}, facts=facts)
    assert result.costs is not None
    costs = result.costs
    assert (costs.text_tokens, costs.text_kv_bytes, costs.adapter_bytes, costs.training_seconds) == (
        192,
        192_000,
        5000,
        10.0,
    )
    assert costs.rival == "rag@2"
    seconds = {row.key: row.seconds for row in result.rows}
    assert costs.break_even == math.ceil(10.0 / (seconds["rag@2"] - seconds["km"]))  # type: ignore[operator]
    km, rag = result.rows[1], result.rows[2]
    assert (km.kv_bytes, rag.kv_bytes) == (1000 * (5 + 2), 1000 * (21 + 1))
    assert run({"km": engine(), "bare": engine()}).costs is None


def test_training_that_never_pays() -> None:
    facts = Facts(lambda tokens: 0, 192, 5000, 10.0)
    result = run({"km": slow(engine(), 0.01), "rag": engine()}, facts=facts)
    assert result.costs is not None
    assert (result.costs.rival, result.costs.break_even) == ("rag@2", None)


def slow(inner: ScriptedEngine, seconds: float) -> ScriptedEngine:
    def script(chat: Chat, sampling: Sampling) -> str:
        time.sleep(seconds)
        return inner.script(chat, sampling)

    return ScriptedEngine(script)
