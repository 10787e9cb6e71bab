"""A mean over tokens of something of two sides' logits, without ever holding the logits of all tokens.

Slices of tokens are taken through the head one after the other. Where gradients are wanted, each slice's is computed while
its logits are there, so that nothing of the vocabulary's size is kept or computed twice. Shapes: N tokens, D hidden size,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

Head = Callable[[torch.Tensor], torch.Tensor]
Function = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Of the teacher's and the student's logits (n, V) of some tokens: a mean over them."""

Gradient = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""The same mean, and its gradient by the student's logits: for a function whose gradient is simpler than torch finds it."""

ELEMENTS = {"cpu": 1 << 20}
OTHERWISE = 1 << 26
"""Logits of a slice. On a processor they should stay in its cache."""


def mean(
    function: Function, teacher_ND: torch.Tensor, student_ND: torch.Tensor, head: Head, gradient: Gradient | None = None
) -> torch.Tensor:
    """function(head(teacher), head(student)), exact but for rounding; its gradient flows to the student's states alone."""
    if teacher_ND.shape[0] == 0:
        return student_ND.sum() * 0.0
    if torch.is_grad_enabled() and student_ND.requires_grad:
        total: torch.Tensor = _Mean.apply(student_ND, teacher_ND, head, gradient or partial(_by_torch, function))
        return total
    total = student_ND.new_zeros(())
    with torch.no_grad():
        for part, share in _slices(teacher_ND, head):
            total = total + share * function(head(teacher_ND[part]), head(student_ND[part]))
    return total


def forward_kl(teacher_NV: torch.Tensor, student_NV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(teacher || student), mean over tokens, and its gradient, which is the difference of the probabilities.

    In half the passes over the logits that log-probabilities take: the logarithm of each side's sum is had from the
    probability of its largest logit.
    """
    theirs, own = teacher_NV.float(), student_NV.float()
    p, q = theirs.softmax(-1), own.softmax(-1)
    shift_N = own.amax(-1) - theirs.amax(-1) + p.amax(-1).log() - q.amax(-1).log()
    value = ((theirs - own).mul_(p).sum(-1) + shift_N).mean()
    return value, q.sub_(p).div_(len(q)).to(student_NV.dtype)


def _by_torch(
    function: Function, teacher_NV: torch.Tensor, student_NV: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.enable_grad():
        own = student_NV.detach().requires_grad_()
        value = function(teacher_NV, own)
        (gradient,) = torch.autograd.grad(value, own)
    return value.detach(), gradient


def _slices(states_ND: torch.Tensor, head: Head) -> Iterator[tuple[slice, float]]:
    """Of all tokens, each with its share of them."""
    count = len(states_ND)
    with torch.no_grad():
        vocabulary = head(states_ND[:1]).shape[-1]
    size = max(1, ELEMENTS.get(states_ND.device.type, OTHERWISE) // vocabulary)
    for start in range(0, count, size):
        yield slice(start, start + size), min(size, count - start) / count


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, student_ND: torch.Tensor, teacher_ND: torch.Tensor, head: Head, gradient: Gradient
    ) -> torch.Tensor:
        moved_ND = torch.empty_like(student_ND)
        total = student_ND.new_zeros(())
        for part, share in _slices(teacher_ND, head):
            theirs = head(teacher_ND[part])
            with torch.enable_grad():
                own = student_ND[part].detach().requires_grad_()
                logits = head(own)
            value, by_logits = gradient(theirs, logits.detach())
            (by_states,) = torch.autograd.grad(logits, own, by_logits)
            moved_ND[part] = share * by_states
            total = total + share * value
        ctx.save_for_backward(moved_ND)
        return total

    @staticmethod
    def backward(ctx: Any, outer: torch.Tensor) -> Any:
        (moved_ND,) = ctx.saved_tensors
        return outer * moved_ND, None, None, None
