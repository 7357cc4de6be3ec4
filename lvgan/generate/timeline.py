"""Endless video by frame index (spec 4-streaming).

The timeline is cut into segments (low resolution) and blocks of frames (super-resolution) at fixed
places. Each is computed on its own, from the same noise and with the same shapes whatever was asked
for, so a frame is a function of (checkpoints, seed, frame index), and memory does not grow with length.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from lvgan.errors import ConfigError
from lvgan.generate.noise_sources import NoiseSource, SeedNoise, read
from lvgan.models.lr_generator import LrGenerator
from lvgan.models.noise import frame_noise
from lvgan.models.sr_generator import SrGenerator

FRAME_LIMIT = 2**62
# Frames of low resolution computed together. Measured on a CPU (paper preset, CPU seconds per 128 frames): 8.4 at 32,
# 7.3 at 64, 7.2 at 128, 7.3 at 256, 7.4 at 1024: the halo costs nothing from 64 on, and 128 starts sooner than more.
SEGMENT = 128
_SR_STREAM = 0x5352  # keeps the super-resolution latent apart from the frames' noise


class Frames(Protocol):
    """Anything that gives frames by index."""

    def clip(self, start: int, count: int) -> Tensor:
        """Frames `start` … `start + count - 1` as float ``[C, count, H, W]``, nominally in [-1, 1]."""
        ...


class _Pieces:
    """Fixed pieces of a timeline, computed when needed; those used last are kept, `memory` bytes of them.

    At least two are kept, since a frame of high resolution can need both sides of a border.
    """

    def __init__(self, length: int, compute: Callable[[int], Tensor], memory: int) -> None:
        self.length = length
        self._compute = compute
        self._memory = memory
        self._kept: OrderedDict[int, Tensor] = OrderedDict()

    def piece(self, index: int) -> Tensor:
        if index not in self._kept:
            made = self._compute(index)
            # Into memory that stays where it is: kept results between what comes and goes would scatter the heap,
            # and memory would grow with the length.
            if len(self._kept) >= max(self._memory // made.nbytes, 2):
                _, place = self._kept.popitem(last=False)
            else:
                place = torch.empty(made.shape)
            self._kept[index] = place.copy_(made)
        self._kept.move_to_end(index)
        return self._kept[index]

    def clip(self, start: int, count: int) -> Tensor:
        parts = []
        position, end = start, start + count
        while position < end:
            index, offset = divmod(position, self.length)
            taken = min(self.length - offset, end - position)
            parts.append(self.piece(index)[:, offset : offset + taken].clone())  # the piece may be overwritten
            position += taken
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


class LrVideo:
    """The endless low-resolution video of one generator and noise.

    Args:
        generator: on the device to compute on.
        noise: a seed, 0 … 2**64 - 1, or where else the noise comes from.
        segment: frames computed together; rounded up to a multiple of the generator's time scale. Another
            length gives the same video to float tolerance only.
        memory: bytes of segments that are kept, so that going back does not compute them again.
    """

    def __init__(
        self, generator: LrGenerator, noise: int | NoiseSource, segment: int = SEGMENT, memory: int = 0
    ) -> None:
        if isinstance(noise, int):
            _check_seed(noise)
            noise = SeedNoise(noise)
        self._generator = generator
        self._noise = noise
        scale = generator.time_scale
        self._pieces = _Pieces(-(-segment // scale) * scale, self._segment, memory)

    @torch.inference_mode()
    def _segment(self, index: int) -> Tensor:
        length = self._pieces.length
        before, after = self._generator.noise_margin(length)
        first, count = index * length - before, before + length + after
        noise = read(self._noise, first, count, self._generator.noise_channels)
        device = next(self._generator.parameters()).device
        return self._generator(noise.to(device)[None], length)[0].cpu()

    def clip(self, start: int, count: int) -> Tensor:
        """Frames by index: float ``[C, count, H, W]`` on the CPU; `start` may be negative."""
        check_range(start, count)
        return self._pieces.clip(start, count)


class SrVideo:
    """The high-resolution video made of low-resolution frames.

    Args:
        frames: where low-resolution frames come from, also outside 0 … length.
        generator: on the device to compute on.
        seed: chooses the one latent of the whole video.
        truncation: 1 is the network as trained; less pulls towards the mean latent.
        block: frames computed together; by default 1 on a CPU, 8 for small networks on a GPU.
        memory: bytes of blocks that are kept.
    """

    def __init__(
        self,
        frames: Frames,
        generator: SrGenerator,
        seed: int,
        truncation: float = 1.0,
        block: int | None = None,
        memory: int = 0,
    ) -> None:
        _check_seed(seed)
        if not -2 <= truncation <= 2:
            raise ConfigError(f"a truncation of {truncation:g} was given, but -2 to 2 is possible; 1 is as trained")
        self._frames = frames
        self._generator = generator
        device = next(generator.parameters()).device
        z = frame_noise(seed ^ _SR_STREAM, 0, 1, generator.z_dim)[:, 0].to(device)
        with torch.inference_mode():
            self._w = generator.mapping(z[None], truncation=truncation)
        self._pieces = _Pieces(block or _default_block(generator), self._block, memory)

    @torch.inference_mode()
    def _block(self, index: int) -> Tensor:
        context, length = self._generator.context, self._pieces.length
        low = self._frames.clip(index * length - context, length + 2 * context)
        return self._generator.synthesis(self._w, low[None].to(self._w.device))[0].cpu()

    def clip(self, start: int, count: int) -> Tensor:
        """Frames by index: float ``[C, count, H, W]`` on the CPU; `start` may be negative."""
        check_range(start, count)
        return self._pieces.clip(start, count)


def _default_block(generator: SrGenerator) -> int:
    # On a CPU more frames at once only fall out of its caches. Measured, CPU seconds a frame at 1, 2, 4 and 8 frames:
    # tiny preset 0.059, 0.056, 0.062, 0.077; small 0.28, 0.32, 0.42, 0.45. On a GPU small networks do not fill it.
    if next(generator.parameters()).device.type == "cpu":
        return 1
    height, width = generator.size
    channels = generator.schedule[-2].out_channels  # where the picture is largest
    return 8 if height * width * channels <= 256 * 256 * 16 else 1


def iterate(frames: Frames, start: int, count: int | None, stride: int = 1) -> Iterator[Tensor]:
    """Frames `start`, `start` + `stride`, …, each float ``[C, H, W]``; `count` of them, or all that there are."""
    for n in range(1 + (FRAME_LIMIT - 1 - start) // stride if count is None else count):
        yield frames.clip(start + n * stride, 1)[:, 0]


class HeldEnds:
    """A finite sequence of frames read in order, its first and last frame held beyond the ends.

    Only frames near the position of reading are kept; reading goes forwards.
    """

    def __init__(self, source: Iterator[Tensor], keep: int = 128) -> None:
        self._source = source
        self._keep = keep
        self._window: OrderedDict[int, Tensor] = OrderedDict()
        self._next = 0
        self.length: int | None = None  # known once the end was reached

    def _read_to(self, index: int) -> None:
        while self.length is None and self._next <= index:
            frame = next(self._source, None)
            if frame is None:
                self.length = self._next
                return
            self._window[self._next] = frame
            self._next += 1
            if len(self._window) > self._keep:
                self._window.popitem(last=False)

    def has(self, index: int) -> bool:
        """Whether frame `index` exists."""
        self._read_to(index)
        return self.length is None or index < self.length

    def clip(self, start: int, count: int) -> Tensor:
        """Frames by index: ``[C, count, H, W]``; beyond the ends the nearest frame."""
        self._read_to(start + count - 1)
        last = (self.length or self._next) - 1
        return torch.stack([self._window[min(max(i, 0), last)] for i in range(start, start + count)], 1)


def check_range(start: int, count: int, stride: int = 1) -> None:
    """Refuse (ConfigError) a stretch of frames that does not exist."""
    if count < 1:
        raise ConfigError(f"{count} frames were asked for, but at least 1 is needed")
    if stride < 1:
        raise ConfigError(f"a stride of {stride} was given, but at least 1 is needed; 1 takes every frame")
    last = start + (count - 1) * stride
    if start < -FRAME_LIMIT or last >= FRAME_LIMIT:
        wrong = start if start < -FRAME_LIMIT or start >= FRAME_LIMIT else last
        raise ConfigError(f"frame {wrong} was asked for, but frames from -2^62 to 2^62 - 1 exist; choose one of those")


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**64:
        raise ConfigError(f"seed {seed} was given, but 0 to 2^64 - 1 was expected")
