"""The writing of study material: chunks in, confirmed samples out, a group of chunks at a time.

A unit is one task on one chunk. Its samples are handed over together, and what is handed over is never written again:
the caller keeps the set of finished units. Knows nothing of documents, libraries or files.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kmcli.bases.prompts import Prompts
from kmcli.engines import Chat, Engine, Sampling
from kmcli.errors import KmError
from kmcli.metrics import exact_match, normalise
from kmcli.synthesis import TASKS
from kmcli.synthesis.parse import Draft, grounded
from kmcli.types import Chunk, Event, Recipe, Reporter, Sample, TaskName

CHATS_PER_GROUP = 64
ANSWER_TOKENS = 64

READABLE_AFTER = 50
READABLE_SHARE = 0.2
"""A base that confirms fewer than this share of its first 50 pairs cannot read the document. See docs/experiments.md."""


@dataclass(frozen=True, slots=True)
class Unit:
    chunk_sha256: str
    task: TaskName


def write(
    engine: Engine,
    chunks: Sequence[Chunk],
    recipe: Recipe,
    prompts: Prompts,
    finished: set[Unit],
    before: Mapping[str, int],
    hand_over: Callable[[list[Sample], list[Unit], dict[str, int]], None],
    report: Reporter,
    force: bool = False,
) -> None:
    """Write the samples of every unit that is not finished yet.

    hand_over is called once a group with its samples, the units they complete, and the counts of drafts by what became
    of them: "agree" and "unchecked" are kept; "disagree", "duplicate", "names" (a name or number that the chunk does not
    have) and "refusal" are dropped. before: the counts that earlier runs handed over.

    Raises KmError where the base evidently cannot read the text, unless force is set.
    """
    units = [Unit(chunk.sha256, task) for chunk in chunks for task in recipe.tasks]
    todo = [unit for unit in dict.fromkeys(units) if unit not in finished]
    texts = {chunk.sha256: chunk.text for chunk in chunks}
    total, done = len(set(units)), len(set(units)) - len(todo)
    counts = Counter(before)
    kept = 0
    report(Event("write", "writing study material", done, total))
    for group in _groups(todo, recipe):
        drafts = _draft(engine, group, texts, recipe, prompts)
        samples, new = _check(engine, drafts, texts, recipe, prompts)
        counts.update(new)
        _stop_if_unreadable(counts, last=done + len(group) == total, force=force)
        hand_over(samples, group, dict(new))
        done += len(group)
        kept += len(samples)
        report(Event("write", "", done, total, {"kept": kept, "agree": confirmed_share(counts)}))


def confirmed_share(counts: Counter[str]) -> float:
    """Share of the pairs that were asked again whose answers agreed; 0 where none was."""
    asked = counts["agree"] + counts["disagree"]
    return counts["agree"] / asked if asked else 0.0


def _groups(units: Sequence[Unit], recipe: Recipe) -> Iterator[list[Unit]]:
    """Units that are written and handed over together. A resumed run forms the same groups: it starts where one ended."""
    group: list[Unit] = []
    chats = 0
    for unit in units:
        generations = TASKS[unit.task].generations(recipe)
        if group and chats + generations > CHATS_PER_GROUP:
            yield group
            group, chats = [], 0
        group.append(unit)
        chats += generations
    if group:
        yield group


def _draft(
    engine: Engine, group: Sequence[Unit], texts: dict[str, str], recipe: Recipe, prompts: Prompts
) -> list[tuple[Unit, Draft]]:
    drafts: list[tuple[Unit, Draft]] = []
    for task_name in dict.fromkeys(unit.task for unit in group):
        task = TASKS[task_name]
        units = [unit for unit in group if unit.task == task_name]
        generations = task.generations(recipe)
        chats: list[Chat] = []
        for unit in units:
            content = prompts.under_text.format(text=texts[unit.chunk_sha256], question=task.instruction(prompts))
            chats += [[("user", content)]] * generations
        sampling = Sampling(
            max_tokens=min(int(recipe.chunk_tokens * task.tokens), _room(engine, chats[::generations], recipe)),
            temperature=recipe.temperature,
            top_p=recipe.top_p,
            seed=_seed(recipe.seed, units[0]),
        )
        for index, generation in enumerate(engine.generate(chats, sampling)):
            unit = units[index // generations]
            drafts += [(unit, draft) for draft in task.drafts(generation.text, generation.finished, prompts)]
    return drafts


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


def _check(
    engine: Engine, drafts: list[tuple[Unit, Draft]], texts: dict[str, str], recipe: Recipe, prompts: Prompts
) -> tuple[list[Sample], Counter[str]]:
    counts: Counter[str] = Counter()
    refusals = set(map(normalise, prompts.refusals))
    unique: dict[tuple[Unit, str, str], tuple[Unit, Draft]] = {}
    for unit, draft in drafts:
        key = (unit, normalise(draft.prompt), normalise(draft.response))
        if normalise(draft.response) in refusals:
            counts["refusal"] += 1
        elif key in unique:
            counts["duplicate"] += 1
        elif not grounded(prompts.question_of(draft.prompt), texts[unit.chunk_sha256]):
            counts["names"] += 1
        else:
            unique[key] = (unit, draft)
    asked = [(unit, draft) for unit, draft in unique.values() if TASKS[unit.task].confirmed]
    chats: list[Chat] = [
        [("user", prompts.under_text.format(text=texts[unit.chunk_sha256], question=draft.prompt))]
        for unit, draft in asked
    ]
    again = engine.generate(chats, Sampling(max_tokens=ANSWER_TOKENS)) if chats else []
    samples = []
    for (unit, draft), answer in zip(asked, again, strict=True):
        if answer.finished and exact_match(answer.text, [draft.response]):
            samples.append(_sample(engine, unit, draft, recipe))
            counts["agree"] += 1
        else:
            counts["disagree"] += 1
    for unit, draft in unique.values():
        if not TASKS[unit.task].confirmed:
            samples.append(_sample(engine, unit, draft, recipe))
            counts["unchecked"] += 1
    return samples, counts


def _stop_if_unreadable(counts: Counter[str], last: bool, force: bool) -> None:
    asked = counts["agree"] + counts["disagree"]
    if force or (asked < READABLE_AFTER and not last) or asked == 0:
        return
    share = confirmed_share(counts)
    if share < READABLE_SHARE:
        raise KmError(
            f"this base model cannot read the document: asked again, it agreed with itself on {counts['agree']} of "
            f"{asked} questions ({share:.0%}).",
            "Choose a larger base with --model (see km models), or go on regardless with --force.",
        )


def _sample(engine: Engine, unit: Unit, draft: Draft, recipe: Recipe) -> Sample:
    identity = f"{unit.chunk_sha256}\0{unit.task}\0{draft.prompt}\0{draft.response}"
    return Sample(
        id=hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:16],
        chunk_sha256=unit.chunk_sha256,
        task=unit.task,
        prompt=draft.prompt,
        response=draft.response,
        engine=engine.name,
        model=engine.model,
        revision=engine.revision,
        seed=recipe.seed,
    )


def _seed(seed: int, unit: Unit) -> int:
    """A seed of its own for each group, so that a resumed run draws what the uninterrupted one would have."""
    return int(hashlib.sha256(f"{seed}\0{unit.chunk_sha256}\0{unit.task}".encode()).hexdigest()[:8], 16)
