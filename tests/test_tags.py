"""Tags: what they may be, how they are given and taken, and @TAG wherever several documents can be named."""

from __future__ import annotations

import dataclasses
import json
import resource
import sqlite3
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli_cases import Km, command, environment, in_terminal, runner
from kmcli.errors import NotFoundError, UsageError
from kmcli.library import Library, names
from kmcli.types import Event, Ingested, silent
from kmcli.workflows import documents, estimate, group, material, naming, study
from kmcli.workflows.house import House, open_house
from kmcli.workflows.material import RecipeOptions
from kmcli.workflows.task import Task


@pytest.fixture
def km(capsys: pytest.CaptureFixture[str]) -> Km:
    return runner(capsys)


def add(km: Km, folder: Path, **tags: str) -> None:
    """Documents of these names, each with its tags, given with blanks between them."""
    for name, given_tags in tags.items():
        (folder / f"{name}.txt").write_text(f"This is {name}.")
        options = [word for tag in given_tags.split() for word in ("--tag", tag)]
        assert km("add", str(folder / f"{name}.txt"), *options).code == 0


def tags(km: Km) -> dict[str, list[str]]:
    return {one["name"]: one["tags"] for one in km("ls", "--json").envelope["data"]}


def test_a_tag_is_one_visible_word_in_lower_case() -> None:
    assert [names.tag(one) for one in ("2024", "Contracts", "@Q3", " a/b ", "Straße", "報告", "ｆｕｌｌ")] == [
        "2024",
        "contracts",
        "q3",
        "a/b",
        "straße",
        "報告",
        "full",
    ]
    for wrong in (
        "",
        " ",
        "@",
        "two words",
        "a\tb",
        "a\x1b[31m",
        "a\u202eb",
        "a@b",
        "@@a",
        "x" * 61,
        "a\u00adb",
        "\ud800",
    ):
        with pytest.raises(UsageError, match="cannot be a tag"):
            names.tag(wrong)


@given(st.text(max_size=80))
def test_a_tag_that_is_taken_stays_as_it_is(text: str) -> None:
    try:
        tag = names.tag(text)
    except UsageError:
        return
    assert tag
    assert tag.isprintable()
    assert not any(char.isspace() for char in tag)
    assert names.tag(tag) == names.tag(f"@{tag}") == tag


def test_tags_are_given_when_adding_and_shown(km: Km, tmp_path: Path) -> None:
    add(km, tmp_path, report="Contracts 2024", handbook="", lease="contracts")
    assert tags(km) == {"handbook": [], "lease": ["contracts"], "report": ["contracts", "2024"]}
    shown = km("ls", "--tag", "CONTRACTS").out.splitlines()
    assert [line.split()[0] for line in shown] == ["NAME", "lease", "report"]
    assert shown[0].endswith("  TAGS")
    assert shown[2].endswith("  contracts, 2024")
    assert km("ls", "--tag", "@contracts").out.splitlines() == shown
    assert "  tags            contracts, 2024\n" in km("show", "report").out
    refused = km("add", str(tmp_path / "report.txt"), "--tag", "two words")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == (
        "km: 'two words' cannot be a tag. Use any characters but '@' and white space, 60 at most, such as two-words\n"
    )


