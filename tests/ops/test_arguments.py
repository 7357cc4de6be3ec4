"""Arguments: what is refused, and by which name; defaults; what needs no work."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lvgan.ops import bias_act, downsample2d, filtered_lrelu, setup_filter, upfirdn2d, upsample2d
from tests.helpers import assert_close_to_max
from tests.ops import oracles

X = torch.ones(1, 2, 4, 4)
F3 = torch.ones(3)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("x", {"x": torch.ones(4, 4)}),
        ("x", {"x": torch.ones(1, 2, 4, 4, dtype=torch.int32)}),
        ("x", {"x": [1.0]}),
        ("f", {"f": torch.ones(2, 2, 2)}),
        ("f", {"f": torch.ones(0)}),
        ("f", {"f": [1.0, 2.0]}),
        ("f", {"f": torch.ones(3, dtype=torch.int64)}),
        ("f", {"f": torch.ones(3, device="meta")}),
        ("f", {"f": torch.ones(3, requires_grad=True)}),
        ("f", {"f": torch.ones(5)}),
        ("f", {"f": torch.ones(4, 2), "padding": (0, 0, -1, 0)}),
        ("up", {"up": 0}),
        ("up", {"up": -2}),
        ("up", {"up": (2, 1, 1)}),
        ("up", {"up": (2, 1.5)}),
        ("down", {"down": 0}),
        ("down", {"down": (1, -1)}),
        ("padding", {"padding": (1, 2, 3)}),
        ("padding", {"padding": (0.5, 1)}),
        ("padding", {"padding": (-2, -2, 0, 0)}),
    ],
)
def test_upfirdn2d_names_the_argument(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: "):
        upfirdn2d(**{"x": X, "f": F3, **arguments})


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("x", {"x": torch.ones(1, 2, 4, 4, dtype=torch.int32)}),
        ("b", {"b": torch.ones(3)}),
        ("b", {"b": torch.ones(2, 1)}),
        ("b", {"b": torch.ones(2, dtype=torch.float64)}),
        ("b", {"b": torch.ones(2, device="meta")}),
        ("b", {"b": 1.0}),
        ("dim", {"b": torch.ones(2), "dim": 4}),
        ("activation", {"activation": "gelu"}),
        ("alpha", {"activation": "lrelu", "alpha": -0.1}),
        ("alpha", {"activation": "relu", "alpha": 0.1}),
        ("gain", {"gain": 0}),
        ("gain", {"gain": float("nan")}),
        ("clamp", {"clamp": -1}),
        ("clamp", {"clamp": 0}),
    ],
)
def test_bias_act_names_the_argument(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: "):
        bias_act(**{"x": X, **arguments})


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("x", {"x": torch.ones(2, 4, 4)}),
        ("fu", {"fu": torch.ones(1, 1, 1)}),
        ("fd", {"fd": torch.ones(3, device="meta")}),
        ("fu", {"fu": torch.ones(5)}),
        ("fd", {"fd": torch.ones(5)}),
        ("b", {"b": torch.ones(4)}),
        ("up", {"up": 0}),
        ("up", {"up": (2, 2)}),
        ("down", {"down": -1}),
        ("padding", {"padding": (1, 2, 3)}),
        ("padding", {"padding": -2}),
        ("gain", {"gain": -1.0}),
        ("slope", {"slope": -0.2}),
        ("clamp", {"clamp": 0.0}),
    ],
)
def test_filtered_lrelu_names_the_argument(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: "):
        filtered_lrelu(**{"x": X, **arguments})


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("taps", {"taps": []}),
        ("taps", {"taps": torch.ones(1, 1, 1)}),
        ("taps", {"taps": [1, -1]}),
        ("separable", {"taps": [[1.0, 2.0]], "separable": True}),
    ],
)
def test_setup_filter_names_the_argument(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: "):
        setup_filter(**arguments)


def test_setup_filter_leaves_its_argument_alone() -> None:
    taps = torch.tensor([1.0, 2.0, 3.0])
    f = setup_filter(taps, normalize=False, separable=True, flip=True, gain=9)
    assert torch.equal(f, torch.tensor([9.0, 6.0, 3.0]))  # each axis has the root of the gain
    assert torch.equal(taps, torch.tensor([1.0, 2.0, 3.0]))
    assert setup_filter(2.0).shape == (1, 1)
    assert setup_filter(torch.ones(2, 3)).sum() == pytest.approx(1)


def test_nothing_to_do_returns_the_input() -> None:
    assert upfirdn2d(X, None) is X
    assert bias_act(X) is X


def test_result_never_shares_memory_with_the_input() -> None:
    one = torch.ones(1)
    assert upfirdn2d(X, one).data_ptr() != X.data_ptr()
    assert bias_act(X, torch.zeros(2)).data_ptr() != X.data_ptr()
    assert filtered_lrelu(X).data_ptr() != X.data_ptr()


def test_resampling_keeps_a_constant_and_a_ramp_in_place() -> None:
    """With a linear-phase filter the middle of a ramp stays a ramp, half a sample pitch apart."""
    ramp = torch.arange(32.0).expand(1, 1, 32, 32)
    f = setup_filter([1, 3, 3, 1], separable=True)
    inner = slice(8, -8)
    expected = (torch.arange(64.0) - 0.5) / 2
    torch.testing.assert_close(upsample2d(ramp, f)[0, 0, 32, inner], expected[inner])
    expected = torch.arange(16.0) * 2 + 0.5
    torch.testing.assert_close(downsample2d(ramp, f)[0, 0, 8, inner][:4], expected[inner][:4])
    ones = torch.ones(1, 1, 32, 32)
    torch.testing.assert_close(upsample2d(ones, f)[..., inner, inner], torch.ones(1, 1, 48, 48))


def test_definition_as_a_loop() -> None:
    """The sum in the module's docstring, written out for one axis."""
    rng = np.random.default_rng(0)
    x, taps = rng.standard_normal(9), rng.standard_normal(5)
    up, down, before, after = 3, 2, 4, 1
    size = (len(x) * up + before + after - len(taps)) // down + 1
    expected = np.zeros(size)
    for o in range(size):
        for i in range(len(x)):
            k = i * up + before - o * down
            if 0 <= k < len(taps):
                expected[o] += taps[::-1][k] * x[i]
    f = torch.from_numpy(taps)[None]
    row = torch.from_numpy(x)[None, None, None]
    y = upfirdn2d(row, f, up=(up, 1), down=(down, 1), padding=(before, after, 0, 0))
    assert_close_to_max(y[0, 0, 0], torch.from_numpy(expected), 1e-12)


