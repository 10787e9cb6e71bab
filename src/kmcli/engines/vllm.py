"""Generation by vLLM in a process of its own, so that it may live in another Python environment than km.

Chats become token ids here, by the base's own tokenizer as everywhere in km, and ids become text here: the worker
(`vllm_worker`) knows nothing but ids. All chats of a call go into vLLM's one queue.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from kmcli import bases
from kmcli.bases.chat import chat_ids, end_ids
from kmcli.engines import Chat, Generation, Sampling
from kmcli.engines.writing import Pieces, chat_seed, room
from kmcli.errors import InterruptedRun, KmError, ResourceError, UsageError
from kmcli.types import Reporter, silent

WORKER = Path(__file__).with_name("vllm_worker.py")
START_SECONDS = 900.0
"""How long vLLM may take to start: imports, weights, and on accelerators compilation."""

QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process to start, and to end
}
"""Environment of the worker, where the person has not set it: no network, no log, no further processes."""


def open_engine(
    model: str,
    *,
    python: str | None = None,
    adapter: Path | None = None,
    dtype: str = "auto",
    context: int | None = None,
    eager: bool | None = None,
    start_seconds: float = START_SECONDS,
    report: Reporter = silent,
) -> VllmEngine:
    """Start vLLM with the base `model`: "embedded", a folder, or a hub name.

    python: an interpreter that has vLLM (the setting `vllm_python`); None: the one that runs km. adapter: a PEFT LoRA
    folder that all answers come from. dtype: "auto" (float32 on a processor, else bfloat16), "float32", "bfloat16",
    "float16". context: fewer tokens than the base allows. eager: False compiles, True does not, None compiles on
    accelerators alone. start_seconds: when to give up waiting for vLLM. VLLM_* variables, such as
    VLLM_CPU_KVCACHE_SPACE, mean what they mean to vLLM.

    Raises UsageError for an interpreter that cannot be run, ResourceError where there is no vLLM or it does not start.
    """
    interpreter = _interpreter(python)
    return VllmEngine(
        bases.find(model, report), [interpreter, str(WORKER)], adapter, dtype, context, eager, start_seconds
    )


def _interpreter(python: str | None) -> str:
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
        self.end_ids = end_ids(self.tokenizer, _generation_config(base))
        self._worker = _Process(command)
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
        for message in self._ask(prompts, sampling, stream=False):
            index, ids = message["done"], message["ids"]
            results[index] = Generation(self._text(ids), len(prompts[index]), len(ids), message["finished"])
            if progress:
                progress(len(results))
        return [results[i] for i in range(len(chats))]

    def stream(self, chat: Chat, sampling: Sampling, on_text: Callable[[str], None]) -> Generation:
        prompt = chat_ids(self.tokenizer, list(chat))
        pieces = Pieces(on_text)
        written: list[int] = []
        finished = False
        for message in self._ask([prompt], sampling, stream=True):
            if "some" in message:
                written += message["ids"]
                pieces.grow(self._text(written))
            else:
                written, finished = message["ids"], message["finished"]
        pieces.end(self._text(written))
        return Generation(self._text(written), len(prompt), len(written), finished)

    def _ask(self, prompts: list[list[int]], sampling: Sampling, stream: bool) -> Iterator[dict[str, Any]]:
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

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)).strip()


class _Process:
    """The worker: JSON lines to it and from it, and one clear error when it is gone."""

    def __init__(self, command: Sequence[str]) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
        self._lines: queue.Queue[str | None] = queue.Queue()
        environment = QUIET | dict(os.environ)
        try:
            self.process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=environment,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is for km, which then ends it
            )
        except OSError as error:
            raise UsageError(f"{command[0]} cannot be run: {error.strerror}.", "Name a Python that has vLLM.") from None
        assert self.process.stdout is not None
        threading.Thread(target=_listen, args=(self.process.stdout, self._lines), daemon=True).start()
        self.close = weakref.finalize(self, _end, self.process)

    def start(self, opening: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Returns what the worker says of itself. Raises ResourceError where vLLM is not there or does not start."""
        hint = "Check that this interpreter has a vLLM that works here: " + str(self.process.args[0])  # type: ignore[index]
        with contextlib.suppress(OSError):
            self.send(opening)
        deadline = time.monotonic() + seconds
        try:
            line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise ResourceError(f"vLLM was not ready after {seconds:g} seconds.", hint) from None
        message = _parse(line) if line else {"failed": self._how_it_ended()}
        if "ready" in message:
            ready: dict[str, Any] = message["ready"]
            return ready
        why = message["failed"]
        raise ResourceError(f"vLLM does not start: {_sentence(why)}.", hint)

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except (OSError, ValueError):  # it is gone, or closed: receive says so
            pass

    def receive(self, when: str) -> dict[str, Any]:
        """The next message. Raises InterruptedRun where there will be none."""
        line = self._lines.get()
        if line is None:
            self._lines.put(None)  # for whoever asks next
            raise _died(when, self._how_it_ended())
        message = _parse(line)
        if "failed" in message:
            raise _died(when, message["failed"])
        return message

    def _how_it_ended(self) -> str:
        """The last error in what the worker printed, or the signal that ended it."""
        try:
            code = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "it closed its output"
        finally:
            self.close()
        if code < 0:
            name = signal.Signals(-code).name
            return f"killed by {name}" + (", as where memory runs out" if code == -signal.SIGKILL else "")
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").splitlines()
        return next((line for line in reversed(lines) if "Error" in line), f"exit code {code}")


def _listen(source: IO[str], lines: queue.Queue[str | None]) -> None:
    with contextlib.suppress(OSError, ValueError):
        for line in source:
            lines.put(line)
    lines.put(None)


def _parse(line: str) -> dict[str, Any]:
    """A message; something else means that what runs there is not the worker, or that something prints into it."""
    with contextlib.suppress(ValueError):
        message: Any = json.loads(line)
        if isinstance(message, dict) and message.keys() & {"ready", "some", "done", "failed"}:
            return message
    return {"failed": f"it says {line[:80].strip()!r}"}


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)  # its own group: vLLM's helpers too
    process.wait()


def _died(when: str, why: str) -> KmError:
    return InterruptedRun(
        f"vLLM's process ended {when}: {_sentence(why)}.",
        "What was finished before is kept; the same command goes on from there.",
    )


def _sentence(why: str) -> str:
    return " ".join(why.split())[:300].rstrip(".: ")


def _generation_config(base: bases.Base) -> Any:
    """What transformers would take from the base's files when it loads the weights."""
    from transformers import AutoConfig, GenerationConfig

    try:
        return GenerationConfig.from_pretrained(base.path)
    except OSError:
        return GenerationConfig.from_model_config(AutoConfig.from_pretrained(base.path))
