"""km from Python: `kmcli.open()` gives the verbs of the command line as methods.

    shelf.py  Shelf: what is in the library, and how km is set up
    giving.py Giving: export, import, serve, extractors
    km.py     Km: training, asking, comparing; what `kmcli.open` gives
    given.py  what callers may give: names, settings, several inputs of which some fail

To add a verb: a method in one of these that calls the workflow's function and returns its frozen result, or raises. Its
docstring says shapes, units and errors. Nothing is printed: whoever opened the library is told by `on_event`.
"""

from __future__ import annotations

from kmcli.api.given import Named
from kmcli.api.km import Km, Reply

__all__ = ["Km", "Named", "Reply"]
