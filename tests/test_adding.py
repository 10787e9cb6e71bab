"""Many documents at once: read by several processes, in order, and written together."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli_cases import Km, runner
from kmcli import ingest
from kmcli.errors import KmError, ResourceError, UsageError
from kmcli.ingest import ahead, worker
from kmcli.ingest.limits import Limits
from kmcli.ingest.task import Task
from kmcli.library import Library, files
from kmcli.types import Event, Ingested, Reporter, silent
from kmcli.workflows import adding, documents
from kmcli.workflows.house import open_house
from library_material import contents, ingested


@pytest.fixture
def km(capsys: pytest.CaptureFixture[str]) -> Km:
    return runner(capsys)


@pytest.fixture
def library(km_home: Path) -> Library:
    with Library.open(km_home) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty documents, of which one cannot be read and two are the same."""
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(40):
        (texts / f"d{number:02}.md").write_text(f"This is text {number % 39}.")
    (texts / "d05.md").write_bytes(b"\x00\x01\x02")
    return texts


# --- reading ahead


def test_processes_read_in_order_what_one_would_have_read(folder: Path) -> None:
    sources = ingest.expand(str(folder))
    events: list[Event] = []
    with ahead.Ahead(sources, events.append, 2, Limits()) as reading:
        found = [reading.read() for _ in sources]
    for source, one in zip(sources, found, strict=True):
        if source.endswith("d05.md"):
            with pytest.raises(KmError) as refused:
                ingest.read(source)
            assert isinstance(one, KmError)
            assert str(one) == str(refused.value)
        else:
            assert one == ingest.read(source)


def test_what_a_reader_reports_is_reported_here(tmp_path: Path) -> None:
    from fpdf import FPDF

    pdf = FPDF()
    pdf.add_page()
    pdf.set_font("helvetica")
    pdf.cell(text="The heron waits.")
    pdf.output(str(tmp_path / "one.pdf"))
    here: list[Event] = []
    ingest.read(str(tmp_path / "one.pdf"), report=here.append)
    there: list[Event] = []
    with ahead.Ahead([str(tmp_path / "one.pdf")], there.append, 1, Limits()) as reading:
        reading.read()
    assert there == here


def test_a_file_that_ends_its_process_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "bad", "c", "d"):
        (tmp_path / f"{name}.txt").write_text(f"This is {name}.")
    exchange = worker._exchange

    def killing(child: subprocess.Popen[bytes], task: Task, data: bytes, report: Reporter) -> object:
        if task.name == "bad.txt":  # as a fault in a parser's C code would
            child.kill()
            child.wait()
        return exchange(child, task, data, report)

    monkeypatch.setattr(worker, "_exchange", killing)
    with ahead.Ahead(ingest.expand(str(tmp_path)), silent, 2, Limits()) as reading:
        found = [reading.read() for _ in range(4)]
    assert [one.text if isinstance(one, Ingested) else str(one) for one in found] == [
        "This is a.",
        "bad.txt ended the process that read it. Is there enough memory? Else convert it elsewhere.",
        "This is c.",
        "This is d.",
    ]


def test_a_few_files_are_read_by_this_process() -> None:
    assert ahead.processes_for(["x"] * (ahead.WORTH - 1)) == 0
    count = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    assert ahead.processes_for(["x"] * ahead.WORTH) == (min(ahead.MOST, count) if count > 1 else 0)


@pytest.mark.parametrize("processes", [0, 2])
def test_a_folder_is_added_the_same_by_any_number_of_processes(
    km: Km, folder: Path, km_home: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    monkeypatch.setattr(ahead, "processes_for", lambda sources: processes)
    monkeypatch.setattr(adding, "TOGETHER", 7)
    events: list[Event] = []
    with open_house({}, events.append) as house:
        report = documents.add(house, [str(folder)], tags=["Papers"])
    assert [one.document.name for one in report.added] == [f"d{number:02}" for number in range(39) if number != 5] + [
        "d00"
    ]
    assert [one.action for one in report.added] == ["added"] * 38 + ["unchanged"]
    assert [failure.source for failure in report.failed] == [str(folder / "d05.md")]
    bars = [(one.done, one.total) for one in events if one.stage == "add"]
    assert bars == [(done, 40) for done in range(41)]
    with Library.open(km_home) as library:
        assert [one.tags for one in library.documents()] == [("papers",)] * 38
        assert library.text(library.find("d07")) == "This is text 7."
        assert library.check() == []
    run = km("add", str(folder))
    assert run.code == 6
    assert run.out.count("unchanged") == 39


# --- writing together


def many(*names: str) -> list[Ingested]:
    return [ingested(f"About {name}.", f"/books/{name}.txt", name) for name in names]


def test_what_became_of_many_is_counted(km: Km, folder: Path) -> None:
    run = km("add", str(folder))
    assert (run.code, len(run.out.splitlines())) == (6, 39)
    assert "38 added, 1 unchanged, 1 failed" in run.err.splitlines()


def test_new_documents_are_written_together_and_the_others_left(library: Library) -> None:
    library.add(*many("b"))
    made = library.add_new([*many("a", "b", "c", "a"), ingested("Other.", "/books/b.txt", "b")], ["Birds"])
    assert [one and (one.document.name, one.action) for one in made] == [
        ("a", "added"),
        None,
        ("c", "added"),
        None,
        None,
    ]
    assert [(one.name, one.tags) for one in library.documents()] == [("a", ("birds",)), ("b", ()), ("c", ("birds",))]
    assert (library.home / "names").read_text() == "b\na\nc\n@birds\n"
    assert library.text(library.find("c")) == "About c."
    assert library.check() == []
    assert library.add_new(many("a")) == [None]


def test_all_are_there_or_none(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(library.home)
    write = files.write

    def full(path: Path, data: bytes, synced: bool = True) -> None:
        if b"About c" in data:
            raise OSError(28, "No space left on device")
        write(path, data, synced)

    with monkeypatch.context() as patched:
        patched.setattr(files, "write", full)
        with pytest.raises(ResourceError, match="no space left"):
            library.add_new(many("a", "b", "c"))
    with pytest.raises(UsageError):
        library.add_new(many("a", "b"), ["no tag"])
    assert library.documents() == []
    assert contents(library.home) == before
    assert library.check() == []


def test_where_writing_together_fails_each_says_why(km_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    single: Callable[..., object] = Library.add

    def refuse(self: Library, one: Ingested, *rest: object) -> object:
        if one.suggested_name == "b":
            raise ResourceError("it is too large.")
        return single(self, one, *rest)

    def none(self: Library, batch: object, tags: object = ()) -> object:
        raise ResourceError("no.")

    monkeypatch.setattr(Library, "add", refuse)
    monkeypatch.setattr(Library, "add_new", none)
    with open_house({}, silent) as house:
        intake = adding.Intake(house, None, [], None)
        for one in many("a", "b", "c"):
            intake.take(one.source, one)
        intake.flush()
    assert [one.document.name for one in intake.added] == ["a", "c"]
    assert [(one.source, str(one.error)) for one in intake.failed] == [("/books/b.txt", "it is too large.")]
