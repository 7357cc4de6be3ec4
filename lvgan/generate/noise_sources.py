"""Where the temporal noise of a video comes from: a seed, or anything of the user's own.

A source is a function ``source(start, count, channels) -> [channels, count]`` of numbers that look like
N(0, 1), and has to give the same number for the same frame whenever it is asked. Whatever is done to the
noise (cross-fade, loop, edit) is done to the video, smoothly: the generator's filters look back over thousands
of frames (:attr:`lvgan.models.noise.LowPassBank.taps`), and its layers some hundred to both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lvgan.errors import ConfigError
from lvgan.models.noise import frame_noise

NoiseSource = Callable[[int, int, int], Any]


@dataclass(frozen=True)
class SeedNoise:
    """The noise of a seed (0 … 2**64 - 1): every frame's is independent of all others."""

    seed: int

    def __call__(self, start: int, count: int, channels: int) -> Tensor:
        return frame_noise(self.seed, start, count, channels)


@dataclass(frozen=True)
class CrossFade:
    """One source until frame `start`, another from `start` + `frames` on, and a mixture between.

    The mixture has constant power (cosine and sine), so that the noise stays N(0, 1) throughout.
    """

    before: NoiseSource
    after: NoiseSource
    start: int
    frames: int

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ConfigError(f"a cross-fade over {self.frames} frames was asked for, but it needs at least 1")

    def __call__(self, start: int, count: int, channels: int) -> Tensor:
        if start + count <= self.start:
            return read(self.before, start, count, channels)
        if start >= self.start + self.frames:
            return read(self.after, start, count, channels)
        position = torch.arange(count, dtype=torch.float64) + (start - self.start)
        angle = (position / self.frames).clamp(0, 1) * (torch.pi / 2)
        before, after = read(self.before, start, count, channels), read(self.after, start, count, channels)
        return (angle.cos() * before + angle.sin() * after).float()


@dataclass(frozen=True)
class Loop:
    """The first `period` frames of a source, again and again: a video that loops without a seam.

    Frames of video repeat exactly, bit by bit, if the period is a multiple of the segment's length (128).
    """

    source: NoiseSource
    period: int

    def __post_init__(self) -> None:
        if self.period < 1:
            raise ConfigError(f"a loop of {self.period} frames was asked for, but it needs at least 1")

    def __call__(self, start: int, count: int, channels: int) -> Tensor:
        once = read(self.source, 0, self.period, channels)
        return once[:, (torch.arange(count) + start % self.period) % self.period]


@dataclass(frozen=True)
class ArrayNoise:
    """Numbers of the user's: frame `first` + i is column i of `array`, the rest comes from `elsewhere`.

    Args:
        array: ``[channels, frames]``, finite, of about unit variance.
        elsewhere: for frames outside the array, for example ``SeedNoise(0)``.
        first: frame of the first column.
    """

    array: Any
    elsewhere: NoiseSource
    first: int = 0

    def __call__(self, start: int, count: int, channels: int) -> Tensor:
        values = torch.as_tensor(np.asarray(self.array), dtype=torch.float32)
        if values.ndim != 2 or values.shape[0] != channels:
            raise ConfigError(
                f"an array of noise has the shape {list(values.shape)}, but [{channels}, frames] was expected"
            )
        out = read(self.elsewhere, start, count, channels).clone()
        low, high = max(start, self.first), min(start + count, self.first + values.shape[1])
        if low < high:
            out[:, low - start : high - start] = values[:, low - self.first : high - self.first]
        return out


def read(source: NoiseSource, start: int, count: int, channels: int) -> Tensor:
    """Noise of a source: float32 ``[channels, count]`` on the CPU.

    Raises:
        ConfigError: the source gave another shape, or numbers that are not finite.
    """
    values = torch.as_tensor(source(start, count, channels), dtype=torch.float32).detach().cpu()
    if tuple(values.shape) != (channels, count):
        raise ConfigError(
            f"a noise source gave the shape {list(values.shape)} for {count} frames from {start} on, "
            f"but [{channels}, {count}] was expected"
        )
    if not values.isfinite().all():
        raise ConfigError(f"a noise source gave numbers that are not finite in frames {start} to {start + count - 1}")
    return values
