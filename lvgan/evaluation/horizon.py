"""Long-horizon figures: drift, self-repetition and motion of videos far beyond the length of a clip.

FVD of 16 or 128 frames cannot tell a video that loops, freezes or slowly loses its colours from one that
does not. These three can, and compare with footage:

* drift: colour similarity of frame t to the start, t up to 10,000 frames, at log-spaced t;
* self-repetition: :mod:`lvgan.evaluation.repetition`;
* motion: how much frames change, and in what rhythm.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lvgan.config import USUAL_FPS
from lvgan.errors import DataError, LvganError, MediaError
from lvgan.evaluation.color import BINS, color_histogram
from lvgan.evaluation.features import Opener
from lvgan.evaluation.long_videos import LongVideo, checked, long_videos
from lvgan.evaluation.processes import device_of, exact, together
from lvgan.evaluation.repetition import MIN_LAG, SPAN, Repetition, find_repetition, still_frames, thumbnail
from lvgan.evaluation.sources import ClipSource
from lvgan.seeding import derive

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

RHYTHM_LAGS = 32  # frames over which the rhythm of motion is compared
RHYTHM_BLOCK = 128  # frames of which one autocorrelation is taken
QUANTILES = (np.arange(64) + 0.5) / 64
SMALLEST_CHANGE = 0.05  # grey levels; below it, motion is none
PER_OCTAVE = 4  # points of the drift curve


class TooShortError(DataError):
    """A video that cannot be measured because it ends too early."""


@dataclass(frozen=True)
class Plan:
    """What is read of every video.

    Attributes:
        frames: how far drift is followed.
        dense: frames read without gaps, for self-repetition and motion.
        videos: of each source.
        starts: moments of each video from which drift is followed, evenly spread over its first half.
        bins: of the colour histogram, a channel.
        seed: chooses the videos.
        min_lag: see :func:`lvgan.evaluation.repetition.find_repetition`.
    """

    frames: int = 10_000
    dense: int = 2048
    videos: int = 16
    starts: int = 2
    bins: int = BINS
    seed: int = 0
    min_lag: int = MIN_LAG

    @property
    def shortest(self) -> int:
        """Frames that a video needs, so that each of its moments has another to match."""
        return SPAN + 2 * self.min_lag

    def times(self) -> np.ndarray:
        """The log-spaced t of the drift curve, from 0 to `frames` - 1: int64 [points]."""
        count = max(2, round(PER_OCTAVE * np.log2(max(self.frames - 1, 2))))
        spaced = np.geomspace(1, self.frames - 1, count)
        return np.unique(np.concatenate([[0], spaced.round().astype(np.int64)]))


@dataclass(frozen=True)
class Track:
    """What was measured of one video.

    Attributes:
        name: of the video.
        frames: how many it has, at most as many as the plan asks for.
        drift: similarity to the frame of each start after each time, float64 [starts, points]; NaN past the end.
        change: root mean square change from frame to frame, grey levels, float64 [dense - 1].
        thumbnails: float32 [dense, F].
        size: of the frames, HxW.
    """

    name: str
    frames: int
    drift: np.ndarray
    change: np.ndarray = field(repr=False)
    thumbnails: np.ndarray = field(repr=False)
    size: str = ""


def _needed(video: LongVideo, plan: Plan) -> tuple[np.ndarray, np.ndarray, int]:
    """Frames to read of a video, ascending; starts of drift curves; and how many frames are read without gaps."""
    length = plan.frames if video.length is None else min(video.length, plan.frames)
    starts = np.arange(plan.starts) * length // (2 * plan.starts)
    wanted = (starts[:, None] + plan.times()).ravel()
    dense = min(plan.dense, length)
    return np.unique(np.concatenate([np.arange(dense), wanted[wanted < length]])), starts, dense


def read_track(video: LongVideo, plan: Plan, progress: Callable[[], object] | None = None) -> Track:
    """Read the frames that are needed of one video, each once and in order.

    Raises:
        TooShortError: it ends earlier than its header says.
        MediaError: it cannot be decoded.
    """
    indices, starts, dense = _needed(video, plan)
    times = plan.times()
    wanted = starts[:, None] + times  # [starts, points]
    drift = np.full(wanted.shape, np.nan)
    needed = set(wanted.ravel().tolist())
    first: dict[int, np.ndarray] = {}
    small: list[np.ndarray] = []
    change: list[float] = []
    before: np.ndarray | None = None
    size, last = "", -1
    for index, frame in zip(indices.tolist(), checked(video, indices.tolist()), strict=False):
        size, last = f"{frame.shape[0]}x{frame.shape[1]}", index
        if index < dense:
            small.append(thumbnail(frame))
            now = frame.astype(np.float32)
            if before is not None:
                change.append(float(np.sqrt(np.square(now - before).mean(dtype=np.float64))))
            before = now
        if index in needed:
            _add_similarity(frame, index, starts, times, plan.bins, first, drift)
        if progress is not None:
            progress()
    if len(small) < plan.shortest:
        raise TooShortError(
            f"{video.name} ends after {last + 1} frames, but {plan.shortest} were expected; give a whole or longer one"
        )
    return Track(video.name, last + 1, drift, np.array(change), np.stack(small), size)


def _add_similarity(
    frame: np.ndarray,
    index: int,
    starts: np.ndarray,
    times: np.ndarray,
    bins: int,
    first: dict[int, np.ndarray],
    drift: np.ndarray,
) -> None:
    pixels = frame.shape[0] * frame.shape[1]
    histogram = np.rint(color_histogram(frame[None], bins)[0] * pixels)  # whole numbers: what stays the same is 1
    for place, start in enumerate(starts.tolist()):
        if index == start:
            first[place] = histogram
        where = np.flatnonzero(times == index - start)
        if len(where):
            drift[place, where] = np.minimum(first[place], histogram).sum() / pixels


@dataclass(frozen=True)
class Horizon:
    """Everything measured of one source; 1.5 kB a dense frame, and no pixels.

    Attributes:
        label: of the source.
        tracks: of its videos.
        repetitions: one a video.
        times: of the drift curve.
        size: of the frames, HxW.
        real: it is the footage that others are compared with.
        fps: frames a second.
    """

    label: str
    tracks: tuple[Track, ...]
    repetitions: tuple[Repetition, ...]
    times: np.ndarray
    size: str
    real: bool = False
    fps: float = USUAL_FPS

    def drift_curves(self) -> np.ndarray:
        """Mean over the starts of each video, float64 [videos, points]; NaN past its end."""
        curves = np.stack([track.drift for track in self.tracks])
        counts = np.isfinite(curves).sum(axis=1)
        with np.errstate(invalid="ignore"):
            means: np.ndarray = np.nansum(curves, axis=1) / np.where(counts, counts, np.nan)
        return means

    def drift(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean and standard deviation over videos at each time, and how many reach it: [points] each."""
        curves = self.drift_curves()
        count = np.isfinite(curves).sum(axis=0)
        divisor = np.where(count, count, np.nan)
        mean = np.nansum(curves, axis=0) / divisor
        square = np.nansum(np.square(curves - mean), axis=0) / np.where(count > 1, count - 1, np.nan)
        return mean, np.where(count > 1, np.sqrt(square), np.where(count == 1, 0.0, np.nan)), count


