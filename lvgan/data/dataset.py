"""A set of shards as clips: which there are, at which sizes, and their frames."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lvgan.data.cache import FrameCache, open_cache
from lvgan.data.manifest import FILE_NAME, Manifest
from lvgan.data.shards import ShardFolder, clips_digest, find_resolutions, order_differs
from lvgan.errors import ConfigError, DataError
from lvgan.sizes import Size

Frames = NDArray[np.uint8]  # [T, H, W, C]


class Clip(NamedTuple):
    """One clip of a set: its name and number of frames."""

    name: str
    frames: int


class ClipDataset:
    """The clips of a set of shards, made by ``lvgan prepare`` or published in the same layout.

    Reading is safe from any number of threads; the object can be pickled (a copy of one that keeps decoded
    frames in memory decodes again). :class:`lvgan.data.windows.Windows` makes training clips of it.

    Args:
        root: the folder that holds resolution folders such as ``0064x0064``.
        lr, hr: which resolutions to use. Left out, they come from ``manifest.json``, or from the folders
            where these are one or two (the smaller is `lr`).
        min_frames: shorter clips are left out.
        channels: 3 for RGB, 1 for grey.

    Attributes:
        clips: the clips that are kept, by name.
        total: number of clips before the short ones were left out.

    Raises:
        DataError: no such resolution, the two do not hold the same clips, a shard is damaged, or all
            clips are too short.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        lr: Size | None = None,
        hr: Size | None = None,
        *,
        min_frames: int = 1,
        channels: int = 3,
    ) -> None:
        if channels not in (1, 3):
            raise ConfigError(f"data of {channels} channels cannot be read; use 3 for RGB or 1 for grey")
        self.root, self.min_frames, self.channels = Path(root), min_frames, channels
        self.lr, self.hr = choose_sizes(self.root, lr, hr)
        folders = find_resolutions(self.root)
        self._cache: FrameCache | None = None
        self._content: dict[str, str] = {}
        self._folders = {"lr": ShardFolder(folders[self.lr], self.lr)}
        if self.hr is not None:
            self._folders["hr"] = ShardFolder(folders[self.hr], self.hr)
            _check_same(self._folders["lr"], self._folders["hr"])
        found = [Clip(clip.name, clip.frames) for clip in self._folders["lr"].clips.values()]
        self.total = len(found)
        self.clips = [clip for clip in found if clip.frames >= max(min_frames, 1)]
        if not self.clips:
            longest = max((clip.frames for clip in found), default=0)
            raise DataError(
                f"none of the {self.total} clips in {self.root} has {min_frames} frames, "
                f"the longest has {longest}; prepare longer footage, or train on fewer frames"
            )

    @property
    def kept_message(self) -> str:
        """Such as ``kept 812 of 1000 clips: 188 are shorter than 128 frames``."""
        short = self.total - len(self.clips)
        if not short:
            return f"kept all {self.total} clips"
        kept = f"kept {len(self.clips)} of {self.total} clips"
        return f"{kept}: {short} {'is' if short == 1 else 'are'} shorter than {self.min_frames} frames"

    @property
    def fingerprint(self) -> str:
        """A digest of the names and lengths of the clips that are kept."""
        lines = "".join(f"{clip.name}\t{clip.frames}\n" for clip in self.clips)
        return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def content(self, which: str) -> str:
        """A digest of names and checksums of the frames that are kept, of ``lr`` or ``hr``; no frame is read."""
        if which not in self._content:
            stored = self._folders[which].clips
            self._content[which] = clips_digest(stored[clip.name] for clip in self.clips)[:16]
        return self._content[which]

    def open_cache(
        self, mode: str = "auto", *, progress: bool = False, say: Callable[[str], None] | None = None
    ) -> None:
        """Read the low resolution from decoded frames; they are made now if need be.

        See :func:`lvgan.data.cache.open_cache` for the arguments.
        """
        self._cache = open_cache(self._folders["lr"], mode, channels=self.channels, progress=progress, say=say)

    @property
    def cached(self) -> bool:
        """Whether the low resolution is read from decoded frames."""
        return self._cache is not None

    def read(self, clip: str, start: int, count: int, which: str = "lr", stride: int = 1) -> Frames:
        """`count` frames of a clip from `start` on, every `stride`-th: uint8 [T, H, W, C].

        `which` is ``lr`` or ``hr``. Reads and decodes these frames only. The caller may write into the
        array; its axes may lie in another order in memory.

        Raises:
            DataError: the set has no high resolution, or the shard is damaged.
            ValueError: an unknown clip, or frames beyond its ends.
        """
        if which == "hr" and self.hr is None:
            raise DataError(f"{self.root} holds {self.lr} only; prepare a high resolution too, or name it")
        folder = self._folders[which]
        if which == "hr" or self._cache is None:
            return folder.read(clip, start, count, self.channels, stride)
        folder.check_range(clip, start, count, stride)
        planes = self._cache.read(clip, start, count, stride).transpose(1, 0, 2, 3)
        return np.ascontiguousarray(planes).transpose(1, 2, 3, 0)  # copied as [C, T, H, W]: what batches hold

    def __getstate__(self) -> dict[str, Any]:
        # Decoded frames in memory stay in their process: a copy for every worker could fill the machine.
        kept = self._cache if self._cache is not None and self._cache.path is not None else None
        return {**self.__dict__, "_cache": kept}


