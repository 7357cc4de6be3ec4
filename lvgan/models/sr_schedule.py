"""The layer schedule of the super-resolution generator: sizes, rates, filters. No torch.

Every layer works on a band-limited signal. From layer to layer the band (cutoff) grows
geometrically, the sampling rate follows it in factors of two, and the two filters around
the nonlinearity are derived from both (LongVideoGAN, section 3.3, after StyleGAN3).

Units: rates, cutoffs and half widths are in samples (cycles) per long edge of the frame.
Sizes are ``(height, width)`` in samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.special import j1

from lvgan.errors import ConfigError
from lvgan.models.kaiser import kaiser_beta, kaiser_low_pass

Size = tuple[int, int]

FIRST_CUTOFF = 2.0  # of the first layer
FIRST_STOPBAND = 2.0**2.1
LAST_STOPBAND = 2.0**0.3  # of the last layer, relative to its cutoff
MIN_LONG_EDGE = 16
HALF_RATES = 4  # the rates, counted from the highest, at which half precision is allowed
TAPS_PER_SCALE = 6  # taps of a conditioning filter for each unit of its factor


@dataclass(frozen=True)
class SrLayer:
    """One layer of the schedule; the last one makes RGB.

    `padding` is ``(x0, x1, y0, y1)`` between the convolution and the upsampling filter, in
    samples of the temporary rate; negative values crop. `scale` is the rate of the input
    over the rate of the low-resolution frames.
    """

    is_rgb: bool
    critical: bool
    kernel: int
    in_channels: int  # conditioning included
    out_channels: int
    in_size: Size
    out_size: Size
    in_rate: float
    out_rate: float
    in_cutoff: float
    out_cutoff: float
    in_half_width: float
    out_half_width: float
    up: int
    down: int
    up_taps: int
    down_taps: int
    padding: tuple[int, int, int, int]
    scale: Fraction

    @property
    def inner_rate(self) -> float:
        """The temporary rate at which the nonlinearity is applied."""
        return self.in_rate * self.up


@dataclass(frozen=True)
class _Band:
    cutoff: float
    half_width: float
    rate: float
    halvings: int  # rate = long edge / 2 ** halvings


def high_rate(rate: float, long: int) -> bool:
    """Whether `rate` is among the four highest: those that half precision is for (published setting)."""
    return rate * 2**HALF_RATES > long


def size_factor(size: Size, lr_size: Size) -> int:
    """The integer factor from `lr_size` to `size`.

    Raises :class:`ConfigError`, with the nearest legal size, where there is none.
    """
    if min(*size, *lr_size) < 1:
        raise ConfigError(f"sizes must be positive, found {_name(size)} from {_name(lr_size)}")
    factor, rest = divmod(size[0], lr_size[0])
    if rest or factor < 1 or size != (lr_size[0] * factor, lr_size[1] * factor):
        nearest = max(1, round((size[0] / lr_size[0] + size[1] / lr_size[1]) / 2))
        legal = (lr_size[0] * nearest, lr_size[1] * nearest)
        raise ConfigError(
            f"high resolution {_name(size)} is not a whole multiple of low resolution "
            f"{_name(lr_size)} (height x width); the nearest size that is: {_name(legal)}"
        )
    return factor


def _name(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _bands(long: int, layers: int, critical: int) -> list[_Band]:
    """Cutoff, transition and rate at the output of each layer, RGB included."""
    last = long / 2
    bands = []
    for index in range(layers + 1):
        progress = min(index / (layers - critical), 1.0)
        cutoff = FIRST_CUTOFF * (last / FIRST_CUTOFF) ** progress
        stopband = FIRST_STOPBAND * (last * LAST_STOPBAND / FIRST_STOPBAND) ** progress
        needed = min(2 * stopband, long)
        halvings = math.floor(math.log2(long / needed))
        rate = long / 2**halvings
        bands.append(_Band(cutoff, max(stopband, rate / 2) - cutoff, rate, halvings))
    return bands


def _taps(factor: int, filter_size: int) -> int:
    return filter_size * factor if factor > 1 else 1


def _padding(out: int, size: int, kernel: int, up: int, down: int, taps: int) -> tuple[int, int]:
    """Padding of one axis that keeps the frame's centre; `taps` of both filters together."""
    total = (out - 1) * down + 1 - (size + kernel - 1) * up + taps - 2
    low = (total + up) // 2
    return low, total - low


