"""The text of an answer while its tokens come: pieces that nothing later can change, up to a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class Text:
    """White space at the answer's ends is left out, as in every answer of km. stopped: a stop string has come."""

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stops = [stop for stop in stops if stop]
        self._ids: list[int] = []
        self._start = 0  # of the tokens that are decoded again, because a token's text depends on the one before it
        self._read = 0  # of the tokens whose text is not known yet
        self._held = ""  # text that may still turn out to be white space at the end, or a stop string
        self._any = False
        self.stopped = False

    def add(self, token: int) -> str:
        """The piece that this token completes, often empty."""
        self._ids.append(token)
        grown = self._decode(self._ids[self._start :])
        if grown.endswith("\ufffd"):  # half of a character
            return ""
        return self._take(grown)

    def end(self) -> str:
        """The last piece."""
        piece = self._take(self._decode(self._ids[self._start :]))
        rest, self._held = self._held, ""
        return piece if self.stopped else (piece + rest).rstrip() if self._any else rest.strip()

    def _take(self, grown: str) -> str:
        if self.stopped:
            return ""
        known = self._decode(self._ids[self._start : self._read])
        self._start, self._read = self._read, len(self._ids)
        self._held += grown[len(known) :]
        if not self._any:
            self._held = self._held.lstrip()
        found = [place for place in map(self._held.find, self._stops) if place >= 0]
        if found:
            self.stopped = True
            cut = min(found)
        else:
            cut = len(self._held) - max((self._begun(stop) for stop in self._stops), default=0)
        piece = self._held[:cut].rstrip()
        self._held = self._held[len(piece) :]
        self._any = self._any or bool(piece)
        return piece

    def _begun(self, stop: str) -> int:
        """How many characters at the end may be the beginning of a stop string."""
        return next((size for size in range(len(stop) - 1, 0, -1) if self._held.endswith(stop[:size])), 0)
