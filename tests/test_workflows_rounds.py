"""What an exam found unknown is studied again: what is taught, what is kept, and what an interruption leaves."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cli_cases import Km, document
from kmcli.cli.boundary import main
from kmcli.errors import KmError
from kmcli.library import Library, exams
from kmcli.library.exams import Exam, Head
from kmcli.metrics import normalise
from kmcli.synthesis.check import Counts
from kmcli.synthesis.write import Unit
from kmcli.training import Job, Stretch, split
from kmcli.types import Chunk, KnowledgeModule, Recipe, Sample
from kmcli.workflows import exam, group, rounds
from kmcli.workflows.course import Course, Round, folder_of
from workflow_cases import PERMITS, TINY, entry, is_sound, km, library_like
from written_once import short_calibration, written_once

ROUNDS = (*TINY[:-2], "--set", "generations=8", "--set", "exam_rounds=2")
"""Two steps teach nothing, so that there is something to study again."""


def going_on(rounds: int) -> tuple[str, ...]:
    """Words that go on with what ROUNDS began, with at most so many rounds."""
    return ("train", "permits", *ROUNDS[:-1], f"exam_rounds={rounds}")


def _stop_before_the_first_round(folder: Path) -> None:
    (folder / "permits.txt").write_text(PERMITS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "study_again", raising(KeyboardInterrupt()))
        assert main(["add", "-q", str(folder / "permits.txt")]) == 0
        assert main(["train", "-q", "permits", *ROUNDS]) == 5


@pytest.fixture
def examined(km_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library in which `permits` is trained and examined, and nothing was studied again yet."""
    return library_like("before-the-first-round", _stop_before_the_first_round, km_home, tmp_path_factory)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each unit of a round gets one sample, which no base has to write."""

    def one(engine: Any, chunks: Sequence[Chunk], recipe: Recipe, *rest: Any) -> Counts:
        hand_over, seed = rest[3], recipe.seed
        for sha256 in (chunk.sha256 for chunk in chunks):
            question = f"What is said in {seed} of {sha256}?"
            sample = Sample(f"{sha256} {seed}", sha256, "qa", question, "it", "hf", *recipe.writer, seed)
            hand_over([sample], [Unit(sha256, "qa")], Counts())
        return Counts()

    monkeypatch.setattr(rounds, "write", one)


def raising(error: BaseException) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[int]], None]:
    """Lets the exams after the rounds find so many facts known, whatever is answered."""

    def marks(known: Sequence[int]) -> None:
        numbers, real = iter(known), exam.examine_again

        def found(*given: Any) -> Exam:
            asked, count = real(*given), next(numbers)
            passages = tuple(
                replace(one, questions=tuple(replace(q, known=False) for q in one.questions)) for one in asked.passages
            )
            for place, passage in enumerate(passages):
                answers = list(dict.fromkeys(normalise(q.reference) for q in passage.questions))[:count]
                count -= len(answers)
                right = tuple(replace(q, known=normalise(q.reference) in answers) for q in passage.questions)
                passages = (*passages[:place], replace(passage, questions=right), *passages[place + 1 :])
            return Exam(replace(asked.head, known=sum(one.known for one in passages)), passages)

        monkeypatch.setattr(exam, "examine_again", found)

    return marks


def watched(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The rounds' trainings from now on."""
    seen: list[Job] = []
    real = rounds.train_together

    def train(loaded: Any, jobs: Sequence[Job], *rest: Any) -> None:
        seen.extend(jobs)
        real(loaded, jobs, *rest)

    monkeypatch.setattr(rounds, "train_together", train)
    return seen


def stopping(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, at: int) -> None:
    """Ctrl-C at the beginning of a call."""
    real, calls = getattr(module, name), itertools.count(1)

    def stop(*given: Any, **named: Any) -> Any:
        if next(calls) == at:
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr(module, name, stop)


