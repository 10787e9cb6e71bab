"""make matrix: the wheel with the lowest and the newest versions of what it needs, by Python; and every extra resolved.

    matrix.py [--pythons 3.10 3.11 3.12 3.13] [--resolutions lowest-direct highest] [--without PACKAGE ...]
              [--find-links FOLDER] [--folder FOLDER] [--tests FILE ...] [--no-extras]

Every environment is made afresh by uv, which must be installed, in --folder (left out: a temporary one, deleted
afterwards). The tests of --tests (left out: all) run in it, against the installed wheel. --without leaves packages out
that a machine cannot take, such as torch, whose wheels bring gigabytes of CUDA: name tests that do without them then. The
newest is what uv finds today. Ends with 1 where anything failed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
TESTING = ("pytest", "hypothesis", "fpdf2", "pytest-xdist", "openai")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pythons", nargs="*", default=["3.10", "3.11", "3.12", "3.13"])
    parser.add_argument("--resolutions", nargs="+", default=["lowest-direct", "highest"])
    parser.add_argument("--without", nargs="+", default=[])
    parser.add_argument("--find-links", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--tests", nargs="+", default=["tests"])
    parser.add_argument("--no-extras", action="store_true")
    given = parser.parse_args()
    if shutil.which("uv") is None:
        print("uv is not installed: pip install uv.", file=sys.stderr)
        return 1
    if given.folder:
        return run(given, given.folder.absolute())
    with tempfile.TemporaryDirectory(prefix="km-matrix-") as temporary:
        return run(given, Path(temporary))


def run(given: argparse.Namespace, folder: Path) -> int:
    links = ["--find-links", str(given.find_links)] if given.find_links else []
    done(["uv", "build", "--quiet", "--wheel", "--out-dir", str(folder / "dist"), str(ROOT)], check=True)
    wheel = str(next((folder / "dist").glob("*.whl")))
    overrides = folder / "overrides.txt"
    overrides.write_text("".join(f"{name}; sys_platform == 'nothing'\n" for name in given.without))
    links += ["--override", str(overrides)]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    failed = 0
    for python in given.pythons:
        for resolution in given.resolutions:
            environment = folder / f"{python}-{resolution}"
            passed, told = tried(*(python, resolution, wheel, project["dependencies"], environment, links, given.tests))
            failed += not passed
            print(f"Python {python}, {resolution}: {told}", flush=True)
            if resolution == "lowest-direct" and passed:
                for name, wanted, got in lower_bounds(environment, project["dependencies"]):
                    print(f"  {name}: {got} was tried, {wanted} is the lowest allowed", flush=True)
    for extra in () if given.no_extras else project["optional-dependencies"]:
        words = ["uv", "pip", "install", "--dry-run", "--python", sys.executable, *links, f"kmcli[{extra}] @ {wheel}"]
        result = done(words)
        failed += result.returncode != 0
        print(f"[{extra}]: {'resolves' if result.returncode == 0 else last(result)}", flush=True)
    return 1 if failed else 0


def tried(
    python: str,
    resolution: str,
    wheel: str,
    dependencies: Sequence[str],
    environment: Path,
    links: Sequence[str],
    tests: Sequence[str],
) -> tuple[bool, str]:
    """Whether the tests pass there, and pytest's last line, or why there was no test."""
    own = environment / "bin" / "python"
    install = ["uv", "pip", "install", "--quiet", "--python", str(own), *links]
    for words in (
        ["uv", "venv", "--quiet", "--clear", "--python", python, str(environment)],
        [*install, "--resolution", resolution, wheel, *dependencies],  # named, or the lowest would be the wheel's alone
        [*install, *TESTING],
    ):
        result = done(words)
        if result.returncode:
            return False, last(result)
    result = done([str(own), "-m", "pytest", "--no-header", *tests], OMP_NUM_THREADS="1")
    return result.returncode == 0, last(result)


def lower_bounds(environment: Path, dependencies: Sequence[str]) -> list[tuple[str, str, str]]:
    """Dependencies of which another version was tried than the lowest allowed: name, that, and what was tried."""
    words = ["uv", "pip", "list", "--format", "freeze", "--python", str(environment / "bin" / "python")]
    found = {
        name.lower().replace("_", "-"): version
        for name, _, version in (line.partition("==") for line in done(words, check=True).stdout.splitlines())
    }
    others = []
    for dependency in dependencies:
        name, lowest = re.match(r"([\w-]+)[^>]*>=([\d.]+)", dependency).groups()  # type: ignore[union-attr]
        got = found.get(name.lower().replace("_", "-"), "nothing")
        if not re.fullmatch(re.escape(lowest) + r"(\.0)*(\+\w+)?", got) and not dependency.partition(";")[2]:
            others.append((name, lowest, got))
    return others


def done(words: list[str], check: bool = False, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    environment.pop("PYTHONPATH", None)  # the wheel is what is tried
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=check, env=environment)


def last(result: subprocess.CompletedProcess[str]) -> str:
    lines = (result.stdout + result.stderr).strip().splitlines()
    failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))][:10]
    return "\n  ".join([lines[-1] if lines else f"exit code {result.returncode}", *failures])


if __name__ == "__main__":
    sys.exit(main())
