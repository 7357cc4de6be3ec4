"""Many clips in one picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def grid_rows(count: int) -> int:
    """Rows for `count` clips: the largest divisor that is not above the square root."""
    return next(rows for rows in range(math.isqrt(count), 0, -1) if count % rows == 0)


def grid(clips: Tensor, rows: int | None = None) -> Tensor:
    """``[N, C, T, H, W] -> [C, T, rows * H, columns * W]``, filled column by column."""
    N, C, T, H, W = clips.shape
    rows = rows or grid_rows(N)
    tiled = clips.reshape(N // rows, rows, C, T, H, W).permute(2, 3, 1, 4, 0, 5)
    return tiled.reshape(C, T, rows * H, (N // rows) * W)


def filmstrip(clips: Tensor, columns: int = 8) -> Tensor:
    """Some evenly spaced frames of each clip, one row a clip: ``[N, C, T, H, W] -> [C, N * H, columns * W]``."""
    picked = torch.linspace(0, clips.shape[2] - 1, min(columns, clips.shape[2])).round().long()
    rows = clips[:, :, picked]  # [N, C, columns, H, W]
    return rows.permute(1, 0, 3, 2, 4).reshape(clips.shape[1], -1, len(picked) * clips.shape[4])
