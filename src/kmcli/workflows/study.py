"""Making a Knowledge Module: train writes the study material that is missing, as far as its objective needs any, and
trains on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from kmcli.adapters import ADAPTERS
from kmcli.errors import InterruptedRun, UsageError
from kmcli.objectives import OBJECTIVES
from kmcli.training.mixture import parse
from kmcli.types import Document, Event, Recipe
from kmcli.workflows import keeping, starts
from kmcli.workflows.batch import Loader
from kmcli.workflows.due import let_off, met, task_of
from kmcli.workflows.group import TOGETHER, Group
from kmcli.workflows.house import Failure, House
from kmcli.workflows.material import RecipeOptions, recipe_for
from kmcli.workflows.naming import named_or_all
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
    library = house.library
    documents = named_or_all(library, names, everything, "km train report")
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
            let_off(house, document)
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
