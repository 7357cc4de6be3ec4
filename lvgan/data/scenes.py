"""Where one shot of a video ends and the next begins: cuts, fades and dissolves, found while it is decoded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DELAY = 60
MARGIN = 2


@dataclass(frozen=True, order=True)
class Cut:
    """A transition between two shots: frames ``start <= n < end`` belong to neither.

    A hard cut has ``start == end``, the number of the first frame of the new shot; a fade or a dissolve its
    extent. `kind` is ``"cut"``, ``"fade"`` or ``"dissolve"``.
    """

    start: int
    end: int
    kind: str = "cut"


def pieces(frames: int, cuts: Iterable[Cut], margin: int = MARGIN) -> list[tuple[int, int]]:
    """The shots of a video of so many frames, ``(start, end)`` with the end not included, in order.

    `margin` frames are left out on both sides of every cut (a scaler or a codec smears the last frame of a
    shot into the first of the next), none at the ends of the video. Cuts may come in any order and overlap.
    """
    found, begin = [], 0
    for cut in sorted(cuts):
        found.append((begin, cut.start - margin))
        begin = max(begin, cut.end + margin)
    found.append((begin, frames))
    return [(start, min(end, frames)) for start, end in found if start < min(end, frames)]


class SceneFinder:
    """Finds the transitions of one video, fed with its frames in order.

        finder = SceneFinder()
        for frame in frames:  # uint8 [h, w, 3], all of one size; small ones do
            cuts += finder.push(frame)
        cuts += finder.finish()
        pieces(count, cuts)

    A cut is reported at most :attr:`delay` frames after its end, in ascending order: once `n` frames were
    pushed, every transition that starts before ``n - delay`` has been reported.

    Args:
        threshold: how different two shots must be, above 0; None takes the measured default. More finds fewer.
    """

    delay = DELAY

    def __init__(self, threshold: float | None = None) -> None:
        self.threshold = threshold

    def push(self, frame: NDArray[np.uint8]) -> list[Cut]:  # [h, w, 3]
        """Take the next frame; the cuts that are certain now."""
        return []

    def finish(self) -> list[Cut]:
        """After the last frame: the cuts that are left."""
        return []
