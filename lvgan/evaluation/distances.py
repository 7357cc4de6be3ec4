"""Distances of two sets of features: Fréchet, its extrapolation to endless samples, and kernel (MMD).

All in float64 and exact: no approximation of the matrix square root, no jitter on the diagonal.
Source: shared facts, chapter 5 (FVD, FID); Chong and Forsyth, CVPR 2020 (extrapolation); Binkowski et al.,
ICLR 2018 (polynomial kernel, unbiased estimate).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from lvgan.errors import DataError
from lvgan.seeding import numpy_generator

BLOCK = 4096  # rows at a time: bounds the memory beside the features
CLIPS_PER_FEATURE = 4  # fewer are warned about; the usual FVD has 5 (2048 / 400), FID 24 (50,000 / 2048)
POINTS = 15  # sample sizes of an extrapolation, as in its paper


def check_features(features: np.ndarray, name: str = "features") -> np.ndarray:
    """Features [N, D] as an array; ValueError for another shape, DataError for NaN, infinity or N below 2."""
    features = np.asarray(features)
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"{name} must be [N, D], not {list(features.shape)}")
    if len(features) < 2:
        raise DataError(
            f"{name}: {len(features)} clip was found where 2 or more were expected, as one has no covariance: "
            "give more clips or longer footage"
        )
    if not np.isfinite(features).all():
        raise DataError(f"{name} hold NaN or infinite values where finite ones were expected: check the detector")
    return features


def _check_weights(weights: np.ndarray | None, count: int) -> np.ndarray:
    """Weights that sum to 1, float64 [N]."""
    if weights is None:
        return np.full(count, 1 / count)
    weights = np.asarray(weights, np.float64)
    if weights.shape != (count,) or not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        raise ValueError(f"weights must be {count} finite numbers that are not negative and not all 0")
    return weights / weights.sum()


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution, with a root of its covariance instead of the covariance.

    A root keeps small directions to full precision: squared in a covariance they would drown in rounding.

    Attributes:
        mean: float64 [D].
        root: float64 [R, D] with covariance = root.T @ root; R is the smaller of N and D.
    """

    mean: np.ndarray
    root: np.ndarray

    @staticmethod
    def fit(features: np.ndarray, weights: np.ndarray | None = None) -> Gaussian:
        """Mean and biased covariance (divided by n, or weighted) of features [N, D]."""
        features = check_features(features)
        weights = _check_weights(weights, len(features))
        size = features.shape[1]
        starts = range(0, len(features), BLOCK)  # a fixed order of summation
        mean = np.zeros(size)
        for i in starts:
            mean += weights[i : i + BLOCK] @ features[i : i + BLOCK].astype(np.float64)
        root: np.ndarray = np.zeros((0, size))
        for i in starts:
            block = features[i : i + BLOCK].astype(np.float64) - mean
            block *= np.sqrt(weights[i : i + BLOCK])[:, None]
            root = np.concatenate([root, block])
            if len(root) > size:  # R of QR has the same covariance
                root = linalg.qr(root, mode="r", overwrite_a=True, check_finite=False)[0][:size]
        return Gaussian(mean, root)

    @staticmethod
    def from_moments(mean: np.ndarray, covariance: np.ndarray) -> Gaussian:
        """From a mean [D] and a symmetric positive semi-definite covariance [D, D].

        Eigenvalues that rounding made negative count as 0; ValueError where one is truly negative.
        """
        mean, covariance = np.asarray(mean, np.float64), np.asarray(covariance, np.float64)
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise ValueError(f"mean and covariance must be [D] and [D, D], not {mean.shape} and {covariance.shape}")
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise ValueError("mean and covariance must be finite")
        scale = np.abs(covariance).max(initial=0.0)
        if np.abs(covariance - covariance.T).max(initial=0.0) > 1e-6 * scale:
            raise ValueError("covariance must be symmetric")
        values, vectors = linalg.eigh((covariance + covariance.T) / 2, check_finite=False)
        if values[0] < -1e-6 * scale * len(mean):
            raise ValueError(f"covariance must be positive semi-definite, but has an eigenvalue of {values[0]:g}")
        return Gaussian(mean, (vectors * np.sqrt(values.clip(0))).T)

    def covariance(self) -> np.ndarray:
        """float64 [D, D]."""
        return self.root.T @ self.root

    def trace(self) -> float:
        """Trace of the covariance."""
        return float(np.square(self.root).sum())


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """``|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))``, never below 0.

    The trace of the matrix root is the sum of the singular values of ``A B^T``, A and B being the roots of
    the covariances: defined for covariances of any rank, and as exact as the sum of the traces is.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"both must have one number of features, not {len(a.mean)} and {len(b.mean)}")
    shared = linalg.svdvals(a.root @ b.root.T, overwrite_a=True, check_finite=False).sum()
    means = float(np.square(a.mean - b.mean).sum())
    return max(0.0, means + a.trace() + b.trace() - 2 * float(shared))


def distance_of_features(
    a: np.ndarray, b: np.ndarray, weights_a: np.ndarray | None = None, weights_b: np.ndarray | None = None
) -> float:
    """Fréchet distance of features [N, D] and [M, D]."""
    return frechet_distance(Gaussian.fit(a, weights_a), Gaussian.fit(b, weights_b))


def too_few(count: int, features: int, label: str = "") -> str | None:
    """A sentence where `count` clips are too few for a covariance of so many `features`; None if they are enough."""
    if count >= CLIPS_PER_FEATURE * features:
        return None
    why = "the covariance is singular" if count <= features else "the distance is biased upwards"
    return (
        f"{label + ': ' if label else ''}{count} clips are few for {features} features, {why}: compare only scores "
        f"of equally many clips, and take {CLIPS_PER_FEATURE * features} or more, --extrapolate, or --kernel polynomial"
    )


@dataclass(frozen=True)
class Extrapolation:
    """A distance as it would be of endless samples.

    Attributes:
        value: the line's height at 1/N = 0; slightly below 0 where the sets do not differ.
        slope: of the line over 1/N: the bias at N samples is slope / N.
        error: standard error of `value`, from the scatter about the line.
        sizes, distances: the points.
    """

    value: float
    slope: float
    error: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


def extrapolate(
    a: np.ndarray,
    b: np.ndarray,
    weights_a: np.ndarray | None = None,
    weights_b: np.ndarray | None = None,
    *,
    points: int = POINTS,
    seed: int = 0,
    progress: Callable[[], None] | None = None,
) -> Extrapolation:
    """Fréchet distance of random parts of both sets, and a straight line through it against 1/N.

    The bias of the distance falls as 1/N of either set (Chong and Forsyth 2020, who keep the real set whole;
    here both shrink alike, so that the bias of both is removed). Parts hold a quarter to all of a set, at
    values of N that are evenly spaced; `seed` chooses them.
    """
    a, b = check_features(a), check_features(b)
    if points < 3:
        raise ValueError(f"points must be 3 or more, not {points}")
    count = min(len(a), len(b))
    if count < 4 * points:
        raise DataError(
            f"{count} clips were found, but an extrapolation over {points} sizes needs {4 * points} or more: give more"
        )
    sizes = np.linspace(count / 4, count, points).round().astype(int)
    weights = [_check_weights(w, len(x)) for x, w in ((a, weights_a), (b, weights_b))]
    distances = []
    for i, size in enumerate(sizes):
        parts = []
        for name, x, w in (("a", a, weights[0]), ("b", b, weights[1])):
            order = numpy_generator(seed, "extrapolate", name, i).permutation(len(x))
            chosen = np.sort(order[: max(2, round(len(x) * size / count))])
            parts.append(Gaussian.fit(x[chosen], w[chosen]))
        distances.append(frechet_distance(*parts))
        if progress is not None:
            progress()
    x = 1 / sizes
    design = np.stack([np.ones(points), x], axis=1)
    (value, slope), *_ = np.linalg.lstsq(design, np.asarray(distances), rcond=None)
    spread = np.square(np.asarray(distances) - design @ [value, slope]).sum() / (points - 2)
    error = math.sqrt(spread * np.linalg.inv(design.T @ design)[0, 0])
    return Extrapolation(float(value), float(slope), error, tuple(sizes.tolist()), tuple(distances))


@dataclass(frozen=True)
class Kernel:
    """A kernel of two features x and y of D numbers.

    Attributes:
        kind: ``polynomial``, (gamma x.y + offset) ** degree, or ``rbf``, exp(-gamma |x - y|^2).
        degree, offset: of the polynomial; 3 and 1 are KID's.
        gamma: 1 / D where not given.
    """

    kind: str = "polynomial"
    degree: int = 3
    offset: float = 1.0
    gamma: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("polynomial", "rbf"):
            raise ValueError(f"kind must be polynomial or rbf, not {self.kind!r}")
        if self.degree < 1:
            raise ValueError(f"degree must be 1 or more, not {self.degree}")
        if self.gamma is not None and not self.gamma > 0:
            raise ValueError(f"gamma must be above 0, not {self.gamma}")

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Values of all pairs, float64 [N, M]."""
        x, y = x.astype(np.float64, copy=False), y.astype(np.float64, copy=False)
        gamma = 1 / x.shape[1] if self.gamma is None else self.gamma
        if self.kind == "polynomial":
            return (gamma * (x @ y.T) + self.offset) ** self.degree
        squares = np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * (x @ y.T)
        return np.exp(-gamma * squares.clip(0))

    def describe(self) -> dict[str, object]:
        """For the protocol."""
        if self.kind == "rbf":
            return {"kernel": "rbf", "gamma": self.gamma or "1/D"}
        return {"kernel": "polynomial", "degree": self.degree, "offset": self.offset, "gamma": self.gamma or "1/D"}


