"""What the embedded base has written for one test is not computed again for the next, in the same run of the tests.

The fixtures here are for tests of whole commands, most of which begin with the same study material about the same document.
Everything around the writing runs as ever. Tests of what computes, or how long it takes, do not import them.

Fixtures to import: each one by name, into the module that uses it.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from kmcli.engines import Chat, Generation, Sampling
from kmcli.engines.hf import HfEngine
from kmcli.workflows import calibrating
from workflow_cases import shared_folder


def fingerprint(model: Any) -> str:
    """Of all that a model computes with: another weight, a layer that was put around one, a hook make another."""
    parts: list[tuple[Any, ...]] = []
    for name, module in model.named_modules():
        hooks = len(module._forward_hooks), len(module._forward_pre_hooks)
        parts.append((name, type(module).__qualname__, vars(module).get("forward"), hooks, module.training))
    for some in (model.named_parameters(), model.named_buffers()):
        for name, tensor in some:
            parts.append((name, str(tensor.dtype), tuple(tensor.shape), zlib.crc32(tensor.detach().cpu().numpy().data)))
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@pytest.fixture(autouse=True)
def written_once(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The base alone, asked the same chats with the same seed, gives the answers that it gave to another test.

    Asked again by the same test it computes, so that a test that compares two writings compares them.
    """
    folder = shared_folder(tmp_path_factory) / "written"
    folder.mkdir(exist_ok=True)
    compute, here = HfEngine.generate, set[str]()

    def generate(
        self: HfEngine, chats: Sequence[Chat], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[Generation]:
        if not self.loaded.base.embedded or self.torch_model is not self.loaded.model or type(self) is not HfEngine:
            return compute(self, chats, sampling, progress)
        asked = [list(chat) for chat in chats], sampling, self.tokens_per_batch, fingerprint(self.torch_model)
        file = folder / hashlib.sha256(repr(asked).encode()).hexdigest()
        if file.name in here:
            return compute(self, chats, sampling, progress)
        here.add(file.name)
        if file.exists():
            torch.manual_seed(sampling.seed)  # as generate does
            found: list[Generation] = pickle.loads(file.read_bytes())
            if progress:
                progress(len(found))
            return found
        made = compute(self, chats, sampling, progress)
        unfinished = file.with_name(f"{file.name}.{os.getpid()}")
        unfinished.write_bytes(pickle.dumps(made))
        unfinished.rename(file)
        return made

    monkeypatch.setattr(HfEngine, "generate", generate)


@pytest.fixture(autouse=True)
def short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibration asks two questions without an answer, not dozens, and reads the beginning of each answer.

    A module after two steps of training goes on to the last token that it may write.
    """
    monkeypatch.setattr(calibrating, "MOST", 2)
    monkeypatch.setattr(calibrating, "SAMPLING", replace(calibrating.SAMPLING, max_tokens=12))
