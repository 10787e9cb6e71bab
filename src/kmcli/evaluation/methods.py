"""Put questions to an engine as a method puts them. What the methods are stands in METHODS; this is how they ask."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from kmcli.bases.prompts import Prompts
from kmcli.engines import Chat, Engine, Sampling
from kmcli.engines.scoring import can_score
from kmcli.evaluation import METHODS
from kmcli.evaluation.choices import choose, named, with_options
from kmcli.metrics import normalise, occurrences
from kmcli.types import Answer, Chunk, Method, Passage, Question

GREEDY = Sampling()


def build_chat(
    method: Method, question: str, prompts: Prompts, *, text: str = "", passages: Sequence[Passage] = ()
) -> Chat:
    """What the model reads. text: where all of it is read. passages: for others, best first; the best ends up last."""
    if passages:
        text = "\n\n".join(passage.text for passage in reversed(passages))
    return [("user", METHODS[method].template(prompts).format(text=text, question=question).strip())]


def fit(
    method: Method,
    engine: Engine,
    question: str,
    prompts: Prompts,
    sampling: Sampling,
    *,
    text: str = "",
    passages: Sequence[Passage] = (),
) -> tuple[Chat, tuple[Passage, ...]] | None:
    """What the model reads, and the passages in it; None where it and the answer do not fit in the engine's context.

    Retrieval gives up its worst passages until they fit; no other method is asked with less than it wants.
    """
    kept = tuple(passages)
    chat = build_chat(method, question, prompts, text=text, passages=kept)
    while engine.count(chat) > engine.context - sampling.max_tokens:
        if METHODS[method].reads != "passages" or not kept:
            return None
        kept = kept[:-1]
        chat = build_chat(method, question, prompts, passages=kept)
    return chat, kept


def answer_all(
    method: Method,
    engine: Engine,
    questions: Sequence[Question],
    prompts: Prompts,
    *,
    text: str = "",
    passages: Sequence[Sequence[Passage]] = (),
    sampling: Sampling = GREEDY,
    progress: Callable[[int], None] | None = None,
) -> list[Answer] | None:
    """An answer per question, in order, or None where the method does not fit in the engine's context.

    text: for methods that read all of it. passages: for those that read some, per question and best first (empty:
    nothing). Each answer's evidence is what the model was shown. A method is asked all the questions or none, so that its
    score never means only those that fitted. An answer's seconds are the batch's wall time shared out equally. progress is
    called with the number of questions answered.

    Of a question with options the answer is one of them, chosen without being written (0 tokens) where the engine can.
    """
    chats: list[Chat] = []
    shown: list[tuple[Passage, ...]] = []
    choosing = [bool(question.options) and can_score(engine) for question in questions]
    for question, found, chosen in zip(questions, passages or [()] * len(questions), choosing, strict=True):
        asked = question.question
        if question.options and not chosen:
            asked = with_options(asked, question.options)
        fitted = fit(method, engine, asked, prompts, sampling, text=text, passages=found)
        if fitted is None:
            return None
        chats.append(fitted[0])
        shown.append(fitted[1])
    written = [place for place, chosen in enumerate(choosing) if not chosen]
    picked = [place for place, chosen in enumerate(choosing) if chosen]
    made: dict[int, tuple[str, int, int]] = {}  # text, tokens read, tokens written
    began = time.perf_counter()
    if written:
        generations = engine.generate([chats[place] for place in written], sampling, progress)
        for place, one in zip(written, generations, strict=True):
            options = questions[place].options
            said = one.text.strip()
            made[place] = (named(said, options) if options else said, one.prompt_tokens, one.tokens)
    if picked:
        found_options = choose(
            engine, [chats[place] for place in picked], [questions[place].options for place in picked]
        )
        for place, (option, read) in zip(picked, found_options, strict=True):
            made[place] = (option, engine.count(chats[place]) + read, 0)
        if progress:
            progress(len(chats))
    seconds = (time.perf_counter() - began) / max(1, len(chats))
    return [
        Answer(said, method, read, wrote, seconds, evidence)
        for (said, read, wrote), evidence in zip((made[place] for place in range(len(chats))), shown, strict=True)
    ]


def gold_chunk(question: Question, chunks: Sequence[Chunk]) -> Chunk | None:
    """The chunk that holds the question's evidence, whatever its white space, case and punctuation.

    Evidence that is cut by a chunk's edge: the chunk with most of its words. None where there is no evidence, or none
    of its words are in the chunks.
    """
    evidence = normalise(question.evidence)
    if not evidence:
        return None
    wanted = set(evidence.split())
    best, most = None, 0
    for chunk in chunks:
        if occurrences(evidence, chunk.text):
            return chunk
        shared = len(wanted.intersection(normalise(chunk.text).split()))
        if shared > most:
            best, most = chunk, shared
    return best