def kernel_distance(
    a: np.ndarray,
    b: np.ndarray,
    kernel: Kernel | None = None,
    weights_a: np.ndarray | None = None,
    weights_b: np.ndarray | None = None,
) -> float:
    """Squared maximum mean discrepancy, the unbiased estimate over all pairs: around 0 where nothing differs.

    Computed in blocks: memory does not grow with N x M.
    """
    a, b = check_features(a), check_features(b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"both must have one number of features, not {a.shape[1]} and {b.shape[1]}")
    kernel = kernel or Kernel()
    w, v = _check_weights(weights_a, len(a)), _check_weights(weights_b, len(b))
    across = _weighted_sum(kernel, a, b, w, v)
    return _mean_of_pairs(kernel, a, w) + _mean_of_pairs(kernel, b, v) - 2 * across


def _weighted_sum(kernel: Kernel, a: np.ndarray, b: np.ndarray, w: np.ndarray, v: np.ndarray) -> float:
    """Sum over all pairs of w_i k(a_i, b_j) v_j."""
    total = 0.0
    for i in range(0, len(a), BLOCK):
        for j in range(0, len(b), BLOCK):
            values = kernel(a[i : i + BLOCK], b[j : j + BLOCK])
            total += float(w[i : i + BLOCK] @ values @ v[j : j + BLOCK])
    return total


