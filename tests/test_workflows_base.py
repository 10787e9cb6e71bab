"""The embedded base has a name and a version: where km shows them, and what it says when km has come with another one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from base_cases import rewrite
from cli_cases import Km
from kmcli import bases
from kmcli.cli.boundary import main
from kmcli.errors import KmError
from kmcli.workflows import group
from kmcli.workflows.task import Task
from workflow_cases import PERMITS, TINY, entry, km, permits, sentences
from written_once import written_once

__all__ = ["km", "permits", "written_once"]

Release = Callable[[str, str], str]
FOLDER = bases.EMBEDDED_FOLDER
FORCED = (*TINY, "--force")
"""However well these weights can read: here it matters which ones they are."""


def make_version(folder: Path, weights: float, version: str) -> Path:
    """The embedded base as another version of it, with other weights."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(FOLDER, folder)
    for file in folder.glob("*.safetensors"):
        tensors = {name: tensor * (1 + 0.01 * weights) for name, tensor in load_file(file).items()}
        file.unlink()
        save_file(tensors, file, {"format": "pt"})
    rewrite(folder / "card.json", name="km-base", version=version)
    return folder


@pytest.fixture(scope="module")
def first_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with `permits` trained on km-base 0, which lies in the folder beside it."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "permits.txt").write_text(PERMITS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bases, "EMBEDDED_FOLDER", make_version(folder / "base", 0, "0"))
        patch.setenv("KM_HOME", str(folder / "home"))
        assert main(["add", "-q", str(folder / "permits.txt")]) == 0
        assert main(["train", "-q", "permits", *FORCED]) == 0
    return folder / "home"


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Release:
    """Lets km come with other weights from now on, under a version, and gives their revision."""

    def made(weights: str, version: str) -> str:
        folder = make_version(tmp_path / f"base-{weights}", float(weights), version)
        monkeypatch.setattr(bases, "EMBEDDED_FOLDER", folder)
        return bases.describe(bases.EMBEDDED, folder).revision

    return made


@pytest.fixture
def trained(km_home: Path, first_library: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """`permits` trained on km-base 0, with which km comes. Its revision."""
    shutil.copytree(first_library, km_home)
    folder = first_library.parent / "base"
    monkeypatch.setattr(bases, "EMBEDDED_FOLDER", folder)
    return bases.describe(bases.EMBEDDED, folder).revision


@pytest.fixture
def outdated(trained: str, release: Release) -> str:
    """The same, and km has come with km-base 1 since. The revision of km-base 0."""
    release("1", "1")
    return trained


def test_models_shows_name_and_version(km: Km, release: Release) -> None:
    card = json.loads((bases.EMBEDDED_FOLDER / "card.json").read_text("utf-8"))
    (shown,) = [one for one in km("models", "--json").envelope["data"] if one["kind"] == "here"]
    assert (shown["name"], shown["title"], shown["version"]) == ("embedded", "km-base", card["version"])
    revision = release("2", "7.5")
    lines = km("models").out.splitlines()
    assert [line.split() for line in lines[:1]] == [["NAME", "VERSION", "SIZE", "NOTE"]]
    assert lines[1].split()[:4] == ["*", "embedded", "km-base", "7.5"]
    assert f"embedded, km-base 7.5, revision {revision}" in km("doctor").out


def test_a_folder_without_a_card_has_no_version(km: Km, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bases.EMBEDDED_FOLDER, tmp_path / "own"))
    for content in (None, "{damaged", "[]"):
        (folder / "card.json").unlink(missing_ok=True)
        if content:
            (folder / "card.json").write_text(content)
        km("config", "set", "model", str(folder))
        (used,) = [one for one in km("models", "--json").envelope["data"] if one["in_use"]]
        assert (used["name"], used["title"], used["version"]) == (str(folder), "", "")