def choose_sizes(root: Path, lr: Size | None = None, hr: Size | None = None) -> tuple[Size, Size | None]:
    """Which resolutions of a set are meant (see :class:`ClipDataset`), without opening a shard."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give the folder that `lvgan prepare` made")
    manifest = Manifest.load(root)
    if manifest is not None and not manifest.complete:
        raise DataError(f"{root} is not complete, `lvgan prepare` was stopped; run the same command again")
    have = list(find_resolutions(root))
    listed = ", ".join(map(str, have))
    if not have:
        raise DataError(
            f"{root} holds no folders of shards such as 0064x0064; give the folder that `lvgan prepare` made"
        )
    for size in (lr, hr):
        if size is not None and size not in have:
            raise DataError(f"{root} holds no {size}, only {listed}; prepare the footage at that size too")
    if lr is not None:
        return lr, hr if hr is not None else _above(lr, have, manifest)
    if manifest is not None and {manifest.lr, manifest.hr} <= set(have):
        return manifest.lr, hr or manifest.hr
    if len(have) == 1:
        return have[0], None
    if len(have) == 2:
        return have[0], have[1]
    raise DataError(f"{root} holds {listed} and no {FILE_NAME} that says which are meant; name two of them")


def stored_fps(root: Path) -> float | None:
    """Frames a second of a set, as its manifest says; None where there is none."""
    manifest = Manifest.load(root)
    return None if manifest is None else float(manifest.settings["fps"])


def _above(lr: Size, have: list[Size], manifest: Manifest | None) -> Size | None:
    """The high resolution that goes with `lr`, if it is clear."""
    if manifest is not None and manifest.lr == lr and manifest.hr in have:
        return manifest.hr
    larger = [size for size in have if size.height > lr.height and size.width > lr.width]
    return larger[0] if len(larger) == 1 else None


def _check_same(low: ShardFolder, high: ShardFolder) -> None:
    for name in sorted(low.clips.keys() | high.clips.keys()):
        counts = [folder.clips[name].frames if name in folder.clips else 0 for folder in (low, high)]
        if counts[0] != counts[1]:
            raise DataError(
                f"clip {name!r} has {counts[0]} frames in {low.folder} and {counts[1]} in {high.folder}; "
                "the two do not belong together: prepare or download them again"
            )
        wrong = order_differs(low.clips[name], high.clips[name])
        if wrong is not None:
            raise DataError(
                f"clip {name!r} of {low.folder.parent} does not hold the same frames at both resolutions ({wrong}); "
                "the two do not belong together: prepare or download them again"
            )
