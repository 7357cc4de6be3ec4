"""Every operator over its sample inputs: values, first and second gradients, registration.

The reference runs here, even if an earlier test loaded the compiled kernels; those repeat these tests in
`test_native_kernels.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lvgan import ops
from lvgan.ops import native
from tests.helpers import assert_close_to_max
from tests.ops import oracles
from tests.ops.samples import Sample, bias_act_samples, filtered_lrelu_samples, upfirdn2d_samples

SAMPLES = {
    "upfirdn2d": upfirdn2d_samples(),
    "bias_act": bias_act_samples(),
    "filtered_lrelu": filtered_lrelu_samples(),
}
CASES = [pytest.param(op, s, id=f"{op}-{s}") for op, samples in SAMPLES.items() for s in samples]

all_samples = pytest.mark.parametrize(("op", "sample"), CASES)


@pytest.fixture(autouse=True)
def reference() -> Iterator[None]:
    with native.disabled():
        yield


@all_samples
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_are_those_of_scipy(op: str, sample: Sample, dtype: torch.dtype) -> None:
    y = getattr(ops, op)(sample.x.to(dtype), **sample.arguments(dtype))
    expected = getattr(oracles, op)(sample.x, **sample.arguments())
    assert y.dtype == dtype
    assert y.shape == expected.shape
    if y.numel():
        assert_close_to_max(y, expected, 1e-12 if dtype == torch.float64 else 2e-6)


@all_samples
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions_lose_only_their_rounding(op: str, sample: Sample, dtype: torch.dtype) -> None:
    x, arguments = sample.x.to(dtype), sample.arguments()
    if "b" in arguments and arguments["b"] is not None:
        arguments["b"] = arguments["b"].to(dtype)
    y = getattr(ops, op)(x, **arguments)
    expected = getattr(oracles, op)(x, **arguments)
    assert y.dtype == dtype
    if y.numel():
        # The result is rounded once; the taps were rounded to float32.
        torch.testing.assert_close(y.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-6)


def _differentiable(op: str, sample: Sample) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """The operator as a function of the tensors that have a gradient."""
    arguments = sample.arguments()
    b = arguments.pop("b", None)
    inputs = [sample.x.clone().requires_grad_()]
    if b is not None:
        inputs.append(b.clone().requires_grad_())

    def call(x: Tensor, b: Tensor | None = None) -> Tensor:
        bias = {} if b is None else {"b": b}
        return getattr(ops, op)(x, **arguments, **bias)

    return call, tuple(inputs)


@all_samples
def test_gradients_are_those_of_finite_differences(op: str, sample: Sample) -> None:
    call, inputs = _differentiable(op, sample)
    assert torch.autograd.gradcheck(call, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


@pytest.mark.parametrize("sample", bias_act_samples()[:9], ids=str)
def test_third_gradient_of_an_activation(sample: Sample) -> None:
    call, (x, b) = _differentiable("bias_act", sample)

    def slope(x: Tensor, b: Tensor) -> Tensor:
        (dx,) = torch.autograd.grad(call(x, b).square().sum(), x, create_graph=True)
        return dx

    assert torch.autograd.gradgradcheck(slope, (x, b), fast_mode=True)


_CURVES = {
    "linear": lambda u: u * 1.0,
    "relu": F.relu,
    "lrelu": lambda u: F.leaky_relu(u, 0.2),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "elu": F.elu,
    "selu": F.selu,
    "softplus": F.softplus,
    "swish": F.silu,
}


@pytest.mark.parametrize("activation", sorted(_CURVES))
@pytest.mark.parametrize("clamp", [None, 0.6])
def test_what_is_not_finite_has_the_values_and_gradients_of_torch(activation: str, clamp: float | None) -> None:
    """Of the activation, a product and torch.clamp, one after the other: first and second gradients too."""
    points = [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 100.0, -100.0, 21.0, 0.6, 0.3, 0.0, -0.2]
    points *= 64  # whole vectors: in what is left over, torch's own elu and selu make something else of NaN

    def composition(x: Tensor) -> Tensor:
        y = _CURVES[activation](x) * 1.3
        return y if clamp is None else y.clamp(-clamp, clamp)

    def ours(x: Tensor) -> Tensor:
        return ops.bias_act(x, activation=activation, gain=1.3, clamp=clamp)

    for dtype in (torch.float64, torch.float32):
        results = []
        for function in (composition, ours):
            x = torch.tensor([points], dtype=dtype).requires_grad_()
            dy = torch.full_like(x, 1.5).requires_grad_()
            y = function(x)
            (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
            ddy, ddx = torch.autograd.grad(dx, (dy, x), torch.full_like(dx, 0.7), materialize_grads=True)
            results.append([t.detach() for t in (y, dx, ddy, ddx)])
        for theirs, result in zip(*results, strict=True):
            torch.testing.assert_close(result, theirs, rtol=2e-5, atol=1e-6, equal_nan=True)


LOCAL = [  # up, down, taps of each: as many as the kernels are made for, and fewer
    (2, 2, 12, 12),
    (4, 2, 24, 12),
    (4, 2, 12, 12),
    (4, 2, 21, 5),
    (2, 4, 12, 24),
    (2, 4, 7, 12),
    (2, 2, 5, 4),
    (3, 2, 6, 5),
    (1, 1, 1, 1),
]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("up", "down", "taps_u", "taps_d"), LOCAL)
def test_a_number_that_is_not_finite_stays_where_the_filters_reach(
    up: int, down: int, taps_u: int, taps_d: int, value: float
) -> None:
    """The outputs that it changes are those that one pixel above 0 changes, in float64 by SciPy: no more, no less."""
    place = torch.zeros(1, 2, 40, 37, dtype=torch.float64)
    place[0, 1, 19, 16] = 1
    x = torch.where(place > 0, value, torch.linspace(-1, 1, place.numel()).reshape(place.shape))
    fu, fd = (torch.linspace(1, 2, taps) / taps for taps in (taps_u, taps_d))
    sides = {"padding": (taps_u, taps_d, 7, taps_u + taps_d)}
    high = oracles.upfirdn2d(place, fu, up=up, **sides)
    assert torch.equal(~ops.upfirdn2d(x, fu, up=up, **sides).isfinite(), high > 0)
    full = fu[:, None] * fu
    assert torch.equal(~ops.upfirdn2d(x, full, up=up, **sides).isfinite(), high > 0)
    resampled = oracles.upfirdn2d(place, fd, up=up, down=down, **sides)
    assert torch.equal(~ops.upfirdn2d(x, fd, up=up, down=down, **sides).isfinite(), resampled > 0)
    low = oracles.upfirdn2d(high, fd, down=down)
    settings = {"up": up, "down": down, **sides}
    assert torch.equal(~ops.filtered_lrelu(x, fu, fd, **settings).isfinite(), low > 0)
    clamped = ops.filtered_lrelu(x, fu, fd, clamp=0.5, **settings)
    assert torch.equal(clamped.isnan(), (low > 0) & (value != value))
    _gradient_stays_local(up, down, fu, fd, sides, value)


def _gradient_stays_local(up: int, down: int, fu: Tensor, fd: Tensor, sides: dict[str, Any], value: float) -> None:
    """The same for the gradient at one output; where the clamp cut, it is 0."""
    x = torch.linspace(-1, 1, 2 * 40 * 37).reshape(1, 2, 40, 37).requires_grad_()
    for clamp in (None, 1e-9):
        y = ops.filtered_lrelu(x, fu, fd, up=up, down=down, clamp=clamp, **sides)
        place = torch.zeros_like(y)
        place[0, 1, y.shape[2] // 2, y.shape[3] // 2] = 1
        (covered,) = torch.autograd.grad(y, x, place, retain_graph=True)
        (dx,) = torch.autograd.grad(y, x, torch.where(place > 0, value, place))
        assert torch.equal(~dx.isfinite(), covered != 0)


@all_samples
def test_layout_of_the_input_does_not_matter(op: str, sample: Sample) -> None:
    call, inputs = _differentiable(op, sample)
    y = call(*inputs)
    dy = torch.linspace(-1, 1, max(y.numel(), 1), dtype=y.dtype)[: y.numel()].reshape(y.shape)
    gradients = torch.autograd.grad(y, inputs, dy)
    turned = dy.transpose(0, -1).contiguous().transpose(0, -1)
    last = inputs[0].detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_()
    y2 = call(last, *inputs[1:])
    gradients2 = torch.autograd.grad(y2, (last, *inputs[1:]), turned)
    torch.testing.assert_close(y2, y)
    torch.testing.assert_close(gradients2, gradients)


def _recorded(op: str, sample: Sample) -> list[tuple[Any, tuple[Any, ...]]]:
    """The operator calls that forward, backward and second backward make."""
    calls: list[tuple[Any, tuple[Any, ...]]] = []

    class Record(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.namespace == "lvgan":
                calls.append((func, args))
            return func(*args, **(kwargs or {}))

    call, inputs = _differentiable(op, sample)
    with Record():
        y = call(*inputs)
        grads = torch.autograd.grad(y.sum(), inputs, create_graph=True, allow_unused=True)
        total = sum(g.square().sum() for g in grads)
        if total.requires_grad:
            torch.autograd.grad(total, inputs, allow_unused=True)
    return calls


@pytest.mark.parametrize(
    ("op", "sample"),
    [
        pytest.param(op, s, id=f"{op}-{s}")
        for op, samples in SAMPLES.items()
        for s in samples
        if s.name in ("up2-even", "full-up-down", "strided", "strided-curved", "clamp", "lrelu", "swish-clamp", "empty")
    ],
)
def test_registration_of_every_operator_called(op: str, sample: Sample) -> None:
    calls = _recorded(op, sample)
    assert calls
    for func, args in calls:
        fresh = [
            a.detach().clone().requires_grad_(a.is_floating_point() and a.ndim > 2) if isinstance(a, Tensor) else a
            for a in args
        ]
        torch.library.opcheck(func, fresh)


@pytest.mark.filterwarnings("ignore:.*[Oo]verrid")
@pytest.mark.parametrize(
    ("op", "operator", "name"),
    [
        ("upfirdn2d", "upfirdn2d", "up2-even"),
        ("bias_act", "bias_act", "video"),
        ("bias_act", "bias_act_backward", "video"),
        ("bias_act", "bias_act_backward", "swish-clamp"),
        ("filtered_lrelu", "filtered_lrelu", "clamp"),
        ("filtered_lrelu", "filtered_mask", "clamp"),
    ],
)
def test_a_kernel_for_one_device_takes_the_place_of_the_reference(op: str, operator: str, name: str) -> None:
    """As a compiled library does it: same name, and every gradient still right."""
    reference = getattr(importlib.import_module(f"lvgan.ops.{op}"), f"{operator}_reference")
    (sample,) = (s for s in SAMPLES[op] if s.name == name)
    calls = 0

    def kernel(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        detached = [a.detach().numpy() if isinstance(a, Tensor) else a for a in args]  # opaque to autograd
        return reference(*[torch.from_numpy(a) if hasattr(a, "dtype") else a for a in detached])

    call, inputs = _differentiable(op, sample)
    with torch.library._scoped_library("lvgan", "IMPL") as library:
        library.impl(operator, kernel, "CPU")
        assert torch.autograd.gradcheck(call, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)
    assert calls
    before = calls
    call(*inputs)
    assert calls == before
