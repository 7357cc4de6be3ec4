"""Runs an imported network once, and looks at what it makes."""

from __future__ import annotations

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
    """Run the generator of a checkpoint on two seeds (or inputs), and write what it makes as a picture.

    Returns what was measured, in one line.

    Raises:
        CheckpointError: values that are not finite, out of range or constant; the picture is written where it can be.
    """
    network = generator_of(checkpoint, name)
    if isinstance(network, LrGenerator):
        clips = torch.stack([LrVideo(network, seed, segment=_FRAMES).clip(0, _FRAMES) for seed in (0, 1)])
        moves = float((clips[:, :, -1] - clips[:, :, 0]).abs().mean())
    else:
        clips, moves = _upscaled(network), None
    if torch.isfinite(clips).all():
        write_picture(filmstrip(clips), preview)
    facts = {
        "not finite": float((~torch.isfinite(clips)).float().mean()),
        "outside": float((clips.abs() > 1).float().mean()),
        "mean": float(clips.mean()),
        "spread": float(clips.std()),
        "between": float((clips[0] - clips[1]).abs().mean()),
    }
    line = ", ".join(
        (
            f"mean {facts['mean']:.3f}",
            f"standard deviation {facts['spread']:.3f}",
            f"{100 * facts['outside']:.1f} % outside [-1, 1]",
            f"{facts['between']:.3f} between two {'seeds' if moves is not None else 'inputs'}",
            *([f"{moves:.3f} over {_FRAMES} frames"] if moves is not None else []),
        )
    )
    problem = _problem(facts, moves)
    if problem:
        raise CheckpointError(
            f"the network in {name} was run and gives values that are {problem} ({line}); nothing was written but its "
            "picture; import the file as it was published"
        )
    return line


def _problem(facts: dict[str, float], moves: float | None) -> str | None:
    """What is wrong with what was measured."""
    if facts["not finite"] > 0:
        return "not finite"
    if facts["outside"] > MOST_OUTSIDE or abs(facts["mean"]) > 1:
        return "out of range"
    if min(facts["spread"] / LEAST_SPREAD, facts["between"] / LEAST_CHANGE) < 1:
        return "constant"
    if moves is not None and moves < LEAST_CHANGE:
        return "the same in every frame"
    return None


class _Still:
    """One low-resolution frame, at every index."""

    def __init__(self, frame: Tensor) -> None:  # [C, h, w]
        self._frame = frame

    def clip(self, start: int, count: int) -> Tensor:
        """See :class:`lvgan.generate.timeline.Frames`."""
        return self._frame[:, None].expand(-1, count, -1, -1)


def _upscaled(network: SrGenerator) -> Tensor:
    """What the network makes of two soft patterns of colours: ``[2, C, 1, H, W]``."""
    coarse = torch.rand(2, network.channels, 4, 4, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8
    low = F.interpolate(coarse, network.lr_size, mode="bilinear")
    return torch.stack([SrVideo(_Still(frame), network, seed=0).clip(0, 1) for frame in low])
