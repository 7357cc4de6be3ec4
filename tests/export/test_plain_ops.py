"""Our operators in standard operations, against SciPy in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lvgan import ops
from lvgan.export.plain_ops import PlainOps
from tests.helpers import assert_close_to_max
from tests.ops import oracles


@pytest.mark.parametrize(
    "how",
    [
        {"up": 2, "padding": (5, 6, -3, 7)},
        {"up": 4, "down": 2, "padding": (1, 2, 3, 4), "flip_filter": True},
        {"down": 2, "padding": (-2, 5, 5, 5), "gain": 1.7},
        {"up": 3, "down": 2, "padding": 3},
        {"up": 2, "down": 3, "padding": (0, 90, 70, 0)},
        {"up": (2, 1), "down": (1, 3), "padding": 8},
    ],
    ids=str,
)
@pytest.mark.parametrize("taps", [1, 5, 12, 24])
def test_upfirdn2d(how: dict[str, Any], taps: int) -> None:
    generator = torch.Generator().manual_seed(taps)
    x, f = torch.randn(2, 3, 57, 61, generator=generator), torch.randn(taps, generator=generator)
    with PlainOps():
        made = ops.upfirdn2d(x, f, **how)
    assert_close_to_max(made, oracles.upfirdn2d(x, f, **how), 1e-6)


@pytest.mark.parametrize("how", [{"up": (1, 2), "padding": [0, 0, 2, 1], "gain": 2.0}, {"down": (1, 2)}], ids=str)
def test_upfirdn2d_of_columns_alone(how: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    x, f = torch.randn(2, 3, 21, 17, generator=generator), torch.randn(4, 1, generator=generator)
    with PlainOps():
        made = ops.upfirdn2d(x, f, **how)
    assert_close_to_max(made, oracles.upfirdn2d(x, f, **how), 1e-6)


@pytest.mark.parametrize(("up", "down"), [(2, 2), (4, 2), (2, 4), (1, 1)])
def test_filtered_lrelu(up: int, down: int) -> None:
    generator = torch.Generator().manual_seed(up)
    x, b = torch.randn(1, 4, 20, 30, generator=generator), torch.randn(4, generator=generator)
    fu, fd = (torch.randn(6 * k, generator=generator) if k > 1 else None for k in (up, down))
    how: dict[str, Any] = {"up": up, "down": down, "padding": (11, 10, 9, 12), "clamp": 2.5}
    with PlainOps():
        made = ops.filtered_lrelu(x, fu, fd, b, **how)
    assert_close_to_max(made, oracles.filtered_lrelu(x, fu, fd, b, **how), 3e-6)


@pytest.mark.parametrize("activation", ["linear", "relu", "lrelu"])
@pytest.mark.parametrize("dim", [1, -1])
def test_bias_act(activation: str, dim: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 4, 6, generator=generator)
    b = torch.randn(x.shape[dim], generator=generator)
    with PlainOps():
        made = ops.bias_act(x, b, dim=dim, activation=activation, clamp=0.7)
    assert_close_to_max(made, oracles.bias_act(x, b, dim=dim, activation=activation, clamp=0.7), 1e-6)


def test_what_has_no_plain_form_says_so() -> None:
    x = torch.zeros(1, 2, 8, 8)
    with PlainOps():
        with pytest.raises(ValueError, match="activation: tanh cannot be exported"):
            ops.bias_act(x, activation="tanh")
        with pytest.raises(ValueError, match="cannot be exported"):
            ops.upfirdn2d(x, torch.ones(3, 3), padding=1)
