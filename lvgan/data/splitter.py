"""A stream of frames, split at its scene cuts while it runs; memory does not grow with its length."""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from lvgan.data.scenes import Cut, SceneFinder

Item = TypeVar("Item")


@dataclass
class Piece:
    """Frames without a cut: the first one's number, how many there are, and why it begins and ends."""

    start: int
    begins: str
    frames: int = 0
    ends: str = ""


class Splitter(Generic[Item]):
    """Hands on what belongs to each piece, as :func:`lvgan.data.scenes.pieces` would part the whole.

    Args:
        finder: of scene cuts; None for none.
        margin: frames left out on both sides of every cut.
        longest: pieces are parted after so many frames; None for never.
        take: called with a piece, as it is before, and the item of its next frame.
        close: called with every finished piece.
        begins: why the first piece begins.
    """

    def __init__(
        self,
        finder: SceneFinder | None,
        margin: int,
        longest: int | None,
        take: Callable[[Piece, Item], None],
        close: Callable[[Piece], None],
        begins: str = "",
    ) -> None:
        self._finder, self._margin, self._longest = finder, margin, longest
        self._take, self._close, self._begins = take, close, begins
        self._delay = finder.delay + margin if finder is not None else 0
        self._waiting: deque[Item] = deque()
        self._pushed = 0
        self._cuts: list[Cut] = []  # not reached yet
        self._resume = 0  # frames before this one belong to a cut
        self._piece: Piece | None = None
        self.found: list[Cut] = []

    def push(self, item: Item, small: NDArray[np.uint8]) -> None:  # [h, w, 3]
        """The next frame: what is handed on, and what the finder looks at."""
        self._waiting.append(item)
        self._pushed += 1
        if self._finder is not None:
            self._know(self._finder.push(small))
        while len(self._waiting) > self._delay:
            self._decide()

    def finish(self, why: str = "") -> None:
        """After the last frame."""
        if self._finder is not None:
            self._know(self._finder.finish())
        while self._waiting:
            self._decide()
        self._end(why)

    def _know(self, cuts: list[Cut]) -> None:
        for cut in cuts:
            self.found.append(cut)
            bisect.insort(self._cuts, cut)

    def _decide(self) -> None:
        number = self._pushed - len(self._waiting)
        item = self._waiting.popleft()
        while self._cuts and self._cuts[0].start - self._margin <= number:
            cut = self._cuts.pop(0)
            self._end(cut.kind)
            self._resume = max(self._resume, cut.end + self._margin)
        if number < self._resume:
            return
        if self._piece is None:
            self._piece = Piece(number, self._begins)
        self._take(self._piece, item)
        self._piece.frames += 1
        if self._piece.frames == self._longest:
            self._end("max frames")

    def _end(self, why: str) -> None:
        if self._piece is not None:
            self._piece.ends = why
            self._close(self._piece)
        self._piece, self._begins = None, why
