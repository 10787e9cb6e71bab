"""Which documents a command line means: names, and @TAG for every document with a tag."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from kmcli.errors import NotFoundError, UsageError, did_you_mean
from kmcli.library import Library, names
from kmcli.types import Document

MARK = "@"
"""Before a tag where a name may stand. No name begins with it."""


def find_all(library: Library, given: Sequence[str]) -> list[Document]:
    """The documents of names and tags, each once, in the order given; those of a tag by name.

    Raises NotFoundError for a name that does not exist and for a tag that no document has.
    """
    found: dict[str, Document] = {}
    for word in given:
        documents = tagged(library, word) if word.startswith(MARK) else [library.find(word)]
        found |= {document.id: document for document in documents if document.id not in found}
    return list(found.values())


def find_one(library: Library, given: str) -> Document:
    """The document of a name, or the only one with a tag.

    Raises NotFoundError for one that does not exist, UsageError for a tag that several have.
    """
    (first, *others) = find_all(library, [given])
    if others:
        count = len(others) + 1
        raise UsageError(
            f"{given} stands for {count:,} documents, and only one can be named here.", f"km ls --tag {given}"
        )
    return first


def named_or_all(library: Library, given: Sequence[str], everything: bool, example: str) -> list[Document]:
    """The documents to train. Raises UsageError where it is said twice, or not at all, NotFoundError where there is none."""
    if everything and given:
        raise UsageError("--all is every document, and some are named.", "Leave one of them out.")
    if not everything and not given:
        raise UsageError("name the documents to train, or say --all.", f"For example: {example}")
    documents = library.documents() if everything else find_all(library, given)
    if not documents:
        raise NotFoundError("the library is empty.", "Add a document with: km add FILE")
    return documents


def tagged(library: Library, tag: str) -> list[Document]:
    """Every document with a tag, by name; the tag with or without its mark. Raises NotFoundError where there is none."""
    found = library.catalogue.documents(tag)
    if not found:
        wanted = tag.removeprefix(MARK)
        known = list(library.catalogue.tags())
        hint = did_you_mean(wanted, known, f"The tags are {', '.join(known)}." if known else _MAKE)
        raise NotFoundError(f"no document has the tag {wanted!r}.", hint)
    return found


_MAKE = "Give it to some: km tag NAME... --add TAG"


def carries(document: Document, tag: str) -> bool:
    """Without regard to case or to how Unicode spells it."""
    return names.key(tag.removeprefix(MARK)) in keys(document.tags)


def keys(tags: Collection[str]) -> set[str]:
    return set(map(names.key, tags))
