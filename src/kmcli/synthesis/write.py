"""The writing of study material: chunks in, checked samples out, a group of chunks at a time.

A unit is one task on one chunk. Its samples are handed over together, and what is handed over is never written again:
the caller keeps the set of finished units. Knows nothing of documents, libraries or files.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kmcli.bases.prompts import Prompts
from kmcli.engines import Chat, Engine, Sampling
from kmcli.engines.metered import Metered
from kmcli.engines.scoring import can_score
from kmcli.errors import KmError
from kmcli.synthesis import judge
from kmcli.synthesis.check import ANSWER_TOKENS, KEPT, Checker, Counts, Written
from kmcli.synthesis.pace import Pace
from kmcli.synthesis.parse import PARSERS, Draft
from kmcli.synthesis.plan import Planned, check_prompts, plan
from kmcli.synthesis.values import values
from kmcli.types import Chunk, Event, Recipe, Reporter, Sample, text_hash

CHATS_PER_GROUP = 64

READABLE_AFTER = 50
READABLE_SHARE = 0.2
"""A base that confirms fewer than this share of its first 50 pairs cannot read the document. See docs/experiments.md."""

IN_WORDS: dict[str, str] = {
    "disagree": "not confirmed",
    "known": "known without the text",
    "answered": "answered by the text",
    "refusal": "without an answer",
    "names": "with names not in the text",
    "gives away": "with the answer in the question",
    "unfinished": "unfinished",
    "duplicate": "repeated",
    "elsewhere": "about something else",
}
"""Why a draft was dropped, as people are told."""


@dataclass(frozen=True, slots=True)
class Unit:
    chunk_sha256: str
    task: str


def write(
    engine: Engine,
    chunks: Sequence[Chunk],
    recipe: Recipe,
    prompts: Prompts,
    finished: set[Unit],
    before: Mapping[tuple[str, str], int],
    hand_over: Callable[[list[Sample], list[Unit], Counts], None],
    report: Reporter,
    force: bool = False,
    student: Prompts | None = None,
) -> Counts:
    """Write the samples of every unit that is not finished yet. Returns the counts of drafts by task and reason.

    prompts: of the model that the engine runs; student: of the base that is to study the material, where that is another.
    hand_over is called once a group with its samples, the units they complete, and their counts: see `check` for the
    reasons. before: the counts that earlier runs handed over.

    Raises UsageError for a task that there is none of, or that the base was not trained on; KmError where the base evidently
    cannot read the text, unless force is set.
    """
    check_prompts(recipe, prompts)
    student = student or prompts
    planned = plan(recipe)
    units = dict.fromkeys(Unit(chunk.sha256, task) for chunk in chunks for task in planned)
    todo = [unit for unit in units if unit not in finished]
    texts = {chunk.sha256: chunk.text for chunk in chunks}
    tasks = {name: one.task for name, one in planned.items()}
    meter = Metered(engine, lambda: tell(pace.share() * len(group)))
    pace = Pace(meter)
    checker = Checker(meter, texts, tasks, recipe, prompts, student, engine if can_score(engine) else None)
    judged = {name for name, task in tasks.items() if task.check == "agrees" and not _valued(task.prompt(prompts))}
    total, done = len(units), len(units) - len(todo)
    counts, written = Counts(before), Counts()
    kept = 0

    def tell(more: float) -> None:
        numbers: dict[str, float] = {"kept": kept, "dropped": sum(written.values()) - kept}
        if meter.tokens:
            numbers["tokens/s"] = meter.tokens_per_second
        if counts:
            numbers["agree"] = confirmed_share(counts)
        report(Event("write", "", done + more, total, numbers))

    report(Event("write", "writing study material", done, total))
    for group in _groups(todo, planned, texts, prompts):
        pace.begin(sum(chats_of(unit, planned, texts, prompts) for unit in group))
        drafts = _draft(meter, group, texts, planned, recipe, prompts, student)
        pace.drafted()
        verdicts = checker.check(drafts, _seed(recipe.seed, group[0], "answers"))
        new = Counts((one.task, reason) for one, reason in verdicts)
        counts.update(new)
        _stop_if_unreadable(counts, judged, recipe, last=done + len(group) == total, force=force)
        samples = [_sample(engine, one, recipe) for one, reason in verdicts if reason in KEPT]
        if recipe.judge:
            samples = judge.judged(meter, samples, texts, prompts)
        hand_over(samples, group, new)
        written.update(new)
        done += len(group)
        kept += len(samples)
        tell(0)
    return written


def confirmed_share(counts: Mapping[tuple[str, str], int]) -> float:
    """Share of the answers that were asked for again with the chunk and agreed; 0 where none was."""
    confirmed, asked = _confirmed(counts)
    return confirmed / asked if asked else 0.0


def shares(counts: Mapping[tuple[str, str], int]) -> list[str]:
    """What was kept and what was dropped for which reason: a sentence for each task, most frequent reason first."""
    sentences = []
    for task in dict.fromkeys(task for task, _ in counts):
        reasons = {reason: count for (one, reason), count in counts.items() if one == task and count}
        kept, total = sum(reasons.get(reason, 0) for reason in KEPT), sum(reasons.values())
        dropped = sorted((-count, reason) for reason, count in reasons.items() if reason not in KEPT)
        sentence = f"{task}: {kept:,} of {total:,} kept"
        if dropped:
            sentence += ", dropped: " + ", ".join(f"{-count:,} {IN_WORDS[reason]}" for count, reason in dropped)
        sentences.append(sentence)
    return sentences


def _valued(prompt: str) -> bool:
    return "{answer}" in prompt


def _values(prompt: str, text: str) -> list[str]:
    """What a prompt is asked for: the chunk's values, or once for nothing in particular."""
    return values(text) if _valued(prompt) else [""]


