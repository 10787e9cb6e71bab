"""kmcli.open(): the verbs from Python, on a small trained library."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import ast
import inspect
import json
import pydoc
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

import kmcli
from cli_cases import environment
from kmcli.api import Km
from kmcli.bases import EMBEDDED_NOTICE
from kmcli.cli.app import grouped
from kmcli.cli.boundary import tree
from kmcli.errors import KmError, NotFoundError, PartlyDone, UsageError
from kmcli.types import Event
from training_cases import one_thread
from workflow_cases import NOTES, PERMITS, trained_home

COST = "How much does Lumrick 40 cost?"
ELSEWHERE = {"man", "completion"}
"""Verbs that are for people at a terminal alone."""


def test_help_and_type_checkers_see_what_is_returned() -> None:
    assert inspect.signature(kmcli.open).return_annotation == "Km"
    assert "-> 'Km'" in pydoc.plain(pydoc.render_doc(kmcli.open))
    assert (Path(kmcli.__file__).parent / "py.typed").exists()
    methods = [one for name, one in inspect.getmembers(Km, callable) if not name.startswith("_")]
    assert len(methods) > 25
    for method in (kmcli.open, *methods):
        names = vars(sys.modules[inspect.unwrap(method).__module__]) | _of_checkers(inspect.unwrap(method).__module__)
        told = get_type_hints(method, globalns=names)  # NameError: a type that nobody imports
        assert "return" in told, method.__name__


def _of_checkers(module: str) -> dict[str, object]:
    """What a module imports for type checkers alone."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    blocks = [one for one in tree.body if isinstance(one, ast.If) and ast.unparse(one.test) == "TYPE_CHECKING"]
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(ast.Module(block.body, []), module, "exec"), names)
    return names


def test_import_and_open_are_light(tmp_path: Path) -> None:
    script = (
        "import sys, kmcli\n"
        "before = set(sys.modules)\n"
        f"km = kmcli.open({str(tmp_path / 'library')!r})\n"
        "print(km.ls(), km.home)\n"
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'typer', 'rich', 'llama_cpp'} & set(sys.modules)\n"
        "print(sorted(heavy), 'kmcli.api' in before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment())
    assert done.stdout.splitlines() == [f"[] {tmp_path / 'library'}", "[] False"], done.stderr


def test_every_verb_is_a_method_with_a_docstring() -> None:
    verbs = [name for verbs in grouped(tree()).values() for name in verbs if name not in ELSEWHERE]
    methods = {name: method for name, method in inspect.getmembers(Km) if not name.startswith("_")}
    missing = [
        verb
        for verb in verbs
        if not {verb, f"{verb}_", f"{verb}_train", {"config": "settings"}.get(verb, verb)} & set(methods)
    ]
    assert missing == []
    assert [name for name, method in methods.items() if not inspect.getdoc(method)] == []


def test_type_checkers_are_told_that_it_is_typed() -> None:
    assert (Path(kmcli.__file__).parent / "py.typed").is_file()
    for name, method in inspect.getmembers(Km, inspect.isfunction):
        if not name.startswith("_"):
            assert set(inspect.signature(method).parameters) - {"self"} <= set(method.__annotations__) - {"return"}, (
                name
            )
            assert "return" in method.__annotations__, name


def test_every_method_stands_in_the_page() -> None:
    page = (Path(__file__).parents[1] / "docs" / "python.md").read_text("utf-8")
    public = [name for name in dir(Km) if not name.startswith("_") and name not in ("close", "home")]
    assert [name for name in public if f"km.{name}" not in page] == []
    verbs = [name for verbs in grouped(tree()).values() for name in verbs if name not in ELSEWHERE]
    assert [verb for verb in verbs if f"| `km {verb}`" not in page] == []


def test_the_parameters_in_the_page_are_those_of_the_methods() -> None:
    page = (Path(__file__).parents[1] / "docs" / "python.md").read_text("utf-8")
    rows = [line.split("|")[2] for line in page.splitlines() if line.startswith("| `km ")]
    calls = [call for row in rows for call in row.split("`")[1::2] if call.endswith(")") and "..." not in call]
    assert len(calls) > 20
    for call in calls:
        name, _, given = call.removeprefix("km.").rstrip(")").partition("(")
        parameters = inspect.signature(getattr(Km, name)).parameters
        known = {f"*{one}" if parameters[one].kind is inspect.Parameter.VAR_POSITIONAL else one for one in parameters}
        assert {word for word in given.split(", ") if word} <= known, call


