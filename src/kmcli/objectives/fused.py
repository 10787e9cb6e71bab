"""A mean over tokens of something of two sides' logits, without ever holding the logits of all tokens.

Slices of tokens are taken through the head one after the other. Where gradients are wanted, each slice's is computed while
its logits are there, so that nothing of the vocabulary's size is kept or computed twice. Shapes: N tokens, D hidden size,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Head = Callable[[torch.Tensor], torch.Tensor]
Function = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Of the teacher's and the student's logits (n, V) of some tokens: a mean over them."""

ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 26}
"""Logits of a slice. On a processor they should stay in its cache."""


def mean(function: Function, teacher_ND: torch.Tensor, student_ND: torch.Tensor, head: Head) -> torch.Tensor:
    """function(head(teacher), head(student)), exact but for rounding; its gradient flows to the student's states alone."""
    if teacher_ND.shape[0] == 0:
        return student_ND.sum() * 0.0
    if torch.is_grad_enabled() and student_ND.requires_grad:
        total: torch.Tensor = _Mean.apply(student_ND, teacher_ND, head, function)
        return total
    with torch.no_grad():
        return _slices(function, teacher_ND, student_ND, head, None)


def _slices(
    function: Function, teacher_ND: torch.Tensor, student_ND: torch.Tensor, head: Head, gradient_ND: torch.Tensor | None
) -> torch.Tensor:
    """The mean; its gradient is written to gradient_ND where that is given."""
    count = student_ND.shape[0]
    total = torch.zeros((), device=student_ND.device)
    size = None
    start = 0
    while start < count:
        with torch.no_grad():
            first = teacher_ND[start : start + (size or 1)]
            theirs = head(first)
            if size is None:  # the vocabulary's size is known only now
                size = max(1, ELEMENTS.get(theirs.device.type, 1 << 24) // theirs.shape[-1])
                theirs = head(teacher_ND[start : start + size])
        part = slice(start, start + size)
        share = theirs.shape[0] / count
        if gradient_ND is None:
            total += share * function(theirs, head(student_ND[part]))
        else:
            with torch.enable_grad():
                own = student_ND[part].detach().requires_grad_()
                value = share * function(theirs, head(own))
                (gradient_ND[part],) = torch.autograd.grad(value, own)
            total += value.detach()
        start += size
    return total


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, student_ND: torch.Tensor, teacher_ND: torch.Tensor, head: Head, function: Function
    ) -> torch.Tensor:
        gradient_ND = torch.empty_like(student_ND)
        total = _slices(function, teacher_ND, student_ND, head, gradient_ND)
        ctx.save_for_backward(gradient_ND)
        return total

    @staticmethod
    def backward(ctx: Any, outer: torch.Tensor) -> Any:
        (gradient_ND,) = ctx.saved_tensors
        return outer * gradient_ND, None, None, None
