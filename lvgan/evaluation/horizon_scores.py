"""Long-horizon figures as scores with their protocols, as a table, and as a sentence a source."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lvgan.config import USUAL_FPS
from lvgan.evaluation.horizon import (
    RHYTHM_BLOCK,
    RHYTHM_LAGS,
    SMALLEST_CHANGE,
    Gap,
    Horizon,
    Plan,
    drift_gap,
    last_time,
    matched_share,
    motion_gap,
    rhythm,
    rhythm_gap,
    shortest_dense,
)
from lvgan.evaluation.protocol import Score, record
from lvgan.evaluation.repetition import DISTINCT, FLOOR, NEAR, SPAN, Repetition
from lvgan.evaluation.sources import ClipSource
from lvgan.files import write_whole
from lvgan.seeding import derive

RATIO_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95)


def horizon_scores(
    horizon: Horizon,
    source: ClipSource,
    plan: Plan,
    reference: Horizon | None = None,
    reference_source: ClipSource | None = None,
    beside: Sequence[Horizon] = (),
) -> list[Score]:
    """The scores of one source: ``drift``, ``self-repetition`` and ``motion``, and the gaps to the reference.

    Drift is told at the last time that all videos of the source reach and, where those beside it are shorter, at
    the last one that all reach as well, so that there is a number to compare.

    Args:
        horizon: what was measured of it.
        source: where that came from.
        plan: how it was measured.
        reference: footage.
        reference_source: where that came from.
        beside: all that it is measured beside; repetition is compared within as many frames as all of them have.
    """
    sources = {"model": source}
    everyone = [horizon, *([] if reference is None else [reference]), *beside]
    scores = [
        *(
            _drift_score(horizon, _protocol("drift", horizon, sources, plan), last)
            for last in sorted({last_time(everyone), last_time([horizon])})
        ),
        _repetition_score(horizon, _protocol("self-repetition", horizon, sources, plan)),
        _motion_score(horizon, _protocol("motion", horizon, sources, plan)),
    ]
    if reference is None or reference_source is None:
        return scores
    sources["real"] = reference_source
    gaps: list[tuple[str, Gap | None]] = [("drift-gap", drift_gap(horizon, reference))]
    if horizon.size == reference.size:  # a change of a pixel is not that of another one
        gaps += [("motion-gap", motion_gap(horizon, reference)), ("rhythm-gap", rhythm_gap(horizon, reference))]
    for metric, gap in gaps:
        if gap is not None:
            protocol = _protocol(metric, horizon, sources, plan)
            details = {"reference": reference.label, "bootstrap": gap.units}
            scores.append(Score(metric, gap.value, None, (gap.low, gap.high), details, protocol))
    protocol = {**_protocol("self-repetition-gap", horizon, sources, plan), "matched_frames": shortest_dense(everyone)}
    scores.append(_matched_score(horizon, reference, plan, protocol))
    return scores


def _protocol(metric: str, horizon: Horizon, sources: dict[str, ClipSource], plan: Plan) -> dict[str, Any]:
    """Everything that decides the figure."""
    more: dict[str, Any] = {}
    if metric.startswith("drift"):
        more = {"bins": plan.bins, "starts": plan.starts, "times": len(plan.times())}
    elif metric.startswith("self-repetition"):
        more = {"dense_frames": plan.dense, "moment": SPAN, "min_lag": plan.min_lag, "near": NEAR}
        more |= {"distinct": DISTINCT, "floor": FLOOR}
    else:
        more = {"dense_frames": plan.dense, "block": RHYTHM_BLOCK, "lags": RHYTHM_LAGS, "floor": SMALLEST_CHANGE}
    return record(
        metric,
        sources=sources,
        clips=plan.videos,
        frames=plan.frames,
        stride=1,
        size=horizon.size,
        seeds=[plan.seed],
        **more,
    )


def _over_videos(values: np.ndarray) -> tuple[float, float | None, tuple[float, float] | None]:
    """Mean, standard deviation and bootstrap interval (95 %) over videos; None where there is one video only."""
    if len(values) < 2:
        return float(values.mean()), None, None
    rng = np.random.default_rng(derive(0, "horizon", "interval"))
    means = rng.choice(values, (1000, len(values))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(values.mean()), float(values.std(ddof=1)), (float(low), float(high))


def _drift_score(horizon: Horizon, protocol: dict[str, Any], last: int) -> Score:
    """Similarity to the start at a point of the curve, which the protocol names."""
    mean, std, count = horizon.drift()
    curves = horizon.drift_curves()
    protocol = {**protocol, "at_frame": int(horizon.times[last])}
    value, spread, interval = _over_videos(curves[:, last])
    reached = count > 0
    details = {
        "times": horizon.times[reached].tolist(),
        "mean": mean[reached].tolist(),
        "std": std[reached].tolist(),
        "videos": count[reached].tolist(),
    }
    return Score("drift", value, spread, interval, details, protocol)


def _repetition_score(horizon: Horizon, protocol: dict[str, Any]) -> Score:
    """Share of moments that recur elsewhere in their video, or stand still."""
    shares = np.array([found.share for found in horizon.repetitions])
    value, spread, interval = _over_videos(shares)
    ratios = np.concatenate([found.ratio for found in horizon.repetitions])
    videos = [
        {
            "name": track.name,
            "frames": len(track.thumbnails),
            "share": found.share,
            "repeated": float(found.repeated.mean()),
            "frozen": float(found.frozen.mean()),
            "period": found.period,
            "periodic": found.periodic,
            "sentence": repetition_sentence(found, horizon.fps),
        }
        for track, found in zip(horizon.tracks, horizon.repetitions, strict=True)
    ]
    quantiles = {f"{q:g}": float(np.quantile(ratios, q)) for q in RATIO_QUANTILES} if len(ratios) else {}
    details = {
        "best_match_over_neighbours": quantiles,
        "lags": _lags(horizon),
        "videos": videos,
    }
    return Score("self-repetition", value, spread, interval, details, protocol)


def _lags(horizon: Horizon) -> list[list[int]]:
    """The most frequent distances in frames to the best matches of repeated moments: [frames, moments], at most 8."""
    found = [abs(r.lag[r.repeated & ~r.frozen]) for r in horizon.repetitions]
    lags, counts = np.unique(np.concatenate(found), return_counts=True)
    order = np.argsort(-counts, kind="stable")[:8]
    return [[int(lags[i]), int(counts[i])] for i in order]


def _matched_score(horizon: Horizon, reference: Horizon, plan: Plan, protocol: dict[str, Any]) -> Score:
    """How much more often moments recur than in footage, within stretches of one length."""
    ours, theirs = (matched_share(h, protocol["matched_frames"], plan.min_lag) for h in (horizon, reference))
    details = {
        "reference": reference.label,
        "share": float(ours.mean()),
        "reference_share": float(theirs.mean()),
    }
    interval = None
    if min(len(ours), len(theirs)) > 1:
        rng = np.random.default_rng(derive(0, "horizon", "interval"))
        drawn = [rng.choice(values, (1000, len(values))).mean(axis=1) for values in (ours, theirs)]
        low, high = np.quantile(drawn[0] - drawn[1], (0.025, 0.975))
        interval = (float(low), float(high))
    return Score("self-repetition-gap", float(ours.mean() - theirs.mean()), None, interval, details, protocol)


def _motion_score(horizon: Horizon, protocol: dict[str, Any]) -> Score:
    """Mean root mean square change from a frame to the next, in grey levels."""
    value, spread, interval = _over_videos(np.array([track.change.mean() for track in horizon.tracks]))
    changes = np.concatenate([track.change for track in horizon.tracks])
    details = {
        "unit": "grey levels a frame",
        "std_over_time": float(np.mean([track.change.std() for track in horizon.tracks])),
        "quantiles": {f"{q:g}": float(np.quantile(changes, q)) for q in RATIO_QUANTILES},
        "autocorrelation": rhythm(horizon).tolist(),
    }
    return Score("motion", value, spread, interval, details, protocol)


def repetition_sentence(found: Repetition, fps: float = USUAL_FPS) -> str:
    """What was found, in words."""
    said = []
    frozen = float(found.frozen.mean())
    if frozen >= 0.02:
        start = int(found.frozen.argmax())
        whole = bool(found.frozen[start:].all())
        where = f"stands still from frame {start} on" if whole else f"stands still for {frozen:.0%} of its moments"
        said.append("stands still" if frozen == 1 else where)
    again = found.repeated & ~found.frozen
    if found.period is not None:
        said.append(f"repeats every {found.period} frames ({found.period / fps:.1f} s)")
    elif again.mean() >= 0.02:
        lags, counts = np.unique(abs(found.lag[again]), return_counts=True)
        said.append(f"meets {again.mean():.0%} of its moments again, most often after {lags[counts.argmax()]} frames")
    return " and ".join(said) or "does not repeat itself"


def source_sentence(horizon: Horizon) -> str:
    """The worst of its videos, and how many are like it."""
    worst = max(horizon.repetitions, key=lambda found: found.share)
    bad = sum(found.share >= 0.1 for found in horizon.repetitions)
    if len(horizon.repetitions) == 1:
        return repetition_sentence(worst, horizon.fps)
    if not bad:
        return f"none of {len(horizon.repetitions)} videos repeats itself"
    sentence = repetition_sentence(worst, horizon.fps)
    return f"{bad} of {len(horizon.repetitions)} videos repeat themselves; the worst {sentence}"


def write_horizon_csv(horizons: Sequence[Horizon], path: str | Path) -> None:
    """Write the drift curves: label, frame, seconds, mean, std, videos.

    Raises:
        MachineError: the file cannot be written.
    """
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["label", "frame", "seconds", "mean", "std", "videos"])
    for horizon in horizons:
        for t, mean, std, count in zip(horizon.times.tolist(), *(x.tolist() for x in horizon.drift()), strict=True):
            if count:
                rows.writerow([horizon.label, t, round(t / horizon.fps, 6), mean, std, count])
    write_whole(path, lambda file: file.write(text.getvalue().encode()))
