"""Antialiased affine warps of clips.

Source: Karras et al. 2020, "Training generative adversarial networks with limited data",
appendix B: the picture is upsampled by 2 with a sym6 wavelet's low-pass filter, sampled
bilinearly, and downsampled by the same filter reversed. The wavelet is orthogonal, so the
identity warp gives the picture back. Beyond its edges the picture is mirrored.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lvgan.ops import setup_filter, upfirdn2d

# Low-pass taps of the symlet with 6 vanishing moments (Daubechies 1992, table 6.3).
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
REACH = 5  # samples of the doubled picture that a filter needs beyond those of a pixel itself


def affine_warp(clip: Tensor, matrix: Tensor) -> Tensor:
    """Warp every frame of one `clip` [C, T, H, W] by `matrix` [3, 3]; same shape.

    The matrix maps a place of the output to the place of the input that is shown there, both
    as (x, y, 1) in pixels from the frame's centre, x to the right and y down. Beyond a mirrored
    copy of the picture on each side lies 0. Differentiable twice with respect to `clip`, not at
    all with respect to `matrix`.
    """
    if clip.ndim != 4:
        raise ValueError(f"clip has {clip.ndim} axes, expected [C, T, H, W]")
    if matrix.shape != (3, 3):
        raise ValueError(f"matrix has shape {tuple(matrix.shape)}, expected (3, 3)")
    H, W = clip.shape[-2:]
    matrix = matrix.detach().cpu().double()
    margins = _margins(matrix, H, W)
    taps = setup_filter(SYM6, separable=True).to(clip.device)

    x = F.pad(clip.flatten(0, 1)[None], margins, mode="reflect")
    x = upfirdn2d(x, taps, up=2, padding=(6, 5, 6, 5), gain=4)
    x = _Sample.apply(x, _grid(matrix, H, W, margins, clip))
    # The grid reaches just as far beyond the frame as the filter does: no padding.
    x = upfirdn2d(x, taps, down=2, flip_filter=True)
    return x.view(clip.shape)


def _margins(matrix: Tensor, H: int, W: int) -> list[int]:
    """Pixels (left, right, top, bottom) to mirror, so that the warp does not see where they end."""
    half = torch.tensor([W, H], dtype=torch.float64) / 2
    corners = torch.tensor([(-1, -1), (-1, 1), (1, -1), (1, 1)]) * (half + REACH / 2)
    places = corners @ matrix[:2, :2].T + matrix[:2, 2]  # [4, 2]
    filter_reach = (REACH + 2) / 2
    low = (-places.amin(0) - half + filter_reach).ceil().tolist()
    high = (places.amax(0) - half + filter_reach).ceil().tolist()
    # A mirror image ends at the opposite edge.
    needed = zip((low[0], high[0], low[1], high[1]), (W, W, H, H), strict=True)
    return [min(max(int(pixels), 0), side - 1) for pixels, side in needed]


def _grid(matrix: Tensor, H: int, W: int, margins: list[int], like: Tensor) -> Tensor:
    """Sampling places [1, 2H + 10, 2W + 10, 2] in grid_sample's units of the mirrored picture.

    The wavelet is not symmetric; its weight lies on the sixth of its 12 taps. So pixel i, at
    i + ½ from the edge, is sample 2i of the doubled picture, and sample k lies at (k + 1) / 2.
    """
    left, right, top, bottom = margins
    x = torch.arange(1 - REACH, 2 * W + 1 + REACH, device=like.device).to(like.dtype) / 2 - W / 2
    y = torch.arange(1 - REACH, 2 * H + 1 + REACH, device=like.device).to(like.dtype) / 2 - H / 2
    # grid_sample counts from -1 to 1 over the doubled picture, and puts sample k at (k + ½) / 2.
    unit = torch.tensor([2 / (W + left + right), 2 / (H + top + bottom)], dtype=torch.float64)
    shift = torch.tensor([left - right, top - bottom], dtype=torch.float64) / 2 - 0.25
    linear = (matrix[:2, :2] * unit[:, None]).to(like)
    constant = ((matrix[:2, 2] + shift) * unit).to(like)
    along_x, along_y = x[:, None] * linear[:, 0], y[:, None] * linear[:, 1]  # [2W + 10, 2], ...
    return (along_y[:, None] + (along_x + constant)[None])[None]


class _Sample(torch.autograd.Function):
    """Bilinear sampling, with zeros outside; linear in the picture.

    The grid_sample of PyTorch 2.11 has no second derivative (that of 2.13 has one).
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.size = image.shape
        return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _SampleTransposed.apply(gradient, grid, ctx.size), None


class _SampleTransposed(torch.autograd.Function):
    """The transpose of :class:`_Sample`, whose own transpose is the sampling again."""

    @staticmethod
    def forward(ctx: Any, samples: Tensor, grid: Tensor, size: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        with torch.enable_grad():
            probe = samples.new_zeros(size).requires_grad_()
            sampled = F.grid_sample(probe, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return torch.autograd.grad(sampled, probe, samples)[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _Sample.apply(gradient, grid), None, None