def sr_schedule(
    size: Size,
    lr_size: Size,
    *,
    channels: int = 3,
    context: int = 4,
    layers: int = 14,
    critical: int = 2,
    channel_base: float = 16384,
    channel_max: int = 512,
    margin: int = 10,
    filter_size: int = 6,
    fourier: bool = False,
) -> tuple[SrLayer, ...]:
    """The `layers` layers and the RGB layer that make `size` from frames of `lr_size`.

    A layer has ``min(channel_base / cutoff, channel_max)`` channels, so the last one has
    ``2 * channel_base / long edge``. The rates are ``long edge / 2**k``. Spec section C.
    Raises :class:`ConfigError` for sizes without an integer factor, long edges below 16 and
    impossible layer counts.
    """
    factor = size_factor(size, lr_size)
    long = max(size)
    if long < MIN_LONG_EDGE:
        raise ConfigError(f"the long edge of the high resolution is {long}, it must be at least {MIN_LONG_EDGE}")
    if critical < 1 or layers <= critical:
        raise ConfigError(f"layers={layers} and critical={critical} do not fit: expected layers > critical >= 1")
    if margin < 0 or context < 0 or filter_size < 1 or channels < 1:
        raise ConfigError("margin and context must be 0 or more, filter_size and channels 1 or more")
    bands = _bands(long, layers, critical)
    sizes = [_padded_size(size, band.halvings, margin) for band in bands]
    sizes[-2:] = [size, size]
    widths = [max(1, round(min(channel_base / band.cutoff, channel_max))) for band in bands]
    widths[-1] = channels
    condition = channels * (2 * context + 1)

    schedule = []
    for index in range(layers + 1):
        previous = max(index - 1, 0)
        source, target = bands[previous], bands[index]
        is_rgb = index == layers
        kernel = 1 if is_rgb else 3
        inner = max(source.rate, target.rate) * (1 if is_rgb else 2)
        up, down = round(inner / source.rate), round(inner / target.rate)
        up_taps, down_taps = _taps(up, filter_size), _taps(down, filter_size)
        (y0, y1), (x0, x1) = (
            _padding(sizes[index][axis], sizes[previous][axis], kernel, up, down, up_taps + down_taps)
            for axis in (0, 1)
        )
        features = widths[previous] if index > 0 or fourier else 0
        schedule.append(
            SrLayer(
                is_rgb=is_rgb,
                critical=index >= layers - critical,
                kernel=kernel,
                in_channels=features + condition,
                out_channels=widths[index],
                in_size=sizes[previous],
                out_size=sizes[index],
                in_rate=source.rate,
                out_rate=target.rate,
                in_cutoff=source.cutoff,
                out_cutoff=target.cutoff,
                in_half_width=source.half_width,
                out_half_width=target.half_width,
                up=up,
                down=down,
                up_taps=up_taps,
                down_taps=down_taps,
                padding=(x0, x1, y0, y1),
                scale=Fraction(factor, 2**source.halvings),
            )
        )
    return tuple(schedule)


def _padded_size(size: Size, halvings: int, margin: int) -> Size:
    # Exact integers: ceil(side / 2**halvings), and the margin on both sides.
    height, width = (-(-side // 2**halvings) + 2 * margin for side in size)
    return height, width


def low_pass(taps: int, cutoff: float, half_width: float, rate: float, *, radial: bool = False) -> NDArray[np.float64]:
    """A Kaiser low-pass of unit sum: ``[taps]``, or ``[taps, taps]`` if `radial`.

    The radial filter is the ideal circular one (a jinc) under a separable Kaiser window.
    """
    if not radial:
        return kaiser_low_pass(taps, cutoff, 2 * half_width, rate)
    position = (np.arange(taps) - (taps - 1) / 2) / rate
    radius = np.hypot(position[:, None], position[None, :])
    # J1(2 pi fc r) / (pi r), whose limit at r = 0 is fc.
    safe = np.where(radius > 0, radius, 1.0)
    kernel = np.where(radius > 0, j1(2 * np.pi * cutoff * safe) / (np.pi * safe), cutoff)
    window = np.kaiser(taps, kaiser_beta(taps, half_width / (rate / 4)))
    kernel = kernel * window[:, None] * window[None, :]
    return np.asarray(kernel / kernel.sum())


def condition_filter(scale: Fraction, parity: int = 0) -> NDArray[np.float64]:
    """The Kaiser low-pass that resamples low-resolution frames by `scale`, of unit sum.

    It runs at ``scale.numerator`` times the input rate; 6 taps for each unit of the larger
    of numerator and denominator, one more where the number must be odd (`parity` 1).
    """
    larger = max(scale.numerator, scale.denominator)
    taps = TAPS_PER_SCALE * larger + parity
    return kaiser_low_pass(taps, cutoff=1.0, width=6.0, rate=4.0 * larger)
