"""Layers that several networks share: equalised layers, normalisation, the magnitude EMA.

Every weight is stored at unit variance (divided by the layer's learning-rate multiplier) and
scaled when it is used, so that Adam's step has the same relative size in every layer
(equalised learning rate).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvgan.models.running import HALVES
from lvgan.ops import bias_act, native, upfirdn2d


def normalize_rms(x: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Divide `x` by its root mean square over `dim`; same shape."""
    return x * (x.square().mean(dim, keepdim=True) + eps).rsqrt()


class FullyConnected(nn.Module):
    """Equalised fully connected layer over the last axis: ``[..., in] -> [..., out]``.

    `activation` is an activation of :func:`lvgan.ops.bias_act` (with its own gain);
    `lr_multiplier` slows the layer's learning by that factor.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        activation: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init / lr_multiplier)) if bias else None
        self.activation = activation
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.weight * self.weight_gain).to(x.dtype)
        bias = None if self.bias is None else self.bias * self.bias_gain
        if self.activation == "linear":
            return F.linear(x, weight, None if bias is None else bias.to(x.dtype))
        y = F.linear(x, weight)
        return bias_act(y, None if bias is None else bias.to(y.dtype), dim=-1, activation=self.activation)


# Running statistics


class RunningStatistic(nn.Module, ABC):
    """A module with a running mean that a training batch moves once, however the batch is cut.

    Outside :func:`one_update`, :meth:`observe` moves the running mean at once.
    """

    _sum: Tensor
    _rows: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self._collecting = False
        # Buffers, so that they follow the module to its device; not state, so not in checkpoints.
        self.register_buffer("_sum", torch.zeros(shape), persistent=False)
        self.register_buffer("_rows", torch.zeros([]), persistent=False)

    @abstractmethod
    def move(self, mean: Tensor) -> None:
        """Move the running mean by the mean of one batch."""

    @torch.no_grad()
    def observe(self, mean: Tensor, rows: int) -> None:
        """Take note of a mean over `rows` rows, which all count the same."""
        if self._collecting:
            self._sum.add_(mean.detach().float(), alpha=rows)
            self._rows.add_(rows)
        else:
            self.move(mean.detach())


@contextmanager
def one_update(network: nn.Module, reduce: Callable[[Tensor], Tensor] | None = None) -> Iterator[None]:
    """Within, forwards with ``update_ema=True`` collect; at the end the running means move once.

    So neither the number of forwards that a batch is cut into nor that of processes matters. `reduce` sums a
    float32 tensor [K] over all processes, where there are several. After an error nothing moves.
    """
    parts = [module for module in network.modules() if isinstance(module, RunningStatistic)]
    for part in parts:
        part._collecting = True
        part._sum.zero_()
        part._rows.zero_()
    try:
        yield
    finally:
        for part in parts:
            part._collecting = False
    if not parts:
        return
    collected = torch.cat([x.flatten() for part in parts for x in (part._sum, part._rows)])
    collected = collected if reduce is None else reduce(collected)
    for part, values in zip(parts, collected.split([part._sum.numel() + 1 for part in parts]), strict=True):
        with torch.no_grad():
            part.move(values[:-1].view(part._sum.shape) / values[-1])


def mean_square(x: Tensor) -> Tensor:
    """Mean of x², a float32 scalar."""
    # By the norms of rows: one pass over memory, and the sums of each are short enough for float32.
    rows = tuple(range(min(3, x.ndim - 1), x.ndim))
    norms = torch.linalg.vector_norm(x, dim=rows, dtype=torch.promote_types(x.dtype, torch.float32))
    return (norms.square().sum() / x.numel()).float()


class MagnitudeEMA(RunningStatistic):
    """Running mean of x², and the gain that brings x to unit mean square.

    ``forward(x, update)`` returns ``x * rsqrt(mean_square)`` in float32 arithmetic; with
    `update` the mean is moved first: ``m <- decay * m + (1 - decay) * mean(x²)``. Training
    updates it in the discriminator's phase only, once a batch (:func:`one_update`): then the
    mean is moved after the forwards that have seen the batch.
    """

    mean_square: Tensor

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean_square", torch.ones([]))

    def move(self, mean: Tensor) -> None:
        """Move the running mean towards `mean`, a scalar."""
        self.mean_square.lerp_(mean, 1 - self.decay)

    def gain(self, x: Tensor, update: bool = False) -> Tensor:
        """The scalar gain for `x` (float32)."""
        if update:
            self.observe(mean_square(x.detach()), len(x))
        return self.mean_square.rsqrt()

    def forward(self, x: Tensor, update: bool = False) -> Tensor:
        return x * self.gain(x, update).to(x.dtype)


# Convolutions


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """Correlation with zero padding that keeps the size, in 1, 2 or 3 dimensions (odd kernels)."""
    conv = (F.conv1d, F.conv2d, F.conv3d)[weight.ndim - 3]
    padding = [size // 2 for size in weight.shape[2:]]
    if x.ndim == 5 and x.dtype in HALVES and x.shape[2] < weight.shape[2]:
        # Without zeros in the tensor itself, the CPU's bfloat16 gradient of the weight holds what nobody has written
        # (oneDNN, torch 2.13).
        x = F.pad(x, (0, 0, 0, 0, padding[0], padding[0]))
        padding[0] = 0
    return conv(x, weight.to(x.dtype), padding=padding)


class Convolution(nn.Module):
    """Equalised convolution, bias and activation in 1, 2 or 3 dimensions, as long as `kernel`.

    ``[N, in, ...] -> [N, out, ...]``; `resample` acts between convolution and bias, `gain` scales
    the result before it is clamped to ±`clamp`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Sequence[int],
        *,
        bias: bool = True,
        activation: Literal["linear", "lrelu"] = "linear",
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, *kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.activation = activation
        self.clamp = clamp
        self.weight_gain = 1 / math.sqrt(in_channels * math.prod(kernel))

    def forward(self, x: Tensor, *, resample: Callable[[Tensor], Tensor] | None = None, gain: float = 1.0) -> Tensor:
        y = convolve(x, self.weight * self.weight_gain)
        if resample is not None:
            y = resample(y)
        if self.activation == "lrelu":
            gain *= math.sqrt(2)
        bias = None if self.bias is None else self.bias.to(y.dtype)
        return bias_act(y, bias, activation=self.activation, gain=gain, clamp=self.clamp)


