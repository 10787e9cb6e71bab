"""What km rests on: declared, and without the holes that would undo a guard of its own. Needs no network; `make audit` asks
the public list about all that is installed."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from audit import judged

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
DECLARED = [Requirement(one) for one in PROJECT["dependencies"]]

HOLES = {
    "jinja2": ("3.1.6", "GHSA-cpwx-vrp4-4pq7: a chat template leaves the sandbox by the filter attr"),
    "h11": ("0.16", "GHSA-vqfr-h8mv-ghfj: a request hides in the chunks of another"),
    "torch": ("2.6", "GHSA-53q9-r3pm-6pq6: weights_only runs what was pickled"),
}
"""The first version without, of what a guard in SECURITY.md rests on."""
WITH_OTHERS = {"tokenizers": "transformers", "typing-extensions": "huggingface-hub", "psutil": "vllm"}
"""What is imported and comes with a package that is declared: it is that one's part, or used with it alone."""


@pytest.mark.parametrize("name", HOLES)
def test_a_hole_that_undoes_a_guard_can_be_neither_here_nor_installed(name: str) -> None:
    first, what = HOLES[name]
    assert Version(importlib.metadata.version(name)) >= Version(first), what
    bounds = [str(bound.version) for one in DECLARED if one.name == name for bound in one.specifier]
    assert bounds, f"{name} is not declared, so that any version of it will do: {what}"
    below = re.sub(r"\d+$", lambda last: str(int(last[0]) - 1), first)
    for one in DECLARED:
        if one.name == name:
            assert not one.specifier.contains(below), what


def test_what_is_imported_is_declared() -> None:
    extras = [Requirement(one) for some in PROJECT["optional-dependencies"].values() for one in some]
    declared = {one.name.lower().replace("_", "-") for one in [*DECLARED, *extras]} | {"kmcli"}
    of_module = importlib.metadata.packages_distributions()
    found: dict[str, str] = {}
    for file in sorted((ROOT / "src" / "kmcli").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names):
                for package in {one.lower().replace("_", "-") for one in of_module.get(name, ())}:
                    found.setdefault(package, f"{file.name}: {name}")
    assert len(found) > 20
    assert {
        package: where for package, where in found.items() if WITH_OTHERS.get(package, package) not in declared
    } == {}


def test_an_audit_that_asked_about_nothing_is_none() -> None:
    """As pip-audit reports where the list cannot be reached: with exit code 0 and "no known vulnerabilities"."""
    asked = {"name": "h11", "version": "0.16.0", "vulns": []}
    skipped = {"name": "jinja2", "skip_reason": "Dependency not found on PyPI and could not be audited"}
    hole = {"id": "PYSEC-1", "fix_versions": ["3.1.6"]}
    own = {"name": "kmcli", "skip_reason": "distribution marked as editable"}
    assert judged({"dependencies": [own, asked]}) == ([], [], 1)
    assert judged({"dependencies": [own, asked, skipped]}) == ([], ["jinja2"], 1)
    assert judged({"dependencies": [own]}) == ([], [], 0)
    holes, _, _ = judged({"dependencies": [{**asked, "name": "jinja2", "version": "3.1.5", "vulns": [hole]}]})
    assert holes == ["jinja2 3.1.5: PYSEC-1, mended in 3.1.6"]