def _mean_of_pairs(kernel: Kernel, a: np.ndarray, w: np.ndarray) -> float:
    """Weighted mean of k(a_i, a_j) over pairs of different i and j."""
    total = 0.0
    for i in range(0, len(a), BLOCK):
        for j in range(0, len(a), BLOCK):
            values = kernel(a[i : i + BLOCK], a[j : j + BLOCK])
            if i == j:  # left out here: subtracted afterwards, they would cancel digits
                np.fill_diagonal(values, 0.0)
            total += float(w[i : i + BLOCK] @ values @ w[j : j + BLOCK])
    return total / (1 - float(w @ w))


def kernel_distance_of_parts(
    a: np.ndarray, b: np.ndarray, kernel: Kernel | None = None, *, parts: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation (unbiased) of :func:`kernel_distance` over random parts: KID as published.

    Args:
        a, b: features [N, D] and [M, D].
        kernel: polynomial of degree 3 where not given.
        parts: how many parts are drawn.
        size: clips of a part; all there are where a set has fewer.
        seed: chooses the parts.
    """
    a, b = check_features(a), check_features(b)
    if parts < 2 or size < 2:
        raise ValueError(f"parts and size must be 2 or more, not {parts} and {size}")
    size = min(size, len(a), len(b))
    found = []
    for i in range(parts):
        rng = numpy_generator(seed, "kernel", i)
        part_a, part_b = (x[rng.choice(len(x), size, replace=False)] for x in (a, b))
        found.append(kernel_distance(part_a, part_b, kernel))
    return float(np.mean(found)), float(np.std(found, ddof=1))
