"""What is in a set of shards (``lvgan data info``), and whether all of it can be used (``lvgan data verify``)."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lvgan.data.cache import cache_files, processors, user_folder
from lvgan.data.manifest import FILE_NAME, Manifest
from lvgan.data.shards import (
    ShardFolder,
    StoredClip,
    clips_digest,
    doubled_members,
    find_resolutions,
    index_shard,
    order_differs,
    shard_name,
)
from lvgan.errors import DataError
from lvgan.files import write_whole
from lvgan.sizes import Size

USUAL_FPS = 30.0  # of the published sets
GRID_SIDE = 8  # clips, and frames of each, in a sheet of samples


# --- info -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Resolution:
    """One resolution of a set; `decoded` are bytes of cached frames, beside the shards and elsewhere."""

    size: Size
    shards: int
    bytes: int
    decoded: int


@dataclass(frozen=True)
class SetInfo:
    """What a set holds. `frames` has the length of each clip; `fps` is None where no manifest says it; `complete`
    is False where `lvgan prepare` was stopped or is still at work."""

    resolutions: tuple[Resolution, ...]
    frames: tuple[int, ...]
    fps: float | None
    complete: bool = True

    @property
    def hours(self) -> float:
        """Length of all clips, at 30 frames a second where nothing else is known."""
        return sum(self.frames) / (self.fps or USUAL_FPS) / 3600


def describe(root: str | os.PathLike[str]) -> SetInfo:
    """What the set in a folder holds. Reads directories of shards, no frame.

    Raises:
        DataError: no set, or a damaged shard.
    """
    folders = _resolutions(Path(root))
    manifest = Manifest.load(Path(root))
    complete = manifest is None or manifest.complete
    resolutions = []
    frames: tuple[int, ...] = ()
    for size, folder in folders.items():
        begun = complete or any(folder.glob("*.zip"))
        shards = ShardFolder(folder, size) if begun else ShardFolder.of(folder, size, {})
        frames = frames or tuple(clip.frames for clip in shards.clips.values())
        files = sorted(folder.glob("*.zip"))
        kept = cache_files(folder) + cache_files(user_folder(folder))
        resolutions.append(Resolution(size, len(files), _bytes(files), _bytes(kept)))
    return SetInfo(tuple(resolutions), frames, None if manifest is None else float(manifest.settings["fps"]), complete)


def length_histogram(frames: Sequence[int], width: int = 40) -> list[str]:
    """Lines of text: how many clips have 1, 2 to 3, 4 to 7, … frames. The paper's 128 begins a line."""
    if not frames:
        return []
    octaves = [max(count, 1).bit_length() - 1 for count in frames]
    first, last = min(octaves), max(octaves)
    counts = [octaves.count(octave) for octave in range(first, last + 1)]
    lines = []
    for octave, count in enumerate(counts, start=first):
        bar = "#" * max(round(width * count / max(counts)), int(count > 0))
        lines.append(f"{2**octave:>8} to {2 ** (octave + 1) - 1:<8} {bar:<{width}} {count}")
    return lines


def sample_grid(root: str | os.PathLike[str], path: Path, side: int = 128) -> Size:
    """Write a sheet of samples as PNG: clips from the whole set, one a row, frames from its start to its end.

    Pictures are those of the smallest resolution of at least `side` pixels of height, or of the largest.
    Returns the sheet's size.

    Raises:
        DataError: no set, no frame, or a damaged shard.
        MachineError: it cannot be written.
    """
    folders = _resolutions(Path(root))
    size = next((s for s in folders if s.height >= side), list(folders)[-1])
    shards = ShardFolder(folders[size], size)
    clips = [clip for clip in shards.clips.values() if clip.frames]
    if not clips:
        raise DataError(f"{folders[size]} holds no frames; prepare it again")
    rows = []
    for i in _spread(len(clips), GRID_SIDE):
        numbers = np.linspace(0, clips[i].frames - 1, GRID_SIDE).round().astype(int).tolist()
        rows.append(np.concatenate([shards.read(clips[i].name, n, 1)[0] for n in numbers], axis=1))
    sheet: NDArray[np.uint8] = np.concatenate(rows)
    write_whole(path, lambda file: Image.fromarray(sheet).save(file, "PNG"))
    return Size(*sheet.shape[:2])


