"""What becomes of what a base wrote: kept, or dropped for one reason. The base itself is the judge, by answering again.

| reason      |         |                                                                                            |
|-------------|---------|--------------------------------------------------------------------------------------------|
| agree       | kept    | asked again with the chunk the base gives the same answer, and without it another          |
| refused     | kept    | a question without an answer: neither this chunk nor the likeliest others give one          |
| grounded    | kept    | an answer that names only what the chunk names                                             |
| unchecked   | kept    | of a task whose answers are not checked                                                    |
| disagree    | dropped | asked again with the chunk the base gives another answer                                   |
| known       | dropped | the base gives the answer without the chunk too                                            |
| answered    | dropped | the document does answer what was written as a question without an answer                  |
| refusal     | dropped | the answer is that the text does not say                                                   |
| names       | dropped | a name or number that the chunk does not have                                              |
| elsewhere   | dropped | a question that the chunk hardly makes likelier: it asks about something else              |
| gives away  | dropped | the question says its own answer                                                           |
| unfinished  | dropped | the answer was cut off, or is empty                                                        |
| duplicate   | dropped | the same was written before about the same chunk                                           |
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from kmcli.bases.prompts import Prompts
from kmcli.engines import Chat, Engine, Generation, Sampling
from kmcli.engines.scoring import score_all
from kmcli.metrics import exact_match, normalise, occurrences
from kmcli.synthesis import Task
from kmcli.synthesis.parse import grounded
from kmcli.types import Recipe

Kept = Literal["agree", "refused", "grounded", "unchecked"]
Dropped = Literal[
    "disagree", "known", "answered", "refusal", "names", "gives away", "unfinished", "duplicate", "elsewhere"
]
Reason = Literal[Kept, Dropped]
KEPT: tuple[str, ...] = get_args(Kept)
Counts = Counter[tuple[str, str]]
"""Drafts by task and reason."""

ANSWER_TOKENS = 64
OTHER_CHUNKS = 2
"""How many other chunks are asked whether they answer a question that this one does not."""
MORE_WORDS = 3
"""An answer agrees with a value where it has at most so many words beside it: "in 1871" for 1871."""


@dataclass(frozen=True, slots=True)
class Written:
    """said: what the base wrote to be asked (question, name, message). prompt: what the student is asked, made of it;
    asked: the same in the style of what writes. response: "" where that is still to be asked. value: of the chunk, which
    the answer must contain; "" elsewhere.
    """

    chunk_sha256: str
    task: str
    said: str
    prompt: str
    asked: str
    response: str = ""
    value: str = ""


class Checker:
    """Asks a base about the chunks of one document."""

    def __init__(
        self,
        engine: Engine,
        texts: Mapping[str, str],
        tasks: Mapping[str, Task],
        recipe: Recipe,
        prompts: Prompts,
        student: Prompts | None = None,
        scorer: Engine | None = None,
    ) -> None:
        """prompts: of the model that the engine runs; student: of the base, where that is another. scorer: what says how
        likely a question is, where it can_score; without it no question is dropped as `elsewhere`."""
        self.scorer = scorer
        self.engine, self.texts, self.tasks, self.recipe, self.prompts = engine, texts, tasks, recipe, prompts
        self.student = student or prompts
        self._words = {sha: set(normalise(text).split()) for sha, text in texts.items()}
        self._common = Counter(word for words in self._words.values() for word in words)

    def check(self, written: Sequence[Written], seed: int) -> list[tuple[Written, Reason]]:
        """Each of them with its response and what becomes of it, in order. seed: of the answers that are sampled."""
        sifted = self._sift(written)
        steps = {"agrees": self._agree, "refuses": self._refuse, "grounded": self._answer, "none": self._answer}
        judged: dict[int, tuple[Written, Reason]] = {}
        for check, step in steps.items():
            places = [
                place
                for place, (one, reason) in enumerate(sifted)
                if reason is None and self.tasks[one.task].check == check
            ]
            if places:
                judged.update(zip(places, step([sifted[place][0] for place in places], seed), strict=True))
        return _once([(one, reason) if reason else judged[place] for place, (one, reason) in enumerate(sifted)])

    def _sift(self, written: Sequence[Written]) -> list[tuple[Written, Reason | None]]:
        seen: set[tuple[str, ...]] = set()
        found: list[tuple[Written, Reason | None]] = []
        for one in written:
            key = (one.chunk_sha256, one.task, normalise(one.prompt), normalise(one.response), one.value)
            asks = self.tasks[one.task].parser in ("pairs", "questions", "question")
            reason: Reason | None = None
            if self.prompts.refuses(one.response):
                reason = "refusal"
            elif key in seen:
                reason = "duplicate"
            elif asks and not grounded(one.said, self.texts[one.chunk_sha256]):
                reason = "names"
            elif one.value and occurrences(one.value, one.said):
                reason = "gives away"
            else:
                seen.add(key)
            found.append((one, reason))
        return found

    def _agree(self, written: list[Written], seed: int) -> list[tuple[Written, Reason]]:
        """Short answers: sampled where there is none yet, then greedy with the chunk, then greedy without it.

        What a teacher knows without the chunk says nothing of what the base knows, so it is not asked that.
        """
        sampled = Sampling(ANSWER_TOKENS, self.recipe.temperature, self.recipe.top_p, seed)
        missing = [one for one in written if not (one.response or one.value)]
        first = dict(zip(map(id, missing), self._asked(missing, sampled), strict=True))
        found: list[tuple[Written, Reason]] = []
        for one in written:
            against = self._against(first[id(one)]) if id(one) in first else None
            answered = replace(one, response=first[id(one)].text) if id(one) in first else one
            found.append((answered, against or "agree"))
        found = self._again(found, Sampling(ANSWER_TOKENS), with_chunk=True)
        if not self.recipe.teacher:
            found = self._again(found, Sampling(ANSWER_TOKENS), with_chunk=False)
        return self._about(found)

    def _again(
        self, found: list[tuple[Written, Reason]], sampling: Sampling, with_chunk: bool
    ) -> list[tuple[Written, Reason]]:
        asked = [one for one, reason in found if reason in KEPT]
        answers = iter(self._asked(asked, sampling, with_chunk))
        return [
            (one, reason)
            if reason not in KEPT
            else self._compared(one, next(answers))
            if with_chunk
            else (one, "known" if _same(next(answers), one) else "agree")
            for one, reason in found
        ]

    def _about(self, found: list[tuple[Written, Reason]]) -> list[tuple[Written, Reason]]:
        """Drops the questions that the chunk explains too little of.

        That an answer is confirmed says nothing of the question: asked about a permit that the chunk does not speak of, a
        small base answers twice with what the chunk says of another. But to what it invents, or could ask of any text, the
        chunk adds little: 1 - log p(question | chunk) / log p(question) is the share of the question's information that it
        shares with its chunk (a normalised pointwise mutual information).
        """
        asked = [one for one, reason in found if reason in KEPT]
        if not (asked and self.scorer and self.recipe.min_explained):
            return found
        said = [f"Q: {one.said}" for one in asked]
        alone = [("user", self.prompts.write_qa)]
        under = [
            [
                (
                    "user",
                    self.prompts.under_text.format(text=self.texts[one.chunk_sha256], question=self.prompts.write_qa),
                )
            ]
            for one in asked
        ]
        with_chunk = map(sum, score_all(self.scorer, under, said))
        without = map(sum, score_all(self.scorer, [alone] * len(asked), said))
        explained = iter([1 - one / other for one, other in zip(with_chunk, without, strict=True)])
        return [
            (one, "elsewhere" if reason in KEPT and next(explained) < self.recipe.min_explained else reason)
            for one, reason in found
        ]

    def _compared(self, one: Written, answer: Generation) -> tuple[Written, Reason]:
        if not one.value:
            return one, "agree" if _same(answer, one) else "disagree"
        extra = len(normalise(answer.text).split()) - len(normalise(one.value).split())
        agrees = answer.finished and occurrences(one.value, answer.text) > 0 and extra <= MORE_WORDS
        return (replace(one, response=answer.text), "agree") if agrees else (one, "disagree")

    def _refuse(self, written: list[Written], seed: int) -> list[tuple[Written, Reason]]:
        greedy = Sampling(ANSWER_TOKENS)
        answers = self._asked(written, greedy)
        open_still = [
            one
            for one, answer in zip(written, answers, strict=True)
            if answer.finished and self.prompts.refuses(answer.text)
        ]
        elsewhere = [(one, sha) for one in open_still for sha in self._nearest(one)]
        others = self._asked([replace(one, chunk_sha256=sha) for one, sha in elsewhere], greedy)
        answered = {
            id(one) for (one, _), said in zip(elsewhere, others, strict=True) if not self.prompts.refuses(said.text)
        }
        unanswered = {id(one) for one in open_still} - answered
        return [
            (replace(one, response=self.student.not_stated), "refused") if id(one) in unanswered else (one, "answered")
            for one in written
        ]

    def _answer(self, written: list[Written], seed: int) -> list[tuple[Written, Reason]]:
        """Greedy answers of any length, where there is none yet."""
        missing = [one for one in written if not one.response]
        answers: dict[int, Generation] = {}
        for task in dict.fromkeys(one.task for one in missing):
            asked = [one for one in missing if one.task == task]
            room = self.engine.context - max(self.engine.count(self._chat(one)) for one in asked)
            by_chunk = int(self.recipe.chunk_tokens * self.tasks[task].answer_tokens)
            wanted = self.tasks[task].max_tokens or max(ANSWER_TOKENS, by_chunk)
            sampling = Sampling(min(wanted, max(ANSWER_TOKENS, room)))
            answers.update(zip(map(id, asked), self._asked(asked, sampling), strict=True))
        return [self._judged(one, answers.get(id(one))) for one in written]

    def _judged(self, one: Written, answer: Generation | None) -> tuple[Written, Reason]:
        if answer is not None:
            against = self._against(answer)
            if against:
                return one, against
            one = replace(one, response=answer.text)
        if self.tasks[one.task].check == "none":
            return one, "unchecked"
        return one, "grounded" if grounded(one.response, self.texts[one.chunk_sha256], sentences=True) else "names"

    def _against(self, answer: Generation) -> Dropped | None:
        if not answer.finished or not any(map(str.isalnum, answer.text)):
            return "unfinished"
        return "refusal" if self.prompts.refuses(answer.text) else None

    def _chat(self, one: Written, with_chunk: bool = True) -> Chat:
        if not with_chunk:
            return [("user", one.asked)]
        return [("user", self.prompts.under_text.format(text=self.texts[one.chunk_sha256], question=one.asked))]

    def _asked(self, written: Sequence[Written], sampling: Sampling, with_chunk: bool = True) -> list[Generation]:
        return self.engine.generate([self._chat(one, with_chunk) for one in written], sampling) if written else []

    def _nearest(self, one: Written) -> list[str]:
        """The other chunks that share most of a question's words, each counted by how rare it is in the document."""
        question = set(normalise(one.said).split())
        total = len(self._words)
        scores = {
            sha: sum(math.log(total / self._common[word]) for word in question & words)
            for sha, words in self._words.items()
            if sha != one.chunk_sha256
        }
        return [sha for sha in sorted(scores, key=lambda sha: -scores[sha]) if scores[sha] > 0][:OTHER_CHUNKS]


def _once(found: list[tuple[Written, Reason]]) -> list[tuple[Written, Reason]]:
    """Two values may lead to one question and one answer."""
    kept: set[tuple[str, str, str, str]] = set()
    unique: list[tuple[Written, Reason]] = []
    for one, reason in found:
        key = (one.chunk_sha256, one.task, one.prompt, one.response)
        unique.append((one, "duplicate" if reason in KEPT and key in kept else reason))
        if reason in KEPT:
            kept.add(key)
    return unique


def _same(answer: Generation, one: Written) -> bool:
    return answer.finished and bool(exact_match(answer.text, [one.response]))
