"""Resampling of the low-resolution frames to the rates of the super-resolution layers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvgan.models.sr_schedule import Size, condition_filter
from lvgan.ops import upfirdn2d


class FrameResampler(nn.Module):
    """Brings low-resolution frames to `scale` times their rate, once for all of `sizes`.

    ``forward(frames [B, C, h, w])`` computes the largest region that any of `sizes` needs;
    ``fit(region, size)`` cuts one of them out. The frames are padded to a square and by
    `margin` with their border pixels before, and by what is still missing after.

    The order of the steps and the rounding of odd paddings are those of the published
    system (its weights depend on them): a size that differs from the resampled square by an
    odd number lies half a sample off centre.
    """

    taps: Tensor

    def __init__(self, lr_size: Size, scale: Fraction, sizes: Iterable[Size], margin: int) -> None:
        super().__init__()
        up, down = scale.numerator, scale.denominator
        square = max(lr_size) + 2 * margin
        self.scale = scale
        self.length = math.ceil(square * scale)  # the resampled square's
        # The region [low, high) of the resampled square that is computed, for both axes.
        self.low, self.high = zip(*(self._region([s[axis] for s in sizes]) for axis in (0, 1)), strict=True)
        # One output sample is padded with border pixels; beyond are zeros, as published.
        edge = 0 if scale == 1 else math.ceil(down / up)
        before = [(square - side) // 2 + edge for side in lr_size]
        after = [square + 2 * edge - side - b for side, b in zip(lr_size, before, strict=True)]
        self.frame_padding = [before[1], after[1], before[0], after[0]]
        if scale == 1:
            return
        # An odd or even filter, such that the centres of both grids coincide exactly.
        parity = (1 + up * (square - 1) - down * (self.length - 1)) % 2
        taps = torch.tensor(condition_filter(scale, parity), dtype=torch.float32)
        self.register_buffer("taps", taps, persistent=False)
        padded = square + 2 * edge
        centred = (down * (self.length - 1) + len(taps) - 1 - up * (padded - 1)) // 2
        self.fir_padding: list[int] = []
        for axis in (1, 0):
            first = centred - down * self.low[axis]
            outputs = self.high[axis] - self.low[axis]
            self.fir_padding += [first, down * (outputs - 1) + len(taps) - up * padded - first]

    def _start(self, size: int) -> int:
        """Where `size` samples begin in the resampled square; negative outside of it."""
        spare = self.length - size
        return spare // 2 if spare >= 0 else -(-spare // 2)

    def _region(self, sizes: list[int]) -> tuple[int, int]:
        starts = [self._start(size) for size in sizes]
        ends = [start + size for start, size in zip(starts, sizes, strict=True)]
        return max(0, min(starts)), min(self.length, max(ends))

    def forward(self, frames: Tensor) -> Tensor:
        x = F.pad(frames, self.frame_padding, mode="replicate")
        if self.scale == 1:
            return x[:, :, self.low[0] : self.high[0], self.low[1] : self.high[1]]
        up, down = self.scale.numerator, self.scale.denominator
        return upfirdn2d(x, self.taps, up=up, down=down, padding=self.fir_padding, gain=up**2)

    def fit(self, region: Tensor, size: Size) -> Tensor:
        """Crop a result of :meth:`forward` to `size`, or repeat its border up to it."""
        missing: list[int] = []
        for axis in (1, 0):
            start = self._start(size[axis]) - self.low[axis]
            end = start + size[axis]
            available = self.high[axis] - self.low[axis]
            missing += [max(0, -start), max(0, end - available)]
            region = region.narrow(axis + 2, max(0, start), min(end, available) - max(0, start))
        return F.pad(region, missing, mode="replicate") if any(missing) else region


def stack_context(frames: Tensor, context: int) -> Tensor:
    """Each frame with its neighbours as channels.

    ``[N, T + 2 * context, C, h, w] -> [N * T, C * (2 * context + 1), h, w]``, the channels
    ordered by colour, then by time.
    """
    if context == 0:
        return frames.flatten(0, 1)
    windows = frames.unfold(1, 2 * context + 1, 1)  # [N, T, C, h, w, K]
    return windows.permute(0, 1, 2, 5, 3, 4).flatten(2, 3).flatten(0, 1)