def test_ask_chat_compare(trained_home: Path, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"question": COST, "answers": ["$185"]}) + "\n")
    pieces: list[str] = []
    with kmcli.open(engine="hf") as km:
        reply = km.ask(COST, "notes", on_text=pieces.append)
        assert (reply.text, reply.answered, reply.method) == ("$185", True, "km")
        assert "".join(pieces).strip() == str(reply) == "$185"
        assert reply.prompt_tokens > 0
        assert reply.evidence[0].document == "notes"
        assert "Lumrick 40 costs $185." in reply.evidence[0].text
        assert reply.supported is True
        everywhere = km.ask(COST)
        assert [document.name for document in everywhere.documents] == ["notes"]
        assert everywhere.routed is not None
        nobody = km.ask("Who was crowned in Zanzibar?")
        assert (nobody.answered, nobody.method, nobody.documents) == (False, None, ())
        rows = km.ask_each(COST, "notes").rows
        assert [row.answer.text for row in rows if row.answer] == ["$185"]
        with km.chat("notes") as chat:
            assert chat.ask(COST).turn.answer.text == "$185"
        compared = km.compare("notes", questions, methods=["bare", "km"])
        assert [(row.key, row.exact_match.mean) for row in compared.rows if row.exact_match] == [
            ("bare", 0.0),
            ("km", 1.0),
        ]
        assert km.search("signal lamp", k=1)[0].document == "notes"
        with pytest.raises(UsageError, match="empty"):
            km.ask(" ", "notes")


def test_giving(trained_home: Path, tmp_path: Path) -> None:
    other = tmp_path / "permits.txt"
    other.write_text(PERMITS)
    with kmcli.open() as km:
        report = km.export(format="peft", out=tmp_path / "adapter", check=False)
        assert (report.chosen, report.checked, report.exported.path) == (True, None, tmp_path / "adapter")
        with pytest.warns(UserWarning, match="trained on another text than that of permits"):
            taken = km.import_(tmp_path / "adapter", str(other))
        assert (taken.document.name, taken.added, taken.card) == ("permits", True, False)
        assert [(entry.document.name, entry.module is not None) for entry in km.ls()] == [
            ("notes", True),
            ("permits", True),
        ]
        assert km.material("notes").samples[0].sample.task in ("qa", "summary")
        assert list(km.extractor_ls()) == []
        with pytest.raises(NotFoundError):
            km.extractor_rm("none")
        with pytest.raises(UsageError, match="there is no API key"):
            km.serve("0.0.0.0")
        with pytest.raises(UsageError, match="no benchmark"):
            km.eval("quiz", tmp_path)


def test_documents(tmp_path: Path) -> None:
    first, second = tmp_path / "notes.txt", tmp_path / "permits.txt"
    first.write_text(NOTES)
    second.write_text(PERMITS)
    with kmcli.open(tmp_path / "home") as km:
        added = km.add(first, second, tags=["port"])
        assert [(one.document.name, one.action) for one in added] == [("notes", "added"), ("permits", "added")]
        assert [one.action for one in km.add(first)] == ["unchanged"]
        notes = added[0].document
        assert km.mv(notes, "works").name == "works"
        assert km.tags() == {"port": 2}
        assert [one.tags for one in km.tag("@port", remove=["port"], add=["town"])] == [("town",), ("town",)]
        assert [(entry.document.name, entry.state) for entry in km.ls(tag="town")] == [
            ("permits", "untrained"),
            ("works", "untrained"),
        ]
        assert km.show("works").entry.document.words == notes.words
        assert km.settings["model"].origin == "default"
        assert {check.subject for check in km.doctor()} >= {"library", "base", "disk"}
        assert km.models()[0].name == "embedded"
        assert [one.name for one in km.rm("@town")] == ["permits", "works"]
        assert km.home == tmp_path / "home"
        assert km.ls() == []


def test_failures(tmp_path: Path) -> None:
    good = tmp_path / "notes.txt"
    good.write_text(NOTES)
    km = kmcli.open()
    with pytest.raises(NotFoundError) as alone:
        km.add(tmp_path / "none.txt")
    assert alone.value.exit_code == 3
    with pytest.raises(PartlyDone, match=r"none\.txt") as some:
        km.add(tmp_path / "none.txt", good)
    assert some.value.exit_code == 6
    assert [entry.document.name for entry in km.ls()] == ["notes"]
    with pytest.raises(KmError, match=r"and 1 more failed"):
        km.add(tmp_path / "none.txt", tmp_path / "nothing.txt")
    with pytest.raises(UsageError, match="a recipe has no 'genrations'") as wrong:
        km.train("notes", settings={"genrations": 3})
    assert wrong.value.hint == "Did you mean generations?"
    with pytest.raises(NotFoundError, match="no Knowledge Module"):
        km.export("notes")
    km.close()
    km.close()
    with pytest.raises(UsageError, match="closed"):
        km.ls()
    with pytest.raises(UsageError, match="'fast' is no value for 'preset'"):
        kmcli.open(preset="fast")


def test_what_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text(NOTES)
    events: list[Event] = []
    with kmcli.open(on_event=events.append) as km:
        km.add(file)
    assert [event.message for event in events if event.stage == "base"] == [EMBEDDED_NOTICE]
    with kmcli.open() as km:
        quiet = km.settings["preset"]
        assert (quiet.value, quiet.origin) == ("standard", "default")
        from kmcli.api.given import warn

        warn(Event("train", "", 1, 2))
        with pytest.warns(UserWarning, match="page 3 is damaged"):
            warn(Event("read", "page 3 is damaged", warning=True))


def test_settings_become_text() -> None:
    from kmcli.api.given import recipe_options

    options = recipe_options("quick", None, {"exam": False, "tasks": ["qa", "summary:2"], "rank": 8, "dropout": 0.05})
    assert options.preset == "quick"
    assert list(options.settings) == ["exam=false", "tasks=qa,summary:2", "rank=8", "dropout=0.05"]
