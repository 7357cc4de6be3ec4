"""What the operators accept, checked before any kernel sees it, so that every path refuses alike.

Each function raises ValueError, and its message begins with the name of the argument.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

Pair = Sequence[int]  # (x, y)

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LARGEST_FACTOR = 1024
LARGEST_PADDING = 2**31 - 1


def check_tensor(x: Tensor, name: str) -> None:
    """`x` is a dense tensor of real numbers that has memory, in one of :data:`DTYPES`."""
    if not isinstance(x, Tensor):
        raise ValueError(f"{name}: expected a tensor, got {type(x).__name__}")
    if x.dtype not in DTYPES:
        raise ValueError(f"{name}: expected float16, bfloat16, float32 or float64, got {x.dtype}")
    if x.layout is not torch.strided:
        raise ValueError(f"{name}: expected a dense tensor, got {x.layout}; use its to_dense()")
    if x.device.type == "meta":
        raise ValueError(f"{name}: is on the meta device, which has no numbers; move it to another")


def check_image(x: Tensor, name: str) -> None:
    """`x` is a ``[N, C, H, W]`` that :func:`check_tensor` accepts."""
    check_tensor(x, name)
    if x.ndim != 4:
        raise ValueError(f"{name}: expected a tensor [N, C, H, W], got {tuple(x.shape)}")


def check_bias(x: Tensor, b: Tensor | None, dim: int) -> int:
    """`b` fits axis `dim` of `x`; returns `dim` counted from the front (0 if nothing runs along it)."""
    if not _is_int(dim):
        raise ValueError(f"dim: expected an int, got {dim!r}")
    if not -x.ndim <= dim < x.ndim:
        if b is None:
            return 0
        raise ValueError(f"dim: x has no axis {dim}, its shape is {tuple(x.shape)}")
    dim %= x.ndim
    if b is None:
        return dim
    check_tensor(b, "b")
    if b.ndim != 1 or b.shape[0] != x.shape[dim]:
        raise ValueError(f"b: expected shape ({x.shape[dim]},) for axis {dim} of x, got {tuple(b.shape)}")
    if b.dtype != x.dtype:
        raise ValueError(f"b: has {b.dtype} while x has {x.dtype}; convert one of them")
    _check_device(b, x, "b")
    return dim


def check_filter(f: Tensor | None, x: Tensor, name: str) -> Tensor:
    """`f` is a filter for `x`; returned as the operators take it: contiguous, float32 (float64 for a float64 `x`)."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if f is None:
        return torch.ones(1, dtype=dtype, device=x.device)
    check_tensor(f, name)
    if f.ndim not in (1, 2) or f.numel() == 0:
        raise ValueError(f"{name}: expected a tensor [taps] or [taps_y, taps_x], got {tuple(f.shape)}")
    _check_device(f, x, name)
    if f.requires_grad:
        raise ValueError(f"{name}: filters have no gradient here; detach it")
    check_finite_taps(f, name)
    return f.to(dtype).contiguous()


def check_finite_taps(f: Tensor, name: str) -> None:
    """No tap is NaN or infinite, where looking costs no wait: a CUDA tensor, or a traced one, is not looked at."""
    plain = type(f) in (Tensor, torch.nn.Parameter) and not torch.compiler.is_compiling()
    readable = plain and f.device.type == "cpu"
    if readable and not math.isfinite(f.detach().abs().max().item()):
        raise ValueError(f"{name}: has a tap that is NaN or infinite")


def check_factor(value: int | Pair, name: str) -> list[int]:
    """`value` is a resampling factor, an int or ``(x, y)``; returned as ``[x, y]``."""
    pair = _items(value)
    if len(pair) != 2 or not all(_is_int(v) and 1 <= v <= LARGEST_FACTOR for v in pair):
        raise ValueError(f"{name}: expected an int from 1 to {LARGEST_FACTOR} or two of them (x, y), got {value!r}")
    return pair


def check_one_factor(value: int, name: str) -> None:
    """`value` is a resampling factor for both axes."""
    if not _is_int(value) or not 1 <= value <= LARGEST_FACTOR:
        raise ValueError(f"{name}: expected an int from 1 to {LARGEST_FACTOR}, got {value!r}")


def check_padding(value: int | Sequence[int], name: str = "padding") -> list[int]:
    """`value` is a padding of 1, 2 or 4 ints; returned as ``[x0, x1, y0, y1]``."""
    sides = _items(value)
    if len(sides) == 2:
        sides = [sides[0], sides[0], sides[1], sides[1]]
    if len(sides) != 4 or not all(_is_int(v) and abs(v) <= LARGEST_PADDING for v in sides):
        raise ValueError(f"{name}: expected an int, (x, y) or (x0, x1, y0, y1), each less than 2**31; got {value!r}")
    return sides


def check_number(value: float, name: str) -> float:
    """`value` is a finite number; returned as a float."""
    if not _is_finite(value):
        raise ValueError(f"{name}: expected a finite number, got {value!r}")
    return float(value)


def check_positive(value: float, name: str) -> float:
    """`value` is a finite number above 0; returned as a float."""
    if not _is_finite(value) or not value > 0:
        raise ValueError(f"{name}: expected a positive finite number, got {value!r}")
    return float(value)


def check_not_negative(value: float, name: str) -> float:
    """`value` is a finite number, 0 or above; returned as a float."""
    if not _is_finite(value) or not value >= 0:
        raise ValueError(f"{name}: expected a finite number, not below 0, got {value!r}")
    return float(value)


def check_flag(value: bool, name: str) -> None:
    """`value` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected True or False, got {value!r}")


def output_size(size: int, up: int, down: int, before: int, after: int, taps: int, f: str = "f") -> int:
    """The number of output samples of an axis; the filter `f` is not longer than the padded signal."""
    padded = size * up + before + after
    if padded < 1:
        raise ValueError(f"padding: crops all {size * up} samples of the upsampled signal")
    if padded < taps:
        raise ValueError(f"{f}: has {taps} taps, more than the {padded} samples of the padded signal")
    return (padded - taps) // down + 1


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max  # not: NaN, infinity, an int that no float holds


def _items(value: int | Sequence[int]) -> list[int]:
    """One for each axis, or all that there are; nothing if `value` is something else."""
    if isinstance(value, int):
        return [value, value]
    return list(value) if isinstance(value, list | tuple) else []


def _check_device(t: Tensor, x: Tensor, name: str) -> None:
    if t.device != x.device:
        raise ValueError(f"{name}: is on {t.device} while x is on {x.device}; move one of them")
