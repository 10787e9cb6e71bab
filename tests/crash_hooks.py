"""Calls a Disk before every step of this process that a disk could remember: see crash_disk.py."""

from __future__ import annotations

import os
import sqlite3
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crash_disk import Disk

_watcher: Disk | None = None
_hooked = False
_fsync, _connect = os.fsync, sqlite3.connect


class _Watched(sqlite3.Connection):
    def execute(self, sql: str, *given: Any) -> Any:
        run = super().execute
        return _watcher.statement(sql, lambda: run(sql, *given), self) if _watcher else run(sql, *given)

    def close(self) -> None:
        run = super().close
        if _watcher and not _watcher.before_each:
            _watcher.statement("close", run, self)
        else:
            run()


def hook(disk: Disk) -> None:
    global _watcher, _hooked
    _watcher = disk
    if not _hooked:
        _hooked = True
        sys.addaudithook(lambda name, arguments: _watcher.event(name, arguments) if _watcher else None)
    os.fsync = lambda descriptor: disk.flush(descriptor if isinstance(descriptor, int) else descriptor.fileno(), _fsync)

    def connect(path: Any, **given: Any) -> Any:
        own = str(path) == str(disk.root / "home" / "km.db")
        return _connect(path, **given, factory=_Watched) if own else _connect(path, **given)

    sqlite3.connect = connect  # type: ignore[assignment]


def unhook() -> None:
    global _watcher
    _watcher = None
    os.fsync, sqlite3.connect = _fsync, _connect
