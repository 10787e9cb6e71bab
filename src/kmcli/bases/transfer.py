"""Bytes from the hub into a file, in as many attempts as it takes, and how far they have come.

huggingface_hub throws a half-downloaded file away when it fails; here the next run continues it.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

from kmcli.bases.hub_errors import damaged
from kmcli.types import Event, Reporter

RETRIES = 5
"""How often a cut transfer is taken up again without a byte arriving, before it fails."""
PAUSE = 1.0
"""Seconds before it is; doubles each time."""


class Meter:
    """Bytes of all files together, as Events that never go back and end at the total. Total 0: not known, no Events."""

    def __init__(self, report: Reporter, name: str, total: int) -> None:
        self.report, self.name, self.total = report, name, total
        self.settled = 0
        self.shown = -1

    def arrived(self, current: int) -> None:
        """So many bytes of the current file are here."""
        done = min(self.settled + current, self.total)
        if self.total and done > self.shown:
            self.shown = done
            self.report(Event("download", self.name, done, self.total))

    def settle(self, size: int) -> None:
        """The current file is finished; the next begins."""
        self.settled += size
        self.arrived(0)

    def bar(self) -> type[Any]:
        """What huggingface_hub takes for a tqdm class: it draws nothing, and counts here."""
        meter = self

        class Bar:
            def __init__(self, *_: object, total: int | None = None, initial: int = 0, **__: object) -> None:
                self.total, self.n = total, initial

            def update(self, n: float | None = 1) -> None:
                self.n += int(n or 0)
                meter.arrived(self.n)

            def nothing(self, *_: object, **__: object) -> None:
                pass

            # xet counts bytes on the wire (update_transfer) apart from bytes in the file (update).
            update_transfer = set_postfix_str = set_transfer_postfix_str = set_description = nothing
            set_description_str = refresh = close = __exit__ = nothing

            def __enter__(self) -> Bar:
                return self

        return Bar


def download(url: str, blob: Path, sha256: str, size: int, meter: Meter) -> None:
    """Fetch a file of `size` bytes into `blob`, going on from what an earlier attempt left beside it.

    The caller holds the lock on the blob. Raises huggingface_hub's and its HTTP client's errors when the server refuses
    or the connection stays cut, ResourceError where the content is not what its hash says.
    """
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    partial = partial_of(blob)
    failures = 0
    while (before := size_of(partial)) < size:
        error: Exception = damaged(meter.name)
        try:
            _stream(url, partial, before, meter)
        except HTTPError as cut:
            if isinstance(cut, HfHubHTTPError) and cut.response.status_code < 500:
                raise
            error = cut
        failures = 0 if size_of(partial) > before else failures + 1
        if failures > RETRIES:
            raise error
        if failures:
            meter.report(Event("download", "the connection was cut: trying again", warning=True))
            time.sleep(PAUSE * 2 ** (failures - 1))
    if _sha256(partial) != sha256:
        partial.unlink()
        raise damaged(meter.name)
    partial.replace(blob)


def _stream(url: str, partial: Path, start: int, meter: Meter) -> None:
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    # Redirects lead to other hosts; the HTTP client keeps the token from those.
    with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
        hf_raise_for_status(response)
        if response.status_code != 206:  # a server that knows no ranges starts from the beginning
            start = 0
        with partial.open("ab" if start else "wb") as file:
            for block in response.iter_bytes():
                file.write(block)
                start += len(block)
                meter.arrived(start)


def partial_of(blob: Path) -> Path:
    """Not huggingface_hub's ".incomplete": older versions of it left files with holes under that name."""
    return blob.with_name(f"{blob.name}.km-partial")


def size_of(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
