"""Where the clips of an evaluation come from: shards, videos, folders of frames, arrays, functions.

Every source gives random clips as uint8 [T, H, W, 3]. Clip i is a random video, each as likely as
another, and a random start in it; both are fixed functions of (seed, i). Where no more different
clips exist than were asked for, each of them is used once, and the record says so.
"""

from __future__ import annotations

import contextlib
import logging
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from lvgan.config import USUAL_FPS
from lvgan.data.dataset import stored_fps
from lvgan.data.shards import ShardFolder, clips_digest, find_resolutions
from lvgan.data.video import measure_duration, probe, read_frames
from lvgan.errors import DataError, MediaError
from lvgan.evaluation.files import files_below, hash_files, hash_lines
from lvgan.seeding import derive
from lvgan.sizes import Size

PathText = str | os.PathLike[str]
Wanted = Callable[[int], bool]  # by the number of a clip
Numbered = tuple[int, np.ndarray]

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".gif"}
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg"}
EIGHT_BIT_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}


class ClipSource(Protocol):
    """What an evaluation reads clips from."""

    @property
    def label(self) -> str:
        """Name in plots and tables."""

    @property
    def fps(self) -> float:
        """Frames a second; 30 where nothing says how many."""

    def clips(self, count: int, frames: int, seed: int) -> Iterator[np.ndarray]:
        """At most `count` random clips, uint8 [frames, H, W, 3]."""

    def describe(self) -> dict[str, Any]:
        """What the clips were taken from, for the protocol record; JSON values only."""


class FunctionSource:
    """Clips made by a function, for instance a generator.

    Args:
        label: name in plots and tables.
        make: ``make(index, frames, seed)`` gives clip `index`, uint8 [frames, H, W, 3].
        record: what :meth:`describe` tells about it.
    """

    def __init__(
        self, label: str, make: Callable[[int, int, int], np.ndarray], record: Mapping[str, Any] | None = None
    ) -> None:
        self.label = label
        self.fps = USUAL_FPS
        self._make = make
        self._record = dict(record or {})

    def clips(self, count: int, frames: int, seed: int) -> Iterator[np.ndarray]:
        """Clips 0 ... count - 1, uint8 [frames, H, W, 3]."""
        return (clip for _, clip in self.numbered(count, frames, seed))

    def numbered(self, count: int, frames: int, seed: int, wanted: Wanted | None = None) -> Iterator[Numbered]:
        """Clips with their numbers; only those `wanted` are made."""
        for index in filter(wanted or (lambda _: True), range(count)):
            clip = self._make(index, frames, seed)
            if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[0] != frames or clip.shape[3] not in (1, 3):
                expected = f"uint8 [{frames}, H, W, 3]"
                raise ValueError(f"make must return {expected}, not {clip.dtype} {list(clip.shape)}")
            yield index, clip

    def describe(self) -> dict[str, Any]:
        """The record it was given, marked as generated."""
        return {"kind": "generated", **self._record}


class _Windows:
    """Which clips to read: pairs (video, start)."""

    def __init__(self, lengths: Sequence[int], count: int, frames: int, seed: int) -> None:
        """Choose at most `count` windows of `frames` frames from videos of `lengths` frames."""
        self.usable = [video for video, length in enumerate(lengths) if length >= frames]
        self.short = len(lengths) - len(self.usable)
        starts = {video: lengths[video] - frames + 1 for video in self.usable}
        self.possible = sum(starts.values())
        self.all = self.possible <= count
        if self.all:
            self.chosen = [(video, start) for video in self.usable for start in range(starts[video])]
            return
        self.chosen = []
        for index in range(count):
            video = self.usable[_pick(len(self.usable), seed, index, "video")]
            self.chosen.append((video, _pick(starts[video], seed, index, "start")))


def _pick(choices: int, seed: int, index: int, purpose: str) -> int:
    """One of `choices`, equally likely, a fixed function of the rest."""
    return (derive(seed, "clip", index, purpose) * choices) >> 63


