"""Views: what teacher and student read of one sample."""

from __future__ import annotations

from kmcli.bases import Loaded
from kmcli.types import Sample, View


def chunk_in_context(sample: Sample, chunk: str, loaded: Loaded) -> View:
    """Deep Context Distillation (Caccia et al. 2025, section 3.1): the teacher reads the chunk and the prompt, the student
    the prompt alone; the response and the token that ends it are scored for both.

    Prompt and response are tokenised apart, so that both sides see the same ids of the response.
    """
    response = list(loaded.tokenizer(sample.response, add_special_tokens=False)["input_ids"]) + loaded.end_ids[:1]
    content = loaded.base.prompts.under_text.format(text=chunk, question=sample.prompt)
    teacher = loaded.chat_ids([("user", content)])
    student = loaded.chat_ids([("user", sample.prompt)])
    return View(
        teacher_ids=teacher + response,
        student_ids=student + response,
        teacher_mask=[False] * len(teacher) + [True] * len(response),
        student_mask=[False] * len(student) + [True] * len(response),
    )
