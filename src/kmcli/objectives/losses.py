"""Losses: pure functions of tensors. Shapes: N scored tokens, L layers, D hidden size, V vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kmcli.objectives import fused
from kmcli.types import Recipe

if TYPE_CHECKING:
    import torch

    Head = Callable[[torch.Tensor], torch.Tensor]
    Loss = Callable[[torch.Tensor, torch.Tensor, Head, Recipe], tuple[torch.Tensor, dict[str, torch.Tensor]]]


def distillation(
    teacher_LND: torch.Tensor, student_LND: torch.Tensor, head: Head, recipe: Recipe
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Deep Context Distillation: the sum of the recipe's two terms, and the terms by name, unweighted.

    head: final hidden states (N, D) to logits (N, V), the same for both sides. Caccia et al. 2025, section 3.1.
    """
    kl = fused.mean(forward_kl, teacher_LND[-1], student_LND[-1], head, fused.forward_kl)
    hidden = hidden_distance(teacher_LND, student_LND)
    return recipe.kl_weight * kl + recipe.hidden_weight * hidden, {"kl": kl, "hidden": hidden}


def forward_kl(teacher_logits_NV: torch.Tensor, student_logits_NV: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) in nats over the whole vocabulary at temperature 1, mean over the N tokens; 0 where N is 0.

    Computed in fp32. Caccia et al. 2025, equation 2.
    """
    if teacher_logits_NV.shape[0] == 0:
        return student_logits_NV.sum() * 0.0
    teacher = teacher_logits_NV.float().log_softmax(dim=-1)
    student = student_logits_NV.float().log_softmax(dim=-1)
    return (teacher.exp() * (teacher - student)).sum(dim=-1).mean()


def hidden_distance(teacher_LND: torch.Tensor, student_LND: torch.Tensor) -> torch.Tensor:
    """Mean over layers of |h_t - h_s|_1 / |h_t|_1, both norms summed over the layer's N tokens; 0 where N is 0.

    The layers are the outputs of the decoder's blocks, without the embeddings: those are equal on both sides, and would
    only dilute the mean. Caccia et al. 2025, equation 3.
    """
    if teacher_LND.shape[1] == 0:
        return student_LND.sum() * 0.0
    teacher, student = teacher_LND.float(), student_LND.float()
    distance_L = (teacher - student).abs().sum(dim=(1, 2))
    size_L = teacher.abs().sum(dim=(1, 2)).clamp_min(1e-8)
    return (distance_L / size_L).mean()
