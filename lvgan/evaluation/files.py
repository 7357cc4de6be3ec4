"""Files of an evaluation: listed in order, hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from lvgan.files import content_hash, natural_key


def files_below(folder: Path) -> list[Path]:
    """All files below a folder in natural order, without hidden ones."""
    found = (path for path in folder.rglob("*") if path.is_file())
    shown = (p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))
    return sorted(shown, key=lambda p: natural_key(p.as_posix()))


def hash_lines(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return f"sha256:{digest.hexdigest()}"


def hash_files(files: Iterable[Path], root: Path) -> str:
    """SHA-256 over names and contents."""

    def lines() -> Iterator[str]:
        for path in files:
            yield f"{path.relative_to(root).as_posix()} {content_hash(path)}"

    return hash_lines(lines())
