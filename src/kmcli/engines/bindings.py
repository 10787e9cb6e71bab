"""llama.cpp's C functions by llama-cpp-python, made silent. The optional extra `gguf`; nothing else imports it."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import sys
from collections import deque
from functools import cache
from types import ModuleType
from typing import Any

from kmcli.errors import ResourceError

_ERROR_LEVEL = 4  # GGML_LOG_LEVEL_ERROR in ggml.h

complaints: deque[str] = deque(maxlen=8)
"""What llama.cpp last reported as an error: it fails without saying why in any other way."""


def installed() -> bool:
    return importlib.util.find_spec("llama_cpp") is not None


@cache
def library() -> ModuleType:
    """The functions. Raises ResourceError where llama-cpp-python is not installed or does not load."""
    if not installed():
        raise ResourceError("llama-cpp-python is not installed.", "Install it with: pip install 'kmcli[gguf]'")
    try:
        functions = _functions()
    except (ImportError, OSError, RuntimeError) as error:
        raise ResourceError(
            f"llama-cpp-python does not load: {error}.",
            "Install it again with: pip install --force-reinstall 'kmcli[gguf]'",
        ) from None
    functions.llama_log_set(_log_callback(functions), ctypes.c_void_p(0))
    functions.llama_backend_init()
    return functions


def _functions() -> ModuleType:
    """The module llama_cpp.llama_cpp without the package around it, which brings numpy, a cache on disk and what a
    server needs: two thirds of the time that importing it takes. A later import of the package is not disturbed."""
    name = "llama_cpp.llama_cpp"
    if "llama_cpp" in sys.modules:
        return importlib.import_module(name)
    spec = importlib.util.find_spec("llama_cpp")
    assert spec is not None
    sys.modules["llama_cpp"] = importlib.util.module_from_spec(spec)
    try:
        return importlib.import_module(name)
    finally:
        del sys.modules["llama_cpp"]


@cache  # llama.cpp keeps only the address of the callback, so the object must live as long as the process
def _log_callback(functions: ModuleType) -> Any:
    @functions.llama_log_callback
    def keep_errors(level: int, text: bytes, _: object) -> None:
        if level == _ERROR_LEVEL:
            complaints.append(text.decode("utf-8", "replace").strip())

    return keep_errors
