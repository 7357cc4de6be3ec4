"""A bank of four octave bands, and its use as a random equaliser of pictures.

Source: Karras et al. 2020, "Training generative adversarial networks with limited data",
appendix B (image-space filtering); the bands come from the Daubechies wavelet with two
vanishing moments, autocorrelated so that they are symmetric and sum to the identity.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

# The wavelet's low-pass filter times its own reverse, halved: a half-band filter.
HALF_BAND = (-1 / 32, 0.0, 9 / 32, 1 / 2, 9 / 32, 0.0, -1 / 32)
BANDS = 4


@functools.cache
def band_filters() -> Tensor:
    """Taps [4, 43], lowest band first, float64; the rows sum to a unit impulse."""
    low = torch.tensor(HALF_BAND, dtype=torch.float64)
    high = -low
    high[3] = 0.5  # 1 - low: the other half of the spectrum
    bands = []
    passed = torch.ones(1, dtype=torch.float64)  # what the octaves so far leave of the spectrum
    for octave in range(BANDS - 1):
        bands.append(_convolve(passed, _spread(high, 2**octave)))
        passed = _convolve(passed, _spread(low, 2**octave))
    bands.append(passed)
    length = passed.numel()
    padded = [F.pad(b, [(length - b.numel()) // 2] * 2) for b in bands]
    return torch.stack(padded[::-1])


def _spread(taps: Tensor, factor: int) -> Tensor:
    """`factor` - 1 zeros between the taps."""
    spread = taps.new_zeros((taps.numel() - 1) * factor + 1)
    spread[::factor] = taps
    return spread


def _convolve(a: Tensor, b: Tensor) -> Tensor:
    return F.conv1d(a[None, None], b.flip(0)[None, None], padding=b.numel() - 1)[0, 0]


def filter_bands(clip: Tensor, gains: Tensor) -> Tensor:
    """Scale the octave bands of every frame of one `clip` [C, T, H, W] by `gains` [4]; same shape.

    Bands lie from low to high. The picture is mirrored at its edges, as often as it takes where
    a frame is smaller than the filter.
    """
    H, W = clip.shape[-2:]
    taps = (gains.cpu().double() @ band_filters()).to(clip)  # [43]
    reach = taps.numel() // 2
    x = clip[..., _mirrored(H, reach, clip.device), :][..., _mirrored(W, reach, clip.device)]
    x = F.conv2d(x.flatten(0, 1)[:, None], taps[None, None, None, :])
    x = F.conv2d(x, taps[None, None, :, None])
    return x.view(clip.shape)


def _mirrored(side: int, reach: int, device: torch.device) -> Tensor:
    """Indices -reach … side + reach - 1, mirrored about the first and the last place."""
    if side == 1:
        return torch.zeros(2 * reach + 1, dtype=torch.long, device=device)
    place = torch.arange(-reach, side + reach, device=device) % (2 * side - 2)
    return torch.minimum(place, 2 * side - 2 - place)
