"""The options that train and synth make a recipe of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kmcli.cli.app import MANY, MATERIAL, TRAINED

if TYPE_CHECKING:
    from kmcli.workflows.material import RecipeOptions


def _material(flag: str, metavar: str | None, help: str) -> Any:
    return typer.Option(flag, metavar=metavar, help=help, rich_help_panel=MATERIAL)


def _trained(flag: str, metavar: str | None, help: str) -> Any:
    return typer.Option(flag, metavar=metavar, help=help, rich_help_panel=TRAINED)


Text = str | None

Preset = Annotated[Text, typer.Option("--preset", metavar="PRESET", help="How thoroughly: quick, standard or paper.")]
RecipeFile = Annotated[Path | None, typer.Option("--recipe", metavar="FILE", help="A recipe in TOML.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One value of the recipe; may be repeated.")
]
Restart = Annotated[bool, typer.Option("--restart", help="Drop what an interrupted training left, and begin again.")]
Ray = Annotated[
    Text,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="On this Ray cluster; auto: one found, or this machine.",
        rich_help_panel=MANY,
    ),
]

Engine = Annotated[Text, _material("--engine", "ENGINE", "What writes: auto, hf, vllm, llamacpp, openai (service).")]
Teacher = Annotated[Text, _material("--teacher", "MODEL", "A larger model that writes: hub, folder, GGUF, service.")]
ChunkTokens = Annotated[Text, _material("--chunk-tokens", "N", "Size of a chunk, in tokens.")]
Overlap = Annotated[Text, _material("--overlap", "SHARE", "What a chunk repeats of the one before: 0 to 0.9.")]
Generations = Annotated[Text, _material("--generations", "N", "How often each task is written for a chunk.")]
MaxTokens = Annotated[Text, _material("--max-tokens", "N", "Tokens of a draft: 256; by task: summary:400.")]
Temperature = Annotated[Text, _material("--temperature", "T", "How freely is written: 0 is always the likeliest.")]
Judge = Annotated[bool, _material("--judge", None, "Have what writes rate each sample from 1 to 5.")]
MinScore = Annotated[Text, _material("--min-score", "N", "Train only on samples with a score of N or more.")]

Objective = Annotated[
    Text,
    _trained(
        "--objective",
        "NAME",
        "What is optimised: dcd, sdcd, ddcd, lm, sft, pit, skd, or a mix: dcd,keep. lm and ddcd need no study material.",
    ),
]
DistilFrom = Annotated[Text, _trained("--distil-from", "WHO", "Whose predictions are learnt: base or teacher.")]
Init = Annotated[Text, _trained("--init", "KM", "Begin from this document's KM, or a mean: library, @TAG.")]
Adapter = Annotated[Text, _trained("--adapter", "KIND", "lora, cartridge (keys, values) or compressed (vectors).")]
Tokens = Annotated[Text, _trained("--tokens", "N", "Of a cartridge: how many it has.")]
Frozen = Annotated[Text, _trained("--frozen", "N", "Of a cartridge: how many, the first, are not trained.")]
Ratio = Annotated[Text, _trained("--ratio", "N", "Compressed: how many tokens a vector is for.")]
Refine = Annotated[bool, _trained("--refine", None, "Compressed: train its vectors as well.")]
OfGroup = Annotated[bool, _trained("--group", None, "Compressed: one adapter for all that are named.")]


def recipe_options(
    preset: str | None, recipe: Path | None, settings: Sequence[str] | None, **flags: str | None
) -> RecipeOptions:
    """flags: values of the recipe by key, which --set outranks."""
    from kmcli.workflows.material import RecipeOptions

    given = [f"{key}={value}" for key, value in flags.items() if value is not None]
    return RecipeOptions(preset, recipe, [*given, *(settings or ())])
