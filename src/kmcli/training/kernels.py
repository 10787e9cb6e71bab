"""Faster layers for the time of a training: the same numbers but for rounding, with fewer and better matrix products.

PEFT's layer makes three products of each: the base's, and two thin ones whose result is added. Here the adapter is added to
the weights, which are few beside a batch's states, so that forward and backward are one product each, and the thin ones are
left to the gradients of A and B. Where documents train side by side, the base's product is made once for the tokens of all,
and the thin ones of all are two batched products. Shapes: M tokens, I in, O out, R the rank, G adapters, m tokens of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, cast

import torch
from torch.nn.functional import linear


@contextmanager
def fast_layers(model: Any, head: Any) -> Iterator[Stacked]:
    """Within it a PEFT model's adapted layers and the base's head compute by this module, where they are of a kind that it
    knows: linear layers in fp32 with one LoRA and no dropout, on a processor. All others stay as they are.

    Where several LoRAs are active, each is for tokens of its own, as the yielded `Stacked` has been told; `can_stack` says
    of which layers that can be asked. Numbers too small for fp32's usual form are zero: see `without_denormals`.
    """
    from peft.tuners.lora import Linear

    changed: list[Any] = []
    stacked = Stacked()
    try:
        layers: list[Any] = [module for module in model.modules() if isinstance(module, Linear)]
        for layer in layers:
            layer.forward = _adapted(layer, stacked)
            changed.append(layer)
        if not layers:  # of a model whose adapter is not in its layers
            plain = [module for module in model.modules() if _suitable(module) and module is not head]
            for layer in plain:
                layer.forward = partial(_frozen, layer)
                changed.append(layer)
        if _suitable(head):
            head.forward = partial(_frozen, head)
            changed.append(head)
        with without_denormals():
            yield stacked
    finally:
        for module in changed:
            del module.forward


@contextmanager
def without_denormals() -> Iterator[None]:
    """Within it this thread, and those that it starts, take numbers below 1e-38 for zero. Attention over much text gives
    many weights of that size, and Intel's processors take many times as long to multiply with one."""
    flushed = not float(torch.full((1,), 1e-30) * 1e-10)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)


class Stacked:
    """Which of a batch's tokens are for which of the active adapters: `set` says how many for each, one after the other."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self._rows: tuple[torch.Tensor, torch.Tensor] | None = None

    def set(self, lengths: Sequence[int]) -> None:
        self.lengths = list(lengths)
        self._rows = None

    def check(self, x_1MI: torch.Tensor) -> None:
        if x_1MI.shape[:-1] != (1, sum(self.lengths)):
            raise NotStackedError

    def update(self, layer: Any, names: Sequence[str], x_1MI: torch.Tensor) -> torch.Tensor:
        """What the adapters add (1, M, O), all of them in two batched products."""
        a_GRI = torch.stack([layer.lora_A[name].weight for name in names])
        b_GOR = torch.stack([layer.lora_B[name].weight * layer.scaling[name] for name in names])
        x_MI = x_1MI[0].to(a_GRI.dtype)
        unequal = min(self.lengths) < max(self.lengths)
        if unequal:
            gather, scatter = self._padding(x_MI.device)
            x_MI = x_MI.index_select(0, gather)
        x_GmI = x_MI.view(len(names), -1, x_MI.shape[-1])
        added = torch.bmm(torch.bmm(x_GmI, a_GRI.transpose(1, 2)), b_GOR.transpose(1, 2)).flatten(0, 1)
        if unequal:
            added = added.index_select(0, scatter)
        return added[None].to(x_1MI.dtype)

    def _padding(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Which rows make blocks of one length, and which rows of those blocks are no padding; once for all layers."""
        if self._rows is None:
            wide, begins = max(self.lengths), [0, *accumulate(self.lengths)]
            gather = [  # padding reads an adapter's own first token, and nothing reads it
                at + (i if i < size else 0) for at, size in zip(begins, self.lengths, strict=False) for i in range(wide)
            ]
            scatter = [row * wide + i for row, size in enumerate(self.lengths) for i in range(size)]
            self._rows = torch.tensor(gather, device=device), torch.tensor(scatter, device=device)
        return self._rows


class NotStackedError(Exception):
    """The model does not show a layer all tokens of a batch in their order, as where experts share them out."""


