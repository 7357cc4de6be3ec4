"""Trained networks as sources of clips."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lvgan import checkpoint as ckpt
from lvgan.errors import DataError
from lvgan.evaluation.sources import FunctionSource, Numbered, ShardSource, Wanted
from lvgan.generate.generators import load_generators, load_sr, to_channels, upscale
from lvgan.generate.output import frame_array
from lvgan.generate.timeline import Frames
from lvgan.seeding import derive
from lvgan.sizes import Size


class ModelSource(FunctionSource):
    """Clips of a low-resolution checkpoint, a pair or a bundle: one seed a clip, from frame 0."""

    def __init__(self, path: Path, sr_path: Path | None, device: torch.device, label: str) -> None:
        generators = load_generators(path, sr_path, device)
        self._generators = generators
        network = generators.sr or generators.lr
        self.size = Size(*network.size)

        def make(index: int, frames: int, seed: int) -> np.ndarray:
            return clip_array(self.video(index, seed), frames)

        record = {
            "checkpoint": str(ckpt.find(path)),
            "super_resolution": None if sr_path is None else str(ckpt.find(sr_path)),
        }
        super().__init__(label, make, record)

    def video(self, index: int, seed: int) -> Frames:
        """The endless video of which clip `index` is the beginning."""
        return self._generators.video(derive(seed, "clip", index))


class UpscaledSource:
    """Clips of a super-resolution checkpoint on the real low-resolution clips of its data."""

    def __init__(self, path: Path, device: torch.device, label: str) -> None:
        path = ckpt.find(path)
        loaded = ckpt.load(path)
        data = (loaded["sr"] if loaded["stage"] == "bundle" else loaded)["config"]["data"]
        if not Path(data["path"]).is_dir():
            raise DataError(
                f"{path} was trained on {data['path']}, which is gone; its low-resolution frames are needed"
            )
        self.label = label
        self._generator, low = load_sr(path, device)
        self._low = ShardSource(data["path"], label, low)
        self.size = Size(*self._generator.size)
        self._record = {"kind": "super-resolution of real low resolution", "checkpoint": str(path)}

    def clips(self, count: int, frames: int, seed: int) -> Iterator[np.ndarray]:
        """At most `count` random clips, uint8 [frames, H, W, 1 or 3]."""
        return (clip for _, clip in self.numbered(count, frames, seed))

    def numbered(self, count: int, frames: int, seed: int, wanted: Wanted | None = None) -> Iterator[Numbered]:
        """Clips with their numbers; only those `wanted` are made."""
        for index, clip in self._low.numbered(count, frames, seed, wanted):
            source = (to_channels(f, self._generator.channels) for f in torch.from_numpy(clip).permute(0, 3, 1, 2))
            high = upscale(source, self._generator, derive(seed, "latent", index))
            yield index, np.stack([frame_array(frame) for frame in high])

    def weights(self, count: int, frames: int, seed: int) -> np.ndarray:
        """Those of the input's clips."""
        return self._low.weights(count, frames, seed)

    def describe(self) -> dict[str, Any]:
        """The checkpoint and its input."""
        return {**self._record, "input": self._low.describe()}


def clip_array(video: Frames, frames: int) -> np.ndarray:
    """The first `frames` frames as uint8 ``[T, H, W, 1 or 3]``."""
    return np.stack([frame_array(frame) for frame in video.clip(0, frames).unbind(1)])


def open_model(text: str, device: torch.device, label: str | None = None) -> ModelSource | UpscaledSource:
    """The source of ``lr.pt``, ``lr.pt+sr.pt``, ``bundle.pt``, ``sr.pt`` or a run's folder."""
    first, plus, second = text.partition("+")
    path = Path(first)
    if plus:
        return ModelSource(path, Path(second), device, label or f"{path.stem} + {Path(second).stem}")
    stage = ckpt.load(ckpt.find(path))["stage"]
    name = label or ckpt.find(path).stem
    return UpscaledSource(path, device, name) if stage == "sr" else ModelSource(path, None, device, name)
