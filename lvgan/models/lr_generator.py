"""The low-resolution generator: noise over time to video, fully convolutional in time.

Paper section 3.1 and figure 3; spec A. It turns a long stretch of temporal noise into a latent a
frame, and synthesises coarse to fine in time and space under its control.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvgan.errors import ConfigError
from lvgan.models.kaiser import kaiser_low_pass
from lvgan.models.layers import (
    FullyConnected,
    MagnitudeEMA,
    convolve,
    crop_time,
    modulated_conv3d,
    normalize_rms,
    upsample_space,
    upsample_time,
    upsampling_matrix,
)
from lvgan.models.noise import LowPassBank
from lvgan.models.running import Network, in_type, widened
from lvgan.ops import bias_act

CLAMP = 256.0
RGB_GAIN = 0.25


@dataclass(frozen=True)
class BlockSpec:
    """One residual block: output channels, frames that its kernels span (3 or 1), upsampling.

    ``str()`` gives, and :meth:`parse` reads, a short form: ``"512 t s"`` has 512 channels, 3x3x3
    kernels and upsampling in time and space; ``"64 1x3x3"`` is purely spatial and keeps its size.
    """

    channels: int
    kernel_t: int = 3
    up_t: bool = False
    up_s: bool = False

    def __post_init__(self) -> None:
        if self.channels < 1 or self.kernel_t not in (1, 3):
            raise ConfigError(
                f"a block of {self.channels} channels with {self.kernel_t}x3x3 kernels is impossible; "
                "choose at least 1 channel and 3x3x3 or 1x3x3 kernels."
            )

    @classmethod
    def parse(cls, text: str) -> BlockSpec:
        """The block that `text` describes; :class:`ConfigError` where it describes none."""
        match = re.fullmatch(r"(\d+)( [13]x3x3)?( t)?( s)?", " ".join(text.split()))
        if match is None:
            raise ConfigError(
                f'block "{text}" is not understood; write channels, then if wanted 1x3x3, t, s, '
                'for example "512 t s" or "64 1x3x3".'
            )
        channels, kernel, up_t, up_s = match.groups()
        return cls(int(channels), int(kernel[1]) if kernel else 3, up_t is not None, up_s is not None)

    def __str__(self) -> str:
        parts = [str(self.channels), "1x3x3" * (self.kernel_t == 1), "t" * self.up_t, "s" * self.up_s]
        return " ".join(part for part in parts if part)


PAPER_BLOCKS: tuple[BlockSpec, ...] = tuple(
    BlockSpec.parse(text)
    for text in (
        "512 t",
        "512 t s",
        "512 t",
        "512 t s",
        "256 t",
        "256",
        "128 1x3x3 s",
        "128 1x3x3",
        "64 1x3x3 s",
        "64 1x3x3",
    )
)


class SynthesisBlock(nn.Module):
    """Two modulated convolutions and a skip, then upsampling (spec A6).

    ``x [N, C_in, T, h, w], w [N, T, D] -> [N, C_out, frames, *out_size]``, by default with twice the
    frames if ``spec.up_t``, else as many.
    """

    vertical: Tensor
    horizontal: Tensor

    def __init__(
        self,
        in_channels: int,
        spec: BlockSpec,
        latent: int,
        in_size: tuple[int, int],
        out_size: tuple[int, int],
    ) -> None:
        super().__init__()
        self.spec = spec
        kernel = (spec.kernel_t, 3, 3)
        self.weight_0 = nn.Parameter(torch.randn(in_channels, in_channels, *kernel))
        self.weight_1 = nn.Parameter(torch.randn(spec.channels, in_channels, *kernel))
        self.weight_skip = nn.Parameter(torch.randn(spec.channels, in_channels, 1, 1, 1))
        self.bias_0 = nn.Parameter(torch.zeros(in_channels))
        self.bias_1 = nn.Parameter(torch.zeros(spec.channels))
        self.affine_0 = FullyConnected(latent, in_channels, bias_init=1)
        self.affine_1 = FullyConnected(latent, in_channels, bias_init=1)
        self.magnitude_0 = MagnitudeEMA()
        self.magnitude_1 = MagnitudeEMA()
        self.skip_gain = math.sqrt(0.5 / in_channels)
        if spec.up_s:
            vertical, horizontal = (upsampling_matrix(*s) for s in zip(in_size, out_size, strict=True))
            self.register_buffer("vertical", vertical, persistent=False)
            self.register_buffer("horizontal", horizontal, persistent=False)

    def forward(self, x: Tensor, w: Tensor, frames: int | None = None, *, update_ema: bool = False) -> Tensor:
        scale = 2 if self.spec.up_t else 1
        frames = scale * x.shape[2] if frames is None else frames
        x, w = self._drop_unused(x, w, frames)

        gain = self.magnitude_0.gain(x, update_ema)
        skip = convolve(x, self.weight_skip * (gain * self.skip_gain))
        x = modulated_conv3d(x, self.weight_0, self.affine_0(w), input_gain=gain)
        x = bias_act(x, self.bias_0.to(x.dtype), activation="lrelu", clamp=CLAMP)

        gain = self.magnitude_1.gain(x, update_ema)
        x = modulated_conv3d(x, self.weight_1, self.affine_1(w), input_gain=gain, output_gain=math.sqrt(0.5), add=skip)
        x = upsample_time(x, frames) if self.spec.up_t else crop_time(x, frames)
        if self.spec.up_s:
            x = upsample_space(x, self.vertical, self.horizontal)
        return bias_act(x, self.bias_1.to(x.dtype), activation="lrelu", clamp=CLAMP)

    def _drop_unused(self, x: Tensor, w: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """Drop the outer frames that the cropped output does not see, as many on each side."""
        halo = self.spec.kernel_t - 1 + int(self.spec.up_t)
        start = ((2 if self.spec.up_t else 1) * x.shape[2] - frames) // 2
        unused = (start // 2 if self.spec.up_t else start) - halo
        if unused <= 0:
            return x, w
        kept = x.shape[2] - 2 * unused
        return x.narrow(2, unused, kept), w.narrow(1, unused, kept)


class ToRGB(nn.Module):
    """Features to colours: ``x [N, C, T, H, W], w [N, T, D] -> [N, channels, T, H, W]`` (spec A6)."""

    def __init__(self, in_channels: int, channels: int, latent: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, in_channels, 1, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.affine = FullyConnected(latent, in_channels, bias_init=1)
        self.magnitude = MagnitudeEMA()
        self.weight_gain = 1 / math.sqrt(in_channels)

    def forward(self, x: Tensor, w: Tensor, *, update_ema: bool = False) -> Tensor:
        gain = self.magnitude.gain(x, update_ema) * self.weight_gain
        y = modulated_conv3d(x, self.weight, self.affine(w), demodulate=False, input_gain=gain)
        return bias_act(y, self.bias.to(y.dtype), clamp=CLAMP)


class HalfRate(nn.Module):
    """Latents at half their frame rate: ``[N, T, D] -> [N, floor(T / 2), D]`` (spec A3)."""

    taps: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.from_numpy(kaiser_low_pass(12, cutoff=1, width=6, rate=8)).float()
        self.register_buffer("taps", taps, persistent=False)

    def forward(self, w: Tensor) -> Tensor:  # [N, T, D]
        rows = w.transpose(1, 2)  # [N, D, T]
        half = F.conv1d(rows.reshape(-1, 1, w.shape[1]), self.taps.to(w.dtype)[None, None], stride=2, padding=5)
        return half.reshape(*rows.shape[:2], -1).transpose(1, 2)


class Mapping(nn.Module):
    """Embedding to latent, frame by frame: ``[N, T, D_in] -> [N, T, D]`` (spec A2)."""

    def __init__(self, in_features: int, latent: int, layers: int) -> None:
        super().__init__()
        widths = [in_features] + [latent] * layers
        self.layers = nn.ModuleList(
            FullyConnected(a, b, activation="lrelu", lr_multiplier=0.01) for a, b in itertools.pairwise(widths)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = normalize_rms(x, dim=-1)
        for layer in self.layers:
            x = layer(x)
        return x


class LrGenerator(Network):
    """Temporal noise to video of `height` × `width`, values nominally in [−1, 1].

    `blocks` lists the residual blocks from coarse to fine; those that upsample time come first.
    Sizes that do not divide by the total upsampling are rounded up at each level, and cropped.
    `padding` frames a side are computed at every rate and cropped away, so that zero padding in
    time never reaches the output: noise shifted by :attr:`time_scale` frames gives the video
    shifted by as many (spec A4). Impossible settings raise :class:`ConfigError`.
    """

    def __init__(
        self,
        height: int = 64,
        width: int = 64,
        *,
        channels: int = 3,
        noise_channels: int = 8,
        filters: int = 128,
        footprint_min: float = 100,
        footprint_max: float = 5000,
        latent: int = 1024,
        mapping_layers: int = 2,
        input_channels: int = 512,
        blocks: Sequence[BlockSpec] = PAPER_BLOCKS,
        padding: int = 8,
    ) -> None:
        super().__init__()
        if min(height, width, channels, latent, mapping_layers, input_channels) < 1:
            raise ConfigError(
                f"a generator of {width}x{height} with {channels} colours, latents of {latent}, "
                f"{mapping_layers} mapping layers and {input_channels} input channels is impossible; "
                "nothing can be below 1."
            )
        _check_blocks(blocks, padding)
        self.specs = tuple(blocks)
        self.size, self.channels, self.noise_channels = (height, width), channels, noise_channels
        self.padding = padding
        self.time_scale = 2 ** sum(spec.up_t for spec in blocks)

        self.bank = LowPassBank(noise_channels, filters, footprint_min, footprint_max)
        self.mapping = Mapping(self.bank.channels, latent, mapping_layers)
        self.half_rate = HalfRate()
        doublings = sum(spec.up_s for spec in blocks)
        size = _size_at(height, width, doublings)
        self.constant = nn.Parameter(torch.randn(input_channels, 1, *size))
        self.input = FullyConnected(latent, input_channels)
        self.blocks = nn.ModuleList()
        for spec in blocks:
            doublings -= spec.up_s
            in_size, size = size, _size_at(height, width, doublings)
            self.blocks.append(SynthesisBlock(input_channels, spec, latent, in_size, size))
            input_channels = spec.channels
        self.rgb = ToRGB(input_channels, channels, latent)

    def parts(self) -> list[nn.Module]:
        """See :class:`Network`."""
        return [*self.blocks, self.rgb]

    def lengths(self, frames: int) -> list[tuple[int, int]]:
        """For each block's input, and at last the output: (frames per sample, samples) that make `frames`."""
        rate = self.time_scale
        lengths = []
        for i in range(len(self.specs) + 1):
            rest = self.specs[i:]
            padding = self.padding if any(spec.up_t or spec.kernel_t > 1 for spec in rest) else 0
            lengths.append((rate, math.ceil(frames / rate) + 2 * padding))
            if rest and rest[0].up_t:
                rate //= 2
        return lengths

    def embedding_frames(self, frames: int) -> int:
        """Frames of latents at the full rate that `frames` of video are made from."""
        return (math.ceil(frames / self.time_scale) + 2 * self.padding) * self.time_scale

    def noise_margin(self, frames: int) -> tuple[int, int]:
        """Frames of noise needed before and after `frames` frames of video."""
        before = self.padding * self.time_scale
        return before + self.bank.taps - 1, self.embedding_frames(frames) - before - frames

    def latents(self, noise: Tensor) -> Tensor:
        """``[N, noise_channels, T + K - 1] -> [N, T, latent]`` at the full frame rate."""
        return self.mapping(self.bank(noise).transpose(1, 2))

    def latent_pyramid(self, w: Tensor, frames: int) -> list[Tensor]:
        """From ``[N, embedding_frames, D]``: each block's latents and the last for RGB, ``[N, T_i, D]``."""
        rates = {1: w}
        for level in range(1, self.time_scale.bit_length()):
            rates[2**level] = self.half_rate(rates[2 ** (level - 1)])
        pyramid = []
        for rate, length in self.lengths(frames):
            # Aligned by the first frame of video, which lies at padding * time_scale.
            margin = (length - math.ceil(frames / rate)) // 2
            first = self.padding * self.time_scale // rate - margin
            pyramid.append(rates[rate].narrow(1, first, length))
        return pyramid

    def forward(self, noise: Tensor, frames: int, *, update_ema: bool = False) -> Tensor:
        """``noise [N, noise_channels, before + frames + after] -> video [N, channels, frames, H, W]``."""
        expected = sum(self.noise_margin(frames)) + frames
        if frames < 1 or noise.shape[-1] != expected:
            raise ValueError(f"noise must have {expected} frames for {frames} of video, got {noise.shape[-1]}")
        return self.synthesis(self.latents(noise), frames, update_ema=update_ema)

    def synthesis(self, w: Tensor, frames: int, *, update_ema: bool = False) -> Tensor:
        """As :meth:`forward`, with the latents ``[N, embedding_frames, latent]`` of :meth:`latents`."""
        pyramid = self.latent_pyramid(w, frames)
        lengths = [length for _, length in self.lengths(frames)]
        start = self.input(pyramid[0]).transpose(1, 2)[..., None, None]
        x = (start + self.constant.to(start.dtype)) * math.sqrt(0.5)  # [N, C, T, h, w]
        x = in_type(x, self.half_type)
        for block, w, length in zip(self.blocks, pyramid, lengths[1:], strict=False):
            x = self._run(block, x, w, length, update_ema=update_ema)
        return widened(self.rgb(x, pyramid[-1], update_ema=update_ema)) * RGB_GAIN


def _size_at(height: int, width: int, doublings: int) -> tuple[int, int]:
    """(height, width) of the features that are still to be doubled so many times."""
    return math.ceil(height / 2**doublings), math.ceil(width / 2**doublings)


def _check_blocks(blocks: Sequence[BlockSpec], padding: int) -> None:
    """Refuse blocks whose latents have no rate, and padding that lets zeros reach the output."""
    flags = [spec.up_t for spec in blocks]
    if not blocks or flags != sorted(flags, reverse=True):
        listed = ", ".join(f'"{spec}"' for spec in blocks)
        raise ConfigError(
            f"blocks [{listed}] cannot be built; list at least one, and those that upsample time (t) first."
        )
    # Frames a side that a block's input must have right, from the last block back to the first.
    halo = needed = 0
    for spec in reversed(blocks):
        halo = (math.ceil(halo / 2) + 1 if spec.up_t else halo) + spec.kernel_t - 1
        needed = max(needed, halo)
    if any(flags):
        needed = max(needed, halo + 2)  # the ends of the coarsest latents are spoilt too
    if padding < needed:
        raise ConfigError(
            f"padding of {padding} frames lets the ends of the noise show in the video; "
            f"these blocks need at least {needed}."
        )
