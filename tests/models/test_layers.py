"""Equalised convolutions, modulation and resampling against SciPy, plain loops and reference vectors."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch
import torch.nn.functional as F
from torch import Tensor

from lvgan.models import layers
from lvgan.models.layers import (
    Convolution,
    FullyConnected,
    MagnitudeEMA,
    convolve,
    crop_time,
    downsample_space,
    downsample_time,
    downsampling_matrix,
    modulated_conv3d,
    normalize_rms,
    one_update,
    resample_space,
    upsample_space,
    upsample_time,
    upsampling_matrix,
)
from tests.helpers import assert_close_to_max


@pytest.fixture(params=["products", "filters"])
def resampling(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either way of resampling by 2, whether or not the compiled operators are loaded."""
    monkeypatch.setattr(layers, "_compiled_filter", lambda x: request.param == "filters")


def test_normalize_rms() -> None:
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    expected = x.numpy() / np.sqrt((x.numpy() ** 2).mean(1, keepdims=True))
    assert_close_to_max(normalize_rms(x), torch.from_numpy(expected))


def test_fully_connected_is_equalised() -> None:
    torch.manual_seed(0)
    layer = FullyConnected(400, 300, activation="lrelu", lr_multiplier=0.01, bias_init=1)
    assert abs(layer.weight.std().item() - 100) < 1  # N(0, 1) / multiplier
    x = torch.randn(20, 400)
    z = x.double() @ layer.weight.double().T * (0.01 / 20) + 1
    assert_close_to_max(layer(x), torch.where(z > 0, z, 0.2 * z) * 2**0.5)