def shown(km: Km, name: str = "permits") -> dict[str, Any]:
    return dict(km("show", name, "--exam", "--json").envelope["data"])


def secret(home: Path) -> set[str]:
    """Every question of the exam's own, and what the material holds out, normalised."""
    with Library.open(home) as library:
        document = library.find("permits")
        module = library.module(document)
        assert module is not None
        _, held = split(library.samples(document), module.recipe)
        own = [one for _, some in library.exams.questions(document) for one in some]
    return {normalise(one.prompt) for one in (*own, *held)}


def test_what_is_unknown_is_studied_again_and_the_better_adapter_kept(
    km: Km, examined: Path, monkeypatch: pytest.MonkeyPatch, marked: Callable[[Sequence[int]], None], written: None
) -> None:
    jobs = watched(monkeypatch)
    marked([2, 1])
    first = entry(km, "permits")["module"]["id"]
    run = km("train", "permits", "--json")
    assert run.code == 0
    (trained,) = run.envelope["data"]["trained"]
    head = trained["exam"]
    assert (head["known"], head["known_before"], head["rounds"]) == (2, 0, 2)
    assert head["round_seconds"] > 0
    assert head["round_steps"] == 2
    assert head["round_tokens"] > 0
    assert "facts are not known; in round 1 of at most 2, they are studied again" in run.err
    # The second round began from what the first made, and what it made is not kept, for it knew less.
    assert [(job.recipe.steps, job.recipe.held_out, job.recipe.init) for job in jobs] == [(1, 0.0, "")] * 2
    assert [job.stretch for job in jobs] == [Stretch(before=4, after=1), Stretch(before=5)], "of one schedule"
    assert not same(jobs[0].start, jobs[1].start)
    module = entry(km, "permits")["module"]
    assert module["id"] == trained["module"]["id"] != first
    kept = module["metrics"]["rounds"]
    assert [one["known"] for one in kept] == [2, 1]
    assert all(one["tokens"] > 0 and one["samples"] > one["written"] > 0 for one in kept)
    assert shown(km)["head"] == head
    assert "; 0% before 2 rounds of further study, " in km("show", "permits", "--exam").out
    with Library.open(examined) as library:
        found = library.module(library.find("permits"))
        assert found is not None
        assert "studied again: 2 steps in 2 rounds" in (found.path / "card.md").read_text()
    assert entry(km, "permits")["state"] == "fresh"
    assert is_sound(km)
    assert not list(examined.glob("documents/*/training/*"))
    # It is not trained again for fewer rounds.
    assert km(*going_on(1)).err == "permits is trained already. To train again, add --force.\n"


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for name in one for a, b in zip(one[name], other[name], strict=True))


