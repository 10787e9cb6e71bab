"""Proves a GGUF file: llama.cpp must read text and predict tokens as transformers does with base and adapter."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmcli import adapters
from kmcli.bases import Base, Loaded, load
from kmcli.engines import Chat
from kmcli.errors import KmError, ResourceError
from kmcli.export.check_ids import TEXTS, Candidate, Finding, same_ids
from kmcli.export.runtime import GgufModel, library
from kmcli.types import Event, Quant, Reporter

if TYPE_CHECKING:
    import numpy as np

__all__ = ["TEXTS", "Candidate", "Checked", "Tolerance", "check_gguf", "compare", "reference"]

ANSWER_TOKENS = 48

PROMPT: Chat = [("user", "What does the document say about the year 1984, and who wrote it?")]
"""Asked where there are no questions."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """logits: root mean square difference, in their standard deviations. same: least share of equal next tokens.

    Measured on the embedded base: 0.001 for F16, 0.03 for Q8_0 (llama.cpp rounds the activations too), 0.06 for Q6_K, 0.14
    for Q4_K_M, 0.19 for Q3_K_M, 0.37 for Q2_K. A wrong row order, scale or frequency gives 0.4 and more, so that of Q2_K's
    files this says little.
    """

    logits: float
    same: float


TOLERANCES: dict[Quant, Tolerance] = {
    "F16": Tolerance(0.01, 0.98),
    "BF16": Tolerance(0.04, 0.9),
    "Q8_0": Tolerance(0.06, 0.8),
    "Q6_K": Tolerance(0.12, 0.8),
    "Q5_K_M": Tolerance(0.16, 0.75),
    "Q5_K_S": Tolerance(0.2, 0.7),
    "Q4_K_M": Tolerance(0.3, 0.65),
    "Q4_K_S": Tolerance(0.3, 0.65),
    "Q3_K_M": Tolerance(0.38, 0.6),
    "Q2_K": Tolerance(0.7, 0.4),
}


@dataclass(frozen=True, slots=True)
class Checked:
    """skipped: why nothing was checked, with the next step ("": it was). details: one plain line per finding.

    answers: (question, the file's greedy answer) for each question.
    """

    skipped: str
    passed: bool
    details: tuple[str, ...] = ()
    answers: tuple[tuple[str, str], ...] = ()


def check_gguf(
    path: Path,
    base: Base,
    adapter: Path | None,
    quant: Quant,
    questions: Sequence[Chat],
    report: Reporter,
    lora: Path | None = None,
) -> Checked:
    """Compare the file at `path` with base + adapter under transformers: token ids, prompts, logits, greedy answers.

    lora: the LoRA file on it that is to make the difference, and is meant where something is suspect.
    A file that differs or cannot be opened gives passed=False and is left where it is; no llama-cpp-python, skipped.
    Raises ResourceError where the base does not fit in memory.
    """
    try:
        library()
    except ResourceError as missing:
        return Checked(str(missing), False)

    def opened(context: int) -> GgufModel:
        return GgufModel(path, context, adapter=lora)

    report(Event("export", "checking: loading the base"))
    return compare(lora or path, reference(base, adapter), opened, TOLERANCES[quant], quant, questions, report)


def compare(
    path: Path,
    reference: Loaded,
    opened: Callable[[int], Candidate],
    allowed: Tolerance,
    kind: str,
    questions: Sequence[Chat],
    report: Reporter,
) -> Checked:
    """Compare an export with the reference. opened: gives it with memory for so many tokens. kind: of its weights."""
    chats = questions or (PROMPT,)
    samples = [_sample(reference, chat) for chat in chats]
    context = max(len(sample.prompt) for sample in samples) + ANSWER_TOKENS
    results = []
    try:
        with closing(opened(context)) as model:
            ids = same_ids(model, reference)
            for done, (chat, sample) in enumerate(zip(chats, samples, strict=True)):
                report(Event("export", "checking: asking the file", done, len(chats)))
                results.append(_compare(reference, model, chat, sample, allowed.logits))
    except KmError as error:
        return Checked("", False, (error.message, _suspect(path)))
    report(Event("export", "checked", len(chats), len(chats)))
    findings = [ids, *_findings(results, allowed, kind)]
    passed = all(finding.good for finding in findings)
    details = tuple(finding.line for finding in findings) + (() if passed else (_suspect(path),))
    answers = tuple((chat[-1][1], result.answer) for chat, result in zip(questions, results, strict=False))
    return Checked("", passed, details, answers)


def _suspect(path: Path) -> str:
    return f"{path} is suspect: do not rely on it; export it again."


def reference(base: Base, adapter: Path | None) -> Loaded:
    """The base with its adapter beside it (not merged), in fp32: what `km ask` answers with."""
    loaded = load(base, "cpu")
    return dataclasses.replace(loaded, model=adapters.load(loaded, adapter)) if adapter else loaded


@dataclass(frozen=True, slots=True)
class _Sample:
    """Token ids of a prompt and of the reference's greedy answer, with the token that ends it where it came."""

    prompt: list[int]
    answer: list[int]


def _sample(reference: Loaded, chat: Chat) -> _Sample:
    import torch

    ids = reference.chat_ids(list(chat))
    prompt = torch.tensor([ids])
    model: Any = reference.model
    out = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=ANSWER_TOKENS,
        eos_token_id=reference.end_ids,
        pad_token_id=reference.end_ids[0],
    )
    return _Sample(ids, out[0, len(ids) :].tolist())


