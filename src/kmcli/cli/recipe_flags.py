"""The options that train and synth make a recipe of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kmcli.workflows.material import RecipeOptions

Preset = Annotated[
    str | None, typer.Option("--preset", metavar="PRESET", help="How thoroughly: quick, standard or paper.")
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray", metavar="ADDRESS", help="On this Ray cluster; auto: the one that is found, else this machine."
    ),
]
Restart = Annotated[bool, typer.Option("--restart", help="Drop what an interrupted training left, and begin again.")]
RecipeFile = Annotated[Path | None, typer.Option("--recipe", metavar="FILE", help="A recipe in TOML.")]
Objective = Annotated[
    str | None,
    typer.Option(
        "--objective",
        metavar="OBJECTIVE",
        help="What it optimises: dcd, sdcd, ddcd, lm, pit or skd; or a mix: dcd,keep.",
    ),
]
Adapter = Annotated[
    str | None,
    typer.Option(
        "--adapter",
        metavar="KIND",
        help="What is trained: lora, cartridge (keys, values) or compressed (summary vectors).",
    ),
]
Tokens = Annotated[str | None, typer.Option("--tokens", metavar="N", help="Of a cartridge: how many it has.")]
Frozen = Annotated[
    str | None, typer.Option("--frozen", metavar="N", help="Of a cartridge: how many, the first, are not trained.")
]
Ratio = Annotated[
    str | None, typer.Option("--ratio", metavar="N", help="Of a compressed document: how many tokens a vector is for.")
]
Refine = Annotated[bool, typer.Option("--refine", help="Of a compressed document: train its vectors as well.")]
OfGroup = Annotated[bool, typer.Option("--group", help="Of compressed documents: one adapter for all that are named.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One value of the recipe; may be repeated.")
]
Engine = Annotated[
    str | None,
    typer.Option("--engine", metavar="ENGINE", help="What writes: auto, hf, vllm, openai (any service) or llamacpp."),
]
Teacher = Annotated[
    str | None,
    typer.Option("--teacher", metavar="MODEL", help="A larger model that writes: hub name, folder, GGUF, service's."),
]
DistilFrom = Annotated[
    str | None,
    typer.Option(
        "--distil-from", metavar="WHO", help="Whose predictions are learnt: base, or teacher (of one vocabulary)."
    ),
]
Init = Annotated[
    str | None,
    typer.Option(
        "--init",
        metavar="KM",
        help="Begin from this document's KM, or the mean of all: library, or @TAG.",
    ),
]
ChunkTokens = Annotated[str | None, typer.Option("--chunk-tokens", metavar="N", help="Size of a chunk, in tokens.")]
Overlap = Annotated[
    str | None, typer.Option("--overlap", metavar="SHARE", help="What a chunk repeats of the one before: 0 to 0.9.")
]
Generations = Annotated[
    str | None, typer.Option("--generations", metavar="N", help="How often each task is written for a chunk.")
]
MaxTokens = Annotated[
    str | None,
    typer.Option("--max-tokens", metavar="N", help="How long a draft may be, in tokens: 256; by task: summary:400."),
]
Temperature = Annotated[
    str | None, typer.Option("--temperature", metavar="T", help="How freely is written: 0 is always the likeliest.")
]
Judge = Annotated[bool, typer.Option("--judge", help="Have each sample rated from 1 to 5 by what writes it.")]
MinScore = Annotated[
    str | None, typer.Option("--min-score", metavar="N", help="Train only on samples with a score of N or more.")
]


def recipe_options(
    preset: str | None, recipe: Path | None, settings: Sequence[str] | None, **flags: str | None
) -> RecipeOptions:
    """flags: values of the recipe by key, which --set outranks."""
    from kmcli.workflows.material import RecipeOptions

    given = [f"{key}={value}" for key, value in flags.items() if value is not None]
    return RecipeOptions(preset, recipe, [*given, *(settings or ())])
