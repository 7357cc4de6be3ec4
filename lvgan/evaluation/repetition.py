"""Does a video repeat itself? The best match of every moment anywhere else in the same video.

A moment is a short clip, described by small thumbnails of its frames in luma and chroma. The distance of two
moments is the root mean square of the differences of their thumbnails, in grey levels (0 ... 255). A moment is
repeated where another one, at least a minimum lag away, is no farther from it than the moments just before and
after it are. FVD does not see this: each clip of a loop is as good as the one before.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np

LUMA, CHROMA = 16, 8  # sides of the thumbnails
FEATURES = LUMA * LUMA + 2 * CHROMA * CHROMA
SPAN = 16  # frames a moment
NEAR = 4  # frames between a moment and its neighbours
MIN_LAG = 2 * SPAN
FLOOR = 0.05  # grey levels: what rounding and a codec leave of two equal moments
DISTINCT = 0.5  # a match has to be closer than this share of the typical distance: in noise all are alike
PERIODIC = 0.5  # share of moments that recur after one lag, from which on it is a period
_BLOCK = 256  # moments compared with all others at once


def thumbnail(frame: np.ndarray) -> np.ndarray:
    """Luma and chroma of a frame, averaged over cells: float32 [FEATURES], in grey levels.

    Args:
        frame: uint8 [H, W, 3] (RGB) or [H, W, 1], of any size.
    """
    height, width = frame.shape[:2]
    small = np.empty((LUMA, LUMA, 3), np.float32)
    rows, columns = _averaging(height), _averaging(width)
    for c in range(3):
        channel = frame[..., c % frame.shape[2]].astype(np.float32)
        small[..., c] = rows @ channel @ columns.T
    y = small @ np.array([0.299, 0.587, 0.114], np.float32)
    parts = [y]
    for c, scale in ((2, 0.564), (0, 0.713)):
        difference = (small[..., c] - y) * np.float32(scale)
        parts.append(difference.reshape(CHROMA, 2, CHROMA, 2).mean(axis=(1, 3)))
    return np.concatenate([part.ravel() for part in parts])


@functools.lru_cache(maxsize=16)
def _averaging(length: int) -> np.ndarray:
    """Means over LUMA equal parts of `length` pixels, which need not be whole: float32 [LUMA, length]."""
    edges = np.arange(LUMA + 1) * length / LUMA
    pixels = np.arange(length)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    means: np.ndarray = (covered.clip(0) * (LUMA / length)).astype(np.float32)
    return means


@dataclass(frozen=True)
class Repetition:
    """How a video repeats itself. M moments; moment t is frames t ... t + SPAN - 1.

    Attributes:
        best: distance of the best match of each moment, float64 [M], grey levels.
        lag: where it is: frames from the moment to its match, int64 [M], negative for earlier ones.
        near: distance to the neighbouring moments, NEAR frames before and after, float64 [M].
        typical: median distance to all moments that could have matched, float64 [M].
        repeated: the match is as close as the neighbours are, and clearly closer than most, bool [M].
        frozen: the moment stands still, bool [M].
        period: frames after which the video repeats itself; None where it does not.
        periodic: share of the moments that recur one period later.
        coverage: share of the moments that recur after each lag 1 ... M - 1, float64 [M - 1].
    """

    best: np.ndarray
    lag: np.ndarray
    near: np.ndarray
    typical: np.ndarray
    repeated: np.ndarray
    frozen: np.ndarray
    period: int | None
    periodic: float
    coverage: np.ndarray = field(repr=False)

    @property
    def share(self) -> float:
        """Moments that are repeated or stand still, of all."""
        return float((self.repeated | self.frozen).mean())

    @property
    def ratio(self) -> np.ndarray:
        """Distance of the best match relative to that of the neighbours, without moments that stand still: [m]."""
        moving = ~self.frozen
        return self.best[moving] / np.maximum(self.near[moving], FLOOR)


def find_repetition(
    thumbnails: np.ndarray,
    frozen_frames: np.ndarray | None = None,
    *,
    span: int = SPAN,
    min_lag: int = MIN_LAG,
) -> Repetition:
    """Compare every moment of a video with every other one.

    Memory: thumbnails and a few blocks of 256 rows; time grows with the square of the length.

    Args:
        thumbnails: float32 [T, F], :func:`thumbnail` of consecutive frames.
        frozen_frames: bool [T], frames that belong to a still stretch (:func:`still_frames`).
        span: frames a moment.
        min_lag: matches nearer than this are only the video going on.

    Raises:
        ValueError: the video is shorter than one moment and the lag.
    """
    frames = len(thumbnails)
    moments = frames - span + 1
    if thumbnails.ndim != 2 or moments <= min_lag or min_lag < span:
        raise ValueError(
            f"thumbnails must be [T, F] with T above span + min_lag - 1 and min_lag at least span, "
            f"not {list(thumbnails.shape)} with span {span} and min_lag {min_lag}"
        )
    centred = thumbnails - thumbnails.mean(axis=0, dtype=np.float64).astype(np.float32)  # less cancellation
    near = _near(centred, span)
    limit = np.maximum(near, FLOOR)
    best, match, typical, counts, sums = _compare(centred, span, min_lag, limit)
    repeated = (best <= limit) & (best <= DISTINCT * typical)
    frozen = np.zeros(moments, bool) if frozen_frames is None else _all_within(frozen_frames, span)
    pairs = moments - np.arange(1, moments)
    coverage = counts / pairs
    period, periodic = _period(coverage, sums / pairs, repeated & ~frozen, span)
    lag = match - np.arange(moments)
    return Repetition(best, lag, near, typical, repeated, frozen, period, periodic, coverage)


def _all_within(marked: np.ndarray, span: int) -> np.ndarray:
    """Moments of which every frame is marked: [T] -> [T - span + 1]."""
    total = np.concatenate([[0], np.cumsum(marked)])
    within: np.ndarray = total[span:] - total[:-span] == span
    return within


def _distances(a: np.ndarray, b: np.ndarray, span: int) -> np.ndarray:
    """Distances of moments of two aligned videos, float64: [T, F], [T, F] -> [T - span + 1]."""
    square = np.square(a - b, dtype=np.float64).mean(axis=1)
    return np.sqrt(np.lib.stride_tricks.sliding_window_view(square, span).mean(axis=1))


def _near(thumbnails: np.ndarray, span: int) -> np.ndarray:
    """Mean distance of each moment to those NEAR frames before and after it (at the ends: to one): [M]."""
    apart = _distances(thumbnails[:-NEAR], thumbnails[NEAR:], span)
    after = np.concatenate([apart, apart[-1:].repeat(NEAR)])
    before = np.concatenate([apart[:1].repeat(NEAR), apart])
    return (after + before) / 2


def _compare(
    thumbnails: np.ndarray, span: int, min_lag: int, limit: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of moments, block by block.

    Returns: the best distance, its index and the typical distance of each moment, [M] each; for each lag from 1 on
    how many moments recur within their `limit`, and the sum of the distances of all pairs, [M - 1] each.
    """
    moments = len(limit)
    best, match, typical = np.empty(moments), np.empty(moments, np.int64), np.empty(moments)
    counts, sums = np.zeros(moments - 1), np.zeros(moments - 1)
    norms = np.square(thumbnails, dtype=np.float64).sum(axis=1).astype(np.float32)
    everything = np.arange(moments)
    for first in range(0, moments, _BLOCK):
        rows = everything[first : first + _BLOCK]
        square = _block(thumbnails, norms, rows, span)
        _add_lags(np.sqrt(square), rows, limit, counts, sums)
        away = np.abs(everything - rows[:, None]) >= min_lag
        square[~away] = np.inf
        match[rows] = square.argmin(axis=1)
        for row, distances, possible in zip(rows, square, away, strict=True):
            typical[row] = np.sqrt(np.median(distances[possible])) if possible.any() else np.nan
            mine, other = thumbnails[row : row + span], thumbnails[match[row] : match[row] + span]
            best[row] = _distances(mine, other, span)[0]  # without the rounding of the product
    return best, match, typical, counts, sums


