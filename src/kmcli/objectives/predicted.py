"""The forward divergence from a teacher whose predictions are known, without its logits.

Of linear logits z = W h the divergence of predictions is KL(teacher || student) = lse(z_s) - lse(z_t) - (h_s - h_t) . m,
where lse is the logarithm of the sum of exponentials, and m = W^T p the mean of the head's rows by the teacher's
probabilities p. Its gradient by h_s is W^T q - m. So of a teacher's predictions D + 1 numbers a token say all, with a bias
on the logits, too, and they are the same in every step. Shapes: N tokens, D hidden size, V vocabulary, K layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from kmcli.objectives.fused import Head, slices


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a teacher gives at N tokens. states_KND: its states, the last layer's the last. mean_ND: m. size_N: lse(z_t)."""

    states_KND: torch.Tensor
    mean_ND: torch.Tensor
    size_N: torch.Tensor


def summary(last_ND: torch.Tensor, head: Head) -> tuple[torch.Tensor, torch.Tensor]:
    """`mean_ND` and `size_N` of a teacher's final states. The head must be linear."""
    mean_ND, size_N = torch.empty_like(last_ND), last_ND.new_empty(len(last_ND))
    for part, _ in slices(last_ND, head):
        mean_ND[part], size_N[part] = _read(last_ND[part], head)
    return mean_ND, size_N


def forward_kl(teacher: Predicted, student_ND: torch.Tensor, head: Head) -> torch.Tensor:
    """Mean over the tokens, exact but for rounding; its gradient flows to the student's states alone."""
    if len(student_ND) == 0:
        return student_ND.sum() * 0.0
    if torch.is_grad_enabled() and student_ND.requires_grad:
        total: torch.Tensor = _Mean.apply(student_ND, teacher, head)
        return total
    with torch.no_grad():
        sizes = [head(student_ND[part]).logsumexp(-1) for part, _ in slices(student_ND, head)]
    return _value(teacher, student_ND, torch.cat(sizes))


def _value(teacher: Predicted, student_ND: torch.Tensor, size_N: torch.Tensor) -> torch.Tensor:
    further_N = ((student_ND - teacher.states_KND[-1]) * teacher.mean_ND).sum(-1)
    return (size_N - teacher.size_N - further_N).mean()


def _read(states_ND: torch.Tensor, head: Head) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of the head's rows by the probabilities that it gives (N, D), and lse of its logits (N,)."""
    with torch.enable_grad():
        own = states_ND.detach().requires_grad_()
        logits = head(own)
    values = logits.detach()
    probabilities = values.softmax(-1)
    size_N = values.amax(-1) - probabilities.amax(-1).log()
    (mean_ND,) = torch.autograd.grad(logits, own, probabilities)
    return mean_ND, size_N


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student_ND: torch.Tensor, teacher: Predicted, head: Head) -> torch.Tensor:
        mean_ND, size_N = summary(student_ND, head)
        ctx.save_for_backward(mean_ND.sub_(teacher.mean_ND).div_(len(student_ND)))
        return _value(teacher, student_ND, size_N)

    @staticmethod
    def backward(ctx: Any, outer: torch.Tensor) -> Any:
        (moved_ND,) = ctx.saved_tensors
        return outer * moved_ND, None, None
