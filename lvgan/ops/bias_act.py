"""bias_act: add a bias, apply an activation, multiply by a gain, clamp; in one pass over memory.

Two operators, so that a compiled kernel can replace either: ``lvgan::bias_act`` and
``lvgan::bias_act_backward``, the product of a gradient with the derivative. The latter has an
autograd of its own: without one, second gradients would go wrong silently as soon as a compiled
kernel took its place.

Source: shared facts, chapter 1 E.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lvgan.ops.arguments import check_bias, check_not_negative, check_positive, check_tensor

_aten = torch.ops.aten

_SELU_SCALE = 1.0507009873554805
_SELU_ALPHA = 1.6732632423543772
_SELU = _SELU_SCALE * _SELU_ALPHA


@dataclass(frozen=True)
class _Smooth:
    """A curved activation and its first two derivatives."""

    value: Callable[[Tensor], Tensor]
    first: Callable[[Tensor], Tensor]
    second: Callable[[Tensor], Tensor]
    gain: float = 1.0


def _exp_below_zero(u: Tensor) -> Tensor:
    return u.clamp(max=0).exp()  # clamped, as an overflow above 0 would turn gradients into NaN


def _sigmoid_first(u: Tensor) -> Tensor:
    s = u.sigmoid()
    return s * (1 - s)


def _sigmoid_second(u: Tensor) -> Tensor:
    s = u.sigmoid()
    return s * (1 - s) * (1 - 2 * s)


def _tanh_second(u: Tensor) -> Tensor:
    t = u.tanh()
    return 2 * t * (t.square() - 1)


def _swish_first(u: Tensor) -> Tensor:
    s = u.sigmoid()
    return s * (1 + u * (1 - s))


def _swish_second(u: Tensor) -> Tensor:
    s = u.sigmoid()
    return s * (1 - s) * (2 + u * (1 - 2 * s))


_SMOOTH = {
    "tanh": _Smooth(torch.tanh, lambda u: 1 - u.tanh().square(), _tanh_second),
    "sigmoid": _Smooth(torch.sigmoid, _sigmoid_first, _sigmoid_second),
    "elu": _Smooth(
        F.elu,
        lambda u: torch.where(u > 0, 1.0, _exp_below_zero(u)),
        lambda u: torch.where(u >= 0, 0.0, _exp_below_zero(u)),
    ),
    "selu": _Smooth(
        F.selu,
        lambda u: torch.where(u > 0, _SELU_SCALE, _SELU * _exp_below_zero(u)),
        lambda u: torch.where(u >= 0, 0.0, _SELU * _exp_below_zero(u)),
    ),
    "softplus": _Smooth(F.softplus, torch.sigmoid, _sigmoid_first),
    "swish": _Smooth(F.silu, _swish_first, _swish_second, math.sqrt(2)),
}

# The piecewise linear ones: default gain, and slope below zero.
_LINEAR = {"linear": (1.0, 1.0), "relu": (math.sqrt(2), 0.0), "lrelu": (math.sqrt(2), 0.2)}

ACTIVATIONS = (*_LINEAR, *_SMOOTH)


def bias_act(
    x: Tensor,
    b: Tensor | None = None,  # [x.shape[dim]]
    *,
    dim: int = 1,
    activation: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """Return ``clamp(gain * activation(x + b))``, shaped and laid out like `x`.

    `b` runs along axis `dim` of `x`. `activation` is linear, relu, lrelu, tanh, sigmoid, elu,
    selu, softplus or swish; `alpha` is the slope of lrelu below zero (default 0.2). `gain`
    (positive) defaults to √2 for relu, lrelu and swish and to 1 for the others, which keeps
    the variance of a unit normal about 1; `clamp` limits the magnitude of the result.

    Differentiable any number of times in `x` and `b`. Half precisions are computed in float32.
    Raises ValueError naming the argument that does not fit.
    """
    check_tensor(x, "x")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    dim = check_bias(x, b, dim)
    slope, default_gain = _defaults(activation)
    if alpha is not None:
        if activation != "lrelu":
            raise ValueError(f"alpha: only lrelu takes one; got {alpha!r} for {activation}")
        slope = check_not_negative(alpha, "alpha")
    gain = default_gain if gain is None else check_positive(gain, "gain")
    clamp = None if clamp is None else check_positive(clamp, "clamp")
    if b is None and activation == "linear" and gain == 1 and clamp is None:
        return x
    return torch.ops.lvgan.bias_act(x, b, dim, activation, slope, gain, clamp)


def _defaults(activation: str) -> tuple[float, float]:
    """The slope below zero (0 for curved ones) and the gain of an activation."""
    if activation in _LINEAR:
        gain, slope = _LINEAR[activation]
        return slope, gain
    return 0.0, _SMOOTH[activation].gain


# --- reference -----------------------------------------------------------------------------------


def _along(b: Tensor, x: Tensor, dim: int) -> Tensor:
    """`b` shaped so that it broadcasts along axis `dim` of `x`."""
    return b.reshape([-1 if axis == dim else 1 for axis in range(x.ndim)])


def _wide(x: Tensor) -> Tensor:
    """`x` in the precision of the arithmetic: float32 for the half precisions."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _biased(x: Tensor, b: Tensor | None, dim: int) -> Tensor:
    return _wide(x) if b is None else _wide(x) + _along(_wide(b), x, dim)