def test_many_channels_run_in_several_chunks() -> None:
    x = torch.randn(2, 40, 60, 62, generator=torch.Generator().manual_seed(0), requires_grad=True)
    f = setup_filter(np.hanning(14)[1:-1].tolist())
    settings = {"up": 2, "down": 2, "padding": (11, 10, 11, 10), "clamp": 0.5}
    b = torch.linspace(-1, 1, 40)
    y = filtered_lrelu(x, f, f, b, **settings)
    assert_close_to_max(y, oracles.filtered_lrelu(x, f, f, b, **settings))
    (whole,) = torch.autograd.grad(y.sum(), x)
    few = x[1:, 20:22].detach().requires_grad_()
    (part,) = torch.autograd.grad(filtered_lrelu(few, f, f, b[20:22], **settings).sum(), few)
    assert_close_to_max(part, whole[1:, 20:22])


def test_autocast_does_not_reach_the_filters() -> None:
    x = torch.randn(1, 2, 12, 12, generator=torch.Generator().manual_seed(0))
    for f in (setup_filter([1, 3, 3, 1]), setup_filter([1, 3, 3, 1], separable=True)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = upfirdn2d(x, f, up=2, padding=2)
        assert_close_to_max(y, oracles.upfirdn2d(x, f, up=2, padding=2), 1e-6)


def test_without_a_gradient_no_codes_are_kept() -> None:
    call = torch.ops.lvgan.filtered_lrelu
    one = torch.ones(1)
    settings = (1, 1, [0, 0], [4, 4], [4, 4], 1.0, 0.2, None, False)
    y, codes = call(X, one, one, None, *settings, False)
    assert codes.numel() == 0
    y, codes = call(X, one, one, None, *settings, True)
    assert codes.shape == (1, 2, 4, 1)
    assert (codes == 0b10101010).all()  # four samples that were kept
    with pytest.raises(RuntimeError, match="save_codes"):
        call(X.clone().requires_grad_(), one, one, None, *settings, False)
    with torch.no_grad():
        assert not filtered_lrelu(X.clone().requires_grad_()).requires_grad
    assert y.shape == X.shape
