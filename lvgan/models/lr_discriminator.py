"""The low-resolution discriminator: one logit for a whole clip (spec B)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvgan.errors import ConfigError
from lvgan.models.layers import (
    Convolution,
    FullyConnected,
    downsample_space,
    downsample_time,
    downsampling_matrix,
)
from lvgan.models.running import Network, in_type, widened

CLAMP = 256.0
SMALLEST_EDGE = 4


class DiscriminatorBlock(nn.Module):
    """Two convolutions and a skip, all of which downsample at their end.

    ``[N, in, T, size, size] -> [N, out, T', size', size']``, halved (rounded up) where `down_t`,
    `down_s`. The first block has `rgb_channels`: a 1×1×1 convolution from that many to `in`.
    """

    matrix: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        *,
        rgb_channels: int | None = None,
        kernels: tuple[tuple[int, int, int], tuple[int, int, int]] = ((5, 3, 3), (5, 3, 3)),
        down_t: bool = True,
        down_s: bool = True,
        clamp: float = CLAMP,
    ) -> None:
        super().__init__()
        self.down_t, self.down_s = down_t, down_s
        self.stem = (
            None
            if rgb_channels is None
            else Convolution(rgb_channels, in_channels, (1, 1, 1), activation="lrelu", clamp=clamp)
        )
        self.conv_0 = Convolution(in_channels, in_channels, kernels[0], activation="lrelu", clamp=clamp)
        # Clamped before the sum is scaled by √½, here after both terms are.
        clamp *= math.sqrt(0.5)
        self.conv_1 = Convolution(in_channels, out_channels, kernels[1], activation="lrelu", clamp=clamp)
        self.skip = Convolution(in_channels, out_channels, (1, 1, 1), bias=False, clamp=clamp)
        if down_s:
            self.register_buffer("matrix", downsampling_matrix(size), persistent=False)

    def downsample(self, x: Tensor) -> Tensor:  # [N, C, T, H, W]
        if self.down_s:
            x = downsample_space(x, self.matrix, self.matrix)
        return downsample_time(x) if self.down_t else x

    def forward(self, x: Tensor) -> Tensor:
        if self.stem is not None:
            x = self.stem(x)
        # The 1×1×1 convolution commutes with the filter; after it there is less to compute.
        skip = self.skip(self.downsample(x), gain=math.sqrt(0.5))
        x = self.conv_0(x)
        x = self.conv_1(x, resample=self.downsample, gain=math.sqrt(0.5))
        return x + skip


class Epilogue(nn.Module):
    """Clip features to a logit, in float32: ``[N, C, T, size, size] -> [N, 1]``."""

    def __init__(self, in_channels: int, frames: int, size: int, channels: int, convolutions: int = 4) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            Convolution(channels if i else in_channels * size**2, channels, (3 if i else 1,), activation="lrelu")
            for i in range(convolutions)
        )
        self.hidden = FullyConnected(channels * frames, channels, activation="lrelu")
        self.logit = FullyConnected(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = widened(x).transpose(2, 1).flatten(2).transpose(2, 1)  # [N, C·H·W, T]
            for conv in self.convs:
                x = conv(x)
            return self.logit(self.hidden(x.flatten(1)))


class LrDiscriminator(Network):
    """``video [N, C, T, H, W] -> logits [N, 1]`` for clips of exactly this many frames and this size.

    Clips that are not square are zero-padded. The last blocks downsample in space, as many as the
    long edge can be halved without going under 4; all but the first have kernels over 5 frames and
    halve the frame rate.
    """

    def __init__(
        self,
        frames: int = 128,
        height: int = 64,
        width: int = 64,
        *,
        channels: int = 3,
        stem: int = 32,
        widths: Sequence[int] = (64, 128, 256, 512),
        head: int = 1024,
    ) -> None:
        super().__init__()
        if not widths or min(channels, stem, head, *widths) < 1:
            raise ConfigError(
                f"a discriminator of {channels} colours, stem {stem}, widths {list(widths)} and head {head} "
                "is impossible; give at least one width, and nothing below 1."
            )
        if frames < 8 or min(height, width) < 1:
            raise ConfigError(
                f"clips of {frames} frames of {width}x{height} cannot be judged; "
                "the discriminator needs at least 8 frames of 1x1."
            )
        self.shape = (channels, frames, height, width)
        size = max(height, width)
        unscaled = len(widths) - _halvings(size)
        blocks = []
        inputs = [stem, *widths[:-1]]
        for i, (in_channels, out_channels) in enumerate(zip(inputs, widths, strict=True)):
            first, down_s = i == 0, i >= unscaled
            kernel = (1 if first else 5, 3, 3)
            blocks.append(
                DiscriminatorBlock(
                    in_channels,
                    out_channels,
                    size,
                    rgb_channels=channels if first else None,
                    kernels=(kernel, kernel),
                    down_t=not first,
                    down_s=down_s,
                )
            )
            size = math.ceil(size / 2) if down_s else size
            frames = frames if first else math.ceil(frames / 2)
        self.blocks = nn.ModuleList(blocks)
        self.epilogue = Epilogue(widths[-1], frames, size, head)

    def parts(self) -> list[nn.Module]:
        """See :class:`Network`."""
        return [*self.blocks, self.epilogue]

    def forward(self, video: Tensor) -> Tensor:  # [N, C, T, H, W]
        if video.ndim != 5 or tuple(video.shape[1:]) != self.shape:
            raise ValueError(f"video must be [N, {', '.join(map(str, self.shape))}], got {tuple(video.shape)}")
        height, width = self.shape[2:]
        x = F.pad(video, [*_margins(height - width), *_margins(width - height)]) if height != width else video
        x = in_type(x, self.half_type)
        for block in self.blocks:
            x = self._run(block, x)
        return self.epilogue(x)


def _halvings(edge: int) -> int:
    """How often `edge` can be halved, rounding up, without going under 4."""
    count = 0
    while (edge := math.ceil(edge / 2)) >= SMALLEST_EDGE:
        count += 1
    return count


def _margins(missing: int) -> tuple[int, int]:
    """Padding before and after that adds `missing` (or nothing, where negative)."""
    missing = max(missing, 0)
    return missing // 2, missing - missing // 2