def test_tags_are_added_and_removed(km: Km, tmp_path: Path) -> None:
    assert km("tag").err == "There are no tags. Next: km tag NAME --add TAG\n"
    add(km, tmp_path, report="draft", handbook="draft", lease="")
    run = km("tag", "report", "Lease", "--add", "Contracts", "--add", "@2024", "--remove", "DRAFT")
    assert run.out == "report  contracts, 2024\nlease   contracts, 2024\n"
    assert tags(km) == {"handbook": ["draft"], "lease": ["contracts", "2024"], "report": ["contracts", "2024"]}
    assert km("tag").out == "2024       2 documents\ncontracts  2 documents\ndraft      1 document\n"
    assert km("tag", "--json").envelope["data"] == {"2024": 2, "contracts": 2, "draft": 1}
    assert km("tag", "@contracts", "handbook", "--add", "all", "--remove", "contracts", "-q").code == 0
    assert tags(km) == {"handbook": ["draft", "all"], "lease": ["2024", "all"], "report": ["2024", "all"]}
    told = km("tag", "lease", "--remove", "2024", "--remove", "all", "--json").envelope["data"]
    assert [(one["name"], one["tags"]) for one in told] == [("lease", [])]
    assert km("tag", "lease", "--add", "all").code == 0
    assert km("tag", "lease", "--remove", "all").out == "lease  no tags\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("tag", "report"), 2, "say which documents, and what to do. For example: km tag report --add contracts"),
        (("tag", "--add", "x"), 2, "say which documents, and what to do. For example: km tag report --add contracts"),
        (("tag", "report", "--add", "x y"), 2, "'x y' cannot be a tag."),
        (("tag", "reprot", "--add", "x"), 3, "there is no document 'reprot'. Did you mean report?"),
        (("tag", "@contract", "--add", "x"), 3, "no document has the tag 'contract'. Did you mean contracts?"),
        (("tag", "report", "--remove", "zebra"), 3, "no document has the tag 'zebra'. The tags are contracts, old."),
        (("tag", "report", "--remove", "old"), 3, "none of these documents has the tag 'old'. km ls shows the tags."),
        (("rm", "--yes", "@contrakts"), 3, "no document has the tag 'contrakts'. Did you mean contracts?"),
        (("train", "@contrakts"), 3, "no document has the tag 'contrakts'. Did you mean contracts?"),
        (("synth", "@contrakts"), 3, "no document has the tag 'contrakts'. Did you mean contracts?"),
    ],
)
def test_what_cannot_be_done_is_said(km: Km, tmp_path: Path, words: tuple[str, ...], code: int, message: str) -> None:
    add(km, tmp_path, report="contracts", handbook="old")
    before = tags(km)
    run = km(*words)
    assert (run.code, run.out) == (code, "")
    assert run.err.startswith(f"km: {message}")
    assert tags(km) == before


def test_a_library_without_tags_says_how_to_make_some(km: Km, tmp_path: Path) -> None:
    add(km, tmp_path, report="")
    assert km("rm", "--yes", "@x").err == (
        "km: no document has the tag 'x'. Give it to some: km tag NAME... --add TAG\n"
    )


def test_names_and_tags_together_are_each_document_once(km: Km, tmp_path: Path) -> None:
    add(km, tmp_path, c="red", b="red", a="blue", d="")
    with Library.open(Path(open_home())) as library:
        found = lambda *words: [one.name for one in naming.find_all(library, words)]  # noqa: E731
        assert found("@red") == ["b", "c"]
        assert found("c", "@red", "C", "@BLUE") == ["c", "b", "a"]
        assert found() == []
        with pytest.raises(NotFoundError, match="no document 'e'"):
            found("@red", "e")


def open_home() -> str:
    from kmcli import config

    return str(config.home())


def test_tags_of_an_older_library_are_found_and_can_be_taken_away(km: Km, tmp_path: Path) -> None:
    add(km, tmp_path, report="")
    with sqlite3.connect(Path(open_home()) / "km.db") as database:
        database.execute("UPDATE documents SET tags = ?", (json.dumps(["Old Tag", "Thesis"]),))
        for what in (
            "TABLE tags",
            "TABLE changes",
            "TABLE kept",
            *(f"TRIGGER changed_by_{verb}" for verb in ("insert", "update", "delete")),
        ):
            database.execute(f"DROP {what}")
        database.execute("PRAGMA user_version = 3")
    database.close()
    assert km("ls", "--tag", "thesis").code == 0
    assert km("tag", "@old tag", "--remove", "old tag", "--add", "THESIS").out == "report  Thesis\n"


