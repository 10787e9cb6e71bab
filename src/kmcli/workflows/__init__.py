"""What each verb of `km` does, one function a verb: read this first.

    house.py      what every verb is given: the library, the settings, whom to report to
    documents.py  add, ls, show, mv, rm
    study.py      synth, train
    answer.py     ask, compare
    share.py      export
    setup.py      models, doctor

A verb takes values, does its work through the rooms below, and returns a frozen result that the door renders.
"""

from kmcli.workflows.answer import Asked, ask, compare
from kmcli.workflows.documents import AddReport, Entry, Shown, add, ls, mv, rm, show
from kmcli.workflows.house import Failure, House, open_house
from kmcli.workflows.setup import Check, ModelEntry, doctor, models
from kmcli.workflows.share import ExportReport, export
from kmcli.workflows.study import RecipeOptions, Synthesised, Trained, TrainReport, synth, train

__all__ = [
    "AddReport",
    "Asked",
    "Check",
    "Entry",
    "ExportReport",
    "Failure",
    "House",
    "ModelEntry",
    "RecipeOptions",
    "Shown",
    "Synthesised",
    "TrainReport",
    "Trained",
    "add",
    "ask",
    "compare",
    "doctor",
    "export",
    "ls",
    "models",
    "mv",
    "open_house",
    "rm",
    "show",
    "synth",
    "train",
]
