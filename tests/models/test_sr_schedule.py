"""The layer schedule of the super-resolution generator."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from lvgan.errors import ConfigError
from lvgan.models.sr_schedule import condition_filter, low_pass, sr_schedule

PAIRS = {
    "hr256x256_lr64x64": ((256, 256), (64, 64)),
    "hr144x256_lr36x64": ((144, 256), (36, 64)),
    "hr64x64_lr16x16": ((64, 64), (16, 16)),
    "hr36x64_lr9x16": ((36, 64), (9, 16)),
}
SCALES = {
    "KaiserUpsample": lambda s: Fraction(s),
    "KaiserDownsample": lambda s: Fraction(1, s),
    "Identity": Fraction,
}


@pytest.mark.parametrize("pair", PAIRS)
def test_golden_schedule(golden: Any, pair: str) -> None:
    expected = golden.json("sres_schedule")[pair]["layers"]
    schedule = sr_schedule(*PAIRS[pair])
    assert len(schedule) == len(expected)
    for layer, wanted in zip(schedule, expected, strict=True):
        for ours, theirs in {
            "in_channels": "in_channels",
            "out_channels": "out_channels",
            "up": "up_factor",
            "down": "down_factor",
            "up_taps": "up_taps",
            "down_taps": "down_taps",
            "kernel": "conv_kernel",
            "is_rgb": "is_torgb",
            "critical": "is_critically_sampled",
            "in_rate": "in_sampling_rate",
            "out_rate": "out_sampling_rate",
            "inner_rate": "tmp_sampling_rate",
        }.items():
            assert getattr(layer, ours) == wanted[theirs], (wanted["name"], ours)
        for name in ("in_cutoff", "out_cutoff", "in_half_width", "out_half_width"):
            assert getattr(layer, name) == pytest.approx(wanted[name], rel=1e-12)
        assert list(layer.in_size) == wanted["in_size"][::-1]  # theirs are [width, height]
        assert list(layer.out_size) == wanted["out_size"][::-1]
        assert list(layer.padding) == wanted["padding"]
        assert layer.scale == SCALES[wanted["cond_resample"]](wanted["cond_scale"])
        for side, edge in (("up", "in"), ("down", "out")):
            if wanted[f"{side}_filter"] is None:
                continue
            taps = low_pass(
                getattr(layer, f"{side}_taps"),
                getattr(layer, f"{edge}_cutoff"),
                getattr(layer, f"{edge}_half_width"),
                layer.inner_rate,
            )
            np.testing.assert_allclose(taps, wanted[f"{side}_filter"], rtol=0, atol=2e-8)
        if wanted["cond_filter"] is not None:
            np.testing.assert_allclose(condition_filter(layer.scale), wanted["cond_filter"], rtol=0, atol=2e-8)


@pytest.mark.parametrize(
    ("size", "lr_size"),
    [
        ((192, 192), (64, 64)),
        ((180, 320), (45, 80)),
        ((96, 54), (32, 18)),
        ((100, 60), (25, 15)),
        ((50, 50), (50, 50)),
    ],
)
def test_general_sizes_stay_consistent(size: tuple[int, int], lr_size: tuple[int, int]) -> None:
    schedule = sr_schedule(size, lr_size, layers=8)
    long = max(size)
    for layer in schedule:
        assert layer.scale == Fraction(layer.in_rate).limit_denominator(4096) / max(lr_size)
        assert layer.in_rate * layer.up == layer.out_rate * layer.down
        stopband = layer.out_cutoff + layer.out_half_width
        # No smaller rate of the ladder would hold the stopband's first two octaves.
        assert layer.out_rate == long or layer.out_rate / 2 < 2 * stopband
        for axis, (low, high) in enumerate((layer.padding[2:], layer.padding[:2])):
            inner = (layer.in_size[axis] + layer.kernel - 1) * layer.up + low + high
            inner -= layer.up_taps + layer.down_taps - 2
            assert (inner - 1) // layer.down + 1 == layer.out_size[axis]
    assert schedule[-1].out_size == schedule[-2].out_size == size


def test_radial_filter_is_circular_low_pass() -> None:
    taps = low_pass(48, 4.0, 2.0, 32.0, radial=True)
    response = np.abs(np.fft.fft2(taps, (256, 256)))
    frequency = np.fft.fftfreq(256, 1 / 32.0)
    radius = np.hypot(frequency[:, None], frequency[None, :])
    assert response[radius < 2].min() > 0.9
    assert response[radius > 7].max() < 0.02
    np.testing.assert_allclose(taps, taps.T, atol=1e-15)


@pytest.mark.parametrize(
    ("size", "lr_size", "message"),
    [
        ((100, 100), (32, 32), "96x96"),
        ((128, 256), (64, 64), "192x192"),
        ((32, 32), (64, 64), "64x64"),
        ((8, 8), (4, 4), "at least 16"),
    ],
)
def test_illegal_sizes_name_a_remedy(size: tuple[int, int], lr_size: tuple[int, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sr_schedule(size, lr_size)


def test_impossible_layer_counts() -> None:
    with pytest.raises(ConfigError, match="layers > critical"):
        sr_schedule((64, 64), (16, 16), layers=2)
