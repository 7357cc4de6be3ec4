"""FVD and FID: Fréchet distance of the features of clips, or of single frames, with what else they allow to say.

Source: shared facts, chapter 5. FVD looks at clips (I3D), FID at frames (Inception-v3); both draw a random video,
then a random start in it, so that every video counts the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lvgan.errors import DataError
from lvgan.evaluation.detectors import Detector, Kind
from lvgan.evaluation.distances import (
    Kernel,
    distance_of_features,
    extrapolate,
    kernel_distance,
    too_few,
)
from lvgan.evaluation.features import Features, Opener, Wish, extract
from lvgan.evaluation.protocol import Score, record
from lvgan.evaluation.statistics import cached_features

if TYPE_CHECKING:
    import torch

    from lvgan.evaluation.sources import ClipSource

log = logging.getLogger(__name__)

Bar = Callable[[str, int], Callable[[int], None]]  # (label, clips) to what is told how many are done


@dataclass(frozen=True)
class Operand:
    """A source of clips, and how other processes open it."""

    source: ClipSource
    open_source: Opener


@dataclass(frozen=True)
class DistancePlan:
    """How a distance is measured.

    Attributes:
        metric: ``fvd`` looks at clips, ``fid`` at single frames.
        clips: of each source and seed; single frames for ``fid``.
        frames, stride: of a clip; 1 and 1 for ``fid``.
        seeds: each chooses other clips; the score is the mean over them.
        extrapolated: the distance of endless samples as well.
        kernel: the kernel distance with it as well.
    """

    metric: Literal["fvd", "fid"] = "fvd"
    clips: int = 2048
    frames: int = 16
    stride: int = 1
    seeds: tuple[int, ...] = (0,)
    extrapolated: bool = False
    kernel: Kernel | None = None

    def __post_init__(self) -> None:
        if self.metric == "fid" and (self.frames, self.stride) != (1, 1):
            raise ValueError("fid looks at single frames: frames and stride must be 1")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be different ones, and at least one, not {self.seeds}")

    @property
    def kind(self) -> Kind:
        """What the detector looks at."""
        return "frames" if self.metric == "fid" else "clips"

    def name(self, prefix: str) -> str:
        """Of a metric in tables, such as fvd_16 or fvd_128_stride_8: numbers of other lengths cannot be compared."""
        if self.metric == "fid":
            return prefix
        return f"{prefix}_{self.frames}" + (f"_stride_{self.stride}" if self.stride > 1 else "")

    def wish(self, seed: int) -> Wish:
        """The clips of one seed."""
        return Wish(self.clips, self.frames, self.stride, seed)


@dataclass(frozen=True)
class Machine:
    """Where and how the work is done; no result depends on it."""

    device: torch.device
    workers: int = 1
    batch: int | None = None
    refresh: bool = False


def measure_distance(
    real: Operand, models: Sequence[Operand], plan: DistancePlan, detector: Detector, machine: Machine, bar: Bar
) -> list[Score]:
    """Scores of each model against real clips, a row of them for each: Fréchet, and what the plan asks for besides.

    Raises:
        DataError: clips are too short, too few or of other sizes than the real ones, or features are not finite.
        MachineError: a process was ended from outside.
    """
    found: list[list[dict[str, float]]] = [[] for _ in models]
    details: list[dict[str, Any]] = [{"seeds": [], "clips_used": [], "real_clips_used": []} for _ in models]
    width = 0
    for seed in plan.seeds:
        wish = plan.wish(seed)
        reference = _features(real, detector, wish, machine, bar)
        width = reference.values.shape[1]
        _tell_too_few(reference, real.source.label)
        for operand, values, told in zip(models, found, details, strict=True):
            features = _features(operand, detector, wish, machine, bar)
            _check_alike(real.source.label, reference, operand.source.label, features)
            _tell_too_few(features, operand.source.label)
            values.append(_distances(reference, features, plan, told))
            told["seeds"].append(seed)
            told["clips_used"].append(len(features.values))
            told["real_clips_used"].append(len(reference.values))
            told["features"] = width
            told["size"] = "x".join(map(str, features.size))
    return [
        score
        for operand, values, told in zip(models, found, details, strict=True)
        for score in _scores(real, operand, plan, detector, values, told)
    ]


def _features(operand: Operand, detector: Detector, wish: Wish, machine: Machine, bar: Bar) -> Features:
    def compute() -> Features:
        return extract(
            operand.open_source, detector, wish, machine.device, source=operand.source, batch=machine.batch,
            workers=machine.workers, progress=bar(operand.source.label, wish.clips),
        )  # fmt: skip

    features, _ = cached_features(operand.source, detector, wish, compute, refresh=machine.refresh)
    if len(features.values) < 2:
        raise DataError(
            f"{operand.source.label} gave 1 clip of {wish.span} frames where 2 or more were expected, as one has no "
            "covariance: give longer footage, or ask for more or shorter clips"
        )
    return features


def _check_alike(label: str, real: Features, other: str, features: Features) -> None:
    if real.size != features.size:
        one, two = ("x".join(map(str, size)) for size in (real.size, features.size))
        raise DataError(
            f"{label} is {one} and {other} {two}, whose scores would tell the sizes apart: bring both to one with "
            "--size HxW"
        )
    if real.values.shape[1] != features.values.shape[1]:
        raise DataError(
            f"the detector gave {real.values.shape[1]} features for {label} and {features.values.shape[1]} for "
            f"{other} where one number was expected: mend the detector"
        )


def _tell_too_few(features: Features, label: str) -> None:
    text = too_few(len(features.values), features.values.shape[1], label)
    if text is not None:
        log.warning("%s", text)


def _distances(real: Features, fake: Features, plan: DistancePlan, told: dict[str, Any]) -> dict[str, float]:
    """Values by metric."""
    pair = (real.values, fake.values, real.weights, fake.weights)
    values = {plan.name(plan.metric): distance_of_features(*pair)}
    if plan.extrapolated:
        line = extrapolate(*pair)
        values[f"{plan.name(plan.metric)}_inf"] = line.value
        told.setdefault("extrapolation_error", []).append(line.error)
        told.setdefault("extrapolation_slope", []).append(line.slope)
    if plan.kernel is not None:
        values[plan.name("kvd" if plan.metric == "fvd" else "kid")] = kernel_distance(
            pair[0], pair[1], plan.kernel, pair[2], pair[3]
        )
    return values


def _scores(
    real: Operand,
    model: Operand,
    plan: DistancePlan,
    detector: Detector,
    values: list[dict[str, float]],
    told: dict[str, Any],
) -> list[Score]:
    scores = []
    for metric in values[0]:
        each = [found[metric] for found in values]
        kernel = plan.kernel.describe() if metric.startswith(("kvd", "kid")) and plan.kernel is not None else None
        protocol = record(
            metric,
            sources={"model": model.source, "real": real.source},
            clips=plan.clips,
            frames=plan.frames,
            stride=plan.stride,
            size=told["size"],
            seeds=plan.seeds,
            detector=detector.describe(),
            # Fewer than were asked for is another protocol: the bias depends on the number.
            clips_used=told["clips_used"],
            real_clips_used=told["real_clips_used"],
            **({} if kernel is None else {"kernel": kernel}),
        )
        std = float(np.std(each, ddof=1)) if len(each) > 1 else None
        details = {"values": each, "features": told["features"]}
        if detector.note:
            details["detector_note"] = detector.note
        if metric.endswith("_inf"):
            details |= {name: told[name] for name in ("extrapolation_error", "extrapolation_slope")}
        scores.append(Score(metric, float(np.mean(each)), std, None, details, protocol))
    return scores
