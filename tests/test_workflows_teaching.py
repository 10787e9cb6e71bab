"""km train --teacher MODEL --distil-from teacher: what is kept, what goes on, and which teachers are refused."""

# ruff: noqa: F401, F811 (imported fixtures)

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from cli_cases import Km
from kmcli import bases
from kmcli.errors import InterruptedRun
from kmcli.training import targets
from kmcli.types import silent
from kmcli.workflows import group
from workflow_cases import TINY, entry, is_sound, km, permits, sentences
from written_once import written_once

TEACH = ("--distil-from", "teacher", *TINY)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """The embedded base with slightly other weights: another model of its vocabulary, which reads as well."""
    folder = tmp_path / "big"
    shutil.copytree(bases.EMBEDDED_FOLDER, folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"] = 0.9 * weights["model.norm.weight"]
    save_file(weights, file, {"format": "pt"})
    return folder


def test_a_teachers_predictions_are_learnt(km: Km, permits: Path, km_home: Path, teacher: Path) -> None:
    words = ("train", "permits", "--teacher", str(teacher), "--set", "teacher_top_k=8", *TEACH)
    run = km(*words)
    assert run.code == 0
    assert "teacher  0/" in run.err or f"reading the document as {teacher}" in run.err
    module = entry(km, "permits")["module"]
    recipe = module["recipe"]
    assert (recipe["distil_from"], recipe["teacher_top_k"], recipe["hidden_weight"]) == ("teacher", 8, 0.0)
    assert (recipe["teacher"], recipe["model"]) == (str(teacher), "embedded")
    assert recipe["teacher_revision"] == bases.find(str(teacher), silent).revision != recipe["revision"]
    curve = json.loads((Path(module["path"]) / "metrics.json").read_text())["curve"]
    assert {"loss", "kl"} <= set(curve[0])
    assert "hidden" not in curve[0]
    assert km(*words).err.endswith("permits is trained already. To train again, add --force.\n")
    assert is_sound(km)


def test_it_goes_on_where_it_stopped(
    km: Km, permits: Path, km_home: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise InterruptedRun("stopped.", "The same command goes on from there.")

    with monkeypatch.context() as patch:
        patch.setattr(group, "train_together", interrupted)
        assert km("train", "permits", "--teacher", str(teacher), *TEACH).code == 5
    (file,) = km_home.glob(f"documents/*/training/{targets.FILE}")
    written = file.read_bytes()
    assert len(written) > 1000
    with monkeypatch.context() as patch:  # its predictions are there: nobody loads the teacher
        load = bases.load
        patch.setattr(bases, "load", lambda base, *how: load(base, *how) if base.name == "embedded" else None)
        assert km("train", "permits", "--json").code == 0
    assert entry(km, "permits")["module"]["recipe"]["distil_from"] == "teacher"


def test_a_teacher_that_has_changed(
    km: Km, permits: Path, km_home: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(group, "train_together", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        assert km("train", "permits", "--teacher", str(teacher), *TEACH).code == 5
    weights = load_file(teacher / "model.safetensors")
    weights["model.norm.weight"] = 0.9 * weights["model.norm.weight"]
    save_file(weights, teacher / "model.safetensors", {"format": "pt"})
    run = km("train", "permits")
    assert (run.code, sentences(run.err)) == (
        1,
        [f"km: permits: {teacher} has changed since this recipe began to use it. Begin again with --restart."],
    )


ITSELF = "Let the base be its own teacher: --distil-from base"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "there is no teacher whose predictions could be learnt. Name it: --teacher MODEL"),
        (
            ("--teacher", "gpt", "--engine", "openai"),
            "the predictions of gpt cannot be had: it is no model that is loaded here. "
            "Name a hub model or a folder as the teacher, or let it write alone: --distil-from base",
        ),
        (
            ("--teacher", "{teacher}", "--objective", "dcd,skd"),
            f"the objective skd asks its teacher all along, which only the base can be. {ITSELF}",
        ),
        (
            ("--teacher", "{teacher}", "--objective", "lm,pit"),
            f"the objective lm,pit learns nobody's predictions. {ITSELF}",
        ),
        (("--teacher", "{teacher}", "--distil-from", "me"), "'me' is no distil_from. Choose one of base, teacher."),
        (
            ("--teacher", "{teacher}", "--set", "teacher_top_k=0"),
            "teacher_top_k must lie between 1 and 1,048,576, not 0. The default is 64.",
        ),
    ],
)
def test_what_is_refused(
    km: Km, permits: Path, km_home: Path, teacher: Path, words: tuple[str, ...], told: str
) -> None:
    given = ("--distil-from", "teacher", *(word.format(teacher=teacher) for word in words))
    run = km("train", "permits", *given)
    assert (run.code, run.out, sentences(run.err)) == (2, "", [f"km: {told}"])
    assert not list(km_home.glob("documents/*/training"))


def test_another_vocabulary(km: Km, permits: Path, teacher: Path) -> None:
    file = teacher / "tokenizer.json"
    tokenizer: dict[str, Any] = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, other = list(vocabulary)[500:502]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    file.write_text(json.dumps(tokenizer))
    run = km("train", "permits", "--teacher", str(teacher), *TEACH)
    assert (run.code, sentences(run.err)) == (
        2,
        [
            f"km: {teacher} has another vocabulary than embedded, which cannot learn its predictions. Choose a teacher of "
            "the base's own family, or let it write alone: --distil-from base"
        ],
    )


def test_the_base_as_its_own_teacher(km: Km, permits: Path) -> None:
    assert km("train", "permits", "--teacher", "embedded", *TEACH).code == 0
    recipe = entry(km, "permits")["module"]["recipe"]
    assert (recipe["teacher"], recipe["distil_from"], recipe["hidden_weight"]) == ("", "base", 1.0)
