"""make mutation: small mistakes made in objectives, parsers and metrics, one at a time; how many do the tests notice?

    mutation.py [--sample N] [--seed N] [--list] [FILE ...]

A mistake is one changed node of a module's syntax tree: a comparison, an operator, a condition, a constant, a call that is
left out. The tests of that module (TARGETS) run against it in a process forked from one that has imported torch and pytest
already; what fails, or takes ten times as long as usual, has noticed it. --sample: only so many mistakes, drawn by --seed.
Messages of errors, annotations, docstrings and decorators are left alone. Prints those that nobody noticed, and
`FIGURE mutants_killed` in percent, with a line for each file.
"""

from __future__ import annotations

import argparse
import ast
import importlib.machinery
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "kmcli"

TARGETS: dict[str, tuple[str, ...]] = {
    "metrics.py": ("test_metrics", "test_rouge"),
    "evaluation/metrics.py": ("test_metrics",),
    "synthesis/parse.py": ("test_parse", "test_synthesis_parsers"),
    "objectives/__init__.py": ("test_views",),
    "objectives/views.py": ("test_views",),
    "objectives/windows.py": ("test_views",),
    "objectives/predicted.py": ("test_predicted",),
    "objectives/losses.py": ("test_losses", "test_top_k"),
    "objectives/fused.py": ("test_losses", "test_top_k", "test_training_slices"),
    "objectives/top_k.py": ("test_top_k",),
}
"""Files of src/kmcli, and the files of tests that speak of them."""

COMPARED: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
COMPUTED: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.MatMult: ast.Mult,
}
PLACES = (
    *(ast.Compare, ast.BinOp, ast.AugAssign, ast.BoolOp, ast.UnaryOp, ast.Constant),
    *(ast.If, ast.IfExp, ast.While, ast.Return, ast.Expr),
)


@dataclass(frozen=True)
class Mutant:
    file: str
    line: int
    what: str
    tree: ast.Module


def mutants(file: str) -> Iterator[Mutant]:
    """Every mistake that can be made in a file, in the order of its lines."""
    tree = ast.parse((SOURCE / file).read_text("utf-8"))
    count = len(list(_places(tree)))
    for number in range(count):
        changed = deepcopy(tree)
        node = list(_places(changed))[number]
        before = ast.unparse(node)
        if _change(node):
            yield Mutant(
                file, node.lineno, f"{before}  ->  {ast.unparse(node)}"[:110], ast.fix_missing_locations(changed)
            )


