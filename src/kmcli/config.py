"""Settings and directories. A flag beats the environment, which beats the file, which beats the default.

KM_HOME moves everything (library, cache and config.toml) into one folder, which is how tests isolate themselves.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from kmcli.errors import KmError, ResourceError, UsageError, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEVICES = ("auto", "cpu", "cuda", "mps")
PROCESSES = tuple(str(number) for number in range(1, 17))
PRESETS = ("quick", "standard", "paper")
ENGINES = ("auto", "hf", "vllm", "openai", "llamacpp")


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of config.toml: its default, its environment variable, what it does, and its choices (empty: free).

    example: a value, where the default is none: "".
    """

    default: str
    variable: str
    help: str
    choices: tuple[str, ...] = ()
    example: str = ""
    whole: bool = False
    """Whether it is a whole number from 1 up."""


SETTINGS: dict[str, Setting] = {
    "model": Setting("embedded", "KM_MODEL", "base model: 'embedded', a hub name, or a local folder"),
    "device": Setting("auto", "KM_DEVICE", "where torch computes", DEVICES),
    "preset": Setting("standard", "KM_PRESET", "how thoroughly km train works", PRESETS),
    "engine": Setting("auto", "KM_ENGINE", "what runs the model that writes and answers", ENGINES),
    "processes": Setting("1", "KM_PROCESSES", "processes that share each step of km train, one a GPU", PROCESSES),
    "vllm_python": Setting(
        "", "KM_VLLM_PYTHON", "the Python of an environment that has vLLM", example="/venv/with/vllm/bin/python"
    ),
    "embedder": Setting(
        "minilm",
        "KM_EMBEDDER",
        "what turns text into vectors: 'minilm', a sentence-transformers model's name, a folder",
    ),
    "prices": Setting(
        "", "KM_PRICES", "what a service takes for a million tokens read, and written", example="0.15,0.60"
    ),
    "max_megabytes": Setting(
        "200", "KM_MAX_MEGABYTES", "the largest file that km reads, in MB, also once it is unpacked", whole=True
    ),
    "max_pages": Setting("5000", "KM_MAX_PAGES", "pages of the longest PDF that km reads", whole=True),
    "max_ratio": Setting("200", "KM_MAX_RATIO", "how many times its size a DOCX or EPUB may unpack to", whole=True),
    "max_seconds": Setting("600", "KM_MAX_SECONDS", "how long reading one file may take, in seconds", whole=True),
    "max_memory": Setting("2000", "KM_MAX_MEMORY", "memory that reading one file may take, in MB", whole=True),
}


@dataclass(frozen=True, slots=True)
class Value:
    """A setting's value and where it came from: "flag", the environment variable's name, the file's path, or "default"."""

    value: str
    origin: str


def home() -> Path:
    """The library's folder: $KM_HOME, else the platform's data directory."""
    given = os.environ.get("KM_HOME")
    return Path(given).expanduser().absolute() if given else Path(platformdirs.user_data_dir("km", appauthor=False))


def config_file() -> Path:
    """config.toml in $KM_HOME, else in the platform's config directory."""
    if os.environ.get("KM_HOME"):
        return home() / "config.toml"
    return Path(platformdirs.user_config_dir("km", appauthor=False)) / "config.toml"


def resolve(flags: Mapping[str, str | None] | None = None) -> dict[str, Value]:
    """Every setting with its value and origin. Raises UsageError for an unknown key or a value outside the choices."""
    file = config_file()
    stored = read_file(file)
    resolved: dict[str, Value] = {}
    for key, setting in SETTINGS.items():
        flag = (flags or {}).get(key)
        variable = os.environ.get(setting.variable)
        if flag is not None:
            value = Value(flag, "flag")
        elif variable:
            value = Value(variable, setting.variable)
        elif key in stored:
            value = Value(stored[key], str(file))
        else:
            value = Value(setting.default, "default")
        if value.origin != "default":
            _check(key, value.value, value.origin)
        resolved[key] = value
    return resolved


def read_file(file: Path) -> dict[str, str]:
    """The settings in a config.toml; {} where there is none. Unknown keys are an error, not a shrug."""
    data = _parsed(file)
    for key, value in data.items():
        try:
            _check(key, value, str(file))
        except UsageError as error:
            raise UsageError(error.message, f"{error.hint} Or: km config unset {key}") from None
    return data


def _parsed(file: Path) -> dict[str, Any]:
    try:
        data: dict[str, Any] = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not valid TOML: {error}.", "Mend or delete it.") from None
    except OSError as error:
        raise KmError(f"{file} cannot be read: {error.strerror}.", "Check its permissions.") from None
    return data


def store(key: str, value: str | None) -> Path:
    """Write one setting to config.toml, keeping comments and order; None removes it. Returns the file's path."""
    import tomlkit

    file = config_file()
    stored = _parsed(file)  # what is wrong in it must not keep anybody from mending it
    if value is not None or (key not in SETTINGS and key not in stored):
        _check(key, value or "", "the command line")
    document = tomlkit.parse(file.read_text("utf-8")) if file.exists() else tomlkit.document()
    if value is None:
        document.pop(key, None)
    else:
        document[key] = value
    temporary = file.with_suffix(".tmp")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as stream:
            stream.write(tomlkit.dumps(document))
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
        for folder in (file.parent, file.parent.parent):  # which may be new
            descriptor = os.open(folder, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    except OSError as error:
        raise ResourceError(
            f"{file} cannot be written: {error.strerror}.", "Check its permissions and the disk's space."
        ) from None
    return file


def _check(key: str, value: object, origin: str) -> None:
    if key not in SETTINGS:
        hint = did_you_mean(key, SETTINGS, "Known settings: " + ", ".join(SETTINGS) + ".")
        raise UsageError(f"there is no setting {key!r} ({origin}).", hint)
    example = SETTINGS[key].default or SETTINGS[key].example
    if not isinstance(value, str):
        raise UsageError(f"the setting {key!r} must be text in quotes ({origin}).", f'For example: {key} = "{example}"')
    if not value.strip():
        raise UsageError(f"the setting {key!r} is empty ({origin}).", f"For example: {example}")
    if SETTINGS[key].whole and not (re.fullmatch("[0-9]{1,9}", value) and int(value)):
        raise UsageError(f"{value!r} is no value for {key!r} ({origin}).", f"Give a whole number, such as {example}.")
    choices = SETTINGS[key].choices
    if choices and value not in choices:
        raise UsageError(f"{value!r} is no value for {key!r} ({origin}).", "Choose one of " + ", ".join(choices) + ".")
