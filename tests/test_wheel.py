"""The wheel: what it puts where, and the extras it names. The installation itself: tests/matrix.py."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_man_pages_and_completions_stand_where_programs_look_for_them(wheel: zipfile.ZipFile) -> None:
    shared = {name.partition(".data/data/")[2] for name in wheel.namelist() if ".data/data/" in name}
    pages = {f"share/man/man{page.suffix[1:]}/{page.name}" for page in (ROOT / "man").iterdir()}
    assert {"share/man/man1/km.1", "share/man/man5/km-config.5", "share/man/man7/km-exit-codes.7"} <= pages
    assert shared == pages | {
        "share/bash-completion/completions/km",
        "share/zsh/site-functions/_km",
        "share/fish/vendor_completions.d/km.fish",
    }


def test_it_has_the_program_the_base_and_nothing_beside_the_package(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert any(name.startswith("kmcli/base/") and name.endswith(".safetensors") for name in names)
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"kmcli"}
    entries = next(name for name in names if name.endswith("entry_points.txt"))
    assert "km = kmcli.__main__:main" in wheel.read(entries).decode()


def test_its_metadata_names_the_pythons_and_the_extras(wheel: zipfile.ZipFile) -> None:
    metadata = Parser().parsestr(wheel.read(next(n for n in wheel.namelist() if n.endswith("METADATA"))).decode())
    assert metadata["Requires-Python"] == ">=3.10"
    extras = set(metadata.get_all("Provides-Extra") or [])
    assert extras == {"gguf", "dense", "vllm", "bits", "ray", "ocr", "openai"}
    rows = (ROOT / "docs" / "install.md").read_text("utf-8").splitlines()
    assert {row.split("`")[1] for row in rows if row.startswith("| `")} == extras
    texts = [*(ROOT / "src" / "kmcli").rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    told = {name for text in texts for name in re.findall(r"(?:kmcli|\.)\[([a-z]+)\]", text.read_text("utf-8"))}
    assert {"gguf", "ray"} <= told <= extras  # what km tells people to install is there
