"""SIGINT and SIGTERM during training."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

REPEATED = 2.0  # seconds


class Stopped(Exception):  # noqa: N818  (no error: what was asked for)
    """Training was asked to stop by a signal, and has written a checkpoint."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.signum = signum


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that receives SIGINT or SIGTERM; a second one interrupts at once.

    A terminal, Slurm and launchers (ours and torchrun) may each hand the same signal to a process of several:
    there, what arrives within `REPEATED` seconds is the first one again.
    """
    received: list[int] = []
    ignored_until = 0.0

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal ignored_until
        if not received:
            received.append(signum)
            ignored_until = time.monotonic() + REPEATED if "WORLD_SIZE" in os.environ else 0.0
        elif time.monotonic() >= ignored_until:
            previous = old[signals.index(signum)]
            if not callable(previous):
                raise KeyboardInterrupt
            previous(signum, frame)

    signals: Sequence[int] = (signal.SIGINT, signal.SIGTERM)
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
