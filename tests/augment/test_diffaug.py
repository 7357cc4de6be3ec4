"""DiffAugment against the golden vectors, NumPy loops and its own definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lvgan.augment.diffaug import DiffAugmentDraws, apply_diff_augment, diff_augment, draw_diff_augment
from lvgan.errors import ConfigError
from tests.conftest import Golden
from tests.helpers import assert_close_to_max


def golden_draws(rand: dict[str, Tensor], policy: str) -> DiffAugmentDraws:
    """Raw draws, in call order, to what they mean."""
    values = iter(rand[key].flatten() for key in sorted(rand))
    draws: dict[str, Tensor] = {}
    if "color" in policy:
        draws |= {"brightness": next(values) - 0.5, "saturation": next(values) * 2}
        draws["contrast"] = next(values) + 0.5
    if "translation" in policy:
        draws["shift"] = -torch.stack([next(values), next(values)], 1)
    if "cutout" in policy:
        draws["hole"] = torch.stack([next(values), next(values)], 1)
    assert next(values, None) is None
    return DiffAugmentDraws(**draws)


@pytest.mark.parametrize("policy", ["color", "translation", "cutout", "color,translation,cutout"])
def test_golden_policies(golden: Golden, policy: str) -> None:
    file = golden("diffaug_" + policy.replace(",", "_"))
    x = file.tensors["in/x"].requires_grad_()
    y = apply_diff_augment(x, golden_draws(file.group("rand"), policy))
    assert_close_to_max(y, file.tensors["out/y"])
    (gradient,) = torch.autograd.grad(y, x, file.tensors["grad_out"])
    assert_close_to_max(gradient, file.tensors["grad/x"])


@pytest.mark.parametrize("part", ["brightness", "saturation", "contrast", "translation", "cutout"])
def test_golden_parts_at_odd_sizes(golden: Golden, part: str) -> None:
    file = golden(f"diffaug_fn_rand_{part}")
    values = [file.group("rand")[key].flatten() for key in sorted(file.group("rand"))]
    draws = {
        "brightness": lambda: DiffAugmentDraws(brightness=values[0] - 0.5),
        "saturation": lambda: DiffAugmentDraws(saturation=values[0] * 2),
        "contrast": lambda: DiffAugmentDraws(contrast=values[0] + 0.5),
        "translation": lambda: DiffAugmentDraws(shift=-torch.stack(values, 1)),
        "cutout": lambda: DiffAugmentDraws(hole=torch.stack(values, 1)),
    }[part]()
    y = apply_diff_augment(file.tensors["in/x"][:, :, None], draws)
    assert_close_to_max(y[:, :, 0], file.tensors["out/y"])


@pytest.mark.parametrize("channels", [1, 4])
def test_shift_and_hole_equal_loops(channels: int) -> None:
    x = torch.randn(3, channels, 2, 5, 9)
    shift, hole = torch.tensor([[1, -3], [0, 0], [-20, 2]]), torch.tensor([[0, 9], [4, 0], [2, 4]])
    expected = np.zeros(x.shape, np.float32)
    for n in range(3):
        for row in range(5):
            for column in range(9):
                source = row - int(shift[n, 0]), column - int(shift[n, 1])
                # A hole of 3 × 5: int(side / 2 + ½) pixels, its middle at the centre.
                covered = abs(row - int(hole[n, 0])) <= 1 and abs(column - int(hole[n, 1])) <= 2
                if 0 <= source[0] < 5 and 0 <= source[1] < 9 and not covered:
                    expected[n, :, :, row, column] = x[n, :, :, source[0], source[1]]
    y = apply_diff_augment(x, DiffAugmentDraws(shift=shift, hole=hole))
    np.testing.assert_array_equal(y.numpy(), expected)


def test_draws_fill_their_ranges() -> None:
    draws = draw_diff_augment(4000, 6, 11, torch.Generator().manual_seed(0))
    assert draws.brightness is not None
    assert draws.saturation is not None
    assert draws.contrast is not None
    assert draws.shift is not None
    assert draws.hole is not None
    for values, low, high in (
        (draws.brightness, -0.5, 0.5),
        (draws.saturation, 0.0, 2.0),
        (draws.contrast, 0.5, 1.5),
    ):
        assert low <= values.min() < low + 0.01
        assert high - 0.01 < values.max() < high
    # A quarter of the long edge (11 / 4, rounded) on both axes.
    for axis in range(2):
        assert draws.shift[:, axis].unique().tolist() == list(range(-3, 4))
    assert draws.hole[:, 0].unique().tolist() == list(range(6))  # hole of 3 rows
    assert draws.hole[:, 1].unique().tolist() == list(range(12))  # of 6 columns


def test_every_frame_alike_and_seeded() -> None:
    x = torch.randn(3, 3, 1, 8, 12).expand(-1, -1, 5, -1, -1)
    y = diff_augment(x, torch.Generator().manual_seed(3))
    assert torch.equal(y, y[:, :, :1].expand_as(y))
    assert torch.equal(y, diff_augment(x, torch.Generator().manual_seed(3)))
    assert not torch.equal(y, diff_augment(x, torch.Generator().manual_seed(4)))
    assert torch.equal(diff_augment(x, torch.Generator(), policy=()), x)


def test_unknown_policy_and_shape() -> None:
    with pytest.raises(ConfigError, match="'colour' is unknown"):
        diff_augment(torch.zeros(1, 3, 1, 4, 4), torch.Generator(), policy=("colour",))
    with pytest.raises(ValueError, match="clip has 4 axes"):
        diff_augment(torch.zeros(1, 3, 4, 4), torch.Generator())


def test_gradients_of_both_orders() -> None:
    x = torch.randn(2, 2, 2, 3, 4, dtype=torch.double, requires_grad=True)
    draws = draw_diff_augment(2, 3, 4, torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(lambda x: apply_diff_augment(x, draws), x)
    assert torch.autograd.gradgradcheck(lambda x: apply_diff_augment(x, draws), x)
