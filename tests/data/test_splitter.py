"""Splitting a stream, against `pieces`, which sees the whole."""

from __future__ import annotations

import random

import numpy as np
import pytest

from lvgan.data.scenes import Cut, SceneFinder, pieces
from lvgan.data.splitter import Piece, Splitter

SMALL = np.zeros((2, 2, 3), np.uint8)


class Told(SceneFinder):
    """Reports given cuts as late as it may."""

    delay = 7

    def __init__(self, cuts: list[Cut]) -> None:
        self.cuts, self.count = sorted(cuts), 0

    def push(self, frame: np.ndarray) -> list[Cut]:
        self.count += 1
        return self._until(self.count - self.delay)

    def finish(self) -> list[Cut]:
        return self._until(self.count + 1)

    def _until(self, frame: int) -> list[Cut]:
        found = [cut for cut in self.cuts if cut.start < frame]
        self.cuts = self.cuts[len(found) :]
        return found


def split(frames: int, cuts: list[Cut] | None, margin: int, longest: int | None = None) -> list[tuple[int, list[int]]]:
    taken: list[tuple[int, list[int]]] = []
    closed: list[Piece] = []

    def take(piece: Piece, item: int) -> None:
        if piece.frames == 0:
            taken.append((piece.start, []))
        taken[-1][1].append(item)

    splitter = Splitter(Told(cuts) if cuts is not None else None, margin, longest, take, closed.append)
    for number in range(frames):
        splitter.push(number, SMALL)
    splitter.finish()
    assert [(piece.start, piece.frames) for piece in closed] == [(start, len(items)) for start, items in taken]
    return taken


def test_as_if_the_whole_were_known() -> None:
    rng = random.Random(0)
    for _ in range(300):
        frames, margin = rng.randrange(0, 60), rng.randrange(0, 4)
        starts = sorted(rng.sample(range(frames), min(frames, rng.randrange(0, 6))))
        cuts = [Cut(start, start + rng.choice([0, 0, 1, 5])) for start in starts]
        expected = pieces(frames, cuts, margin)
        assert [(start, start + len(items)) for start, items in split(frames, cuts, margin)] == expected
        for start, items in split(frames, cuts, margin):
            assert items == list(range(start, start + len(items)))


@pytest.mark.parametrize(("frames", "longest", "lengths"), [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 4, [3])])
def test_long_pieces_are_parted(frames: int, longest: int, lengths: list[int]) -> None:
    for cuts in (None, []):
        assert [len(items) for _, items in split(frames, cuts, 2, longest)] == lengths


def test_why_pieces_begin_and_end() -> None:
    closed: list[Piece] = []
    told = Told([Cut(10, 10), Cut(20, 25, "fade")])
    splitter = Splitter(told, 1, 12, lambda piece, item: None, closed.append, "cuts file")
    for _ in range(45):
        splitter.push(0, SMALL)
    splitter.finish("damage")
    assert [(p.start, p.frames, p.begins, p.ends) for p in closed] == [
        (0, 9, "cuts file", "cut"),
        (11, 8, "cut", "fade"),
        (26, 12, "fade", "max frames"),
        (38, 7, "max frames", "damage"),
    ]
