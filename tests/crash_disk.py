"""What a disk may hold after a power cut, at every step of a change that is being made.

`Disk.watched` records a change: before every call that opens for writing, makes, renames, deletes, truncates or flushes,
and before every statement of SQLite, all that is below the root is compared with what was there before. What differs is
pending until it is flushed. From that the states are made in which a cut at that step may leave the disk:

- the data of a file: as it was when the file was last flushed, or as the program left it, or the new part torn in the
  middle, or with a hole of zeros in front;
- the names in folders: each that was made, moved or deleted since its folder was flushed is there or not, independent of
  the others and of the data; only a rename is whole. Flushing a file does not flush its name.
- SQLite's file and its log: as after the last commit, and while it commits with any part of the log's new end; while it
  copies the log into the file (`close`), with part of the pages copied. It flushes a log's folder when it makes one.

States are kept by what they hold, so that each is looked at once. `Disk.build` makes one in a fresh folder.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crash_hooks import hook, unhook
from crash_tears import Cut, File, Names, Seen, State, assign, between, holes, key_of, now, safe, torn

DATABASE = ("km.db", "km.db-wal")
EVENTS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass
class Disk:
    """states: each with the step at which it can come about first. after: those a cut after the end may leave."""

    root: Path
    states: dict[State, Cut] = field(default_factory=dict)
    cuts: list[Cut] = field(default_factory=list)
    after: set[State] = field(default_factory=set)
    before_each: Callable[[str], None] | None = None
    """Called instead of recording: for faults."""

    def __post_init__(self) -> None:
        self._blobs: dict[str, bytes] = {}
        self._seen: dict[int, Seen] = {}
        self._numbers: dict[tuple[int, int], int] = {}
        self._names: Names = {}
        self._safe_names: Names = {}
        self._pending: list[dict[tuple[int, str], int | None]] = []
        self._tables: tuple[bytes | None, ...] = (None, None)
        self._home = self.root / "home"
        self._busy = threading.local()
        self._watching = False

    # --- recording ---

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Record what happens below the root, where all that is there now is safe."""
        hook(self)
        self._scan()
        self._pending = []
        for one in self._seen.values():
            one.safe = one.now
        self._safe_names = {number: dict(names) for number, names in self._names.items()}
        self._tables = self._read_tables()
        self._watching = True
        try:
            yield
            found = self._cut("the end")
            self.after = found
        finally:
            self._watching = False
            unhook()

    def event(self, name: str, arguments: tuple[Any, ...]) -> None:
        if not self._watching or getattr(self._busy, "now", False):
            return
        if name == "open":
            path, _, flags = (*arguments, 0, 0)[:3]
            if not isinstance(flags, int) or not flags & WRITES or not isinstance(path, (str, bytes, os.PathLike)):
                return
        elif name not in EVENTS:
            return
        path = os.fsdecode(arguments[0])
        inside = os.path.abspath(path).startswith(f"{self.root}/")
        relative = name in ("os.remove", "os.rmdir", "os.mkdir") and arguments[-1] not in (-1, None)
        if inside or relative:
            self._step(f"{name.removeprefix('os.')} {self._short(path)}")

    def flush(self, descriptor: int, real: Callable[[int], None]) -> None:
        if not self._watching or getattr(self._busy, "now", False):
            return real(descriptor)
        status = os.fstat(descriptor)
        number = self._numbers.get((status.st_dev, status.st_ino))
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if number is None and not path.startswith(f"{self.root}"):
            return real(descriptor)
        self._step(f"fsync {self._short(path)}")
        real(descriptor)
        with self._quiet():
            self._scan()
            number = self._numbers[status.st_dev, status.st_ino]
            seen = self._seen[number]
            if seen.folder:
                self._flush_names(number)
            else:
                seen.safe = seen.now
        return None

    def statement(self, what: str, run: Callable[[], Any], connection: sqlite3.Connection) -> Any:
        """One of SQLite; what it has changed is safe after it, where no transaction is open."""
        if not self._watching:
            return run()
        if what.lstrip().upper().startswith("SELECT") or (what.startswith("PRAGMA") and "=" not in what):
            return run()
        if self.before_each:
            if what != "ROLLBACK":
                self._step(f"sqlite {' '.join(what.split())[:40]}")
            return run()
        before = self._tables
        self._step(f"sqlite {' '.join(what.split())[:40]}")
        try:
            return run()
        finally:
            with self._quiet():
                closed = what == "close"
                if closed or not connection.in_transaction:
                    reached = self._read_tables()
                    if reached != before:
                        for state in between(before, reached):
                            self._tables = state
                            self._note(self.cuts[-1])
                        self._tables = reached
                        self._scan()
                        if before[1] is None:  # SQLite flushes the folder in which it makes a log
                            self._flush_names(self._numbers[key_of(self._home)])

    def _step(self, what: str) -> None:
        with self._quiet():
            if self.before_each:
                self.before_each(what)
            else:
                self._cut(what)

    def _cut(self, what: str) -> set[State]:
        with self._quiet():
            self._scan()
            self.cuts.append(Cut(len(self.cuts), what))
            return self._note(self.cuts[-1])

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        before = getattr(self._busy, "now", False)
        self._busy.now = True
        try:
            yield
        finally:
            self._busy.now = before

    def _short(self, path: str) -> str:
        return os.path.relpath(path, self.root) if os.path.isabs(path) else path

    # --- what is there ---

    def _scan(self) -> None:
        """Look at all below the root; what differs from the last look becomes pending, as one."""
        names: Names = {}
        alive: dict[tuple[int, int], int] = {}
        known = self._numbers

        def look(path: str, status: os.stat_result) -> int:
            key = (status.st_dev, status.st_ino)
            number = alive.get(key) or known.get(key) or (len(self._seen) + 1)
            alive[key] = number
            folder = stat.S_ISDIR(status.st_mode)
            digest = ""
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as stream:
                    digest = self._blob(stream.read())
            now = (digest, stat.S_IMODE(status.st_mode), status.st_mtime_ns)
            if number in self._seen and self._seen[number].folder == folder:
                self._seen[number].now = now
            else:
                self._seen[number] = Seen(folder, now)
            if folder:
                names[number] = inside = {}
                with os.scandir(path) as entries:
                    found = sorted(entries, key=lambda entry: entry.name)
                for entry in found:
                    if entry.name in ("km.db-wal", "km.db-shm") or entry.name.endswith("-journal"):
                        continue
                    inside[entry.name] = look(entry.path, entry.stat(follow_symlinks=False))
            return number

        self._top = look(str(self.root), os.stat(self.root))
        self._numbers = alive
        changed: dict[tuple[int, str], int | None] = {}
        for number in names.keys() | self._names.keys():
            old, new = self._names.get(number, {}), names.get(number, {})
            for name in old.keys() | new.keys():
                if old.get(name) != new.get(name):
                    changed[number, name] = new.get(name)
        if changed:
            self._pending.append(changed)
        self._names = names

    def _flush_names(self, folder: int) -> None:
        done = [group for group in self._pending if any(where == folder for where, _ in group)]
        for group in done:
            for (where, name), number in group.items():
                self._safe_names.setdefault(where, {})
                assign(self._safe_names[where], name, number)
                for other in self._pending[: self._pending.index(group)]:
                    other.pop((where, name), None)
            self._pending.remove(group)
        self._pending = [group for group in self._pending if group]

    def _read_tables(self) -> tuple[bytes | None, ...]:
        with self._quiet():
            return tuple(
                (self._home / name).read_bytes() if (self._home / name).exists() else None for name in DATABASE
            )

    def _blob(self, data: bytes) -> str:
        digest = hashlib.blake2b(data, digest_size=12).hexdigest()
        self._blobs.setdefault(digest, data)
        return digest

    # --- what there may be ---

    def _note(self, cut: Cut) -> set[State]:
        count = len(self._pending)
        everything = frozenset(range(count))
        kept = {frozenset(), everything}
        kept |= {everything - {one} for one in everything} | {frozenset((one,)) for one in everything}
        found = {
            self._state(keep, data)
            for keep in kept
            for data in ((safe, torn, holes, now) if keep == everything else (safe, now))
        }
        for state in found:
            self.states.setdefault(state, cut)
        return found

    def _state(self, keep: frozenset[int], data: Callable[[Disk, Seen], File]) -> State:
        names = {number: dict(inside) for number, inside in self._safe_names.items()}
        for index in sorted(keep):
            for (where, name), number in self._pending[index].items():
                assign(names.setdefault(where, {}), name, number)
        found: list[tuple[str, File | None]] = []

        def walk(number: int, path: str, above: tuple[int, ...]) -> None:
            for name, inner in sorted(names.get(number, {}).items()):
                below = f"{path}{name}"
                if below == f"home/{DATABASE[0]}":
                    mode = self._seen[inner].now[1]
                    tables = zip(DATABASE, self._tables, strict=True)
                    found.extend((f"home/{one}", (self._blob(is_), mode, 0)) for one, is_ in tables if is_ is not None)
                elif self._seen[inner].folder:
                    if inner not in above:
                        found.append((below, None))
                        walk(inner, f"{below}/", (*above, inner))
                else:
                    found.append((below, data(self, self._seen[inner])))

        walk(self._top, "", (self._top,))
        return tuple(found)

    def build(self, state: State, folder: Path) -> None:
        """Make a state in a new folder."""
        folder.mkdir(parents=True)
        for path, file in state:
            target = folder / path
            if file is None:
                target.mkdir(mode=0o700)
                continue
            digest, mode, changed = file
            target.write_bytes(self._blobs[digest])
            target.chmod(mode)
            if changed:
                os.utime(target, ns=(changed, changed))

    def data(self, digest: str) -> bytes:
        return self._blobs[digest]

    def keep(self, data: bytes) -> str:
        return self._blob(data)
