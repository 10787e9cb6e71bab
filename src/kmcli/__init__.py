"""km: a local library of documents and their Knowledge Modules.

`kmcli.open()` gives the verbs of the command line to Python programs: docs/python.md.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kmcli.api import Km
    from kmcli.types import Reporter

# torch's threads spin while they wait for each other, and then lose a factor of ten where another program uses the
# processor too. A short spin, then sleep, costs nothing on a quiet machine: docs/experiments.md. Set before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# oneDNN compiles its products for each shape, and torch and oneDNN both keep the last 1,024. With batches of ever other
# lengths that is half a gigabyte which is hardly used again; so many are what a step needs: docs/performance.md.
os.environ.setdefault("LRU_CACHE_CAPACITY", "64")
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

__version__ = "0.1.0"


def open(
    home: str | os.PathLike[str] | None = None,
    *,
    model: str | None = None,
    device: str | None = None,
    preset: str | None = None,
    engine: str | None = None,
    processes: int | None = None,
    embedder: str | None = None,
    extractor: str | None = None,
    on_event: Reporter | None = None,
) -> Km:
    """Open a library, creating it as needed: what `km` does, as methods of what is returned.

    home: the library's folder; None: that of `km` ($KM_HOME, else the platform's). The others outrank environment and
    config.toml for everything done with it, as flags do: model is the base ("embedded", a hub name, a folder), device
    "auto", "cpu", "cuda" or "mps", preset "quick", "standard" or "paper", engine what writes and answers, processes how
    many share a training's steps (one a GPU), embedder what makes vectors, extractor a Knowledge Extractor to answer with.
    on_event: is told of progress (`kmcli.types.Event`); None: warnings become Python's, and progress is not shown.

    For one thread; use it in a `with` statement, or close it. Importing kmcli, and this, import no torch. Raises UsageError
    for a setting that makes no sense, ResourceError where the folder cannot be used.
    """
    from kmcli.api import Km

    return Km(
        home,
        model=model,
        device=device,
        preset=preset,
        engine=engine,
        processes=processes,
        embedder=embedder,
        extractor=extractor,
        on_event=on_event,
    )
