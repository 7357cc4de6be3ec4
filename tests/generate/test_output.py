"""Frames written beside the networks' work: an exception that a signal raises, wherever it comes."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable
from types import FrameType

import numpy as np
import pytest
import torch

from lvgan.generate import output
from lvgan.generate.output import ahead, feed


class Stopped(BaseException):
    """What a signal handler raises."""


class Interruption:
    """Raises :class:`Stopped` in the calling thread at the `step`-th place, below the code of `module`, where Python
    calls signal handlers: as a function begins, and as one written in C returns. (Not as a thread starts: what Python
    itself takes then, it does not always give back.)
    """

    def __init__(self, step: int, module: str) -> None:
        self._left = step
        self._module = module
        self.came = False

    def __enter__(self) -> None:
        sys.setprofile(self._at)

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    def _at(self, frame: FrameType, event: str, argument: object) -> None:
        if event in ("call", "c_return") and not self.came and self._below(frame):
            self._left -= 1
            if self._left == 0:
                self.came = True
                raise Stopped

    def _below(self, frame: FrameType | None) -> bool:
        while frame is not None and frame.f_code.co_filename != self._module:
            if frame.f_code is threading.Thread.start.__code__:
                return False
            frame = frame.f_back
        return frame is not None


class Kept:
    """A writer that keeps what it is given."""

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []

    def write(self, frame: np.ndarray) -> None:
        self.frames.append(frame)


def written(interruption: Interruption, writer: Kept, count: int) -> None:
    frames = (torch.full((1, 1, 1), n / 127.5 - 1) for n in range(count))
    with interruption:
        feed(frames, writer)  # type: ignore[arg-type]


def fetched(interruption: Interruption, writer: Kept, count: int) -> None:
    with interruption:
        for n in ahead(range(count)):
            writer.write(np.full((1, 1, 1), n))


@pytest.mark.parametrize("way", [written, fetched])
def test_an_interruption_at_any_place_gets_out(way: Callable[[Interruption, Kept, int], None]) -> None:
    count = 10  # more than there is room for between the threads
    for step in range(1, 100_000):
        interruption, writer = Interruption(step, output.__file__), Kept()

        def run(interruption: Interruption = interruption, writer: Kept = writer) -> None:
            with contextlib.suppress(Stopped):
                way(interruption, writer, count)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(60)
        assert not thread.is_alive(), f"interrupted at place {step}, it waits for ever"
        values = [int(frame.flat[0]) for frame in writer.frames]
        assert values == list(range(len(values)))
        if not interruption.came:
            assert len(values) == count
            assert step > 50
            return
