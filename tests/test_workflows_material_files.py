"""Study material shown, exported and imported: nothing lost, nothing doubled, and fitted to whatever base trains on it."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli_cases import HOSTILE, SHOWN, Km, command, in_terminal
from kmcli import config
from kmcli.bases import Base
from kmcli.chunking import chunk
from kmcli.errors import KmError
from kmcli.library import Library
from kmcli.synthesis.write import sample_id
from kmcli.training import split
from kmcli.types import IMPORTED, Chunk, Document, Event, Ingested, Recipe, Sample, text_hash
from kmcli.workflows import material_files
from kmcli.workflows.house import House, usable
from kmcli.workflows.imported import Attached, attach, tell
from kmcli.workflows.material import RecipeOptions
from workflow_cases import NOTES, TINY, entry, km, sentences

__all__ = ["km"]

BASE = Base("other/base", Path("/nowhere"), "r9", "llama", 4096, 2048, 5, "general")
PAGES = "The mill burnt down in 1871. It was never rebuilt.\fThe ferry needs nine minutes. It leaves at dawn."
MILL = "The mill burnt down in 1871. It was never rebuilt."


def house_of(library: Library) -> House:
    return House(library, config.resolve(), lambda event: None)


def added(library: Library, text: str = PAGES) -> Document:
    return library.add(Ingested("/notes.txt", "text", "notes", text.encode("utf-8", "surrogatepass"), text, 2)).document


def bring(house: House, *values: object) -> material_files.Imported:
    data = "".join(json.dumps(one) + "\n" for one in values).encode()
    return material_files.import_(house, "notes", "-", RecipeOptions(), io.BytesIO(data))


def exported(house: House) -> str:
    return "\n".join(material_files.lines(material_files.show(house, "notes")))


@pytest.fixture
def house(km_home: Path) -> Iterator[House]:
    with Library.open(km_home) as library:
        added(library)
        yield house_of(library)


def material(house: House) -> list[Sample]:
    return house.library.samples(house.library.find("notes"))


# --- round trips


texts = st.text(st.characters(exclude_categories=()), min_size=1, max_size=30)
some = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30).filter(str.strip)
sample_of = st.builds(
    lambda task, prompt, response, chunk, model, seed, score: (
        Sample(
            sample_id(text_hash(chunk), task, prompt, response),
            *(text_hash(chunk), task, prompt, response, "hf", model, "r1", seed, score),
        ),
        chunk,
    ),
    *(some, some, some, some, some),
    st.integers(0, 2**60),
    st.none() | st.floats(1, 5),
)


@settings(max_examples=10)
@given(st.lists(sample_of, min_size=1, max_size=4))
def test_what_one_library_exports_another_imports_unchanged(made: list[tuple[Sample, str]]) -> None:
    made = list({sample.id: (sample, text) for sample, text in made}.values())
    with ExitStack() as held:
        folder = held.enter_context(tempfile.TemporaryDirectory())
        here, there = (held.enter_context(Library.open(Path(folder, name))) for name in "ab")
        document = added(here)
        here.keep_chunks(document, [text for _, text in made])
        here.append_samples(document, [sample for sample, _ in made])
        added(there, "Quite another text.")
        first = exported(house_of(here))
        assert len(first.split("\n")) == len(made)
        for _ in range(2):
            file = io.BytesIO(first.encode())
            report = material_files.import_(house_of(there), "notes", "-", RecipeOptions(), file)
        assert (report.samples, report.known) == (0, len(made))
        assert exported(house_of(there)) == first
        got = there.samples(there.find("notes"))
        assert got == [replace(sample, engine=IMPORTED) for sample, _ in made]
        again = material_files.import_(house_of(here), "notes", "-", RecipeOptions(), io.BytesIO(first.encode()))
        assert (again.samples, again.known) == (0, len(made))  # what km wrote is not doubled either


keys = st.sampled_from(["prompt", "response", "task", "context", "score", "seed"])
objects = st.dictionaries(keys, texts | st.none() | st.floats() | st.integers(), max_size=6)
files = st.lists(objects, max_size=3).map(lambda lines: "\n".join(map(json.dumps, lines)).encode())


@settings(max_examples=25)
@given(st.binary(max_size=60) | files)
def test_any_bytes_are_imported_whole_or_refused_by_line(data: bytes) -> None:
    data = data.replace(b'{"', b'{"context": "The mill.", "')  # without a chunk a line would be searched for
    with tempfile.TemporaryDirectory() as folder, Library.open(Path(folder)) as library:
        document = added(library)
        report, refused = None, ""
        try:
            report = material_files.import_(house_of(library), "notes", "-", RecipeOptions(), io.BytesIO(data))
        except KmError as error:
            refused = error.message
        samples = len(library.samples(document))
        if report is None:
            assert refused.startswith("standard input ")
            assert samples == 0
        elif report.failed:
            assert all(failure.error.message.startswith("line ") for failure in report.failed)
            assert report.samples == samples == 0
        else:
            lines = [line for line in data.decode("utf-8-sig").split("\n") if line.strip()]
            assert report.samples == samples == len(lines) - report.known


# --- importing


def test_every_wrong_line_is_named_and_nothing_is_imported(house: House) -> None:
    right = {"prompt": "When?", "response": "In 1871.", "context": MILL}
    wrong: list[tuple[object, str]] = [
        ([], "is no JSON object."),
        ({"response": "x"}, "has no prompt."),
        ({**right, "response": " \n"}, "has an empty response."),
        ({**right, "prompt": 3}, "has a prompt that is no text."),
        ({**right, "seed": 1.5}, "has a seed that is no whole number."),
        ({**right, "score": float("nan")}, "has a score that is no number."),
        ({**right, "score": True}, "has a score that is no number."),
        ({**right, "chunk": 7}, "has the chunk 7: that must be a number from 0 to 0, or text."),
        ({**right, "chunk": [1]}, "has the chunk [1]: that must be a number from 0 to 0, or text."),
        ({"prompt": "Qwxyz?", "response": "Zyxwq!"}, "has no word in common with notes."),
    ]
    report = bring(house, right, *(line for line, _ in wrong))
    said = [failure.error.message for failure in report.failed]
    assert said == [f"line {number} {what}" for number, (_, what) in enumerate(wrong, 2)]
    assert (report.samples, material(house)) == (0, [])
    deep = material_files.import_(house, "notes", "-", RecipeOptions(), io.BytesIO(b"[" * 100_000))
    assert [failure.error.message for failure in deep.failed] == ["line 1 is no JSON."]


def test_a_chunk_is_named_by_number_hash_or_text_or_searched_for(house: House) -> None:
    # One chunk holds the whole text at the embedded base's size; smaller ones, to tell them apart.
    options = RecipeOptions(settings=("chunk_tokens=16", "chunk_overlap=0"))
    lines: list[dict[str, Any]] = [
        {"prompt": "a", "response": "b", "chunk": 0},
        {"prompt": "When did the mill burn?", "response": "1871"},
        {"prompt": "How long does the ferry need?", "response": "nine minutes", "task": "qa", "chunk": None},
        {"prompt": "c", "response": "d", "chunk": "It leaves at dawn."},
        {"prompt": "e", "response": "f", "context": MILL},
        {"prompt": "the dawn", "response": "g", "chunk": "0" * 64},
    ]
    data = "".join(json.dumps(line) + "\r\n\r\n" for line in lines).encode("utf-8-sig")
    report = material_files.import_(house, "notes", "-", options, io.BytesIO(data))
    assert (report.samples, report.known, report.searched, report.failed) == (6, 0, 3, ())
    shown = material_files.show(house, "notes").samples
    assert "mill" in shown[0].text
    assert "1871" in shown[1].text
    assert "nine minutes" in shown[2].text
    assert [one.text for one in shown[3:5]] == ["It leaves at dawn.", MILL]
    assert "dawn" in shown[5].text
    assert [one.sample.task for one in shown] == ["import", "import", "qa", "import", "import", "import"]
    assert [one.place and one.place.pages for one in shown][:5] == [(1, 1), (1, 1), (2, 2), (2, 2), (1, 1)]
    assert shown[0].sample.chunk_sha256 == text_hash(shown[0].text)
    by_hash = {"prompt": "h", "response": "i", "chunk": shown[0].sample.chunk_sha256}
    assert (bring(house, by_hash).searched, material_files.show(house, "notes").samples[6].text) == (0, shown[0].text)
    # Cut otherwise, the chunks are others; the lines are the same.
    again = material_files.import_(house, "notes", "-", RecipeOptions(), io.BytesIO(data))
    assert (again.samples, again.known) == (1, 5)  # number 0 is another chunk now
    assert house.library.work_log(house.library.find("notes")) == []


# --- training on it


class Words:
    """What `attach` needs of a loaded base: a token is a word."""

    def __init__(self, base: Base = BASE) -> None:
        self.base = base

    def tokenizer(self, text: str, add_special_tokens: bool) -> dict[str, list[str]]:
        return {"input_ids": text.split()}

    def chat_ids(self, turns: list[tuple[str, str]]) -> list[str]:
        return turns[0][1].split()


def cut(house: House, size: int) -> list[Chunk]:
    return chunk(house.library.text(house.library.find("notes")), size, 0.0, lambda text: len(text.split()))


def attached(house: House, size: int, base: Base = BASE) -> Attached:
    loaded: Any = Words(base)
    recipe = Recipe(model=base.name, revision=base.revision)
    return attach(house, house.library.find("notes"), loaded, recipe, cut(house, size))


def test_imported_samples_count_for_every_base_and_chunk_size(house: House) -> None:
    document = house.library.find("notes")
    bring(
        house,
        {"prompt": "When?", "response": "1871", "context": MILL},
        {"prompt": "Rebuilt?", "response": "never", "context": MILL},
        {"prompt": "Warum?", "response": "Darum.", "context": "It leaves at dawn."},
        {"prompt": "What leaves at dawn?", "response": "The ferry.", "context": "As another tool read it."},
        {"prompt": "Warum?", "response": "Darum.", "context": "As another tool read it."},
    )
    strangers = [Sample("x", "c" * 64, "qa", "Who?", "Ann", "hf", name, "r", 0) for name in ("other/base", "embedded")]
    own = replace(strangers[0], id="y", model=BASE.name, revision=BASE.revision)
    house.library.append_samples(document, [*strangers, own])
    assert usable(house.library.samples(document), Recipe(model=BASE.name, revision=BASE.revision))[-1] == own
    for size in (5, 6, 10, 40):
        by_hash = {one.sha256: one.text for one in cut(house, size)}
        fitted = attached(house, size)
        # And own, whose chunk training knows nothing of.
        assert (len(fitted.samples), fitted.strange, fitted.long) == (5, 1, 0)
        told = [by_hash[sample.chunk_sha256] for sample in fitted.samples[:4]]
        assert "1871" in told[0]
        assert "never" in told[1]
        assert "dawn" in told[2]
        assert "leaves at dawn" in told[3]
    short = replace(BASE, context=8)
    assert (attached(house, 6, short).long, len(attached(house, 6, short).samples)) == (2, 3)


def test_imported_samples_follow_the_text_when_it_changes(house: House) -> None:
    bring(house, {"prompt": "When?", "response": "In 1871.", "context": MILL})
    changed = PAGES.replace("The mill", "Long ago the old mill")
    assert house.library.add(Ingested("/notes.txt", "text", "notes", changed.encode(), changed, 2)).action == "updated"
    by_hash = {one.sha256: one.text for one in cut(house, 8)}
    fitted = attached(house, 8)
    assert [("1871" in by_hash[sample.chunk_sha256]) for sample in fitted.samples] == [True]
    events: list[Event] = []
    tell(replace(house, report=events.append), house.library.find("notes"), fitted)
    assert [event.message for event in events] == [
        "imported samples with the chunk of this recipe that fits them best: 1"
    ]


def test_a_recipe_may_ask_for_imported_material_alone() -> None:
    samples = [Sample(str(n), "c", "import", f"Question {n}?", "a", IMPORTED, "", "", 0) for n in range(200)]
    taught, held = split(samples, Recipe(tasks=("import",)))
    assert (len(taught) + len(held), 2 < len(held) < 25) == (200, True)


def test_a_knowledge_module_of_imported_material(km: Km, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text(NOTES)
    assert km("add", str(tmp_path / "notes.txt")).code == 0
    only = [word if word != "tasks=qa" else "tasks=import" for word in TINY]
    nothing = km("train", "notes", *only)
    assert (nothing.code, nothing.out) == (1, "")
    assert sentences(nothing.err)[-1] == (
        "km: there is no imported study material about notes that can be trained on. "
        "Import some: km synth notes --import FILE; or have it written: --set tasks=qa,summary"
    )
    lines = [
        {"prompt": f"Which thing number {n}?", "response": answer}
        for n, answer in enumerate(("Lumrick 40", "Stefan Grondal", "Taldrin", "Yara Kestrim"))
    ]
    file = tmp_path / "material.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = km("synth", "notes", "--import", str(file))
    assert (run.code, run.out) == (0, "notes: 4 samples imported\n")
    assert "4 of them named no chunk: each has the one that fits it best." in run.err
    assert "reads in the passage; with --objective sft, these answers." in run.err
    assert entry(km, "notes")["samples"] == {"import": 4}
    trained = km("train", "notes", *only, "--json")
    assert trained.code == 0, trained.err
    (report,) = trained.envelope["data"]["trained"]
    assert (report["written"], report["samples"]) == (0, 4)
    assert report["module"]["metrics"]["training_samples"] == 4
    assert "imported samples with the chunk of this recipe that fits them best: 4" in trained.envelope["messages"]


# --- on the command line


def test_show_export_import(km: Km, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text(PAGES.replace("\f", " "))
    assert km("add", str(tmp_path / "notes.txt")).code == 0
    none = km("synth", "notes", "--show")
    assert (none.code, none.out) == (3, "")
    assert sentences(none.err) == ["km: notes has no study material yet. Write some: km synth notes"]
    file = tmp_path / "in.jsonl"
    lines = [
        {"task": "qa", "prompt": f"When?{HOSTILE}", "response": "In 1871.\nOr so.", "context": MILL, "score": 4.5},
        {"prompt": "Rebuilt?", "response": "No.", "context": MILL},
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    assert km("synth", "notes", "--import", str(file)).code == 0
    assert km("synth", "notes", "--import", str(file)).out == "notes: 0 samples imported, 2 were there already\n"
    shown = km("synth", "notes", "--show")
    assert shown.out == (
        "1 of 2: qa, score 4.5\n"
        f"  chunk     {MILL}\n"
        f"  prompt    When?{SHOWN}\n"
        "  response  In 1871.\n            Or so.\n\n"
        f"2 of 2: import\n  chunk     {MILL}\n  prompt    Rebuilt?\n  response  No.\n"
    )
    data = km("synth", "notes", "--show", "--task", "qa", "--json").envelope["data"]
    (one,) = data["samples"]
    assert (one["task"], one["score"], one["chunk"], one["engine"]) == ("qa", 4.5, MILL, "import")
    assert (
        "has no study material of the task 'x'. It has qa, import." in km("synth", "notes", "--show", "--task", "x").err
    )
    out = tmp_path / "out.jsonl"
    out.write_text("old")
    run = km("synth", "notes", "--export", str(out))
    assert (run.code, run.out) == (0, f"{out}: 2 samples\n")
    assert km("synth", "notes", "--export", "-").out == out.read_text()
    first, second = map(json.loads, out.read_text().splitlines())
    assert first == {**lines[0], "chunk_sha256": text_hash(MILL), "seed": 0}
    assert second == {"task": "import", **lines[1], "chunk_sha256": text_hash(MILL), "seed": 0}
    file.write_text("{}\n[]\n")
    bad = km("synth", "notes", "--import", str(file), "--json")
    assert bad.code == 1
    assert [error["message"] for error in bad.envelope["errors"]] == [
        "line 1 has no prompt.",
        "line 2 is no JSON object.",
    ]
    assert bad.envelope["messages"] == ["Nothing was imported: mend 2 lines first."]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--show", "--export", "x"), 2, "--show and --export needs one document"),
        (("other", "--show"), 2, "--show needs one document"),
        (("--task", "qa"), 2, "--task goes with --show or --export."),
        (("--export", "-", "--json"), 2, "both write to standard output"),
        (("--export", "/nowhere/at/all"), 3, "there is no folder /nowhere/at."),
        (("--export", "/"), 2, "/ is a folder."),
        (("--import", "/nowhere.jsonl"), 3, "there is no file /nowhere.jsonl."),
    ],
)
def test_what_makes_no_sense(km: Km, house: House, words: tuple[str, ...], code: int, said: str) -> None:
    bring(house, {"prompt": "a", "response": "b", "context": MILL})
    run = km("synth", "notes", *words)
    assert run.code == code
    assert said in run.err + run.out


def test_a_terminal_gets_a_pager(house: House) -> None:
    bring(house, {"prompt": "When?", "response": "In 1871.", "context": MILL})
    code, shown = in_terminal(command("synth", "notes", "--show"), PAGER="sed s/^/paged:/")
    assert code == 0
    assert "paged:1 of 1: import, page 1\r\n" in shown