def test_nothing_of_the_exam_and_nothing_held_out_is_ever_studied(
    km: Km, examined: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the base writes just those questions in a round."""
    jobs, real, forbidden = watched(monkeypatch), rounds.write, secret(examined)
    leaked: list[str] = []

    def leaking(engine: Any, chunks: Any, recipe: Recipe, prompts: Any, done: Any, before: Any, *rest: Any) -> Any:
        hand_over, *others = rest

        def more(samples: list[Sample], units: Any, counts: Any) -> None:
            like = Sample("", units[0].chunk_sha256, "qa", "", "it", "hf", *recipe.writer, recipe.seed)
            words = [f"{prompt.capitalize()} ?" for prompt in sorted(forbidden)]
            leaked.extend(words)
            hand_over([*samples, *(replace(like, id=word, prompt=word) for word in words)], units, counts)

        return real(engine, chunks, recipe, prompts, done, before, more, *others)

    monkeypatch.setattr(rounds, "write", leaking)
    assert km(*going_on(1)).code == 0
    (job,) = jobs
    asked = {normalise(one["question"]) for part in shown(km)["passages"] for one in part["questions"]}
    studied = {normalise(one.prompt) for one in job.samples}
    assert leaked
    assert asked
    assert asked <= forbidden
    assert forbidden.isdisjoint(studied)
    with Library.open(examined) as library:
        document = library.find("permits")
        before = {one.id for one in library.samples(document)}
        assert {one.id for one in job.samples} - before  # what was written in the round is studied
        assert before.isdisjoint(leaked)


def test_a_round_after_which_less_is_known_is_not_kept(
    km: Km, examined: Path, marked: Callable[[Sequence[int]], None], written: None
) -> None:
    marked([0, 0])
    with Library.open(examined) as library:
        module = library.module(library.find("permits"))
        assert module is not None
        found = library.exams.of(module)
        assert found is not None
        (passage,) = (one for one in found.passages if one.questions)
        first, *others = passage.questions
        known = replace(passage, questions=(replace(first, known=True), *others))
        library.exams.keep(module, Exam(replace(found.head, known=known.known), (known,)))
    first = entry(km, "permits")["module"]["id"]
    (trained,) = km("train", "permits", "--json").envelope["data"]["trained"]
    assert trained["module"]["id"] == entry(km, "permits")["module"]["id"] == first
    assert "rounds" not in trained["module"]["metrics"]
    assert (trained["exam"]["rounds"], trained["exam"]["known"]) == (2, trained["exam"]["known_before"])
    assert shown(km)["head"] == trained["exam"]
    assert entry(km, "permits")["state"] == "fresh"


@pytest.mark.parametrize(
    ("known", "most", "over"),
    [
        ([], 0, True),
        ([], 1, False),
        ([95], 5, True),  # nearly all is known
        ([94], 5, False),
        ([5, 5], 5, True),  # two in a row brought nothing
        ([5, 6], 5, False),
        ([4, 6, 5], 5, False),
        ([6, 5, 6], 5, True),  # nothing more than was known before
        ([6, 7, 8], 3, True),
    ],
)
def test_when_there_are_no_more_rounds(tmp_path: Path, known: list[int], most: int, over: bool) -> None:
    def exam_of(count: int) -> Exam:
        return Exam(Head(count, 100, 0, 0.0, 0.0), ())

    first = exam_of(5)
    module = KnowledgeModule("m", "d", tmp_path / "m", Recipe(), {}, "", "")
    recipe = Recipe(exam_rounds=most)
    course = Course(document("d"), None, recipe, module, first, tmp_path, first, module.path, 2)  # type: ignore[arg-type]
    for count in known:
        (course.folder / "module").mkdir(parents=True)
        exams.write(course.folder / "module", exam_of(count))
        course.keep(Round(count, 0, 1, 1, 1, 1, 1.0))
    assert course.over is over
    best = max([5, *known])
    assert course.best.head.known == best
    last = max(place for place, count in enumerate([5, *known]) if count == best)  # of equals, what has studied most
    assert course.where == (folder_of(tmp_path, last) / "module" if last else module.path)


@pytest.mark.parametrize(
    ("module", "name", "at", "left"),
    [(rounds, "write", 2, 1), (rounds, "train_together", 2, 1), (exam, "examine_again", 1, 1)],
)
def test_rounds_that_are_interrupted_go_on(
    km: Km, examined: Path, monkeypatch: pytest.MonkeyPatch, written: None, module: Any, name: str, at: int, left: int
) -> None:
    with monkeypatch.context() as patch:
        stopping(patch, module, name, at)
        assert km("train", "permits").code == 5
    before = entry(km, "permits")
    assert before["state"] == "interrupted"
    assert before["exam"]["rounds"] == 0  # the first module can be used meanwhile
    assert is_sound(km)
    with monkeypatch.context() as patch:
        patch.setattr(group, "train_together", raising(AssertionError("it is trained from the beginning")))
        patch.setattr(exam, "examine", raising(AssertionError("it is examined from the beginning")))
        jobs = watched(patch)
        assert km("train", "permits").code == 0
    assert len(jobs) == left
    after = entry(km, "permits")
    assert (after["state"], after["exam"]["rounds"]) == ("fresh", 2)
    assert is_sound(km)


def test_what_was_written_before_an_interruption_is_not_written_again(
    km: Km, examined: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, handed = rounds.write, list[Unit]()

    def stop(*given: Any) -> Any:
        def once(samples: Any, units: Any, counts: Any) -> None:
            given[6](samples, units, counts)
            handed.extend(units)
            raise KeyboardInterrupt

        return real(*given[:6], once, *given[7:])

    with monkeypatch.context() as patch:
        patch.setattr("kmcli.synthesis.write.CHATS_PER_GROUP", 1)
        patch.setattr(rounds, "write", stop)
        assert km(*going_on(1)).code == 5
    finished: list[set[Unit]] = []

    def rest_of_it(*given: Any) -> Counts:
        finished.append(given[4])
        return Counts()

    monkeypatch.setattr(rounds, "write", rest_of_it)
    assert km(*going_on(1)).code == 0
    assert len(handed) == 1
    assert finished == [set(handed)]


def test_rounds_can_be_given_up(km: Km, examined: Path, monkeypatch: pytest.MonkeyPatch, written: None) -> None:
    with monkeypatch.context() as patch:
        stopping(patch, rounds, "train_together", 2)
        assert km("train", "permits").code == 5
    monkeypatch.setattr(rounds, "train_together", raising(AssertionError("it is studied again")))
    assert km(*going_on(0)).code == 0
    after = entry(km, "permits")
    assert (after["state"], after["exam"]["rounds"]) == ("fresh", 1)


def test_a_failure_ends_the_rounds_and_keeps_the_module(
    km: Km, examined: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "write", raising(KmError("the service is gone.")))
    module = entry(km, "permits")["module"]["id"]
    run = km("train", "permits")
    assert run.code == 0
    assert "warning: permits is not studied again: the service is gone.\n" in run.err
    after = entry(km, "permits")
    assert (after["state"], after["module"]["id"], after["exam"]["rounds"]) == ("fresh", module, 0)


def test_several_documents_are_studied_again_side_by_side(
    km: Km, examined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: None
) -> None:
    (tmp_path / "second.txt").write_text(PERMITS.replace("$75", "$80"))
    assert km("add", str(tmp_path / "second.txt")).code == 0
    at_once: list[list[str]] = []
    real = rounds.train_together

    def train(loaded: Any, jobs: Sequence[Job], *rest: Any) -> None:
        at_once.append([job.name for job in jobs])
        real(loaded, jobs, *rest)

    monkeypatch.setattr(rounds, "train_together", train)
    with monkeypatch.context() as patch:
        stopping(patch, exam, "examine_again", 2)  # the first document's round is over, the second's is not
        assert km("train", "permits", "second", *ROUNDS).code == 5
    assert [entry(km, name)["state"] for name in ("permits", "second")] == ["interrupted"] * 2
    assert km("train", "--all").code == 0
    assert at_once[0] == ["permits", "second"]
    assert sum(names.count("permits") for names in at_once) == sum(names.count("second") for names in at_once) == 2
    for name in ("permits", "second"):
        assert (entry(km, name)["state"], entry(km, name)["exam"]["rounds"]) == ("fresh", 2)
    assert is_sound(km)


def test_there_are_no_more_rounds_than_the_training_left_room_for(
    km: Km, examined: Path, monkeypatch: pytest.MonkeyPatch, written: None, marked: Callable[[Sequence[int]], None]
) -> None:
    jobs = watched(monkeypatch)
    marked([1, 2, 3])
    assert entry(km, "permits")["module"]["metrics"]["planned_rounds"] == 2
    assert km(*going_on(3)).code == 0
    assert [job.stretch for job in jobs] == [Stretch(before=4, after=1), Stretch(before=5)]
    assert entry(km, "permits")["exam"]["rounds"] == 2
