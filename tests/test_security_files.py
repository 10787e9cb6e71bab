"""Names lead to no other place than the library's folder, links to no other than the folder that was named; and what is
written there is its owner's alone."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli_cases import Km
from kmcli import ingest
from kmcli.bases.folder import shards
from kmcli.errors import KmError
from kmcli.library.layout import Layout
from share_cases import adapters, modules
from test_importing import folder
from workflow_cases import TINY, km, permits

OUT = [
    "../out",
    "../../out",
    "/tmp/km-out",
    "a/../../out",
    "..",
    ".",
    "~/out",
    "a/b",
    "a\\b",
    "out\0.md",
    "%2e%2e/out",
    ".",
]


@pytest.fixture
def outside(tmp_path: Path, km_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder above the library, in which nothing may change."""
    monkeypatch.chdir(tmp_path)

    def all_but_the_library() -> dict[str, bytes]:
        files = [file for file in tmp_path.rglob("*") if file.is_file() and not file.is_relative_to(km_home)]
        return {str(file): file.read_bytes() for file in files}

    (tmp_path / "mine.txt").write_text("The mill was built in 1871.")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("kept")
    records = [{"text": f"The mill {number} was built in 1871.", "id": name} for number, name in enumerate(OUT)]
    (tmp_path / "many.jsonl").write_text("\n".join(map(json.dumps, records)))
    before = all_but_the_library()
    yield tmp_path
    assert all_but_the_library() == before


@pytest.mark.parametrize("name", OUT)
def test_no_name_leads_out_of_the_library(km: Km, outside: Path, km_home: Path, name: str) -> None:
    for words in (
        ("add", "mine.txt", "--name", name),
        ("add", "mine.txt", "--name", "mill", "--tag", name),
        ("mv", "mill", name),
        ("tag", "mill", "--add", name),
        ("show", name),
        ("show", f"@{name}"),
        ("rm", name, "--yes"),
        ("train", name, "--set", f"tasks={name}"),
        ("chat", "--continue", name),
        ("extractor", "rm", name, "--yes"),
    ):
        run = km(*words)
        assert "Traceback" not in run.err, words
    inside = [file for file in km_home.rglob("*") if file.name.startswith(("out", "km-out"))]
    assert not inside, "and no name is a path within it"


def test_names_in_a_batch_file(km: Km, outside: Path, km_home: Path) -> None:
    assert "Traceback" not in km("add", "many.jsonl").err
    documents = km("ls", "--json").envelope["data"]
    assert len(documents) >= len(set(OUT)) - 1
    for one in documents:
        assert "/" not in one["name"]
        assert one["name"] not in (".", "..")
    assert {file.parent.parent.name for file in (km_home / "documents").rglob("text-*.md")} == {"documents"}


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "model.bin"])
def test_an_index_of_weights_names_files_beside_it(tmp_path: Path, name: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(KmError, match="is damaged"):
        shards(index)


@given(st.text())
def test_a_name_is_never_a_path(name: str) -> None:
    """Of the paths that a name has part in, that of an unfinished extractor: only its hash is in it."""
    layout = Layout(Path("/home/km"))
    assert layout.extractor_workspace(name).parent == layout.extractors


# --- links


def test_a_folder_gives_no_files_from_outside(tmp_path: Path) -> None:
    """Somebody's folder, unpacked: a link in it would put a file of yours into the library, and on to a service."""
    (tmp_path / "secret.txt").write_text("a secret")
    given = tmp_path / "unpacked"
    (given / "sub").mkdir(parents=True)
    (given / "sub" / "real.md").write_text("real")
    (given / "notes.txt").symlink_to(tmp_path / "secret.txt")
    (given / "up.txt").symlink_to("../secret.txt")
    (given / "again.md").symlink_to("sub/real.md")
    assert [Path(one).name for one in ingest.expand(str(given))] == ["again.md", "real.md"]
    (tmp_path / "linked").symlink_to(given)
    assert [Path(one).name for one in ingest.expand(str(tmp_path / "linked"))] == ["again.md", "real.md"]
    assert ingest.read(str(given / "notes.txt")).text == "a secret", "whoever names it means it"


def test_a_card_that_is_a_link_is_not_read(km: Km, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the password is swordfish")
    (folder / "README.md").unlink(missing_ok=True)
    (folder / "README.md").symlink_to(tmp_path / "secret")
    assert km("import", str(folder), "--name", "card").code == 0
    assert not km("search", "swordfish").out
    (folder / "README.md").unlink()
    (folder / "README.md").write_text("the password is swordfish")
    assert km("import", str(folder), "--force").code == 0
    assert "swordfish" in km("search", "swordfish").out, "a card is read"


# --- modes


def test_everything_in_the_library_is_its_owners_alone(km: Km, permits: Path, km_home: Path) -> None:
    """After every verb that writes there, whatever the umask."""
    before = os.umask(0)
    try:
        for words in (
            ("config", "set", "device", "cpu"),
            ("train", "permits", *TINY),
            ("ask", "permits", "What is the fee?"),
            ("ask", "What is the fee for berth permits?"),
            ("search", "fee"),
            ("tag", "permits", "--add", "port"),
            ("mv", "permits", "fees"),
            ("compare", "fees", "--help"),
        ):
            assert km(*words).code == 0, words
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in km_home.rglob("*")}
    assert {"km.db", "config.toml", "passages.db", "adapter_model.safetensors"} <= {path.name for path in modes}
    open_to_others = {str(path.relative_to(km_home)): oct(mode) for path, mode in modes.items() if mode & 0o077}
    assert open_to_others == {}


def test_settings_in_a_new_folder(km: Km, km_home: Path) -> None:
    before = os.umask(0)
    try:
        assert km("config", "set", "device", "cpu").code == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(km_home.stat().st_mode) == 0o700
    assert stat.S_IMODE((km_home / "config.toml").stat().st_mode) == 0o600
