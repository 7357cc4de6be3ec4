"""What ``prepare`` made of the footage, for people: a page to look through, a cuts file to edit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lvgan.data.scenes import Cut


@dataclass(frozen=True)
class ReportClip:
    """One clip of the report. `first` and `last` are JPEG files as :func:`thumbnail` makes them.

    `start` and `end` are seconds in the source, the end not included. `marks` are short words about the clip:
    "static", "black", "dropped"; `begins` and `ends` say why it begins and ends there: "cut", "fade",
    "dissolve", "cuts file", "max frames", or "" for the start and the end of the video.
    """

    name: str
    source: str
    start: float
    end: float
    frames: int
    first: bytes
    last: bytes
    marks: Sequence[str] = ()
    begins: str = ""
    ends: str = ""


def thumbnail(frame: NDArray[np.uint8]) -> bytes:  # [H, W, 3]
    """A small JPEG of a frame, for :class:`ReportClip`."""
    raise NotImplementedError


def write_report(
    path: str | os.PathLike[str], title: str, clips: Sequence[ReportClip], skipped: Mapping[str, str]
) -> None:
    """One HTML file with the first and last frame of every clip, and what was skipped: {path: reason}.

    It needs no other file and no network. Written beside and renamed.

    Raises:
        MachineError: it cannot be written.
    """
    raise NotImplementedError


@dataclass(frozen=True)
class VideoParts:
    """What is used of one video, in frames at the constant rate, counted from the start of the file.

    `kept` are intervals ``(start, end)``, ascending, the end not included; `cuts` the transitions that were
    found; `dropped` {interval: reason} what is not used though no transition ("shorter than 128 frames").
    """

    video: str  # path below the folder of footage, with slashes
    kept: Sequence[tuple[int, int]]
    cuts: Sequence[Cut] = ()
    dropped: Mapping[tuple[int, int], str] = field(default_factory=dict)


def write_cuts_yaml(path: str | os.PathLike[str], videos: Sequence[VideoParts], fps: float) -> None:
    """A file of cuts that :func:`lvgan.data.cuts.read_cuts` reads: edit it, and give it to ``--cuts``.

    Times are rounded down to 0.1 ms, so that every frame comes back as it was at up to 1000 frames a second
    (a frame belongs to an interval if ``start <= n / fps < end``). What was removed stands in comments.

    Raises:
        MachineError: it cannot be written.
    """
    raise NotImplementedError
