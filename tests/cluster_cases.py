"""A library of small documents, a base without sense that is quick to train, and km as it drives a cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cli_cases import environment
from kmcli import bases

DRIVER = """
import sys
from kmcli.workflows import cluster
cluster.KEEP_EVERY = float(sys.argv.pop(1))
from kmcli.cli.boundary import main
sys.exit(main(sys.argv[1:]))
"""
SHORT = ("--objective", "lm", "--no-exam", "--set", "chunk_tokens=32", "--set", "batch=4", "--set", "held_out=0.2")
"""Nothing has to be written, which this base could not."""


def make_base(folder: Path) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from training_cases import SMALL

    torch.manual_seed(5)
    LlamaForCausalLM(LlamaConfig(**SMALL)).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / file).write_bytes((bases.EMBEDDED_FOLDER / file).read_bytes())
    return folder


def write_documents(folder: Path, count: int) -> Path:
    """Texts of some 150 words, each its own."""
    folder.mkdir()
    for number in range(1, count + 1):
        lines = (
            f"Lamp {number} is a signal lamp of type {one}. It weighs {number * 37 + one * 11} grams and costs "
            f"${number + one * 3}. It was designed in {1900 + number + one} by Ann Quendal."
            for one in range(1, 8)
        )
        (folder / f"lamp{number:02}.txt").write_text("\n\n".join(lines))
    return folder


def drive(*words: str, keep_every: float = 0.3, **changes: str) -> subprocess.Popen[str]:
    """km in a process of its own, whose workers hand over what is unfinished every so many seconds."""
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(keep_every), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**changes),
    )


def ended(process: subprocess.Popen[str], seconds: float = 120) -> tuple[int, dict[str, Any], str]:
    """Exit code, the envelope and stderr."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, json.loads(out), err
