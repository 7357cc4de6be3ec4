"""Our operators in standard tensor operations, so that a traced network needs none of ours.

The references of :mod:`lvgan.ops` are written for speed on a CPU: they fill tensors piece by piece and look at
values, which a trace cannot hold. Here, resampling along an axis is a row of products of stretches of the signal
with one banded matrix, for shapes that are fixed when the network is traced. Only the forward pass, and what our
generators use of it: piecewise linear activations and filters of one axis of taps.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

_TILE = 48  # outputs of one product: of 32, 48, 64 and 128 the fastest with ONNX Runtime on an x86 CPU


class PlainOps(TorchFunctionMode):
    """Within, calls of ``torch.ops.lvgan.*`` are computed with standard operations, and sizes are plain numbers.

    (While tracing they would be tensors, and what is computed from them part of the trace.)
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        plain = _PLAIN.get(str(func))
        if plain is not None:
            return plain(*args)
        result = func(*args, **(kwargs or {}))
        if func in _SIZES:
            return torch.Size(map(int, result)) if isinstance(result, tuple) else int(result)
        return result


def bias_act(
    x: Tensor, b: Tensor | None, dim: int, activation: str, alpha: float, gain: float, clamp: float | None
) -> Tensor:
    """``lvgan::bias_act`` for piecewise linear activations.

    Raises:
        ValueError: a curved one.
    """
    if activation not in ("linear", "relu", "lrelu"):
        raise ValueError(f"activation: {activation} cannot be exported, but linear, relu and lrelu can")
    if b is not None:
        shape = [1] * x.ndim
        shape[dim] = -1
        x = x + b.reshape(shape)
    x = F.leaky_relu(x, alpha) if alpha != 1 else x
    x = x * gain if gain != 1 else x
    return x if clamp is None else x.clamp(-clamp, clamp)


def upfirdn2d(
    x: Tensor,  # [N, C, H, W]
    f: Tensor,  # [taps] for both axes, or [taps, 1] for columns alone
    up: Sequence[int],
    down: Sequence[int],
    offset: Sequence[int],
    size: Sequence[int],
    flip: bool,
    gain: float,
) -> Tensor:
    """``lvgan::upfirdn2d``: ``[N, C, size[1], size[0]]``.

    Raises:
        ValueError: taps of other shapes.
    """
    if f.ndim != 1 and f.shape[1:] != (1,):
        raise ValueError(f"f: a filter of shape {tuple(f.shape)} cannot be exported, but [taps] and [taps, 1] can")
    taps = _values(f.flatten())
    taps = taps if flip else taps[::-1]
    along_rows = taps if f.ndim == 1 else [1.0]
    x = _resample(x, 3, [tap * gain for tap in along_rows], up[0], down[0], offset[0], size[0])
    return _resample(x, 2, taps, up[1], down[1], offset[1], size[1])


def filtered_lrelu(
    x: Tensor,  # [N, C, H, W]
    fu: Tensor,
    fd: Tensor,
    b: Tensor | None,
    up: int,
    down: int,
    offset: Sequence[int],
    high: Sequence[int],
    low: Sequence[int],
    gain: float,
    slope: float,
    clamp: float | None,
    flip: bool,
    save_codes: bool,
) -> tuple[Tensor, Tensor]:
    """``lvgan::filtered_lrelu`` without codes."""
    if b is not None:
        x = x + b.reshape(1, -1, 1, 1)
    x = upfirdn2d(x, fu, (up, up), (1, 1), offset, high, flip, gain * up * up)
    x = F.leaky_relu(x, slope)
    if clamp is not None:
        x = x.clamp(-clamp, clamp)
    return upfirdn2d(x, fd, (1, 1), (down, down), (0, 0), low, flip, 1.0), x


_SIZES = {torch.Tensor.shape.__get__, torch.Tensor.size}  # type: ignore[attr-defined]
_PLAIN: dict[str, Callable[..., Any]] = {
    f"lvgan.{name}": function
    for name, function in (("bias_act", bias_act), ("upfirdn2d", upfirdn2d), ("filtered_lrelu", filtered_lrelu))
}


def _values(f: Tensor) -> list[float]:
    """The taps of a filter, also while it is traced: they are constants of the network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return [float(tap) for tap in f.tolist()]


def _resample(
    x: Tensor, axis: int, taps: Sequence[float], up: int, down: int, offset: int, outputs: int
) -> Tensor:  # [N, C, H, W]
    """``y[o] = sum over i of taps[i * up + offset - o * down] * x[i]`` for `outputs` values of o, along axis 2 or 3."""
    inputs = x.shape[axis]
    rows_too = [0, 0] * (3 - axis)
    if taps == [1.0] and up == down == 1:
        return F.pad(x, [*rows_too, offset, outputs - inputs - offset])
    starts, banded = _tiles(taps, up, down, offset, outputs)
    before, after = max(0, -starts[0]), max(0, starts[-1] + len(banded) - inputs)
    x = F.pad(x, [*rows_too, before, after])
    # A constant of the trace, which moves to another device with the file (`map_location`); `.to(x)` would not.
    matrix = torch.from_numpy(banded if axis == 3 else np.ascontiguousarray(banded.T))
    made = []
    for start in starts:
        part = x.narrow(axis, start + before, len(banded))
        made.append(torch.matmul(part, matrix) if axis == 3 else torch.matmul(matrix, part))
    return torch.cat(made, axis).narrow(axis, 0, outputs)


def _tiles(
    taps: Sequence[float], up: int, down: int, offset: int, outputs: int
) -> tuple[list[int], NDArray[np.float32]]:
    """For each run of outputs the first of its inputs (perhaps outside the signal), and the matrix [inputs, outputs]
    that all runs share.

    In NumPy: what is computed from constants is no part of a trace.
    """
    common = math.gcd(up, down)
    period, step = up // common, down // common  # outputs and inputs after which the same taps fall on the inputs
    tile = period * min(-(-_TILE // period), -(-outputs // period))
    first = -(offset // up)  # the first input that a tap reaches at output 0
    columns = ((tile - 1) * down - offset + len(taps) - 1) // up - first + 1
    tap = np.arange(first, first + columns)[:, None] * up + offset - np.arange(tile) * down
    matrix = np.array([*taps, 0.0], np.float32)[np.where((tap >= 0) & (tap < len(taps)), tap, len(taps))]
    return [first + run * (tile // period * step) for run in range(-(-outputs // tile))], matrix
