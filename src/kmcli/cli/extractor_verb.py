"""extractor: Knowledge Extractors, trained, listed, shown and removed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kmcli.cli import render
from kmcli.cli.app import Device, Model, opened, verb
from kmcli.cli.recipe_flags import Restart, Set
from kmcli.cli.screen import Screen
from kmcli.errors import UsageError

if TYPE_CHECKING:
    from kmcli.library.extractors import Extractor
    from kmcli.workflows.extractor import TrainedExtractor

Action = Literal["train", "ls", "show", "rm"]


@verb(
    "Research",
    "km extractor train contracts --docs @contracts --questions questions.jsonl",
    'km ask report "Who signed it?" --extractor contracts',
    "km extractor ls",
)
def extractor(
    screen: Screen,
    action: Annotated[Action, typer.Argument(metavar="ACTION", help="train, ls, show or rm.")] = "ls",
    words: Annotated[
        list[str] | None, typer.Argument(metavar="EXTRACTOR...", help="Its name; with train, documents may follow.")
    ] = None,
    docs: Annotated[
        list[str] | None,
        typer.Option("--docs", metavar="DOCUMENT", help="Documents to train on, or @TAG for all with a tag."),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            "--questions",
            metavar="FILE",
            help="Questions about them, each with its document; left out: held-out study material.",
        ),
    ] = None,
    passages: Annotated[
        int, typer.Option("--passages", metavar="K", min=0, max=100, help="Put K retrieved passages in the prompt.")
    ] = 0,
    no_modules: Annotated[
        bool, typer.Option("--no-modules", help="Without Knowledge Modules: it learns to read passages alone.")
    ] = False,
    settings: Set = None,
    restart: Restart = False,
    model: Model = None,
    device: Device = None,
) -> object:
    """Train Knowledge Extractors: modules answer better with them.

    An extractor is a second adapter, shared by documents, that learns from questions about some how to answer from any
    document's Knowledge Module. It is used with --extractor in ask, chat, compare, export and serve.
    """
    from kmcli.workflows import extractor as work

    names = words or []
    training = bool(docs or questions or passages or no_modules or settings or restart)
    if action != "train" and (training or len(names) != (action != "ls")):
        raise UsageError(
            f"km extractor {action} takes {'nothing more' if action == 'ls' else 'a name and nothing more'}.",
            "See km extractor --help.",
        )
    if not names and action != "ls":
        raise UsageError(
            "the extractor has no name.", f"For example: km extractor {action} contracts --docs @contracts"
        )
    with opened(screen, model=model, device=device) as house:
        if action == "ls":
            return _list(screen, work.ls(house))
        if action == "show":
            return _show(screen, work.show(house, names[0]))
        if action == "rm":
            removed = work.rm(house, names[0])
            screen.write(f"removed the extractor {removed.name}")
            return extractor_data(removed)
        options = work.ExtractorOptions(not no_modules, passages, settings or ())
        trained = work.train(house, names[0], [*(docs or []), *names[1:]], questions, options, restart)
    return _tell_trained(screen, trained)


def _tell_trained(screen: Screen, trained: TrainedExtractor) -> object:
    extractor, metrics = trained.extractor, trained.extractor.metrics
    if trained.left_out:
        screen.warn(f"{render.count(trained.left_out, 'question')} too long for the base: left out")
    screen.write(f"{extractor.name}: Knowledge Extractor {'finished' if trained.resumed else 'trained'}", bold=True)
    screen.facts([*_facts(metrics), ("time", render.duration(trained.seconds))], indent="  ")
    how = "" if extractor.recipe.modules and not extractor.recipe.passages else " --method rag"
    screen.note(f'Next: km ask NAME "question"{how} --extractor {extractor.name}')
    return {
        "extractor": extractor_data(extractor),
        "documents": trained.documents,
        "held_out": trained.held_out,
        "left_out": trained.left_out,
        "resumed": trained.resumed,
        "seconds": trained.seconds,
    }


def _facts(metrics: Any) -> list[tuple[str, str]]:
    documents = render.count(metrics["documents"], "document")
    facts = [
        ("trained on", f"{render.count(metrics['training_questions'], 'question')} about {documents}"),
        ("steps", f"{metrics['steps']:,} of {metrics['planned_steps']:,}"),
    ]
    if metrics["held_out_loss"] is not None:
        others = render.count(metrics["held_out_documents"], "other document")
        loss, alone = (render.number(metrics[key]) for key in ("held_out_loss", "module_loss"))
        facts.append(("loss", f"{loss} on questions about {others}; without it {alone}"))
    if metrics["w_km"] is not None:
        facts.append(("weights", f"{metrics['w_km']:.2f} modules, {metrics['w_ke']:.2f} extractor (means over layers)"))
    return facts


def _list(screen: Screen, found: list[Extractor]) -> object:
    if found:
        rows = [
            [
                one.name,
                _reads(one),
                str(len(one.documents)),
                f"{one.metrics['training_questions'] + one.metrics['held_out_questions']:,}",
                render.when(one.created),
            ]
            for one in found
        ]
        screen.table(rows, ["NAME", "READS", "DOCUMENTS", "QUESTIONS", "TRAINED"], right=(2, 3), flex=0)
    else:
        screen.note("There is no extractor yet. Train one: km extractor train NAME --docs ... --questions FILE")
    return [extractor_data(one) for one in found]


def _show(screen: Screen, one: Extractor) -> object:
    recipe = one.recipe
    screen.write(one.name, bold=True)
    screen.facts(
        [
            ("reads", _reads(one)),
            ("trained", render.when(one.created)),
            ("base", ", ".join(filter(None, (recipe.model, recipe.base_label, recipe.revision)))),
            ("recipe", f"lora of rank {recipe.rank}, learning rate {recipe.learning_rate:g}"),
            *_facts(one.metrics),
            ("folder", str(one.path)),
        ],
        indent="  ",
    )
    return extractor_data(one)


def _reads(one: Extractor) -> str:
    parts = ["Knowledge Modules"] if one.recipe.modules else []
    if one.recipe.passages:
        parts.append(render.count(one.recipe.passages, "passage"))
    return " and ".join(parts)


def extractor_data(one: Extractor) -> dict[str, Any]:
    """An extractor in the envelope's data, without its loss curve, which metrics.json keeps."""
    return render.without_curve(one)
