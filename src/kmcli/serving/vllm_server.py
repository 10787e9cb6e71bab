"""The process of vLLM's own OpenAI server: started, waited for, ended."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

import httpx2

from kmcli.bases import Base
from kmcli.engines.vllm_process import QUIET, end, how_it_ended, sentence
from kmcli.engines.vllm_worker import RANKS, TOKENS_AT_ONCE
from kmcli.errors import ResourceError, UsageError
from kmcli.serving import Limits

LAUNCHER = Path(__file__).with_name("vllm_launch.py")
BASE_MODEL = "base"
"""What vLLM calls the base."""

MODULES_AT_ONCE = 8
"""Knowledge Modules in one forward pass; vLLM reserves memory for so many."""


class VllmServer:
    """url, key: where it listens, on this machine alone, and what it wants to be sent. A key, because other users of the
    machine reach that address too; made for this process, and kept nowhere but in its environment."""

    def __init__(self, command: Sequence[str]) -> None:
        """command: what starts it, but for the port. Raises UsageError where it cannot be run."""
        self.key = secrets.token_urlsafe(32)
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        environment = {
            **{name: value for name, value in QUIET.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"},
            **os.environ,
            "VLLM_API_KEY": self.key,
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        }
        words = [word.replace("PORT", str(port)) for word in command]
        self._interpreter = words[0]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
        try:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,  # its end is how the process learns that km has ended
                stdout=self._log,
                stderr=self._log,
                env=environment,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is for km, which then ends it
            )
        except OSError as error:
            raise UsageError(f"{words[0]} cannot be run: {error.strerror}.", "Name a Python that has vLLM.") from None
        self.close = weakref.finalize(self, end, self.process)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def wait(self, seconds: float) -> None:
        """Until it answers. Raises ResourceError where it does not."""
        hint = f"Check that this interpreter has a vLLM that works here: {self._interpreter}"
        until = time.monotonic() + seconds
        while self.alive:
            try:
                if httpx2.get(f"{self.url}/health", timeout=10).status_code == 200:
                    return
            except httpx2.HTTPError:
                pass
            if time.monotonic() > until:
                raise ResourceError(f"vLLM was not ready after {seconds:g} seconds.", hint)
            time.sleep(0.2)
        raise ResourceError(f"vLLM does not start: {self.why_it_ended()}.", hint)

    def why_it_ended(self) -> str:
        return sentence(how_it_ended(self.process, self._log))


def command(interpreter: str, base: Base, rank: int, limits: Limits, targets: Sequence[str] = ()) -> list[str]:
    """What starts the server. rank: the largest of any Knowledge Module.

    targets: where prompts go out as input embeddings too, the layers that Knowledge Modules change. vLLM 0.32 otherwise
    wraps the token embeddings as well, and ends at a pass in which only some rows are tokens.
    """
    sizes = {
        "--max-model-len": base.context,
        "--max-num-seqs": limits.parallel,
        "--max-loras": min(MODULES_AT_ONCE, limits.modules),
        "--max-cpu-loras": limits.modules,
        "--max-lora-rank": rank,
    }
    always = ["--model", str(base.path), "--served-model-name", BASE_MODEL, "--host", "127.0.0.1", "--port", "PORT"]
    always += [
        "--enable-lora",
        "--generation-config",
        "vllm",
        "--disable-uvicorn-access-log",
    ]  # none of the base's habits
    always += [str(word) for pair in sizes.items() for word in pair]
    always += ["--enable-prompt-embeds", "--lora-target-modules", *targets] if targets else []
    # On a processor vLLM 0.32 fails where it cuts a prompt with a seed of its own in two; compiling takes minutes there.
    processor = ["--dtype", "float32", "--enforce-eager", "--no-enable-chunked-prefill"]
    processor += ["--max-num-batched-tokens", str(max(base.context, TOKENS_AT_ONCE))]
    arguments = {"always": always, "processor": processor, "accelerator": ["--dtype", "bfloat16"]}
    return [interpreter, str(LAUNCHER), json.dumps(arguments)]


def allowed_rank(rank: int) -> int:
    """The next that vLLM knows."""
    return next((one for one in RANKS if one >= rank), rank)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
