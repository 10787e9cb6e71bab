"""What bad input comes to: one sentence, or the text; never a traceback, and nothing half added."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bad_input import CASES, SECRET, Case, always, pages, pdf
from cli_cases import Km, runner
from kmcli import ingest
from kmcli.errors import KmError, ResourceError
from kmcli.ingest import archives, html, kinds, plain, sources, text, worker
from kmcli.ingest.limits import Limits
from kmcli.ingest.task import Task
from kmcli.ingest.worker import Worker
from kmcli.library import Library
from kmcli.types import Event, silent
from kmcli.workflows import documents
from kmcli.workflows.house import open_house


class Added:
    """All of the cases, given to one `km add`."""

    def __init__(self, folder: Path) -> None:
        self.secret = folder / "secret.txt"
        self.secret.write_text(SECRET)
        (folder / "in").mkdir()
        for case in CASES:
            (folder / "in" / case.name).write_bytes(case.data(str(self.secret)))
        self.events: list[Event] = []
        with open_house({}, self.events.append) as house, pytest.MonkeyPatch.context() as patch:
            patch.setattr(worker, "_START", f"import sys; sys.modules['rapidocr'] = None; {worker._START}")
            report = documents.add(house, [str(folder / "in" / case.name) for case in CASES])
            self.texts = {Path(one.document.source).name: house.library.text(one.document) for one in report.added}
            self.problems = house.library.check()
            self.held = house.library.documents()
        self.errors = {Path(failure.source).name: failure.error for failure in report.failed}


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Added]:
    folder = tmp_path_factory.mktemp("bad")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KM_HOME", str(folder / "home"))
        yield Added(folder)


@pytest.mark.parametrize("case", CASES, ids=[ascii(case.name)[1:21] for case in CASES])
def test_the_sentence_or_the_text(added: Added, case: Case) -> None:
    assert (case.name in added.errors) == bool(case.sentence)
    if case.sentence:
        error = added.errors[case.name]
        assert error.message.replace(str(added.secret.parent / "in" / case.name), case.name) == case.sentence.replace(
            "FILE", case.name
        )
        assert error.hint
        assert error.exit_code == case.code
    else:
        assert added.texts[case.name] == case.text.replace("SECRET", str(added.secret))
        assert SECRET not in added.texts[case.name]


def test_nothing_is_half_added(added: Added) -> None:
    assert len(added.held) == len(added.texts) == len([case for case in CASES if not case.sentence])
    assert added.problems == []
    assert all(name.isprintable() and len(name) <= 60 for name in (one.name for one in added.held))


# --- what is no file


@pytest.fixture
def km(capsys: pytest.CaptureFixture[str]) -> Km:
    return runner(capsys)


def test_loops_pipes_and_devices(km: Km, tmp_path: Path, km_home: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "a.md").write_text("The heron waits.")
    (inside / "loop").symlink_to(inside)
    (inside / "loop.md").symlink_to(inside / "loop.md")
    os.mkfifo(inside / "pipe.md")
    run = km("add", str(inside))
    assert (run.code, len(run.out.splitlines())) == (0, 1)
    for source, sentence in (
        (inside / "loop.md", "cannot be read: Too many levels of symbolic links."),
        (inside / "pipe.md", "is not a regular file."),
        (Path("/dev/zero"), "is not a regular file."),
    ):
        run = km("add", str(source))
        assert run.out == ""
        assert f"{source} {sentence}" in run.err
        assert "Traceback" not in run.err
    with Library.open(km_home) as library:
        assert len(library.documents()) == 1


def test_what_is_no_file_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening alone makes some devices do something."""
    os.mkfifo(tmp_path / "pipe.md")
    monkeypatch.setattr(os, "open", lambda *given: pytest.fail(f"{given[0]} was opened"))
    with pytest.raises(KmError, match="is not a regular file"):
        sources.from_file(tmp_path / "pipe.md")


