"""Kaiser filters against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import signal

from lvgan.models.kaiser import kaiser_beta, kaiser_low_pass


@pytest.mark.parametrize(
    ("taps", "cutoff", "width", "rate"),
    [(100, 2, 12, 200), (125, 2, 12, 250), (5000, 2, 12, 10_000), (1333, 2, 12, 2665.3), (12, 1, 6, 8), (13, 1, 6, 8),
     (24, 1, 6, 16), (7, 30.5, 9, 64), (2, 0.1, 0.01, 64)],
)  # fmt: skip
def test_low_pass_is_firwin(taps: int, cutoff: float, width: float, rate: float) -> None:
    expected = signal.firwin(taps, cutoff=cutoff, width=width, fs=rate)
    np.testing.assert_allclose(kaiser_low_pass(taps, cutoff, width, rate), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("width", [1e-4, 0.01, 0.03, 0.1, 0.5, 1.0])
def test_beta_in_all_three_ranges(width: float) -> None:
    expected = signal.kaiser_beta(signal.kaiser_atten(40, width))
    assert kaiser_beta(40, width) == pytest.approx(expected, rel=1e-14)
