"""Views: what teacher and student read of one sample, or of one window of the document.

The teacher is the base itself, or another with the same vocabulary, which is asked in its own way.
"""

from __future__ import annotations

from kmcli.bases import Loaded
from kmcli.bases.vocabulary import Reader
from kmcli.objectives.windows import Window
from kmcli.types import Sample, View

Reads = Loaded | Reader


def chunk_in_context(sample: Sample, chunk: str, loaded: Reads, other: Reads | None = None) -> View:
    """Deep Context Distillation (Caccia et al. 2025, section 3.1): the teacher reads the chunk and the prompt, the student
    the prompt alone; the response and the token that ends it are scored for both.

    Prompt and response are tokenised apart, so that both sides see the same ids of the response. What of that goes beyond
    either's context is left out. other: the teacher, where it is not the base itself.
    """
    return _both_answer(sample, _under(chunk, sample, other or loaded), sample.prompt, loaded, other)


def chunk_for_both(sample: Sample, chunk: str, loaded: Reads, other: Reads | None = None) -> View:
    """The same with the chunk in front of the student too: with the text before it, it is to predict what the teacher does,
    which is what it did before it was trained where that is the base itself.
    """
    return _both_answer(sample, _under(chunk, sample, other or loaded), _under(chunk, sample, loaded), loaded, other)


def unaided(sample: Sample, chunk: str, loaded: Reads, other: Reads | None = None) -> View:
    """Both read the prompt alone: the teacher is another Knowledge Module on the same base, which knows the document."""
    return _both_answer(sample, sample.prompt, sample.prompt, loaded, None)


def _under(chunk: str, sample: Sample, reads: Reads) -> str:
    return reads.base.prompts.under_text.format(text=chunk, question=sample.prompt)


def _both_answer(sample: Sample, taught: str, asked: str, loaded: Reads, other: Reads | None) -> View:
    """The teacher is asked one thing, the student another, and both give the sample's response."""
    response = _tokens(sample.response, loaded) + loaded.end_ids[:1]
    reads = other or loaded
    teacher = reads.chat_ids([("user", taught)])
    student = loaded.chat_ids([("user", asked)])
    room = min(reads.base.context - len(teacher), loaded.base.context - len(student))
    response = response[: max(0, room)]
    return View(
        teacher_ids=teacher + response,
        student_ids=student + response,
        teacher_mask=[False] * len(teacher) + [True] * len(response),
        student_mask=[False] * len(student) + [True] * len(response),
    )


def instruction_first(sample: Sample, chunk: str, loaded: Reads, other: Reads | None = None) -> View:
    """Pre-instruction tuning (Jiang et al. 2024): the prompt, the response, then the chunk it was written about, all of
    which is scored but the prompt. No teacher. What of the chunk goes beyond the base's context is left out.
    """
    return _without_teacher(sample, _tokens(chunk, loaded), loaded)


def response_alone(sample: Sample, chunk: str, loaded: Reads, other: Reads | None = None) -> View:
    """Supervised fine-tuning: the prompt, then the response and the token that ends it, which are scored. No teacher: what
    the study material answers counts, also where the base reads something else in the chunk. What goes beyond the base's
    context is left out.
    """
    return _without_teacher(sample, [], loaded)


def _without_teacher(sample: Sample, after: list[int], loaded: Reads) -> View:
    """The prompt; then the response, the token that ends it and what comes after, which are scored."""
    prompt = loaded.chat_ids([("user", sample.prompt)])
    said = _tokens(sample.response, loaded) + loaded.end_ids[:1] + after
    said = said[: max(0, loaded.base.context - len(prompt))]
    return View(None, prompt + said, None, [False] * len(prompt) + [True] * len(said))


def whole_window(window: Window, loaded: Reads, other: Reads | None = None) -> View:
    """Language modelling: every token of the window but the first. No teacher."""
    before = _opening(loaded)
    return View(None, before + window.ids, None, [False] * (len(before) + 1) + [True] * (len(window.ids) - 1))


def second_part(window: Window, loaded: Reads, other: Reads | None = None) -> View:
    """Document Deep Context Distillation: the teacher reads the window, the student its second part, and that is scored
    for both, without its first token, for which the student has nothing to go by.
    """
    before, student = _opening(loaded), window.ids[window.part :]
    begin = _opening(other or loaded)
    scored = [False] + [True] * (len(student) - 1)
    return View(
        teacher_ids=begin + window.ids,
        student_ids=before + student,
        teacher_mask=[False] * (len(begin) + window.part) + scored,
        student_mask=[False] * len(before) + scored,
    )


def opening_size(loaded: Reads) -> int:
    """Tokens that a window's view has beside the window's own."""
    return len(_opening(loaded))


def _opening(loaded: Reads) -> list[int]:
    """What the base's tokenizer puts in front of every text, such as <bos>; usually one token or none."""
    with_it = list(loaded.tokenizer("a")["input_ids"])
    plain = _tokens("a", loaded)
    return with_it[: with_it.index(plain[0])] if plain and plain[0] in with_it else []


def _tokens(text: str, loaded: Reads) -> list[int]:
    return list(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])
