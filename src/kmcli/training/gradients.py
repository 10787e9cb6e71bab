"""A step's gradients: its samples in micro-batches whose losses add up, and in smaller ones where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from kmcli.errors import ResourceError
from kmcli.training.forward import out_of_memory
from kmcli.types import Event, Reporter, View

MICRO_TOKENS = {"cpu": 1024}
OTHERWISE = 8192
"""Student tokens of one forward pass. On a processor more take more memory and hardly less time."""

Loss = Callable[[Sequence[int]], tuple[torch.Tensor, dict[str, torch.Tensor]]]
"""The objective on some of the views, by their indices: the loss, and its terms by name."""


def micro_batches(batch: Sequence[int], views: Sequence[View], tokens: int) -> Iterator[tuple[float, list[int]]]:
    """Pieces of a batch of at most `tokens` student tokens, a sample at least; each with its share of the batch's loss,
    which is its share of the scored tokens."""
    scored = sum(sum(views[i].student_mask) for i in batch)
    piece: list[int] = []
    used = 0
    for index in batch:
        size = len(views[index].student_ids)
        if piece and used + size > tokens:
            yield _share(piece, views, scored), piece
            piece, used = [], 0
        piece.append(index)
        used += size
    if piece:
        yield _share(piece, views, scored), piece


def _share(piece: Sequence[int], views: Sequence[View], scored: int) -> float:
    return sum(sum(views[i].student_mask) for i in piece) / scored if scored else 0.0


class Gradients:
    """tokens: of a micro-batch; it is halved when memory runs out, and belongs in the checkpoint: another number rounds
    in another way."""

    def __init__(
        self,
        views: Sequence[View],
        parameters: Sequence[torch.nn.Parameter],
        tokens: int,
        report: Reporter,
    ) -> None:
        self.views, self.parameters = views, parameters
        self.tokens, self.report = tokens, report

    def compute(self, parts: Sequence[tuple[Loss, Sequence[int]]], seed: int) -> dict[str, torch.Tensor]:
        """Leave in the parameters the gradients of a sum of losses, each on its batch; returns the sum ("loss") and the
        terms, on the device. seed: of dropout.

        Raises ResourceError where not even one sample fits in memory.
        """
        while (numbers := self._try(parts, seed)) is None:
            lengths = [len(self.views[i].student_ids) for _, batch in parts for i in batch]
            longest = max(lengths)
            if all(len(piece) == 1 for _, batch in parts for _, piece in micro_batches(batch, self.views, self.tokens)):
                raise ResourceError(
                    f"one sample of {longest:,} tokens alone does not fit in memory.",
                    "Use a smaller base, smaller chunks (--set chunk_tokens=...), or --device cpu.",
                )
            self.tokens = max(1, min(self.tokens, sum(lengths)) // 2)
            message = f"memory is short: going on with at most {self.tokens:,} tokens at a time"
            self.report(Event("train", message, warning=True))
        return numbers

    def _try(self, parts: Sequence[tuple[Loss, Sequence[int]]], seed: int) -> dict[str, torch.Tensor] | None:
        """None where memory runs out."""
        numbers: dict[str, torch.Tensor] = {}
        for parameter in self.parameters:
            parameter.grad = None
        torch.manual_seed(seed)
        try:
            for loss_of, batch in parts:
                for share, piece in micro_batches(batch, self.views, self.tokens):
                    loss, terms = loss_of(piece)
                    (share * loss).backward()
                    for name, value in {"loss": loss, **terms}.items():
                        numbers[name] = numbers.get(name, 0.0) + share * value.detach()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            return None
        return numbers
