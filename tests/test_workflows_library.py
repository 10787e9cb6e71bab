"""add, ls, mv, rm, doctor, models and config, as a person runs them, on real files good and bad."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pypdf import PdfReader, PdfWriter

from cli_cases import Km
from kmcli import bases
from kmcli.errors import KmError
from kmcli.library import Library
from kmcli.types import silent
from kmcli.workflows import documents
from kmcli.workflows.house import open_house
from kmcli.workflows.setup import _cache
from workflow_cases import EXAMPLES, PERMITS, entry, files_below, is_sound, km, permits, sentences, trained_home

__all__ = ["km", "permits", "trained_home"]

HARBOUR = EXAMPLES / "harbour.pdf"


def encrypted(file: Path) -> None:
    writer = PdfWriter(clone_from=PdfReader(HARBOUR))
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(file)


# --- add


def test_one_bad_file_of_a_folder(km: Km, tmp_path: Path) -> None:
    folder = tmp_path / "papers"
    (folder / "inner").mkdir(parents=True)
    shutil.copy(HARBOUR, folder / "inner" / "harbour.pdf")
    (folder / "torn.pdf").write_bytes(HARBOUR.read_bytes()[:300])
    (folder / "permits.txt").write_text(PERMITS)
    run = km("add", str(folder))
    assert run.code == 6
    assert run.out == "added  harbour  pdf   2 pages  680 words\nadded  permits  text            31 words\n"
    assert len(sentences(run.err)) == 1
    assert sentences(run.err)[0].startswith(f"km: {folder}/torn.pdf: torn.pdf is a damaged PDF.")
    assert run.err.endswith("Next: km train --all\n")
    assert [one["name"] for one in km("ls", "--json").envelope["data"]] == ["harbour", "permits"]
    assert is_sound(km)


@pytest.mark.parametrize(
    ("name", "make", "code", "sentence"),
    [
        ("secret.pdf", encrypted, 1, "secret.pdf is encrypted. Open it with its password"),
        (
            "scan.pdf",
            lambda file: file.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99)),
            1,
            "scan.pdf is an image, not a PDF.",
        ),
        ("empty.txt", lambda file: file.write_bytes(b""), 1, "empty.txt is empty."),
        ("missing.pdf", lambda file: None, 3, "there is no file "),
        ("folder", lambda file: file.mkdir(), 3, "there is no document in "),
    ],
)
def test_what_cannot_be_added(
    km: Km, tmp_path: Path, name: str, make: Callable[[Path], object], code: int, sentence: str
) -> None:
    make(tmp_path / name)
    run = km("add", str(tmp_path / name))
    assert (run.code, run.out) == (code, "")
    assert len(sentences(run.err)) == 1
    assert sentence in run.err
    assert km("ls", "--json").envelope["data"] == []
    assert is_sound(km)


def test_name_of_what_is_here_already(km: Km, permits: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(permits, tmp_path / "copy.txt"))
    run = km("add", str(copy), "--name", "rules")
    assert (run.code, run.out) == (0, "unchanged  permits  text    31 words\n")
    assert "it is in the library already, as permits: km mv permits rules renames it\n" in run.err
    assert "already" not in km("add", str(copy), "--name", "Permits").err
    assert "already" not in km("add", str(copy)).err


def test_name_is_for_one(km: Km, permits: Path, tmp_path: Path) -> None:
    run = km("add", str(permits), str(tmp_path / "other.txt"), "--name", "x")
    assert (run.code, sentences(run.err)) == (
        2,
        ["km: --name names one document, and several were given. Add them without --name, or one by one."],
    )


def test_the_same_file_with_new_content(km: Km, permits: Path) -> None:
    id = entry(km, "permits")["id"]
    permits.write_text("Berth permits cost $80.")
    run = km("add", str(permits))
    assert run.out == "updated  permits  text    4 words\n"
    assert entry(km, "permits")["id"] == id
    assert is_sound(km)


# --- mv, rm


def test_mv(km: Km, permits: Path) -> None:
    assert km("mv", "permits", "Berths").out == "permits is now berths\n"
    assert entry(km, "BERTHS")["source"] == str(permits)
    assert sentences(km("mv", "berths", "a/b").err)[0].startswith("km: ")
    assert km("mv", "gone", "x").code == 3


def test_rm_leaves_the_persons_files(km: Km, trained_home: Path, permits: Path) -> None:
    notes = Path(entry(km, "notes")["source"])
    run = km("rm", "--yes", "notes", "permits", "NOTES")
    assert (run.code, run.out) == (0, "removed notes\nremoved permits\n")
    assert notes.exists()
    assert permits.exists()
    left = [name for name in files_below(trained_home) if not name.startswith(("km.", "locks/", "cache/revisions/"))]
    assert left == ["names"]
    assert is_sound(km)


def test_rm_is_all_or_nothing(km: Km, km_home: Path, permits: Path) -> None:
    other = permits.with_name("other.txt")
    other.write_text("The Kelvand is a ship.")
    km("add", str(other))
    assert km("rm", "--yes", "permits", "othr").code == 3
    with Library.open(km_home) as library, library.lock(library.find("permits"), "train"):
        run = km("rm", "--yes", "other", "permits")
    assert run.code == 1
    assert sentences(run.err)[0].startswith("km: permits is in use by km train (process ")
    assert [one["name"] for one in km("ls", "--json").envelope["data"]] == ["other", "permits"]


# --- doctor


def test_doctor_finds_and_repairs(km: Km, trained_home: Path) -> None:
    (samples,) = trained_home.glob("documents/*/samples.jsonl")
    whole = samples.read_bytes()
    samples.write_bytes(whole + b'{"id": "to')
    (module,) = trained_home.glob("modules/*")
    recipe = (module / "recipe.json").read_bytes()
    (module / "recipe.json").unlink()
    run = km("doctor")
    assert run.code == 1
    assert run.out.count("problem  library") == 2
    assert run.err == "2 problems found. km doctor --repair mends what it can.\n"
    run = km("doctor", "--repair")
    assert (run.code, run.err) == (0, "")
    assert run.out.count("ok       library") == 2
    assert (module / "recipe.json").read_bytes() == recipe
    assert samples.read_bytes() == whole
    assert is_sound(km)
    assert entry(km, "notes")["state"] == "fresh"


def test_doctor_on_a_lost_text(km: Km, trained_home: Path, tmp_path: Path) -> None:
    source = entry(km, "notes")["source"]
    (text,) = trained_home.glob("documents/*/text-*.md")
    text.unlink()
    lost = f"Add it again with: km add {source}"
    run = km("doctor", "--repair")
    assert run.code == 1
    assert lost in run.out
    assert sentences(km("ask", "notes", "Who founded Grondal Works?", "--method", "rag").err) == [
        f"km: the text of notes is missing or damaged on disk. {lost}"
    ]
    assert km("add", source).out.startswith("updated  notes")
    assert is_sound(km)
    assert entry(km, "notes")["state"] == "fresh"


def test_what_is_being_trained_is_neither_interrupted_nor_a_problem(km: Km, permits: Path, km_home: Path) -> None:
    with Library.open(km_home) as library:
        document = library.find("permits")
        library.begin_training(document, b"{}")
        assert entry(km, "permits")["state"] == "interrupted"
        assert km().out.splitlines()[2] == "  km train permits"
        with library.lock(document, "train"):
            assert entry(km, "permits")["state"] == "training"
            assert km().out.splitlines()[:3] == ["permits is being trained, by another km.", "", "  km ls"]
            run = km("doctor")
            assert (run.code, run.err) == (0, "")
            first = f"permits is in use by km train (process {os.getpid()}) and was not checked."
            assert run.out.splitlines()[0] == f"warning  library   {first}"
        with library.lock(document, "rm"):
            assert entry(km, "permits")["state"] == "interrupted"


@pytest.mark.parametrize(
    ("size", "shown"), [(0, "nothing"), (1_500, "1.5 kB"), (2_340_000, "2.3 MB"), (1_000_000_000, "1.0 GB")]
)
def test_doctor_on_the_size_of_a_cache(tmp_path: Path, size: int, shown: str) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(size)
    assert _cache("cache", tmp_path, "kept").message == f"{shown} in {tmp_path}, kept"


# --- models and config


def test_models_and_config_set_model(km: Km, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bases.EMBEDDED_FOLDER, tmp_path / "own"))
    here = [one for one in km("models", "--json").envelope["data"] if one["kind"] == "here"]
    assert [(one["name"], one["in_use"]) for one in here] == [("embedded", True)]
    assert km("config", "set", "model", str(folder)).code == 0
    used = [one for one in km("models", "--json").envelope["data"] if one["in_use"]]
    assert [(one["name"], one["note"], one["bytes"]) for one in used] == [
        (str(folder), "local folder", (folder / "model.safetensors").stat().st_size)
    ]
    assert km("config", "get", "model").out == f"{folder}\n"
    (folder / "config.json").unlink()
    run = km("doctor", "--json")
    assert run.code == 1
    assert [check["status"] for check in run.envelope["data"] if check["subject"] == "base"] == ["bad"]
    km("config", "unset", "model")
    assert km("config", "get", "model").out == "embedded\n"


def test_a_base_that_is_nowhere(km: Km) -> None:
    km("config", "set", "model", "org/never-downloaded")
    (used,) = [one for one in km("models", "--json").envelope["data"] if one["in_use"]]
    assert (used["path"], used["note"]) == (None, "not downloaded yet: the first use does it")
    assert "org/never-downloaded is not downloaded yet" in km("doctor").out


def test_verbs_raise_what_the_door_tells(km_home: Path) -> None:
    with open_house({}, silent) as house, pytest.raises(KmError, match="there is no document 'x'"):
        documents.show(house, "x")
