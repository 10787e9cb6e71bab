"""Names: whatever the title, they can be typed, told apart, and given back to km."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmcli.errors import UsageError
from kmcli.library import names

anything = st.text(st.characters(exclude_categories=()), max_size=200)


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Annual Report_2024 (final)", "annual-report-2024-final"),
        ("v1.2 notes", "v1.2-notes"),
        ("  -- @home", "home"),
        ("../../etc/passwd", "etcpasswd"),
        ("a\u202eb\x00c\u200d", "abc"),
        ("Ünïcödé", "ünïcödé"),
        ("文書 二", "文書-二"),
        ("हिन्दी", "हिन्दी"),
        ("ＦＵＬＬ　ｗｉｄｔｈ", "full-width"),
        ("\u3164\u115f", "document"),
        ("", "document"),
        ("***", "document"),
        ("x" * 200, "x" * 60),
        ("trailing.-", "trailing"),
        ("\udcff\ud800", "document"),
    ],
)
def test_friendly(title: str, name: str) -> None:
    assert names.friendly(title) == unicodedata.normalize("NFKC", name)


@given(anything)
def test_every_title_gives_a_name_that_obeys_the_rules(title: str) -> None:
    name = names.friendly(title)
    assert 1 <= len(name) <= 60
    assert name[0] not in "-@."
    assert name == name.lower()
    assert not any(unicodedata.category(char)[0] in "CZ" or char in "/\\_@" for char in name)
    assert names.friendly(name) == name
    assert names.checked(name) == name


DOTLESS = "\u0131"
"""The one letter whose upper case is another's: Unicode folds I to i, and leaves this as it is."""


def test_an_i_without_a_dot_is_a_letter_of_its_own() -> None:
    assert names.key(DOTLESS) == DOTLESS
    assert names.key(DOTLESS.upper()) == names.key("I") == names.key("i") == "i"


@given(anything)
def test_case_and_spelling_make_no_difference(title: str) -> None:
    name = names.friendly(title)
    assert names.key(name.upper()) == names.key(name.replace(DOTLESS, "i"))
    assert names.key(unicodedata.normalize("NFD", name)) == names.key(name)


@given(anything, st.integers(2, 10**9))
def test_a_numbered_name_is_allowed_and_another(title: str, number: int) -> None:
    name = names.numbered(names.friendly(title), number)
    assert names.checked(name) == name
    assert name.endswith(f"-{number}")
    assert names.key(name) != names.key(names.friendly(title)) or names.friendly(title).endswith(f"-{number}")


def test_a_numbered_name_is_no_longer_than_a_name() -> None:
    assert names.numbered("report", 2) == "report-2"
    assert names.numbered("x" * 60, 2) == "x" * 58 + "-2"
    assert names.numbered("x" * 57 + ".yz", 12) == "x" * 57 + "-12"


@pytest.mark.parametrize("name", ["", "-x", "@x", ".x", "a b", "a_b", "a/b", "a\x00", "a\u202e", "x" * 61, "\u0301a"])
def test_a_given_name_must_obey_the_rules(name: str) -> None:
    with pytest.raises(UsageError) as refused:
        names.checked(name)
    assert refused.value.message == f"{name!r} cannot be the name of a document."
    example = refused.value.hint.rpartition(" such as ")[2]
    assert names.checked(example) == example == names.friendly(name)


def test_a_given_name_is_taken_in_lower_case() -> None:
    assert names.checked("Report.V2") == "report.v2"