@dataclass(frozen=True, slots=True)
class _Result:
    """How the file does on one sample.

    prompt: whether its chat template gives the same ids. squares, spread: mean squared difference and variance of the
    logits. same, tokens: equal next tokens, and how many were compared. equal: whether the answers are; explained:
    whether they are, or part at a token on which the difference of the logits could decide. answer: the file's.
    """

    prompt: bool
    squares: float
    spread: float
    same: int
    tokens: int
    equal: bool
    explained: bool
    answer: str


def _same(expected: np.ndarray, found: np.ndarray, allowed: float) -> int:
    """After how many tokens the likeliest next one is the same, or leads the other by less than the logits may differ."""
    import numpy as np

    rows = np.arange(len(expected))
    lead = expected.max(-1) - expected[rows, found.argmax(-1)]
    return int((lead <= 2 * allowed * expected.std()).sum())


def _compare(reference: Loaded, model: Candidate, chat: Chat, sample: _Sample, allowed: float) -> _Result:
    import numpy as np
    import torch

    ids = sample.prompt + sample.answer
    with torch.inference_mode():
        expected = reference.model(input_ids=torch.tensor([ids])).logits[0].float().numpy()
    found = model.logits(ids)
    if found.shape != expected.shape:
        raise KmError(f"the file has {found.shape[1]} tokens, the base {expected.shape[1]}.")
    written = model.write(sample.prompt, ANSWER_TOKENS)
    at = next((i for i, (a, b) in enumerate(zip(sample.answer, written, strict=False)) if a != b), None)
    if at is None:
        explained = len(sample.answer) == len(written)
    else:
        # Both choices were scored after the same tokens, so the reference's lead is at most twice the difference; a
        # third time, because llama.cpp computes a token at a time a little differently from all at once.
        scores = expected[len(sample.prompt) + at - 1]
        explained = bool(scores[sample.answer[at]] - scores[written[at]] <= 3 * np.abs(expected - found).max())
    return _Result(
        prompt=model.chat_ids(chat) == sample.prompt,
        squares=float(np.square(expected - found).mean()),
        spread=float(expected.var()),
        same=_same(expected, found, allowed),
        tokens=len(ids),
        equal=written == sample.answer,
        explained=explained,
        answer=model.text(written),
    )


def _findings(results: Sequence[_Result], allowed: Tolerance, kind: str) -> list[Finding]:
    prompts = sum(result.prompt for result in results)
    apart = math.sqrt(sum(result.squares for result in results) / sum(result.spread for result in results))
    same = sum(result.same for result in results)
    tokens = sum(result.tokens for result in results)
    equal = sum(result.equal for result in results)
    strange = sum(not result.explained for result in results)
    within = len(results) - equal - strange
    return [
        Finding(f"prompts: the file's chat template agrees for {prompts} of {len(results)}", prompts == len(results)),
        Finding(
            f"logits: {apart:.2g} standard deviations apart ({allowed.logits:g} allowed for {kind})",
            apart <= allowed.logits,  # false for NaN too
        ),
        Finding(
            f"next token: the same after {same} of {tokens} tokens ({allowed.same:.0%} needed for {kind})",
            same >= allowed.same * tokens,
        ),
        Finding(
            f"answers: {equal} of {len(results)} as with transformers"
            + (f", {within} apart within that difference" if within else "")
            + (f", {strange} differ without reason" if strange else ""),
            strange == 0,
        ),
    ]