def measure_horizon(
    source: ClipSource,
    plan: Plan,
    *,
    real: bool = False,
    progress: Callable[[], object] | None = None,
    total: Callable[[int], object] | None = None,
    device: torch.device | None = None,
    workers: int = 1,
    open_source: Opener | None = None,
) -> Horizon:
    """Read the videos of a source and measure all three figures.

    Args:
        source: where they come from.
        plan: what to read.
        real: footage that others are compared with.
        progress: called after each frame.
        total: called once with the number of frames that will be read.
        device: where its networks run; the CPU where not given.
        workers: processes, which share the videos. The result does not depend on them.
        open_source: opens the source in each of several processes; importable by name.

    Raises:
        DataError: no video is long enough, or their sizes differ.
        MachineError: a process was ended from outside.
    """
    import torch

    advance = progress or (lambda: None)
    videos = list(long_videos(source, plan.videos, plan.frames, plan.shortest, plan.seed))
    if total is not None:
        total(sum(len(_needed(video, plan)[0]) for video in videos))
    found: dict[int, tuple[Track, Repetition] | LvganError] = {}

    def take(answer: tuple[int, tuple[Track, Repetition] | LvganError] | None) -> None:
        if answer is None:
            advance()
        else:
            found[answer[0]] = answer[1]

    workers, device = min(workers, len(videos)), device or torch.device("cpu")
    if workers > 1 and open_source is not None:
        places = [range(i, len(videos), workers) for i in range(workers)]
        together([_Share(open_source, plan, device_of(device, i), place) for i, place in enumerate(places)], take)
    else:
        _look(videos, range(len(videos)), plan, device, take)
    pairs = _usable([found[number] for number in range(len(videos))])
    tracks, repetitions = zip(*pairs, strict=True)
    for track in tracks:
        if track.size != tracks[0].size:
            raise DataError(
                f"{source.label} holds videos of {tracks[0].size} and {track.size}, whose motion cannot be put "
                "together; give --size to bring them to one size"
            )
    return Horizon(source.label, tracks, repetitions, plan.times(), tracks[0].size, real, source.fps)


