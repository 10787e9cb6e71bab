"""The library: documents, their study material and their Knowledge Modules on disk, under one folder.

    library.py    Library: what the rest of km calls
    material.py   the part of Library that is about study material; locking a document
    catalogue.py  documents by name, tag and change, looked up and not looked for
    published.py  the file of names that shells complete from
    layout.py     where everything lies below the folder
    contents.py   a document's own files: written, verified, described
    names.py      friendly names: made, checked, kept apart
    files.py      writing so that a crash loses nothing that was reported done
    database.py   the SQLite file, its transactions and what its errors mean
    locks.py      one lock per document, across processes
    trained.py    what the Library has of Knowledge Modules, and those that are kept beside the one that answers
    modules.py    Knowledge Modules: committed, replaced, read back
    parcels.py    a document as data, for other machines to work on
    samples.py    study material: a file of JSON lines that only grows
    conversations.py  what was asked in km chat, and the answers
    check.py      what can be damaged, and mending what can be mended

It knows nothing of models, text extraction or training: it is handed values and folders.
"""

from kmcli.library.check import Finding
from kmcli.library.library import Added, Library

__all__ = ["Added", "Finding", "Library"]
