"""Pictures and clips that a run writes into ``samples/``."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lvgan.generate.grid import filmstrip, grid
from lvgan.generate.output import write_picture, write_video


def write_clip_preview(clips: Tensor, folder: Path, name: str) -> None:
    """``[N, C, T, H, W]``: a film strip (PNG), one row a clip, and a grid of the clips in motion (MP4)."""
    write_picture(filmstrip(clips), folder / f"{name}.png")
    write_video(grid(clips).unbind(1), folder / f"{name}.mp4")


def write_pair_preview(low: Tensor, made: Tensor, high: Tensor, folder: Path, name: str) -> None:
    """Input, output and truth side by side, one row a clip: the first frames (PNG), and in motion (MP4)."""
    size = tuple(high.shape[3:])
    enlarged = torch.stack([interpolate(clip.transpose(0, 1), size=size).transpose(0, 1) for clip in low])
    columns = torch.cat([enlarged, made, high], 4)  # [N, C, T, H, 3 * W]
    tall = grid(columns, rows=len(columns))
    write_picture(tall[:, 0], folder / f"{name}.png")
    write_video(tall.unbind(1), folder / f"{name}.mp4")
