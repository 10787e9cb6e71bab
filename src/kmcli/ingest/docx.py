"""Word documents: mammoth makes HTML of them, which goes through the HTML reader."""

from __future__ import annotations

import io
import logging

from kmcli.ingest import archives, html
from kmcli.ingest.limits import Limits
from kmcli.ingest.text import Extract
from kmcli.types import Reporter


def read(data: bytes, name: str, report: Reporter, limits: Limits) -> Extract:
    """Headings, lists, tables and notes are kept, pictures are not. Raises KmError for damage and for zip bombs."""
    import mammoth

    logging.getLogger("mammoth").setLevel(logging.CRITICAL)
    with archives.opened(data, name, limits) as archive:
        for part in archive.namelist():
            if part.endswith((".xml", ".rels")):
                archives.xml(archive.read(part), name)  # mammoth's own parser would expand entities
    try:
        result = mammoth.convert_to_html(
            io.BytesIO(data),
            convert_image=mammoth.images.img_element(lambda image: {}),
            include_embedded_style_map=False,
            ignore_empty_paragraphs=True,
        )
    except (LookupError, ValueError, TypeError, AttributeError, OSError, RecursionError):
        raise archives.damaged(name) from None
    return html.from_markup(result.value)