def _block(thumbnails: np.ndarray, norms: np.ndarray, rows: np.ndarray, span: int) -> np.ndarray:
    """Squared distances of some moments to all, float32 [rows, M]."""
    moments = len(thumbnails) - span + 1
    taken = slice(rows[0], rows[-1] + span)
    frames = norms[taken, None] + norms - 2 * (thumbnails[taken] @ thumbnails.T)
    total = np.zeros((len(rows), moments), np.float32)
    for k in range(span):
        total += frames[k : k + len(rows), k : k + moments]
    total /= span * thumbnails.shape[1]
    return np.maximum(total, 0, out=total)


def _add_lags(distances: np.ndarray, rows: np.ndarray, limit: np.ndarray, counts: np.ndarray, sums: np.ndarray) -> None:
    """Add a block's pairs to the counts and sums of their lags."""
    height, first = len(rows), rows[0]
    width = distances.shape[1] - first  # to the left of it are pairs that earlier blocks had
    padded = np.full((height, width + height), np.nan, np.float32)
    padded[:, :width] = distances[:, first:]
    step, item = padded.strides
    # Column L of this view is lag L: row r starts r columns farther right.
    by_lag = np.lib.stride_tricks.as_strided(padded, (height, width), (step + item, item), writeable=False)
    with np.errstate(invalid="ignore"):
        counts[: width - 1] += (by_lag[:, 1:] <= limit[rows][:, None]).sum(axis=0)
    sums[: width - 1] += np.nansum(by_lag[:, 1:], axis=0, dtype=np.float64)


