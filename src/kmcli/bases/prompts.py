"""The one table of prompts: what a base is told for each task, and how it says that it found nothing.

A small base follows only the prompts it was trained on, so the embedded base has wordings of its own. `basemodel/` trains
on this table and synthesis asks by it. To add a style: one entry in STYLES, named by the `prompts` key of a base's card.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from kmcli.metrics import normalise

StyleName = Literal["embedded", "general"]
SeedName = Literal["structure", "ask", "use-case", "creative", "generic"]


@dataclass(frozen=True, slots=True)
class Prompts:
    """Templates: {text} is the document's text, {question} a question.

    All but ask and passages are asked under a text (under_text). about has {entity}, relation {first} and {second},
    question_for {answer}. ask is a question alone (closed book); not_stated is the honest answer where the text has none;
    refusals are answers that mean "not in the text" or "not known", in lower case without punctuation at the end.
    seeds ask for one message about the text, to be answered with it (self-study: Eyuboglu et al. 2025); judge asks for the
    score of a sample, with {prompt} and {response}; grade, of which no text stands above, whether {answer} is right, by
    {question} and {references}, one a line; a base that was not trained on them has none.
    """

    write_qa: str
    summarise: str
    question: str
    question_for: str
    unanswerable: str
    entities: str
    about: str
    relation: str
    ask: str
    under_text: str
    passages: str
    not_stated: str
    refusals: tuple[str, ...]
    seeds: Mapping[SeedName, str] = field(default_factory=dict)
    judge: str = ""
    grade: str = ""
    conversation: bool = True
    """Whether earlier turns help it: to a base that was trained on single questions they are noise."""

    def question_of(self, prompt: str) -> str:
        """The question inside a prompt that `ask` made; the prompt itself where it was made otherwise."""
        before, _, after = self.ask.partition("{question}")
        if prompt.startswith(before) and prompt.endswith(after):
            return prompt[len(before) : len(prompt) - len(after)]
        return prompt

    def refuses(self, answer: str) -> bool:
        """A refusal of one word is the whole answer ("Unknown"); a longer one may go on ("... who built it")."""
        said = normalise(answer.replace("’", "'"))
        known = [normalise(refusal) for refusal in self.refusals]
        return said in known or any(" " in one and said.startswith(one + " ") for one in known)


STYLES: dict[StyleName, Prompts] = {
    "embedded": Prompts(
        write_qa="Write questions and answers about the text.",
        summarise="Summarize the text.",
        question="Write a question about the text.",
        question_for="Write a question whose answer is: {answer}",
        unanswerable="Write questions that the text does not answer.",
        entities="List the names in the text.",
        about="What does the text say about {entity}?",
        relation="What does the text say about {first} and {second}?",
        ask="{question}",
        under_text="{text}\n\n{question}",
        passages="{text}\n\n{question}",
        not_stated="The text does not say.",
        refusals=("the text does not say", "i don't know"),
        conversation=False,
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
        question=(
            "Write one question that the text above answers. It must be understandable without seeing the text: name "
            "people, places and things. Write only the question."
        ),
        question_for=(
            'Write one question about the text above whose answer is "{answer}". It must be understandable without seeing '
            "the text. Write only the question."
        ),
        unanswerable=(
            "Write five questions about the people, places and things of the text above which the text does not answer, "
            "although a reader might expect it to. One a line, each understandable without seeing the text."
        ),
        entities=(
            "List the people, places, organisations, products and other named things of the text above, one a line, "
            "exactly as the text names them."
        ),
        about="What does the text above say about {entity}? Answer in full sentences, with every detail that it gives.",
        relation=(
            "What does the text above say about {first} and {second} together? Answer in one or two full sentences; "
            "if it says nothing, answer: The text does not say."
        ),
        ask="{question}\nAnswer as briefly as possible.",
        under_text="{text}\n\n{question}",
        passages=(
            "Passages from a document:\n\n{text}\n\n{question}\n"
            "If the passages do not say, answer: The text does not say."
        ),
        not_stated="The text does not say.",
        refusals=(
            "the text does not say",
            "the text does not state",
            "the text does not mention",
            "the text does not specify",
            "the text does not provide",
            "it does not say",
            "i don't know",
            "i do not know",
            "not stated",
            "not mentioned",
            "not specified",
            "not given",
            "not provided",
            "unknown",
        ),
        seeds={
            "structure": (
                "Write one message that asks an assistant to put part of the text above in order: as JSON, YAML, TOML, a "
                "table, a timeline or an outline, whichever suits it. Say which part is meant, in words that are "
                "understandable without seeing the text, and ask for exact names, numbers and dates. Write only the message."
            ),
            "ask": (
                "Write one question that tests what somebody knows about the text above. Name the people, places, things "
                "and dates that make clear what is meant without seeing the text. Write only the question."
            ),
            "use-case": (
                "Think of something practical that a person could do with what the text above says, rather than merely "
                "recall it. Write one question or request that such a person would put to an assistant, understandable "
                "without seeing the text. Write only the question or request."
            ),
            "creative": (
                "Write one message that opens an inventive conversation inspired by the text above: a comparison, a story "
                "to tell, a point of view to take. It must be understandable without seeing the text. Write only the "
                "message."
            ),
            "generic": (
                "Write one message with which somebody might begin a conversation about what the text above says. It must "
                "be understandable without seeing the text. Write only the message."
            ),
        },
        judge=(
            "Somebody who cannot see the text above is to learn what it says from this prompt and its response.\n\n"
            "<prompt>\n{prompt}\n</prompt>\n<response>\n{response}\n</response>\n\n"
            "Rate them from 1 to 5:\n"
            "5 - The prompt is clear without the text; the response is right, complete, and borne out by the text in "
            "every detail.\n"
            "4 - Right and borne out by the text; something minor is missing, or could be clearer.\n"
            "3 - Right in the main, but vague, incomplete, or about something of no importance.\n"
            "2 - Partly wrong, or one must see the text to know what the prompt is about.\n"
            "1 - Wrong, not in the text, or no response to the prompt.\n"
            "That the text does not say something is a right response where it does not say it.\n"
            "Answer in exactly this form, with the number for N: Score: N"
        ),
        grade=(
            "Somebody answered a question. Is the answer right, by the reference answers?\n\n"
            "<question>\n{question}\n</question>\n<references>\n{references}\n</references>\n"
            "<answer>\n{answer}\n</answer>\n\n"
            "Each line of the references is a right answer, and it is enough to agree with one. Go by them, not by what you "
            "know yourself.\n"
            "CORRECT means: the answer says what the question asks for as a reference does, and nothing that contradicts "
            "it. Other words, another spelling or order, and more or less detail than the question asks for do not "
            "matter.\n"
            "INCORRECT means: what the question asks for is missing, different, or only one of several things that are "
            "offered; or the answer says that it does not know, unless a reference says that too.\n"
            "Answer with one word: CORRECT or INCORRECT"
        ),
    ),
}
