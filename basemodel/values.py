"""Values for slots: names, numbers, dates and so on, thousands of each kind, drawn from a seeded random generator.

Every value belongs for ever to one side: a value whose hash falls into HELD_OUT is never drawn for training, and only such
values are drawn for evaluation (of the kinds that are names; numbers and dates are too few to split). So an answer that is
right on held-out values was read, not remembered.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HELD_OUT = 0.1


def _words(text: str) -> list[str]:
    return [word.strip() for word in (text.replace("\n", " ").split("|") if "|" in text else text.split())]


WORDS = {
    key: _words(text) for key, text in tomllib.loads(Path(__file__).with_name("words.toml").read_text("utf-8")).items()
}


def _pick(r: random.Random, key: str) -> str:
    return r.choice(WORDS[key])


def surname(r: random.Random) -> str:
    return _pick(r, "heads") + _pick(r, "surname_ends")


def town(r: random.Random) -> str:
    return _pick(r, "heads") + _pick(r, "town_ends")


def in_words(number: int) -> str:
    """A whole number from 0 to 99 written out."""
    if number < 20:
        return WORDS["small"][number]
    tens, ones = divmod(number, 10)
    return WORDS["tens"][tens] + ("-" + WORDS["small"][ones] if ones else "")


NAMES: dict[str, Callable[[random.Random], str]] = {
    "person": lambda r: f"{_pick(r, 'first')} {surname(r)}",
    "first": lambda r: _pick(r, "first"),
    "surname": surname,
    "company": lambda r: f"{r.choice((surname, town))(r)} {_pick(r, 'company_ends')}",
    "organisation": lambda r: _pick(r, "organisations").format(r.choice((surname, town))(r)),
    "town": town,
    "street": lambda r: f"{r.choice((surname, town, lambda q: _pick(q, 'nouns')))(r)} {_pick(r, 'street_ends')}",
    "region": lambda r: _pick(r, "regions").format(_pick(r, "heads") + r.choice(("", "en", "er", "a", "o"))),
    "river": lambda r: (
        _pick(r, "heads") + r.choice(("", "a", "e", "en", "er", "le", "ow", "y", "ne", "ra", "ava", "ish"))
    ),
    "hill": lambda r: _pick(r, "hills").format(
        _pick(r, "heads") + r.choice(("", "en", "er", "low", "mor", "a", "ock"))
    ),
    "product": lambda r: (
        f"{_pick(r, 'heads')}{r.choice(('a', 'o', 'ix', 'era', 'on', 'ux', 'ely'))} "
        f"{r.choice((_pick(r, 'product_ends'), str(r.randint(2, 9)), str(10 * r.randint(1, 99))))}"
    ),
    "ship": lambda r: r.choice(
        (
            f"{_pick(r, 'adjectives')} {_pick(r, 'nouns')}",
            f"{_pick(r, 'first')} {_pick(r, 'nouns')}",
            f"{_pick(r, 'first')} {surname(r)}",
        )
    ),
    "book": lambda r: r.choice(
        (
            f"The {_pick(r, 'adjectives')} {_pick(r, 'nouns')}",
            f"{_pick(r, 'adjectives')} {_pick(r, 'nouns')}",
            f"The {_pick(r, 'nouns')} of {town(r)}",
            f"A {_pick(r, 'nouns')} for {_pick(r, 'first')}",
        )
    ),
    "team": lambda r: f"{town(r)} {r.choice(WORDS['team_ends'])}",
    "species": lambda r: f"{_pick(r, 'marks')} {r.choice((_pick(r, 'heads') + ' ', ''))}{_pick(r, 'animals')}",
    "substance": lambda r: (
        (_pick(r, "heads") + r.choice(("", "a", "o", "er", "al"))).lower() + _pick(r, "substance_ends")
    ),
    "project": lambda r: r.choice(
        (f"Project {_pick(r, 'nouns')}", f"Project {_pick(r, 'heads')}{r.choice(('a', 'on', 'is', 'ora'))}")
    ),
    "code": lambda r: f"{''.join(r.choices('ABCDEFGHJKLMNPRSTVWXZ', k=r.randint(1, 3)))}-{r.randint(10, 9999)}",
    "phone": lambda r: r.choice(("{0} {1}", "0{0} {1}", "{0}-{1}", "0{2} {0} {1}")).format(
        r.randint(100, 999), r.randint(1000, 99999), r.randint(11, 99)
    ),
}
"""Kinds whose values are split into training and held-out ones."""

PLAIN: dict[str, Callable[[random.Random], str]] = {
    "room": lambda r: str(r.randint(1, 499)),
    "year": lambda r: str(r.randint(1705, 2032)),
    "date": lambda r: f"{r.randint(1, 28)} {_pick(r, 'months')}",
    "fulldate": lambda r: f"{r.randint(1, 28)} {_pick(r, 'months')} {r.randint(1890, 2032)}",
    "weekday": lambda r: _pick(r, "weekdays"),
    "month": lambda r: _pick(r, "months"),
    "hour": lambda r: r.choice(
        (
            f"half past {in_words(r.randint(1, 12))}",
            f"{in_words(r.randint(1, 12))} o'clock",
            f"{r.randint(1, 12)} {r.choice(('am', 'pm'))}",
            f"{r.randint(0, 23)}:{r.choice(('00', '15', '30', '45'))}",
            f"quarter to {in_words(r.randint(1, 12))}",
        )
    ),
    "percent": lambda r: r.choice(
        (f"{r.randint(1, 99)}%", f"{r.randint(1, 99)} per cent", f"{r.randint(1, 99)}.{r.randint(1, 9)}%")
    ),
    "ordinal": lambda r: _pick(r, "ordinals"),
}


def share_of(text: str) -> float:
    """A number from 0 to 1 that belongs to a text for ever. Case does not matter."""
    return int(hashlib.sha256(text.casefold().encode()).hexdigest()[:8], 16) / 0x1_0000_0000


def held_out(value: str) -> bool:
    """Whether a name belongs to evaluation."""
    return share_of(value) < HELD_OUT


def draw(spec: str, r: random.Random, evaluation: bool) -> str:
    """A value for a slot's type as FORMAT describes it, such as "person", "number 40 900" or "choice red|blue|green|grey".

    Raises ValueError for a type that does not exist.
    """
    kind, _, rest = spec.partition(" ")
    if kind in NAMES:
        while held_out(value := NAMES[kind](r)) != evaluation:
            pass
        return value
    if kind in PLAIN:
        return PLAIN[kind](r)
    if kind == "choice":
        return r.choice([option.strip() for option in rest.split("|")])
    words = rest.split()
    if kind not in ("number", "small", "money", "duration", "measure"):
        raise ValueError(f"no slot type {kind!r}")
    low, high = float(words[0]), float(words[1])
    number = r.randint(int(low), int(high)) if low == int(low) and high == int(high) else round(r.uniform(low, high), 1)
    if kind == "small":
        return in_words(int(number))
    shown = f"{number:,}" if number >= 1000 else f"{number}"
    if kind == "money":
        return _pick(r, "currencies").format(shown)
    return f"{shown} {' '.join(words[2:])}".strip()
