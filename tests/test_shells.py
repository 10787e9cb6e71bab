"""The completion scripts in real shells, in a pseudo-terminal: what stands on the line after TAB."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from shell_cases import SHELLS, Shell

NASTY = "$(touch pwned) `id`; x"
NAMES = ("report", "Recipes", "review 2024", NASTY, "it's", "größe", "", "", "@contracts", "@zoo", "late")


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, km_home: Path, tmp_path: Path) -> Iterator[Shell]:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    (km_home / "tasks").mkdir(parents=True)
    (km_home / "tasks" / "vocabulary.toml").write_text("")
    (km_home / "names").write_text("\n".join(NAMES) + "\n", "utf-8")
    (tmp_path / "hub" / "models--Qwen--Qwen3-0.6B").mkdir(parents=True)
    (tmp_path / "plan.toml").write_text("")
    with Shell(request.param, tmp_path, KM_HOME=str(km_home), HF_HUB_CACHE=str(tmp_path / "hub")) as one:
        yield one


def test_tab_completes_words_as_the_shell_then_reads_them(shell: Shell, tmp_path: Path) -> None:
    typed = {
        "km tra": ["train"],
        "km ask rep": ["ask", "report"],
        "km ask report lat": ["ask", "report", "late"],
        "km ask rev": ["ask", "review 2024"],
        "km ask rev\treport\t": ["ask", "review 2024", "report"],
        "km show gr": ["show", "größe"],
        "km show it": ["show", "it's"],
        "km rm '$(t": ["rm", NASTY],
        'km show "rev': ["show", "review 2024"],
        "km train @con": ["train", "@contracts"],
        "km ls --tag zo": ["ls", "--tag", "zoo"],
        "km train --dev\tcu": ["train", "--device", "cuda"],
        "km train --recipe pl": ["train", "--recipe", "plan.toml"],
        "km export rep\t--quant Q5_K_M --format pe": ["export", "report", "--quant", "Q5_K_M", "--format", "peft"],
        "km export report --quant Q8": ["export", "report", "--quant", "Q8_0"],
        "km ask --model emb": ["ask", "--model", "embedded"],
        "km ask --model Qw": ["ask", "--model", "Qwen/Qwen3-0.6B"],
        "km synth --show --task vo": ["synth", "--show", "--task", "vocabulary"],
        "km synth --show --task summ": ["synth", "--show", "--task", "summary"],
        "km config set mo": ["config", "set", "model"],
        "km mv rep": ["mv", "report"],
    }
    assert {line: shell.words(line) for line in typed} == typed
    assert not (tmp_path / "pwned").exists()


def test_tab_lists_what_there_is(shell: Shell) -> None:
    documents = shell.listed("km show ", "report")
    assert "report" in documents
    assert "late" in documents
    assert "@zoo" not in documents
    both = shell.listed("km ask ", "report")
    assert "report" in both
    assert "@zoo" in both
    assert "Write study material" not in both
    shells = shell.listed("km completion ", "zsh")
    assert all(name in shells for name in ("bash", "zsh", "fish"))
