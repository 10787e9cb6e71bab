"""Verbs of km whose changes are recorded step by step, and what each state that a power cut may leave must be good for.

From every state the library opens; `km doctor --repair` leaves nothing to say; what was there before and is not the
verb's to change is as it was; the same command ends as it ended without the cut. To add a verb: a row in VERBS.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from crash_disk import Disk
from crash_faults import Fault, gone
from crash_library import TEXTS, differences, follows, make_base, outcome, same, write_version
from crash_tears import Cut, State
from kmcli import bases
from kmcli.cli.boundary import main
from kmcli.engines import hf as hf_engine
from kmcli.engines.scripted import ScriptedEngine
from kmcli.errors import KmError
from kmcli.library import Library
from kmcli.training import loop, stepwise
from material_crashes import say

SETTINGS = ("chunk_tokens=24", "tasks=qa:2", "generations=2", "steps=2", "batch=2", "rank=2", "exam=no")
SET = tuple(word for setting in SETTINGS for word in ("--set", setting))


@dataclass(frozen=True)
class Verb:
    """done: exit codes of the same command where the verb had come to its end already. before: makes the library ready."""

    name: str
    words: tuple[str, ...]
    done: tuple[int, ...] = (0,)
    before: tuple[tuple[str, ...], ...] = ()
    touches: tuple[str, ...] = ()
    changed: Mapping[str, str] | None = None
    """Files of documents that say something else by then."""
    version: int | None = None
    """Of the database, where it is an old one."""
    empty: bool = False
    typed: str = ""
    """On standard input."""


STUDIED = (("synth", "works", *SET[:6]),)
TRAINED = (*STUDIED, ("train", "works", *SET))
UPDATED = (*TRAINED, ("add", "--update", "works", "{in}/rebuilt.txt"))
EXTRACTOR = ("--set", "steps=2", "--set", "rank=2", "--set", "batch=2", "--set", "held_out=0")
COMPRESSOR = ("--set", "steps=2", "--set", "rank=2", "--set", "batch=1", "--set", "held_out=0")
ASKED = (
    ("works", "Who built the works?", "Bo"),
    ("works", "When did they burn down?", "1902"),
    ("heron", "Who saw the heron?", "Ann"),
)
VERBS = (
    Verb("first", ("add", "{in}/works.txt", "--tag", "harbour"), touches=("works",), empty=True),
    Verb("add", ("add", "{in}/permits.txt"), touches=("permits",)),
    Verb("again", ("add", "{in}/works.txt"), touches=("works",), before=TRAINED, changed={"works": "They are gone."}),
    Verb("tag", ("tag", "works", "--add", "stone"), touches=("works",)),
    Verb("mv", ("mv", "works", "mill"), done=(0, 3), touches=("works", "mill")),
    Verb("rm", ("rm", "works", "--yes"), done=(0, 3), before=TRAINED, touches=("works",)),
    Verb("synth", ("synth", "works", *SET[:6]), touches=("works",)),
    Verb("train", ("train", "works", *SET), before=STUDIED, touches=("works",)),
    Verb("retrain", ("train", "works", "--restart", *SET, "--set", "seed=7"), before=TRAINED, touches=("works",)),
    Verb("update", ("add", "--update", "works", "{in}/rebuilt.txt"), before=TRAINED, touches=("works",)),
    Verb("redline", ("train", "works"), before=UPDATED, touches=("works",)),
    Verb(
        "import",
        ("import", "{out}/works", "--document", "heron"),
        done=(0, 2),
        before=(*TRAINED, ("export", "works", "--format", "peft", "--no-check", "--out", "{out}/works")),
        touches=("heron",),
    ),
    Verb(
        "extractor",
        ("extractor", "train", "qa", "--questions", "{in}/asked.jsonl", *EXTRACTOR),
        before=(*TRAINED, ("train", "heron", *SET)),
        touches=("extractor qa",),
    ),
    Verb("compressor", ("compressor", "train", *COMPRESSOR), touches=("compressor",)),
    Verb(
        "recompress",
        ("compressor", "train", *COMPRESSOR, "--set", "seed=7"),
        before=(("compressor", "train", *COMPRESSOR),),
        touches=("compressor",),
    ),
    Verb(
        "chat",
        ("chat", "works", "--method", "rag", "--engine", "hf", "--no-evidence"),
        typed="Who built the works?\nWhen did they burn down?\nWhat has the quay?\n",
        touches=("said",),
    ),
    Verb("gguf", ("export", "works", "--no-check", "--out", "{out}/works.gguf"), before=TRAINED),
    Verb(
        "peft",
        ("export", "works", "--format", "peft", "--no-check", "--out", "{out}/works"),
        before=(*TRAINED, ("export", "works", "--format", "peft", "--no-check", "--out", "{out}/works")),
    ),
    Verb("config", ("config", "set", "preset", "quick"), before=(("config", "set", "device", "cpu"),)),
    Verb("migration", ("ls",), version=1),
)


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Loss:
    verb: str
    cut: Cut
    what: str


class Place:
    """Where verbs are run: a tiny random base that is read as if it had written, and the files that are added."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inputs = folder / "in"
        self.inputs.mkdir(parents=True)
        self.count = 0
        self._base = make_base(folder / "base")
        self._known: dict[Path, Any] = {}

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """With the base loaded once for all, a checkpoint a step, and no setting of the person's own."""
        torch.set_num_threads(1)
        before = dict(os.environ)
        real = bases.load, bases.load_tokenizer, hf_engine.HfEngine, loop.CHECKPOINT_EVERY
        stepwise_every = stepwise.CHECKPOINT_EVERY
        loaded = bases.load(self._base, "cpu")

        def engine(loaded: Any, model: Any = None, **more: Any) -> Any:
            if model is not None:
                return real[2](loaded, model, **more)
            scripted = ScriptedEngine(say)
            scripted.model, scripted.revision = loaded.base.name, loaded.base.revision
            return scripted

        for name in [name for name in os.environ if name.startswith("KM_")]:
            del os.environ[name]
        os.environ["KM_MODEL"] = str(self._base.path)
        bases.load, bases.load_tokenizer = lambda base, device, bits=0: loaded, lambda base: loaded.tokenizer
        hf_engine.HfEngine, loop.CHECKPOINT_EVERY, stepwise.CHECKPOINT_EVERY = engine, 1, 1
        try:
            yield
        finally:
            bases.load, bases.load_tokenizer, hf_engine.HfEngine, loop.CHECKPOINT_EVERY = real
            stepwise.CHECKPOINT_EVERY = stepwise_every
            os.environ.clear()
            os.environ.update(before)

    def run(self, root: Path, words: Iterable[str], typed_in: str = "") -> Ran:
        """km in this process, with its library below `root`."""
        os.environ["KM_HOME"] = str(root / "home")
        given = [word.format(**{"in": self.inputs, "out": root / "out"}) for word in words]
        out, err = io.StringIO(), io.StringIO()
        typed, sys.stdin = sys.stdin, io.StringIO(typed_in)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(given)
        finally:
            sys.stdin = typed
        return Ran(code, out.getvalue(), err.getvalue())

    def new(self) -> Path:
        self.count += 1
        return self.folder / "roots" / f"{self.count:05}"

    def prepared(self, verb: Verb) -> Path:
        """A root in which the verb can be run."""
        root = self.new()
        (root / "out").mkdir(parents=True)
        for name, text in TEXTS.items():
            (self.inputs / f"{name}.txt").write_text(text)
        rows = [{"document": name, "question": asked, "answers": [answer]} for name, asked, answer in ASKED]
        (self.inputs / "asked.jsonl").write_text("\n".join(map(json.dumps, rows)))
        if verb.version is not None:
            write_version(root / "home", verb.version)
        elif not verb.empty:
            for words in (("add", "{in}/heron.txt", "{in}/works.txt", "--tag", "harbour"), *verb.before):
                ran = self.run(root, words)
                assert ran.code == 0, (words, ran)
        for name, text in (verb.changed or {}).items():
            (self.inputs / f"{name}.txt").write_text(text)
        return root

    def record(self, verb: Verb) -> Recording:
        root = self.prepared(verb)
        before = outcome(root)
        disk = Disk(root)
        with disk.watched():
            ran = self.run(root, verb.words, verb.typed)
        assert ran.code == 0, (verb, ran)
        return Recording(self, verb, disk, before, outcome(root))


