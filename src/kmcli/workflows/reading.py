"""Whether a base reads the language of a document: said, where both are known, before anybody waits for a training."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from kmcli import bases
from kmcli.bases import folder
from kmcli.errors import KmError
from kmcli.ingest.language import NAMES, foreign
from kmcli.types import Document
from kmcli.workflows.house import House

_NAMED = 3
"""Documents that a warning names."""


class Foreign:
    """Documents in languages that a base does not read."""

    def __init__(self, house: House, base: Path | None = None) -> None:
        """base: its folder; None: of the settings' one, if that is on this disk under its own name."""
        model = house.settings["model"].value
        embedded = bases.EMBEDDED_FOLDER if model == bases.EMBEDDED else Path(os.path.expanduser(model))
        self._house = house
        self._read = folder.read_languages(base or embedded)
        self._found: dict[str, list[str]] = {}

    def look(self, name: str, text: str) -> None:
        if self._read and (language := foreign(text, self._read)):
            self._found.setdefault(NAMES[language], []).append(name)

    def tell_of(self, documents: Iterable[Document]) -> None:
        for document in documents if self._read else ():
            with suppress(KmError):  # whatever is to be done with it says why
                self.look(document.name, self._house.library.text(document))
        self.tell()

    def tell(self) -> None:
        """A warning for each language."""
        read = " and ".join(NAMES.get(one, one) for one in self._read)
        for language, names in self._found.items():
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            named = ", ".join(names[:_NAMED]) + more
            self._house.warn(f"{named}: in {language}, it seems, and the base reads {read}; for others see km models")