def modulated_conv3d(
    x: Tensor,  # [N, C_in, T, H, W]
    weight: Tensor,  # [C_out, C_in, kt, kh, kw]
    style: Tensor,  # [N, T, C_in]
    *,
    demodulate: bool = True,
    input_gain: Tensor | float = 1.0,
    output_gain: float = 1.0,
    add: Tensor | None = None,  # [N, C_out, T, H, W]
) -> Tensor:
    """Convolution whose input channels are scaled by a style of each frame: ``[N, C_out, T, H, W]``.

    The weights are shared by all frames: the input is multiplied by the style, and `demodulate`
    multiplies the output by ``rsqrt(sum(weight² style²) + 1e-8)`` of its own frame (spec A6).
    `input_gain` scales the input and is not demodulated; the result times `output_gain` is added
    to `add`.
    """
    if demodulate:
        # Scales that cancel; without them half precision overflows. Hence no gradient either.
        if x.dtype in HALVES:
            weight = weight / weight.detach().abs().amax((1, 2, 3, 4), keepdim=True)
        style = style / style.detach().abs().amax((1, 2), keepdim=True)
    y = convolve(x * _per_frame(style * input_gain, x.dtype), weight)
    if demodulate:
        energy = F.linear(style.square(), weight.square().sum((2, 3, 4)))
        scale = _per_frame((energy + 1e-8).rsqrt() * output_gain, y.dtype)
    else:
        scale = torch.full([], output_gain, dtype=y.dtype, device=y.device)
    return y * scale if add is None else torch.addcmul(add, y, scale)