def test_what_a_module_says_of_its_base(km: Km, trained: str) -> None:
    module = entry(km, "permits")["module"]
    assert (module["recipe"]["model"], module["recipe"]["base_label"]) == ("embedded", "km-base 0")
    adapter = json.loads((Path(module["path"]) / "adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("km-base", trained)
    card = (Path(module["path"]) / "card.md").read_text()
    assert f"- Base: km-base 0, revision {trained}. It fits no other weights.\n" in card
    run = km("show", "permits")
    assert f"embedded, km-base 0, {trained}\n" in run.out
    assert run.err == ""


def test_a_module_of_an_older_base_is_refused_in_one_sentence(km: Km, outdated: str) -> None:
    refused = (
        "the Knowledge Module of permits was trained on km-base 0; this km has km-base 1. "
        "Train it on the one that is here: km train permits"
    )
    for words in (["ask", "permits", "Who?"], ["compare", "permits"], ["export", "permits"]):
        run = km(*words)
        assert (run.code, sentences(run.err)) == (4, [f"km: {refused}"])
    error = km("ask", "permits", "Who?", "--json").envelope["errors"][0]
    assert f"{error['message']} {error['hint']}" == refused
    assert km("ask", "permits", "Who?", "--method", "rag").code == 0


def test_show_and_ls_know_an_older_base(km: Km, outdated: str) -> None:
    run = km("show", "permits", "-q")
    assert run.code == 0
    assert run.err == (
        "warning: the Knowledge Module of permits was trained on km-base 0; this km has km-base 1. "
        "Train it on the one that is here: km train permits\n"
    )
    assert f"embedded, km-base 0, {outdated}\n" in run.out
    assert [one["state"] for one in km("ls", "--json").envelope["data"]] == ["stale"]
    assert "km train permits" in km().out


@pytest.mark.parametrize("words", [["permits"], ["--all"]])
def test_training_again_mends_it(km: Km, outdated: str, words: list[str]) -> None:
    run = km("train", *words, *FORCED)
    assert run.code == 0
    assert run.out.startswith("permits: Knowledge Module trained\n")
    shown = entry(km, "permits")
    assert (shown["state"], shown["module"]["recipe"]["base_label"]) == ("fresh", "km-base 1")
    assert shown["module"]["recipe"]["revision"] != outdated
    assert km("show", "permits", "-q").err == ""
    assert km("ask", "permits", "Who?").code == 0


def test_all_trains_what_has_no_base_any_more(
    km: Km, trained: str, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--all leaves alone what is fresh, on whatever base."""
    begun: list[str] = []

    def begin(self: group.Group, task: Task) -> None:
        begun.append(task.document.name)
        raise KmError("that is enough.")

    monkeypatch.setattr(group.Group, "write", begin)
    assert (km("train", "--all").code, begun) == (0, [])
    release("1", "1")
    assert (km("train", "--all").code, begun) == (1, ["permits"])


def test_another_base_in_the_settings_is_named(km: Km, outdated: str) -> None:
    """Else `km train` would follow the settings."""
    km("config", "set", "model", str(FOLDER))
    (sentence,) = sentences(km("ask", "permits", "Who?").err)
    assert sentence.endswith(
        "this km has km-base 1. Train it on the one that is here: km train permits --model embedded"
    )


def test_other_weights_under_the_same_version(km: Km, trained: str, release: Release) -> None:
    release("2", "0")
    assert sentences(km("ask", "permits", "Who?").err) == [
        "km: the Knowledge Module of permits was trained on another version of the embedded base; this km has km-base 0. "
        "Train it on the one that is here: km train permits"
    ]


def test_an_unfinished_training_on_an_older_base_starts_anew(
    km: Km, permits: Path, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    release("0", "0")
    with monkeypatch.context() as patch:
        patch.setattr(group, "train_together", stopped)
        assert km("train", "permits", *FORCED).code == 5
    release("1", "1")
    run = km("train", "permits", *FORCED)
    assert run.code == 0
    assert "warning: the base has changed since the unfinished training of permits: starting anew\n" in run.err
    assert entry(km, "permits")["module"]["recipe"]["base_label"] == "km-base 1"
