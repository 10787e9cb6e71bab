"""An exam's grading: what a Knowledge Module answers, closed book, against what the teacher answers with the passage.

The teacher is the base, and it is what the module learnt from: an exam says how much of what the base reads in a document
the module has learnt, not whether the base reads it rightly. Imported questions come with answers, which count instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from kmcli.bases.prompts import Prompts
from kmcli.engines import Chat, Engine, Generation, Sampling
from kmcli.evaluation.methods import build_chat
from kmcli.library.exams import Graded
from kmcli.metrics import exact_match, normalise, token_f1

ENOUGH = 0.8
"""The F1 from which two answers say the same, where they have the same numbers."""
ANSWER_TOKENS = 64

_NUMBER = re.compile(r"\d+")


def agrees(answer: str, reference: str) -> bool:
    """Whether an answer says what the reference says: the same words, or nearly all of them and the same numbers."""
    if exact_match(answer, [reference]):
        return True
    same = sorted(_NUMBER.findall(normalise(answer))) == sorted(_NUMBER.findall(normalise(reference)))
    return same and token_f1(answer, [reference]) >= ENOUGH


def references(teacher: Engine, chats: Sequence[Chat], prompts: Prompts) -> list[str]:
    """What the teacher answers to questions under their passages; "" where it gives no answer that ends."""
    found = teacher.generate(chats, Sampling(ANSWER_TOKENS)) if chats else []
    return [one.text if one.finished and one.text and not prompts.refuses(one.text) else "" for one in found]


def grade(student: Engine, questions: Sequence[str], expected: Sequence[str], prompts: Prompts) -> list[Graded]:
    """Put the questions to a Knowledge Module, as `km ask` does, and hold each answer against what is expected.

    student: an engine that tells log-probabilities.
    """
    chats = [build_chat("km", question, prompts) for question in questions]
    answers = student.generate(chats, Sampling(ANSWER_TOKENS, logprobs=1)) if chats else []
    return [
        Graded(
            question,
            reference,
            answer.text,
            answer.finished and agrees(answer.text, reference),
            token_f1(answer.text, [reference]),
            _probability(answer),
            answer.tokens,
        )
        for question, reference, answer in zip(questions, expected, answers, strict=True)
    ]


def _probability(answer: Generation) -> float:
    assert answer.logprobs is not None
    return math.exp(sum(token.logprob for token in answer.logprobs))
