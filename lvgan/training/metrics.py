"""How good is it, cheaply, during training: what is measured at every preview.

Low resolution, ``metric/color_area``: mean absolute difference of the mean colour similarity curves of generated
and real clips (:mod:`lvgan.evaluation.color`), 0 … 1, lower is better. It judges how colours change over time, not
how sharp a picture is. With few clips it is noisy: 0.01 to 0.03 more or less at 64 clips, but always of the same
seeds, so that steps of a run compare better than that.

Super-resolution, of real low-resolution clips and their real high resolution:

- ``metric/low_error``: after both were averaged down to low resolution, standard deviation of the difference over
  that of the real one. What is determined must be right: 0 is perfect, 1 is a blank picture.
- ``metric/detail``, ``metric/sharpness``: root mean square of what averaging over blocks of the size of a
  low-resolution pixel, and of 2x2 pixels, takes away; generated over real. 1 is perfect, less is blurred.
- ``metric/flicker``: root mean square change of the former detail from frame to frame, generated over real.
- ``metric/sr_distance``: low_error + the mean |log2| of the ratios; 0 is perfect, lower is better.

Fixed seeds and fixed real clips: a function of the weights and the data. Nothing here draws from a global generator.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from lvgan import config as cfg
from lvgan.data.dataset import ClipDataset
from lvgan.errors import DataError
from lvgan.evaluation.color import BINS, CurveAccumulator, measure_similarity
from lvgan.evaluation.sources import ShardSource
from lvgan.files import write_whole
from lvgan.generate.output import frame_array
from lvgan.generate.timeline import LrVideo
from lvgan.models.lr_generator import LrGenerator
from lvgan.models.sr_generator import SrGenerator
from lvgan.pixels import from_bytes
from lvgan.seeding import derive, torch_generator

# Lower is better for both; the checkpoint that has the lowest so far is kept.
BEST_BY = {"lr": "metric/color_area", "sr": "metric/sr_distance"}
COLOR_FRAMES = 128  # the paper's protocol
REAL_CLIPS = 4  # real clips for each generated one: they are measured once

# --- low resolution -------------------------------------------------------------------------------


def color_frames(dataset: ClipDataset, frames: int) -> int:
    """Frames of a measured clip: 128 if half of the clips (all of `frames` or more) have them, else `frames`."""
    lengths = [clip.frames for clip in dataset.clips]
    long_enough = sum(length >= COLOR_FRAMES for length in lengths)
    return COLOR_FRAMES if 2 * long_enough >= len(lengths) else frames


def color_area(generator: LrGenerator, config: cfg.LrConfig, dataset: ClipDataset, folder: Path) -> float:
    """Distance of the colour similarity curves of `generator` and the data.

    Args:
        folder: the run's, in which the data's curve is kept.

    Raises:
        DataError: the data can no longer be read, or a generated frame is not finite.
    """
    frames = color_frames(dataset, config.data.frames)
    clips = config.training.metric_clips
    real = real_color_curve(dataset, frames, REAL_CLIPS * clips, folder / "real-color.json")
    made = CurveAccumulator("generated")
    for index in range(clips):
        # Segments of the trained length: what trains fits into memory.
        clip = LrVideo(generator, derive(0, "metric", index), segment=config.data.frames).clip(0, frames)
        if not bool(torch.isfinite(clip).all()):
            raise DataError("the generator makes NaN or infinite values")
        made.add(np.stack([frame_array(frame) for frame in clip.unbind(1)]))
    difference = made.result().mean - real
    return float(np.abs(difference[1:]).mean())


def real_color_curve(dataset: ClipDataset, frames: int, clips: int, cache: Path) -> np.ndarray:
    """Mean colour similarity of `clips` random clips of the data, float64 [frames]; measured once, then read."""
    key = {
        "measure": "color similarity",
        "data": f"{dataset.fingerprint} {dataset.content('lr')}",
        "size": str(dataset.lr),
        "frames": frames,
        "clips_asked": clips,
        "bins": BINS,
        "seed": 0,
    }
    stored = read_json(cache)
    if {k: stored.get(k) for k in key} == key and len(stored.get("mean") or ()) == frames:
        return np.asarray(stored["mean"], np.float64)
    source = ShardSource(dataset.root, "footage", dataset.lr)
    curve = measure_similarity(source, clips=clips, frames=frames, real=True)
    write_json(cache, {**key, "clips": curve.clips, "mean": curve.mean.tolist()})
    return curve.mean


# --- super-resolution -----------------------------------------------------------------------------


def sr_distance(generator: SrGenerator, clips: Callable[[int], Sequence[Tensor]], count: int) -> dict[str, float]:
    """The measures of super-resolution, see the module's description.

    Args:
        clips: ``clips(n)`` gives n pairs of real clips: low uint8 [n, C, T + 2 context, h, w] and
            high uint8 [n, C, T, H, W].
    """
    low, high = clips(count)
    device = next(generator.parameters()).device
    sums = _SrSums(high.shape[-2] // low.shape[-2])
    for index, (small, large) in enumerate(zip(low, high, strict=True)):
        z = torch.randn(1, generator.z_dim, generator=torch_generator(0, "metric", index))
        with torch.inference_mode():
            made = generator(z.to(device), from_bytes(small)[None].to(device))[0].float().cpu()
        sums.add(made, from_bytes(large))
    return sums.result()


class _SrSums:
    """Mean squares over clips, each [C, T, H, W]."""

    def __init__(self, factor: int) -> None:
        self._factor = factor
        self._rows: list[list[float]] = []

    def add(self, made: Tensor, real: Tensor) -> None:
        made_low, real_low = (avg_pool2d(clip, self._factor) for clip in (made, real))
        row = [_power(made_low - real_low), _power(real_low - real_low.mean())]
        for clip in (made, real):
            detail = _detail(clip, self._factor)
            row += [_power(detail), _power(_detail(clip, 2)), _power(detail.diff(dim=1)) if len(detail[0]) > 1 else 0.0]
        self._rows.append(row)

    def result(self) -> dict[str, float]:
        mean = np.asarray(self._rows).mean(0)
        error, contrast, made, real = mean[0], mean[1], mean[2:5], mean[5:8]
        ratios = np.sqrt((made + 1e-10) / (real + 1e-10))  # of flat footage: 1 where both are flat
        values = {"metric/low_error": math.sqrt(error / max(contrast, 1e-10))}
        values |= dict(zip(("metric/detail", "metric/sharpness", "metric/flicker"), ratios.tolist(), strict=True))
        values["metric/sr_distance"] = values["metric/low_error"] + float(np.abs(np.log2(ratios)).mean())
        return values


def _detail(clip: Tensor, factor: int) -> Tensor:
    """``[C, T, H, W]`` without the means of blocks; rows and columns that fill no block are left out."""
    height, width = (side // factor * factor for side in clip.shape[-2:])
    clip = clip[..., :height, :width]
    return clip - interpolate(avg_pool2d(clip, factor), scale_factor=factor, mode="nearest")


def _power(x: Tensor) -> float:
    return float(x.double().square().mean())


# --- files ----------------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file of ours holds; empty for none, or a damaged one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write `values` so that `path` is at every moment the old file or the new one."""
    write_whole(path, lambda file: file.write(json.dumps(values).encode() + b"\n"))
