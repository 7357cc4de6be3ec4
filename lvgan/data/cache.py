"""Decoded frames of one resolution, so that training reads bytes and no JPEG.

One file: uint8 ``[N, C, H, W]`` in NumPy's format, the clips one after the other by name, mapped into memory.
It lies beside the shards (``0064x0064/cache_rgb_<key>.npy``), or in the user's cache folder where the shards
cannot be written to. The key in its name is a digest of the checksums of all frames: after the shards have
changed, it is not found, and made again. Deleting it loses nothing but the minute that it took.
Behind the frames lie the CRC-32 of every stretch of them, which are checked whenever the file is opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lvgan.data.shards import ShardFolder, clips_digest

Planes = NDArray[np.uint8]  # [T, C, H, W]
Say = Callable[[str], None]

_FORMAT = 2  # counted up when the same frames give another file
_CHUNK_BYTES = 4 << 20  # decoded at a time by one thread
_SPARE_BYTES = 256 << 20  # left free on a disk
_LARGE_BYTES = 4 << 30  # what takes so long to check that a bar is shown


@dataclass
class FrameCache:
    """Decoded frames of all clips of a resolution.

    Can be pickled where it is a file; one in memory raises ``TypeError``.

    Attributes:
        frames: uint8 [N, C, H, W], read-only.
        rows: where each clip begins.
        path: the file; None for one in memory.
    """

    frames: Planes
    rows: dict[str, int]
    path: Path | None

    def read(self, clip: str, start: int, count: int, stride: int = 1) -> Planes:
        """`count` frames of a clip, every `stride`-th: uint8 [T, C, H, W], a view of the file."""
        first = self.rows[clip] + start
        return self.frames[first : first + (count - 1) * stride + 1 : stride]

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path is None:
            raise TypeError("decoded frames in memory cannot be pickled")
        return _reopen, (self.path, self.rows)


def _reopen(path: Path, rows: dict[str, int]) -> FrameCache:
    return FrameCache(np.load(path, mmap_mode="r"), rows, path)


def open_cache(
    shards: ShardFolder,
    mode: str = "auto",
    *,
    channels: int = 3,
    progress: bool = False,
    say: Say | None = None,
) -> FrameCache | None:
    """The decoded frames of a resolution: found, or made now by all processors.

    Any number of processes may ask at once: one decodes, the others wait for it. One that is ended half-way
    leaves nothing that is taken for finished.

    Args:
        mode: ``auto``: a file beside the shards, else in the user's cache folder, else memory if they take
            no more than half of what is free, else none; ``memory``; or ``off``.
        channels: 3 for RGB, 1 for grey.
        progress: show a bar.
        say: told, in one sentence, where the frames are kept if not beside the shards, and why; and of a
            file that was found damaged.

    Returns:
        None if `mode` is off or there is no room: frames are then decoded whenever they are used.

    Raises:
        DataError: a damaged shard.
    """
    if mode == "off":
        return None
    say = say or (lambda _: None)
    plan = _Plan(shards, channels, progress)
    if mode == "memory":
        return FrameCache(plan.in_memory(), plan.rows, None)
    places = [shards.folder, user_folder(shards.folder)]
    for place in places:
        found = plan.find(place, say)
        if found is not None:
            return found
    reasons: list[str] = []
    for place in places:
        try:
            cache = plan.build(place, say)
        except OSError as error:
            reasons.append(f"{place}: {error.strerror or error}")
            continue
        if reasons:
            say(f"decoded frames are kept in {place} ({reasons[0]})")
        return cache
    kept = f"{_gigabytes(plan.bytes)} of decoded frames can be kept neither beside the shards nor in the user's cache"
    if plan.bytes <= _free_memory() // 2:
        say(f"{kept} ({'; '.join(reasons)}): they are kept in memory")
        return FrameCache(plan.in_memory(), plan.rows, None)
    say(
        f"{kept} ({'; '.join(reasons)}), nor in memory: training decodes them every time, which is slower; "
        "free some space to speed it up"
    )
    return None


def user_folder(shards: Path) -> Path:
    """Where decoded frames of a folder that cannot be written to are kept: below ``$LVGAN_CACHE/frames``, or
    ``lvgan/frames`` in the user's cache folder."""
    own = os.environ.get("LVGAN_CACHE")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "lvgan"
    return base / "frames" / hashlib.sha256(os.fsencode(shards.resolve())).hexdigest()[:16]