def can_stack(model: Any, names: Sequence[str]) -> bool:
    """Whether within `fast_layers` these adapters of a model may compute side by side, each for its own tokens."""
    from peft.tuners.lora import Linear
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers: list[Any] = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    if hasattr(model, "before"):  # which is one document's
        return False
    return bool(layers) and all(
        isinstance(layer, Linear)
        and all(_plain(layer, name) for name in names)
        and len({layer.r[name] for name in names}) == 1
        for layer in layers
    )


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


def _plain(layer: Any, name: str) -> bool:
    """Whether an adapter does no more to a layer than to add its two products."""
    return (
        not layer.merged
        and not layer.lora_variant  # DoRA and its like
        and not layer.lora_bias[name]
        and isinstance(layer.lora_dropout[name], torch.nn.Identity)
        and all(one[name].weight.dtype == torch.float32 for one in (layer.lora_A, layer.lora_B))
    )


def _adapted(layer: Any, stacked: Stacked) -> Callable[..., torch.Tensor]:
    """The forward of one adapted layer."""
    plain, base = layer.forward, layer.get_base_layer()
    suitable = _suitable(base)

    def forward(x: torch.Tensor, *given: Any, **more: Any) -> torch.Tensor:
        names = layer.active_adapters
        if len(names) > 1 and not layer.disable_adapters:
            stacked.check(x)
            if not suitable:
                return cast("torch.Tensor", base(x, *given, **more) + stacked.update(layer, names, x))
            pairs = [(layer.lora_A[name].weight, layer.lora_B[name].weight) for name in names]
            scales = [float(layer.scaling[name]) for name in names]
            flat = _WithAdapters.apply(x[0], base.weight, stacked.lengths, scales, *chain.from_iterable(pairs))
            return cast("torch.Tensor", flat[None] if base.bias is None else flat[None] + base.bias)
        if not (suitable and _plain(layer, names[0])):
            return cast("torch.Tensor", plain(x, *given, **more))
        if layer.disable_adapters:
            return _frozen(base, x)
        name = names[0]
        flat = _WithAdapter.apply(
            x.reshape(-1, x.shape[-1]),
            base.weight,
            layer.lora_A[name].weight,
            layer.lora_B[name].weight,
            float(layer.scaling[name]),
        )
        result: torch.Tensor = flat.view(*x.shape[:-1], -1)
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


class _WithAdapters(torch.autograd.Function):
    """x @ weight.T, plus scale * x @ A.T @ B.T in the rows of each adapter, of which `lengths` says how many there are;
    gradients for x and for each A and B. The thin products are added in place: gathered for a batched product, rows of
    unequal numbers would cost more than they do."""

    @staticmethod
    def forward(
        ctx: Any,
        x_MI: torch.Tensor,
        weight_OI: torch.Tensor,
        lengths: Sequence[int],
        scales: Sequence[float],
        *pairs: torch.Tensor,
    ) -> torch.Tensor:
        y_MO = product(x_MI, weight_OI)
        thin = []
        parts = zip(x_MI.split(lengths), y_MO.split(lengths), pairs[::2], pairs[1::2], scales, strict=True)
        for x_mI, y_mO, a_RI, b_OR, scale in parts:
            thin.append(x_mI @ a_RI.t())
            y_mO.addmm_(thin[-1], b_OR.t(), alpha=scale)
        ctx.save_for_backward(x_MI, *pairs, *thin)
        ctx.weight, ctx.lengths, ctx.scales = weight_OI, lengths, scales
        return y_MO

    @staticmethod
    def backward(ctx: Any, g_MO: torch.Tensor) -> Any:
        x_MI, *saved = ctx.saved_tensors
        count = len(ctx.lengths)
        pairs, thin = saved[: 2 * count], saved[2 * count :]
        grad_x_MI = product(g_MO, ctx.weight.t()) if ctx.needs_input_grad[0] else None
        parts = zip(
            x_MI.split(ctx.lengths), g_MO.split(ctx.lengths), pairs[::2], pairs[1::2], thin, ctx.scales, strict=True
        )
        grads, begin = [], 0
        for x_mI, g_mO, a_RI, b_OR, u_mR, scale in parts:
            through_mR = g_mO @ b_OR
            grads += [(through_mR.t() @ x_mI).mul_(scale), (u_mR.t() @ g_mO).t().mul(scale)]
            if grad_x_MI is not None:
                grad_x_MI[begin : begin + len(g_mO)].addmm_(through_mR, a_RI, alpha=scale)
            begin += len(g_mO)
        return grad_x_MI, None, None, None, *grads
