"""Files of an evaluation: written whole or not at all, listed in order, hashed."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from lvgan.errors import MachineError


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
        raise MachineError(f"{target} cannot be written ({error.strerror or error}): give another place") from error


def natural(path: Path) -> list[tuple[int, int, str]]:
    """Sort key under which frame_2 comes before frame_10."""
    parts = re.split(r"(\d+)", path.as_posix())
    return [(1, int(part), part) if part.isdecimal() else (0, 0, part) for part in parts]


def files_below(folder: Path) -> list[Path]:
    """All files below a folder in natural order, without hidden ones."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted((p for p in found if not any(x.startswith(".") for x in p.relative_to(folder).parts)), key=natural)


def hash_lines(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return f"sha256:{digest.hexdigest()}"


def hash_files(files: Iterable[Path], root: Path) -> str:
    """SHA-256 over names and contents."""

    def lines() -> Iterator[str]:
        for path in files:
            digest = hashlib.sha256()
            with open(path, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            yield f"{path.relative_to(root).as_posix()} {digest.hexdigest()}"

    return hash_lines(lines())
