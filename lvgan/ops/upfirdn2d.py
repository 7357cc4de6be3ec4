"""upfirdn2d: zero-insert upsampling, padding or cropping, an FIR filter, and keeping every n-th sample.

The operator ``lvgan::upfirdn2d`` is stated through one sum per axis. With taps ``g[k]`` (in the
order of a correlation), factors `up` and `down`, and an input `x` that is zero outside itself::

    y[o] = sum over i of  g[i * up + offset - o * down] * x[i],    0 <= o < size

`offset` is the padding before the first sample (negative: a crop); the padding after the last
one only decides `size`. The transpose of such an operator is another: `up` and `down` change
places, the taps are reversed, and ``offset -> taps - 1 - offset``. That is its backward.

Source: shared facts, chapter 1 E; the filter is that of ``scipy.signal.upfirdn`` along both axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lvgan.ops.arguments import (
    Pair,
    check_factor,
    check_filter,
    check_finite_taps,
    check_flag,
    check_image,
    check_number,
    check_padding,
    output_size,
)

_TILE = 32  # outputs of one banded matrix product: the fastest of 8 to 96 on an x86 CPU
_CHUNK = 2**18  # samples of an intermediate signal that stay in a core's cache


def setup_filter(
    taps: Sequence[float] | Sequence[Sequence[float]] | Tensor,
    *,
    normalize: bool = True,
    gain: float = 1.0,
    flip: bool = False,
    separable: bool | None = None,
) -> Tensor:
    """Make a filter for :func:`upfirdn2d` out of `taps`, in float32.

    `taps` is one-dimensional or ``[height, width]``. A one-dimensional one stays so if
    `separable` (it is then applied along both axes) and becomes its outer product otherwise;
    by default it stays from 8 taps on. `normalize` makes the sum 1, `gain` is the total gain
    over both axes, `flip` reverses the taps. Raises ValueError for an unusable `taps`.
    """
    try:
        f = torch.as_tensor(taps, dtype=torch.float32).clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"taps: expected numbers, got {taps!r}") from error
    if f.ndim == 0:
        f = f[None]
    if f.ndim > 2 or f.numel() == 0:
        raise ValueError(f"taps: expected one or two axes with at least one tap, got shape {tuple(f.shape)}")
    check_finite_taps(f, "taps")
    gain = check_number(gain, "gain")
    if separable is None:
        separable = f.ndim == 1 and f.numel() >= 8
    if separable and f.ndim == 2:
        raise ValueError("separable: a filter of two axes is not separable; give the taps of one axis")
    if f.ndim == 1 and not separable:
        f = f[:, None] * f
    if f.ndim == 1 and gain < 0:
        raise ValueError(f"gain: both axes of a separable filter have its root, so not below 0; got {gain}")
    if normalize:
        if f.sum() == 0:
            raise ValueError("taps: their sum is 0 and cannot be normalised; pass normalize=False")
        f = f / f.sum()
    if flip:
        f = f.flip(tuple(range(f.ndim)))
    return f * gain ** (f.ndim / 2)


def upfirdn2d(
    x: Tensor,  # [N, C, H, W]
    f: Tensor | None,  # [taps] or [taps_y, taps_x]
    *,
    up: int | Pair = 1,
    down: int | Pair = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Resample ``[N, C, H, W]``: upsample by zero insertion, pad, filter, downsample.

    `f` is a filter of :func:`setup_filter` (None: a single tap of 1); one axis of taps is applied
    along both axes. It is convolved with the signal; with `flip_filter` it is correlated.
    `up` and `down` are factors, an int or ``(x, y)``; `padding` counts samples of the upsampled
    signal, an int, ``(x, y)`` or ``(x0, x1, y0, y1)``, and crops where negative. `gain`
    multiplies the result. The output has ``(W * up + x0 + x1 - taps) // down + 1`` columns.

    Differentiable any number of times in `x`, not in `f`. Half precisions are computed in float32.
    A NaN or infinity reaches the outputs whose taps cover it and no others (but for the reference
    with one axis of taps on anything but a CPU, where NaN reaches up to 1024 outputs). Raises
    ValueError naming the argument that does not fit.
    """
    check_image(x, "x")
    taps = check_filter(f, x, "f")
    ups, downs = check_factor(up, "up"), check_factor(down, "down")
    left, right, top, bottom = check_padding(padding)
    gain = check_number(gain, "gain")
    check_flag(flip_filter, "flip_filter")
    if f is None and gain == 1 and ups == downs == [1, 1] and not any((left, right, top, bottom)):
        return x
    width = output_size(x.shape[3], ups[0], downs[0], left, right, taps.shape[-1])
    height = output_size(x.shape[2], ups[1], downs[1], top, bottom, taps.shape[0])
    op = torch.ops.lvgan.upfirdn2d
    return op(x, taps, ups, downs, [left, top], [width, height], flip_filter, gain)


