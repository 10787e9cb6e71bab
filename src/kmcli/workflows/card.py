"""A Knowledge Module's card: what it is and what it was made from, for whoever finds the folder."""

from __future__ import annotations

from typing import Any

from kmcli.adapters import ADAPTERS
from kmcli.types import Document, Recipe
from kmcli.workflows import starts


def written(document: Document, recipe: Recipe, metrics: dict[str, Any]) -> str:
    """In Markdown. metrics: what the module will have."""
    loss = metrics.get("held_out_loss")
    lines = [
        f"# Knowledge Module of {document.name}",
        "",
        f"The adapter is {ADAPTERS[recipe.adapter].WHAT}, in PEFT's format. It answers from one document of "
        f"{document.words:,} words "
        f"(SHA-256 of its text: {document.text_sha256}).",
        "",
        f"- Base: {recipe.base_label or recipe.model}, revision {recipe.revision}. It fits no other weights.",
        *([f"- The base was read with its linear layers in {recipe.base_bits} bits."] if recipe.base_bits else []),
        f"- Made by: {recipe.objective} on {metrics['training_samples']} samples in {metrics['steps']} steps.",
        f"- Loss on held-out study material: {'not measured' if loss is None else format(loss, '.3f')}.",
        "- It contains what the document says: share it as you would share the document.",
    ]
    if update := metrics.get("update"):
        share = f"{update['changed']:,} of {update['chunks']:,} chunks of the text had changed"
        lines.append(f"- It goes on from the Knowledge Module before it: {share}.")
    if recipe.init:
        whose = f"those of {recipe.init}" if recipe.init != starts.LIBRARY else "the mean of other documents' modules"
        lines.append(f"- It began from {whose}, and may contain what those say as well.")
    if rounds := metrics.get("rounds"):
        steps = sum(one["steps"] for one in rounds)
        lines.append(f"- What its exam found unknown was studied again: {steps} steps in {len(rounds)} rounds.")
    return "\n".join(lines) + "\n"
