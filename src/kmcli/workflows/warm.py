"""A `km serve` that runs already answers for `km ask`: each server leaves a note in the library's folder.

What keeps that safe: the note, `servers/PID.json`, is its owner's alone (0600 in a folder 0700), and only such a one is
read. Its token is made for that one process; it is a second key, taken from this machine only, so the key that a person
chose for clients is written nowhere. Before anything is asked the server proves that it knows the token
(`engines/server.py`), because after a crash the port may be another user's. Only loopback addresses are noted, and used.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kmcli.bases import Base
from kmcli.errors import ResourceError
from kmcli.library import processes
from kmcli.library.files import explained, make_folder, write
from kmcli.workflows.extracting import served_name
from kmcli.workflows.house import House

if TYPE_CHECKING:
    from kmcli.engines.server import Cold, ServerEngine
    from kmcli.workflows.answering import Member


@contextmanager
def noted(house: House, url: str, base: Base, token: str) -> Iterator[None]:
    """While a server runs, it can be found. Where it cannot be noted, it serves all the same."""
    local = _loopback(url)
    if local is None:
        yield
        return
    file = _folder(house) / f"{os.getpid()}.json"
    note = {**processes.this(), "url": local, "revision": base.revision, "token": token}
    with contextlib.suppress(ResourceError), explained(file.parent):
        make_folder(file.parent)
        write(file, json.dumps(note).encode())
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink()


def engine_of(house: House, base: Base, members: Sequence[Member], cold: Callable[[], Cold]) -> ServerEngine | None:
    """A server that has this very base, with the one Knowledge Module or none on it; None where there is no such server.

    Not where a flag says what is to answer. cold: what answers where the server leaves.
    """
    settings = house.settings
    chosen = settings["engine"].value in ("hf", "llamacpp") or "flag" in (
        settings["engine"].origin,
        settings["device"].origin,
    )
    if chosen or len(members) > 1 or any(member.weight != 1.0 for member in members):
        return None
    names = [served_name(house, member.document, member.module) for member in members]
    if None in names:
        return None
    for note in _notes(_folder(house)):
        if note["revision"] != base.revision or _loopback(note["url"]) != note["url"]:
            continue
        from kmcli.engines import server

        try:
            found = server.Server(note["url"], note["token"], base.revision)
        except server.LOST:
            continue
        return server.ServerEngine(found, base.name, base.revision, (names and names[0]) or found.base_name, cold)
    return None


def _notes(folder: Path) -> Iterator[dict[str, Any]]:
    """Of servers that may still run. Those of processes that have ended are deleted."""
    for file in sorted(folder.glob("*.json")):
        try:
            stat = file.stat()
            if stat.st_uid != os.geteuid() or stat.st_mode & 0o077:
                continue
            note: dict[str, Any] = json.loads(file.read_text("utf-8"))
            if not processes.here(note):
                continue
            if processes.lives(note["pid"]):
                yield {"url": str(note["url"]), "revision": note["revision"], "token": str(note["token"])}
            else:
                file.unlink()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue


def _folder(house: House) -> Path:
    return house.library.home / "servers"


def _loopback(url: str) -> str | None:
    """The same, as this machine reaches it; None where it does not by loopback."""
    try:
        address = urlsplit(url)
        host = ipaddress.ip_address(address.hostname or "")
        port = address.port
    except ValueError:
        return None
    if not (host.is_loopback or host.is_unspecified):
        return None
    if host.is_unspecified:
        host = ipaddress.ip_address("127.0.0.1" if host.version == 4 else "::1")
    return f"http://{host}:{port}" if host.version == 4 else f"http://[{host}]:{port}"
