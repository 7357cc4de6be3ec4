"""Trained networks as sources of clips."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lvgan import checkpoint as ckpt
from lvgan.errors import DataError
from lvgan.evaluation.sources import FunctionSource, Numbered, ShardSource, StoredSource, Wanted, fit_frame
from lvgan.files import content_hash
from lvgan.generate.generators import load_generators, load_sr, to_channels, upscale
from lvgan.generate.output import frame_array
from lvgan.generate.timeline import Frames
from lvgan.pixels import from_bytes
from lvgan.seeding import derive
from lvgan.sizes import Size


class _Fitted:
    """Frames of another size, each cut and resized as stored pictures are."""

    def __init__(self, video: Frames, size: Size) -> None:
        self._video, self._size = video, size

    def clip(self, start: int, count: int) -> torch.Tensor:
        """Frames as float ``[C, count, H, W]``, in steps of a byte."""
        frames = [fit_frame(frame_array(frame), self._size) for frame in self._video.clip(start, count).unbind(1)]
        return from_bytes(torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2))


class ModelSource(FunctionSource):
    """Clips of a low-resolution checkpoint, a pair or a bundle: one seed a clip, from frame 0.

    Attributes:
        native: the size that the network makes.
        size: the size of the clips; assign another to have them fitted.
    """

    def __init__(self, path: Path, sr_path: Path | None, device: torch.device, label: str) -> None:
        path, sr_path = ckpt.find_pair(path, sr_path)
        self._generators = load_generators(path, sr_path, device)
        network = self._generators.sr or self._generators.lr
        self.native = self.size = Size(*network.size)
        self._files = [ckpt.find(file) for file in (path, sr_path) if file is not None]

        def make(index: int, frames: int, seed: int) -> np.ndarray:
            return clip_array(self.video(index, seed), frames)

        record = {
            "checkpoint": str(self._files[0]),
            "super_resolution": str(self._files[1]) if len(self._files) > 1 else None,
        }
        super().__init__(label, make, record)
        self.fps = self._generators.fps

    def video(self, index: int, seed: int) -> Frames:
        """The endless video of which clip `index` is the beginning."""
        video = self._generators.video(derive(seed, "clip", index))
        return video if self.size == self.native else _Fitted(video, self.size)

    def describe(self) -> dict[str, Any]:
        """The files, with their SHA-256."""
        return {**super().describe(), "fingerprint": _fingerprint(self._files)}


def _fingerprint(files: list[Path]) -> str:
    return "sha256:" + "+".join(content_hash(file) for file in files)


class UpscaledSource:
    """Clips of a super-resolution network on low-resolution ones: those of its own data, or any source of clips.

    Attributes:
        generator: the network.
        low: where its input comes from.
        native: the size that the network makes.
        size: the size of the clips; assign another to have them fitted.
    """

    def __init__(self, path: Path, device: torch.device, label: str, low: StoredSource | None = None) -> None:
        self._file = ckpt.find(path, "sr")
        self.generator, low_size = load_sr(self._file, device)
        if low is None:
            loaded = ckpt.load(self._file)
            data = (loaded["sr"] if loaded["stage"] == "bundle" else loaded)["config"]["data"]["path"]
            if not data or not Path(data).is_dir():
                raise DataError(
                    f"{self._file} was trained on {data or 'footage in no folder'}, which is gone; "
                    f"name low-resolution frames, as in SHARDS+{self._file.name}"
                )
            low = ShardSource(data, label, low_size)
        self.label = label
        self.low = low
        self.native = self.size = Size(*self.generator.size)

    @property
    def fps(self) -> float:
        """Frames a second, as the input has."""
        return self.low.fps

    def clips(self, count: int, frames: int, seed: int) -> Iterator[np.ndarray]:
        """At most `count` random clips, uint8 [frames, H, W, 1 or 3]."""
        return (clip for _, clip in self.numbered(count, frames, seed))

    def numbered(self, count: int, frames: int, seed: int, wanted: Wanted | None = None) -> Iterator[Numbered]:
        """Clips with their numbers; only those `wanted` are made."""
        for index, clip in self.low.numbered(count, frames, seed, wanted):
            source = (to_channels(f, self.generator.channels) for f in torch.from_numpy(clip).permute(0, 3, 1, 2))
            high = upscale(source, self.generator, derive(seed, "latent", index))
            arrays = (frame_array(frame) for frame in high)
            yield (
                index,
                np.stack(list(arrays) if self.size == self.native else [fit_frame(a, self.size) for a in arrays]),
            )

    def weights(self, count: int, frames: int, seed: int) -> np.ndarray:
        """Those of the input's clips."""
        return self.low.weights(count, frames, seed)

    def describe(self) -> dict[str, Any]:
        """The checkpoint with its SHA-256, and its input."""
        return {
            "kind": "super-resolution of low-resolution frames",
            "checkpoint": str(self._file),
            "fingerprint": _fingerprint([self._file]),
            "input": self.low.describe(),
        }


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
