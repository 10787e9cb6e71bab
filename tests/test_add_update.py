"""`km add --update`: another file becomes a document's text."""

from __future__ import annotations

from pathlib import Path

from cli_cases import Km
from kmcli.library import Library
from workflow_cases import entry, is_sound, km, sentences

__all__ = ["km"]


def test_update_takes_one_file_that_is_no_other_document(km: Km, km_home: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(f"This is text {name}.")
        assert km("add", str(tmp_path / f"{name}.txt"), "--tag", name).code == 0
    identity = entry(km, "one")["id"]
    run = km("add", "--update", "one", str(tmp_path / "two.txt"))
    assert (run.code, sentences(run.err)) == (
        2,
        [
            f"km: {tmp_path / 'two.txt'}: that is in the library already, as two. "
            "To make it the text of one, remove that one first: km rm two"
        ],
    )
    (tmp_path / "three.md").write_text("# This is text three.")
    for words in (["--name", "new"], [str(tmp_path / "two.txt")]):
        assert km("add", "--update", "one", str(tmp_path / "three.md"), *words).code == 2
    assert km("add", "--update", "none", str(tmp_path / "three.md")).code == 3
    assert entry(km, "one")["source"] == str(tmp_path / "one.txt")
    run = km("add", "--update", "one", str(tmp_path / "three.md"), "--json")
    assert [one["action"] for one in run.envelope["data"]] == ["updated"]
    shown = entry(km, "one")
    assert (shown["id"], shown["source"], shown["kind"], shown["tags"]) == (
        identity,
        str(tmp_path / "three.md"),
        "markdown",
        ["one"],
    )
    with Library.open(km_home) as library:
        assert library.text(library.find("one")) == "# This is text three."
    run = km("add", "--update", "one", str(tmp_path / "three.md"), "--json")
    assert [one["action"] for one in run.envelope["data"]] == ["unchanged"]
    (tmp_path / "three.md").write_text("# This is text four.")
    assert km("add", str(tmp_path / "three.md")).out.startswith("updated  one")
    assert is_sound(km)
