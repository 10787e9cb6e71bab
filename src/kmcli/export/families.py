"""Which model families become GGUF, and what of a config.json the file must say.

| transformers `model_type` | GGUF architecture |
|---------------------------|-------------------|
| `llama`                   | `llama`           |

To add one: an entry in FAMILIES, after comparing the family's class in llama.cpp's convert_hf_to_gguf.py with `Family`
and with `Architecture` (a norm that is stored shifted, a fused projection or a further key needs a field of its own),
and a case in tests/test_export_models.py, which compares a random model of the family with llama.cpp by its logits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kmcli.bases import Base, folder
from kmcli.errors import ResourceError

if TYPE_CHECKING:
    import gguf


@dataclass(frozen=True, slots=True)
class Family:
    """architecture: its name in GGUF. interleaved: modules whose rows llama.cpp wants in another order."""

    architecture: str
    interleaved: tuple[str, ...] = ()


FAMILIES: dict[str, Family] = {
    "llama": Family("llama", interleaved=("q_proj", "k_proj")),
}


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions. linear: what every frequency is divided by. llama3: the settings of that scaling."""

    theta: float
    linear: float | None = None
    llama3: Mapping[str, float] | None = None

    def factors(self, head_dim: int) -> list[float] | None:
        """What llama.cpp divides each of the head_dim/2 frequencies by (`rope_freqs.weight`); None: by nothing."""
        if self.llama3 is None:
            return None
        factor, low, high = (self.llama3[key] for key in ("factor", "low_freq_factor", "high_freq_factor"))
        trained = self.llama3["original_max_position_embeddings"]
        factors = []
        for i in range(0, head_dim, 2):
            wavelength = 2 * math.pi * self.theta ** (i / head_dim)
            if wavelength < trained / high:
                factors.append(1.0)
            elif wavelength > trained / low:
                factors.append(factor)
            else:
                smooth = (trained / wavelength - low) / (high - low)
                factors.append(1 / ((1 - smooth) / factor + smooth))
        return factors


@dataclass(frozen=True, slots=True)
class Architecture:
    """A base's shape: numbers of layers, features, heads. tied: the output reads the embedding's weights."""

    family: Family
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_epsilon: float
    tied: bool
    rope: Rope

    def add_to(self, writer: gguf.GGUFWriter, context: int, vocabulary: int) -> None:
        """Write the keys from which llama.cpp builds the network; context and vocabulary are in tokens."""
        import gguf

        writer.add_context_length(context)
        writer.add_vocab_size(vocabulary)
        writer.add_block_count(self.layers)
        writer.add_embedding_length(self.hidden)
        writer.add_feed_forward_length(self.feed_forward)
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.kv_heads)
        writer.add_key_length(self.head_dim)
        writer.add_value_length(self.head_dim)
        writer.add_layer_norm_rms_eps(self.norm_epsilon)
        writer.add_rope_dimension_count(self.head_dim)
        writer.add_rope_freq_base(self.rope.theta)
        if self.rope.linear is not None:
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(self.rope.linear)

    def interleaved_heads(self, weight: str) -> int:
        """The heads of a weight whose rows llama.cpp wants in another order (see writer); 0 for any other weight."""
        if weight.rsplit(".", 2)[-2] not in self.family.interleaved:
            return 0
        return self.kv_heads if ".k_proj." in weight else self.heads


def architecture(base: Base) -> Architecture:
    """What a base's config.json says. Raises ResourceError for a family, activation or scaling not supported."""
    family = FAMILIES.get(base.family)
    if family is None:
        raise ResourceError(
            f"{base.name} is of the family {base.family or 'without a name'!r}, which cannot be written as GGUF yet.",
            "Supported: " + ", ".join(sorted(FAMILIES)) + ".",
        )
    config = folder.read_config(base.path)
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise ResourceError(
            f"{base.name} uses the activation {activation!r}, but llama.cpp computes silu for this family.",
            "Choose another base with --model.",
        )
    try:
        heads = int(config["num_attention_heads"])
        return Architecture(
            family=family,
            layers=int(config["num_hidden_layers"]),
            hidden=int(config["hidden_size"]),
            feed_forward=int(config["intermediate_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
            norm_epsilon=float(config.get("rms_norm_eps", 1e-6)),
            tied=bool(config.get("tie_word_embeddings", False)),
            rope=_rope(base, config),
        )
    except KeyError as error:
        raise ResourceError(
            f"the config.json of {base.name} does not say {error.args[0]!r}.", "Fetch the model again."
        ) from None


def _rope(base: Base, config: Mapping[str, Any]) -> Rope:
    """transformers 5 keeps everything in rope_parameters, older files in rope_theta and rope_scaling."""
    settings: Mapping[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = float(settings.get("rope_theta") or config.get("rope_theta") or 10000.0)
    kind = settings.get("rope_type") or settings.get("type") or "default"
    if float(settings.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0) != 1.0:
        kind = "partial"
    if kind == "default":
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, linear=float(settings["factor"]))
    if kind == "llama3":
        keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        return Rope(theta, llama3={key: float(settings[key]) for key in keys})
    raise ResourceError(
        f"{base.name} scales its rotary positions by {kind!r}, which cannot be written as GGUF yet.",
        "Supported: default, linear, llama3. Choose another base with --model.",
    )