def test_rm_by_tag_asks_by_name_and_removes_those_alone(km: Km, tmp_path: Path) -> None:
    add(km, tmp_path, **{f"draft-{n}": "draft" for n in range(1, 12)}, report="")
    refused = km("rm", "@draft")
    assert refused.code == 2
    named = "draft-1, draft-10, draft-11, draft-2, draft-3, draft-4, draft-5, draft-6 and 3 other documents"
    assert refused.err == f"km: nobody can be asked here whether to remove {named}. Add --yes.\n"
    code, written = in_terminal(command("rm", "@draft"), "n\n", COLUMNS="200")
    assert f"Remove {named}? [y/N]" in written
    assert code == 0
    assert len(tags(km)) == 12
    assert km("rm", "--yes", "@draft", "-q").out.count("removed draft-") == 11
    assert list(tags(km)) == ["report"]


def test_what_takes_several_documents_takes_tags(km: Km, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which documents train, synth and its estimate are about."""
    add(km, tmp_path, b="red", a="red", c="")
    asked: list[tuple[str, list[str]]] = []

    def each(house: House, found: list[object], verb: str, work: object) -> tuple[list[object], list[object], None]:
        asked.append((verb, [one.name for one in found]))  # type: ignore[attr-defined]
        return [], [], None

    def write(self: group.Group, task: Task) -> None:
        asked.append(("train", [task.document.name]))

    for room in (material, estimate):
        monkeypatch.setattr(room, "each", each)
    monkeypatch.setattr(group.Group, "write", write)
    with open_house({"device": "cpu"}, silent) as house:
        study.train(house, ["@red"], False, RecipeOptions())
        material.synth(house, ["c", "@red"], RecipeOptions())
        estimate.estimate_synth(house, ["@red"], RecipeOptions())
    assert asked == [("train", ["a"]), ("train", ["b"]), ("synth", ["c", "a", "b"]), ("synth", ["a", "b"])]


def test_a_bad_tag_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    seen: list[Event] = []
    with open_house({}, seen.append) as house:
        with pytest.raises(UsageError, match="cannot be a tag"):
            documents.add(house, [str(tmp_path / "missing.txt")], None, ["a b"])
        assert seen == []
        one = house.library.add(Ingested("/x.txt", "text", "x", b"x", "x", None), tags=["one"]).document
        house.library.remove("x")
        with pytest.raises(NotFoundError, match="removed meanwhile"):
            house.library.retag(dataclasses.replace(one), ["two"], [])


def test_a_tag_may_stand_where_one_document_is_named(km: Km, tmp_path: Path) -> None:
    add(km, tmp_path, heron="birds", finch="birds small", ferry="")
    assert km("show", "@small", "--json").envelope["data"]["name"] == "finch"
    for words in (
        ("show", "@birds"),
        ("compare", "@birds"),
        ("mv", "@birds", "x"),
        ("synth", "@birds", "--show"),
        ("synth", "@birds", "--export", "-"),
    ):
        run = km(*words)
        assert run.code == 2, words
        assert run.err == ("km: @birds stands for 2 documents, and only one can be named here. km ls --tag @birds\n")
    assert km("mv", "@small", "goldfinch").code == 0
    assert sorted(tags(km)) == ["ferry", "goldfinch", "heron"]
    assert km("show", "@none").err.startswith("km: no document has the tag 'none'.")
    assert len(km("ls", "--tag", "@birds", "--json").envelope["data"]) == 2


def test_more_documents_than_files_may_be_open_go_at_once(km: Km, km_home: Path, tmp_path: Path) -> None:
    """Each is locked, and the usual limit of open files is low."""
    lines = (json.dumps({"id": f"d{number}", "text": f"This is {number}."}) for number in range(100))
    (tmp_path / "many.jsonl").write_text("\n".join(lines))
    assert km("add", str(tmp_path / "many.jsonl"), "--tag", "many").code == 0
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    run = subprocess.run(
        command("rm", "@many", "--yes"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard)),
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert tags(km) == {}
