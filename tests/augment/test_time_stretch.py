"""Time stretching against the golden vectors, torch's interpolation and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from lvgan.augment.time_stretch import random_time_stretch, time_stretch
from tests.conftest import Golden
from tests.helpers import assert_close_to_max


def test_golden(golden: Golden) -> None:
    file = golden("temporal_stretch")
    rand = file.group("rand")
    draws = torch.stack([rand[key].double() for key in sorted(rand)]).view(10, 3)
    y = time_stretch(file.tensors["in/x"], draws[:, 0], draws[:, 1] - draws[:, 2])
    assert_close_to_max(y, file.tensors["out/y"])


def test_equals_interpolation_then_padding_or_cropping() -> None:
    x = torch.randn(4, 2, 12, 3, 2)
    log2_factor = torch.tensor([-0.9, 0.37, 0.0, 1.0])
    start = torch.tensor([4, -3, 2, -12])
    y = time_stretch(x, log2_factor, start)
    for n in range(4):
        rows = x[n].permute(0, 2, 3, 1).flatten(0, 2)[None]
        long = F.interpolate(rows, scale_factor=2 ** log2_factor[n].item(), mode="linear")
        placed = F.pad(long, (12, 12))[..., 12 - int(start[n]) :][..., :12]
        assert_close_to_max(y[n], placed.view(2, 3, 2, 12).permute(0, 3, 1, 2))


def test_a_ramp_keeps_its_pace() -> None:
    frames = torch.arange(32.0)
    x = frames.view(1, 1, 32, 1, 1)
    y = time_stretch(x, torch.tensor([math.log2(1.25)]), torch.tensor([0])).flatten()
    torch.testing.assert_close(y[1:], (frames[1:] + 0.5) / 1.25 - 0.5)


def test_factor_one_is_exact() -> None:
    x = torch.randn(3, 4, 7, 2, 3)
    assert torch.equal(random_time_stretch(x, torch.Generator().manual_seed(0), max_log2=0), x)


def test_draws_have_the_asked_distribution() -> None:
    ones = torch.ones(3000, 1, 16, 1, 1)
    shown = random_time_stretch(ones, torch.Generator().manual_seed(5)).flatten(1)
    lengths = shown.sum(1)
    assert (shown * (1 - shown)).abs().max() < 1e-6
    # 2^U(-1, 1) times 16 frames: half of the clips are shortened, none below 8 frames.
    assert lengths.min() == 8
    assert abs((lengths < 16).float().mean().item() - 0.5) < 0.04
    shortest = shown[lengths == 8]
    begins = shortest.argmax(1)
    assert begins.unique().tolist() == list(range(9))  # at every offset


def test_crops_begin_anywhere() -> None:
    clip = torch.arange(1.0, 17).view(1, 1, 16, 1, 1).expand(3000, -1, -1, -1, -1)
    y = random_time_stretch(clip, torch.Generator().manual_seed(6)).flatten(1)
    long = y[(y > 0).all(1)]
    assert (long[:, 0] == 1).any()
    assert (long[:, 0] > 8).any()
    assert (long[:, -1] == 16).any()


def test_seeded_and_alike_over_pixels() -> None:
    x = torch.randn(3, 2, 9, 1, 1).expand(-1, -1, -1, 4, 5)
    y = random_time_stretch(x, torch.Generator().manual_seed(1))
    assert y.shape == x.shape
    torch.testing.assert_close(y, y[..., :1, :1].expand_as(y))
    assert torch.equal(y, random_time_stretch(x, torch.Generator().manual_seed(1)))
    assert not torch.equal(y, random_time_stretch(x, torch.Generator().manual_seed(2)))
    with pytest.raises(ValueError, match="clip has 4 axes"):
        random_time_stretch(x[0], torch.Generator())


def test_gradients_of_both_orders() -> None:
    x = torch.randn(2, 1, 5, 2, 1, dtype=torch.double, requires_grad=True)
    factor, start = torch.tensor([-0.6, 0.7]), torch.tensor([1, -2])
    assert torch.autograd.gradcheck(lambda x: time_stretch(x, factor, start), x)
    assert torch.autograd.gradgradcheck(lambda x: time_stretch(x, factor, start), x)