class StoredVideos(ABC):
    """Clips cut from stored videos, each of which has a length in frames."""

    kind: str
    unit = "videos"  # what one of them is called in messages

    def __init__(self, path: PathText, label: str | None, size: Size | None) -> None:
        self.path = Path(path)
        self.label = label or (self.path.stem if self.path.is_file() else self.path.name) or str(self.path)
        self.size = size
        self.fps = USUAL_FPS
        self.native: Size | None = None  # before it was fitted, where known
        self._drawn: dict[str, Any] = {}
        self._fingerprint: str | None = None

    @abstractmethod
    def lengths(self, frames: int) -> Sequence[int]:
        """Frames of each video; a length below `frames` need not be exact."""

    @abstractmethod
    def _hash(self) -> str:
        """What tells this data from other data."""

    def _windows(self, count: int, frames: int, seed: int) -> _Windows:
        """The windows to read; tells of videos that are too short, refuses where all are."""
        if count < 1 or frames < 1:
            raise ValueError(f"count and frames must be 1 or more, not {count} and {frames}")
        lengths = self.lengths(frames)
        windows = _Windows(lengths, count, frames, seed)
        if not windows.usable:
            longest = max(lengths, default=0)
            raise DataError(
                f"{self.path} holds {len(lengths)} {self.unit}, the longest of {longest} frames, but clips "
                f"of {frames} frames were asked for: ask for shorter clips or give longer footage"
            )
        if windows.short:
            log.warning(
                "%s: using %d of %d %s: %d are shorter than %d frames",
                *(self.path, len(windows.usable), len(lengths), self.unit, windows.short, frames),
            )
        self._drawn = {self.unit: len(lengths), "long_enough": len(windows.usable)}
        enough = "" if not windows.short else f"{len(windows.usable)} of "
        self._drawn["part"] = f"{enough or 'all '}{len(lengths)} {self.unit}"
        if windows.all:
            self._drawn["note"] = f"all {windows.possible} clips that there are were used, each once"
        return windows

    def weights(self, count: int, frames: int, seed: int) -> np.ndarray:
        """Of each clip by its number, float64: drawn ones count alike; where all there are were taken, each
        video counts the same however long it is."""
        windows = self._windows(count, frames, seed)
        if not windows.all:
            return np.ones(count)
        videos = [video for video, _ in sorted(windows.chosen)]
        return 1 / np.bincount(videos)[videos]

    def describe(self) -> dict[str, Any]:
        """Kind, path, size, fingerprint, and after :meth:`clips` how many videos were long enough."""
        if self._fingerprint is None:
            self._fingerprint = self._hash()
        record = {"kind": self.kind, "path": str(self.path), "fingerprint": self._fingerprint}
        if self.size is not None:
            record["size"] = str(self.size)
        return {**record, **self.drawn()}

    def drawn(self) -> dict[str, Any]:
        """What is known since clips were drawn: which part of the data they are from; JSON values."""
        return dict(self._drawn)

    def recall(self, drawn: Mapping[str, Any]) -> None:
        """Take over what :meth:`drawn` told when the same clips were drawn before."""
        self._drawn = dict(drawn)

    def stamp(self) -> str:
        """Tells changes that the fingerprint misses, as good as can be without reading everything."""
        return ""


class IndexedSource(StoredVideos):
    """Stored videos whose frames can be read from any place."""

    @abstractmethod
    def read(self, video: int, start: int, frames: int) -> np.ndarray:
        """Frames start ... start + frames - 1 of a video, uint8 [frames, H, W, 3]."""

    def clips(self, count: int, frames: int, seed: int) -> Iterator[np.ndarray]:
        """At most `count` random clips, uint8 [frames, H, W, 3].

        Raises:
            DataError: no video has so many frames, or one cannot be read.
        """
        return (clip for _, clip in self.numbered(count, frames, seed))

    def numbered(self, count: int, frames: int, seed: int, wanted: Wanted | None = None) -> Iterator[Numbered]:
        """Clips with their numbers; only those `wanted` are read."""
        for number, (video, start) in enumerate(self._windows(count, frames, seed).chosen):
            if wanted is None or wanted(number):
                yield number, self.read(video, start, frames)


