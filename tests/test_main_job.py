"""The main job by real processes: add a PDF, train, ask, and a module that any other PEFT program can load."""

from __future__ import annotations

import json
from pathlib import Path

from fpdf import FPDF

from cli_cases import Km
from kmcli import bases
from kmcli.types import silent
from workflow_cases import NOTES, finish, is_sound, km

__all__ = ["km"]

QUICKLY = (
    *("--set", "generations=1", "--set", "tasks=qa", "--set", "steps=6", "--set", "batch=4"),
    *("--set", "exam_rounds=0"),
)


def printed(folder: Path) -> Path:
    """NOTES as a PDF of two pages: examples/harbour.pdf is what `make demo` runs."""
    pdf = FPDF()
    pdf.set_font("Helvetica", size=12)
    first, *rest = NOTES.strip().split("\n\n")
    for paragraphs in ([first], rest):
        pdf.add_page()
        for paragraph in paragraphs:
            pdf.multi_cell(0, 6, paragraph, new_x="LMARGIN", new_y="NEXT")
            pdf.ln(6)
    file = folder / "notes.pdf"
    file.write_bytes(bytes(pdf.output()))
    return file


def test_the_main_job(km: Km, km_home: Path, tmp_path: Path) -> None:
    code, out, err = finish("add", str(printed(tmp_path)))
    assert (code, out) == (0, "added  notes  pdf  2 pages  97 words\n")
    assert err.endswith("Next: km train notes\n")

    code, out, err = finish("train", "notes", *QUICKLY)
    assert code == 0, err
    assert out.startswith("notes: Knowledge Module trained\n  study material  ")
    assert "\n  steps           6\n" in out
    assert err.endswith('Next: km ask notes "question"\n')
    told = [line.split("  ")[0] for line in err.splitlines()]
    assert [stage for stage in dict.fromkeys(told) if stage in ("write", "teacher", "train")] == [
        "write",
        "teacher",
        "train",
    ]
    assert "Warning" not in err

    shown = km("show", "notes", "--json").envelope["data"]
    assert shown["state"] == "fresh"
    assert shown["bytes"] == sum(file.stat().st_size for file in Path(shown["module"]["path"]).iterdir())
    check_folder(Path(shown["module"]["path"]), km_home)
    assert is_sound(km)

    run = km("ask", "notes", "Who founded Grondal Works?", "--json", "--method", "km")
    assert (run.code, run.envelope["data"]["method"]) == (0, "km")
    chosen = km("ask", "notes", "Who founded Grondal Works?", "--json").envelope["data"]["choice"]
    assert chosen["read"], "six steps have not taught it"


def check_folder(folder: Path, km_home: Path) -> None:
    """It explains itself, names nothing of this machine, and plain PEFT loads it."""
    files = {file.name: file for file in folder.iterdir()}
    assert sorted(files) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "card.md",
        "chunks.json",
        "confidence.json",
        "conflicts.json",
        "exam.jsonl",
        "metrics.json",
        "recipe.json",
    ]
    base = bases.find("embedded", silent)
    recipe = json.loads(files["recipe.json"].read_text())
    assert (recipe["model"], recipe["revision"], recipe["steps"]) == ("embedded", base.revision, 6)
    metrics = json.loads(files["metrics.json"].read_text())
    assert (metrics["steps"], metrics["chunks"]) == (6, 2)
    assert 0 < metrics["confirmed_share"] <= 1
    config = json.loads(files["adapter_config.json"].read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("km-base", base.revision)
    card = files["card.md"].read_text()
    assert f"- Base: {base.label}, revision {base.revision}." in card
    for file in folder.iterdir():
        for path in (km_home, bases.EMBEDDED_FOLDER):
            assert str(path).encode() not in file.read_bytes(), file

    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(bases.EMBEDDED_FOLDER, dtype=torch.float32).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        before = plain(input_ids=ids).logits
        model = PeftModel.from_pretrained(plain, folder)
        with_module = model(input_ids=ids).logits
        with model.disable_adapter():
            without = model(input_ids=ids).logits
    assert torch.equal(before, without)
    assert not torch.allclose(before, with_module, atol=1e-3)
