"""SIGINT and SIGTERM during training."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

REPEATED = 2.0  # seconds


class Stopped(Exception):  # noqa: N818  (no error: what was asked for)
    """Training was asked to stop by a signal."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


class LeaveNow(BaseException):
    """Raised by a signal in work that may be left at any point; a BaseException, so that nothing swallows it."""


class StopSignals:
    """What SIGINT or SIGTERM asked for.

    A terminal, Slurm and launchers (ours and torchrun) may each hand the same signal to a process of several:
    there, what arrives within `REPEATED` seconds is the first one again.

    Attributes:
        signum: the signal that came; None before.
        at_once: whether the work that goes on may be left at any point: then a signal raises LeaveNow there.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.at_once = False
        self.previous: dict[int, object] = {}
        self._deaf_until = 0.0

    def __bool__(self) -> bool:
        return self.signum is not None

    def note(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal; a second one does what it would do without us."""
        if self.signum is None:
            self.signum = signum
            self._deaf_until = time.monotonic() + REPEATED if "WORLD_SIZE" in os.environ else 0.0
            if self.at_once:
                raise LeaveNow
        elif time.monotonic() >= self._deaf_until:
            previous = self.previous.get(signum)
            if not callable(previous):
                raise KeyboardInterrupt
            previous(signum, frame)


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Take note of SIGINT and SIGTERM within."""
    stop = StopSignals()
    signals = (signal.SIGINT, signal.SIGTERM)
    try:
        for s in signals:
            stop.previous[s] = signal.signal(s, stop.note)
    except ValueError:  # not the main thread: signals are not ours to take
        yield stop
        return
    try:
        yield stop
    finally:
        for s in signals:
            signal.signal(s, stop.previous[s])  # type: ignore[arg-type]
