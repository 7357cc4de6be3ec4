"""Colour similarity over time: how fast a video leaves the colours it started with.

The paper's figure 5. Every frame t of a clip gets a joint colour histogram H, and
S(t) = sum over bins of min(H(0), H(t)) is 1 while the colours stay and 0 once none is left.
The mean of S over many random clips tells drift apart from footage: real curves fall
gradually, models with one global latent fall too slowly, recurrent ones too fast.
Source: shared facts, chapter 5 (evaluation).
"""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from lvgan.config import USUAL_FPS
from lvgan.errors import DataError
from lvgan.evaluation.native_color import shared_pixels
from lvgan.evaluation.protocol import COLOR_SIMILARITY, Score, describe, record
from lvgan.version import __version__

if TYPE_CHECKING:
    from lvgan.evaluation.sources import ClipSource

BINS = 20  # a channel, the paper's choice
MAX_BINS = 256  # more than one for each byte value tell nothing
# What must agree before two curves are compared. Not the channels: a grey clip and its RGB copy score alike.
SHARED_SETTINGS = ("bins", "frames", "size")


def _check_frames(frames: np.ndarray, bins: int) -> np.ndarray:
    """`frames` as an array that can be binned, or an error that says why not."""
    frames = np.asarray(frames)
    if not 2 <= bins <= MAX_BINS:
        raise ValueError(f"bins must be 2 to {MAX_BINS}, not {bins}")
    if frames.ndim != 4 or frames.shape[-1] not in (1, 3):
        raise ValueError(f"frames must be [T, H, W, 3] or [T, H, W, 1], not {list(frames.shape)}")
    if 0 in frames.shape:
        raise ValueError(f"frames must not be empty, but are {list(frames.shape)}")
    if frames.dtype != np.uint8 and not np.issubdtype(frames.dtype, np.floating):
        raise ValueError(f"frames must be uint8 or float in [-1, 1], not {frames.dtype}")
    return frames


def byte_bins(bins: int) -> np.ndarray:
    """Bin of each of the 256 byte values, int64 [256].

    The value of a byte is v = byte / 127.5 - 1, so floor((v / 2 + 1/2) (bins - 1) + 1/2) is
    floor((2 byte (bins - 1) + 255) / 510): integers only, hence exact.
    """
    return (2 * np.arange(256) * (bins - 1) + 255) // 510


@lru_cache(maxsize=8)
def _tables(bins: int, channels: int) -> tuple[np.ndarray, ...]:
    """Shares of a pixel's joint bin by its bytes: of red and green together [65536] and of blue [256], or of grey."""
    bin_of, kind = byte_bins(bins), np.min_scalar_type(bins**channels - 1)  # narrow ones halve the time
    if channels == 1:
        return (bin_of.astype(kind),)
    pairs = np.arange(1 << 16)  # as two bytes in memory: red is the low one
    return ((bin_of[pairs & 255] * bins + bin_of[pairs >> 8]) * bins).astype(kind), bin_of.astype(kind)


def _byte_cells(frame: np.ndarray, bins: int) -> np.ndarray:
    """Joint bin of each pixel of a uint8 frame: [H * W]. Looks red and green up at once: the look-ups are the cost."""
    tables = _tables(bins, frame.shape[-1])
    pixels = np.ascontiguousarray(frame).reshape(-1, frame.shape[-1])
    # No index is out of range, so "clip" changes none; it spares the test of each of them.
    if len(tables) == 1:
        return tables[0].take(pixels[:, 0], mode="clip")
    pairs = np.ndarray(len(pixels), "<u2", pixels, strides=(3,))
    cells = tables[0].take(pairs, mode="clip")
    cells += tables[1].take(pixels[:, 2], mode="clip")
    return cells