def bias_act_reference(
    x: Tensor, b: Tensor | None, dim: int, activation: str, alpha: float, gain: float, clamp: float | None
) -> Tensor:
    """``lvgan::bias_act`` in plain PyTorch; `alpha` is the slope below zero."""
    y = torch.empty_like(x, dtype=_wide(x).dtype)  # keeps the layout of x, whatever the bias's
    if activation in _SMOOTH:
        torch.mul(_SMOOTH[activation].value(_biased(x, b, dim)), gain, out=y)
    else:  # a positive gain passes through these, so that gain and bias take one pass
        if b is None:
            torch.mul(_wide(x), gain, out=y)
        else:
            torch.add(_along(_wide(b) * gain, x, dim), _wide(x), alpha=gain, out=y)
        if activation == "relu":
            F.relu_(y)
        elif alpha != 1:
            F.leaky_relu_(y, alpha)
    if clamp is not None:
        y.clamp_(-clamp, clamp)
    return y.to(x.dtype)


def bias_act_backward_reference(
    dy: Tensor,
    x: Tensor | None,
    b: Tensor | None,
    y: Tensor | None,
    dim: int,
    activation: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """``lvgan::bias_act_backward`` in plain PyTorch: `dy` times the derivative, laid out like `dy`.

    A piecewise linear activation is differentiated at its result `y` (which the next layer
    keeps anyway), a curved one at `x` and `b`; what is not needed is None.
    """
    dx = torch.empty_like(dy, dtype=_wide(dy).dtype)
    if activation in _SMOOTH:
        assert x is not None
        u = _biased(x, b, dim)
        kept = _wide(dy)
        if clamp is not None:  # before the slope, which may be NaN: as the gradient of torch.clamp does it
            kept = torch.where(_inside(u, activation, gain, clamp), kept, 0)
        torch.mul(kept, _SMOOTH[activation].first(u) * gain, out=dx)
        return dx.to(dy.dtype)
    torch.mul(_wide(dy), gain, out=dx)
    if y is not None and activation == "relu":
        _aten.threshold_backward.grad_input(dx, _wide(y), 0, grad_input=dx)
    elif y is not None and alpha != 1:
        _aten.leaky_relu_backward.grad_input(dx, _wide(y), alpha, True, grad_input=dx)
    if y is not None and clamp is not None:
        cut = _wide(y).nan_to_num(math.inf, math.inf, -math.inf)  # the gradient is 0 at NaN too, as torch.clamp's is
        _aten.hardtanh_backward.grad_input(dx, cut, -clamp, clamp, grad_input=dx)
    return dx.to(dy.dtype)


def _inside(u: Tensor, activation: str, gain: float, clamp: float) -> Tensor:
    """Where the clamp of a curved activation at `u` changes nothing; nowhere at NaN."""
    return (_SMOOTH[activation].value(u) * gain).abs() <= clamp


# --- operators -----------------------------------------------------------------------------------

torch.library.define(
    "lvgan::bias_act",
    "(Tensor x, Tensor? b, int dim, str activation, float alpha, float gain, float? clamp) -> Tensor",
)
torch.library.define(
    "lvgan::bias_act_backward",
    "(Tensor dy, Tensor? x, Tensor? b, Tensor? y, int dim, str activation, float alpha, float gain,"
    " float? clamp) -> Tensor",
)
torch.library.impl("lvgan::bias_act", "default", bias_act_reference)
torch.library.impl("lvgan::bias_act_backward", "default", bias_act_backward_reference)


@torch.library.register_fake("lvgan::bias_act")
@torch.library.register_fake("lvgan::bias_act_backward")
def _fake(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _sum_to_bias(dx: Tensor, dim: int) -> Tensor:
    return dx.sum([axis for axis in range(dx.ndim) if axis != dim]) if dx.ndim > 1 else dx


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, b, *ctx.settings = inputs
    _, activation, alpha, _, clamp = ctx.settings
    curved = activation in _SMOOTH
    bent = not curved and (alpha != 1 or clamp is not None)
    ctx.save_for_backward(x if curved else None, b if curved else None, output if bent else None)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    dx = torch.ops.lvgan.bias_act_backward(dy, *ctx.saved_tensors, *ctx.settings)
    db = _sum_to_bias(dx, ctx.settings[0]) if ctx.needs_input_grad[1] else None
    return dx, db, None, None, None, None, None


def _setup_second_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    dy, x, b, y, *ctx.settings = inputs
    ctx.save_for_backward(dy if x is not None else None, x, b, y)


def _second_backward(ctx: Any, ddx: Tensor) -> tuple[Tensor | None, ...]:
    """The gradient of :func:`_backward`'s product: it is linear in dy; curvature adds x and b."""
    dy, x, b, y = ctx.saved_tensors
    dim, activation, _, gain, clamp = ctx.settings
    ddy = torch.ops.lvgan.bias_act_backward(ddx, x, b, y, *ctx.settings) if ctx.needs_input_grad[0] else None
    if x is None:
        return ddy, *[None] * 8
    u = _biased(x, b, dim)
    inside = None if clamp is None else _inside(u, activation, gain, clamp)
    if ddy is not None and inside is not None:
        ddy = torch.where(inside, ddy, 0)  # the slope may be NaN where the clamp cuts
    dx = db = None
    if any(ctx.needs_input_grad[1:3]):
        bend = _SMOOTH[activation].second(u) * gain
        if inside is not None:
            bend = bend * inside
        dx = (_wide(ddx) * _wide(dy) * bend).to(x.dtype)
        db = _sum_to_bias(dx, dim) if ctx.needs_input_grad[2] else None
    return ddy, dx, db, None, None, None, None, None, None


torch.library.register_autograd("lvgan::bias_act", _backward, setup_context=_setup_context)
torch.library.register_autograd("lvgan::bias_act_backward", _second_backward, setup_context=_setup_second_context)