class ArraySource(IndexedSource):
    """A ``.npy`` file: uint8 [T, H, W, 3], or [N, T, H, W, 3] for N videos; 1 channel for grey.

    Attributes:
        videos: uint8 [N, T, H, W, 1 or 3], mapped from the file.
    """

    kind = "array"

    def __init__(self, path: PathText, label: str | None = None, size: Size | None = None) -> None:
        super().__init__(path, label, size)
        try:
            array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{self.path} is not a readable .npy array ({error}): save it with numpy.save") from error
        shape = list(array.shape)
        if array.dtype != np.uint8 or array.ndim not in (4, 5) or shape[-1] not in (1, 3) or 0 in shape:
            raise DataError(
                f"{self.path} holds {array.dtype} {shape} where uint8 [T, H, W, 3] or [N, T, H, W, 3] "
                "was expected: bring its values to 0 ... 255, its axes to this order, and save it as uint8"
            )
        self.videos = array if array.ndim == 5 else array[None]

    def lengths(self, frames: int) -> Sequence[int]:
        return [self.videos.shape[1]] * len(self.videos)

    def read(self, video: int, start: int, frames: int) -> np.ndarray:
        clip = self.videos[video, start : start + frames]
        if clip.shape[-1] == 1:
            clip = np.repeat(clip, 3, axis=-1)
        return np.stack([_fit(Image.fromarray(frame), self.size) for frame in clip])

    def _hash(self) -> str:
        return hash_files([self.path], self.path.parent)


class FrameFolderSource(IndexedSource):
    """A folder of PNG or JPEG frames, or one of such folders, nested as deep as they are.

    Frames are taken in the order of the numbers in their names.

    Attributes:
        folders: the frames of each.
    """

    kind = "frames"
    unit = "folders of frames"

    def __init__(self, path: PathText, label: str | None = None, size: Size | None = None) -> None:
        super().__init__(path, label, size)
        folders: dict[Path, list[Path]] = {}
        for file in files_below(self.path):
            if file.suffix.lower() in IMAGE_SUFFIXES:
                folders.setdefault(file.parent, []).append(file)
        if not folders:
            raise DataError(f"{self.path} holds no PNG or JPEG frame: give a folder that does")
        self.folders = list(folders.values())

    def lengths(self, frames: int) -> Sequence[int]:
        return [len(files) for files in self.folders]

    def read(self, video: int, start: int, frames: int) -> np.ndarray:
        files = self.folders[video][start : start + frames]
        pictures = [_read_picture(file, self.size) for file in files]
        for file, picture in zip(files, pictures, strict=True):
            if picture.shape != pictures[0].shape:
                raise DataError(
                    f"{file} is {_size_text(picture)} while {files[0].name} beside it is "
                    f"{_size_text(pictures[0])}: give them one size, or name a size to fit them to"
                )
        return np.stack(pictures)

    def _hash(self) -> str:
        """Names and sizes in bytes: reading a million frames for it would take hours."""
        files = [file for folder in self.folders for file in folder]
        return hash_lines(f"{file.relative_to(self.path).as_posix()} {file.stat().st_size}" for file in files)

    def stamp(self) -> str:
        """When each frame was last written."""
        return hash_lines(str(file.stat().st_mtime_ns) for folder in self.folders for file in folder)


def _read_picture(path: Path, size: Size | None) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            if picture.mode not in EIGHT_BIT_MODES:
                raise DataError(f"{path} is of mode {picture.mode} where 8 bits a channel were expected: convert it")
            return _fit(picture.convert("RGB"), size)
    except OSError as error:
        raise DataError(f"{path} is not a readable picture ({error}): replace or remove it") from error


def _fit(picture: Image.Image, size: Size | None) -> np.ndarray:
    """The picture, cut about its centre to the size's aspect ratio, and resized (Lanczos): [H, W, 3].

    Cuts at the pixels at which videos are cut (:func:`lvgan.data.filters.crop_expressions`).
    """
    if size is None or picture.size == (size.width, size.height):
        return np.asarray(picture)
    width = min(picture.width, picture.height * size.width / size.height)
    height = min(picture.height, picture.width * size.height / size.width)
    x, y = int((picture.width - width) / 2 + 1e-6), int((picture.height - height) / 2 + 1e-6)
    box = (x, y, x + max(1, int(width + 0.5)), y + max(1, int(height + 0.5)))
    # Cut first: `resize` with a box would mix in pixels from beyond it.
    return np.asarray(picture.crop(box).resize((size.width, size.height), Image.Resampling.LANCZOS))


