"""Footage that should not be trained on as it is: black bars, clips that stand still, black clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.floating]

_DARK = 40.0  # luma (of 255) of the brightest bar: black of limited range, noise, a fade of compression
_EVEN = 6.0  # how far the mean of a row of a bar may lie from the bar's own level
_NOISE = 20.0  # luma by which noise may move a pixel of a bar
_TEXT = 0.25  # share of the frames in which a bar is seen without subtitles
_STEP = 4.0  # how much brighter the picture begins where a bar ends
_LARGEST = 0.35  # of the height or width, the largest bar

_GRID = 32  # of the picture on which movement is looked for
_FRAMES = 8  # that are averaged
_MOVED = 5.0  # luma by which some part of a clip that moves differs from its first frames
_BLACK = 24.0  # luma that no cell of a black frame reaches; 16 is black of limited range
_FLAT = 8.0  # the most that the cells of a black frame differ among each other


class Crop(NamedTuple):
    """The part of a picture that is used, in pixels."""

    x: int
    y: int
    width: int
    height: int


def find_bars(frames: Sequence[NDArray[np.uint8]]) -> Crop | None:  # each [H, W, 3]
    """The picture inside black bars, from a few frames spread over a video (8 to 16 do); None without bars.

    Bars are rows or columns at the border that are dark and even in nearly all frames (subtitles may come and
    go in them), and where a brighter picture begins at the same place in most. They may differ from side to
    side, and be noisy. Frames that are dark altogether say nothing; if none says anything, there are no bars.

    Raises:
        ValueError: no frames, or frames of different sizes.
    """
    if not frames or any(frame.shape != frames[0].shape for frame in frames):
        raise ValueError("frames must be one or more pictures of the same size")
    height, width = frames[0].shape[:2]
    lumas = [luma for luma in map(_luma, frames) if luma.max() > _DARK and luma.std() > 4]
    if not lumas:
        return None
    top, bottom = _bars(lumas)
    inside = [luma[top : height - bottom] for luma in lumas]
    left, right = _bars([luma.T for luma in inside])
    if not (top or bottom or left or right):
        return None
    return Crop(left, top, width - left - right, height - top - bottom)


def _luma(frame: NDArray[np.uint8]) -> Floats:  # [H, W, 3] -> [H, W]
    return np.asarray(Image.fromarray(frame).convert("L"), np.float32)


def _bars(lumas: Sequence[Floats]) -> tuple[int, int]:
    """Rows of the bars at the beginning and at the end."""
    frames = np.stack(lumas)
    return _bar(frames), _bar(frames[:, ::-1])


def _bar(frames: Floats) -> int:  # [frames, H, W]
    """Rows of the bar at the beginning."""
    level = float(np.median(frames[:, :2]))
    if level > _DARK:
        return 0
    means = frames.mean(axis=2)  # [frames, H]
    share = (np.abs(frames - level) < _NOISE).mean(axis=2)
    clean = ((share > 0.97) & (np.abs(means - level) < _EVEN)).mean(axis=0)  # [H], of the frames
    written = (share > 0.4).mean(axis=0)
    even = (clean > 0.75) | ((clean > _TEXT) & (written > 0.9))
    rows = len(even) if even.all() else int(np.argmin(even))
    if not 0 < rows <= _LARGEST * len(even):
        return 0
    # A night sky is dark and even too, but no picture begins at one row of it, from side to side, in most frames.
    begins = (frames[:, rows : rows + 3].mean(axis=1) > level + _STEP).mean(axis=1) > 0.6
    if begins.mean() <= 0.5:
        return 0
    edge = np.median(means[:, rows : rows + 2], axis=0) - level
    return rows + 1 if edge[0] < 0.5 * edge[1] else rows  # a row that scaling has mixed


class StillFinder:
    """Whether a clip stands still or is black; fed with its frames, uint8 [h, w, 3], from first to last.

    One object a clip; small frames do. `static` and `black` are verdicts about the frames so far; both are
    False before the first frame.
    """

    def __init__(self) -> None:
        self.frames = 0
        self._first: Floats = np.zeros((_GRID, _GRID), np.float32)
        self._recent = self._first
        self._moved = 0.0
        self._dark = True

    def push(self, frame: NDArray[np.uint8]) -> None:  # [h, w, 3]
        """Take the next frame."""
        self.frames += 1
        if self._moved > _MOVED and not self._dark:
            return  # nothing can change the verdicts any more
        small = Image.fromarray(frame).convert("L").resize((_GRID, _GRID), Image.Resampling.BOX)
        cells = np.asarray(small, np.float32)
        self._dark &= bool(cells.max() < _BLACK or (cells.max() < _DARK and np.ptp(cells) < _FLAT))
        # Means over about eight frames: grain comes and goes, what moves stays away.
        self._recent = self._recent + (cells - self._recent) / min(self.frames, _FRAMES)
        if self.frames in (1, _FRAMES):
            self._first = self._recent
        self._moved = max(self._moved, float(np.abs(_smooth(self._recent - self._first)).max()))

    @property
    def static(self) -> bool:
        """Nothing in the clip moves, but for the noise of a codec. A black clip is static too."""
        return self.frames > 0 and self._moved <= _MOVED

    @property
    def black(self) -> bool:
        """No frame of the clip shows anything but black."""
        return self.frames > 0 and self._dark


def _smooth(cells: Floats) -> Floats:  # [h, w] -> [h - 1, w - 1]
    # Codec noise lies in one cell, what moves in its neighbours too.
    return (cells[1:, 1:] + cells[1:, :-1] + cells[:-1, 1:] + cells[:-1, :-1]) / 4
