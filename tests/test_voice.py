"""Errors speak with one voice: a sentence on what is wrong, in the middle of which `km: ` stands, and the next step."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "kmcli"
ERRORS = ("KmError", "UsageError", "NotFoundError", "ResourceError", "InterruptedRun", "PartlyDone")
GAP = "…"
"""Stands for what is filled in."""


def text(node: ast.expr) -> str:
    """A string as written, with gaps; only a gap for what is no string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text(node.left) + text(node.right)
    return GAP


def errors() -> Iterator[tuple[str, list[str]]]:
    """Where each error is made, and its message and hint."""
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS:
                yield f"{file.relative_to(SOURCE)}:{node.lineno}", [text(one) for one in node.args[:2]]


def test_a_message_is_a_sentence_that_goes_on_after_the_programs_name() -> None:
    messages = [(where, words[0]) for where, words in errors() if words]
    assert len(messages) > 400
    assert [one for one in messages if not one[1].endswith((".", GAP))] == []
    name = re.compile(r"[A-Z]+[A-Z_.]|Knowledge (Module|Extractor)s?\b")  # TOML, GGUF, OPENAI_BASE_URL
    assert [one for one in messages if one[1][:1].isupper() and not name.match(one[1])] == []


def test_a_hint_is_a_sentence_or_ends_with_what_to_type() -> None:
    hints = [(where, words[1]) for where, words in errors() if len(words) == 2 and words[1]]
    assert len(hints) > 300
    typed = re.compile(r"(: |\bSee )[^.?]*\S")
    assert [one for one in hints if not one[1].endswith((".", "?", GAP)) and not typed.search(one[1])] == []
    assert [one for one in hints if one[1][:1].islower() and not one[1].startswith(("km ", "llama.cpp", "vLLM"))] == []
