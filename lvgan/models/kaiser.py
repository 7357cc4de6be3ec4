"""Low-pass filters by the Kaiser window, the same as ``scipy.signal.firwin``'s.

That would be the library to use, but importing it takes half a second of every command (measured).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def kaiser_beta(taps: int, width: float) -> float:
    """The window's shape for a transition `width` (1: the Nyquist rate): Kaiser's formulas of 1974."""
    attenuation = 2.285 * (taps - 1) * math.pi * width + 7.95  # dB
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    if attenuation > 21:
        return 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    return 0.0


def kaiser_low_pass(taps: int, cutoff: float, width: float, rate: float) -> NDArray[np.float64]:
    """A filter of `taps` taps with gain 1 at 0, float64 [taps].

    `cutoff` and `width`, the transition around it, are in the units of the sampling `rate`.
    """
    nyquist = rate / 2
    t = np.arange(taps) - (taps - 1) / 2
    h = np.sinc(cutoff / nyquist * t) * np.kaiser(taps, kaiser_beta(taps, width / nyquist))
    return np.asarray(h / h.sum())
