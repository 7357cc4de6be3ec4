"""Runs an imported network once, and looks at what it makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lvgan.errors import CheckpointError
from lvgan.generate.grid import filmstrip
from lvgan.generate.output import write_picture
from lvgan.generate.timeline import LrVideo, SrVideo
from lvgan.models.build import generator_of
from lvgan.models.lr_generator import LrGenerator
from lvgan.models.sr_generator import SrGenerator

LEAST_SPREAD = 0.01  # standard deviation of the values, which nominally lie in [-1, 1]
MOST_OUTSIDE = 0.25  # share of values outside of [-1, 1]
LEAST_CHANGE = 1e-3  # mean difference between frames, and between what two seeds or inputs give
_FRAMES = 32


def verify(checkpoint: dict[str, Any], preview: Path, name: str) -> str:
    """Run the generator of a checkpoint on two seeds or inputs, and write what it makes as a picture, a row each.

    Returns what was measured, in one line.

    Raises:
        CheckpointError: values that are not finite, out of range or constant; the picture is written if it can be.
    """
    network = generator_of(checkpoint, name)
    moves = None
    if isinstance(network, LrGenerator):
        made = shown = torch.stack([LrVideo(network, seed, segment=_FRAMES).clip(0, _FRAMES) for seed in (0, 1)])
        moves = float((made[:, :, -1] - made[:, :, 0]).abs().mean())
    else:
        low = _patterns(network)
        made = torch.stack([SrVideo(_Still(frame), network, seed=0).clip(0, 1) for frame in low])
        shown = torch.cat([F.interpolate(low, network.size)[:, :, None], made], 2)  # the input, then the result
    measured = Measured(
        bool(torch.isfinite(made).all()),
        float((made.abs() > 1).float().mean()),
        float(made.mean()),
        float(made.std()),
        float((made[0] - made[1]).abs().mean()),
        moves,
    )
    if measured.finite:
        write_picture(filmstrip(shown), preview)
    problem = measured.problem()
    if problem:
        raise CheckpointError(
            f"the network in {name} was run and gives values that are {problem} ({measured}), so no checkpoint was "
            "written; import the file as it was published"
        )
    return str(measured)


@dataclass(frozen=True)
class Measured:
    """What a network's values are like. `between`, `moves`: mean differences, of seeds or inputs and over time."""

    finite: bool
    outside: float
    mean: float
    spread: float
    between: float
    moves: float | None

    def __str__(self) -> str:
        moves = "" if self.moves is None else f", {self.moves:.3f} over {_FRAMES} frames"
        return (
            f"mean {self.mean:.3f}, standard deviation {self.spread:.3f}, {100 * self.outside:.1f} % outside [-1, 1], "
            f"{self.between:.3f} between two {'inputs' if self.moves is None else 'seeds'}{moves}"
        )

    def problem(self) -> str | None:
        """What is wrong."""
        if not self.finite:
            return "not finite"
        if self.outside > MOST_OUTSIDE or abs(self.mean) > 1:
            return "out of range"
        if self.spread < LEAST_SPREAD:
            return "constant"
        if self.between < LEAST_CHANGE:
            return "the same whatever goes in"
        return "the same in every frame" if self.moves is not None and self.moves < LEAST_CHANGE else None


class _Still:
    """One low-resolution frame, at every index."""

    def __init__(self, frame: Tensor) -> None:  # [C, h, w]
        self._frame = frame

    def clip(self, start: int, count: int) -> Tensor:
        """See :class:`lvgan.generate.timeline.Frames`."""
        return self._frame[:, None].expand(-1, count, -1, -1)


def _patterns(network: SrGenerator) -> Tensor:
    """Two soft patterns of colours as low-resolution frames: ``[2, C, h, w]``."""
    coarse = torch.rand(2, network.channels, 4, 4, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8
    return F.interpolate(coarse, network.lr_size, mode="bilinear")
