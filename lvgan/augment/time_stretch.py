"""Random stretching of clips in time.

Source: LongVideoGAN (arXiv 2206.03429), augmentation of the low-resolution discriminator's
input; spec 2-training: a factor 2^U(−1, 1) a clip, linear interpolation over time, zeros where
the stretched clip is too short, a crop at a random offset where it is too long.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def stretched_lengths(log2_factor: Tensor, frames: int) -> Tensor:
    """Length in whole frames of a clip of `frames` frames after stretching; int64, as `log2_factor`."""
    return (frames * torch.exp2(log2_factor.double().cpu())).floor().long().clamp_min(1)


def time_stretch(clip: Tensor, log2_factor: Tensor, start: Tensor) -> Tensor:
    """Stretch `clip` [N, C, T, H, W] in time; same shape, differentiable.

    log2_factor: [N], log2 of each clip's factor; positive is slower and longer.
    start: [N] whole frames; the output frame at which the stretched clip begins (negative: so
    many of its frames are cropped). Frames outside the stretched clip are zero.
    """
    if clip.ndim != 5:
        raise ValueError(f"clip has {clip.ndim} axes, expected [N, C, T, H, W]")
    weights = _interpolation(log2_factor, start, clip.shape[2]).to(clip)
    return torch.matmul(weights[:, None], clip.flatten(3)).view(clip.shape)


def random_time_stretch(clip: Tensor, generator: torch.Generator, max_log2: float = 1.0) -> Tensor:
    """Stretch each clip of `clip` [N, C, T, H, W] by 2^U(−max_log2, max_log2) at a random offset.

    Same shape; two numbers a clip from `generator` (on any device).
    """
    if clip.ndim != 5:
        raise ValueError(f"clip has {clip.ndim} axes, expected [N, C, T, H, W]")
    return apply_time_stretch(clip, draw_time_stretch(clip.shape[0], clip.shape[2], generator, max_log2))


@dataclass(frozen=True)
class TimeStretchDraws:
    """What happens to each of N clips; see :func:`time_stretch`."""

    log2_factor: Tensor
    start: Tensor


def draw_time_stretch(count: int, frames: int, generator: torch.Generator, max_log2: float = 1.0) -> TimeStretchDraws:
    """Draw for `count` clips of `frames` frames."""
    uniform = torch.rand((2, count), generator=generator, device=generator.device).double().cpu()
    log2_factor = (uniform[0] * 2 - 1) * max_log2
    slack = frames - stretched_lengths(log2_factor, frames)
    start = slack.sign() * (uniform[1] * (slack.abs() + 1)).long()
    return TimeStretchDraws(log2_factor, start)


def apply_time_stretch(clip: Tensor, draws: TimeStretchDraws) -> Tensor:
    """Apply `draws` to `clip` [N, C, T, H, W]; same shape."""
    return time_stretch(clip, draws.log2_factor, draws.start)


def _interpolation(log2_factor: Tensor, start: Tensor, T: int) -> Tensor:
    """Weights [N, T out, T in], float64 on the CPU; two a row at most.

    A matrix because it needs no atomics in the backward pass and costs nothing beside a network.
    """
    factor = torch.exp2(log2_factor.double().cpu())[:, None]
    frame = torch.arange(T) - start.cpu()[:, None]  # [N, T] frame of the stretched clip
    inside = (frame >= 0) & (frame < stretched_lengths(log2_factor, T)[:, None])
    # Frame centres are at +½; before the first centre the first frame is held.
    source = ((frame + 0.5) / factor - 0.5).clamp(0, T - 1)
    # A linear interpolation weights each frame by a triangle around its place.
    triangle = (1 - (source[:, :, None] - torch.arange(T)).abs()).clamp_min(0)
    return triangle * inside[:, :, None]
