"""filtered_lrelu: a leaky ReLU at a higher sampling rate, so that it does not alias.

Bias, upsampling FIR, gain · leaky ReLU, clamp, downsampling FIR, without keeping the signal at
the high rate. Two operators, so that a compiled kernel can replace either:

``lvgan::filtered_lrelu``
    returns the result and, with `save_codes`, what the gradient needs to know of each sample
    at the high rate: its *code*, 0 (clamped), 1 (negative: times the slope) or 2 (kept). Four
    codes share a byte, the first in the lowest bits; a row is filled up with 0.
``lvgan::filtered_mask``
    upsamples, multiplies by what the codes say, downsamples. It is linear, and its transpose is
    an operator of the same kind (see :mod:`lvgan.ops.upfirdn2d`): it is the gradient of
    ``filtered_lrelu`` and, applied again, its second gradient and its own.

The codes are kept because that was measured to be better than computing them again from the input in
the backward: two thirds of the time and a third of the bytes (figures in csrc/RESOURCES.md).

Source: shared facts, chapter 1 E.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lvgan.ops.arguments import (
    Pair,
    check_bias,
    check_filter,
    check_flag,
    check_image,
    check_not_negative,
    check_one_factor,
    check_padding,
    check_positive,
    output_size,
)
from lvgan.ops.upfirdn2d import Resampler, image_chunks, known_not_finite, transposed_offset


def filtered_lrelu(
    x: Tensor,  # [N, C, H, W]
    fu: Tensor | None = None,  # [taps] or [taps_y, taps_x]
    fd: Tensor | None = None,  # [taps] or [taps_y, taps_x]
    b: Tensor | None = None,  # [C]
    *,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
) -> Tensor:
    """Apply a leaky ReLU to ``[N, C, H, W]`` at `up` times its sampling rate.

    Adds `b`, upsamples with the filter `fu` (and a gain of ``up ** 2``, which keeps the
    magnitude), multiplies by `gain` and below zero by `slope`, limits the magnitude to `clamp`,
    and downsamples with `fd`. Filters, `padding` (of the upsampled signal, negative: a crop)
    and `flip_filter` are those of :func:`lvgan.ops.upfirdn2d`. The output has
    ``(W * up + x0 + x1 - taps_u + 1 - taps_d) // down + 1`` columns.

    Differentiable any number of times in `x` and `b`. Half precisions are computed in float32.
    NaN and infinity reach what they reach in :func:`lvgan.ops.upfirdn2d`, with both filters.
    Raises ValueError naming the argument that does not fit.
    """
    check_image(x, "x")
    up_taps, down_taps = check_filter(fu, x, "fu"), check_filter(fd, x, "fd")
    check_bias(x, b, 1)
    check_one_factor(up, "up")
    check_one_factor(down, "down")
    gain, slope = check_positive(gain, "gain"), check_not_negative(slope, "slope")
    clamp = None if clamp is None else check_positive(clamp, "clamp")
    check_flag(flip_filter, "flip_filter")
    sides = check_padding(padding)
    high, low = _sizes(x, up_taps, down_taps, up, down, sides)
    save_codes = torch.is_grad_enabled() and (x.requires_grad or (b is not None and b.requires_grad))
    y, _ = torch.ops.lvgan.filtered_lrelu(
        x,
        up_taps,
        down_taps,
        b,
        up,
        down,
        [sides[0], sides[2]],
        high,
        low,
        gain,
        slope,
        clamp,
        flip_filter,
        save_codes,
    )
    return y


def _sizes(x: Tensor, fu: Tensor, fd: Tensor, up: int, down: int, sides: Sequence[int]) -> tuple[list[int], list[int]]:
    """The sizes (x, y) of the signal at the high rate and of the output."""
    high, low = [], []
    for axis, before, after in ((-1, sides[0], sides[1]), (-2, sides[2], sides[3])):
        taps_u, taps_d = (f.shape[axis if f.ndim == 2 else 0] for f in (fu, fd))
        high.append(output_size(x.shape[axis], up, 1, before, after, taps_u, f="fu"))
        low.append(output_size(high[-1], 1, down, 0, 0, taps_d, f="fd"))
    return high, low


# --- reference -----------------------------------------------------------------------------------


def _packed(width: int) -> int:
    """Bytes of a row of codes."""
    return -(-width // 4)


def _pack(value: Tensor, limit: float | None) -> Tensor:
    """The codes of samples ``[B, H, W]`` (before the clamp, after the slope), four to a byte."""
    codes = (value > 0).view(torch.uint8) + 1
    if limit is not None:
        codes *= (value.abs() < limit).view(torch.uint8)
    width = codes.shape[-1]
    codes = F.pad(codes, (0, 4 * _packed(width) - width))
    return codes[..., 0::4] + codes[..., 1::4] * 4 + codes[..., 2::4] * 16 + codes[..., 3::4] * 64


def _unpack(codes: Tensor, slope: float, width: int, dtype: torch.dtype) -> Tensor:
    """The factors 0, `slope` or 1 of packed `codes`, ``[B, H, width]``."""
    byte = torch.arange(256, device=codes.device)
    levels = torch.tensor([0, slope, 1, 0], dtype=dtype, device=codes.device)
    table = levels[torch.stack([byte >> shift & 3 for shift in (0, 2, 4, 6)], -1)]  # [256, 4]
    return F.embedding(codes.int(), table).flatten(-2)[..., :width]


def filtered_lrelu_reference(
    x: Tensor,
    fu: Tensor,
    fd: Tensor,
    b: Tensor | None,
    up: int,
    down: int,
    offset: Pair,
    high: Pair,
    low: Pair,
    gain: float,
    slope: float,
    clamp: float | None,
    flip: bool,
    save_codes: bool,
) -> tuple[Tensor, Tensor]:
    """``lvgan::filtered_lrelu`` in plain PyTorch, a few channels at a time."""
    N, C, H, W = x.shape
    # A positive gain passes through the leaky ReLU and is applied with the first filter.
    raise_rate = Resampler(fu, (W, H), (up, up), (1, 1), offset, high, flip, gain * up * up)
    lower_rate = Resampler(fd, high, (1, 1), (down, down), (0, 0), low, flip, 1.0)
    y = x.new_empty(N, C, low[1], low[0])
    codes = x.new_empty(_codes_shape(x, high, save_codes), dtype=torch.uint8)
    images, out, out_codes = x.reshape(N * C, H, W), y.flatten(0, 1), codes.flatten(0, 1)
    shifts = None if b is None else b.to(fu.dtype).repeat(N)[:, None, None]
    for part in image_chunks(x, high[0] * high[1]):
        signal = images[part].to(fu.dtype)
        signal = F.leaky_relu_(raise_rate(signal if shifts is None else signal + shifts[part]), slope)
        if save_codes:
            out_codes[part] = _pack(signal, clamp)
        if clamp is not None:
            signal.clamp_(-clamp, clamp)
        out[part] = lower_rate(signal)
    return y, codes


def filtered_mask_reference(
    x: Tensor,
    codes: Tensor,
    fu: Tensor,
    fd: Tensor,
    up: int,
    down: int,
    up_offset: Pair,
    down_offset: Pair,
    high: Pair,
    low: Pair,
    gain: float,
    slope: float,
    flip: bool,
) -> Tensor:
    """``lvgan::filtered_mask`` in plain PyTorch, a few channels at a time."""
    N, C, H, W = x.shape
    raise_rate = Resampler(fu, (W, H), (up, up), (1, 1), up_offset, high, flip, gain)
    lower_rate = Resampler(fd, high, (1, 1), (down, down), down_offset, low, flip, 1.0)
    y = x.new_empty(N, C, low[1], low[0])
    images, out, packed = x.reshape(N * C, H, W), y.flatten(0, 1), codes.flatten(0, 1)
    for part in image_chunks(x, high[0] * high[1]):
        signal = raise_rate(images[part].to(fu.dtype))
        if known_not_finite(signal):  # a clamped sample has the gradient 0, as that of torch.clamp
            signal = torch.where(_unpack(packed[part], 1, high[0], fu.dtype) > 0, signal, 0)
        signal *= _unpack(packed[part], slope, high[0], fu.dtype)
        out[part] = lower_rate(signal)
    return y


def _codes_shape(x: Tensor, high: Pair, save_codes: bool) -> tuple[int, int, int, int]:
    return (x.shape[0], x.shape[1], high[1], _packed(high[0])) if save_codes else (0, 0, 0, 0)


# --- operators -----------------------------------------------------------------------------------

torch.library.define(
    "lvgan::filtered_lrelu",
    "(Tensor x, Tensor fu, Tensor fd, Tensor? b, int up, int down, SymInt[] offset, SymInt[] high,"
    " SymInt[] low, float gain, float slope, float? clamp, bool flip, bool save_codes) -> (Tensor, Tensor)",
)
torch.library.define(
    "lvgan::filtered_mask",
    "(Tensor x, Tensor codes, Tensor fu, Tensor fd, int up, int down, SymInt[] up_offset,"
    " SymInt[] down_offset, SymInt[] high, SymInt[] low, float gain, float slope, bool flip) -> Tensor",
)
torch.library.impl("lvgan::filtered_lrelu", "default", filtered_lrelu_reference)
torch.library.impl("lvgan::filtered_mask", "default", filtered_mask_reference)


@torch.library.register_fake("lvgan::filtered_lrelu")
def _fake(
    x: Tensor,
    fu: Tensor,
    fd: Tensor,
    b: Tensor | None,
    up: int,
    down: int,
    offset: Pair,
    high: Pair,
    low: Pair,
    gain: float,
    slope: float,
    clamp: float | None,
    flip: bool,
    save_codes: bool,
) -> tuple[Tensor, Tensor]:
    y = x.new_empty(x.shape[0], x.shape[1], low[1], low[0])
    return y, x.new_empty(_codes_shape(x, high, save_codes), dtype=torch.uint8)


@torch.library.register_fake("lvgan::filtered_mask")
def _fake_mask(
    x: Tensor,
    codes: Tensor,
    fu: Tensor,
    fd: Tensor,
    up: int,
    down: int,
    up_offset: Pair,
    down_offset: Pair,
    high: Pair,
    low: Pair,
    *_: Any,
) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], low[1], low[0])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, fu, fd, _, up, down, offset, high, _, gain, slope, _, flip, save_codes = inputs
    if not save_codes:
        raise RuntimeError("lvgan::filtered_lrelu: a gradient needs save_codes=True")
    ctx.settings = (up, down, offset, [0, 0], high, gain * up * up, slope, flip)
    ctx.in_size = [x.shape[3], x.shape[2]]
    ctx.save_for_backward(output[1], fu, fd)
    ctx.mark_non_differentiable(output[1])


def _setup_mask_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, codes, fu, fd, up, down, up_offset, down_offset, high, _, gain, slope, flip = inputs
    ctx.settings = (up, down, up_offset, down_offset, high, gain, slope, flip)
    ctx.in_size = [x.shape[3], x.shape[2]]
    ctx.save_for_backward(codes, fu, fd)


def _transpose(ctx: Any, dy: Tensor) -> Tensor:
    """Apply the transpose of ``filtered_mask``: the filters in reverse order, each transposed."""
    codes, fu, fd = ctx.saved_tensors
    up, down, up_offset, down_offset, high, gain, slope, flip = ctx.settings
    return torch.ops.lvgan.filtered_mask(
        dy,
        codes,
        fd,
        fu,
        down,
        up,
        transposed_offset(fd, down_offset),
        transposed_offset(fu, up_offset),
        high,
        ctx.in_size,
        gain,
        slope,
        not flip,
    )


def _backward(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    dx = _transpose(ctx, dy)
    db = dx.sum((0, 2, 3)) if ctx.needs_input_grad[3] else None
    return (dx, None, None, db, *[None] * 10)


def _mask_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    return (_transpose(ctx, dy), *[None] * 12)


torch.library.register_autograd("lvgan::filtered_lrelu", _backward, setup_context=_setup_context)
torch.library.register_autograd("lvgan::filtered_mask", _mask_backward, setup_context=_setup_mask_context)