def _spread(total: int, count: int) -> list[int]:
    return sorted({i * total // count for i in range(count)}) if total > count else list(range(total))


def _bytes(files: Sequence[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _resolutions(root: Path) -> dict[Size, Path]:
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give the folder of a set, such as `lvgan prepare` makes")
    folders = find_resolutions(root)
    if not folders:
        raise DataError(f"{root} holds no folders of shards such as 0064x0064; give the folder of a set")
    return folders


# --- verify ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verified:
    """What :func:`verify` read, and one line for each thing that is wrong."""

    resolutions: tuple[Size, ...]
    clips: int
    frames: int  # of all resolutions
    problems: tuple[str, ...]


def verify(root: str | os.PathLike[str], *, progress: bool = False) -> Verified:
    """Decode every frame of a set; compare its resolutions with each other and with the manifest.

    Damage is reported, not raised, and the rest is examined all the same.

    Raises:
        DataError: there is no set in the folder.
    """
    folders = _resolutions(Path(root))
    problems: list[str] = []
    found: dict[Size, dict[str, StoredClip]] = {}
    for size, folder in folders.items():
        found[size] = _index(folder, problems)
    frames = sum(clip.frames for clips in found.values() for clip in clips.values())
    problems += _decode_all(folders, found, frames, progress)
    problems += _compare(found)
    problems += _check_manifest(Path(root), folders, found)
    clips = max(len(clips) for clips in found.values())
    return Verified(tuple(folders), clips, frames, tuple(problems))


def _index(folder: Path, problems: list[str]) -> dict[str, StoredClip]:
    clips: dict[str, StoredClip] = {}
    shards = sorted(folder.glob("*.zip"))
    if not shards:
        problems.append(f"{folder} holds no zip files; it should hold {shard_name(0)} and so on")
    for shard in shards:
        try:
            indexed = index_shard(shard)
        except DataError as error:
            problems.append(str(error))
            continue
        problems += [f"{shard} holds the file {name!r} more than once" for name in doubled_members(shard)]
        for clip in indexed:
            problems += _listed_twice(clip)
            if clip.name in clips:
                problems.append(f"{shard} holds clip {clip.name!r}, and so does {clips[clip.name].shard.name}")
            clips.setdefault(clip.name, clip)
            if not clip.frames:
                problems.append(f"{shard} holds clip {clip.name!r} without a frame")
    return clips


def _listed_twice(clip: StoredClip) -> list[str]:
    places = clip.members[:, 0]
    count = len(places) - len(np.unique(places))
    if not count:
        return []
    first = next(i for i in range(1, len(places)) if places[i] in places[:i])
    frames = "1 frame" if count == 1 else f"{count} frames"
    return [f"{clip.shard} lists {frames} of clip {clip.name!r} twice ({clip.names[first]!r})"]


def _decode_all(
    folders: dict[Size, Path], found: dict[Size, dict[str, StoredClip]], frames: int, progress: bool
) -> Iterator[str]:
    from tqdm import tqdm

    threads = processors()
    bar = tqdm(total=frames, desc="decoding", unit=" frames", dynamic_ncols=True, disable=not progress)
    waiting: deque[tuple[int, Future[list[str]]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="verify")
    try:
        with bar:
            for size, clips in found.items():
                shards = ShardFolder.of(folders[size], size, clips)
                for clip in clips.values():
                    for start in range(0, clip.frames, 32):
                        count = min(32, clip.frames - start)
                        waiting.append((count, pool.submit(_decode_some, shards, clip, start, count)))
                        if len(waiting) > 4 * threads:
                            yield from _finished(waiting, bar.update)
            while waiting:
                yield from _finished(waiting, bar.update)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _finished(waiting: deque[tuple[int, Future[list[str]]]], advance: Callable[[int], object]) -> list[str]:
    count, future = waiting.popleft()
    lines = future.result()
    advance(count)
    return lines


def _decode_some(shards: ShardFolder, clip: StoredClip, start: int, count: int) -> list[str]:
    lines = []
    for number in range(start, start + count):
        try:
            shards.read(clip.name, number, 1)
        except DataError as error:
            lines.append(str(error))
    return lines


def _compare(found: dict[Size, dict[str, StoredClip]]) -> list[str]:
    (first, base), *others = found.items()
    lines = []
    for size, clips in others:
        for name in sorted(base.keys() | clips.keys()):
            counts = [held[name].frames if name in held else None for held in (base, clips)]
            if None in counts:
                there, lacking = (first, size) if counts[1] is None else (size, first)
                lines.append(f"clip {name!r} is in {there.folder()} and not in {lacking.folder()}")
            elif counts[0] != counts[1]:
                lines.append(
                    f"clip {name!r} has {counts[0]} frames in {first.folder()} and {counts[1]} in {size.folder()}"
                )
            else:
                wrong = order_differs(base[name], clips[name])
                if wrong is not None:
                    lines.append(f"clip {name!r} does not hold the same frames at both resolutions: {wrong}")
    return lines


def _check_manifest(root: Path, folders: dict[Size, Path], found: dict[Size, dict[str, StoredClip]]) -> list[str]:
    try:
        manifest = Manifest.load(root)
    except DataError as error:
        return [str(error)]
    if manifest is None:  # a published set
        return []
    lines = [] if manifest.complete else [f"{root / FILE_NAME} says that `lvgan prepare` was stopped; run it again"]
    named = {(folder, shard.name) for shard in manifest.shards for folder in shard.bytes}
    for shard in manifest.shards:
        for name, expected in shard.bytes.items():
            path = root / name / shard.name
            if not path.is_file():
                lines.append(f"{path} is not there, and {FILE_NAME} names it")
            elif path.stat().st_size != expected:
                lines.append(f"{path} has {path.stat().st_size} bytes, and {FILE_NAME} says {expected}")
            elif name in shard.digests and not _same_digest(path, shard.digests[name]):
                lines.append(f"{path} holds other frames than {FILE_NAME} says: its digest differs")
    recorded = {clip.name: clip.frames for clip in manifest.clips()}
    for size in (manifest.lr, manifest.hr):
        clips = found.get(size)
        if clips is None:
            lines.append(f"{root / size.folder()} is not there, and {FILE_NAME} names it")
            continue
        extra = [s for s in sorted(folders[size].glob("*.zip")) if (size.folder(), s.name) not in named]
        lines += [f"{path} is not in {FILE_NAME}" for path in extra]
        if {name: clip.frames for name, clip in clips.items()} != recorded:
            lines.append(f"{folders[size]} holds other clips or numbers of frames than {FILE_NAME} says")
    return lines


def _same_digest(path: Path, digest: str) -> bool:
    try:
        return clips_digest(index_shard(path)) == digest
    except DataError:  # reported already
        return True
