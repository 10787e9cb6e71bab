"""Serving: the library as an OpenAI-compatible server."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from kmcli.bases import Base
from kmcli.errors import KmError, NotFoundError, ResourceError, UsageError
from kmcli.library.extractors import Extractor
from kmcli.serving import Entry, Limits
from kmcli.types import Document
from kmcli.workflows import extracting, warm
from kmcli.workflows.house import House, untrained


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that is about to answer. others: Knowledge Modules that do not fit its base."""

    url: str
    base: str
    engine: str
    modules: int
    others: int


@dataclass(frozen=True, slots=True)
class Served:
    """What a server did. interrupted: Ctrl-C ended it."""

    url: str
    base: str
    engine: str
    requests: int
    prompt_tokens: int
    output_tokens: int
    interrupted: bool


def serve(
    house: House, host: str, port: int, key: str | None, limits: Limits, on_ready: Callable[[Serving], None]
) -> Served:
    """Serve the base that the settings name, and every Knowledge Module that fits it, until a signal ends it.

    key: what clients must send; without one only this machine is served. Raises UsageError where `host` is open to
    others and there is no key, and what `open_backend` raises.
    """
    from kmcli.serving.app import is_local

    if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key != ""):
        raise UsageError("the API key is empty, or has spaces at its ends or characters other than ASCII's.", _KEY)
    if key is None and not is_local(host):
        raise UsageError(f"{host} can be reached from other machines, and there is no API key.", _KEY)
    from kmcli.serving import server
    from kmcli.serving.counts import Counts
    from kmcli.serving.service import Service
    from kmcli.workflows.backends import open_backend

    base = house.base()
    house.announce(base)
    extracting.require_base(extracting.chosen_for_modules(house), base)
    sock = server.listen(host, port)
    try:
        url = server.url(sock)
        catalogue = LibraryCatalogue(house, base)
        counts = Counts()
        backend = open_backend(house, base, limits, counts)
        service = Service(base, backend, catalogue, limits, counts)
        for entry in catalogue.entries():
            if entry.name == service.base_id:
                house.warn(f"{entry.name} is the base's name here: its Knowledge Module is the model {entry.pinned}")
        found, others = sum(WITH not in one.name for one in catalogue.entries()), len(catalogue.others())
        token = secrets.token_urlsafe(32)
        with warm.noted(house, url, base, token):
            on_ready(Serving(url, service.base_id, backend.name, found, others))
            ended_by = server.run(server.make(service, key, house.warn, token), sock)
    finally:
        sock.close()
    return Served(
        url,
        service.base_id,
        backend.name,
        counts.total("km_requests_total"),
        counts.total("km_prompt_tokens_total"),
        counts.total("km_completion_tokens_total"),
        ended_by == signal.SIGINT,
    )


_KEY = "Give one: --api-key KEY, or KM_API_KEY in the environment."


WITH = "+"
"""Between a document's name and an extractor's in the name of a model. Neither has it in its own."""


def _with(entry: Entry, extractor: Extractor) -> Entry:
    """The model that an extractor makes of another; its files may not be there yet."""
    module = replace(entry.module, id=extracting.baked_id(entry.module, extractor))
    return replace(entry, name=f"{entry.name}{WITH}{extractor.name}", module=module)


class LibraryCatalogue:
    """A library as `serving` sees it: the documents whose Knowledge Modules fit one base, each by itself and, as
    NAME+EXTRACTOR, with an extractor: with any when asked for, with the one that --extractor names in the list."""

    def __init__(self, house: House, base: Base) -> None:
        self._house, self._base = house, base

    def entries(self) -> list[Entry]:
        found = [entry for entry in self._all() if isinstance(entry, Entry) and not entry.warning]
        extractor = extracting.chosen(self._house)
        return found + [_with(entry, extractor) for entry in found if extractor]

    def others(self) -> list[KmError]:
        """Why modules cannot be served."""
        return [entry for entry in self._all() if isinstance(entry, KmError)]

    def find(self, name: str) -> Entry | None:
        name, _, with_extractor = name.partition(WITH)
        try:
            document = self._house.library.find(name)
            extractor = self._house.library.extractors.find(with_extractor) if with_extractor else None
        except NotFoundError:
            return None
        found = self._look(document) or untrained(document)
        if isinstance(found, KmError):
            raise found
        if extractor is None:
            return found
        house = replace(self._house, extractor=extractor.name)
        extracting.chosen_for_modules(house)
        return replace(_with(found, extractor), module=extracting.baked(house, document, found.module, extractor))

    def _all(self) -> Iterator[Entry | KmError]:
        return filter(None, map(self._look, self._house.library.documents()))

    def _look(self, document: Document) -> Entry | KmError | None:
        """The document's module, or why it cannot be used here; None where it has none."""
        try:
            module = self._house.library.module(document)
            if module is None:
                return None
            recipe, base = module.recipe, self._base
            if (recipe.model, recipe.revision) != (base.name, base.revision):
                return self._house.outdated(document, module) or self._other_base(document, recipe.model)
        except KmError as error:
            return error
        warning = ""
        if module.text_sha256 != document.text_sha256:
            warning = f"{document.name} has changed since its Knowledge Module was trained: km train {document.name}"
        return Entry(document.name, module, warning)

    def _other_base(self, document: Document, model: str) -> ResourceError:
        if model == self._base.name:
            return ResourceError(
                f"the Knowledge Module of {document.name} was trained on another version of {model}.",
                f"Train it on the one that is here: km train {document.name}",
            )
        return ResourceError(
            f"the Knowledge Module of {document.name} fits {model}, and this server runs {self._base.name}.",
            f"Serve that base: km serve --model {model}",
        )
