"""SIGINT and SIGTERM during training."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType


class Stopped(Exception):  # noqa: N818  (no error: what was asked for)
    """Training was asked to stop by a signal, and has written a checkpoint."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.signum = signum


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that receives SIGINT or SIGTERM; a second one interrupts at once."""
    received: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(signum)

    signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)
    try:
        old = [signal.signal(s, note) for s in signals]
    except ValueError:  # not the main thread: signals are not ours to take
        yield received
        return
    try:
        yield received
    finally:
        for s, handler in zip(signals, old, strict=True):
            signal.signal(s, handler)
