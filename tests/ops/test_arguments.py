"""Arguments: what is refused, and by which name; defaults; what needs no work."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from lvgan.ops import bias_act, downsample2d, filtered_lrelu, native, setup_filter, upfirdn2d, upsample2d
from tests.helpers import assert_close_to_max
from tests.ops import oracles

X = torch.ones(1, 2, 4, 4)
F3 = torch.ones(3)
NAN, INF = float("nan"), float("inf")


@pytest.fixture(params=["native", "reference"], autouse=True)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test here runs with the compiled kernels, where they can be built, and with the references."""
    if request.param == "native":
        status = native.ensure("cpu")
        if not status.active:
            pytest.skip(f"no compiled operators: {status.reason}")
        yield "native"
    else:
        with native.disabled():
            yield "reference"


def _odd_tensors() -> list[Any]:
    """What is no dense tensor of real numbers, [1, 2, 4, 4] where it has a shape."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that quantised tensors will go
        quantised = torch.quantize_per_tensor(X, 1.0, 0, torch.quint8)
    whole = [X.to(dtype) for dtype in (torch.int32, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn)]
    return [None, 1.0, [1.0], X.numpy(), X.to_sparse(), X.to("meta"), quantised, *whole]


ODD = _odd_tensors()
NO_NUMBERS = [None, "a", NAN, INF, -INF, True, 10**400, torch.ones(1), 1j]
NO_FACTORS = [0, -2, 1.5, 2.0, None, True, "2", 2**31, 2**63, 10**30, NAN, torch.tensor(2)]
NO_PADDINGS = [0.5, None, True, "1", 2**31, 2**62, -(2**62), NAN, torch.ones(2)]
NO_PADDINGS += [(), (1, 2, 3), (0.5, 1), (1, 2, 3, None)]
NO_FILTERS = [
    torch.ones(2, 2, 2),
    torch.ones(0),
    torch.tensor(1.0),
    [1.0, 2.0],
    torch.ones(3, dtype=torch.int64),
    torch.ones(3, dtype=torch.complex64),
    torch.ones(3).to(torch.float8_e5m2),
    torch.ones(3, device="meta"),
    torch.ones(3).to_sparse(),
    torch.ones(3, requires_grad=True),
    torch.ones(5),
    torch.tensor([1.0, NAN, 1.0]),
    torch.tensor([[1.0, INF]]),
]
NO_BIASES = [
    1.0,
    torch.ones(3),
    torch.ones(2, 1),
    torch.ones(2, dtype=torch.float64),
    torch.ones(2, dtype=torch.int64),
    torch.ones(2, device="meta"),
    torch.ones(2).to_sparse(),
]


def _each(name: str, values: Sequence[Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(name, {name: value}) for value in values]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *_each("x", [*ODD, torch.ones(4, 4)]),
        *_each("f", NO_FILTERS),
        ("f", {"f": torch.ones(4, 2), "padding": (0, 0, -1, 0)}),
        *_each("up", [*NO_FACTORS, (2, 1, 1), (2, 1.5), (2, True), (1, 2**31)]),
        *_each("down", [*NO_FACTORS, (1, -1), ()]),
        *_each("padding", [*NO_PADDINGS, (-2, -2, 0, 0)]),
        *_each("gain", NO_NUMBERS),
        *_each("flip_filter", [None, 1, "yes"]),
    ],
)
def test_upfirdn2d_names_the_argument(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: "):
        upfirdn2d(**{"x": X, "f": F3, **arguments})


@pytest.mark.parametrize("resample", [upsample2d, downsample2d])
def test_resampling_names_the_argument(resample: Any) -> None:
    factor = "up" if resample is upsample2d else "down"
    for name, value in (("x", [1.0]), ("f", "a"), (factor, 2.0), ("padding", None), ("gain", "a")):
        with pytest.raises(ValueError, match=rf"^{name}: "):
            resample(**{"x": X, "f": F3, name: value})


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *_each("x", ODD),
        *_each("b", NO_BIASES),
        ("dim", {"b": torch.ones(2), "dim": 4}),
        *_each("dim", ["1", 1.0, None, True]),
        *_each("activation", ["gelu", None, 1, ["relu"]]),
        *[("alpha", {"activation": "lrelu", "alpha": alpha}) for alpha in (-0.1, "a", NAN, INF, True)],
        ("alpha", {"activation": "relu", "alpha": 0.1}),
        *_each("gain", [0, -1.0, "a", NAN, INF, True]),
        *_each("clamp", [0, -1, "1", NAN, INF, True]),
    ],
)
def test_bias_act_names_the_argument(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: "):
        bias_act(**{"x": X, **arguments})


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *_each("x", [*ODD, torch.ones(2, 4, 4)]),
        *_each("fu", NO_FILTERS),
        *_each("fd", NO_FILTERS),
        *_each("b", NO_BIASES),
        *_each("up", [*NO_FACTORS, (2, 2)]),
        *_each("down", [*NO_FACTORS, (2, 2)]),
        *_each("padding", [*NO_PADDINGS, -2]),
        *_each("gain", [*NO_NUMBERS, 0, -1.0]),
        *_each("slope", [*NO_NUMBERS, -0.2]),
        *_each("clamp", [v for v in NO_NUMBERS if v is not None] + [0.0, -1]),
        *_each("flip_filter", [None, 1, "yes"]),
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
        ("taps", {"taps": "abc"}),
        ("taps", {"taps": None}),
        ("taps", {"taps": [1.0, NAN]}),
        ("gain", {"taps": [1.0], "gain": None}),
        ("gain", {"taps": [1.0, 2.0], "gain": -1.0, "separable": True}),
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