def fit_frame(frame: np.ndarray, size: Size) -> np.ndarray:
    """uint8 [h, w, 1 or 3], cut about its centre to the aspect ratio of `size` and resized (Lanczos): [H, W, C]."""
    grey = frame.shape[-1] == 1
    fitted = _fit(Image.fromarray(frame[..., 0] if grey else frame), size)
    return fitted[..., None] if grey else fitted


def _size_text(picture: np.ndarray) -> str:
    return f"{picture.shape[0]}x{picture.shape[1]}"


class ShardSource(IndexedSource):
    """Prepared shards at one of their resolutions, the largest where `size` is not given; fitted to `fit`."""

    kind = "shards"
    unit = "clips"

    def __init__(
        self, path: PathText, label: str | None = None, size: Size | None = None, fit: Size | None = None
    ) -> None:
        folders = _shard_folders(Path(path))
        if not folders:
            raise DataError(f"{path} holds no folder such as 0064x0064 with shards: prepare it first")
        if size is not None and size not in folders:
            found = ", ".join(str(known) for known in folders)
            raise DataError(f"{path} has no shards of {size}, but of {found}: name one of these sizes")
        size = size or list(folders)[-1]
        super().__init__(path, label, fit or size)
        self.native = size
        self.fps = stored_fps(folders[size].parent) or USUAL_FPS
        self._shards = ShardFolder(folders[size], size)
        self._clips = list(self._shards.clips.values())

    def lengths(self, frames: int) -> Sequence[int]:
        return [clip.frames for clip in self._clips]

    def read(self, video: int, start: int, frames: int) -> np.ndarray:
        clip = self._shards.read(self._clips[video].name, start, frames)
        if self.size is None or self.size == self.native:
            return clip
        return np.stack([fit_frame(frame, self.size) for frame in clip])

    def _hash(self) -> str:
        """Of names and checksums of every frame, in whichever shard they stand."""
        return f"sha256:{clips_digest(self._clips)}"


def _shard_folders(path: Path) -> dict[Size, Path]:
    """Resolutions that hold shards, smallest first; `path` is the set or one of them."""
    found = find_resolutions(path)
    if not found:
        beside = find_resolutions(path.absolute().parent)
        found = {size: folder for size, folder in beside.items() if folder == path.absolute()}
    return {size: folder for size, folder in found.items() if any(folder.glob("*.zip"))}