def _period(coverage: np.ndarray, distance: np.ndarray, repeated: np.ndarray, span: int) -> tuple[int | None, float]:
    """The shortest lag after which most of what recurs does, beyond the neighbourhood; and the share that does.

    A video's moments resemble their neighbours, so the search begins where that has ended. Lags at which fewer
    than `span` pairs are compared say nothing.
    """
    usable = coverage[: max(0, len(coverage) - span)]
    if not len(usable) or not repeated.any():
        return None, 0.0
    left = np.flatnonzero(usable < 0.5 * usable.max())
    if not len(left):
        return None, 0.0
    start = int(left[0])
    while start + 1 < len(usable) and 0 < usable[start + 1] <= usable[start]:
        start += 1
    peak = float(usable[start:].max())
    if peak < PERIODIC:
        return None, 0.0
    first = start + int(np.flatnonzero(usable[start:] >= 0.9 * peak)[0])
    end = first
    while end < len(usable) and usable[end] >= 0.9 * peak:
        end += 1
    place = first + int(distance[first:end].argmin())
    return place + 1, float(coverage[place])


def still_frames(differences: np.ndarray, shortest: int = SPAN) -> np.ndarray:
    """Frames within stretches that stand still, bool [T].

    A frame stands still where the change to the next is below a fiftieth of the video's large changes (its 95th
    percentile) or below what rounding makes; only stretches of `shortest` frames count, so that frames that a
    change of rate has doubled do not.

    Args:
        differences: [T - 1], root mean square change from each frame to the next, grey levels.
        shortest: frames.
    """
    if not len(differences):
        return np.zeros(1, bool)
    still = differences <= max(FLOOR, 0.02 * float(np.quantile(differences, 0.95)))
    marked = np.zeros(len(differences) + 1, bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], still.astype(np.int8), [0]])))
    for start, end in edges.reshape(-1, 2):  # still[start:end]: frames start ... end are alike
        if end - start + 1 >= shortest:
            marked[start : end + 1] = True
    return marked
