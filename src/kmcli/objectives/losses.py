"""Losses: pure functions of tensors. Shapes: N scored tokens, L layers, D hidden size, V vocabulary.

Sums are made in fp32 at least. Where N is 0 a loss is 0, and so is its gradient.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from kmcli.types import Divergence, Recipe

if TYPE_CHECKING:
    import torch

    from kmcli.objectives.predicted import Predicted
    from kmcli.objectives.top_k import TopK

    Head = Callable[[torch.Tensor], torch.Tensor]
    Taught: TypeAlias = torch.Tensor | Predicted | TopK
    """What there is of a teacher at N tokens: of the base itself the states (K, N, D) of the layers that `kept_layers` says,
    with a summary of its predictions where that is kept (the forward divergence alone); of another its predictions."""
    Loss = Callable[
        [Taught | None, torch.Tensor, torch.Tensor, Head, Recipe], tuple[torch.Tensor, dict[str, torch.Tensor]]
    ]
    """Of what the teacher gives (None where the views have none), the student's states, the ids of the scored
    tokens (N,), the head, which makes logits (N, V) of final hidden states (N, D), and the recipe: the loss, and its terms
    by name, unweighted. The same names every time."""

_LAYERS = re.compile(r"\d+(,\d+)*")


def distillation(
    teacher_KND: Taught | None, student_LND: torch.Tensor, ids_N: torch.Tensor, head: Head, recipe: Recipe
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Deep Context Distillation: divergence of the predictions, and distance of the hidden states where that has a
    weight. The head is the same for both sides. Caccia et al. 2025, section 3.1.

    Of a teacher other than the base there are predictions alone: its hidden states are no measure of the base's.
    """
    from kmcli.objectives import fused, predicted, top_k

    if teacher_KND is None:
        raise ValueError("there is nothing to distil: the views have no teacher")
    kind, last = recipe.divergence, student_LND[-1]
    states_KND: torch.Tensor | None = None
    if isinstance(teacher_KND, predicted.Predicted):
        states_KND = teacher_KND.states_KND
        apart = predicted.forward_kl(teacher_KND, last, head)
    elif isinstance(teacher_KND, top_k.TopK):
        by_hand = top_k.forward_kl if kind == "forward" else None
        apart = fused.mean(partial(top_k.divergence, kind=kind), teacher_KND, last, head, by_hand)
    else:
        states_KND = teacher_KND
        gradient = fused.forward_kl if kind == "forward" else None
        apart = fused.mean(partial(divergence, kind=kind), states_KND[-1], last, head, gradient)
    terms = {"jsd" if kind == "jsd" else "kl": apart}
    total = recipe.kl_weight * apart
    if recipe.hidden_weight and states_KND is not None:
        chosen = hidden_layers(recipe.hidden_layers, len(student_LND))
        there = kept_layers(recipe, len(student_LND))
        terms["hidden"] = hidden_distance(
            _of(states_KND, [there.index(layer) for layer in chosen]), _of(student_LND, chosen)
        )
        total = total + recipe.hidden_weight * terms["hidden"]
    return total, terms