def cache_files(folder: Path) -> list[Path]:
    """Files of decoded frames in a folder, finished or not, of these shards or earlier ones."""
    return [p for p in sorted(folder.glob("cache_*")) if re.fullmatch(r"cache_(rgb|grey)_\w+\.npy(\..*)?", p.name)]


class _Plan:
    """What a cache of some shards is called, how it is laid out, and how it is filled."""

    def __init__(self, shards: ShardFolder, channels: int, progress: bool) -> None:
        self._shards, self._channels, self._progress = shards, channels, progress
        self.rows: dict[str, int] = {}
        total = 0
        for clip in shards.clips.values():
            self.rows[clip.name] = total
            total += clip.frames
        self.shape = (total, channels, *shards.size)
        self.bytes = int(np.prod(self.shape, dtype=np.int64))
        made_from = f"{_FORMAT} {self.shape} {clips_digest(shards.clips.values())}"
        key = hashlib.sha256(made_from.encode()).hexdigest()[:24]
        self._prefix = "cache_rgb_" if channels == 3 else "cache_grey_"
        self._name = f"{self._prefix}{key}.npy"

    def find(self, place: Path, say: Say | None = None) -> FrameCache | None:
        """The finished cache in a folder, if it is there and whole; `say` is told of one that is not."""
        path = place / self._name
        try:
            frames = np.load(path, mmap_mode="r")
            whole = frames.shape == self.shape and frames.dtype == np.uint8 and self._is_sound(path, frames)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError):  # something that only has the name
            whole = False
        if not whole and say is not None:
            say(f"the decoded frames in {path} are damaged: they are not used, but decoded again")
        return FrameCache(frames, self.rows, path) if whole else None

    def _is_sound(self, path: Path, frames: Planes) -> bool:
        """Whether the frames have the checksums that stand behind them; by all processors."""
        from tqdm import tqdm

        stretches = [(self.rows[clip] + start, count) for clip, start, count in self._stretches()]
        with open(path, "rb") as file:
            file.seek(-4 * len(stretches), os.SEEK_END)
            begin = path.stat().st_size - 4 * len(stretches) - self.bytes
            if begin != getattr(frames, "offset", begin):  # bytes are missing, or too many
                return False
            expected = np.frombuffer(file.read(), "<u4").tolist()
        large = self._progress and self.bytes >= _LARGE_BYTES
        bar = tqdm(total=self.bytes, desc="checking decoded frames", unit="B", unit_scale=True, disable=not large)

        def differs(at: tuple[int, int], crc: int) -> bool:
            stretch = frames[at[0] : at[0] + at[1]]
            bar.update(stretch.nbytes)
            return zlib.crc32(stretch.data) != crc

        with bar, ThreadPoolExecutor(processors(), thread_name_prefix="check") as pool:
            return not any(pool.map(differs, stretches, expected))

    def in_memory(self) -> Planes:
        """All frames, decoded into memory."""
        frames = np.empty(self.shape, np.uint8)
        for first, planes in self._decoded():
            frames[first : first + len(planes)] = planes
        frames.flags.writeable = False
        return frames

    def build(self, place: Path, say: Say) -> FrameCache:
        """Decode all frames into a file of the folder, or wait for another process that does.

        Raises:
            OSError: it cannot be written there, or the disk is full; nothing is left behind.
        """
        place.mkdir(parents=True, exist_ok=True)
        path = place / self._name
        while True:
            with _locked(path.with_name(path.name + ".partial"), say) as (file, partial):
                found = self.find(place)
                if found is not None:
                    partial.unlink(missing_ok=True)
                    return found
                if not _is_same(file, partial):
                    continue  # another process has finished, or given up, between our opening and our lock
                try:
                    self._write(file, shutil.disk_usage(place).free)
                    os.replace(partial, path)
                except BaseException:
                    partial.unlink(missing_ok=True)
                    raise
            self._remove_stale(place)
            return _reopen(path, self.rows)

    def _write(self, file: BinaryIO, free: int) -> None:
        if self.bytes + _SPARE_BYTES > free:
            raise OSError(f"{_gigabytes(self.bytes)} are needed, {_gigabytes(free)} are free")
        file.truncate(0)
        header = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(file, header)
        checksums = []
        for _, planes in self._decoded():
            file.write(planes.data)
            checksums.append(zlib.crc32(planes.data))
        file.write(np.array(checksums, "<u4").tobytes())
        file.flush()
        os.fsync(file.fileno())

    def _decoded(self) -> Iterator[tuple[int, Planes]]:
        """First row and frames of one stretch after the other, in order, decoded by threads."""
        from tqdm import tqdm

        threads = processors()
        bar = tqdm(
            total=self.shape[0],
            desc=f"decoding {self._shards.size} once",
            unit=" frames",
            dynamic_ncols=True,
            disable=not self._progress,
        )
        waiting: deque[tuple[int, Future[Planes]]] = deque()
        pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        try:
            with bar:
                for clip, start, count in self._stretches():
                    waiting.append((self.rows[clip] + start, pool.submit(self._planes, clip, start, count)))
                    if len(waiting) > 2 * threads:
                        yield _next(waiting, bar)
                while waiting:
                    yield _next(waiting, bar)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _stretches(self) -> Iterator[tuple[str, int, int]]:
        length = max(1, _CHUNK_BYTES // int(np.prod(self.shape[1:])))
        for clip in self._shards.clips.values():
            for start in range(0, clip.frames, length):
                yield clip.name, start, min(length, clip.frames - start)

    def _planes(self, clip: str, start: int, count: int) -> Planes:
        return np.ascontiguousarray(self._shards.read(clip, start, count, self._channels).transpose(0, 3, 1, 2))

    def _remove_stale(self, place: Path) -> None:
        for path in cache_files(place):
            if path.name.startswith(self._prefix) and not path.name.startswith(self._name):
                with contextlib.suppress(OSError):  # in use, where that matters
                    path.unlink()


def _next(waiting: deque[tuple[int, Future[Planes]]], bar: Any) -> tuple[int, Planes]:
    first, future = waiting.popleft()
    planes = future.result()
    bar.update(len(planes))
    return first, planes


@contextlib.contextmanager
def _locked(partial: Path, say: Say) -> Iterator[tuple[BinaryIO, Path]]:
    """The file being made, open for this process alone; and its name.

    The lock goes with the process, however that ends, so that what a killed one left is simply taken over.
    Where files cannot be locked, every process makes a file of its own.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        fcntl = None  # type: ignore[assignment]
    if fcntl is not None:
        with open(os.open(partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting for another process that decodes the frames ({partial})")
                fcntl.flock(file, fcntl.LOCK_EX)
                yield file, partial
                return
            except OSError:  # such as a network folder without locks
                pass
            else:
                yield file, partial
                return
    handle, own = tempfile.mkstemp(prefix=partial.name + ".", dir=partial.parent)
    with open(handle, "r+b") as file:
        yield file, Path(own)


def _is_same(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def processors() -> int:
    """Number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _free_memory() -> int:
    """Bytes of memory that can be used without swapping, in this container too; 0 where that is not known."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return 0
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{what}").read_text()) for what in ("max", "current"))
        free = min(free, max(limit - used, 0))
    return free


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