def upsample2d(
    x: Tensor,  # [N, C, H, W]
    f: Tensor | None,  # [taps] or [taps_y, taps_x]
    *,
    up: int | Pair = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Upsample ``[N, C, H, W]`` to ``[N, C, H * up, W * up]``, keeping its place and magnitude.

    `padding` counts output samples on top of that; the rest is as for :func:`upfirdn2d`.
    """
    check_image(x, "x")
    taps, (up_x, up_y) = check_filter(f, x, "f"), check_factor(up, "up")
    centred = [(taps.shape[-1] + up_x - 1) // 2, (taps.shape[-1] - up_x) // 2]
    centred += [(taps.shape[0] + up_y - 1) // 2, (taps.shape[0] - up_y) // 2]
    sides = [a + b for a, b in zip(centred, check_padding(padding), strict=True)]
    return upfirdn2d(x, f, up=up, padding=sides, flip_filter=flip_filter, gain=check_number(gain, "gain") * up_x * up_y)


def downsample2d(
    x: Tensor,  # [N, C, H, W]
    f: Tensor | None,  # [taps] or [taps_y, taps_x]
    *,
    down: int | Pair = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Downsample ``[N, C, H, W]`` to ``[N, C, H // down, W // down]``, keeping its place.

    With ``down=1`` it filters. `padding` counts input samples on top of what the filter
    needs; the rest is as for :func:`upfirdn2d`.
    """
    check_image(x, "x")
    taps, (down_x, down_y) = check_filter(f, x, "f"), check_factor(down, "down")
    centred = [(taps.shape[-1] - down_x + 1) // 2, (taps.shape[-1] - down_x) // 2]
    centred += [(taps.shape[0] - down_y + 1) // 2, (taps.shape[0] - down_y) // 2]
    sides = [a + b for a, b in zip(centred, check_padding(padding), strict=True)]
    return upfirdn2d(x, f, down=down, padding=sides, flip_filter=flip_filter, gain=gain)


# --- reference -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Axis:
    """One axis of the operator: ``y[o] = sum of taps[i * up + offset - o * down] * x[i]``."""

    up: int
    down: int
    offset: int
    inputs: int
    outputs: int

    @property
    def period(self) -> int:
        """Outputs after which the same taps fall on the inputs again."""
        return self.up // math.gcd(self.up, self.down)

    @property
    def step(self) -> int:
        """Inputs from one period to the next."""
        return self.down // math.gcd(self.up, self.down)

    def first(self, output: int) -> int:
        """The first input (perhaps outside the signal) that a tap reaches at `output`."""
        return -((self.offset - output * self.down) // self.up)

    def tiles(self, taps: Tensor, size: int) -> Iterator[tuple[slice, slice, Tensor]]:
        """Cut the outputs into runs of about `size`, with their inputs and their banded matrix.

        Every run has the same matrix, but for the columns that fall outside the signal.
        """
        rows = min(-(-size // self.period), -(-self.outputs // self.period)) * self.period
        start = self.first(0)
        columns = ((rows - 1) * self.down - self.offset + len(taps) - 1) // self.up - start + 1
        inputs = torch.arange(start, start + columns, device=taps.device)
        outputs = torch.arange(rows, device=taps.device)[:, None]
        index = inputs * self.up + self.offset - outputs * self.down
        matrix = F.pad(taps, (0, 1))[index.clamp(-1, len(taps))]  # outside the taps: the zero
        for a in range(0, self.outputs, rows):
            b = min(a + rows, self.outputs)
            origin = self.first(a)
            lo = min(max(origin, 0), self.inputs)
            hi = max(min(origin + columns, self.inputs), lo)
            yield slice(a, b), slice(lo, hi), matrix[: b - a, lo - origin : hi - origin]

    def phases(self, taps: int) -> Iterator[tuple[slice, slice, int, int, tuple[int, int]]]:
        """Split the operator by output phase into plain strided correlations.

        Yields the outputs, their taps, the number of those, the stride and the padding.
        """
        for r in range(min(self.period, self.outputs)):
            count = -(-(self.outputs - r) // self.period)
            start = self.first(r)
            tap = start * self.up + self.offset - r * self.down
            used = max(-(-(taps - tap) // self.up), 0)
            end = start + (count - 1) * self.step + max(used, 1)
            padding = (-start, end - self.inputs)
            yield slice(r, None, self.period), slice(tap, None, self.up), used, self.step, padding


def _pad_or_crop(images: Tensor, padding: Sequence[int]) -> Tensor:
    """Pad ``[..., H, W]`` by (x0, x1, y0, y1), then crop where those are negative."""
    x0, x1, y0, y1 = padding
    padded = F.pad(images, [max(side, 0) for side in padding])
    H, W = padded.shape[-2:]
    return padded[..., max(-y0, 0) : H - max(-y1, 0), max(-x0, 0) : W - max(-x1, 0)]


class Resampler:
    """The exact reference of one upfirdn2d, made once and then applied to any number of images.

    A one-dimensional filter runs as banded matrix products along each axis (on CPUs several times
    as fast as convolutions), a two-dimensional one as depthwise convolutions, one for each output
    phase. Neither touches inserted zeros. The zeros of a banded matrix would spread NaN and infinity
    further than the filter reaches: on a CPU, images with any go through sums over the taps alone
    (elsewhere the host would have to wait in order to know).
    """

    def __init__(
        self,
        f: Tensor,  # [taps] or [taps_y, taps_x]
        in_size: Pair,
        up: Pair,
        down: Pair,
        offset: Pair,
        out_size: Pair,
        flip: bool,
        gain: float,
    ) -> None:
        correlation = f if flip else f.flip(tuple(range(f.ndim)))
        self.out_size = out_size
        self.x, self.y = (_Axis(up[i], down[i], offset[i], in_size[i], out_size[i]) for i in range(2))
        self.taps = correlation * gain if f.ndim == 2 else correlation
        self.gain = gain
        self.plain = f.shape == (1,) and list(up) == list(down) == [1, 1]
        if f.ndim == 1 and not self.plain:
            tile = _TILE if f.device.type == "cpu" else 1024
            self.tiles_x = list(self.x.tiles(correlation * gain, tile))
            self.tiles_y = list(self.y.tiles(correlation, tile))

    def __call__(self, images: Tensor) -> Tensor:  # [B, H, W] -> [B, H', W']
        if self.plain:
            return self._crop(images) * (self.taps.square() * self.gain)
        with torch.autocast(images.device.type, enabled=False):  # it would halve the precision
            if self.taps.ndim == 2:
                return self._full(images)
            return self._tap_by_tap(images) if known_not_finite(images) else self._separable(images)

    def _crop(self, images: Tensor) -> Tensor:
        pad_x, pad_y = ((a.offset, a.outputs - a.inputs - a.offset) for a in (self.x, self.y))
        return _pad_or_crop(images, pad_x + pad_y)

    def _separable(self, images: Tensor) -> Tensor:
        B, H, W = images.shape
        width, height = self.out_size
        rows = images.reshape(B * H, W)
        wide = rows.new_empty(B * H, width)
        for out, source, matrix in self.tiles_x:
            wide[:, out] = rows[:, source] @ matrix.T
        wide = wide.view(B, H, width)
        result = wide.new_empty(B, height, width)
        for out, source, matrix in self.tiles_y:
            result[:, out] = torch.bmm(matrix.expand(B, -1, -1), wide[:, source])
        return result

    def _tap_by_tap(self, images: Tensor) -> Tensor:
        """As :meth:`_separable`, slower: no number is multiplied that the filter does not reach."""
        for axis, dim, gain in ((self.x, 2, self.gain), (self.y, 1, 1.0)):
            shape = list(images.shape)
            shape[dim] = axis.outputs
            result = images.new_zeros(shape)
            for out, taps, used, step, (before, after) in axis.phases(len(self.taps)):
                padded = _pad_or_crop(images, (before, after, 0, 0) if dim == 2 else (0, 0, before, after))
                if used:
                    windows = padded.unfold(dim, used, step)  # [..., outputs of this phase, used]
                    index = [slice(None), slice(None), slice(None)]
                    index[dim] = out
                    result[tuple(index)] = (windows * (self.taps[taps] * gain)).sum(-1)
            images = result
        return images

    def _full(self, images: Tensor) -> Tensor:
        B = images.shape[0]
        result = images.new_zeros(B, self.out_size[1], self.out_size[0])
        if B == 0:
            return result
        for out_y, taps_y, used_y, step_y, pad_y in self.y.phases(self.taps.shape[0]):
            for out_x, taps_x, used_x, step_x, pad_x in self.x.phases(self.taps.shape[1]):
                if used_x and used_y:  # else a factor above the number of taps: zeros
                    kernel = self.taps[taps_y, taps_x].expand(B, 1, -1, -1)
                    padded = _pad_or_crop(images, pad_x + pad_y)
                    y = F.conv2d(padded[None], kernel, stride=(step_y, step_x), groups=B)
                    result[:, out_y, out_x] = y[0]
        return result


def known_not_finite(images: Tensor) -> bool:
    """Whether there is a NaN or infinity in `images` (or almost); False where the host would have to wait for that."""
    return images.device.type == "cpu" and not math.isfinite(images.sum())


def image_chunks(x: Tensor, samples: int) -> Iterator[slice]:
    """Slices over the N·C images of `x`; on a CPU small enough for its cache.

    `samples` is the size of the largest signal that one image passes through.
    """
    count = x.shape[0] * x.shape[1]
    chunk = max(_CHUNK // max(samples, 1), 1) if x.device.type == "cpu" else max(count, 1)
    return (slice(start, min(start + chunk, count)) for start in range(0, count, chunk))


def upfirdn2d_reference(
    x: Tensor, f: Tensor, up: Pair, down: Pair, offset: Pair, size: Pair, flip: bool, gain: float
) -> Tensor:
    """``lvgan::upfirdn2d`` in plain PyTorch; the arguments are those of the operator."""
    N, C, H, W = x.shape
    resample = Resampler(f, (W, H), up, down, offset, size, flip, gain)
    images = x.reshape(N * C, H, W)
    y = x.new_empty(N, C, size[1], size[0])
    out = y.view(N * C, size[1], size[0])
    for part in image_chunks(x, max(H, size[1]) * max(W, size[0])):
        out[part] = resample(images[part].to(f.dtype))
    return y


# --- operator ------------------------------------------------------------------------------------

torch.library.define(
    "lvgan::upfirdn2d",
    "(Tensor x, Tensor f, int[] up, int[] down, SymInt[] offset, SymInt[] size, bool flip, float gain) -> Tensor",
)
torch.library.impl("lvgan::upfirdn2d", "default", upfirdn2d_reference)


@torch.library.register_fake("lvgan::upfirdn2d")
def _fake(x: Tensor, f: Tensor, up: Pair, down: Pair, offset: Pair, size: Pair, flip: bool, gain: float) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], size[1], size[0])


def transposed_offset(f: Tensor, offset: Pair) -> list[int]:
    """The offset of the transpose of an operator with filter `f` and `offset`."""
    return [f.shape[-1] - 1 - offset[0], f.shape[0] - 1 - offset[1]]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, f, *ctx.settings = inputs
    ctx.in_size = [x.shape[3], x.shape[2]]
    ctx.save_for_backward(f)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    (f,) = ctx.saved_tensors
    up, down, offset, _, flip, gain = ctx.settings
    op, back = torch.ops.lvgan.upfirdn2d, transposed_offset(f, offset)
    dx = op(dy, f, down, up, back, ctx.in_size, not flip, gain) if ctx.needs_input_grad[0] else None
    return dx, None, None, None, None, None, None, None


torch.library.register_autograd("lvgan::upfirdn2d", _backward, setup_context=_setup_context)