def _per_frame(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """``[N, T, C] -> [N, C, T, 1, 1]``."""
    return scale.to(dtype).transpose(1, 2)[..., None, None]


# Resampling by 2; what lies outside is zero

FILTERED_AREA = 48 * 48  # pixels: the reference filters frames of 64x64 in a third of the products' time, not smaller
_TAPS = (0.125, 0.375, 0.375, 0.125)


def upsampling_matrix(size: int, out_size: int) -> Tensor:
    """Linear interpolation to twice the rate, centre-cropped: ``[out_size, size]``."""
    position = torch.arange(out_size) + (2 * size - out_size) // 2
    distance = (position[:, None] + 0.5) / 2 - (torch.arange(size) + 0.5)
    return (1 - distance.abs()).clamp_min(0)


def downsampling_matrix(size: int) -> Tensor:
    """The filter [1, 3, 3, 1] / 8 and every second sample: ``[ceil(size / 2), size]``."""
    even = size + size % 2
    return upsampling_matrix(even // 2, even).T[:, :size] / 2


def resample_space(x: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Apply a matrix to the rows and one to the columns of ``[..., H, W]``.

    At small sizes two dense products are faster than filtering, in both directions, and they have
    exact gradients of every order.
    """
    return torch.matmul(vertical.to(x.dtype), torch.matmul(x, horizontal.to(x.dtype).T))


def upsample_space(x: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """:func:`resample_space` with two of :func:`upsampling_matrix`."""
    height, width = x.shape[-2:]
    out_height, out_width = vertical.shape[0], horizontal.shape[0]
    if not _filter_is_faster(x, out_height * out_width):
        return resample_space(x, vertical, horizontal)
    padding = [*_doubled(width, out_width), *_doubled(height, out_height)]
    return _filter_space(x, up=2, padding=padding, gain=4.0)


def downsample_space(x: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """:func:`resample_space` with two of :func:`downsampling_matrix`."""
    height, width = x.shape[-2:]
    if not _filter_is_faster(x, height * width):
        return resample_space(x, vertical, horizontal)
    return _filter_space(x, down=2, padding=[1, 1 + width % 2, 1, 1 + height % 2])


def upsample_time(x: Tensor, frames: int | None = None) -> Tensor:
    """Linear interpolation to twice the frame rate, centre-cropped: ``[N, C, frames, ...]``."""
    total = x.shape[2]
    frames = 2 * total if frames is None else frames
    if _compiled_filter(x):
        return _filter_time(x, up=(1, 2), padding=[0, 0, *_doubled(total, frames)], gain=2.0)
    start = (2 * total - frames) // 2
    # Only what the crop needs: input frames first ... first + count - 1 and a neighbour on each side.
    first, count = start // 2, (start + frames + 1) // 2 - start // 2
    padded = _pad_time(x, 1 - first, first + count + 1 - total)
    centre = padded.narrow(2, 1, count)
    even = torch.lerp(centre, padded.narrow(2, 0, count), 0.25)
    odd = torch.lerp(centre, padded.narrow(2, 2, count), 0.25)
    return torch.stack([even, odd], 3).flatten(2, 3).narrow(2, start % 2, frames)


def downsample_time(x: Tensor) -> Tensor:
    """The filter [1, 3, 3, 1] / 8 over frames, and every second one: ``[N, C, ceil(T / 2), ...]``."""
    after = 1 + x.shape[2] % 2
    if _compiled_filter(x):
        return _filter_time(x, down=(1, 2), padding=[0, 0, 1, after])
    padded = _pad_time(x, 1, after)
    count = padded.shape[2] // 2 - 1
    taps = [padded[:, :, i : i + 2 * count : 2] for i in range(4)]
    return (taps[0] + taps[3]) * 0.125 + (taps[1] + taps[2]) * 0.375


def _compiled_filter(x: Tensor) -> bool:
    """Whether upfirdn2d has a kernel for `x` that takes a pass over memory for a factor of 2: in float on a CPU."""
    return x.device.type == "cpu" and x.element_size() >= 4 and native.active_library("cpu") is not None


def _filter_is_faster(x: Tensor, area: int) -> bool:
    """Whether frames of this (larger) area are filtered rather than multiplied: measured on a CPU."""
    return _compiled_filter(x) or (x.device.type == "cpu" and area >= FILTERED_AREA)


def _doubled(size: int, out_size: int) -> tuple[int, int]:
    """Padding before and after `size` samples of which the middle `out_size` of twice as many are wanted."""
    before = 2 - (2 * size - out_size) // 2
    return before, out_size - 2 * size + 3 - before


def _filter_space(x: Tensor, **how: Any) -> Tensor:
    taps = torch.tensor(_TAPS, device=x.device)
    return upfirdn2d(x.flatten(1, 2), taps, **how).unflatten(1, x.shape[1:3])


def _filter_time(x: Tensor, **how: Any) -> Tensor:
    taps = torch.tensor(_TAPS, device=x.device)[:, None]
    y = upfirdn2d(x.reshape(*x.shape[:3], -1), taps, **how)
    return y.view(*y.shape[:3], *x.shape[3:])


def crop_time(x: Tensor, frames: int) -> Tensor:
    """The middle `frames` of ``[N, C, T, ...]``."""
    return x.narrow(2, (x.shape[2] - frames) // 2, frames)


def _pad_time(x: Tensor, before: int, after: int) -> Tensor:
    """Zero frames at both ends of ``[N, C, T, ...]``; negative numbers crop."""
    return F.pad(x, [0, 0] * (x.ndim - 3) + [before, after])
