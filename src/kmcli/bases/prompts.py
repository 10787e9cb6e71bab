"""The one table of prompts: what a base is told for each task, and how it says that it found nothing.

A small base follows only the prompts it was trained on, so the embedded base has wordings of its own. `basemodel/` trains
on this table and synthesis asks by it. To add a style: one entry in STYLES, named by the `prompts` key of a base's card.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

StyleName = Literal["embedded", "general"]


@dataclass(frozen=True, slots=True)
class Prompts:
    """Templates: {text} is the document's text, {question} a question.

    write_qa and summarise are asked under a text; ask is a question alone (closed book); refusals are answers that mean
    "not in the text" or "not known", in lower case without punctuation at the end.
    """

    write_qa: str
    summarise: str
    ask: str
    under_text: str
    passages: str
    refusals: tuple[str, ...]

    def question_of(self, prompt: str) -> str:
        """The question inside a prompt that `ask` made; the prompt itself where it was made otherwise."""
        before, _, after = self.ask.partition("{question}")
        if prompt.startswith(before) and prompt.endswith(after):
            return prompt[len(before) : len(prompt) - len(after)]
        return prompt


STYLES: dict[StyleName, Prompts] = {
    "embedded": Prompts(
        write_qa="Write questions and answers about the text.",
        summarise="Summarize the text.",
        ask="{question}",
        under_text="{text}\n\n{question}",
        passages="{text}\n\n{question}",
        refusals=("the text does not say", "i don't know"),
    ),
    "general": Prompts(
        write_qa=(
            "Write five question-answer pairs about the text above. Each question must be understandable without seeing "
            "the text: name people, places and things. Each answer is as short as possible and stands in the text. "
            "Use exactly this form, one pair after the other:\nQ: ...\nA: ..."
        ),
        summarise=(
            "Summarise the text above: every fact that a reader may be asked about, in full sentences that name people, "
            "places and things."
        ),
        ask="{question}\nAnswer as briefly as possible.",
        under_text="{text}\n\n{question}",
        passages=(
            "Passages from a document:\n\n{text}\n\n{question}\n"
            "If the passages do not say, answer: The text does not say."
        ),
        refusals=("the text does not say", "i don't know", "i do not know", "not stated", "unknown"),
    ),
}