def chats_of(unit: Unit, planned: Mapping[str, Planned], texts: Mapping[str, str], prompts: Prompts) -> int:
    """How many drafts a unit asks for."""
    one = planned[unit.task]
    return one.generations * len(_values(one.task.prompt(prompts), texts[unit.chunk_sha256]))


def _groups(
    units: Sequence[Unit], planned: Mapping[str, Planned], texts: Mapping[str, str], prompts: Prompts
) -> Iterator[list[Unit]]:
    """Units that are written and handed over together. A resumed run forms the same groups: it starts where one ended."""
    group: list[Unit] = []
    chats = 0
    for unit in units:
        new = chats_of(unit, planned, texts, prompts)
        if group and chats + new > CHATS_PER_GROUP:
            yield group
            group, chats = [], 0
        group.append(unit)
        chats += new
    if group:
        yield group


def _draft(
    engine: Engine,
    group: Sequence[Unit],
    texts: Mapping[str, str],
    planned: Mapping[str, Planned],
    recipe: Recipe,
    prompts: Prompts,
    student: Prompts,
) -> list[Written]:
    """What the base writes for the units of a group. With values and one generation each, it does not guess: greedy."""
    written: list[Written] = []
    for name in dict.fromkeys(unit.task for unit in group):
        task, generations = planned[name].task, planned[name].generations
        prompt = task.prompt(prompts)
        units = [unit for unit in group if unit.task == name]
        asked = [(unit, value) for unit in units for value in _values(prompt, texts[unit.chunk_sha256])]
        if not asked:
            continue
        chats: list[Chat] = []
        for unit, value in asked:
            question = _fill(prompt, answer=value) if value else prompt
            chats.append([("user", prompts.under_text.format(text=texts[unit.chunk_sha256], question=question))])
        greedy = _valued(prompt) and generations == 1
        sampling = Sampling(
            max_tokens=min(task.max_tokens or int(recipe.chunk_tokens * task.tokens), _room(engine, chats, recipe)),
            temperature=0.0 if greedy else recipe.temperature,
            top_p=1.0 if greedy else recipe.top_p,
            seed=_seed(recipe.seed, units[0]),
        )
        many = [chat for chat in chats for _ in range(generations)]
        for index, generation in enumerate(engine.generate(many, sampling)):
            unit, value = asked[index // generations]
            chunk = texts[unit.chunk_sha256]
            drafts = PARSERS[task.parser](generation.text, generation.finished, chunk)
            for own, template in zip(task.distilled(prompts), task.distilled(student), strict=True):
                written += [
                    Written(
                        unit.chunk_sha256,
                        name,
                        said,
                        _fill(template, **words),
                        _fill(own, **words),
                        draft.response,
                        value,
                    )
                    for said, words, draft in _asked(template, drafts, chunk)
                ]
    return written


def _asked(template: str, drafts: Sequence[Draft], chunk: str) -> Iterator[tuple[str, dict[str, str], Draft]]:
    """What was written and what fills the template, for every draft, or for every two names that share a sentence."""
    if "{first}" not in template:
        for draft in drafts:
            yield draft.prompt, {"question": draft.prompt, "entity": draft.prompt}, draft
        return
    sentences = re.split(r"(?<=[.!?])\s+|\n", chunk)
    names = sorted((draft.prompt for draft in drafts), key=chunk.find)
    for first, second in itertools.combinations(names, 2):
        if any(first in sentence and second in sentence for sentence in sentences):
            yield f"{first}, {second}", {"first": first, "second": second}, Draft("")


def _fill(template: str, **words: str) -> str:
    """The template with its placeholders filled; other braces stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda match: words.get(match[1], match[0]), template)


def _room(engine: Engine, chats: Sequence[Chat], recipe: Recipe) -> int:
    """Tokens that the base can still write after the longest of the chats."""
    room = engine.context - max(map(engine.count, chats))
    if room < ANSWER_TOKENS:
        raise KmError(
            f"chunks of {recipe.chunk_tokens:,} tokens leave no room to write in the {engine.context:,} that the base "
            "can read at once.",
            f"Use smaller ones: --set chunk_tokens={engine.context // 3}",
        )
    return room


def _confirmed(counts: Mapping[tuple[str, str], int]) -> tuple[int, int]:
    """How many answers agreed when asked for again with the chunk, and of how many."""
    by: Counter[str] = Counter()
    for (_, reason), count in counts.items():
        by[reason] += count
    confirmed = by["agree"] + by["known"] + by["elsewhere"]
    return confirmed, confirmed + by["disagree"]


def _stop_if_unreadable(counts: Counts, judged: set[str], recipe: Recipe, last: bool, force: bool) -> None:
    """judged: the tasks whose questions the base chose itself. Those about given values say less of how it reads."""
    agreed, asked = _confirmed({key: count for key, count in counts.items() if key[0] in judged})
    if force or (asked < READABLE_AFTER and not last) or asked == 0:
        return
    if agreed / asked < READABLE_SHARE:
        who, other = ("teacher", "teacher") if recipe.teacher else ("base model", "base with --model (see km models)")
        raise KmError(
            f"this {who} cannot read the document: asked again, it gave the same answer to only {agreed} of its "
            f"{asked} questions ({agreed / asked:.0%}, and {READABLE_SHARE:.0%} are needed).",
            f"Choose a larger {other}, or go on regardless with --force.",
        )


def sample_id(chunk_sha256: str, task: str, prompt: str, response: str) -> str:
    """The same for the same sample, whoever wrote it."""
    return text_hash(f"{chunk_sha256}\0{task}\0{prompt}\0{response}")[:16]


def _sample(engine: Engine, one: Written, recipe: Recipe) -> Sample:
    return Sample(
        id=sample_id(one.chunk_sha256, one.task, one.prompt, one.response),
        chunk_sha256=one.chunk_sha256,
        task=one.task,
        prompt=one.prompt,
        response=one.response,
        engine=engine.name,
        model=engine.model,
        revision=engine.revision,
        seed=recipe.seed,
    )


def _seed(seed: int, unit: Unit, what: str = "") -> int:
    """A seed of its own for each group, so that a resumed run draws what the uninterrupted one would have."""
    identity = f"{seed}\0{unit.chunk_sha256}\0{unit.task}" + (f"\0{what}" if what else "")
    return int(hashlib.sha256(identity.encode()).hexdigest()[:8], 16)
