"""What is to be parsed, beside the bytes themselves: all that a parser in another process has to be told."""

from __future__ import annotations

from dataclasses import dataclass

from kmcli.ingest.limits import Limits
from kmcli.ingest.text import Extract


@dataclass(frozen=True, slots=True)
class Task:
    """name: what the person calls the source; it belongs in every message. suffix: of its name, "" where it tells nothing.

    url, charset: of a page from the web, of which the article alone is wanted, as the server says.
    """

    name: str
    suffix: str
    limits: Limits
    url: str = ""
    charset: str = ""


Parsed = tuple[str, Extract]
"""The kind that the bytes turned out to be, and what is in them."""
