"""Videos read by frame index, for what only shows in long ones: networks, shards, video files, arrays.

A network computes the frames that are asked for and little more; a video file is decoded in order, once.
Memory never grows with the length of a video.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from lvgan.errors import DataError, MediaError
from lvgan.evaluation.models import ModelSource, UpscaledSource
from lvgan.evaluation.sources import ClipSource, IndexedSource, VideoSource, fit_frame
from lvgan.generate.generators import to_channels
from lvgan.generate.output import frame_array
from lvgan.generate.timeline import Frames, HeldEnds, SrVideo
from lvgan.pixels import from_bytes
from lvgan.seeding import derive

log = logging.getLogger(__name__)

LARGEST_CLIP = 2_000_000_000  # bytes of a clip from a source that gives whole clips only


class LongVideo(Protocol):
    """One video."""

    @property
    def name(self) -> str:
        """The video among those of its source."""

    @property
    def length(self) -> int | None:
        """Frames; None without end."""

    def frames(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """The frames at ascending `indices`, each uint8 [H, W, 1 or 3]; fewer where the video ends before."""


@dataclass(frozen=True)
class _Generated:
    """The endless video of a network."""

    name: str
    video: Frames
    length: int | None = None

    def frames(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        for index in indices:
            yield frame_array(self.video.clip(index, 1)[:, 0])


@dataclass(frozen=True)
class _Stored:
    """A video whose frames are read from any place."""

    name: str
    source: IndexedSource
    video: int
    length: int

    def frames(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        for index in indices:
            if index >= self.length:
                return
            yield self.source.read(self.video, index, 1)[0]


@dataclass(frozen=True)
class _Decoded:
    """A video file, decoded from its start."""

    name: str
    source: VideoSource
    video: int
    length: int

    def frames(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        wanted = iter(indices)
        with contextlib.closing(self.source.decode(self.source.files[self.video])) as decoded:
            index = next(wanted, None)
            for place, frame in enumerate(decoded):
                if index is None:
                    return
                if place == index:
                    yield frame
                    index = next(wanted, None)


@dataclass(frozen=True)
class _Clip:
    """A clip that its source gives as a whole."""

    name: str
    pictures: np.ndarray

    @property
    def length(self) -> int:
        return len(self.pictures)

    def frames(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        for index in indices:
            if index >= len(self.pictures):
                return
            yield self.pictures[index]


@dataclass(frozen=True)
class _Upscaled:
    """A stored video through a super-resolution network; frames that are not asked for are not computed."""

    name: str
    low: LongVideo
    source: UpscaledSource
    seed: int

    @property
    def length(self) -> int | None:
        return self.low.length

    def frames(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        network, size = self.source.generator, self.source.size
        pictures = (torch.from_numpy(frame).permute(2, 0, 1) for frame in self.low.frames(itertools.count()))
        low = HeldEnds(from_bytes(to_channels(picture, network.channels)) for picture in pictures)
        high = SrVideo(low, network, self.seed)
        for index in indices:
            if not low.has(index):
                return
            frame = frame_array(high.clip(index, 1)[:, 0])
            yield frame if size == self.source.native else fit_frame(frame, size)


def long_videos(source: ClipSource, count: int, frames: int, shortest: int, seed: int) -> Iterator[LongVideo]:
    """At most `count` videos of a source.

    Of a network: those of `count` seeds. Of stored footage: the videos that have `frames` frames or, where there
    are fewer than `count` of them, the longest ones; among equals those that `seed` chooses.

    Args:
        source: where they come from.
        count: how many.
        frames: as many as will be read.
        shortest: shorter videos are of no use.
        seed: chooses.

    Raises:
        DataError: no video is long enough.
    """
    if isinstance(source, ModelSource):
        for index in range(count):
            yield _Generated(f"seed {index}", source.video(index, seed))
    elif isinstance(source, (VideoSource, IndexedSource)):
        yield from _longest(source, count, frames, shortest, seed)
    elif isinstance(source, UpscaledSource):
        for index, low in enumerate(_longest(source.low, count, frames, shortest, seed)):
            yield _Upscaled(low.name, low, source, derive(seed, "latent", index))
    else:
        for index, clip in enumerate(source.clips(count, frames, seed)):
            if clip.nbytes > LARGEST_CLIP:
                raise DataError(
                    f"{source.label} gives whole clips only, and {frames} frames take {clip.nbytes / 1e9:.0f} GB; "
                    "ask for fewer --frames"
                )
            yield _Clip(f"clip {index}", clip)


def _longest(
    source: VideoSource | IndexedSource, count: int, frames: int, shortest: int, seed: int
) -> Iterator[LongVideo]:
    lengths: Sequence[int] = list(source.lengths(shortest))
    usable = [video for video, length in enumerate(lengths) if length >= shortest]
    if not usable:
        raise DataError(
            f"{source.path} holds {len(lengths)} {source.unit}, the longest of {max(lengths, default=0)} frames, but "
            f"at least {shortest} were expected; give longer footage"
        )
    order = sorted(usable, key=lambda video: (-min(lengths[video], frames), derive(seed, "long", video)))
    for video in sorted(order[:count]):
        name = source.files[video].name if isinstance(source, VideoSource) else f"{source.unit[:-1]} {video}"
        kind = _Decoded if isinstance(source, VideoSource) else _Stored
        yield kind(name, source, video, lengths[video])  # type: ignore[arg-type]


def checked(video: LongVideo, indices: Iterable[int]) -> Iterator[np.ndarray]:
    """Its frames, RGB or grey, all of one size.

    Raises:
        DataError: the size changes.
        MediaError: it cannot be decoded.
    """
    first: tuple[int, ...] | None = None
    try:
        for frame in video.frames(indices):
            if first is not None and frame.shape != first:
                raise DataError(
                    f"{video.name} changes from {first[0]}x{first[1]} to {frame.shape[0]}x{frame.shape[1]}; "
                    "give --size to bring its frames to one size"
                )
            first = frame.shape
            yield frame
    except MediaError as error:
        if first is None:
            raise
        log.warning("%s; the frames before that are used", error)
