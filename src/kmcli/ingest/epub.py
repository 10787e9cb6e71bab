"""EPUB: the chapters in the order of the book's spine, each through the HTML reader."""

from __future__ import annotations

import posixpath
import zipfile
from urllib.parse import unquote

from kmcli.errors import KmError
from kmcli.ingest import archives, html
from kmcli.ingest.limits import Limits
from kmcli.ingest.text import Extract, clean
from kmcli.types import Event, Reporter

_CONTAINER = "{urn:oasis:names:tc:opendocument:xmlns:container}"
_OPF = "{http://www.idpf.org/2007/opf}"
_DC = "{http://purl.org/dc/elements/1.1/}"
_CHAPTERS = ("application/xhtml+xml", "text/html")


def read(data: bytes, name: str, report: Reporter, limits: Limits) -> Extract:
    """Raises KmError for damage, copy protection and zip bombs; reports a chapter that the archive lacks."""
    with archives.opened(data, name, limits) as archive:
        title, paths = _spine(archive, name)
        locked = _locked(archive, name)
        chapters: list[str] = []
        for done, path in enumerate(paths, 1):
            if path in locked:
                raise KmError(f"{name} is protected against copying.", "Only books without DRM can be read.")
            try:
                page = archive.read(path)
            except KeyError:
                report(Event("read", f"{name} lacks its chapter {path}; the rest is read", warning=True))
                continue
            chapters.append(html.from_markup(html.decode(page, name)).text)
            report(Event("read", name, done, len(paths)))
    return Extract(clean("\n\n".join(filter(None, chapters))), title=clean(title))


def _spine(archive: zipfile.ZipFile, name: str) -> tuple[str, list[str]]:
    """The book's title and the archive paths of its chapters, in reading order."""
    root = archives.xml(archive.read("META-INF/container.xml"), name).find(f".//{_CONTAINER}rootfile")
    package_path = root.get("full-path", "") if root is not None else ""
    package = archives.xml(archive.read(package_path), name)
    folder = posixpath.dirname(package_path)
    paths: dict[str, str] = {}
    for item in package.iter(f"{_OPF}item"):
        is_contents = "nav" in item.get("properties", "").split()
        if item.get("media-type") in _CHAPTERS and not is_contents:
            paths[item.get("id", "")] = posixpath.normpath(posixpath.join(folder, unquote(item.get("href", ""))))
    order = [item.get("idref", "") for item in package.iter(f"{_OPF}itemref")]
    title = package.findtext(f".//{_DC}title") or ""
    return title, [paths[chapter] for chapter in dict.fromkeys(order) if chapter in paths]


def _locked(archive: zipfile.ZipFile, name: str) -> set[str]:
    """Paths that META-INF/encryption.xml lists. Fonts may be there in free books; chapters only under DRM."""
    try:
        listed = archives.xml(archive.read("META-INF/encryption.xml"), name)
    except KeyError:
        return set()
    return {unquote(element.get("URI", "")) for element in listed.iter() if element.tag.endswith("CipherReference")}
