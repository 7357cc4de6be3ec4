"""Clips to training windows: a plain map-style dataset, a resumable sampler, and batches loaded by threads.

A window is a number. :class:`Windows` turns it into frames without any randomness; which numbers a step uses is a
function of (seed, rank, step) alone (:func:`draw_batch`). So nothing random lives in a worker, and resuming at a
step needs no state and reads nothing ahead.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from types import TracebackType

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from lvgan.data.dataset import ClipDataset, Frames
from lvgan.errors import ConfigError, DataError

SAMPLING = ("video", "frame")
Item = tuple[Tensor, ...]


class Windows(Dataset[Item]):
    """Every window of a set, for ``torch.utils.data.DataLoader`` and other people's code.

    ``windows[i]`` is always the same frames: the windows of all clips are counted from 0, clip by clip, start by
    start, and with `flip` each one twice, as it is and mirrored. Can be pickled.

    Args:
        data: the clips.
        frames: T, a window's length.
        context: None for the low resolution alone. A number also gives the high resolution, and as many
            low-resolution frames more at each end.
        stride: only every `stride`-th frame is used: T frames cover (T - 1) stride + 1 frames of footage.
        flip: count mirrored windows too.

    Items:
        ``(clip [C, T, H, W],)``, or ``(low [C, T + 2 context, h, w], high [C, T, H, W])``, where the high
        resolution shows the same moments as the low one without its context; all uint8.

    Raises:
        DataError: no clip is long enough, or there is no high resolution.
    """

    def __init__(
        self, data: ClipDataset, frames: int, context: int | None = None, *, stride: int = 1, flip: bool = False
    ) -> None:
        self.data, self.frames, self.context, self.stride, self.flip = data, frames, context, stride, flip
        span = window_span(frames, context or 0, stride)
        self.clips = [clip for clip in data.clips if clip.frames >= span]
        if not self.clips:
            longest = max(clip.frames for clip in data.clips)
            raise DataError(f"no clip in {data.root} has {span} frames, the longest has {longest}; use fewer")
        if context is not None and data.hr is None:
            raise DataError(f"{data.root} holds {data.lr} only; prepare a high resolution too, or name it")
        self._starts = [clip.frames - span + 1 for clip in self.clips]
        self._ends = list(accumulate(self._starts))

    def __len__(self) -> int:
        return self._ends[-1] * (2 if self.flip else 1)

    def __getitem__(self, index: int) -> Item:
        clip, start, mirrored = self.place(index)
        context = self.context or 0
        low = self.data.read(clip, start, self.frames + 2 * context, "lr", self.stride)
        if self.context is None:
            return (_tensor(low, mirrored),)
        high = self.data.read(clip, start + context * self.stride, self.frames, "hr", self.stride)
        return _tensor(low, mirrored), _tensor(high, mirrored)

    def place(self, index: int) -> tuple[str, int, bool]:
        """Clip, first frame (context included), and whether it is mirrored.

        Raises:
            IndexError: there is no such window.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        window, mirrored = divmod(index % len(self), 2) if self.flip else (index % len(self), 0)
        clip = bisect_right(self._ends, window)
        return self.clips[clip].name, window - self._ends[clip] + self._starts[clip], bool(mirrored)

    def draw(self, rng: np.random.Generator, sampling: str = "video") -> int:
        """The number of a random window.

        `sampling` is ``video``: every clip counts the same, however long, then every start in it (the paper's,
        spec 2-training); or ``frame``: every window counts the same, so that long clips come more often.
        """
        if sampling == "video":
            clip = int(rng.integers(len(self.clips)))
            window = self._ends[clip] - self._starts[clip] + int(rng.integers(self._starts[clip]))
        else:
            window = int(rng.integers(self._ends[-1]))
        return 2 * window + int(rng.random() < 0.5) if self.flip else window


def window_span(frames: int, context: int = 0, stride: int = 1) -> int:
    """Frames of footage that a window covers."""
    return (frames + 2 * context - 1) * stride + 1


def _tensor(frames: Frames, mirrored: bool) -> Tensor:
    planes = torch.from_numpy(frames).permute(3, 0, 1, 2)
    # torch's flip of a byte axis is vectorised, NumPy's is not
    return planes.flip(-1).contiguous() if mirrored else planes.contiguous()


