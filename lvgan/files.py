"""Files: written whole or not at all, hashed, and put in order."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lvgan.errors import ConfigError, MachineError

# What reading a damaged archive raises; RuntimeError: also encrypted, or a compression that Python lacks.
ZIP_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def machine_error(error: OSError, path: Path) -> MachineError:
    """One sentence about a file or folder that could not be written."""
    if error.errno in _FULL:
        return disk_full(path)
    reason = error.strerror or str(error)
    return MachineError(f"{path} could not be written ({reason}); choose another place or mend this one")


def disk_full(path: Path) -> MachineError:
    """One sentence about a disk without room for `path`."""
    return MachineError(f"the disk is full: {path} could not be written; free some space and run it again")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the operating system says while `path` is written into a :class:`MachineError`."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise machine_error(error, path) from error


def write_whole(path: str | os.PathLike[str], fill: Callable[[BinaryIO], object]) -> None:
    """Call `fill` with a new file beside `path`, then move that file there.

    Raises:
        MachineError: the file cannot be written.
    """
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(beside, "wb") as file:
                fill(file)
            os.replace(beside, target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        if error.errno in _FULL:
            raise disk_full(target) from error
        raise MachineError(f"{target} cannot be written ({error.strerror or error}): give another place") from error


def check_new(path: Path, overwrite: bool, *sources: Path) -> None:
    """Refuse (ConfigError) to write where a folder is, over a file unless `overwrite` is meant, or over a source."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder, but a file to write was expected; give it a name")
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} exists already; give another name, or replace it with --overwrite")
    for source in sources:
        if path.exists() and source.exists() and path.samefile(source):
            raise ConfigError(f"{path} is what is read, and would be lost; give the result a name of its own")


def content_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sorts ``frame_2`` before ``frame_10``."""
    parts = re.split(r"(\d+)", name, flags=re.ASCII)
    # The text itself decides between 01 and 1.
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts] + [(-1, name)]
