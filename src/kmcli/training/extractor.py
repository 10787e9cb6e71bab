"""Training a Knowledge Extractor: questions about many documents, each read with its own document's module, frozen.

A question's loss is the negative log-likelihood of its answer, a mean over tokens; where it has options, the
cross-entropy of a softmax over their scores, and an option's score is its mean log-likelihood. A batch's loss is the mean
over questions. Some documents are held out whole: what is to be learnt is what carries over to others. Everything is
decided by the step count, as in `loop`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kmcli.adapters.extractor import Mixture
from kmcli.adapters.stack import Adapter
from kmcli.bases import Loaded
from kmcli.errors import ResourceError
from kmcli.library.extractors import ExtractorRecipe
from kmcli.training import checkpoint
from kmcli.training.forward import check_head, decoder, logits, out_of_memory
from kmcli.training.gradients import MICRO_TOKENS, OTHERWISE
from kmcli.training.stepwise import Stepwise
from kmcli.types import Event, Recipe, Reporter

MODULE_BYTES = 1 << 30
"""Of Knowledge Modules that are kept in memory while they wait for their next question."""


@dataclass(frozen=True, slots=True)
class Example:
    """A question about a document. answers: in tokens, the answer alone, with the one that ends it, or all options, of which
    `right` is the right one."""

    document: str
    prompt: list[int]
    answers: tuple[list[int], ...]
    right: int = 0

    @property
    def tokens(self) -> int:
        """Of its rows, padded."""
        return len(self.answers) * (len(self.prompt) + max(map(len, self.answers)) - 1)


class Modules:
    """Documents' Knowledge Modules, read when they are needed; those used last are kept."""

    def __init__(self, read: Callable[[str], Adapter | None]) -> None:
        """read: of a document's id; None: it takes part without."""
        self._read = read
        self._kept: OrderedDict[str, Adapter | None] = OrderedDict()
        self._bytes = 0

    def of(self, document: str) -> Adapter | None:
        if document not in self._kept:
            self._kept[document] = found = self._read(document)
            self._bytes += _size(found)
            while self._bytes > MODULE_BYTES and len(self._kept) > 1:
                self._bytes -= _size(self._kept.popitem(last=False)[1])
        self._kept.move_to_end(document)
        return self._kept[document]


def _size(adapter: Adapter | None) -> int:
    return sum(one.nbytes for pair in adapter.factors.values() for one in pair) if adapter else 0


def train(
    loaded: Loaded,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    read: Callable[[str], Adapter | None],
    recipe: ExtractorRecipe,
    workspace: Path,
    out: Path,
    report: Reporter,
) -> dict[str, Any]:
    """Train an extractor on examples and save it into `out`; a checkpoint in the workspace is continued.

    held_out: of other documents. Returns its metrics: `module_loss` is the held-out loss of the modules by themselves.
    Raises InterruptedRun after Ctrl-C, KmError where training diverges or a module cannot be used, ResourceError where
    the disk refuses.
    """
    run = _Run(loaded, examples, held_out, Modules(read), recipe, workspace, report)
    metrics = run.train()
    with checkpoint.storing(out):
        run.mixture.save(out)
    return metrics


def example_losses(scores: Sequence[torch.Tensor], examples: Sequence[Example]) -> torch.Tensor:
    """The loss of each example (E,) by the scores of its answers: mean log-likelihoods, a tensor an example."""
    return torch.stack(
        [
            -found[0] if len(found) == 1 else -found.log_softmax(0)[example.right]
            for found, example in zip(scores, examples, strict=True)
        ]
    )


