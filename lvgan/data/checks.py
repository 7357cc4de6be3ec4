"""Footage that should not be trained on as it is: black bars, clips that stand still, black clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Crop(NamedTuple):
    """The part of a picture that is used, in pixels."""

    x: int
    y: int
    width: int
    height: int


def find_bars(frames: Sequence[NDArray[np.uint8]]) -> Crop | None:  # each [H, W, 3]
    """The picture inside black bars, from a few frames spread over a video (8 to 16 do); None without bars."""
    return None


class StillFinder:
    """Whether a clip stands still or is black; fed with its frames, uint8 [h, w, 3], from first to last.

    One object a clip. `static` and `black` are verdicts about the frames so far; both False before the first.
    """

    def __init__(self) -> None:
        self.frames = 0

    def push(self, frame: NDArray[np.uint8]) -> None:  # [h, w, 3]
        """Take the next frame."""
        self.frames += 1

    @property
    def static(self) -> bool:
        """Nothing in the clip moves. A black clip is static too."""
        return False

    @property
    def black(self) -> bool:
        """No frame of the clip shows anything."""
        return False
