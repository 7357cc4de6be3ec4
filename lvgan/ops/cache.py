"""Where compiled libraries are kept, and what may be done there: one folder of the user, and one that stands in."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SPACE_NEEDED = 64e6  # bytes free where a library is built: the compiler's temporary files are the most of it
RETRY_AFTER = 24 * 3600.0  # seconds for which a failure is remembered, and after which what a dead build left goes


def cache_folder() -> Path | None:
    """Where libraries are kept: ``$LVGAN_CACHE/ops``, or ``lvgan/ops`` in the user's cache folder.

    None if this user has neither: no home, as in some containers.
    """
    named = os.environ.get("LVGAN_CACHE")
    if named:
        return Path(named).absolute() / "ops"
    for base in (os.environ.get("XDG_CACHE_HOME") or "", os.path.expanduser("~/.cache")):
        if os.path.isabs(base) and base != "/.cache":  # an empty HOME
            return Path(base) / "lvgan" / "ops"
    return None


def temporary_folder(*, make: bool = True) -> Path:
    """Stands in for a cache that cannot be written to. Only this user can put a library there.

    Raises OSError where there is no such folder.
    """
    folder = Path(tempfile.gettempdir()) / f"lvgan-ops-{os.getuid()}"
    if make:
        folder.mkdir(mode=0o700, exist_ok=True)
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o022:
        raise PermissionError(f"{folder} is not a folder of this user alone")
    return folder


def folders(*, make: bool) -> Iterator[Path]:
    """The places of libraries, the best first."""
    cache = cache_folder()
    if cache is not None:
        yield cache
    with contextlib.suppress(OSError):
        yield temporary_folder(make=make)


def loadable(folder: Path) -> bool:
    """Whether the system loads libraries from `folder`: not where it is mounted ``noexec``."""
    return not os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0)


def full(folder: Path) -> bool:
    """Whether next to nothing can be written there any more."""
    return shutil.disk_usage(folder).free < 1e6


@contextlib.contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """An empty folder in `folder`, gone after the block.

    Raises OSError where that cannot be: not writable, next to no space, no library loaded from there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    if not loadable(folder):
        raise PermissionError(errno.EACCES, "mounted noexec, so that no library can be loaded from there")
    if shutil.disk_usage(folder).free < SPACE_NEEDED:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    work = Path(tempfile.mkdtemp(prefix="building-", dir=folder))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what builds that were killed have left."""
    for left in folder.glob("building-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > RETRY_AFTER:
                shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def turn(path: Path, limit: float) -> Iterator[None]:
    """Wait until no other process builds the same; at most `limit` seconds, as two builds do no harm.

    The lock is the kernel's: it ends with the process that holds it, however that ends.
    """
    try:
        import fcntl

        file = path.open("w")
    except (ImportError, OSError):
        yield
        return
    with file:
        end = time.monotonic() + limit
        while time.monotonic() < end:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.05)
            except OSError:  # a file system without locks
                break
        yield


def keep(library: Path, target: Path) -> None:
    """Move a library to its place, with its digest beside it; raises OSError and leaves nothing half-written."""
    digest = library.with_suffix(".sha256")
    digest.write_text(hashlib.sha256(library.read_bytes()).hexdigest())
    os.replace(library, target)
    os.replace(digest, target.with_suffix(".sha256"))


def intact(path: Path) -> bool:
    """Whether a library in the cache is byte for byte what was built: loading a damaged one ends the process."""
    try:
        return path.with_suffix(".sha256").read_text() == hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, UnicodeDecodeError):
        return False


def write(path: Path, text: str) -> bool:
    """Write a file that is good to have; False, and no file, where that cannot be."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        return False
    return True


def remembered(record: Path) -> str:
    """Why the same failed within a day, or nothing."""
    try:
        age = time.time() - record.stat().st_mtime
        return record.read_text(encoding="utf-8") if 0 <= age < RETRY_AFTER else ""
    except (OSError, UnicodeDecodeError):
        return ""