Take = Callable[[tuple[int, tuple[Track, Repetition] | LvganError] | None], None]  # a video's number and figures


@dataclass(frozen=True)
class _Share:
    """The videos that one of several processes looks at."""

    open_source: Opener
    plan: Plan
    device: str
    numbers: range

    def __call__(self, tell: Take) -> None:
        import torch

        device, plan = torch.device(self.device), self.plan
        source = self.open_source(device)
        videos = list(long_videos(source, plan.videos, plan.frames, plan.shortest, plan.seed))
        _look(videos, self.numbers, plan, device, tell)


def _look(videos: Sequence[LongVideo], numbers: range, plan: Plan, device: torch.device, tell: Take) -> None:
    """Measure the videos of these numbers; tells None after each frame, and what was found after each video."""
    with exact(device):
        for number in numbers:
            try:
                track = read_track(videos[number], plan, lambda: tell(None))
            except (TooShortError, MediaError) as error:
                tell((number, error))
            else:
                tell((number, (track, repetition_of(track, plan.min_lag))))


def _usable(found: Sequence[tuple[Track, Repetition] | LvganError]) -> list[tuple[Track, Repetition]]:
    """What could be measured; one bad video among others is told and left out, as it is everywhere."""
    pairs = [one for one in found if not isinstance(one, LvganError)]
    errors = [one for one in found if isinstance(one, LvganError)]
    if not pairs:
        raise errors[0]
    for error in errors:
        log.warning("left out: %s", error)
    return pairs


def repetition_of(track: Track, min_lag: int = MIN_LAG, frames: int | None = None) -> Repetition:
    """The self-repetition of a video, or of its first `frames` frames."""
    small = track.thumbnails[:frames]
    return find_repetition(small, still_frames(track.change[: len(small) - 1]), min_lag=min_lag)


# --- distances to footage ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Gap:
    """Distance of a source to footage with its bootstrap interval, as :class:`lvgan.evaluation.color.CurveArea`."""

    value: float
    low: float
    high: float
    units: str
    confidence: float = 0.95


Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]  # units [U, ...], their weights [U] -> a curve
ENOUGH_VIDEOS = 5  # of each source; from fewer, parts of videos are redrawn rather than whole ones


@dataclass(frozen=True)
class Units:
    """What a bootstrap redraws: values [U, ...] and the group [U] (0 ... G - 1) that is redrawn as one."""

    values: np.ndarray
    group: np.ndarray

    def drawn(self, rng: np.random.Generator) -> np.ndarray:
        """Weights of the units after redrawing as many groups with replacement: [U]."""
        groups = int(self.group.max()) + 1
        return rng.multinomial(groups, np.full(groups, 1 / groups))[self.group].astype(np.float64)


