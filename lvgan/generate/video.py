"""``lvgan.load``: a trained world as an endless video in Python."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lvgan import hub
from lvgan.data.encoding import open_writer
from lvgan.device import pick_device
from lvgan.errors import ConfigError
from lvgan.generate.generators import Generators, load_generators
from lvgan.generate.noise_sources import NoiseSource
from lvgan.generate.output import feed
from lvgan.generate.timeline import LrVideo, SrVideo, check_range, iterate
from lvgan.ops import native
from lvgan.pixels import to_bytes
from lvgan.sizes import Size

Pictures = NDArray[np.uint8]


def load(
    path: str | os.PathLike[str],
    sr: str | os.PathLike[str] | None = None,
    *,
    seed: int = 0,
    noise: NoiseSource | None = None,
    truncation: float = 1.0,
    device: str = "auto",
    memory_mb: float = 512,
) -> Video:
    """The endless video of a low-resolution checkpoint, a run, a folder of runs, a bundle or a published world.

    Args:
        path: what `lvgan sample` takes (``.pt`` or ``.safetensors``), or ``hf://owner/name[@revision]`` on the
            Hugging Face Hub (with the extra ``lvgan[hub]``).
        sr: super-resolution checkpoint or run, if `path` holds none.
        seed: 0 … 2**64 - 1; another seed is another world. It chooses the noise, and the latent of the
            super-resolution.
        noise: other noise than the seed's, see :mod:`lvgan.generate.noise_sources`.
        truncation: of the super-resolution latent, -2 … 2; 1 is as trained.
        device: auto, cpu, cuda or mps.
        memory_mb: how much of what was made is kept, so that going back and forth computes nothing twice.

    Raises:
        CheckpointError: no such file, damaged, of the wrong stage, or a pair that does not fit.
        ConfigError: an impossible seed, truncation or device.
        MachineError: a package is missing, or the Hub cannot be reached.
    """
    target = pick_device(device)
    generators = load_generators(_local(path), None if sr is None else _local(sr), target)
    native.activate(target, lambda message: None)
    return Video(generators, seed=seed, noise=noise, truncation=truncation, memory_mb=memory_mb)


def _local(path: str | os.PathLike[str]) -> Path:
    """A path, or the folder that an address on the Hub was fetched to."""
    return hub.download(path) if isinstance(path, str) and path.startswith(hub.SCHEME) else Path(path)


class Video:
    """Frames by index; every whole number from -2**62 to 2**62 is one.

    ``video[t]`` is a picture, uint8 ``[H, W, C]``, RGB (or grey) 0 … 255, as `lvgan sample` writes it;
    ``video[a:b]`` and ``video[a:b:k]`` are uint8 ``[T, H, W, C]``. There is no end to count from, so
    ``video[-1]`` is the frame before frame 0. Iteration gives frame 0, 1, 2, … without end. A frame has the same
    bits however it is asked for. The highest resolution there is; :meth:`lr` and :meth:`hr` give the networks'
    own values.
    """

    def __init__(
        self,
        generators: Generators,
        *,
        seed: int = 0,
        noise: NoiseSource | None = None,
        truncation: float = 1.0,
        memory_mb: float = 512,
    ) -> None:
        if not 0 <= memory_mb < 1e9:
            raise ConfigError(f"a memory of {memory_mb} MB was given, but 0 to 1e9 was expected")
        try:
            seed = operator.index(seed)
        except TypeError:
            raise ConfigError(f"seed {seed!r} was given, but a whole number was expected") from None
        half = int(memory_mb * 1e6) // (1 if generators.sr is None else 2)
        self._low = LrVideo(generators.lr, seed if noise is None else noise, memory=half)
        self._high: SrVideo | None = None
        if generators.sr is not None:
            self._high = SrVideo(self._low, generators.sr, seed, truncation, memory=half)
        self._frames = self._high or self._low
        self.size = Size(*(generators.sr or generators.lr).size)
        self.lr_size = Size(*generators.lr.size)
        self.channels = generators.lr.channels
        self.fps = generators.fps

    def __getitem__(self, index: int | slice) -> Pictures:
        if not isinstance(index, slice):
            return _pictures(self._frames.clip(operator.index(index), 1))[0]
        if index.start is None or index.stop is None:
            raise ConfigError("an endless video was cut without both ends; give them, as in video[0:100]")
        indices = range(index.start, index.stop, 1 if index.step is None else index.step)
        if not indices:
            return np.empty((0, *self.size, self.channels), np.uint8)
        if indices.step == 1:
            return _pictures(self._frames.clip(indices.start, len(indices)))
        return np.stack([self[t] for t in indices])

    def __iter__(self) -> Iterator[Pictures]:
        return self.frames()

    def frames(self, start: int = 0, count: int | None = None, stride: int = 1) -> Iterator[Pictures]:
        """Pictures `start`, `start` + `stride`, … one by one, without end if `count` is None: uint8 ``[H, W, C]``."""
        check_range(start, 1 if count is None else count, stride)
        return (_pictures(frame[:, None])[0] for frame in iterate(self._frames, start, count, stride))

    def lr(self, start: int, stop: int) -> Tensor:
        """Low-resolution frames `start` … `stop` - 1: float32 ``[C, T, h, w]`` on the CPU, nominally -1 … 1."""
        return self._low.clip(start, stop - start)

    def hr(self, start: int, stop: int) -> Tensor:
        """High-resolution frames `start` … `stop` - 1: float32 ``[C, T, H, W]`` on the CPU, nominally -1 … 1.

        Raises:
            ConfigError: the video has no super-resolution network.
        """
        if self._high is None:
            raise ConfigError("this video has low resolution only; load it with sr=, a super-resolution checkpoint")
        return self._high.clip(start, stop - start)

    def save(
        self,
        path: str | os.PathLike[str],
        count: int,
        *,
        start: int = 0,
        stride: int = 1,
        fps: float | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write `count` frames as `lvgan sample` does: .mp4, .mkv, .gif, .npy, or a folder of PNG frames.

        `fps`: frames a second; as trained (``video.fps``), if left out.

        A folder that holds frames already is refused (ConfigError), or emptied of them with `overwrite`.
        """
        check_range(start, count, stride)
        with open_writer(path, fps or self.fps, overwrite=overwrite) as writer:
            feed(iterate(self._frames, start, count, stride), writer)


def _pictures(clip: Tensor) -> Pictures:  # [C, T, H, W]
    pictures: Pictures = np.ascontiguousarray(to_bytes(clip).permute(1, 2, 3, 0).numpy())
    return pictures
