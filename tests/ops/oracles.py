"""What the operators are compared with: SciPy and plain formulas, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.signal
import scipy.special
import torch
from torch import Tensor


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _sides(value: Any) -> tuple[int, int, int, int]:
    values = (value, value) if isinstance(value, int) else tuple(value)
    return values if len(values) == 4 else (values[0], values[0], values[1], values[1])


def _pad(z: np.ndarray, axis: int, before: int, after: int) -> np.ndarray:
    widths = [(0, 0)] * z.ndim
    widths[axis] = (max(before, 0), max(after, 0))
    z = np.pad(z, widths)
    return z.take(range(max(-before, 0), z.shape[axis] - max(-after, 0)), axis)


def _insert_zeros(z: np.ndarray, axis: int, factor: int) -> np.ndarray:
    shape = list(z.shape)
    shape[axis] *= factor
    out = np.zeros(shape)
    out[tuple(slice(None, None, factor) if a == axis % z.ndim else slice(None) for a in range(z.ndim))] = z
    return out


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    *,
    up: Any = 1,
    down: Any = 1,
    padding: Any = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """scipy.signal.upfirdn along both axes (convolve2d for a full filter)."""
    (ux, uy), (dx, dy), (x0, x1, y0, y1) = _pair(up), _pair(down), _sides(padding)
    z = _insert_zeros(_insert_zeros(x.detach().double().numpy(), -1, ux), -2, uy)
    z = _pad(_pad(z, 3, x0, x1), 2, y0, y1)
    taps = np.ones(1) if f is None else f.detach().double().numpy()
    if flip_filter:
        taps = np.flip(taps)
    if taps.ndim == 1:
        for axis, factor in ((3, dx), (2, dy)):
            full = scipy.signal.upfirdn(taps, z, axis=axis) if z.size else _pad(z, axis, 0, len(taps) - 1)
            z = full.take(range(len(taps) - 1, z.shape[axis], factor), axis)
    else:
        shape = (*z.shape[:2], z.shape[2] - taps.shape[0] + 1, z.shape[3] - taps.shape[1] + 1)
        out = np.zeros(shape)
        for index in np.ndindex(*z.shape[:2]):
            out[index] = scipy.signal.convolve2d(z[index], taps, mode="valid")
        z = out[:, :, ::dy, ::dx]
    return torch.from_numpy(np.ascontiguousarray(z)) * gain


_VALUES = {
    "linear": (lambda u, _: u, 1.0),
    "relu": (lambda u, _: np.maximum(u, 0), np.sqrt(2)),
    "lrelu": (lambda u, alpha: np.where(u > 0, u, alpha * u), np.sqrt(2)),
    "tanh": (lambda u, _: np.tanh(u), 1.0),
    "sigmoid": (lambda u, _: scipy.special.expit(u), 1.0),
    "elu": (lambda u, _: np.where(u > 0, u, np.expm1(u)), 1.0),
    "selu": (
        lambda u, _: 1.0507009873554805 * np.where(u > 0, u, 1.6732632423543772 * np.expm1(u)),
        1.0,
    ),
    "softplus": (lambda u, _: np.logaddexp(0, u), 1.0),
    "swish": (lambda u, _: u * scipy.special.expit(u), np.sqrt(2)),
}


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    *,
    dim: int = 1,
    activation: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """The formula, in NumPy."""
    u = x.detach().double().numpy()
    if b is not None:
        u = np.moveaxis(np.moveaxis(u, dim, -1) + b.detach().double().numpy(), -1, dim)
    value, default_gain = _VALUES[activation]
    y = value(u, 0.2 if alpha is None else alpha) * (default_gain if gain is None else gain)
    y = y if clamp is None else np.clip(y, -clamp, clamp)
    return torch.from_numpy(np.ascontiguousarray(y))


def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    *,
    up: int = 1,
    down: int = 1,
    padding: Any = 0,
    gain: float = np.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
) -> Tensor:
    """The five stages one after the other."""
    y = bias_act(x, b)
    y = upfirdn2d(y, fu, up=up, padding=padding, gain=up**2, flip_filter=flip_filter)
    y = bias_act(y, activation="lrelu", alpha=slope, gain=gain, clamp=clamp)
    return upfirdn2d(y, fd, down=down, flip_filter=flip_filter)
