"""The antialiased warp and the band filter against SciPy in float64, and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch
import torch.nn.functional as F
from torch import Tensor

from lvgan.augment.band_filter import band_filters, filter_bands
from lvgan.augment.warp import SYM6, _Sample, affine_warp
from tests.conftest import Golden
from tests.helpers import assert_close_to_max


def matrix(a: float, b: float, x: float, c: float, d: float, y: float) -> Tensor:
    return torch.tensor([[a, b, x], [c, d, y], [0, 0, 1]], dtype=torch.double)


def scipy_warp(picture: np.ndarray, m: np.ndarray) -> np.ndarray:
    """One frame [H, W], mirrored as far as it goes, doubled, sampled and halved step by step."""
    H, W = picture.shape
    h = np.array(SYM6) / np.sum(SYM6)
    x = np.pad(picture, ((H - 1, H - 1), (W - 1, W - 1)), mode="reflect")
    for axis in range(2):
        x = scipy.signal.upfirdn(2 * h, x, up=2, axis=axis)
        x = np.take(x, np.arange(5, 5 + 2 * (3 * (H, W)[axis] - 2)), axis=axis)
    rows, columns = (np.arange(-5, 2 * side + 5) / 2 + 0.5 - side / 2 for side in (H, W))
    places = np.stack([*np.meshgrid(columns, rows), np.ones((2 * H + 10, 2 * W + 10))])
    u, v, _ = np.einsum("ij,jyx->iyx", m, places)
    index = np.stack([2 * (v + H / 2 + H - 1) - 1, 2 * (u + W / 2 + W - 1) - 1])
    x = scipy.ndimage.map_coordinates(x, index, order=1, mode="grid-constant")
    x = sum(h[j] * x[j : j + 2 * H : 2] for j in range(12))
    return sum(h[j] * x[:, j : j + 2 * W : 2] for j in range(12))


@pytest.mark.parametrize(
    "m",
    [
        matrix(-1, 0, 0, 0, 1, 0),
        matrix(0, -1, 0, 1, 0, 0),
        matrix(0.9, 0.3, 1.7, -0.2, 1.1, -2.4),
        matrix(1.6, 0.1, 0, 0, 1.7, 3),
        matrix(0.4, 0, 0, 0, 0.3, 0),
        matrix(2.5, 1.3, 6, -1.5, 2.2, -5),  # sees beyond the mirrored picture
    ],
)
def test_equals_scipy(m: Tensor) -> None:
    clip = torch.randn(2, 2, 9, 14, dtype=torch.double)
    y = affine_warp(clip, m)
    for c in range(2):
        for t in range(2):
            expected = torch.from_numpy(scipy_warp(clip[c, t].numpy(), m.numpy()))
            # The filter's taps are float32.
            assert_close_to_max(y[c, t], expected, tol=1e-6)


def test_wavelet_is_sym6() -> None:
    """Orthonormal, six vanishing moments: with its near symmetry that is the sym6 wavelet."""
    h = np.array(SYM6)
    for shift in range(6):
        assert abs(np.dot(h[2 * shift :], h[: 12 - 2 * shift]) - (shift == 0)) < 1e-10
    alternating = h * (-1.0) ** np.arange(12)
    for moment in range(6):
        assert abs(np.dot(alternating, (np.arange(12) - 5.0) ** moment)) < 1e-6


@pytest.mark.parametrize("size", [(8, 8), (7, 12), (4, 5)])
def test_identity_gives_the_clip_back(size: tuple[int, int]) -> None:
    clip = torch.randn(4, 2, *size)
    assert_close_to_max(affine_warp(clip, torch.eye(3)), clip, tol=5e-6)


def test_integer_shift_is_exact() -> None:
    clip = torch.randn(3, 2, 10, 15)
    y = affine_warp(clip, matrix(1, 0, -3, 0, 1, 2))  # to the right by 3, up by 2
    assert_close_to_max(y[..., :8, 3:], clip[..., 2:, :12], tol=5e-6)
    mirrored = F.pad(clip, (3, 0, 0, 2), mode="reflect")
    assert_close_to_max(y, mirrored[..., 2:, :15], tol=5e-6)


def smooth_clip(H: int, W: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    wave = torch.cos(math.pi * 2 * x / W) + 0.5 * torch.cos(math.pi * 3 * y / H) * torch.cos(math.pi * x / W)
    return wave[None, None]


def test_flip_and_quarter_turn_of_a_smooth_picture() -> None:
    """The wavelet is a little lopsided: flips and turns move the picture by a tenth of a pixel."""
    clip = smooth_clip(48, 64)
    steepest = max(clip.diff(dim=-1).abs().max().item(), clip.diff(dim=-2).abs().max().item())
    flipped = affine_warp(clip, matrix(-1, 0, 0, 0, 1, 0))
    assert (flipped - clip.flip(-1)).abs().max() < 0.12 * steepest
    square = clip[..., 8:56]
    # x right, y down: the output's place (x, y) shows the input's (y, -x), a turn to the right.
    turned = affine_warp(square, matrix(0, 1, 0, -1, 0, 0))
    assert (turned - square.rot90(-1, (-2, -1))).abs().max() < 0.24 * steepest


def test_gradients_of_both_orders() -> None:
    clip = torch.randn(1, 2, 3, 4, dtype=torch.double, requires_grad=True)
    m = matrix(0.9, 0.3, 0.7, -0.2, 1.1, -0.4)
    assert torch.autograd.gradcheck(lambda x: affine_warp(x, m), clip)
    assert torch.autograd.gradgradcheck(lambda x: affine_warp(x, m), clip)


def test_second_gradient_through_a_curved_function() -> None:
    """As in R1: the gradient's norm is differentiated with respect to a network's weight."""
    clip = torch.randn(1, 2, 6, 5, dtype=torch.double)
    m = matrix(0.9, 0.3, 0.7, -0.2, 1.1, -0.4)

    def penalty(weight: Tensor) -> Tensor:
        x = clip.clone().requires_grad_()
        score = (affine_warp(x, m) * weight).tanh().sum()
        return torch.autograd.grad(score, x, create_graph=True)[0].square().sum()

    weight = torch.randn_like(clip).requires_grad_()
    assert torch.autograd.gradcheck(penalty, weight)


def test_sampling_is_its_transposes_transpose() -> None:
    image = torch.randn(1, 2, 5, 6, dtype=torch.double, requires_grad=True)
    grid = torch.rand(1, 3, 4, 2, dtype=torch.double) * 2.4 - 1.2
    sampled = _Sample.apply(image, grid)
    assert torch.equal(sampled, F.grid_sample(image, grid, align_corners=False))
    weights = torch.randn_like(sampled).requires_grad_()
    (transposed,) = torch.autograd.grad(sampled, image, weights, create_graph=True)
    torch.testing.assert_close((transposed * image).sum(), (sampled * weights).sum())
    (again,) = torch.autograd.grad((transposed * image.detach()).sum(), weights)
    torch.testing.assert_close(again, sampled)


def test_golden_constants(golden: Golden) -> None:
    state = golden("ada_constants").group("state")
    taps = torch.tensor(SYM6)
    assert_close_to_max(taps / taps.sum(), state["Hz_geom"])
    assert_close_to_max(band_filters(), state["Hz_fbank"])


def test_bands_lie_in_their_octaves_and_sum_to_one() -> None:
    filters = band_filters().numpy()
    impulse = np.zeros(43)
    impulse[21] = 1
    np.testing.assert_allclose(filters.sum(0), impulse, atol=1e-12)
    frequency = np.array([0, 3 / 16, 3 / 8, 3 / 4]) * math.pi  # inside each band
    for band in range(4):
        response = [abs(scipy.signal.freqz(filters[band], worN=[f])[1][0]) for f in frequency]
        assert int(np.argmax(response)) == band
        assert response[band] > 0.7


@pytest.mark.parametrize("size", [(25, 30), (5, 9), (1, 2)])
def test_band_filter_equals_scipy(size: tuple[int, int]) -> None:
    """On clips of several frames; also where a frame is smaller than the filter."""
    clip = torch.randn(2, 3, *size, dtype=torch.double)
    gains = torch.tensor([0.5, 2.0, 1.0, 3.0])
    taps = gains.double().numpy() @ band_filters().numpy()
    expected = clip.numpy()
    for axis in (-2, -1):
        expected = scipy.ndimage.convolve1d(expected, taps, axis=axis, mode="mirror")
    assert_close_to_max(filter_bands(clip, gains), torch.from_numpy(expected), tol=1e-10)


def test_wrong_shapes() -> None:
    with pytest.raises(ValueError, match="clip has 5 axes"):
        affine_warp(torch.zeros(1, 1, 1, 4, 4), torch.eye(3))
    with pytest.raises(ValueError, match="matrix has shape"):
        affine_warp(torch.zeros(1, 1, 4, 4), torch.eye(2))
