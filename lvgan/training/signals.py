"""SIGINT and SIGTERM during training."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(Exception):  # noqa: N818  (no error: what was asked for)
    """Training was asked to stop by a signal."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


class LeaveNow(BaseException):
    """Raised by a signal in work that may be left at any point; a BaseException, so that nothing swallows it."""


class StopSignals:
    """What SIGINT or SIGTERM asked for.

    Attributes:
        signum: the signal that came; None before.
        at_once: whether the work that goes on may be left at any point: then a signal raises LeaveNow there.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.at_once = False

    def __bool__(self) -> bool:
        return self.signum is not None

    def note(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal; a second one interrupts whatever it is."""
        if self.signum is not None:
            raise KeyboardInterrupt
        self.signum = signum
        if self.at_once:
            raise LeaveNow


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Take note of SIGINT and SIGTERM within."""
    stop = StopSignals()
    signals = (signal.SIGINT, signal.SIGTERM)
    try:
        old = [signal.signal(s, stop.note) for s in signals]
    except ValueError:  # not the main thread: signals are not ours to take
        yield stop
        return
    try:
        yield stop
    finally:
        for s, handler in zip(signals, old, strict=True):
            signal.signal(s, handler)