def draw_batch(
    windows: Windows, batch: int, step: int, *, seed: int = 0, rank: int = 0, sampling: str = "video"
) -> list[int]:
    """The windows of one step: a pure function of (`seed`, `rank`, `step`)."""
    return [windows.draw(np.random.default_rng([seed, rank, step, i]), sampling) for i in range(batch)]


class StepSampler(Sampler[list[int]]):
    """Batches of window numbers for ``DataLoader(windows, batch_sampler=...)``, without end unless `steps` says so.

    The batch of a step is that of :func:`draw_batch`: a run that resumes gives `start`, each process gives
    its `rank`, and nothing else need be remembered.

    Args:
        windows: what to draw from.
        batch: windows a batch.
        seed, rank: of the run and of this process.
        start: the first step.
        steps: how many; None for ever.
        sampling: ``video`` or ``frame`` (:meth:`Windows.draw`).

    Raises:
        ConfigError: an unknown kind of sampling.
    """

    def __init__(
        self,
        windows: Windows,
        batch: int,
        *,
        seed: int = 0,
        rank: int = 0,
        start: int = 0,
        steps: int | None = None,
        sampling: str = "video",
    ) -> None:
        _check_sampling(sampling)
        self._windows, self._batch, self._start, self._steps = windows, batch, start, steps
        self._seed, self._rank, self._sampling = seed, rank, sampling

    def __iter__(self) -> Iterator[list[int]]:
        step = self._start
        while self._steps is None or step < self._start + self._steps:
            yield draw_batch(
                self._windows, self._batch, step, seed=self._seed, rank=self._rank, sampling=self._sampling
            )
            step += 1


def _check_sampling(sampling: str) -> None:
    if sampling not in SAMPLING:
        raise ConfigError(
            f"sampling is {sampling!r}, but one of {', '.join(SAMPLING)} was expected; the paper's is video"
        )


# --- batches for training -------------------------------------------------------------------------


class Batches:
    """Batches for training steps, loaded ahead by threads.

    ``get(step)`` is a pure function of (`seed`, `rank`, `step`): resuming needs no state. Asking for
    the steps in order is fast; any other order gives the same batches.

    Args:
        windows: what to draw from.
        batch: windows a batch.
        seed, rank: of the run and of this process.
        sampling: ``video`` or ``frame`` (:meth:`Windows.draw`).
        threads: windows loaded at a time.
        ahead: steps loaded ahead.
        clips: the part of the batch to load, such as ``range(8, 16)``; each window is the same as in the whole.
    """

    def __init__(
        self,
        windows: Windows,
        batch: int,
        *,
        seed: int = 0,
        rank: int = 0,
        sampling: str = "video",
        threads: int = 4,
        ahead: int = 2,
        clips: range | None = None,
    ) -> None:
        _check_sampling(sampling)
        self._clips = range(batch) if clips is None else clips
        self._windows, self._batch, self._seed, self._rank = windows, batch, seed, rank
        self._sampling, self._ahead = sampling, ahead
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="clips")
        self._waiting: dict[int, list[Future[Item]]] = {}

    def get(self, step: int) -> tuple[Tensor, ...]:
        """The batch of a step: uint8 [N, C, T, H, W] for each part of an item.

        Raises:
            DataError: a damaged shard.
        """
        wanted = range(step, step + self._ahead + 1)
        for other in [s for s in self._waiting if s not in wanted]:
            for future in self._waiting.pop(other):
                future.cancel()
        for s in wanted:
            if s not in self._waiting:
                chosen = self._draw(s, self._batch)[self._clips.start : self._clips.stop]
                self._waiting[s] = [self._pool.submit(self._windows.__getitem__, i) for i in chosen]
        return _stack([future.result() for future in self._waiting.pop(step)])

    def first(self, count: int) -> tuple[Tensor, ...]:
        """`count` windows, the same whenever this is called, for previews."""
        return _stack(list(self._pool.map(self._windows.__getitem__, self._draw(0, count))))

    def _draw(self, step: int, count: int) -> list[int]:
        return draw_batch(self._windows, count, step, seed=self._seed, rank=self._rank, sampling=self._sampling)

    def close(self) -> None:
        """Stop loading."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._waiting.clear()

    def __enter__(self) -> Batches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _stack(items: list[Item]) -> tuple[Tensor, ...]:
    return tuple(torch.stack(parts) for parts in zip(*items, strict=True))
