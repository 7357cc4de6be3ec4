"""Who works in a folder: locks that the system takes back from a process that dies.

POSIX locks on ranges of bytes, which network file systems keep across machines too. Where the system has
none, nothing is locked.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from lvgan.errors import DataError
from lvgan.files import writing

NAME = ".lock"
_EVERYTHING = 1 << 40
_MANIFEST = 1 << 41


class FolderLock:
    """A folder of shards, or some of its units, taken by this process alone; a context manager.

    Args:
        out: the folder; made if need be.
        first, count: the units that are taken; `count` None takes all.

    Raises:
        DataError: another process holds some of them.
        MachineError: the folder cannot be written.
    """

    def __init__(self, out: Path, first: int = 0, count: int | None = None) -> None:
        self._out, self._path = out, out / NAME
        self._made = [folder for folder in (out, *out.parents) if not folder.exists()]
        with writing(out):
            try:
                out.mkdir(parents=True, exist_ok=True)
                self._file: int | None = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError:
                self._remove_made()
                raise
        self._length = _EVERYTHING if count is None else count
        if self._length and not _lock(self._file, first, self._length, wait=False):
            self.release()
            raise DataError(f"another `lvgan prepare` is at work in {out}; wait for it, or choose another folder")

    @contextlib.contextmanager
    def manifest(self) -> Iterator[None]:
        """While what is common to all is read and written."""
        assert self._file is not None
        _lock(self._file, _MANIFEST, 1, wait=True)
        try:
            yield
        finally:
            _unlock(self._file, _MANIFEST, 1)

    def release(self) -> None:
        """Let others in."""
        if self._file is not None:
            os.close(self._file)
        self._file = None

    def undo(self) -> None:
        """Remove the lock, and the folders that were made for it if nothing came of them."""
        self.release()
        with contextlib.suppress(OSError):
            if sorted(os.listdir(self._out)) == [NAME]:
                self._path.unlink()
                self._remove_made()

    def _remove_made(self) -> None:
        with contextlib.suppress(OSError):
            for folder in self._made:
                folder.rmdir()

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@contextlib.contextmanager
def unit_lock(folder: Path, index: int) -> Iterator[None]:
    """One unit, held by the process that makes it.

    A worker may outlive the process that started it by a moment; the next one waits for it here.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / f"{index:06d}.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(file, 0, 1, wait=True)
        yield
    finally:
        os.close(file)


def _lock(file: int, start: int, length: int, *, wait: bool) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), length, start)
    except OSError as error:
        # Anything else says that the file system keeps no locks.
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True


def _unlock(file: int, start: int, length: int) -> None:
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_UN, length, start)
