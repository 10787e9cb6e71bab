"""Generation by vLLM in a process of its own, so that it may live in another Python environment than km.

Chats become token ids here, by the base's own tokenizer as everywhere in km, and ids become text here: the worker
(`vllm_worker`) knows nothing but ids. All chats of a call go into vLLM's one queue.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kmcli import bases
from kmcli.bases.chat import chat_ids, end_ids, token_text
from kmcli.engines import Chat, Generation, Sampling
from kmcli.engines.vllm_process import Process
from kmcli.engines.writing import Pieces, chat_seed, in_words, room
from kmcli.errors import ResourceError, UsageError
from kmcli.types import Reporter, silent

WORKER = Path(__file__).with_name("vllm_worker.py")
START_SECONDS = 900.0
"""How long vLLM may take to start: imports, weights, and on accelerators compilation."""


def open_engine(
    model: str | bases.Base,
    *,
    python: str | None = None,
    adapter: Path | None = None,
    dtype: str = "auto",
    context: int | None = None,
    eager: bool | None = None,
    start_seconds: float = START_SECONDS,
    report: Reporter = silent,
) -> VllmEngine:
    """Start vLLM with a base, or with the one called `model`: "embedded", a folder, or a hub name.

    python: an interpreter that has vLLM (the setting `vllm_python`); None: the one that runs km. adapter: a PEFT LoRA
    folder that all answers come from. dtype: "auto" (float32 on a processor, else bfloat16), "float32", "bfloat16",
    "float16". context: fewer tokens than the base allows. eager: False compiles, True does not, None compiles on
    accelerators alone. start_seconds: when to give up waiting for vLLM. VLLM_* variables, such as
    VLLM_CPU_KVCACHE_SPACE, mean what they mean to vLLM.

    Raises UsageError for an interpreter that cannot be run, ResourceError where there is no vLLM or it does not start.
    """
    interpreter = interpreter_of(python)
    base = bases.find(model, report) if isinstance(model, str) else model
    return VllmEngine(base, [interpreter, str(WORKER)], adapter, dtype, context, eager, start_seconds)


def interpreter_of(python: str | None) -> str:
    """The one that is named, or the one that runs km. Raises UsageError where it is none, ResourceError without vLLM."""
    if python:
        found = shutil.which(os.path.expanduser(python))
        if found is None:
            raise UsageError(
                f"{python} is not a Python interpreter that can be run.",
                "Name one that has vLLM: bin/python of its venv.",
            )
        return found
    if importlib.util.find_spec("vllm") is None:
        raise ResourceError(
            "vLLM is not installed.",
            "Install it with: pip install 'kmcli[vllm]', or set vllm_python to an interpreter that has it.",
        )
    return sys.executable


class VllmEngine:
    name = "vllm"

    def __init__(
        self,
        base: bases.Base,
        command: Sequence[str],
        adapter: Path | None = None,
        dtype: str = "auto",
        context: int | None = None,
        eager: bool | None = None,
        start_seconds: float = START_SECONDS,
    ) -> None:
        """command: what starts the worker. Otherwise as open_engine."""
        self.model = base.name
        self.revision = base.revision
        self.context = min(context or base.context, base.context)
        self.tokenizer: Any = bases.load_tokenizer(base)
        self.end_ids = end_ids(self.tokenizer, generation_config(base))
        self._worker = Process(command)
        opening = {
            "model": str(base.path),
            "dtype": dtype,
            "context": self.context,
            "adapter": str(adapter) if adapter else None,
            "eager": eager,
        }
        try:
            ready = self._worker.start({"open": opening}, start_seconds)
        except BaseException:
            self.close()
            raise
        self.version = str(ready["vllm"])
        self.kv_tokens = int(ready["kv_tokens"])
        """Tokens that vLLM can hold at once, all chats together."""

    def close(self) -> None:
        """End the worker. Happens by itself when the engine is let go, or km ends."""
        self._worker.close()

    def count(self, chat: Chat) -> int:
        return len(chat_ids(self.tokenizer, list(chat)))

    def generate(
        self, chats: Sequence[Chat], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[Generation]:
        """Raises InterruptedRun where vLLM's process dies: what earlier calls gave is not touched by that."""
        prompts = [chat_ids(self.tokenizer, list(chat)) for chat in chats]
        results: dict[int, Generation] = {}
        with contextlib.closing(self._ask(prompts, sampling, stream=False)) as messages:
            for message in messages:
                index = message["done"]
                results[index] = self._generation(len(prompts[index]), message)
                if progress:
                    progress(len(results))
        return [results[i] for i in range(len(chats))]

    def stream(self, chat: Chat, sampling: Sampling, on_text: Callable[[str], None]) -> Generation:
        prompt = chat_ids(self.tokenizer, list(chat))
        pieces = Pieces(on_text)
        written: list[int] = []
        done: dict[str, Any] = {"ids": [], "finished": False}
        with contextlib.closing(self._ask([prompt], sampling, stream=True)) as messages:
            for message in messages:
                if "some" in message:
                    written += message["ids"]
                    pieces.grow(self._text(written))
                else:
                    done = message
        generation = self._generation(len(prompt), done)
        pieces.end(generation.text)
        return generation

    def _ask(self, prompts: list[list[int]], sampling: Sampling, stream: bool) -> Generator[dict[str, Any], None, None]:
        """The worker's messages, until each prompt is done."""
        if not prompts:
            return
        task = {
            "prompts": prompts,
            "limits": [room(len(prompt), sampling.max_tokens, self.context) for prompt in prompts],
            "seeds": [chat_seed(sampling.seed, i) for i in range(len(prompts))],
            "ends": self.end_ids,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stream": stream,
            "logprobs": sampling.logprobs,
        }
        done = 0
        whole = False
        try:
            self._worker.send({"generate": task})
            while done < len(prompts):
                message = self._worker.receive(f"after {done} of {len(prompts)} answers")
                done += "done" in message
                yield message
            whole = True
        finally:
            if not whole:  # Ctrl-C, or an error: answers still to come must not be taken for those of the next call
                self.close()

    def _generation(self, prompt_tokens: int, done: dict[str, Any]) -> Generation:
        ids, ranked = done["ids"], done.get("ranked")
        told = in_words(ids, ranked, partial(token_text, self.tokenizer)) if ranked is not None else None
        return Generation(self._text(ids), prompt_tokens, len(ids), done["finished"], told)

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)).strip()


def generation_config(base: bases.Base) -> Any:
    """What transformers would take from the base's files when it loads the weights."""
    from transformers import AutoConfig, GenerationConfig

    try:
        return GenerationConfig.from_pretrained(base.path)
    except OSError:
        return GenerationConfig.from_model_config(AutoConfig.from_pretrained(base.path, trust_remote_code=False))
