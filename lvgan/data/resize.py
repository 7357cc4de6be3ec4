"""A missing resolution of a set, made from a larger one: the same shards, clips and frame names."""

from __future__ import annotations

import io
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lvgan.data.cache import processors
from lvgan.data.shards import (
    ShardFolder,
    ShardWriter,
    StoredClip,
    clips_digest,
    encode_jpeg,
    find_resolutions,
    shard_comment,
)
from lvgan.errors import ConfigError, DataError
from lvgan.files import writing
from lvgan.sizes import Size

_MARK = b"lvgan resize "


@dataclass(frozen=True)
class Resized:
    """What :func:`resize` did: from which resolution, which part of its pictures, how many shards."""

    source: Size
    part: Size
    made: int
    kept: int


def resize(
    root: str | os.PathLike[str],
    size: Size,
    *,
    source: Size | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Resized:
    """Make the resolution `size` of a set from a larger one: its centre, scaled by Lanczos with antialiasing.

    Each shard appears once it is complete. Shards that are there, made of the same frames, are kept, so that
    a run that was stopped goes on. Bytes are the same whatever the number of processors.

    Args:
        root: the folder of the set.
        size: to make.
        source: to make it from; None takes the smallest that is large enough.
        overwrite: replace shards of that resolution that were not made by this function.

    Raises:
        ConfigError: no resolution is large enough: nothing is ever enlarged.
        DataError: no such set, a damaged shard, or the resolution is there and came from elsewhere.
        MachineError: it cannot be written or the disk is full.
    """
    folders = find_resolutions(Path(root))
    if not folders:
        raise DataError(f"{root} holds no folders of shards such as 0256x0256; give the folder of a set")
    chosen = _choose(Path(root), folders, size, source)
    shards = ShardFolder(folders[chosen], chosen)
    by_shard: dict[Path, list[StoredClip]] = {}
    for clip in shards.clips.values():
        by_shard.setdefault(clip.shard, []).append(clip)
    target = Path(root) / size.folder()
    marks = {shard: _MARK + f"{chosen} {clips_digest(clips)}".encode() for shard, clips in by_shard.items()}
    todo = [s for s in by_shard if shard_comment(target / s.name) != marks[s]]
    _check_target(target, {shard.name for shard in by_shard}, overwrite)
    with _Work(shards, size, sum(c.frames for s in todo for c in by_shard[s]), progress) as work:
        for shard in todo:
            with ShardWriter(target / shard.name) as writer:
                work.fill(writer, by_shard[shard])
                writer.finish(marks[shard])
                writer.commit()
    return Resized(chosen, _part(chosen, size), len(todo), len(by_shard) - len(todo))


def _choose(root: Path, folders: dict[Size, Path], size: Size, source: Size | None) -> Size:
    have = [s for s in folders if s != size]
    listed = ", ".join(map(str, have)) or "nothing else"
    if source is not None and source not in have:
        raise ConfigError(f"{root} holds no {source} to make {size} from, but {listed}; name one of these")
    enough = [s for s in ([source] if source is not None else have) if _holds(s, size)]
    if not enough:
        raise ConfigError(
            f"{size} cannot be made from {source or listed}: pictures are never enlarged; "
            "choose a smaller size, or prepare the footage at that one"
        )
    return enough[0]


def _holds(source: Size, size: Size) -> bool:
    part = _part(source, size)
    return part.height >= size.height and part.width >= size.width


def _part(source: Size, size: Size) -> Size:
    left, top, right, bottom = _box(source, size)
    return Size(bottom - top, right - left)


def _check_target(target: Path, names: set[str], overwrite: bool) -> None:
    """Refuse to replace what was not made here; remove what was, and belongs to no shard any more."""
    for path in sorted(target.glob("*.zip")):
        ours = shard_comment(path).startswith(_MARK)
        if not ours and not overwrite:
            raise DataError(f"{path} is there and was not made by this command; give --overwrite to replace it")
        if path.name not in names:
            with writing(path):
                path.unlink()


class _Work:
    """Resizes frames in threads and stores them in order; shows how far it is."""

    def __init__(self, shards: ShardFolder, size: Size, frames: int, progress: bool) -> None:
        from tqdm import tqdm

        self._shards, self._size, self._threads = shards, size, processors()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="resize")
        self._bar = tqdm(total=frames, desc=f"making {size}", unit=" frames", dynamic_ncols=True, disable=not progress)

    def fill(self, writer: ShardWriter, clips: list[StoredClip]) -> None:
        """Write all frames of some clips."""
        waiting: deque[tuple[str, str, Future[bytes]]] = deque()
        for clip in clips:
            for number, name in enumerate(clip.names):
                waiting.append((clip.name, name, self._pool.submit(self._one, clip.name, number, name)))
                if len(waiting) > 8 * self._threads:
                    self._store(writer, waiting)
        while waiting:
            self._store(writer, waiting)

    def _store(self, writer: ShardWriter, waiting: deque[tuple[str, str, Future[bytes]]]) -> None:
        clip, name, future = waiting.popleft()
        writer.add(clip, future.result(), name)
        self._bar.update()

    def _one(self, clip: str, number: int, name: str) -> bytes:
        picture = crop_resize(self._shards.read(clip, number, 1)[0], self._size)
        if not name.lower().endswith(".png"):
            return encode_jpeg(picture)
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG", compress_level=3)
        return buffer.getvalue()

    def __enter__(self) -> _Work:
        return self

    def __exit__(self, *_: Any) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._bar.close()


# --- pictures -------------------------------------------------------------------------------------


def crop_resize(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Crop the centre to the aspect ratio of `size` and scale it with antialiasing (Lanczos).

    Args:
        image: uint8 [H, W, 3].
        size: of the result.

    Returns:
        uint8 [height, width, 3].
    """
    picture = Image.fromarray(image).crop(_box(Size(*image.shape[:2]), size))
    return np.asarray(picture.resize((size.width, size.height), Image.Resampling.LANCZOS))


def _box(source: Size, size: Size) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the centre of `source` with the aspect ratio of `size`."""
    height, width = source
    ideal_w = min(width, height * size.width / size.height)
    ideal_h = min(height, width * size.height / size.width)
    left, top = int((width - ideal_w) / 2 + 1e-6), int((height - ideal_h) / 2 + 1e-6)
    return left, top, left + max(1, int(ideal_w + 0.5)), top + max(1, int(ideal_h + 0.5))
