"""Imported questions whose answer a document no longer has: which get the new one, and which nobody can know."""

from __future__ import annotations

from dataclasses import replace

from kmcli.types import IMPORTED, Ingested, Sample
from kmcli.workflows.house import House
from kmcli.workflows.renewed import renewed
from test_workflows_material_files import MILL, PAGES, attached, bring, house

__all__ = ["house"]


def test_a_value_that_changed_is_taught_to_every_question_that_had_the_old_one(house: House) -> None:
    built = ("When was the mill built?", "Since when has the mill stood?", "Of which year is the mill?")
    other = {"prompt": "When was it rebuilt?", "response": "never", "context": MILL}
    bring(house, *({"prompt": one, "response": "1871", "context": MILL} for one in built), other)
    changed = PAGES.replace("1871", "1902")
    assert house.library.add(Ingested("/notes.txt", "text", "notes", changed.encode(), changed, 2)).action == "updated"
    now = MILL.replace("1871", "1902")
    bring(house, {"prompt": built[0].lower(), "response": "In 1902", "context": now})
    fitted = attached(house, 8)
    assert {one.prompt: one.response for one in fitted.samples} == {
        built[0].lower(): "In 1902",
        built[1]: "In 1902",
        built[2]: "In 1902",
        other["prompt"]: "never",
    }
    assert (fitted.renewed, fitted.superseded) == (2, 1)
    about = [one for one in fitted.samples if one.response == "In 1902"]
    assert len({one.chunk_sha256 for one in about}) == 1
    assert len({one.id for one in about}) == 3
    # two new answers to one question, or another one to a second that had the same answer: nobody knows which counts
    bring(house, {"prompt": built[1], "response": "1903", "context": now})
    assert attached(house, 8).renewed == 0


def test_an_answer_from_elsewhere_is_not_the_new_one(house: House) -> None:
    """Of another passage; what stood there before; and where two facts had the old answer."""
    ask = "What about down there?"
    bring(
        house,
        {"prompt": "When did the mill burn?", "response": "1871", "context": MILL},
        {"prompt": ask, "response": "1871", "context": MILL},
        {"prompt": ask, "response": "nine minutes", "context": "The ferry needs nine minutes. It leaves at dawn."},
        {"prompt": ask, "response": "never", "context": MILL},
    )
    changed = PAGES.replace("1871", "1902")
    house.library.add(Ingested("/notes.txt", "text", "notes", changed.encode(), changed, 2))
    fitted = attached(house, 8)
    assert (fitted.renewed, fitted.superseded) == (0, 2)
    now = MILL.replace("1871", "1902")
    bring(house, {"prompt": ask, "response": "1902", "context": now})
    assert [one.response for one in attached(house, 8).samples if "mill" in one.prompt] == ["1902"]
    twice = [Sample(str(n), "a", "import", f"{n}?", "1871", IMPORTED, "", "", 0) for n in range(2)]
    again = replace(twice[0], id="new", chunk_sha256="b", response="1902")
    once = {"a": MILL, "b": now}
    assert [one.response for one in renewed(twice, [(again, "c")], once)] == ["1902"]
    assert renewed(twice, [(again, "c")], {"a": f"{MILL} It opened in 1871.", "b": now}) == []