class VideoSource(StoredVideos):
    """A video file, or a folder of them, brought to `fps` frames a second; each is decoded once, in order.

    Clips come sorted by video and start rather than by their number.

    Attributes:
        files: the videos.
    """

    kind = "video"

    def __init__(self, path: PathText, label: str | None = None, size: Size | None = None) -> None:
        super().__init__(path, label, size)
        self._codecs: set[str] = set()
        if self.path.is_dir():
            self.files = [file for file in files_below(self.path) if file.suffix.lower() in VIDEO_SUFFIXES]
        else:
            self.files = [self.path]
        if not self.files:
            raise DataError(f"{self.path} holds no video: give a folder that does")

    def lengths(self, frames: int) -> Sequence[int]:
        return [self._length(path, frames) for path in self.files]

    def _length(self, path: Path, frames: int) -> int:
        """Frames at `fps` a second; 0 for one bad file among others, which is told and left out."""
        try:
            info = probe(path)
            self._codecs.add(info.codec or "unknown")
            duration = measure_duration(path) if info.duration is None else info.duration
            length = round(duration * self.fps)
            if abs(length - frames) <= self.fps:  # headers are not exact, and here it matters
                length = sum(1 for _ in self.decode(path))
            return length
        except MediaError as error:
            if len(self.files) == 1:
                raise
            log.warning("left out: %s", error)
            return 0

    def decode(self, path: Path) -> Generator[np.ndarray, None, None]:
        """Frames [H, W, 3] in order."""
        with read_frames(path, None if self.size is None else [self.size], fps=self.fps) as reader:
            for (frame,) in reader:
                yield frame

    def clips(self, count: int, frames: int, seed: int) -> Iterator[np.ndarray]:
        """At most `count` random clips, uint8 [frames, H, W, 3].

        Raises:
            DataError: no video has so many frames, or one cannot be read.
        """
        return (clip for _, clip in self.numbered(count, frames, seed))

    def numbered(self, count: int, frames: int, seed: int, wanted: Wanted | None = None) -> Iterator[Numbered]:
        """Clips with their numbers, sorted by video and start; only videos that hold one `wanted` are decoded."""
        chosen: dict[int, list[tuple[int, int]]] = {}
        for number, (video, start) in enumerate(sorted(self._windows(count, frames, seed).chosen)):
            if wanted is None or wanted(number):
                chosen.setdefault(video, []).append((start, number))
        for video, starts in chosen.items():
            clips = self._cut(self.files[video], [start for start, _ in starts], frames)
            for (_, number), clip in zip(starts, clips, strict=False):  # fewer where the video ends early
                yield number, clip

    def _cut(self, path: Path, starts: list[int], frames: int) -> Iterator[np.ndarray]:
        """The clips that begin at `starts` (ascending), from one pass that keeps `frames` frames."""
        latest: deque[np.ndarray] = deque(maxlen=frames)
        waiting = deque(starts)
        reason = "it ends earlier than its header says"
        try:
            with contextlib.closing(self.decode(path)) as decoded:
                for end, frame in enumerate(decoded, start=1):
                    latest.append(frame)
                    while waiting and waiting[0] + frames == end:
                        waiting.popleft()
                        yield np.stack(latest)
                    if not waiting:
                        return
        except MediaError as error:
            if len(self.files) == 1:
                raise
            reason = str(error)
        log.warning("%s: %d clips left out: %s", path, len(waiting), reason)

    def drawn(self) -> dict[str, Any]:
        """What every stored source tells, and the codecs."""
        return {**super().drawn(), "codecs": sorted(self._codecs)}

    def recall(self, drawn: Mapping[str, Any]) -> None:
        """Of the same clips."""
        others = {key: value for key, value in drawn.items() if key != "codecs"}
        super().recall(others)
        self._codecs = set(drawn.get("codecs", ()))

    def _hash(self) -> str:
        return hash_files(self.files, self.path if self.path.is_dir() else self.path.parent)


StoredSource = ArraySource | FrameFolderSource | ShardSource | VideoSource


def open_source(path: PathText, label: str | None = None, size: Size | None = None) -> StoredSource | None:
    """The clips at `path`, whatever they are stored as; None for a ``.pt`` checkpoint.

    Understands shards (the set or one resolution of it), a video, a folder of videos, a folder of
    frames or of such folders, and ``.npy`` arrays.

    Args:
        path: file or folder.
        label: name in plots and tables; that of the file or folder where not given.
        size: shards of this size; everything else is fitted to it (centre cut, Lanczos).

    Raises:
        DataError: there is nothing there, or nothing that clips can be read from.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if path.is_dir():
        return _open_folder(path, label, size)
    if suffix == ".pt":
        return None
    if not path.exists():
        raise DataError(f"{path} does not exist: give shards, a video, a folder of either, or a .npy array")
    if suffix == ".npy":
        return ArraySource(path, label, size)
    if suffix in VIDEO_SUFFIXES:
        return VideoSource(path, label, size)
    raise DataError(
        f"{path} is neither a video ({', '.join(sorted(VIDEO_SUFFIXES))}) nor a .npy array nor a .pt "
        "checkpoint: convert it, or give its folder if it is one frame of many"
    )


def _open_folder(path: Path, label: str | None, size: Size | None) -> StoredSource:
    if _shard_folders(path):
        return ShardSource(path, label, size)
    suffixes = {file.suffix.lower() for file in files_below(path)}
    if suffixes & VIDEO_SUFFIXES:  # pictures beside videos are their thumbnails
        return VideoSource(path, label, size)
    if suffixes & IMAGE_SUFFIXES:
        return FrameFolderSource(path, label, size)
    found = f"only {', '.join(sorted(s or 'files without a suffix' for s in suffixes))}" if suffixes else "nothing"
    raise DataError(
        f"{path} holds {found} where shards, videos or PNG or JPEG frames were expected: name another folder"
    )