def _float_cells(frame: np.ndarray, bins: int) -> np.ndarray:
    """Joint bin of each pixel of a float frame: [H * W]."""
    values = frame.astype(np.float32, copy=False) if frame.dtype == np.float16 else frame
    if not np.isfinite(values).all():
        raise DataError(
            "a frame holds NaN or infinite values where finite ones in [-1, 1] were expected: "
            "check the model or the file that it came from"
        )
    cells = np.floor((values / 2 + 0.5) * (bins - 1) + 0.5).clip(0, bins - 1).astype(np.int64)
    places = bins ** np.arange(frame.shape[-1])[::-1]
    return (cells * places).sum(axis=-1).ravel()


def _frame_counts(frame: np.ndarray, bins: int) -> np.ndarray:
    """Pixels of one frame in each joint bin, int64 [bins ** C]; the last channel varies fastest."""
    cells = _byte_cells(frame, bins) if frame.dtype == np.uint8 else _float_cells(frame, bins)
    return np.bincount(cells, minlength=bins ** frame.shape[-1])


def color_histogram(frames: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Joint colour histogram of each frame; every row sums to 1.

    Args:
        frames: [T, H, W, C], C 3 (RGB) or 1 (grey), uint8 or float in [-1, 1] (clamped).
        bins: bins a channel. Value v goes to bin floor((v/2 + 1/2) (bins - 1) + 1/2).

    Returns:
        float64 [T, bins ** C]; bin (r, g, b) stands at (r * bins + g) * bins + b.

    Raises:
        DataError: a float frame holds NaN or infinity.
        ValueError: shape, type or `bins` is impossible.
    """
    frames = _check_frames(frames, bins)
    pixels = frames.shape[1] * frames.shape[2]
    return np.stack([_frame_counts(frame, bins) for frame in frames]) / pixels


def color_similarity(clip: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Histogram intersection of every frame with the first one: float64 [T], S[0] = 1.

    Takes what :func:`color_histogram` takes, frame by frame, so its memory does not grow with T.
    """
    clip = _check_frames(clip, bins)
    compiled = shared_pixels() if clip.dtype == np.uint8 else None
    if compiled is not None:
        places = bins ** np.arange(clip.shape[-1])[::-1]
        return compiled(clip, byte_bins(bins) * places[:, None]) / (clip.shape[1] * clip.shape[2])
    first = _frame_counts(clip[0], bins)
    shared = [np.minimum(first, _frame_counts(frame, bins)).sum() for frame in clip]
    return np.asarray(shared, np.float64) / (clip.shape[1] * clip.shape[2])


@dataclass(frozen=True)
class SimilarityCurve:
    """Colour similarity of one source of clips.

    Attributes:
        label: name in plots and tables.
        mean: float64 [T], over clips.
        std: float64 [T], unbiased; 0 where there is only one clip.
        clips: number of clips.
        protocol: how it was measured; goes into every file that holds the curve.
        per_clip: float64 [clips, T].
        real: real footage, which plots set apart from models.
    """

    label: str
    mean: np.ndarray
    std: np.ndarray
    clips: int
    protocol: dict[str, Any]
    per_clip: np.ndarray = field(repr=False)
    real: bool = False

    @property
    def fps(self) -> float:
        """Frames a second, as its protocol says, or 30."""
        return float(self.protocol.get("source", {}).get("fps", USUAL_FPS))


class CurveAccumulator:
    """Collects clips one by one; keeps their curves and no pixels."""

    def __init__(self, label: str, bins: int = BINS, *, real: bool = False) -> None:
        self.label = label
        self.bins = bins
        self.real = real
        self._curves: list[np.ndarray] = []
        self._shape: tuple[int, ...] = ()

    def add(self, clip: np.ndarray) -> np.ndarray:
        """Add a clip [T, H, W, C]; returns its curve [T]. All clips must have one shape."""
        self._check(tuple(clip.shape))
        return self._keep(tuple(clip.shape), color_similarity(clip, self.bins))

    def add_all(self, clips: Iterable[np.ndarray], workers: int = 1) -> Iterator[np.ndarray]:
        """Add clips, `workers` at a time in threads; gives their curves in the order of the clips.

        Each curve is a function of its clip, so nothing depends on `workers`. At most 2 `workers` clips are in
        memory.
        """
        if workers == 1:
            yield from map(self.add, clips)
            return
        waiting: deque[tuple[tuple[int, ...], Future[np.ndarray]]] = deque()
        with ThreadPoolExecutor(workers) as pool:
            for clip in clips:
                self._check(tuple(clip.shape))
                waiting.append((tuple(clip.shape), pool.submit(color_similarity, clip, self.bins)))
                self._shape = tuple(clip.shape)
                if len(waiting) >= 2 * workers:
                    shape, curve = waiting.popleft()
                    yield self._keep(shape, curve.result())
            for shape, curve in waiting:
                yield self._keep(shape, curve.result())

    def _check(self, shape: tuple[int, ...]) -> None:
        if self._shape and shape != self._shape:
            raise DataError(
                f"{self.label}: a clip is {_shape_text(shape)} while the earlier ones are "
                f"{_shape_text(self._shape)}: bring all clips to one length and size"
            )

    def _keep(self, shape: tuple[int, ...], curve: np.ndarray) -> np.ndarray:
        self._shape = shape
        self._curves.append(curve)
        return curve

    def result(self, protocol: dict[str, Any] | None = None) -> SimilarityCurve:
        """The curve so far; `protocol` is added to what the clips themselves tell."""
        if not self._curves:
            raise DataError(
                f"{self.label}: no clip was measured where one or more was expected: give whole or longer footage, as "
                "all clips that were drawn lie beyond what can be decoded"
            )
        curves = np.stack(self._curves)
        frames, height, width, channels = self._shape
        record: dict[str, Any] = {
            "measure": "color similarity",
            "bins": self.bins,
            "frames": frames,
            "size": f"{height}x{width}",
            "channels": channels,
            "clips": len(curves),
            "versions": {"lvgan": __version__, "numpy": np.__version__, "python": platform.python_version()},
        }
        single = len(curves) == 1
        if single:
            record["note"] = "only one clip: its standard deviation is unknown and reported as 0"
        std = np.zeros(frames) if single else curves.std(axis=0, ddof=1)
        record.update(protocol or {})
        return SimilarityCurve(self.label, curves.mean(axis=0), std, len(curves), record, curves, self.real)


def _shape_text(shape: tuple[int, ...]) -> str:
    frames, height, width, channels = shape
    return f"{frames} frames of {height}x{width} with {channels} channel{'s' if channels > 1 else ''}"


def measure_similarity(
    source: ClipSource,
    *,
    clips: int = 1000,
    frames: int = 128,
    seed: int = 0,
    bins: int = BINS,
    real: bool = False,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> SimilarityCurve:
    """Colour similarity of `clips` random clips of a source, with its protocol.

    Args:
        source: where clips come from (:mod:`lvgan.evaluation.sources`).
        clips: clips asked for; a source that holds fewer gives what it has, and the record says so.
        frames: frames a clip.
        seed: chooses the clips.
        bins: bins a channel.
        real: footage, not a model.
        workers: threads; no result depends on them.
        progress: called with the number of clips done after each of them.

    Raises:
        DataError: the source holds no clip of that length.
    """
    if clips < 1 or frames < 2 or workers < 1:
        raise ValueError(f"clips and workers must be 1 or more and frames 2 or more, not {clips}, {workers}, {frames}")
    total = CurveAccumulator(source.label, bins, real=real)
    for done, _ in enumerate(total.add_all(source.clips(clips, frames, seed), workers), start=1):
        if progress is not None:
            progress(done)
    return total.result({"clips_asked": clips, "seed": seed, "source": describe(source)})


def check_comparable(*curves: SimilarityCurve, settings: Sequence[str] = SHARED_SETTINGS) -> None:
    """Refuse curves of different protocols: one of `settings` differs.

    Raises:
        DataError: naming the first setting that differs and both its values.
    """
    for other in curves[1:]:
        for name in settings:
            ours, theirs = curves[0].protocol[name], other.protocol[name]
            if ours != theirs:
                raise DataError(
                    f"{curves[0].label} was measured with {name} {ours} and {other.label} with {theirs}, "
                    "which cannot be compared: measure both with the same settings"
                )


@dataclass(frozen=True)
class CurveArea:
    """Distance of two mean curves.

    Attributes:
        area: mean over t = 1 ... T - 1 of |mean_a(t) - mean_b(t)| (t = 0 is 1 in every curve).
        low, high: bootstrap interval of `area`, never below 0. Where `low` is 0, the clips do not
            show that the curves differ.
        confidence: of the interval.
    """

    area: float
    low: float
    high: float
    confidence: float = 0.95


def curve_area(
    a: SimilarityCurve,
    b: SimilarityCurve,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> CurveArea:
    """Mean absolute difference of two mean curves, with what the number of clips allows to say.

    The clips of both are drawn anew `resamples` times. Noise only ever adds to an absolute difference,
    so quantiles of the redrawn areas would miss a small one. Instead the radius r holds the mean
    absolute distance of the redrawn difference from the measured one with probability `confidence`;
    by the triangle inequality area - r ... area + r then covers at least that often.
    Clips count as independent: where many are cut from a few videos, the interval is too narrow.
    One clip says nothing about the others: the interval is then all that is possible, 0 to 1.

    Raises:
        DataError: the curves were measured with different settings.
    """
    check_comparable(a, b)
    rng = np.random.default_rng(seed)
    difference = (a.mean - b.mean)[1:]
    if min(a.clips, b.clips) == 1:
        return CurveArea(float(np.abs(difference).mean()), 0.0, 1.0, confidence)
    distances = np.empty(resamples)
    for i in range(resamples):
        redrawn = _redrawn_mean(a.per_clip[:, 1:], rng) - _redrawn_mean(b.per_clip[:, 1:], rng)
        distances[i] = np.abs(redrawn - difference).mean()
    area = float(np.abs(difference).mean())
    radius = float(np.quantile(distances, confidence))
    return CurveArea(area, max(0.0, area - radius), area + radius, confidence)


def _redrawn_mean(curves: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mean of as many clips drawn from `curves` [clips, T] with replacement: [T]."""
    clips = len(curves)
    return rng.multinomial(clips, np.full(clips, 1 / clips)) @ curves / clips


def similarity_score(
    curve: SimilarityCurve,
    reference: SimilarityCurve,
    sources: tuple[ClipSource, ClipSource],
    area: CurveArea,
) -> Score:
    """The area between a curve and the data's as a score; its sign and the curves' last values in the details.

    Args:
        curve, reference: of the model and of the data.
        sources: of both, in this order.
        area: :func:`curve_area` of both.
    """
    signed = float((curve.mean - reference.mean)[1:].mean())
    details = {
        "signed_area": signed,
        "reading": "changes too slowly" if signed > 0 else "changes too fast",
        "distinct": area.low > 0,
        "clips": {"model": curve.clips, "real": reference.clips},
        "last": {"model": float(curve.mean[-1]), "real": float(reference.mean[-1])},
    }
    protocol = record(
        f"{COLOR_SIMILARITY} area",
        sources={"model": sources[0], "real": sources[1]},
        clips=curve.protocol["clips_asked"],
        frames=curve.protocol["frames"],
        size=curve.protocol["size"],
        seeds=[curve.protocol["seed"]],
        bins=curve.protocol["bins"],
        confidence=area.confidence,
    )
    return Score(f"{COLOR_SIMILARITY} area", area.area, None, (area.low, area.high), details, protocol)
