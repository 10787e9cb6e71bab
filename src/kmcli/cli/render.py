"""Values to text for people. Pure functions; nothing here knows where the text goes."""

from __future__ import annotations

import dataclasses
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import PurePath
from typing import Any

from kmcli.errors import KmError
from kmcli.types import Score
from kmcli.visible import clean

_MEASURE = re.compile(r"(?<=\d) (?=(?:s|min|h|B|kB|MB|GB|TB)\b)")
"""The blank between a number and its unit, at which no line is broken."""


def one_line(text: str) -> str:
    """`text` cleaned and on one line, for names, table cells and messages."""
    return clean(" ".join(text.split()))


def shorten(text: str, width: int) -> str:
    """`text` on one line, cut to `width` columns; after a word, where that costs no more than a third of them."""
    from rich.cells import cell_len, set_cell_size

    line = one_line(text)
    if cell_len(line) <= width:
        return line
    cut = set_cell_size(line, max(0, width - 3))
    whole = cut.rpartition(" ")[0] if line.startswith(cut) and line[len(cut)] != " " else ""
    return (f"{whole} " if cell_len(whole) * 3 > width * 2 else cut) + "..."


def wrapped(text: str, width: int | None, indent: int = 0, first: str = "") -> str:
    """`text` as one paragraph of lines of at most `width` columns (None: one line).

    indent: columns before every line; first: what stands in them on the first.
    """
    blank = " " * indent
    begin = first or blank
    line = one_line(text)
    if width is None:
        return begin + line
    wrapper = textwrap.TextWrapper(
        max(indent + 20, width - 1),
        initial_indent=begin,
        subsequent_indent=blank,
        break_long_words=False,  # paths and commands stay whole, to be copied
        break_on_hyphens=False,
    )
    return wrapper.fill(_MEASURE.sub("\u00a0", line)).replace("\u00a0", " ")


def table(
    rows: Sequence[Sequence[str]],
    right: Sequence[int] = (),
    width: int | None = None,
    flex: int | Sequence[int] = 0,
) -> list[str]:
    """Rows as aligned lines, columns two spaces apart. right: columns aligned right.

    width: columns the lines may have; then column `flex`, or of several the first and so on, is shortened to fit (None:
    nothing is shortened).
    """
    from rich.cells import cell_len

    cells = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(cell_len(row[column]) for row in cells) for column in range(len(cells[0]))] if cells else []
    if width is not None and cells:
        for column in (flex,) if isinstance(flex, int) else flex:
            over = sum(widths) + 2 * (len(widths) - 1) - width
            widths[column] = max(min(8, widths[column]), widths[column] - max(0, over))
    lines = []
    for row in cells:
        parts = []
        for column, cell in enumerate(row):
            shown = shorten(cell, widths[column])
            gap = " " * (widths[column] - cell_len(shown))
            parts.append(gap + shown if column in right else shown + gap)
        lines.append("  ".join(parts).rstrip())
    return lines


def size(count: int) -> str:
    """Bytes, in decimal units: 512 B, 1.2 MB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def duration(seconds: float) -> str:
    """0.3 s, 42 s, 3 min 10 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def when(moment: str) -> str:
    """An ISO 8601 time as local date and minute; what cannot be read is shown as it is."""
    try:
        return datetime.fromisoformat(moment.replace("Z", "+00:00")).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return moment


def number(value: float) -> str:
    """A counted or measured value, short: 12,345 or 0.312."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def about(value: float, form: Callable[[float], str] = number) -> str:
    """An expected value, to two digits: about 1,200."""
    rounded = float(f"{value:.2g}")
    return f"about {form(rounded)}"


def count(amount: int, thing: str) -> str:
    """1 page, 1,200 pages."""
    return f"{amount:,} {thing}{'' if amount == 1 else 's'}"


def percent(score: Score | None) -> str:
    """A mean with its 95% interval, both in percent; "-" where there is none."""
    if score is None:
        return "-"
    return f"{100 * score.mean:.0f}% ({100 * score.low:.0f}-{100 * score.high:.0f})"


def as_data(value: Any) -> Any:
    """A result as JSON can hold it: dataclasses become objects, paths text, numbers that JSON lacks null."""
    if isinstance(value, KmError):
        return error_data(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_data(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_data(item) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def without_curve(made: Any) -> dict[str, Any]:
    """Something trained as JSON can hold it, without its loss curve, which lies beside its weights."""
    data = dict(as_data(made))
    return data | {"metrics": {key: value for key, value in data["metrics"].items() if key != "curve"}}


def error_data(error: KmError, source: str = "") -> dict[str, Any]:
    """An error as an entry of the envelope's `errors`; source: which of several inputs it is about."""
    data = {"type": type(error).__name__, "message": error.message, "hint": error.hint, "exit_code": error.exit_code}
    return {**data, "source": source} if source else data
