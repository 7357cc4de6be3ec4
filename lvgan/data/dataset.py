"""Shards to training clips: random windows of frames, and batches that are a function of the step."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lvgan.data.manifest import FILE_NAME, Manifest
from lvgan.data.shards import ShardFolder, find_resolutions
from lvgan.errors import ConfigError, DataError
from lvgan.sizes import Size

Frames = NDArray[np.uint8]  # [T, H, W, C]


class Clip(NamedTuple):
    """One clip of a set: its name and number of frames."""

    name: str
    frames: int


class ClipDataset:
    """The clips of a set of shards, made by ``lvgan prepare`` or published in the same layout.

    Reading is safe from any number of threads; the object can be pickled.

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

    def read(self, clip: str, start: int, count: int, which: str = "lr") -> Frames:
        """Frames of a clip: uint8 [T, H, W, C]; `which` is ``lr`` or ``hr``. Decodes these frames only.

        Raises:
            DataError: the set has no high resolution, or the shard is damaged.
            ValueError: an unknown clip, or frames beyond its ends.
        """
        if which == "hr" and self.hr is None:
            raise DataError(f"{self.root} holds {self.lr} only; prepare a high resolution too, or name it")
        return self._folders[which].read(clip, start, count, self.channels)

    def lr_window(self, rng: np.random.Generator, frames: int, *, flip: bool = False) -> Frames:
        """A random stretch of a random clip, at the low resolution: uint8 [T, H, W, C].

        With `flip`, every other one is mirrored, chosen at random.

        Raises:
            DataError: no clip has so many frames.
        """
        clip, start, mirrored = self._draw(rng, frames, flip)
        return _mirror(self.read(clip, start, frames, "lr"), mirrored)

    def sr_window(
        self, rng: np.random.Generator, frames: int, context: int, *, flip: bool = False
    ) -> tuple[Frames, Frames]:
        """A random stretch of a random clip at both resolutions, mirrored together or not at all.

        Returns:
            low resolution [T + 2 context, h, w, C] and high resolution [T, H, W, C], uint8: the high one
            shows the same moments as the low one without its `context` first and last frames.
        """
        clip, start, mirrored = self._draw(rng, frames + 2 * context, flip)
        low = self.read(clip, start, frames + 2 * context, "lr")
        high = self.read(clip, start + context, frames, "hr")
        return _mirror(low, mirrored), _mirror(high, mirrored)

    def _draw(self, rng: np.random.Generator, frames: int, flip: bool) -> tuple[str, int, bool]:
        # Every clip counts the same, however long it is (spec 2-training).
        fits = self.clips if frames <= self.min_frames else [c for c in self.clips if c.frames >= frames]
        if not fits:
            longest = max(clip.frames for clip in self.clips)
            raise DataError(f"no clip in {self.root} has {frames} frames, the longest has {longest}; use fewer")
        clip = fits[int(rng.integers(len(fits)))]
        start = int(rng.integers(clip.frames - frames + 1))
        return clip.name, start, bool(flip and rng.random() < 0.5)


def _mirror(frames: Frames, mirrored: bool) -> Frames:
    return np.ascontiguousarray(frames[:, :, ::-1]) if mirrored else frames


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


# --- batches --------------------------------------------------------------------------------------

Sample = Callable[[np.random.Generator], "Frames | tuple[Frames, ...]"]


