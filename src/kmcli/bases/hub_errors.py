"""What can go wrong between this machine and the model hub, as sentences. No text of a server or library is passed on:
it is long, and may hold what must not be shown."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from urllib.parse import urlsplit

from kmcli.errors import ResourceError

AGAIN = "What was downloaded is kept: run the same command again."
SPELLING = "Check the spelling; a folder on this machine is given by its path, and --model embedded is always there."
OFFLINE = "These work without a connection: --model embedded, or a model's folder on this machine."


def explain(error: Exception, name: str, revision: str | None, cache: Path, *, connected: bool) -> ResourceError:
    """The sentence for what huggingface_hub, its HTTP client or the file system raised.

    connected: the hub has answered before, so a failed request means a cut and not that there is no way there.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import (
        FileMetadataError,
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    while isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    page = f"{address()}/{name}"
    if isinstance(error, OfflineModeIsEnabled):
        return ResourceError(
            f"{name} is not completely on this machine, and HF_HUB_OFFLINE forbids downloading it.",
            "Unset HF_HUB_OFFLINE, or use --model embedded or a model's folder.",
        )
    if isinstance(error, GatedRepoError):
        return ResourceError(
            f"{name} is given only to people who accepted its licence.",
            f"Accept it at {page}, then set HF_TOKEN to a token of that account.",
        )
    if isinstance(error, RevisionNotFoundError):
        return ResourceError(f"{name} has no revision {revision!r}.", f"Its branches and tags are listed at {page}.")
    if isinstance(error, RepositoryNotFoundError):
        return ResourceError(f"there is no model {name} on the hub, or it is private.", SPELLING)
    if isinstance(error, HfHubHTTPError):
        return _refused(error.response.status_code, name, page, bool(get_token()))
    if isinstance(error, HTTPError):
        if connected:
            return ResourceError(f"the connection was cut while {name} was being downloaded.", AGAIN)
        return ResourceError(f"cannot reach the model hub at {address()}.", OFFLINE)
    if isinstance(error, FileMetadataError):
        return not_a_hub()
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(
            f"the disk is full: {name} does not fit into {cache}.",
            f"Make room, or set HF_HOME to another disk. {AGAIN}",
        )
    if isinstance(error, OSError) and error.errno is not None:
        return ResourceError(
            f"{name} cannot be stored in {cache}: {os.strerror(error.errno)}.",
            "Mend that folder's permissions, or set HF_HOME to another one.",
        )
    return ResourceError(f"the download of {name} failed.", f"{AGAIN} HF_HUB_DISABLE_XET=1 takes another way there.")


def _refused(status: int, name: str, page: str, has_token: bool) -> ResourceError:
    if status == 401 and has_token:
        return ResourceError("the hub does not accept the token it was given.", "Renew HF_TOKEN, or unset it.")
    if status in (401, 403):
        return ResourceError(
            f"the hub does not give {name} to everybody.",
            f"See {page} for who may have it, then set HF_TOKEN to a token that may read it.",
        )
    if status == 404:
        return ResourceError(f"there is no model {name} on the hub, or it is private.", SPELLING)
    if status == 429:
        return ResourceError("the hub has had too many requests from here.", f"Wait a few minutes. {AGAIN}")
    return ResourceError(
        f"the model hub at {address()} failed (status {status}) when asked for {name}.", f"Wait a little. {AGAIN}"
    )


def not_a_hub() -> ResourceError:
    return ResourceError(
        f"{address()} does not answer like a model hub.", "Check HF_ENDPOINT, and whether this network wants a login."
    )


def bad_token() -> ResourceError:
    return ResourceError("the hub's token holds characters that no token has.", "Set HF_TOKEN again, or unset it.")


def incomplete(name: str, file: str) -> ResourceError:
    return ResourceError(f"{name} is incomplete on the hub: {file} is missing there.", "Take another model.")


def damaged(name: str) -> ResourceError:
    return ResourceError(f"a file of {name} arrived damaged and was thrown away.", AGAIN)


def disk_full(name: str, cache: Path, needed: int, free: int) -> ResourceError:
    return ResourceError(
        f"{name} needs {needed / 1e9:.1f} GB and only {free / 1e9:.1f} GB are free in {cache}.",
        "Make room, or set HF_HOME to another disk.",
    )


def no_base(name: str, files: list[str]) -> ResourceError:
    """For a repository without the files that a base needs."""
    if "adapter_config.json" in files:
        return ResourceError(f"{name} is an adapter and no base.", "Take the base that its page names.")
    if any(file.endswith(".gguf") for file in files):
        return ResourceError(
            f"{name} holds GGUF files, and km needs the safetensors weights.", "Take the model they were made from."
        )
    if "config.json" not in files:
        return ResourceError(f"{name} is no model that transformers can load: it has no config.json.", SPELLING)
    return ResourceError(
        f"{name} has no safetensors weights, and pickled ones could run code.", "Take a model that has them."
    )


def address() -> str:
    """Where the hub is, without a user name and password that somebody wrote into HF_ENDPOINT."""
    from huggingface_hub import constants

    parts = urlsplit(constants.ENDPOINT)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
