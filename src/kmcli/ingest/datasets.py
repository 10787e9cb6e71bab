"""Documents from a dataset on the Hugging Face hub: hf://datasets/OWNER/NAME, with @REVISION and /FILE where wanted.

What is downloaded stays in huggingface_hub's own cache. Of a dataset or a folder in it, the JSONL files are taken; a file
that is named may be of any kind that km reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from kmcli.bases import hub, hub_errors, transfer
from kmcli.errors import KmError, NotFoundError, ResourceError, UsageError, did_you_mean
from kmcli.ingest import records
from kmcli.ingest.limits import Limits
from kmcli.types import Reporter

SCHEME = "hf://"
_PART = r"[A-Za-z0-9_][\w.-]*"
_ADDRESS = re.compile(rf"hf://datasets/({_PART}/{_PART})(?:@([\w.-]+))?(?:/(.*))?", re.ASCII)
_DOWNLOAD = "Download the file you want, and add that."
_SPELLING = "Check the spelling: km add hf://datasets/OWNER/NAME/FILE.jsonl"


def fetch(source: str, report: Reporter, limits: Limits) -> list[tuple[str, Path]]:
    """Download the files of a source: the address of each, and where it lies.

    Raises UsageError for an address that is none, NotFoundError for a dataset or file that does not exist, ResourceError
    where the hub cannot be reached or refuses, KmError where the dataset holds nothing that can be read.
    """
    found = _ADDRESS.fullmatch(source)
    if not found:
        raise UsageError(f"{source} is no address of a dataset.", "For example: km add hf://datasets/OWNER/NAME")
    name, revision, path = found[1], found[2], (found[3] or "").strip("/")
    hub.check_endpoint()
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HTTPError

    cache = Path(constants.HF_HUB_CACHE).expanduser()
    commit, arrived = "", []
    try:
        with hub.quietly():
            commit, sizes = _listing(name, revision)
            chosen = _chosen(sizes, path, source, limits)
            meter = transfer.Meter(report, name, sum(sizes[file] for file in chosen))
            for file in chosen:
                bar = meter.bar()
                arrived.append(hf_hub_download(name, file, repo_type="dataset", revision=commit, tqdm_class=bar))
                meter.settle(sizes[file])
    except (HTTPError, OSError) as error:
        raise _explained(error, name, revision, cache, connected=bool(commit)) from None
    top = f"{SCHEME}datasets/{name}" + (f"@{revision}" if revision else "")
    return [(f"{top}/{file}", Path(where)) for file, where in zip(chosen, arrived, strict=True)]


def _listing(name: str, revision: str | None) -> tuple[str, dict[str, int]]:
    """The commit that is meant, and the size in bytes of each of its files."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = HfApi().dataset_info(name, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except HfHubHTTPError:
        raise
    except UnicodeEncodeError:
        raise hub_errors.bad_token() from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise hub_errors.not_a_hub() from None
    if not info.sha:
        raise hub_errors.not_a_hub()
    return info.sha, {file.rfilename: file.size or 0 for file in info.siblings or []}


def _chosen(sizes: Mapping[str, int], path: str, source: str, limits: Limits) -> list[str]:
    inside = [file for file in sizes if not path or file == path or file.startswith(f"{path}/")]
    if not inside:
        raise NotFoundError(f"there is no file {source}.", did_you_mean(path, sizes, "Check the path."))
    chosen = [file for file in inside if file == path or file.lower().endswith(records.SUFFIXES)]
    if not chosen or path.lower().endswith(".parquet"):
        others = ", but " + ", ".join(sorted({Path(file).suffix for file in inside} - {""}))
        what = f"holds no JSONL{others}" if not chosen else "is a Parquet file, which km does not read"
        raise KmError(f"{source} {what}.", 'Save it as JSONL: dataset.to_json("documents.jsonl")')
    for file in chosen:
        limits.check_size(sizes[file], f"{file} of {source}")
    return sorted(chosen)


def _explained(error: Exception, name: str, revision: str | None, cache: Path, *, connected: bool) -> KmError:
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    if isinstance(error, OfflineModeIsEnabled):
        return ResourceError(f"HF_HUB_OFFLINE forbids to look at the dataset {name}.", f"Unset it. {_DOWNLOAD}")
    if isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError):
        return NotFoundError(f"there is no dataset {name} on the hub, or it is private.", _SPELLING)
    if isinstance(error, HTTPError) and not isinstance(error, HfHubHTTPError) and not connected:
        return ResourceError(f"cannot reach the hub at {hub_errors.address()}.", f"Try again later. {_DOWNLOAD}")
    return hub_errors.explain(error, f"datasets/{name}", revision, cache, connected=connected)
