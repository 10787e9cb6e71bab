"""Losses: pure functions of tensors. Shapes: N scored tokens, L layers, D hidden size, V vocabulary."""

from __future__ import annotations

import torch


def forward_kl(teacher_logits_NV: torch.Tensor, student_logits_NV: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) in nats over the whole vocabulary at temperature 1, mean over the N tokens; 0 where N is 0.

    Computed in fp32. Caccia et al. 2025, equation 2.
    """
    if teacher_logits_NV.shape[0] == 0:
        return student_logits_NV.sum() * 0.0
    teacher = torch.log_softmax(teacher_logits_NV.float(), dim=-1)
    student = torch.log_softmax(student_logits_NV.float(), dim=-1)
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
