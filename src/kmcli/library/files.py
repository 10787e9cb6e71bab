"""Writing so that a crash at any moment leaves the old file or the new one, never half of either.

Folders are for their owner alone (0700), and so are files (0600).
"""

from __future__ import annotations

import errno
import os
import resource
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kmcli.errors import ResourceError

FOLDER_MODE = 0o700
FILE_MODE = 0o600
SYNCED_AT_ONCE = 32
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENODEV, errno.ENXIO)
_TOO_MANY = (errno.EMFILE, errno.ENFILE)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, *_TOO_MANY, *_FULL)


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn what a disk refuses (full, read-only, not permitted, gone) into a ResourceError; any other OSError is a bug."""
    try:
        yield
    except OSError as error:
        refusal = refused(error, folder)
        if refusal is None:
            raise
        raise refusal from error


def refused(error: OSError, folder: Path) -> ResourceError | None:
    """What a disk's refusal to write below a folder means to people; None for an error that is none."""
    if error.errno in _GONE and not folder.is_dir():
        return gone(folder)
    if error.errno not in _REFUSED:
        return None
    hint = "Check its permissions and the disk."
    if error.errno in _FULL:
        hint = "Free some space and try again."
    elif error.errno in _TOO_MANY:
        hint = "Let km open more files (ulimit -n), or name fewer documents at once."
    return ResourceError(f"{folder} cannot be written to: {reason(error)}.", hint)


def gone(folder: Path) -> ResourceError:
    return ResourceError(f"{folder} is gone.", "Bring it back (was it moved, or its disk taken away?) and try again.")


def reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def open_many() -> None:
    """Let this process have as many files open as it may; at first it is often only a few hundred."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(ValueError, OSError):  # some systems have a limit of their own below that
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def make_folder(folder: Path, synced: bool = True) -> None:
    """A private folder, also where another part of km made it first with the usual permissions. synced: as in `write`."""
    new = not folder.is_dir()
    folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
    if new and synced:
        sync(folder.parent)
    if folder.stat().st_mode & 0o077:
        folder.chmod(FOLDER_MODE)


def make_root(folder: Path) -> None:
    """A private folder with all folders above it, for good."""
    new = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    for one in new:
        sync(one.parent)


def write(path: Path, data: bytes, synced: bool = True, changed: int = 0) -> None:
    """Replace `path` by a file with these bytes, or leave it as it was. Not synced: it may be lost in a power cut.

    changed: nanoseconds of the file system's clock. The file counts as changed then at least, wherever that clock stands.
    """
    temporary = path.with_name(f".{secrets.token_hex(4)}.tmp")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE), "wb") as stream:
            stream.write(data)
            stream.flush()
            status = os.fstat(stream.fileno())
            if status.st_mtime_ns < changed:
                os.utime(stream.fileno(), ns=(status.st_atime_ns, changed))
            if synced:
                os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if synced:
        sync(path.parent)


def move(folder: Path, target: Path) -> None:
    """Rename a folder within one file system, for good."""
    os.rename(folder, target)
    sync(target.parent)
    sync(folder.parent)


def exchange(one: Path, other: Path) -> bool:
    """Let two files or folders of one file system change places, at once; False where the system cannot do that."""
    import ctypes

    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), swap) == 0


def seal(folder: Path) -> None:
    """Make all that is in a folder private and safe on the disk; what others wrote there has neither."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            file = Path(place, name)
            file.chmod(FILE_MODE)
            sync(file)
        os.chmod(place, FOLDER_MODE)
        sync(Path(place))


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(paths: Iterable[Path]) -> None:
    """Flush many: side by side, because a disk takes many at once hardly longer than one."""
    from concurrent.futures import ThreadPoolExecutor  # not needed by the verbs that must be quick

    with ThreadPoolExecutor(SYNCED_AT_ONCE) as pool:
        for _ in pool.map(sync, paths):
            pass


@contextmanager
def scratch(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder, which goes afterwards as far as the disk permits. (Python's TemporaryDirectory never gives up where it
    does not: before 3.12 that ends in a RecursionError.)"""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def delete(path: Path) -> None:
    """Delete a folder with all that is in it, or a file; nothing happens where there is none."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
