"""Frame-addressable noise and the low-pass bank."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from lvgan.errors import ConfigError
from lvgan.models.noise import LowPassBank, correlate_fft, frame_noise, low_pass_filters
from tests.helpers import assert_close_to_max


@pytest.mark.parametrize("start", [0, -1000, 10**9, -(2**62), 2**62 - 999])
def test_noise_does_not_depend_on_how_it_is_cut(start: int) -> None:
    whole = frame_noise(7, start, 1000)
    parts = [frame_noise(7, start + a, b - a) for a, b in ((0, 1), (1, 4), (4, 500), (500, 500), (500, 1000))]
    assert torch.equal(torch.cat(parts, 1), whole)
    assert whole.dtype == torch.float32
    assert whole.shape == (8, 1000)


def test_noise_of_a_channel_does_not_depend_on_the_others() -> None:
    assert torch.equal(frame_noise(3, -5, 20, channels=11)[:6], frame_noise(3, -5, 20, channels=6))


def test_noise_is_pinned() -> None:
    """Videos are addressed by seed: these numbers may never change."""
    words = np.random.Philox(key=5, counter=2**63 + 3).random_raw(4)
    expected = scipy.stats.norm.ppf((words // 4096 + 0.5) / 2**52)
    np.testing.assert_allclose(frame_noise(5, 3, 1, 4)[:, 0], expected, rtol=1e-6)
    pinned = [[0.3974936902523041, -1.0140923261642456], [-0.4140693247318268, -0.14309360086917877]]
    np.testing.assert_allclose(frame_noise(0, -1, 2, 2).numpy(), pinned, rtol=1e-6)


def test_noise_is_normal() -> None:
    noise = frame_noise(11, -30000, 60000, 8).double()
    assert noise.mean(1).abs().max() < 5 / 60000**0.5
    assert (noise.var(1) - 1).abs().max() < 5 * (2 / 60000) ** 0.5
    assert scipy.stats.kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3


def test_noise_is_independent_between_frames_channels_and_seeds() -> None:
    count = 20000
    rows = [frame_noise(seed, start, count) for seed, start in ((1, 0), (1, 1), (2, 0), (2**63, 0), (1, 2**40))]
    flat = torch.cat(rows).double()
    correlation = torch.corrcoef(flat) - torch.eye(len(flat), dtype=torch.float64)
    assert correlation.abs().max() < 6 / count**0.5
    assert len({frame_noise(seed, 0, 1).numpy().tobytes() for seed in (0, 1, 2**32, 2**64 - 1)}) == 4


@pytest.mark.parametrize(("seed", "start", "count"), [(-1, 0, 1), (2**64, 0, 1), (0, -(2**63), 1), (0, 2**63 - 1, 2)])
def test_noise_refuses_what_it_cannot_address(seed: int, start: int, count: int) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        frame_noise(seed, start, count)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bank_is_direct_correlation(dtype: torch.dtype) -> None:
    bank = LowPassBank(3, 7, 5, 40)
    noise = torch.randn(2, 3, 30 + bank.taps - 1, generator=torch.Generator().manual_seed(0), dtype=dtype)
    out = bank(noise)
    assert out.shape == (2, bank.channels, 30)
    assert out.dtype == dtype
    windows = noise.double().unfold(2, bank.taps, 1)  # [N, C, T, K]
    expected = torch.einsum("nctk,fk->ncft", windows, bank.filters.double()).flatten(1, 2)
    assert_close_to_max(out, expected, 1e-5 if dtype == torch.float32 else 1e-12)


def test_bank_ends_on_the_newest_frame_with_unit_energy() -> None:
    bank = LowPassBank(8, 128, 100, 5000)
    assert (bank.taps, bank.channels) == (5000, 1024)
    assert bank.filters[0].nonzero().min() == 5000 - 100
    assert bank.filters[:, -1].abs().min() > 0
    torch.testing.assert_close(bank.filters.double().square().sum(1), torch.ones(128).double())


def test_bank_of_one_filter() -> None:
    assert LowPassBank(1, 1, 30, 60).taps == 30


@pytest.mark.parametrize(("low", "high"), [(2, 50), (60, 50)])
def test_bank_refuses_impossible_footprints(low: int, high: int) -> None:
    with pytest.raises(ConfigError, match="footprint_min <= footprint_max"):
        LowPassBank(8, 4, low, high)


def test_golden_bank_released(golden) -> None:  # type: ignore[no-untyped-def]
    data = golden("lres_blurred_noise_default").tensors
    bank = LowPassBank(8, 128, 125, 5000)
    assert torch.equal(bank.taps - data["first_nonzero"], data["num_taps"])
    assert torch.equal((bank.filters != 0).to(torch.int8).argmax(1), data["first_nonzero"])
    rows = bank.filters / data["output_scale"][0]
    for index, taps in ((0, 125), (64, 803), (127, 5000)):
        assert_close_to_max(rows[index, -taps:], data[f"filter_idx{index}"])
    assert_close_to_max(rows[:, -32:], data["last32"])
    assert_close_to_max(rows.double().sum(1), data["filter_sum"])
    assert_close_to_max(bank(data["noise"]), data["out"])


def test_golden_bank_small(golden) -> None:  # type: ignore[no-untyped-def]
    data = golden("lres_blurred_noise_small").tensors
    rates = np.geomspace(50, 400, 16)
    rates[[5, 10]] += 1e-5  # 100 and 200: the reference's rounding errors give them a tap more
    rows, scale = low_pass_filters(rates), data["state/output_scale"][0]
    assert_close_to_max(rows, data["state/blur_filters"][:, 0])
    assert_close_to_max(rows.double().square().sum(1, keepdim=True).rsqrt(), scale)
    out = correlate_fft(data["noise"].flatten(0, 1), rows * scale)
    assert_close_to_max(out.reshape(data["out"].shape), data["out"])


def test_golden_bank_linear_half(golden) -> None:  # type: ignore[no-untyped-def]
    """Rates evenly spaced, and half way to unit energy: neither is a setting of ours."""
    data = golden("lres_blurred_noise_linear_half").tensors
    rows = low_pass_filters(np.linspace(50, 400, 16))
    assert_close_to_max(rows, data["state/blur_filters"][:, 0])
    scale = 0.5 + 0.5 * data["state/output_scale"][0]
    assert_close_to_max(correlate_fft(data["noise"][0], rows * scale).flatten(0, 1)[None], data["out"])
