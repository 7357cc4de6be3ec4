"""Features of clips, by one process or several, with the same result.

Clips are numbered, and batches are fixed groups of numbers, the last one filled up: every clip is seen beside the
same others in a tensor of the same shape, whichever process it falls to. What the processes send is put in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lvgan.errors import ConfigError, DataError
from lvgan.evaluation.detectors import Detector
from lvgan.evaluation.processes import device_of, exact, together

if TYPE_CHECKING:
    import torch

    from lvgan.evaluation.sources import ClipSource, Numbered, Wanted

Opener = Callable[["torch.device"], "ClipSource"]  # importable by name where there are several processes
Advance = Callable[[int], None]

BATCH = {"clips": 1, "frames": 32}


@dataclass(frozen=True)
class Wish:
    """Which clips are to be looked at.

    Attributes:
        clips: how many at most.
        frames: of each.
        stride: from one of these frames to the next.
        seed: chooses them.
    """

    clips: int
    frames: int
    stride: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("clips", "frames", "stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)}")

    @property
    def span(self) -> int:
        """Frames of the source from the first to the last one of a clip."""
        return (self.frames - 1) * self.stride + 1


@dataclass(frozen=True)
class Features:
    """Features of clips.

    Attributes:
        values: float [N, D], as the detector gave them.
        weights: float64 [N].
        size: height and width of the clips.
    """

    values: np.ndarray
    weights: np.ndarray
    size: tuple[int, int]


@dataclass(frozen=True)
class _Part:
    """What one of the processes found."""

    numbers: list[int]
    values: np.ndarray  # [N, D]
    size: tuple[int, int]


def extract(
    open_source: Opener,
    detector: Detector,
    wish: Wish,
    device: torch.device,
    *,
    source: ClipSource | None = None,
    batch: int | None = None,
    workers: int = 1,
    progress: Advance | None = None,
) -> Features:
    """Features of the clips of a source.

    Args:
        open_source: opens it on a device, in each process; importable by name where `workers` is above 1.
        detector: what gives the features.
        wish: which clips.
        device: where networks run. With several workers on ``cuda``, they take the GPUs in turn.
        source: the same source where it is open already; used for its weights and by a single worker.
        batch: clips that the detector gets at a time; 1, or 32 frames, where not given. Another batch changes
            nothing but the rounding of the detector itself.
        workers: processes. The result does not depend on them.
        progress: called with the number of clips that are done since the last call.

    Raises:
        DataError: clips are of several sizes, too short, or their features are no finite numbers.
        MachineError: a process was ended from outside.
    """
    batch = BATCH[detector.kind] if batch is None else batch
    if batch < 1 or workers < 1:
        raise ConfigError(f"batch and workers are {batch} and {workers}, but 1 or more was expected")
    advance = progress or (lambda _: None)
    source = source or open_source(device)
    weights = clip_weights(source, wish)
    count = len(weights)
    workers = min(workers, -(-count // batch))
    if workers == 1:
        parts = list(_look(source, detector, wish, device, range(count), batch, advance))
    else:
        parts = _look_together(open_source, detector, wish, device, count, batch, workers, advance)
    return _join(parts, weights, source.label)


def clip_weights(source: ClipSource, wish: Wish) -> np.ndarray:
    """Weight of each clip by its number, float64; refuses a source that has none long enough."""
    own = getattr(source, "weights", None)
    return np.ones(wish.clips) if own is None else own(wish.clips, wish.span, wish.seed)


def _numbered(source: ClipSource, wish: Wish, wanted: Wanted) -> Iterator[Numbered]:
    """The wanted clips with their numbers, strided."""
    own = getattr(source, "numbered", None)
    if own is not None:
        found = own(wish.clips, wish.span, wish.seed, wanted)
    else:
        clips = source.clips(wish.clips, wish.span, wish.seed)
        found = ((i, clip) for i, clip in enumerate(clips) if wanted(i))
    for number, clip in found:
        clip = clip[:: wish.stride]
        yield number, np.repeat(clip, 3, axis=-1) if clip.shape[-1] == 1 else clip


def _look(
    source: ClipSource,
    detector: Detector,
    wish: Wish,
    device: torch.device,
    numbers: range,
    batch: int,
    advance: Advance,
) -> Iterator[_Part]:
    """The clips of `numbers`, which begins at a multiple of `batch`, one batch at a time."""
    with exact(device):
        network = detector.load(device)
        group: list[Numbered] = []
        for number, clip in _numbered(source, wish, numbers.__contains__):
            if group and clip.shape != group[0][1].shape:
                raise _mixed_sizes(source.label, group[0][1].shape[1:3], clip.shape[1:3])
            if group and number // batch != group[0][0] // batch:
                yield _see(network, group, batch)
                advance(len(group))
                group = []
            group.append((number, clip))
        if group:
            yield _see(network, group, batch)
            advance(len(group))


def _see(network: Callable[[np.ndarray], np.ndarray], group: list[Numbered], batch: int) -> _Part:
    """Features of a batch; a smaller one is filled up, as kernels are chosen by shape."""
    clips = [clip for _, clip in group]
    clips += [clips[-1]] * (batch - len(clips))
    values = network(np.stack(clips))[: len(group)]
    height, width = clips[0].shape[1:3]
    return _Part([number for number, _ in group], values, (height, width))


def _mixed_sizes(label: str, one: tuple[int, ...], other: tuple[int, ...]) -> DataError:
    sizes = " and ".join("x".join(map(str, size)) for size in (one, other))
    return DataError(f"{label} holds clips of {sizes}, but one size was expected: bring them to one with --size HxW")


def _join(parts: list[_Part], weights: np.ndarray, label: str) -> Features:
    """Everything in the order of the clips' numbers."""
    if not parts:
        raise DataError(f"{label}: no clip could be read where 2 or more were expected: look at the warnings above")
    for part in parts:
        if part.size != parts[0].size:
            raise _mixed_sizes(label, parts[0].size, part.size)
        if part.values.shape[1] != parts[0].values.shape[1]:
            raise DataError(
                f"the detector gave {parts[0].values.shape[1]} features for one clip of {label} and "
                f"{part.values.shape[1]} for another where one number was expected: mend the detector"
            )
    numbers = np.concatenate([part.numbers for part in parts]).astype(int)
    values = np.concatenate([part.values for part in parts])
    order = np.argsort(numbers)
    return Features(values[order], weights[numbers[order]], parts[0].size)


@dataclass(frozen=True)
class _Task:
    """What one of several processes does."""

    open_source: Opener
    detector: Detector
    wish: Wish
    device: str
    numbers: range
    batch: int

    def __call__(self, tell: Callable[[_Part], None]) -> None:
        import torch

        device = torch.device(self.device)
        source = self.open_source(device)
        for part in _look(source, self.detector, self.wish, device, self.numbers, self.batch, lambda _: None):
            tell(part)


def _look_together(
    open_source: Opener,
    detector: Detector,
    wish: Wish,
    device: torch.device,
    count: int,
    batch: int,
    workers: int,
    advance: Advance,
) -> list[_Part]:
    """Neighbouring batches go to one process: a video is then decoded by one or two."""
    batches = -(-count // batch)
    edges = [batch * (batches * i // workers) for i in range(workers)] + [count]
    tasks = [
        _Task(open_source, detector, wish, device_of(device, i), range(*edges[i : i + 2]), batch)
        for i in range(workers)
    ]
    parts: list[_Part] = []

    def take(part: _Part) -> None:
        parts.append(part)
        advance(len(part.numbers))

    together(tasks, take)
    return parts
