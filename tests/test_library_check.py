"""check(): each kind of damage is found, said in one sentence, and mended where nothing has to be guessed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kmcli.library import Finding, Library
from kmcli.types import Document
from library_material import age, contents, ingested, sample, train

REPAIR = "km doctor --repair mends this."
Damage = Callable[[Library, Document], object]


@pytest.fixture
def library(km_home: Path) -> Library:
    with Library.open(km_home) as opened:
        yield opened


@pytest.fixture
def document(library: Library) -> Document:
    document = library.add(ingested()).document
    library.append_samples(document, [sample(1), sample(2)])
    train(library, document)
    return document


def folder(library: Library, document: Document) -> Path:
    return library.source_file(document).parent


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as stream:
        stream.write(data)


def leave_finished_workspace(library: Library, document: Document) -> None:
    note = library.workspace(document) / "run.json"
    note.touch()
    age(note, seconds=60)


def test_a_healthy_library_has_no_findings(library: Library, document: Document) -> None:
    library.begin_training(document, b"{}")
    (library.workspace(document) / "checkpoint").touch()
    before = contents(library.home)
    assert library.check() == []
    assert library.check(repair=True) == []
    assert contents(library.home) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lib, doc: append(folder(lib, doc) / "samples.jsonl", b'{"id'), "the last line of the study material"),
        (lambda lib, doc: append(folder(lib, doc) / "samples.jsonl", b'{}\n{"'), "is damaged in 1 of its lines"),
        (lambda lib, doc: (folder(lib, doc) / "text-000.md").touch(), "left over from an update"),
        (lambda lib, doc: (folder(lib, doc) / ".0f.tmp").touch(), "left over from an update"),
        (leave_finished_workspace, "heron has files left over from a training that is over"),
        (lambda lib, doc: (lib.workspace(doc) / "checkpoint").touch(), "files left over from a training that is over"),
        (
            lambda lib, doc: (lib.module(doc).path / "recipe.json").unlink(),
            "recipe.json of the Knowledge Module of heron",
        ),
        (lambda lib, doc: (lib.module(doc).path / "metrics.json").write_text("{}"), "metrics.json of the Knowledge"),
    ],
)
def test_what_can_be_mended_is_mended(library: Library, document: Document, damage: Damage, message: str) -> None:
    before = contents(library.home)
    damage(library, document)
    (found,) = library.check()
    assert message in found.message
    assert (found.hint, found.repaired) == (REPAIR, False)
    assert library.check() == [found]  # looking changes nothing
    assert library.check(repair=True) == [Finding(found.message, "", repaired=True)]
    assert library.check() == []
    assert contents(library.home) == before
    assert library.samples(document) == [sample(1), sample(2)]
    assert library.state(document) == "fresh"


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda lib, doc: lib.source_file(doc).unlink(), "the source of heron is missing on disk."),
        (lambda lib, doc: lib.source_file(doc).write_bytes(b"?"), "the source of heron is damaged on disk."),
        (lambda lib, doc: next(folder(lib, doc).glob("text-*")).unlink(), "the text of heron is missing on disk."),
        (lambda lib, doc: append(next(folder(lib, doc).glob("text-*")), b"!"), "the text of heron is damaged on disk."),
    ],
)
def test_lost_contents_need_the_source_again(
    library: Library, document: Document, damage: Damage, problem: str
) -> None:
    damage(library, document)
    finding = Finding(problem, "Add it again with: km add /books/Heron.txt", repaired=False)
    assert library.check(repair=True) == [finding]
    assert library.add(ingested()).action == "updated"
    assert library.check() == []
    assert library.state(document) == "fresh"


def test_a_folder_that_is_gone_altogether(library: Library, document: Document) -> None:
    shutil.rmtree(folder(library, document))
    assert [finding.message for finding in library.check()] == ["the text of heron is missing on disk."]
    library.add(ingested())
    assert library.check() == []


def test_a_module_without_weights_is_forgotten_and_kept_aside(library: Library, document: Document) -> None:
    module = library.module(document)
    (module.path / "adapter_model.safetensors").unlink()
    (found,) = library.check()
    assert found.message == "the Knowledge Module of heron has lost its weights."
    assert found.hint.endswith("km train heron")
    assert [(finding.message, finding.repaired) for finding in library.check(repair=True)] == [
        (found.message, True),
        (f"{module.path} belongs to no document.", True),
    ]
    assert library.state(document) == "untrained"
    assert library.check() == []


def test_orphans_are_set_aside_not_deleted(library: Library, document: Document) -> None:
    """A database that was lost makes orphans of everything; a repair must not finish the job."""
    kept = contents(folder(library, document))
    module = library.module(document)
    weights = (module.path / "adapter_model.safetensors").read_bytes()
    library.close()
    for file in library.home.glob("km.db*"):
        file.unlink()
    with Library.open(library.home) as emptied:
        found = emptied.check()
        assert [finding.message for finding in found] == [
            f"{folder(library, document)} belongs to no document.",
            f"{module.path} belongs to no document.",
            "the names that a shell completes are not those of the documents.",
        ]
        assert all(str(library.home / "lost") in finding.hint for finding in found[:2])
        assert [finding.repaired for finding in emptied.check(repair=True)] == [True, True, True]
        assert emptied.check() == []
    (lost_document,) = (library.home / "lost").glob(f"documents-{document.id}-*")
    (lost_module,) = (library.home / "lost").glob(f"modules-{module.id}-*")
    assert contents(lost_document) == kept
    assert (lost_module / "adapter_model.safetensors").read_bytes() == weights


def test_a_damaged_database_is_a_finding(library: Library, document: Document) -> None:
    for n in range(40):
        library.add(ingested(f"text {n}", f"/{n}", "x" * 50))
    library.close()
    path = library.home / "km.db"
    data = bytearray(path.read_bytes())
    root = 4096  # the second page is the first table's
    data[root : root + 200] = b"\xff" * 200
    path.write_bytes(data)
    with Library.open(library.home) as damaged:
        findings = damaged.check(repair=True)
    assert findings
    assert "database" in findings[0].message
    assert "Restore" in findings[0].hint
    assert not any(finding.repaired for finding in findings)