@pytest.mark.parametrize("kernel", [(3,), (1, 3), (5, 3, 3)])
def test_convolve_is_correlation(kernel: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 2, *(7, 6, 5)[: len(kernel)], generator=generator)
    weight = torch.randn(3, 2, *kernel, generator=generator)
    expected = np.stack(
        [
            sum(scipy.ndimage.correlate(x[0, i].numpy(), weight[o, i].numpy(), mode="constant") for i in (0, 1))
            for o in range(3)
        ]
    )
    assert_close_to_max(convolve(x, weight)[0], torch.from_numpy(expected))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02), (torch.float16, 0.003)], ids=str
)
@pytest.mark.parametrize("kernel", [(5, 3, 3), (3, 3, 3)], ids=str)
@pytest.mark.parametrize("frames", range(1, 6))
def test_gradients_of_clips_shorter_than_the_kernel(
    frames: int, kernel: tuple[int, int, int], dtype: torch.dtype, tolerance: float
) -> None:
    """Against torch in float64, in memory that held something else before."""
    padding = [size // 2 for size in kernel]
    for seed in range(10):
        torch.manual_seed(seed)
        inputs = [torch.randn(4, 16, frames, 4, 4), torch.randn(24, 16, *kernel), torch.randn(4, 24, frames, 4, 4)]
        x, weight, upstream = (value.to(dtype) for value in inputs)
        torch.full((1 + seed % 7, 50_000), torch.nan)  # freed at once
        x, weight = x.requires_grad_(), weight.requires_grad_()
        ours = torch.autograd.grad((convolve(x, weight),), (x, weight), upstream)
        x, weight = x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
        expected = torch.autograd.grad(F.conv3d(x, weight, padding=padding), (x, weight), upstream.double())
        for one, other in zip(ours, expected, strict=True):
            assert_close_to_max(one.double(), other, tolerance)


def test_convolution_keeps_the_variance_of_white_noise() -> None:
    torch.manual_seed(0)
    layer = Convolution(16, 32, (5, 3, 3))
    y = layer(torch.randn(1, 16, 20, 20, 20))[..., 2:-2, 1:-1, 1:-1]
    assert abs(y.var().item() - 1) < 0.05


def test_convolution_scales_before_clamping() -> None:
    layer = Convolution(1, 1, (1,), clamp=0.75)
    torch.nn.init.ones_(layer.weight)
    y = layer(torch.tensor([[[-2.0, 0.5, 2.0]]]), gain=0.5)
    assert y.flatten().tolist() == [-0.75, 0.25, 0.75]


def test_modulation_equals_one_convolution_per_frame() -> None:
    """With a kernel of one frame, a frame's output is a plain convolution with modulated weights."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 4, 3, 5, 5, generator=generator, dtype=torch.float64)
    weight = torch.randn(6, 4, 1, 3, 3, generator=generator, dtype=torch.float64)
    style = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    y = modulated_conv3d(x, weight, style, input_gain=0.7, output_gain=2.0)
    for n in range(2):
        for t in range(3):
            modulated = weight[:, :, 0] * style[n, t][None, :, None, None]
            demodulated = modulated / modulated.square().sum((1, 2, 3), keepdim=True).sqrt()
            expected = 2 * F.conv2d(0.7 * x[n : n + 1, :, t], demodulated, padding=1)
            torch.testing.assert_close(y[n : n + 1, :, t], expected)
    shifted = modulated_conv3d(x, weight, style, input_gain=0.7, output_gain=2.0, add=torch.ones_like(y))
    torch.testing.assert_close(shifted, y + 1)


def test_modulation_survives_half_precision_range() -> None:
    x = torch.ones(1, 4, 2, 3, 3, dtype=torch.bfloat16)
    y = modulated_conv3d(x, torch.full((2, 4, 1, 1, 1), 1e6), torch.full((1, 2, 4), 1e6))
    torch.testing.assert_close(y, torch.full_like(y, 2.0))  # 4 inputs of 1 / sqrt(4) each


@pytest.mark.parametrize(("size", "out"), [(4, 8), (3, 5), (5, 9), (4, 7), (1, 1), (1, 2)])
def test_upsampling_matrix_is_zero_insertion_and_a_filter(size: int, out: int) -> None:
    x = np.random.default_rng(0).standard_normal(size)
    stuffed = np.zeros(2 * size)
    stuffed[::2] = x
    full = scipy.signal.convolve(stuffed, [0.25, 0.75, 0.75, 0.25])[1 : 1 + 2 * size]
    start = (2 * size - out) // 2
    np.testing.assert_allclose(upsampling_matrix(size, out).numpy() @ x, full[start : start + out], atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 5, 8, 9])
@pytest.mark.usefixtures("resampling")
def test_downsampling_is_a_filter_and_every_second_sample(size: int) -> None:
    x = torch.randn(2, 3, size, generator=torch.Generator().manual_seed(3))
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 2)))
    expected = torch.from_numpy(
        np.stack([padded[..., i : i + 4] @ (np.array([1, 3, 3, 1]) / 8) for i in range(0, size, 2)], -1)
    ).float()
    assert_close_to_max(x @ downsampling_matrix(size).T, expected)
    assert_close_to_max(downsample_time(x), expected)


@pytest.mark.parametrize(("total", "frames"), [(6, 12), (6, 8), (7, 9), (7, 3), (26, 35), (17, 17), (5, 1), (1, 1)])
@pytest.mark.usefixtures("resampling")
def test_upsample_time_is_the_matrix(total: int, frames: int) -> None:
    x = torch.randn(2, 3, total, 2, 2, generator=torch.Generator().manual_seed(4))
    expected = torch.einsum("nctab,st->ncsab", x, upsampling_matrix(total, frames))
    assert_close_to_max(upsample_time(x, frames), expected)


@pytest.mark.usefixtures("resampling")
def test_golden_temporal_linear(golden) -> None:  # type: ignore[no-untyped-def]
    data = golden("lres_temporal_linear_up").tensors
    assert_close_to_max(upsample_time(data["in/x"]), data["out/y"])
    data = golden("lres_temporal_linear_up_3d_pad").tensors  # edges repeated, then cropped away
    padded = F.pad(data["in/x"], (1, 1), mode="replicate")
    assert_close_to_max(upsample_time(padded, 14), data["out/y"])
    data = golden("lres_temporal_linear_down").tensors
    assert_close_to_max(downsample_time(data["in/x"])[:, :, :4], data["out/y"])


def test_golden_spatial_bilinear(golden) -> None:  # type: ignore[no-untyped-def]
    data = golden("lres_spatial_bilinear_up").tensors
    y = resample_space(data["in/x"], upsampling_matrix(5, 10), upsampling_matrix(4, 8))
    assert_close_to_max(y, data["out/y"])


def test_golden_downsample3d(golden) -> None:  # type: ignore[no-untyped-def]
    data = golden("lresD_downsample3d").tensors
    y = resample_space(data["in/x"], downsampling_matrix(6), downsampling_matrix(8))
    assert_close_to_max(downsample_time(y), data["out/y"])


@pytest.mark.parametrize("case", [0, 1, 2])
def test_golden_modulated_conv3d(golden, case: int) -> None:  # type: ignore[no-untyped-def]
    file = golden(f"lres_modconv3d_{case}")
    x, weight, style = (file.tensors[f"in/{k}"].requires_grad_() for k in ("x", "weight", "style"))
    gain = file.call["input_gain"] or 1.0
    if not file.call["demodulate"]:
        gain /= weight[0].numel() ** 0.5  # the equalised gain, which demodulation cancels
    y = modulated_conv3d(x, weight, style.transpose(1, 2), demodulate=file.call["demodulate"], input_gain=gain)
    assert_close_to_max(y, file.tensors["out/y"])
    grads = torch.autograd.grad(y, (x, weight, style), file.tensors["grad_out"])
    for name, grad in zip(("x", "weight", "style"), grads, strict=True):
        assert_close_to_max(grad, file.tensors[f"grad/{name}"])


def test_golden_magnitude_ema(golden) -> None:  # type: ignore[no-untyped-def]
    file = golden("lres_magnitude_ema")
    layer = MagnitudeEMA(decay=file.call["beta"])
    means: list[Tensor] = []
    gains: list[Tensor] = []
    for i in range(4):
        gains.append(layer.gain(file.tensors[f"in/{i}"], update=True))
        means.append(layer.mean_square.clone())
    assert_close_to_max(torch.stack(means), file.tensors["out/ema"])
    assert_close_to_max(torch.stack(gains), file.tensors["out/gain"])


@pytest.mark.parametrize("shape", [(6, 3, 5), (2, 4, 30, 64, 64), (1, 2), (2, 3, 4, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_mean_square_is_that_of_float64(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = (3 * torch.randn(shape, generator=torch.Generator().manual_seed(5))).to(dtype)
    for view in (x, x[:, 1:], x.transpose(0, 1)):
        expected = float(np.square(view.double().numpy()).mean())
        assert layers.mean_square(view).dtype == torch.float32
        assert layers.mean_square(view).item() == pytest.approx(expected, rel=2e-6)


def test_crop_time_rounds_towards_the_start() -> None:
    assert crop_time(torch.arange(7)[None, None], 4).flatten().tolist() == [1, 2, 3, 4]


def test_one_update_does_not_depend_on_how_a_batch_is_cut() -> None:
    x = torch.randn(6, 3, 5, dtype=torch.float64)
    expected = 0.9 * 4.0 + 0.1 * x.square().mean()

    def moved(*cuts: slice, ranks: int = 1) -> torch.Tensor:
        layer = MagnitudeEMA(decay=0.9)
        layer.mean_square.fill_(4.0)
        with one_update(layer, lambda seen: seen * ranks):  # as if every process had seen the same
            for cut in cuts:
                torch.testing.assert_close(layer(x[cut], True), x[cut] / 2)  # the value from before
        return layer.mean_square

    for cuts in ([slice(6)], [slice(4), slice(4, 6)], [slice(i, i + 1) for i in range(6)]):
        torch.testing.assert_close(moved(*cuts), expected.float())
    torch.testing.assert_close(moved(slice(6), ranks=3), expected.float())


def test_one_update_moves_nothing_after_an_error() -> None:
    layer = MagnitudeEMA()
    with contextlib.suppress(KeyError), one_update(layer):
        layer(torch.randn(4, 2), True)
        raise KeyError
    assert layer.mean_square == 1
    layer(torch.full((4, 2), 2.0), True)  # outside: at once
    assert layer.mean_square == pytest.approx(1 + 0.001 * 3)
    assert list(layer.state_dict()) == ["mean_square"]


@pytest.mark.usefixtures("resampling")
@pytest.mark.parametrize("size", [(8, 8), (48, 64), (49, 51), (64, 47)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_filters_and_products_resample_alike(size: tuple[int, int], dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 2, *size, generator=torch.Generator().manual_seed(0)).to(dtype)
    halves = [downsampling_matrix(side) for side in size]
    small = downsample_space(x, *halves)
    tolerance = 1e-6 if dtype == torch.float32 else 0.02
    assert small.dtype == dtype
    assert_close_to_max(small, resample_space(x.float(), *halves), tolerance)
    # Upsampled to an odd size, one less than twice.
    doubles = [upsampling_matrix(-(-side // 2), side) for side in size]
    assert_close_to_max(upsample_space(small, *doubles), resample_space(small.float(), *doubles), tolerance)
