"""Float frames to picture and video files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from lvgan.data.encoding import open_writer
from lvgan.pixels import to_bytes


def frame_array(frame: Tensor) -> np.ndarray:
    """A float picture ``[C, H, W]`` as uint8 ``[H, W, 1 or 3]``; of 2 or 4 channels the first is shown."""
    picture = to_bytes(frame)
    if picture.shape[0] not in (1, 3):
        picture = picture[:1]
    return np.ascontiguousarray(picture.permute(1, 2, 0).numpy())


def write_picture(frame: Tensor, path: Path) -> None:
    """Write a float picture ``[C, H, W]`` as PNG."""
    array = frame_array(frame)
    partial = path.with_name(f".{path.name}.partial")
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(partial, format="png")
    os.replace(partial, path)


def write_video(frames: Iterable[Tensor], path: Path, fps: float = 30) -> int:
    """Write float frames ``[C, H, W]`` as they come; the format is the path's (see ``open_writer``).

    Returns how many were written.
    """
    count = 0
    with open_writer(path, fps) as writer:
        for frame in frames:
            writer.write(frame_array(frame))
            count += 1
    return count