def test_a_pipe_that_takes_a_file_s_place_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "a.md")
    checks: list[int] = []
    regular = sources._regular

    def late(path: Path, mode: int) -> None:
        checks.append(mode)
        if len(checks) > 1:
            regular(path, mode)

    monkeypatch.setattr(sources, "_regular", late)
    waited: list[int] = []
    writer = threading.Timer(10, lambda: waited.append(os.open(tmp_path / "a.md", os.O_RDWR)))
    writer.start()
    with pytest.raises(KmError, match="not a regular file"):
        ingest.read(str(tmp_path / "a.md"))
    writer.cancel()
    assert waited == [], "nobody has to write before it ends"


def test_a_name_with_a_dash_before_it(km: Km, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-q.md").write_text("The heron waits.")
    assert km("add", "-z.md").code == 2
    run = km("add", "--", "-q.md")
    assert (run.code, run.out.split()[:2]) == (0, ["added", "q"])


# --- what takes too much


def parsed(name: str, data: bytes, one: Worker, **most: int) -> tuple[str, ingest.Extract]:
    return one.parse(Task(name, Path(name).suffix, Limits(**most)), data, silent)


def test_too_long_too_much_and_then_the_next(tmp_path: Path) -> None:
    with Worker() as one:
        with pytest.raises(KmError) as slow:
            parsed("slow.pdf", pages(5000), one, max_seconds=1)
        assert str(slow.value) == (
            "slow.pdf takes longer to read than 1 seconds. Split it, or allow more: km config set max_seconds 4"
        )
        with pytest.raises(ResourceError) as hungry:
            parsed("hungry.html", b"<p>a</p>" * 400_000, one, max_memory=150)
        assert str(hungry.value) == (
            "hungry.html takes more memory to read than 150 MB. Split it, or allow more: km config set max_memory 600"
        )
        assert one._child is None
        assert parsed("good.pdf", pdf("The heron waits."), one)[1].text == "The heron waits."
        child = one._child
        assert child is not None
        assert parsed("good.html", b"<p>The gull too.</p>", one)[1].text == "The gull too."
        assert one._child is child  # the same process, file after file
    assert child.returncode is not None


def test_a_parser_that_fails_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(child: object, *rest: object) -> tuple[dict[str, Any], bytes]:
        return {"fault": "KeyError", "ended": True}, b""

    monkeypatch.setattr(worker, "_exchange", fault)
    with Worker() as one, pytest.raises(KmError, match=r"^a.pdf cannot be read: its parser fails \(KeyError\)\. Open"):
        parsed("a.pdf", b"%PDF-", one)


def test_what_a_child_may_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for said in (
        {"kind": "../x", "pages": 1, "title": ""},
        {"kind": ["pdf"], "pages": 1, "title": ""},
        {"kind": "pdf", "pages": "1", "title": ""},
        {"kind": "pdf", "pages": 1, "title": ["a"]},
        {"error": "SystemExit", "message": "m.", "hint": "h"},
        {"error": [], "message": "m.", "hint": "h"},
        {"error": "KmError", "message": {"a": 1}, "hint": "h"},
    ):
        monkeypatch.setattr(worker, "_exchange", lambda *given, said=said: (said, b""))
        with Worker() as one, pytest.raises(KmError):
            parsed("a.pdf", b"%PDF-", one)
    with pytest.raises(worker._Gone):
        worker._event({"stage": "read", "command": "rm"})
    whole = dataclasses.asdict(Event("read", "page 3 is a picture", 1, 2, warning=True))
    assert worker._event(whole) == Event("read", "page 3 is a picture", 1, 2, warning=True)
    for odd in ({"message": 5}, {"stage": None}, {"done": "1"}, {"command": "rm"}, {"numbers": 3}):
        with pytest.raises(worker._Gone):
            worker._event({**whole, **odd})
    for odd in ([], None, "read"):
        with pytest.raises(worker._Gone):
            worker._event(odd)


def test_how_much_a_child_may_say() -> None:
    def said(head: bytes, body: int, text: bytes = b"text") -> tuple[dict[str, Any], bytes]:
        return worker._receive(Counted(worker._HEAD.pack(len(head), body) + head + text), 1000)

    assert said(b'{"a": 1}', 4) == ({"a": 1}, b"text")
    for head, body in ((b'{"a": 1}', 5), (b'{"a": 1}', 1 << 40), (b"[" * 100_000, 4), (b"[1]", 4), (b"\xff", 4)):
        with pytest.raises(worker._Gone):
            said(head, body)
    with pytest.raises(worker._Gone):
        worker._receive(Counted(worker._HEAD.pack(1 << 31, 0)))


class Counted(io.BytesIO):
    """Reads what is asked for, if that is not too much to ask."""

    def read(self, size: int | None = -1) -> bytes:
        assert size is not None
        assert 0 <= size < 1 << 20, "room for all of it would be made first"
        return super().read(size)


def test_plain_text_starts_no_process() -> None:
    with Worker() as one:
        for name in ("a.md", "a.txt", "README", "b.rst"):
            assert parsed(name, b"# The heron waits.", one)[1].text == "# The heron waits."
        assert one._child is None


def test_a_limit_is_raised_by_the_command_that_is_told(km: Km, tmp_path: Path) -> None:
    (tmp_path / "few.pdf").write_bytes(pages(3))
    assert km("config", "set", "max_pages", "2").code == 0
    refused = km("add", str(tmp_path / "few.pdf"))
    assert (refused.code, refused.out) == (1, "")
    command = refused.err.splitlines()[-1].rpartition("allow more: km ")[2]
    assert command == "config set max_pages 3"
    assert km(*command.split()).code == 0
    assert km("add", str(tmp_path / "few.pdf")).code == 0


# --- the guards

FEW = Case("few.pdf", always(pages(3)), "FILE has 3 pages, and km reads 2 of a file.")
GUARDS: list[tuple[str, object, str, Any]] = [
    ("few.pdf", Limits, "check_pages", lambda self, pages, name: None),
    ("bomb.docx", Limits, "check_expanded", lambda self, expanded, size, name: None),
    ("lying.docx", archives, "_unpack", lambda archive, name: None),
    ("entity.docx", archives, "xml", lambda data, name: None),
    ("scripts.html", html, "_NOT_TEXT", ()),
    ("entity.html", html, "_SUBSET", re.compile("(x)y")),
    ("controls.md", text, "_UNWANTED", re.compile("[\x00-\x08]")),
    ("nulls.txt", plain, "decode", lambda data, name: data.decode("latin-1")),
    ("utf16-no-mark.txt", plain, "_wide", lambda sample: ""),
    ("utf32.txt", plain, "_BOMS", plain._BOMS[3:]),
    ("picture.pdf", kinds, "_IMAGES", (b"GIF",)),
]


def outcome(case: Case) -> str:
    """Here, without a child, in which nothing can be patched."""
    try:
        task = Task("FILE", Path(case.name).suffix, Limits(max_pages=2))
        return ingest.parse(task, case.data("/x"), silent)[1].text
    except KmError as error:
        return error.message
    except Exception as error:  # noqa: BLE001  (without its guard a parser may do anything)
        return repr(error)


@pytest.mark.parametrize(("name", "where", "guard", "instead"), GUARDS, ids=[f"{one[0]}-{one[2]}" for one in GUARDS])
def test_each_guard_is_needed(
    monkeypatch: pytest.MonkeyPatch, name: str, where: object, guard: str, instead: object
) -> None:
    case = next(case for case in (FEW, *CASES) if case.name == name)
    assert outcome(case) == (case.sentence or case.text)
    monkeypatch.setattr(where, guard, instead)
    assert outcome(case) != (case.sentence or case.text)