@dataclass(frozen=True)
class Recording:
    place: Place
    verb: Verb
    disk: Disk
    before: dict[str, Any]
    after: dict[str, Any]

    @property
    def start(self) -> State:
        """The disk before the first step."""
        return next(iter(self.disk.states))

    def losses(self, states: Iterable[State]) -> list[Loss]:
        """What is lost in some of the states."""
        found = []
        for state in states:
            root = self.place.new()
            self.disk.build(state, root)
            (root / "out").mkdir(exist_ok=True)
            wrong = self._wrong(root, state in self.disk.after)
            if wrong:
                found.append(Loss(self.verb.name, self.disk.states.get(state, self.disk.cuts[-1]), f"{root}: {wrong}"))
            else:
                shutil.rmtree(root)
        return found

    def faulted(self, fault: Fault, step: int, once: bool = False) -> Loss | None:
        """What is wrong where a step and all after it fail, or that step alone: that must be one sentence with the exit
        code for such things, nothing may be lost, and once it is mended the same command ends as ever."""
        root = self.place.new()
        self.disk.build(self.start, root)
        (root / "out").mkdir(exist_ok=True)
        disk, count, said = Disk(root), 0, ""

        def fail(what: str) -> None:
            nonlocal count, said
            count += 1
            if count == step or (count > step and not once):
                said = said or what
                fault(what, root)

        disk.before_each = fail
        with disk.watched():
            ran = self.place.run(root, self.verb.words, self.verb.typed)
        if (away := root / "away").exists():
            shutil.rmtree(root / "home", ignore_errors=True)
            away.rename(root / "home")
        sentences = [line for line in ran.err.splitlines() if line.startswith("km: ")]
        wrong = ""
        if (
            "Traceback" in ran.err
            or ran.code not in (0, 4, *self.verb.done, 3 * (fault is gone))
            or (ran.code and len(sentences) != 1)
        ):
            wrong = f"it ends with {ran.code}: {ran.err}"
        elif ran.code == 0 and (left := outcome(root)) != self.after:
            wrong = f"it claims to have ended: {differences(self.after, left)}"
        wrong = wrong or self._wrong(root, False, "not kept" in ran.err)
        if not wrong:
            shutil.rmtree(root)
            return None
        return Loss(self.verb.name, Cut(step, said), f"{fault.__name__}{' once' if once else ''}: {wrong}")

    def _wrong(self, root: Path, ended: bool, gaps: bool = False) -> str:
        try:
            return self._looked_at(root, ended, gaps)
        except KmError as error:
            return str(error)

    def _looked_at(self, root: Path, ended: bool, gaps: bool) -> str:
        verb, run = self.verb, self.place.run
        if ended and (left := outcome(root)) != self.after:
            return f"it had ended, and is undone: {differences(self.after, left)}"
        with Library.open(root / "home") as library:
            library.check(repair=True)
            again = library.check()
        if again:
            return f"doctor cannot mend it: {again[0].message}"
        left = outcome(root)
        for name in left.keys() | self.before.keys():
            known = (self.before.get(name), self.after.get(name))
            if name not in verb.touches and left.get(name) not in known:
                return f"{name} is {left.get(name)}, and was {known[0]}"
            if name in verb.touches and not follows(left.get(name), *known, gaps):
                return f"{name} is {left.get(name)}, between {known[0]} and {known[1]}"
        ran = run(root, verb.words, verb.typed)
        if ran.code not in verb.done or "Traceback" in ran.err:
            return f"the same command ends with {ran.code}: {ran.err}"
        if not same(left := outcome(root), self.after, gaps):
            return f"the same command ends otherwise: {differences(self.after, left)}"
        with Library.open(root / "home") as library:
            return "".join(finding.message for finding in library.check())


def sampled(recording: Recording, count: int) -> list[State]:
    """About so many of the states, from the first step to the last, and of those after the end."""
    found, after = list(recording.disk.states), list(recording.disk.after)
    return [*found[:: max(1, len(found) // count)], *after[:: max(1, len(after) // 2)]]