def bootstrap_gap(
    a: Units,
    b: Units,
    statistic: Statistic,
    units: str,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Gap:
    """Mean absolute difference of a statistic of two sources, with a bootstrap interval over its units.

    Noise only adds to an absolute difference, so the interval is the measured value plus and minus the radius
    that holds the redrawn differences' distance from the measured one (see
    :func:`lvgan.evaluation.color.curve_area`). Where `low` is 0, the units do not show a difference.

    Args:
        a: units of one source.
        b: of the other.
        statistic: takes units and a weight for each, and gives a curve.
        units: what is redrawn, in words.
        resamples: how often.
        confidence: of the interval.
        seed: of the redrawing.
    """
    rng = np.random.default_rng(derive(seed, "horizon", "bootstrap"))
    ours, theirs = a.values, b.values
    difference = statistic(ours, np.ones(len(ours))) - statistic(theirs, np.ones(len(theirs)))
    redrawn = np.empty(resamples)
    for i in range(resamples):
        other = statistic(ours, a.drawn(rng)) - statistic(theirs, b.drawn(rng))
        redrawn[i] = np.nanmean(np.abs(other - difference))
    value, radius = float(np.nanmean(np.abs(difference))), float(np.quantile(redrawn, confidence))
    return Gap(value, max(0.0, value - radius), value + radius, units, confidence)


def drift_gap(a: Horizon, b: Horizon, resamples: int = 1000) -> Gap | None:
    """Mean absolute difference of the mean drift curves, over the times that all videos of both reach.

    Times are log-spaced, so every octave counts the same. None where there is no such time.
    """
    curves = [horizon.drift_curves() for horizon in (a, b)]
    reached = np.all([np.isfinite(c).all(axis=0) for c in curves], axis=0)
    reached[0] = False  # 1 in every curve
    if not reached.any():
        return None

    def mean(units: np.ndarray, weights: np.ndarray) -> np.ndarray:
        result: np.ndarray = weights @ units / weights.sum()
        return result

    ours, theirs = (Units(c[:, reached], np.arange(len(c))) for c in curves)
    if min(len(c) for c in curves) == 1:  # says nothing about others: all that is possible
        value = float(np.abs(curves[0][:, reached].mean(axis=0) - curves[1][:, reached].mean(axis=0)).mean())
        return Gap(value, 0.0, 1.0, "nothing: one video")
    return bootstrap_gap(ours, theirs, mean, "videos", resamples=resamples)


def _blocks(a: Horizon, b: Horizon) -> tuple[list[Units], str]:
    """Frame changes of both in octaves, cut into blocks of consecutive frames; and what a bootstrap redraws.

    Every video gives at least one block; the frames after its last whole block are left out.
    """
    length = min([RHYTHM_BLOCK, *(len(track.change) for horizon in (a, b) for track in horizon.tracks)])
    whole = min(len(a.tracks), len(b.tracks)) >= ENOUGH_VIDEOS
    units = []
    for horizon in (a, b):
        blocks, videos = [], []
        for number, track in enumerate(horizon.tracks):
            octaves = np.log2(np.maximum(track.change, SMALLEST_CHANGE))
            mine = octaves[: len(octaves) // length * length].reshape(-1, length)
            blocks.append(mine)
            videos += [number] * len(mine)
        values = np.concatenate(blocks)
        units.append(Units(values, np.array(videos) if whole else np.arange(len(values))))
    return units, "videos" if whole else f"blocks of {length} frames"


def motion_gap(a: Horizon, b: Horizon, resamples: int = 1000) -> Gap:
    """Wasserstein-1 distance of the distributions of frame-to-frame change, in octaves.

    1 says that the one changes twice as much as the other.
    """

    def quantiles(units: np.ndarray, weights: np.ndarray) -> np.ndarray:
        order = np.argsort(units, axis=None, kind="stable")
        total = np.cumsum(np.repeat(weights, units.shape[1])[order])
        values: np.ndarray = units.ravel()[order][np.searchsorted(total, QUANTILES * total[-1])]
        return values

    (ours, theirs), redrawn = _blocks(a, b)
    return bootstrap_gap(ours, theirs, quantiles, redrawn, resamples=resamples)


def rhythm_gap(a: Horizon, b: Horizon, resamples: int = 1000) -> Gap:
    """Mean absolute difference of the autocorrelations of frame-to-frame change, 0 (same rhythm) ... 2."""
    blocks, redrawn = _blocks(a, b)
    ours, theirs = (Units(autocovariance(units.values), units.group) for units in blocks)
    return bootstrap_gap(ours, theirs, _correlation, redrawn, resamples=resamples)


def rhythm(horizon: Horizon) -> np.ndarray:
    """Autocorrelation of frame-to-frame change at lags 1 ... RHYTHM_LAGS; 0 where nothing changes."""
    (units, _), _ = _blocks(horizon, horizon)
    lagged = autocovariance(units.values)
    return _correlation(lagged, np.ones(len(lagged)))


def autocovariance(blocks: np.ndarray) -> np.ndarray:
    """Of each block [T] about its mean, at lags 0 ... RHYTHM_LAGS (at most T / 2): [blocks, lags + 1]."""
    centred = blocks - blocks.mean(axis=1, keepdims=True)
    length = blocks.shape[1]
    lags = range(min(RHYTHM_LAGS, length // 2) + 1)
    return np.stack([(centred[:, : length - lag] * centred[:, lag:]).sum(axis=1) / length for lag in lags], axis=1)


def _correlation(lagged: np.ndarray, weights: np.ndarray) -> np.ndarray:
    variance = weights @ lagged[:, 0]
    result: np.ndarray = weights @ lagged[:, 1:] / variance if variance > 0 else np.zeros(lagged.shape[1] - 1)
    return result


def matched_share(horizon: Horizon, frames: int, min_lag: int = MIN_LAG) -> np.ndarray:
    """Share of repeated moments within the first `frames` frames of each video: a longer one has more to match."""
    return np.array([repetition_of(track, min_lag, frames).share for track in horizon.tracks])


def last_time(horizons: Sequence[Horizon]) -> int:
    """The last point of the drift curve that every video of all of them reaches: its place in `times`."""
    reached = np.all([np.isfinite(horizon.drift_curves()).all(axis=0) for horizon in horizons], axis=0)
    return int(np.flatnonzero(reached)[-1])


def shortest_dense(horizons: Sequence[Horizon]) -> int:
    """Frames that every video of all of them has without gaps."""
    return min(len(track.thumbnails) for horizon in horizons for track in horizon.tracks)
