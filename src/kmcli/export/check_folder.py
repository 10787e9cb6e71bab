"""Proves a folder: transformers, or PEFT on the base, must predict from it as with base and adapter in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kmcli import bases
from kmcli.adapters.folder import explained
from kmcli.bases import Base, Loaded
from kmcli.engines import Chat
from kmcli.export.check import Checked, Tolerance, compare, reference
from kmcli.types import Event, Reporter

if TYPE_CHECKING:
    import numpy as np

TOLERANCES: dict[str, Tolerance] = {
    "F32": Tolerance(0.001, 1.0),
    "F16": Tolerance(0.01, 0.98),
    "BF16": Tolerance(0.06, 0.80),
}
"""By the type of the weights; of mixed ones the coarsest counts. A merged weight is rounded to its type once."""


def check_folder(
    path: Path,
    form: Literal["hf", "peft"],
    kind: str,
    base: Base,
    adapter: Path,
    questions: Sequence[Chat],
    report: Reporter,
) -> Checked:
    """Compare the folder at `path` with base + adapter: token ids, prompts, logits, greedy answers.

    kind: the type of its weights. A folder that differs or cannot be loaded gives passed=False and is left where it is.
    Raises ResourceError where the base does not fit in memory.
    """
    report(Event("export", "checking: loading the base"))
    expected = reference(base, adapter)

    def opened(_: int) -> Reloaded:
        from peft import PeftModel

        report(Event("export", "checking: loading the folder"))
        if form == "peft":
            loaded = bases.load(base, "cpu")
            with explained(path):
                return Reloaded(loaded, PeftModel.from_pretrained(loaded.model, str(path)).eval())
        return Reloaded(bases.load(bases.describe(path.name, path), "cpu"))

    allowed = max((TOLERANCES[one] for one in kind.split("/") if one in TOLERANCES), key=lambda one: one.logits)
    return compare(path, expected, opened, allowed, kind, questions, report)


class Reloaded:
    """A folder as transformers or PEFT loads it. See check.Candidate."""

    def __init__(self, loaded: Loaded, model: Any = None) -> None:
        self._loaded = loaded
        self._model: Any = model or loaded.model

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            found: np.ndarray = self._model(input_ids=torch.tensor([list(ids)])).logits[0].float().numpy()
        return found

    def write(self, ids: Sequence[int], max_tokens: int) -> list[int]:
        import torch

        prompt = torch.tensor([list(ids)])
        out = self._model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=max_tokens,
            eos_token_id=self._loaded.end_ids,
            pad_token_id=self._loaded.end_ids[0],
        )
        return [int(token) for token in out[0, len(ids) :]]

    def text(self, ids: Sequence[int]) -> str:
        return str(self._loaded.tokenizer.decode(list(ids), skip_special_tokens=True))

    def ids(self, text: str) -> list[int]:
        return [int(token) for token in self._loaded.tokenizer(text)["input_ids"]]

    def chat_ids(self, chat: Chat) -> list[int]:
        return self._loaded.chat_ids(list(chat))

    def close(self) -> None:
        self._model = None