def _places(tree: ast.AST) -> Iterator[Any]:
    """The nodes in which a mistake can be made."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Assert)):
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            continue
        if isinstance(node, ast.keyword) and node.arg == "strict":
            continue  # of zip: what is never wrong is not noticed
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, PLACES):
            yield node
        if isinstance(node, (ast.AnnAssign, ast.arg)):  # not the annotation
            if isinstance(node, ast.AnnAssign) and node.value:
                yield from _places(ast.Expression(node.value))
        elif isinstance(node, ast.FunctionDef):
            for part in (*node.args.defaults, *(one for one in node.args.kw_defaults if one), *node.body):
                yield from _places(ast.Module([part], []) if isinstance(part, ast.stmt) else ast.Expression(part))
        elif isinstance(node, ast.ClassDef):
            yield from _places(ast.Module(node.body, []))
        else:
            yield from _places(node)


def _change(node: Any) -> bool:
    """Make the mistake in place; False where there is none to make."""
    if isinstance(node, ast.Compare):
        node.ops[0] = COMPARED[type(node.ops[0])]()
    elif isinstance(node, (ast.BinOp, ast.AugAssign)):
        if type(node.op) not in COMPUTED:
            return False
        node.op = COMPUTED[type(node.op)]()
    elif isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.UnaryOp):
        if not isinstance(node.op, (ast.Not, ast.USub)) or isinstance(node.operand, ast.Constant):
            return False  # a constant is changed itself: -1 for +1 is the same axis of a matrix
        if isinstance(node.op, ast.USub):
            node.op = ast.UAdd()
        else:
            node.operand = ast.UnaryOp(ast.Not(), node.operand)
    elif isinstance(node, ast.Constant):
        return _change_constant(node)
    elif isinstance(node, ast.Return):
        if node.value is None or ast.unparse(node.value) == "None":
            return False
        node.value = ast.Constant(None)
    elif isinstance(node, (ast.If, ast.IfExp, ast.While)):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Expr):
        node.value = ast.Constant(None)
    else:
        return False
    return True


def _change_constant(node: ast.Constant) -> bool:
    value = node.value
    if isinstance(value, bool):
        node.value = not value
    elif isinstance(value, int):
        node.value = value + 1
    elif isinstance(value, float):
        node.value = value * 2 + 1
    elif isinstance(value, str):
        node.value = f"X{value}"
    else:
        return False
    return True


# --- running


def tested(mutant: Mutant | None, file: str, limit: float) -> tuple[bool, float]:
    """Whether the tests of the file pass with the mistake (None: as it is), and the seconds they took."""
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        _run(mutant, file)
    status = None
    while status is None:
        done, code = os.waitpid(child, os.WNOHANG)
        if done:
            status = code
        elif time.monotonic() - began > limit:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            status = -1
        else:
            time.sleep(0.01)
    return status == 0, time.monotonic() - began


def _run(mutant: Mutant | None, file: str) -> None:
    """In the child: the tests, against the mistake. Does not return."""
    code = 1
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        if mutant is not None:
            _install(mutant)
        import pytest

        words = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(ROOT)]
        code = int(pytest.main([*words, *(str(ROOT / "tests" / f"{name}.py") for name in TARGETS[file])]))
    finally:
        os._exit(code)


def _install(mutant: Mutant) -> None:
    """Have the mistake imported instead of the file."""
    path = str(SOURCE / mutant.file)
    loader = importlib.machinery.SourceFileLoader
    get_code = loader.get_code

    def mistaken(self: Any, name: str) -> CodeType | None:
        return compile(mutant.tree, path, "exec") if self.get_filename(name) == path else get_code(self, name)

    loader.get_code = mistaken  # type: ignore[method-assign]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--list", action="store_true", help="only say what mistakes there are")
    parser.add_argument("files", nargs="*", metavar="FILE", help="of src/kmcli, such as metrics.py")
    given = parser.parse_args()
    found = [mutant for file in given.files or TARGETS for mutant in mutants(file)]
    print(f"{len(found)} mistakes", flush=True)
    if given.sample and given.sample < len(found):
        chosen = sorted(random.Random(given.seed).sample(range(len(found)), given.sample))
        found = [found[index] for index in chosen]
    if given.list:
        for mutant in found:
            print(f"{mutant.file}:{mutant.line}: {mutant.what}")
        return 0
    prepare()
    killed: dict[str, list[bool]] = {}
    usual: dict[str, float] = {}
    for mutant in found:
        if mutant.file not in usual:
            passed, usual[mutant.file] = tested(None, mutant.file, 600)
            if not passed:
                print(f"the tests of {mutant.file} fail as it is", file=sys.stderr)
                return 1
        passed, _ = tested(mutant, mutant.file, 20 + 10 * usual[mutant.file])
        killed.setdefault(mutant.file, []).append(not passed)
        if passed:
            print(f"not noticed: {mutant.file}:{mutant.line}: {mutant.what}", flush=True)
    for file, noticed in killed.items():
        print(f"{file}: {sum(noticed)} of {len(noticed)}")
    every = [one for noticed in killed.values() for one in noticed]
    print(f"FIGURE mutants {len(every)}")
    print(f"FIGURE mutants_killed {100 * sum(every) / len(every):.1f}")
    return 0


def prepare() -> None:
    """Import what every test needs and no mistake is made in."""
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests"), str(ROOT)]
    sys.dont_write_bytecode = True
    import hypothesis
    import numpy  # noqa: F401
    import peft  # noqa: F401
    import pytest  # noqa: F401
    import torch
    import transformers  # noqa: F401
    from transformers.models.qwen3 import modeling_qwen3  # noqa: F401

    torch.set_num_threads(1)
    hypothesis.settings.register_profile("mutation", deadline=None, derandomize=True, database=None, max_examples=30)
    hypothesis.settings.load_profile("mutation")


if __name__ == "__main__":
    sys.exit(main())