def answer_scores(
    loaded: Loaded, mixture: Mixture, modules: Modules, examples: Sequence[Example], alone: bool = False
) -> list[torch.Tensor]:
    """The mean log-likelihood of each example's answers, all rows in one pass, each with its document's module on; alone:
    without the extractor."""
    rows = [(example.document, example.prompt, answer) for example in examples for answer in example.answers]
    width = max(len(prompt) + len(answer) - 1 for _, prompt, answer in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    places: list[int] = []
    for row, (_, prompt, answer) in enumerate(rows):
        tokens = prompt + answer[:-1]
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
        places += range(row * width + len(prompt) - 1, row * width + len(tokens))
    device = loaded.device
    with mixture.on([modules.of(document) for document, _, _ in rows], alone):
        read = decoder(loaded.model)(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)
    states = read.last_hidden_state.flatten(0, 1)[torch.tensor(places, device=device)]
    wanted = torch.tensor([token for _, _, answer in rows for token in answer], device=device)
    found = logits(loaded.model, states).float().log_softmax(-1).gather(1, wanted[:, None]).squeeze(1)
    means = torch.stack([piece.mean() for piece in found.split([len(answer) for _, _, answer in rows])])
    return list(means.split([len(example.answers) for example in examples]))


class _Run(Stepwise):
    def __init__(
        self,
        loaded: Loaded,
        examples: Sequence[Example],
        held_out: Sequence[Example],
        modules: Modules,
        recipe: ExtractorRecipe,
        folder: Path,
        report: Reporter,
    ) -> None:
        self.loaded, self.examples, self.held_out, self.modules = loaded, examples, held_out, modules
        self.recipe, self.report = recipe, report
        self.mixture = Mixture(loaded, recipe.rank, recipe.alpha, recipe.seed)
        parameters = {
            name: value for name, value in self.mixture.parameters.items() if recipe.modules or ".w_km" not in name
        }
        pairs = {name for name in parameters if ".lora_" not in name}
        groups = [
            {"params": [one for name, one in parameters.items() if (name in pairs) == paired], "times": times}
            for paired, times in ((False, 1.0), (True, recipe.weights_rate))
        ]
        optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        steps = recipe.steps or math.ceil(recipe.epochs * len(examples) / recipe.batch)
        schedule = Recipe(schedule=recipe.schedule, warmup=recipe.warmup)
        super().__init__(parameters, optimiser, recipe, schedule, steps, folder, report)
        self.tokens = self.progress.micro_tokens or MICRO_TOKENS.get(loaded.device.type, OTHERWISE)

    def train(self) -> dict[str, Any]:
        first = self.examples[0]
        ids = first.prompt + first.answers[0][:-1]
        check_head(self.loaded.model, self.loaded, (ids, [False] * (len(ids) - 1) + [True]))
        alone = self.held_out_loss(alone=True)
        self.run()
        w_km, w_ke = self.mixture.weights()
        more = {
            "module_loss": alone,
            "training_questions": len(self.examples),
            "held_out_questions": len(self.held_out),
            "w_km": round(w_km, 4) if self.recipe.modules else None,
            "w_ke": round(w_ke, 4),
        }
        return self.metrics(self.loaded.device, more)

    def gradients(self) -> float:
        """Goes on with smaller pieces where memory runs out."""
        batch = batch_of(self.progress.step, self.examples, self.recipe)
        while True:
            self.optimiser.zero_grad()
            total = 0.0
            try:
                for piece in pieces(batch, self.tokens):
                    scores = answer_scores(self.loaded, self.mixture, self.modules, piece)
                    loss = example_losses(scores, piece).sum() / len(batch)
                    loss.backward()
                    total += float(loss.detach())
                self.progress.tokens += sum(len(answer) for example in batch for answer in example.answers)
                return total
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                self.tokens = min(self.tokens, sum(example.tokens for example in batch)) // 2
                self.progress.micro_tokens = self.tokens  # where it goes on, it need not find out again
                if self.tokens < max(example.tokens for example in batch) // 2:
                    raise ResourceError(
                        "one question alone does not fit in memory.",
                        "Use fewer passages (--passages), a smaller base, or --device cpu.",
                    ) from None
                message = f"memory is short: going on with at most {self.tokens:,} tokens at a time"
                self.report(Event("train", message, warning=True))

    @torch.no_grad()
    def held_out_loss(self, alone: bool = False) -> float | None:
        """A mean over the questions about documents that are held out."""
        if not self.held_out:
            return None
        found = [
            example_losses(answer_scores(self.loaded, self.mixture, self.modules, piece, alone), piece).sum()
            for piece in pieces(sorted(self.held_out, key=lambda one: one.tokens), self.tokens)
        ]
        return float(sum(found)) / len(self.held_out)


def batch_of(step: int, examples: Sequence[Example], recipe: ExtractorRecipe) -> list[Example]:
    """Which questions a step trains on: each epoch a new order, of documents mixed."""
    per_epoch = math.ceil(len(examples) / recipe.batch)
    epoch, position = divmod(step, per_epoch)
    random = torch.Generator().manual_seed(recipe.seed * 7919 + epoch)
    order = torch.randperm(len(examples), generator=random).tolist()
    return [examples[place] for place in order[position * recipe.batch : (position + 1) * recipe.batch]]


def pieces(examples: Sequence[Example], tokens: int) -> Iterator[list[Example]]:
    """Some examples at a time, those of like length together: at most so many tokens, padding included, one at least."""
    some: list[Example] = []
    for example in sorted(examples, key=lambda one: one.tokens):
        rows = [*some, example]
        longest = max(len(one.prompt) + max(map(len, one.answers)) - 1 for one in rows)
        if some and longest * sum(len(one.answers) for one in rows) > tokens:
            yield some
            some = []
        some.append(example)
    if some:
        yield some