def next_token(
    teacher_KND: Taught | None, student_LND: torch.Tensor, ids_N: torch.Tensor, head: Head, recipe: Recipe
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Language modelling: the cross-entropy of the scored tokens. Nothing of the recipe matters, and there is no teacher."""
    loss = cross_entropy(head(student_LND[-1]), ids_N)
    return loss, {"cross_entropy": loss}


def divergence(teacher_logits_NV: torch.Tensor, student_logits_NV: torch.Tensor, kind: Divergence) -> torch.Tensor:
    """`divergence_N`, mean over the N tokens."""
    if teacher_logits_NV.shape[0] == 0:
        return student_logits_NV.sum() * 0.0
    return divergence_N(teacher_logits_NV, student_logits_NV, kind).mean()


def divergence_N(teacher_logits_NV: torch.Tensor, student_logits_NV: torch.Tensor, kind: Divergence) -> torch.Tensor:
    """Per token, in nats, over the whole vocabulary at temperature 1; 0 where both sides predict alike.

    forward: KL(teacher || student), which the student lowers by covering all that the teacher thinks likely (Caccia et al.
    2025, equation 2). reverse: KL(student || teacher), by leaving out what the teacher thinks unlikely. jsd: the
    Jensen-Shannon divergence, symmetric and at most ln 2.
    """
    teacher, student = (_precise(logits).log_softmax(dim=-1) for logits in (teacher_logits_NV, student_logits_NV))
    return of_log_probs(teacher, student, kind)


def of_log_probs(teacher: torch.Tensor, student: torch.Tensor, kind: Divergence) -> torch.Tensor:
    """A divergence (N,) of two distributions, by their log-probabilities (N, events)."""
    if kind == "forward":
        return _kl(teacher, student)
    if kind == "reverse":
        return _kl(student, teacher)
    middle = teacher.logaddexp(student) - math.log(2)
    return (_kl(teacher, middle) + _kl(student, middle)) / 2


def hidden_distance(teacher_LND: torch.Tensor, student_LND: torch.Tensor) -> torch.Tensor:
    """Mean over layers of |h_t - h_s|_1 / |h_t|_1, both norms summed over the layer's N tokens.

    The layers are the outputs of the decoder's blocks, without the embeddings: those are equal on both sides, and would
    only dilute the mean. Caccia et al. 2025, equation 3.
    """
    if teacher_LND.shape[1] == 0:
        return student_LND.sum() * 0.0
    teacher, student = _precise(teacher_LND), _precise(student_LND)
    distance_L = (teacher - student).abs().sum(dim=(1, 2))
    size_L = teacher.abs().sum(dim=(1, 2)).clamp_min(1e-8)
    return (distance_L / size_L).mean()


def hidden_layers(which: str, count: int) -> list[int]:
    """The layers that a recipe's `hidden_layers` means of a base with `count` of them, counted from 0.

    Raises ValueError, in words for people, where it means none of them.
    """
    if which == "all":
        return list(range(count))
    if which == "last":
        return [count - 1]
    if which == "even":
        return list(range(0, count, 2))
    if not _LAYERS.fullmatch(which):
        raise ValueError(f"hidden_layers must be all, last, even, or numbers such as 0,3,7, not {which!r}")
    chosen = sorted({int(number) for number in which.split(",")})
    if chosen[-1] >= count:
        raise ValueError(f"there is no layer {chosen[-1]}: the base has {count}, counted from 0")
    return chosen


def kept_layers(recipe: Recipe, count: int) -> list[int]:
    """Whose states `distillation` needs of a teacher: those that the hidden term compares, and the last, of the predictions.

    Raises ValueError as `hidden_layers` does.
    """
    chosen = hidden_layers(recipe.hidden_layers, count) if recipe.hidden_weight else []
    return sorted({*chosen, count - 1})


def cross_entropy(student_logits_NV: torch.Tensor, ids_N: torch.Tensor) -> torch.Tensor:
    """-log p of the ids that came, in nats, mean over the N tokens."""
    if student_logits_NV.shape[0] == 0:
        return student_logits_NV.sum() * 0.0
    return -_precise(student_logits_NV).log_softmax(dim=-1).gather(-1, ids_N[:, None]).mean()


def _of(states_LND: torch.Tensor, layers: Sequence[int]) -> torch.Tensor:
    return states_LND if len(layers) == len(states_LND) else states_LND[layers]


def _kl(p_NV: torch.Tensor, q_NV: torch.Tensor) -> torch.Tensor:
    """KL(p || q) per token of log-probabilities."""
    return (p_NV.exp() * (p_NV - q_NV)).sum(dim=-1)


def _precise(values: torch.Tensor) -> torch.Tensor:
    return values if values.itemsize >= 4 else values.float()
