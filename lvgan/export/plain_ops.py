"""Our operators in standard tensor operations, so that a traced network needs none of ours.

The references of :mod:`lvgan.ops` are written for speed on a CPU: they fill tensors piece by piece and look at
values, which a trace cannot hold. Here, resampling along an axis is one product of windows of the signal with a
banded matrix, for shapes that are fixed when the network is traced. Only the forward pass, and what our
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

_TILE = 32  # outputs of one product: of 16 to 64 the fastest with ONNX Runtime and TorchScript on an x86 CPU


class PlainOps(TorchFunctionMode):
    """Within, calls of ``torch.ops.lvgan.*`` are computed with standard operations."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        plain = _PLAIN.get(str(func))
        return func(*args, **(kwargs or {})) if plain is None else plain(*args)


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
    f: Tensor,  # [taps]
    up: Sequence[int],
    down: Sequence[int],
    offset: Sequence[int],
    size: Sequence[int],
    flip: bool,
    gain: float,
) -> Tensor:
    """``lvgan::upfirdn2d`` for one axis of taps: ``[N, C, size[1], size[0]]``.

    Raises:
        ValueError: two axes of taps.
    """
    taps = _values(f)
    taps = taps if flip else taps[::-1]
    # Along the last axis, which is the columns first and then, transposed, the rows.
    x = _resample(x, [tap * gain for tap in taps], up[0], down[0], offset[0], size[0])
    return _resample(x.transpose(2, 3), taps, up[1], down[1], offset[1], size[1]).transpose(2, 3)


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


_PLAIN: dict[str, Callable[..., Any]] = {
    f"lvgan.{name}": function
    for name, function in (("bias_act", bias_act), ("upfirdn2d", upfirdn2d), ("filtered_lrelu", filtered_lrelu))
}


def _values(f: Tensor) -> list[float]:
    """The taps of a filter, also while it is traced: they are constants of the network."""
    if f.ndim != 1:
        raise ValueError(f"f: a filter of shape {tuple(f.shape)} cannot be exported, but one axis of taps can")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return [float(tap) for tap in f.tolist()]


def _resample(x: Tensor, taps: Sequence[float], up: int, down: int, offset: int, outputs: int) -> Tensor:
    """``y[..., o] = sum over i of taps[i * up + offset - o * down] * x[..., i]`` for `outputs` values of o."""
    # While tracing, sizes are tensors; here they are fixed.
    N, C, rows, inputs = (int(side) for side in x.shape)
    up, down, offset, outputs = (int(number) for number in (up, down, offset, outputs))
    if taps == [1.0] and up == down == 1:
        return F.pad(x, [offset, outputs - inputs - offset])
    index, matrix = _windows(taps, up, down, offset, outputs)
    before, after = max(0, -int(index.min())), max(0, int(index.max()) + 1 - inputs)
    tiles, columns = index.shape
    windows = F.pad(x, [before, after]).index_select(3, torch.from_numpy(index.flatten() + before).to(x.device))
    y = torch.matmul(windows.reshape(N * C * rows * tiles, columns), torch.from_numpy(matrix).to(x))
    return y.reshape(N, C, rows, tiles * matrix.shape[1]).narrow(3, 0, outputs)


def _windows(
    taps: Sequence[float], up: int, down: int, offset: int, outputs: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:  # [tiles, columns], [columns, tile]
    """For each run of outputs its inputs (perhaps outside the signal), and the matrix that all runs share.

    In NumPy: what is computed from constants is no part of a trace.
    """
    common = math.gcd(up, down)
    period, step = up // common, down // common  # outputs and inputs after which the same taps fall on the inputs
    tile = period * min(-(-_TILE // period), -(-outputs // period))
    first = -(offset // up)  # the first input that a tap reaches at output 0
    columns = ((tile - 1) * down - offset + len(taps) - 1) // up - first + 1
    place = np.arange(first, first + columns)
    tap = place[:, None] * up + offset - np.arange(tile) * down
    matrix = np.array([*taps, 0.0], np.float32)[np.where((tap >= 0) & (tap < len(taps)), tap, len(taps))]
    starts = np.arange(-(-outputs // tile)) * (tile // period * step)
    return starts[:, None] + place, matrix
