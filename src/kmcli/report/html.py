"""HTML by function calls: whatever is not Html already is escaped where it is put in."""

from __future__ import annotations

import html
from collections.abc import Iterable

from kmcli.visible import clean

_VOID = {"meta", "input", "br"}


class Html(str):
    """Markup. Made by `el` and `join` alone, so that text of a document never is."""

    __slots__ = ()


Part = str | int | None
"""Html as it is, any other text escaped with control characters as visible escapes; None: nothing."""


def text(value: object) -> Html:
    return value if isinstance(value, Html) else Html(html.escape(clean(str(value))))


def join(parts: Iterable[Part]) -> Html:
    return Html("".join(text(part) for part in parts if part is not None))


def el(name: str, /, *inside: Part, **attributes: str | float | bool | None) -> Html:
    """An element. In names of attributes _ stands for -, and one at the end for nothing (class_). True: the attribute
    alone; False and None: none."""
    written = "".join(
        f" {_attribute(key)}" if value is True else f' {_attribute(key)}="{text(_short(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{written}>" if name in _VOID else f"<{name}{written}>{join(inside)}</{name}>")


def wide_table(class_: str, label: str, heads: Iterable[Part], rows: Iterable[Part]) -> Html:
    """A table that scrolls by itself, by keyboard as well, where the window is narrower."""
    table = el("table", el("thead", el("tr", *heads)), el("tbody", *rows), class_=class_)
    return el("div", table, class_="wide", tabindex="0", role="region", aria_label=label)


def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _short(value: str | float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