class Batches:
    """Batches for training steps, loaded ahead by threads.

    ``get(step)`` is a pure function of (`seed`, `rank`, `step`): resuming needs no state. Asking for
    the steps in order is fast; any other order gives the same batches.

    Args:
        sample: draws one window, or a tuple of them, from a generator, such as
            ``lambda rng: data.sr_window(rng, 4, 4)``.
        batch: windows a batch.
        seed, rank: of the run and of this process.
        threads: windows loaded at a time.
        ahead: steps loaded ahead.
        clips: the part of the batch to load, such as ``range(8, 16)``; each window is the same as in the whole.
    """

    def __init__(
        self,
        sample: Sample,
        batch: int,
        *,
        seed: int = 0,
        rank: int = 0,
        threads: int = 4,
        ahead: int = 2,
        clips: range | None = None,
    ) -> None:
        self._sample, self._seed, self._rank, self._ahead = sample, seed, rank, ahead
        self._clips = range(batch) if clips is None else clips
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="clips")
        self._waiting: dict[int, list[Future[Any]]] = {}

    def get(self, step: int) -> tuple[Tensor, ...]:
        """The batch of a step: uint8 [N, C, T, H, W] for each window of a sample.

        Raises:
            DataError: a damaged shard.
        """
        wanted = range(step, step + self._ahead + 1)
        for other in [s for s in self._waiting if s not in wanted]:
            for future in self._waiting.pop(other):
                future.cancel()
        for s in wanted:
            if s not in self._waiting:
                self._waiting[s] = [self._pool.submit(self._draw, s, i) for i in self._clips]
        samples = [future.result() for future in self._waiting.pop(step)]
        return tuple(_collate(windows) for windows in zip(*samples, strict=True))

    def first(self, count: int) -> tuple[Tensor, ...]:
        """`count` windows, the same whenever this is called, for previews."""
        samples = list(self._pool.map(lambda index: self._draw(0, index), range(count)))
        return tuple(_collate(windows) for windows in zip(*samples, strict=True))

    def _draw(self, step: int, index: int) -> tuple[Frames, ...]:
        windows = self._sample(np.random.default_rng([self._seed, self._rank, step, index]))
        return windows if isinstance(windows, tuple) else (windows,)

    def close(self) -> None:
        """Stop loading."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._waiting.clear()

    def __enter__(self) -> Batches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def lr_batches(
    data: ClipDataset,
    *,
    batch: int,
    frames: int,
    seed: int,
    flip: bool,
    rank: int = 0,
    threads: int = 4,
    clips: range | None = None,
) -> Batches:
    """Batches of ``(clips [N, C, T, H, W],)``."""
    return Batches(
        lambda rng: data.lr_window(rng, frames, flip=flip),
        batch,
        seed=seed,
        rank=rank,
        threads=threads,
        clips=clips,
    )


def sr_batches(
    data: ClipDataset,
    *,
    batch: int,
    frames: int,
    context: int,
    seed: int,
    flip: bool,
    rank: int = 0,
    threads: int = 4,
    clips: range | None = None,
) -> Batches:
    """Batches of ``(low [N, C, T + 2 context, h, w], high [N, C, T, H, W])``."""
    return Batches(
        lambda rng: data.sr_window(rng, frames, context, flip=flip),
        batch,
        seed=seed,
        rank=rank,
        threads=threads,
        clips=clips,
    )


def _collate(windows: tuple[Frames, ...]) -> Tensor:
    frames, height, width, channels = windows[0].shape
    batch = torch.empty((len(windows), channels, frames, height, width), dtype=torch.uint8)
    for slot, window in zip(batch, windows, strict=True):
        slot.copy_(torch.from_numpy(window).permute(3, 0, 1, 2))
    return batch


# --- pictures -------------------------------------------------------------------------------------


def crop_resize(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Crop the centre to the aspect ratio of `size` and scale it with antialiasing (Lanczos).

    Args:
        image: uint8 [H, W, 3].
        size: of the result.

    Returns:
        uint8 [height, width, 3].
    """
    height, width = image.shape[:2]
    ideal_w = min(width, height * size.width / size.height)
    ideal_h = min(height, width * size.height / size.width)
    left, top = int((width - ideal_w) / 2 + 1e-6), int((height - ideal_h) / 2 + 1e-6)
    box = (left, top, left + max(1, int(ideal_w + 0.5)), top + max(1, int(ideal_h + 0.5)))
    picture = Image.fromarray(image).crop(box)
    return np.asarray(picture.resize((size.width, size.height), Image.Resampling.LANCZOS))
