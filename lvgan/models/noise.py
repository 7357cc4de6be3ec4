"""Temporal noise that can be read at any frame, and the bank of low-pass filters over it.

Paper section 3.1; spec A1. The noise is counter-based: a frame's numbers need no earlier frame,
so a video can be entered anywhere, and neighbouring segments see the same noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.fft
import scipy.special
import torch
from torch import Tensor, nn

from lvgan.errors import ConfigError
from lvgan.models.kaiser import kaiser_low_pass

FRAME_LIMIT = 2**63 - 1  # videos end at 2**62; their margins have noise too
_LANES = 4  # 64-bit words that Philox-4x64 yields at one counter


def frame_noise(seed: int, start: int, count: int, channels: int = 8) -> Tensor:
    """N(0, 1) noise of frames ``start ... start + count - 1``: float32 ``[channels, count]`` on the CPU.

    A pure function of (seed, frame, channel): the same bits however a range is cut into calls and
    however many channels are asked for. `seed` lies in [0, 2**64), frames in ±(2**63 - 1); anything else
    is a :class:`ConfigError`. Philox-4x64 is keyed by (seed, group of four channels) and counts
    frames; the inverse normal distribution function turns a word into a number.
    """
    seed, start = int(seed), int(start)  # NumPy integers would overflow
    if not 0 <= seed < 2**64:
        raise ConfigError(f"seed {seed} is out of range; choose one from 0 to 2**64 - 1.")
    if count < 0 or channels < 1:
        raise ValueError(f"count and channels must be at least 0 and 1, got {count} and {channels}")
    if start < -FRAME_LIMIT or start + count - 1 > FRAME_LIMIT:
        raise ConfigError(f"frames {start} to {start + count - 1} are out of range; stay within 2**63 - 1.")
    noise = np.empty((channels, count), np.float32)
    for first in range(0, channels, _LANES):
        key = seed + (first // _LANES << 64)
        words = np.random.Philox(key=key, counter=start + 2**63).random_raw(count * _LANES)
        # 52 bits and a half: exact in float64, never 0 or 1.
        uniform = ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
        lanes = scipy.special.ndtri(uniform).reshape(count, _LANES).T
        noise[first : first + _LANES] = lanes[: channels - first]
    return torch.from_numpy(noise)


def low_pass_filters(rates: Sequence[float] | np.ndarray) -> Tensor:
    """One low-pass filter of unit sum a rate: float32 ``[len(rates), K]``, right-aligned rows.

    The filter of rate r has ``ceil(r / 2)`` taps: a Kaiser-windowed sinc that cuts off at 2 with a
    transition of 12, at a sampling rate of r. K is the longest.
    """
    # Rates carry rounding errors: 10000.000000001 asks for 5000 taps, not 5001.
    lengths = [int(np.ceil(rate / 2 - 1e-6)) for rate in rates]
    rows = np.zeros((len(lengths), max(lengths)), np.float32)
    for row, rate, length in zip(rows, rates, lengths, strict=True):
        row[-length:] = kaiser_low_pass(length, cutoff=2.0, width=12.0, rate=rate)
    return torch.from_numpy(rows)


def correlate_fft(x: Tensor, filters: Tensor) -> Tensor:
    """Valid correlation of every row with every filter: ``[R, L], [F, K] -> [R, F, L - K + 1]``.

    By FFT, in the precision of `x`.
    """
    length, taps = x.shape[-1], filters.shape[-1]
    size = scipy.fft.next_fast_len(length, real=True)
    # A circular correlation wraps only into outputs that are cut off.
    spectrum = torch.fft.rfft(x, size)[:, None] * torch.fft.rfft(filters.to(x.dtype), size).conj()
    return torch.fft.irfft(spectrum, size)[..., : length - taps + 1]


class LowPassBank(nn.Module):
    """A bank of low-pass filters over every noise channel (spec A1).

    ``[N, C, T + K - 1] -> [N, C * filters, T]`` with channel = noise channel · filters + filter;
    K = :attr:`taps`, the longest filter. Filter footprints run from `footprint_min` to
    `footprint_max` frames, evenly in log2. Each filter ends on the newest frame and has unit
    energy, so that white noise of variance 1 stays at variance 1. Nothing is learnt or saved.
    """

    filters: Tensor  # [F, K]

    def __init__(
        self,
        noise_channels: int = 8,
        filters: int = 128,
        footprint_min: float = 100,
        footprint_max: float = 5000,
    ) -> None:
        super().__init__()
        if noise_channels < 1 or filters < 1:
            raise ConfigError(
                f"the noise has {noise_channels} channels and {filters} filters; both must be at least 1."
            )
        if not 2 < footprint_min <= footprint_max:
            raise ConfigError(
                f"filter footprints from {footprint_min} to {footprint_max} frames are impossible; "
                "choose 2 < footprint_min <= footprint_max."
            )
        self.noise_channels = noise_channels
        rates = np.logspace(np.log2(2 * footprint_min), np.log2(2 * footprint_max), filters, base=2)
        rows = low_pass_filters(rates)
        energy = rows.double().square().sum(1, keepdim=True)
        self.register_buffer("filters", (rows * energy.rsqrt()).float(), persistent=False)

    @property
    def taps(self) -> int:
        """Length K of the longest filter, in frames."""
        return self.filters.shape[1]

    @property
    def channels(self) -> int:
        """Output channels."""
        return self.noise_channels * self.filters.shape[0]

    def forward(self, noise: Tensor) -> Tensor:  # [N, C, T + K - 1]
        if noise.ndim != 3 or noise.shape[1] != self.noise_channels or noise.shape[2] < self.taps:
            raise ValueError(
                f"noise must be [N, {self.noise_channels}, at least {self.taps}], got {tuple(noise.shape)}"
            )
        # Sample by sample: the spectra take many times the memory of what is kept.
        return torch.stack([correlate_fft(sample, self.filters).flatten(0, 1) for sample in noise])
