"""Pictures and clips that a run writes into ``samples/``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lvgan.data.dataset import ClipDataset
from lvgan.generate.generators import upscale
from lvgan.generate.grid import filmstrip, grid
from lvgan.generate.output import write_picture, write_video
from lvgan.generate.timeline import Frames, iterate
from lvgan.models.sr_generator import SrGenerator
from lvgan.pixels import from_bytes

LONG = 8  # clip lengths
LONGEST = 1024  # frames: what that is in the paper's preset


def write_clip_preview(clips: Tensor, folder: Path, name: str, fps: float) -> None:
    """``[N, C, T, H, W]``: a film strip (PNG), one row a clip, and a grid of the clips in motion (MP4)."""
    write_picture(filmstrip(clips), folder / f"{name}.png")
    write_video(grid(clips).unbind(1), folder / f"{name}.mp4", fps)


def write_long_preview(video: Frames, frames: int, folder: Path, name: str, fps: float) -> None:
    """Eight times the trained clip length (`frames`), at most 1024 frames or one clip, made as it is written (MP4)."""
    count = min(LONG * frames, max(LONGEST, frames))
    write_video(iterate(video, 0, count), folder / f"{name}.mp4", fps)


def write_pair_preview(low: Tensor, made: Tensor, high: Tensor, folder: Path, name: str, fps: float) -> None:
    """Input, output and truth side by side, one row a clip: the first frames (PNG), and in motion (MP4)."""
    size = tuple(high.shape[3:])
    enlarged = torch.stack([interpolate(clip.transpose(0, 1), size=size).transpose(0, 1) for clip in low])
    columns = torch.cat([enlarged, made, high], 4)  # [N, C, T, H, 3 * W]
    tall = grid(columns, rows=len(columns))
    write_picture(tall[:, 0], folder / f"{name}.png")
    write_video(tall.unbind(1), folder / f"{name}.mp4", fps)


def write_long_pair_preview(
    dataset: ClipDataset, generator: SrGenerator, frames: int, folder: Path, name: str, fps: float
) -> None:
    """The first clip's first `frames` frames (or as many as it has): input, output and truth side by side (MP4)."""
    clip = dataset.clips[0]
    count = min(frames, clip.frames)
    low = torch.from_numpy(dataset.read(clip.name, 0, count, "lr")).permute(0, 3, 1, 2)  # [T, C, h, w]

    def columns() -> Iterator[Tensor]:
        for index, made in enumerate(upscale(iter(low), generator)):
            truth = torch.from_numpy(dataset.read(clip.name, index, 1, "hr")[0]).permute(2, 0, 1)
            enlarged = interpolate(from_bytes(low[index])[None], size=tuple(made.shape[1:]))[0]
            yield torch.cat([enlarged, made, from_bytes(truth)], 2)

    write_video(columns(), folder / f"{name}.mp4", fps)
