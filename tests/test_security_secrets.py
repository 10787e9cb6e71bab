"""A key that km is given goes to whom it is for, and is written and shown nowhere."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

from pathlib import Path

import pytest

from cli_cases import Km
from fakeservice import FakeService
from workflow_cases import files_below, km
from writer_cases import QA, notes, service

KEYS = ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "HF_TOKEN", "KM_API_KEY")


def test_keys_are_in_no_file_and_no_output(
    km: Km, notes: Path, service: FakeService, km_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in KEYS:
        monkeypatch.setenv(name, f"swordfish-{name}")
    shown = ""
    for words in (
        ("synth", "notes", "--engine", "openai", "--teacher", "big", *QA),
        ("synth", "notes", "--engine", "openai", "--teacher", "big", *QA, "--json"),
        ("config",),
        ("config", "--json"),
        ("doctor",),
        ("show", "notes", "--json"),
        ("models",),
    ):
        run = km(*words)
        assert "Traceback" not in run.err
        shown += run.out + run.err
    assert any("swordfish-OPENAI_API_KEY" in one.headers.get("authorization", "") for one in service.asked), (
        "it was sent"
    )
    assert not [one for one in service.asked if "HF_TOKEN" in str(one.headers) or "KM_API_KEY" in str(one.headers)]
    assert "swordfish" not in shown
    for file, content in files_below(tmp_path).items():
        assert b"swordfish" not in content, file


def test_an_address_with_a_password_is_not_kept(km: Km, km_home: Path) -> None:
    run = km("add", "https://me:swordfish@example.org/x.html")
    assert run.code == 2
    assert "swordfish" not in run.out + run.err
    assert not [file for file, content in files_below(km_home).items() if b"swordfish" in content]
