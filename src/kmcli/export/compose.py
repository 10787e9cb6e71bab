"""Several LoRA adapters as one, and any one in its plainest form: a PEFT folder that every tool can read. Needs no torch.

The sum of scale * B @ A is exact with the ranks side by side, which is what `adapters.lora.load_sum` computes too. Where a
weight is changed by fewer ranks than others, rows of zeros fill it up, so that there is one rank and one alpha for all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmcli.adapters import kind_of
from kmcli.adapters.folder import CONFIG, WEIGHTS
from kmcli.bases import Base, folder
from kmcli.errors import KmError
from kmcli.export.lora import read_tensors
from kmcli.export.merge import Weights, read_adapter

if TYPE_CHECKING:
    import numpy as np

_PREFIX = "base_model.model."


def compose(base: Base, adapters: Sequence[Path], out: Path) -> int:
    """Write the sum of LoRA adapters (PEFT folders) into the folder `out`, in F32, or what their kind makes of others.
    Returns the number of tensors.

    Raises KmError for an adapter that is damaged, not plain LoRA, of another base, or with values that are no numbers.
    """
    from safetensors.numpy import save

    if join := kind_of(adapters[0]).join:
        return join(base, adapters, out)
    shapes = Weights(base.path).shapes
    parts: dict[str, list[tuple[float, np.ndarray, np.ndarray]]] = {}
    for adapter in adapters:
        lora = read_adapter(adapter)
        lora.fit(shapes, is_tied(base))
        tensors = read_tensors(adapter)
        for weight, scale in lora.scales.items():
            module = weight.removesuffix(".weight")
            down, up = (tensors[f"{_PREFIX}{module}.lora_{side}.weight"] for side in "AB")
            _require_finite(module, (down, up))
            parts.setdefault(module, []).append((scale, down, up))
    if not parts:
        raise KmError("the adapter changes nothing.", "Train it again.")
    rank = max(sum(len(down) for _, down, _ in found) for found in parts.values())
    scales = {scale for found in parts.values() for scale, *_ in found}
    # One scale for all stays outside of B, which then keeps its very values.
    alpha = next(iter(scales)) * rank if len(scales) == 1 else float(rank)
    if len(scales) == 1 and {alpha / rank} != scales:
        alpha = float(rank)
    common = alpha / rank
    joined = {module: _joined(found, rank, common) for module, found in parts.items()}
    tensors = {
        f"{_PREFIX}{module}.lora_{side}.weight": values
        for module, pair in joined.items()
        for side, values in zip("AB", pair, strict=True)
    }
    (out / WEIGHTS).write_bytes(save(tensors, {"format": "pt"}))  # save_file would make a file for its owner alone
    _write_config(base, sorted(joined), shapes, rank, alpha, out)
    return 2 * len(joined)


def is_tied(base: Base) -> bool:
    """Whether the output layer reads the embedding's weights."""
    config = folder.read_config(base.path)
    return bool((config.get("text_config") or config).get("tie_word_embeddings", False))


def _require_finite(module: str, factors: Sequence[np.ndarray]) -> None:
    import numpy as np

    if not all(np.isfinite(values).all() for values in factors):
        raise KmError(f"the adapter's change of {module} has values that are no numbers.", "It is damaged.")


def _joined(
    parts: Sequence[tuple[float, np.ndarray, np.ndarray]], rank: int, common: float
) -> tuple[np.ndarray, np.ndarray]:
    """(rank, in) and (out, rank), of which B @ A times `common` is the sum."""
    import numpy as np

    down = np.concatenate([down for _, down, _ in parts], 0)
    up = np.concatenate([up if scale == common else up * np.float32(scale / common) for scale, _, up in parts], 1)
    missing = rank - len(down)
    return np.pad(down, ((0, missing), (0, 0))), np.pad(up, ((0, 0), (0, missing)))


def _write_config(
    base: Base, modules: Sequence[str], shapes: dict[str, tuple[int, ...]], rank: int, alpha: float, out: Path
) -> None:
    """Only what is not PEFT's default: older and newer versions, and other programs, stumble over keys they do not know."""
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.portable_name,
        "revision": base.revision,
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": _targets(modules, shapes),
        "inference_mode": True,
    }
    (out / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def _targets(modules: Sequence[str], shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """The modules' last names where these mean the same modules of the base, as usual; else their whole names."""
    short = {module.rpartition(".")[2] for module in modules}
    meant = {
        name.removesuffix(".weight")
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) == 2 and name.removesuffix(".weight").rpartition(".")[2] in short
    }
    return sorted(short if meant == set(modules) else modules)
