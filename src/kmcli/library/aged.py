"""What an earlier km kept elsewhere in a library."""

from __future__ import annotations

from kmcli.library import files
from kmcli.library.layout import Layout


def clear_cache(layout: Layout) -> None:
    """Delete what was kept of documents beside the cache's other files, before each had a folder there: it would stay when
    its document is removed. It is made again when it is needed."""
    for name in ("vectors", "baked"):
        files.delete(layout.cache / name)
    for file in (layout.cache / "gguf").glob("*-*.gguf"):  # a base's file is named by its revision alone
        files.delete(file)
