"""The super-resolution discriminator: do these high frames belong to these low frames?

LongVideoGAN, section 3.3: StyleGAN2's residual discriminator on a few consecutive frames,
low and high resolution stacked as channels; no minibatch statistics (spec section D).
Logits and the coarse grids are float32 in every precision.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvgan.errors import ConfigError
from lvgan.models.layers import FullyConnected
from lvgan.models.running import Network, in_type
from lvgan.models.sr_schedule import high_rate, size_factor
from lvgan.ops import bias_act, upfirdn2d

CLAMP = 256.0
SMALLEST = 4  # side of the last grid, for long edges that are powers of two


class SrConv2d(nn.Module):
    """Equalised convolution, optionally halving both sides, with bias and leaky ReLU.

    ``[B, in, H, W] -> [B, out, H', W']`` with 'same' zero padding; before halving, a
    [1, 3, 3, 1] / 8 filter removes what the coarser grid cannot hold. `gain` scales the
    output (and its clamp at 256).
    """

    taps: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        down: bool = False,
        linear: bool = False,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = None if linear else nn.Parameter(torch.zeros(out_channels))
        self.weight_gain = 1 / math.sqrt(in_channels * kernel**2)
        self.gain = gain
        self.register_buffer("taps", torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8 if down else None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel, weight = self.weight.shape[-1], (self.weight * self.weight_gain).to(x.dtype)
        if self.taps is None:
            x = F.conv2d(x, weight, padding=kernel // 2)
        elif kernel == 1:  # filter and skip in one go: the convolution then sees a quarter
            x = F.conv2d(upfirdn2d(x, self.taps, down=2, padding=1), weight)
        else:
            x = F.conv2d(upfirdn2d(x, self.taps, padding=1 + kernel // 2), weight, stride=2)
        if self.bias is None:
            return x * self.gain
        gain, clamp = math.sqrt(2) * self.gain, CLAMP * self.gain
        return bias_act(x, self.bias.to(x.dtype), activation="lrelu", gain=gain, clamp=clamp)


class SrDiscriminatorBlock(nn.Module):
    """Residual block that halves the sides: ``[B, in, H, W] -> [B, out, H/2, W/2]``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv0 = SrConv2d(in_channels, in_channels, 3)
        self.conv1 = SrConv2d(in_channels, out_channels, 3, down=True, gain=math.sqrt(0.5))
        self.skip = SrConv2d(in_channels, out_channels, 1, down=True, linear=True, gain=math.sqrt(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.conv1(self.conv0(x))


def bilinear_taps(factor: int) -> Tensor:
    """The triangle filter, of sum 1, that upsamples by `factor`: 2 * factor taps, one less if odd."""
    taps = 2 * factor - factor % 2
    distance = (torch.arange(taps) - (taps - 1) / 2).abs() / factor
    return (1 - distance) / factor


class BilinearUpsample(nn.Module):
    """Bilinear upsampling by an integer; zero outside: ``[B, C, H, W] -> [B, C, fH, fW]``."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.register_buffer("taps", bilinear_taps(factor), persistent=False)
        # Half a filter on either side, less the zeros that the insertion leaves at the end.
        total = len(self.get_buffer("taps")) - 1
        self.padding = ((total + factor - 1) // 2, total - (total + factor - 1) // 2) * 2

    def forward(self, x: Tensor) -> Tensor:
        if self.factor == 1:
            return x
        return upfirdn2d(x, self.get_buffer("taps"), up=self.factor, padding=self.padding, gain=self.factor**2)


class SrDiscriminator(Network):
    """Judges `frames` consecutive frames of both resolutions.

    A block at R samples per long edge has ``min(channel_base / R, channel_max)`` channels;
    16384 is the paper's network at 256. The n = floor(log2(long edge / 4)) blocks work on
    a square: frames are zero-padded to the next multiple of 2**n that holds the long edge.
    Raises :class:`lvgan.errors.ConfigError` for sizes without an integer factor.
    """

    def __init__(
        self,
        height: int = 256,
        width: int = 256,
        lr_height: int = 64,
        lr_width: int = 64,
        *,
        channels: int = 3,
        frames: int = 4,
        channel_base: float = 16384,
        channel_max: int = 512,
    ) -> None:
        super().__init__()
        factor = size_factor((height, width), (lr_height, lr_width))
        self.size, self.lr_size = (height, width), (lr_height, lr_width)
        self.channels, self.frames = channels, frames
        long = max(height, width)
        blocks = math.floor(math.log2(long / SMALLEST)) if long >= SMALLEST else 0
        if blocks < 1:
            raise ConfigError(f"the long edge of the high resolution is {long}, it must be at least {2 * SMALLEST}")
        side = -(-long // 2**blocks) * 2**blocks
        self.frame_padding = [p for length in (width, height) for p in _halves(side - length)]
        widths = [max(1, int(min(channel_base * 2**n / side, channel_max))) for n in range(blocks + 1)]
        grid = side // 2**blocks

        self.upsample = BilinearUpsample(factor)
        self.from_frames = SrConv2d(2 * channels * frames, widths[0], 1)
        self.blocks = nn.ModuleList(SrDiscriminatorBlock(a, b) for a, b in pairwise(widths))
        self.conv = SrConv2d(widths[-1], widths[-1], 3)
        self.hidden = FullyConnected(widths[-1] * grid**2, widths[-1], activation="lrelu")
        self.out = FullyConnected(widths[-1], 1)

    def parts(self) -> list[nn.Module]:
        """See :class:`Network`."""
        return [*self.blocks, self.conv]

    def enlarge(self, lr: Tensor) -> Tensor:
        """Low-resolution frames [N, C, T, h, w] at the high resolution (bilinear): [N, C, T, H, W]."""
        _check_clip("lr", lr, (self.channels, self.frames, *self.lr_size))
        return self.upsample(lr.flatten(1, 2)).unflatten(1, lr.shape[1:3])

    def judge(self, low: Tensor, hr: Tensor) -> Tensor:
        """As :meth:`forward`, of low-resolution frames that were enlarged before: both [N, C, T, H, W]."""
        for name, clip in (("low", low), ("hr", hr)):
            _check_clip(name, clip, (self.channels, self.frames, *self.size))
        # Channel order: low or high, colour, frame.
        x = in_type(torch.cat([low.flatten(1, 2), hr.flatten(1, 2)], 1), self.half_type)
        x = self.from_frames(F.pad(x, self.frame_padding) if any(self.frame_padding) else x)
        for block in self.blocks:
            half = self.half_type if high_rate(x.shape[-1], max(self.size)) else None
            x = self._run(block, in_type(x, half))
        x = in_type(x, None)
        return self.out(self.hidden(self.conv(x).flatten(1)))

    def forward(self, lr: Tensor, hr: Tensor) -> Tensor:
        """Frames [N, C, T, h, w] and [N, C, T, H, W] -> logits [N, 1]; larger is more real."""
        return self.judge(self.enlarge(lr), hr)


def _check_clip(name: str, clip: Tensor, wanted: tuple[int, ...]) -> None:
    if clip.ndim != 5 or clip.shape[1:] != wanted:
        raise ValueError(f"{name} has shape {tuple(clip.shape)}, expected [N, {', '.join(map(str, wanted))}]")


def _halves(total: int) -> tuple[int, int]:
    return total // 2, total - total // 2
