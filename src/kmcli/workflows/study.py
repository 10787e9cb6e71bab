"""Making a Knowledge Module: train writes the study material that is missing, as far as its objective needs any, and
trains on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

from kmcli import bases
from kmcli.adapters import ADAPTERS
from kmcli.bases import Base
from kmcli.errors import InterruptedRun, KmError, UsageError
from kmcli.library.layout import RUN
from kmcli.objectives import OBJECTIVES
from kmcli.training.mixture import parse
from kmcli.types import Document, Event, Recipe
from kmcli.workflows import calibrating, keeping, redline, starts
from kmcli.workflows.batch import Loader
from kmcli.workflows.group import TOGETHER, Group
from kmcli.workflows.house import Failure, House
from kmcli.workflows.material import RecipeOptions, recipe_for
from kmcli.workflows.naming import find_all
from kmcli.workflows.reading import Foreign
from kmcli.workflows.standing import Standing
from kmcli.workflows.task import Task, Trained


@dataclass(frozen=True, slots=True)
class TrainReport:
    """skipped: trained already, on this text and as wished. interrupted: as in SynthReport."""

    trained: tuple[Trained, ...]
    failed: tuple[Failure, ...]
    skipped: tuple[Document, ...]
    interrupted: InterruptedRun | None = None


def train(
    house: House,
    names: Sequence[str],
    everything: bool,
    options: RecipeOptions,
    force: bool = False,
    restart: bool = False,
    group: bool = False,
    ray: str | None = None,
) -> TrainReport:
    """Train documents that are named or tagged, or all that are not fresh, side by side in groups. One that fails does not
    stop the others.

    Of a document that has changed since its module was trained only what changed is studied, by the module's own recipe.

    force: also where the module is fresh, or the base cannot read the document. restart: begin again where a training
    is unfinished, or the module is fresh, and from nothing where the document has changed. group: one adapter for all of
    them; each is trained again where one is not fresh. ray: the address of the cluster that does it, see `cluster.run`.
    """
    if ray:
        from kmcli.workflows import cluster, cluster_connection  # whose workers use this module

        cluster_connection.check()
    if everything == bool(names):
        raise UsageError("name the documents to train, or say --all.", "For example: km train report")
    library = house.library
    documents = library.documents() if everything else find_all(library, names)
    default = house.base()
    wanted = recipe_for(house, default, options)
    if group:
        wanted = _of_group(house, wanted, names)
    if wanted.init:
        starts.modules(house, wanted)  # what cannot be is refused before anything is written
    again = force or restart
    todo = _due(house, documents, wanted, options, again, everything)
    Foreign(house, default.path).tell_of(todo)
    if group and todo:
        todo = documents
    working = {document.id for document in todo}
    skipped = [document for document in documents if document.id not in working]
    if len(documents) > 1:
        for one in documents:
            state = "waiting" if one.id in working else "skipped"
            house.report(Standing("train", document=one.name, state=state, words=one.words))
    if ray and todo:
        clear = library.clear_workspace if restart else None
        done = cluster.run(house, "train", todo, wanted, options, ray, force, restart, clear)
        finished = tuple(one for one in done.finished if isinstance(one, Trained))
        return TrainReport(finished, tuple(done.failed), tuple(skipped), done.interrupted)

    def task(current: Document) -> Task | None:
        if restart:
            library.clear_workspace(current)
        return task_of(house, current, default, wanted, options, restart, again or group, everything)

    work = Group(house, Loader(house), force, house.processes())
    together = len(todo) if group else TOGETHER
    groups = [todo[start : start + together] for start in range(0, len(todo), together or 1)]
    interrupted = _side_by_side(house, work, groups, task, skipped)
    return TrainReport(tuple(work.trained), tuple(work.failed), tuple(skipped), interrupted)


def _due(
    house: House,
    documents: Sequence[Document],
    wanted: Recipe,
    options: RecipeOptions,
    again: bool,
    everything: bool,
) -> list[Document]:
    """Those that are to be trained, once what is kept or unfinished of them, and the options ask for, has been taken up."""
    if options.given and not again:
        keeping.take_up(house, documents, wanted)
    if options.given and not wanted.exam:
        for document in documents:
            _let_off(house, document)
    return [document for document in documents if again or not met(house, document, wanted, options, everything)]


def _side_by_side(
    house: House,
    work: Group,
    groups: Sequence[Sequence[Document]],
    task: Callable[[Document], Task | None],
    skipped: list[Document],
) -> InterruptedRun | None:
    """Train one group after the other, each while its documents are held. task: what there is to do about one that is held;
    where there is nothing any more it is added to `skipped`. Returns what Ctrl-C has to say."""
    count, place = sum(map(len, groups)), 0
    try:
        for group in groups:
            with ExitStack() as locks:
                for document in group:
                    place += 1
                    if count > 1:
                        house.report(Event("train", f"{document.name}, {place} of {count}"))
                    with work.failing(document):  # which may have changed while others were worked on
                        found = task(locks.enter_context(house.library.lock(document, "train")))
                        if found:
                            work.write(found)
                        else:
                            skipped.append(document)  # trained by another process, or but for what a crash left behind
                work.train()
    except InterruptedRun as stopped:
        return stopped
    except KeyboardInterrupt:
        message = "stopped; nothing that was finished is lost."
        return InterruptedRun(message, "The same command goes on from there.")
    finally:
        work.close()
    return None


def _of_group(house: House, wanted: Recipe, names: Sequence[str]) -> Recipe:
    """The recipe of one adapter for several documents. Raises UsageError where there can be none."""
    kind = ADAPTERS[wanted.adapter]
    if "group" not in kind.ABLE:
        raise UsageError(f"{kind.WHAT} is of one document.", "Leave --group out, or say --adapter compressed.")
    if not names:
        raise UsageError(
            "--group needs the names of its documents, or a tag.", "For example: km train @contracts --group"
        )
    if any(getattr(OBJECTIVES[name], "renews", False) for name in parse(wanted.objective)):
        raise UsageError("skd writes about one document at a time.", "Leave --group out, or choose another objective.")
    if house.processes() > 1:
        raise UsageError("a group is trained by one process.", "Leave --processes out.")
    return replace(wanted, group=",".join(names))


def task_of(
    house: House,
    document: Document,
    base: Base,
    wanted: Recipe,
    options: RecipeOptions,
    restart: bool = False,
    again: bool = False,
    everything: bool = False,
) -> Task | None:
    """What is to be done about a document: its unfinished training, the calibration that a stop has left out, or a new
    training, on what has changed or on all of it; None where nothing is left.

    base: of the recipe `wanted`. again: it is trained again where nothing is left. Raises UsageError where the command line
    asks for another base or recipe than the unfinished training has.
    """
    task = _unfinished(house, document, wanted, options)
    if task is not None:
        return task
    if not again and as_wished(house, document, wanted, options, everything):
        return _calibration(house, document) if _uncalibrated(house, document, wanted, options) else None
    return anew(house, document, base, wanted, options, restart)


def anew(
    house: House, document: Document, base: Base, wanted: Recipe, options: RecipeOptions, restart: bool = False
) -> Task:
    """A new training, on what has changed or on all of it."""
    old = None if restart else redline.begins_from(house, document, wanted, options.given)
    recipe = redline.recipe_of(old, wanted, options.given) if old else wanted
    return Task(document, base, recipe, False, update=old)


def met(house: House, document: Document, wanted: Recipe, options: RecipeOptions, everything: bool) -> bool:
    """Whether nothing is left to do: the document is trained as wished, and nothing stopped km between exam and end."""
    return as_wished(house, document, wanted, options, everything) and not _uncalibrated(
        house, document, wanted, options
    )


def _uncalibrated(house: House, document: Document, wanted: Recipe, options: RecipeOptions) -> bool:
    """Whether the module was examined, and nobody knows yet how sure its answers are."""
    module = house.library.module(document)
    wished = wanted.exam or not options.given
    return module is not None and wished and calibrating.missing(house, module)


def _calibration(house: House, document: Document) -> Task:
    """What is left to do for a module that is as wished, but for that."""
    module = house.library.module(document)
    assert module is not None
    return Task(document, house.base_of(document, module), replace(module.recipe, exam_rounds=0), True, module)


def as_wished(house: House, document: Document, wanted: Recipe, options: RecipeOptions, everything: bool) -> bool:
    """Whether the document is fresh, and trained as wished, as far as a wish was spoken.

    A document that is named is trained on the base of the settings; --all leaves alone what is fresh on another, unless
    --model names the base.
    """
    module = house.library.module(document)
    if module is None or house.state(document) != "fresh":
        return False
    if options.given:
        return keeping.as_wished(module.recipe, wanted)
    if everything and house.settings["model"].origin != "flag":
        return True
    return _base_name(module.recipe) == _base_name(wanted)


def _base_name(recipe: Recipe) -> tuple[str, str]:
    return recipe.model, recipe.revision


def _unfinished(house: House, document: Document, wanted: Recipe, options: RecipeOptions) -> Task | None:
    """The document's unfinished training, whatever the settings say, of which only the exam may be left; None where nothing
    can go on.

    Raises UsageError where the command line asks for another base or recipe.
    """
    run = _run(house, document)
    if run is None:
        return None
    try:
        recipe, text_sha256 = Recipe.from_json(run["recipe"]), run["text_sha256"]
        trained, begun_from = run.get("module"), run.get("update")
    except (KeyError, TypeError):
        raise _damaged(document) from None
    module = house.library.module(document) if trained or begun_from else None
    if trained and module and module.id != trained:
        house.library.clear_workspace(document)
        return None
    if begun_from and (module is None or module.id != begun_from):
        _start_anew(house, document, "the Knowledge Module")
        return None
    if text_sha256 != document.text_sha256:
        _start_anew(house, document, "the document")
        return None
    if recipe.group and recipe.group != wanted.group:
        raise UsageError(
            f"{document.name} has an unfinished training in a group ({recipe.group}).",
            "Go on with it by naming all of them, with --group, or start over with --restart.",
        )
    if options.given:
        recipe = replace(recipe, exam=wanted.exam, exam_rounds=wanted.exam_rounds)
    other_base = house.settings["model"].origin == "flag" and recipe.model != wanted.model
    here = replace(
        recipe,
        revision=wanted.revision,
        base_label=wanted.base_label,
        teacher_revision=wanted.teacher_revision,
        init_revision="",
    )
    other_recipe = options.given and here != wanted
    if other_base or other_recipe:
        raise UsageError(
            f"{document.name} has an unfinished training by another recipe (base {recipe.model}).",
            "Go on with it by leaving the options out, or start over with --restart.",
        )
    base = bases.find(recipe.model, house.report, recipe.revision)
    if base.revision != recipe.revision:
        _start_anew(house, document, "the base")
        return None
    return Task(document, base, recipe, True, module if trained else None, None if trained else module)


def _run(house: House, document: Document) -> dict[str, Any] | None:
    """What was noted of the document's unfinished training; None where there is none."""
    if house.library.state(document) != "interrupted":
        return None
    try:
        return dict(json.loads((house.library.workspace(document) / RUN).read_text("utf-8")))
    except (ValueError, TypeError):
        raise _damaged(document) from None


def _damaged(document: Document) -> KmError:
    return KmError(
        f"the unfinished training of {document.name} is damaged, or was begun by a newer km.",
        "Start over with --restart.",
    )


def _let_off(house: House, document: Document) -> None:
    """Where only the exam is left of a training, end it without."""
    with suppress(KmError):
        if (_run(house, document) or {}).get("module"):
            house.library.clear_workspace(document)


def _start_anew(house: House, document: Document, changed: str) -> None:
    house.warn(f"{changed} has changed since the unfinished training of {document.name}: starting anew")
    house.library.clear_workspace(document)
