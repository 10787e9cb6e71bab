"""Ray: found, connected to, let go, and what its errors mean."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import IO, Any

from kmcli.errors import KmError, ResourceError, UsageError
from kmcli.library.files import open_many

_ASKS = (2, 59)
"""The first Ray that asks for a token where a cluster is begun by `init`."""


def check() -> None:
    """Raises ResourceError where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise ResourceError("there is no Ray in this environment.", "Install it with: pip install 'kmcli[ray]'")


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected. What it prints about lost workers goes nowhere: km says it."""
    check()
    if "://" in address:
        raise UsageError(
            f"{address} is not an address that km can use: it runs on a machine of the cluster.",
            "Run it on the head node, with --ray auto.",
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster started from here tells nobody of it
    open_many()  # the lock of every document that is out is an open file
    import ray

    quiet = {"log_to_driver": False, "logging_level": "CRITICAL"}
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        try:
            with _silent(nowhere):
                try:
                    ray.init(address=address, **quiet)
                except ConnectionError:
                    if address != "auto":
                        raise
                    _require_token(ray)
                    ray.init(address="local", include_dashboard=False, **quiet)
        except (ray.exceptions.RayError, ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise ResourceError(
                f"no Ray cluster can be used at {address}: {_first_line(error).rstrip('.')}.",
                "Is it running, and is its token here (ray get-auth-token)? ray status says so.",
            ) from None
        try:
            yield ray
        finally:
            ray.shutdown()


def _require_token(ray: Any) -> None:
    """Raises ResourceError where a cluster begun here would run whatever anybody in the network sends it."""
    number = re.match(r"(\d+)\.(\d+)", ray.__version__)
    if number is None or (int(number[1]), int(number[2])) < _ASKS:
        raise ResourceError(
            f"this Ray ({ray.__version__}) begins clusters that everybody in the network can use.",
            "Install a newer one: pip install 'kmcli[ray]'",
        )


@contextmanager
def _silent(nowhere: IO[str]) -> Iterator[None]:
    """Within it nothing that this process writes to stderr is seen: Ray's own code prints each attempt to connect."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def reason(error: Exception) -> KmError:
    """Why a batch broke off."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, KmError):
        return cause
    if cause is not None:
        return KmError(f"its worker failed: {type(cause).__name__}: {_first_line(cause)}")
    return ResourceError(
        f"its worker was lost ({type(error).__name__}).",
        "Was there too little memory? Ray's logs tell; the same command tries again.",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].strip()
