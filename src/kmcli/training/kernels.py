"""Faster layers for the time of a training: the same numbers but for rounding, with fewer and better matrix products.

PEFT's layer makes three products of each: the base's, and two thin ones whose result is added. Here the adapter is added to
the weights, which are few beside a batch's states, so that forward and backward are one product each, and the thin ones are
left to the gradients of A and B. Shapes: M tokens, I in, O out, R the rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear


@contextmanager
def fast_layers(model: Any, head: Any) -> Iterator[None]:
    """Within it a PEFT model's adapted layers and the base's head compute by this module, where they are of a kind that it
    knows: linear layers in fp32 with one LoRA and no dropout, on a processor. All others stay as they are."""
    from peft.tuners.lora import Linear

    changed: list[Any] = []
    try:
        layers: list[Any] = [module for module in model.modules() if isinstance(module, Linear)]
        for layer in filter(_plain, layers):
            layer.forward = _adapted(layer)
            changed.append(layer)
        if _suitable(head):
            head.forward = partial(_frozen, head)
            changed.append(head)
        yield
    finally:
        for module in changed:
            del module.forward


def product(x_MI: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
    """x @ weight.T of fp32 matrices, any strides."""
    if x_MI.device.type == "cpu" and onednn_is_faster():
        return torch.ops.mkldnn._linear_pointwise(x_MI, weight_OI, None, "none", [], "")
    return linear(x_MI, weight_OI)


@cache
def onednn_is_faster() -> bool:
    """torch gives fp32 products to MKL, which on processors that are not Intel's keeps to AVX2; oneDNN uses AVX-512, in
    half the time. Decided by what the processor is, not by the clock: a resumed training must compute alike."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
        return False
    try:
        intel = "GenuineIntel" in Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return False
    return not intel and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _suitable(layer: Any) -> bool:
    return type(layer) is torch.nn.Linear and layer.weight.dtype == torch.float32 and layer.weight.device.type == "cpu"


def _plain(module: Any) -> bool:
    names = module.active_adapters
    return (
        len(names) == 1
        and _suitable(module.get_base_layer())
        and not module.merged
        and not module.lora_variant  # DoRA and its like
        and not module.lora_bias[names[0]]
        and isinstance(module.lora_dropout[names[0]], torch.nn.Identity)
        and all(layer[names[0]].weight.dtype == torch.float32 for layer in (module.lora_A, module.lora_B))
    )


def _adapted(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """The forward of one adapted layer."""
    (name,) = module.active_adapters
    base = module.get_base_layer()
    a_RI, b_OR = module.lora_A[name].weight, module.lora_B[name].weight
    scale = float(module.scaling[name])

    def forward(x: torch.Tensor) -> torch.Tensor:
        if module.disable_adapters:
            return _frozen(base, x)
        flat = _WithAdapter.apply(x.reshape(-1, x.shape[-1]), base.weight, a_RI, b_OR, scale)
        result = flat.view(*x.shape[:-1], -1)
        return result if base.bias is None else result + base.bias

    return forward


def _frozen(layer: Any, x: torch.Tensor) -> torch.Tensor:
    result = _Frozen.apply(x.reshape(-1, x.shape[-1]), layer.weight).view(*x.shape[:-1], -1)
    return result if layer.bias is None else result + layer.bias


class _Frozen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_MI: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
        ctx.weight = weight_OI
        return product(x_MI, weight_OI)

    @staticmethod
    def backward(ctx: Any, g_MO: torch.Tensor) -> Any:
        return product(g_MO, ctx.weight.t()), None


class _WithAdapter(torch.autograd.Function):
    """x @ merged.T, merged = weight + scale * B @ A; gradients for x, A and B."""

    @staticmethod
    def forward(
        ctx: Any, x_MI: torch.Tensor, weight_OI: torch.Tensor, a_RI: torch.Tensor, b_OR: torch.Tensor, scale: float
    ) -> torch.Tensor:
        ctx.save_for_backward(x_MI, a_RI, b_OR)
        merged_OI = torch.addmm(weight_OI, b_OR, a_RI, alpha=scale)
        ctx.merged, ctx.scale = merged_OI, scale
        return product(x_MI, merged_OI)

    @staticmethod
    def backward(ctx: Any, g_MO: torch.Tensor) -> Any:
        x_MI, a_RI, b_OR = ctx.saved_tensors
        through_MR = product(g_MO, b_OR.t())
        grad_a = product(through_MR.t(), x_MI.t()).mul_(ctx.scale)
        grad_b = product(product(x_MI, a_RI).t(), g_MO.t()).t().mul(ctx.scale)
        return product(g_MO, ctx.merged.t()) if ctx.needs_input_grad[0] else None, None, grad_a, grad_b, None
