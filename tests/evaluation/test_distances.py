"""Distances against SciPy's matrix root, closed forms, naive loops and the golden vectors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from lvgan.errors import DataError
from lvgan.evaluation import distances
from lvgan.evaluation.distances import (
    Gaussian,
    Kernel,
    check_features,
    distance_of_features,
    extrapolate,
    frechet_distance,
    kernel_distance,
    kernel_distance_of_parts,
    too_few,
)
from tests.conftest import Golden


def normal(seed: int, count: int, size: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return scale * np.random.default_rng(seed).normal(size=(count, size)) + shift


def rotation(seed: int, size: int) -> np.ndarray:
    return linalg.qr(normal(seed, size, size))[0]


def by_scipy(a: np.ndarray, b: np.ndarray) -> float:
    """The formula word by word, with SciPy's matrix root."""
    s, t = np.cov(a.T, bias=True), np.cov(b.T, bias=True)
    root = np.trace(np.asarray(linalg.sqrtm(s @ t))).real
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(s) + np.trace(t) - 2 * root)


@pytest.mark.parametrize("case", [0, 1, 2])
def test_golden(golden: Golden, case: int) -> None:
    g = {k: v.numpy() for k, v in golden("frechet").group(str(case)).items()}
    real, fake = Gaussian.fit(g["x_real"]), Gaussian.fit(g["x_gen"])
    for found, name in ((real, "real"), (fake, "gen")):
        np.testing.assert_allclose(found.mean, g[f"mu_{name}"], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(found.covariance(), g[f"sigma_{name}"], rtol=1e-12, atol=1e-13)
    # Case 2 is singular, where the published sqrtm is good to eight digits.
    assert frechet_distance(real, fake) == pytest.approx(float(g["distance"]), rel=1e-12 if case < 2 else 5e-8)
    moments = [Gaussian.from_moments(g[f"mu_{n}"], g[f"sigma_{n}"]) for n in ("real", "gen")]
    assert frechet_distance(*moments) == pytest.approx(float(g["distance"]), rel=1e-12 if case < 2 else 5e-8)


def test_golden_weights(golden: Golden) -> None:
    g = {k: v.numpy() for k, v in golden("frechet").tensors.items()}
    found = Gaussian.fit(g["weighted_x"], g["weighted_w"])
    np.testing.assert_allclose(found.mean, g["weighted_mean"], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found.covariance(), g["weighted_cov"], rtol=1e-12, atol=1e-14)


def test_a_weight_of_two_is_a_clip_that_is_there_twice() -> None:
    x, y = normal(0, 30, 5), normal(1, 40, 5, 2.0)
    weights = np.ones(30)
    weights[7] = 2
    twice = np.concatenate([x, x[7:8]])
    assert distance_of_features(x, y, weights) == pytest.approx(distance_of_features(twice, y), rel=1e-12)


def test_agrees_with_scipy_at_400_features() -> None:
    mix = normal(2, 400, 400) / 20
    a, b = normal(0, 900, 400) @ mix, normal(1, 1000, 400, 1.2, 0.1) @ mix
    assert distance_of_features(a, b) == pytest.approx(by_scipy(a, b), rel=1e-9)


def test_closed_form_where_covariances_commute() -> None:
    """tr(S + T - 2 (S T)^1/2) is sum (sqrt s - sqrt t)^2 under one rotation; 14 orders of magnitude of variance."""
    size = 400
    turn = rotation(0, size)
    s, t = np.logspace(4, -10, size), np.logspace(3, -11, size)[::-1] + 1e-12
    mean = normal(1, 1, size)[0]
    a, b = Gaussian(mean, np.sqrt(s)[:, None] * turn), Gaussian(np.zeros(size), np.sqrt(t)[:, None] * turn)
    expected = np.square(mean).sum() + np.square(np.sqrt(s) - np.sqrt(t)).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)
    by_moments = [Gaussian.from_moments(g.mean, g.covariance()) for g in (a, b)]
    assert frechet_distance(*by_moments) == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
def test_closed_form_and_scipy_at_2048_features() -> None:
    size = 2048
    turn = rotation(0, size)
    s, t = np.logspace(2, -6, size), np.logspace(1, -7, size)[::-1].copy()
    a, b = Gaussian(np.zeros(size), np.sqrt(s)[:, None] * turn), Gaussian(np.ones(size), np.sqrt(t)[:, None] * turn)
    assert frechet_distance(a, b) == pytest.approx(size + np.square(np.sqrt(s) - np.sqrt(t)).sum(), rel=1e-12)
    x, y = normal(3, 2500, size), normal(4, 2500, size, 1.1)
    assert distance_of_features(x, y) == pytest.approx(by_scipy(x, y), rel=1e-8)


@pytest.mark.parametrize(("count", "other"), [(20, 30), (50, 30), (20, 90)])
def test_fewer_clips_than_features(count: int, other: int) -> None:
    """Rank deficient: moving into a space that holds both changes nothing, where the formula is harmless."""
    size = 60
    a, b = normal(0, count, size), normal(1, other, size, 1.5)
    s, t = np.cov(a.T, bias=True), np.cov(b.T, bias=True)
    root = (lambda values: np.sqrt(values[values > 1e-10]).sum())(linalg.eigvals(s @ t).real)
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(s) + np.trace(t) - 2 * root
    assert distance_of_features(a, b) == pytest.approx(expected, rel=1e-9)
    padded = [np.pad(x, ((0, 0), (0, 40))) @ rotation(5, 100) for x in (a, b)]
    assert distance_of_features(*padded) == pytest.approx(expected, rel=1e-9)


def test_one_dimension_and_constants() -> None:
    a, b = normal(0, 50, 1), normal(1, 70, 1, 3.0, 2.0)
    expected = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    assert distance_of_features(a, b) == pytest.approx(expected, rel=1e-12)
    assert distance_of_features(np.ones((5, 3)), np.zeros((9, 3))) == pytest.approx(3, abs=1e-12)


def test_equal_sets_are_at_0_and_order_does_not_matter() -> None:
    x = normal(0, 300, 40)
    assert 0 <= distance_of_features(x, x) < 1e-11
    assert distance_of_features(x, x[::-1] + 1) == pytest.approx(40, rel=1e-12)
    y = normal(1, 200, 40)
    assert distance_of_features(x, y) == pytest.approx(distance_of_features(y, x), rel=1e-12)


def test_blocks_do_not_change_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(0, 300, 12), normal(1, 250, 12, 1.1, 0.2)
    whole, kernel = distance_of_features(x, y), kernel_distance(x, y)
    monkeypatch.setattr(distances, "BLOCK", 64)
    assert distance_of_features(x, y) == pytest.approx(whole, rel=1e-12)
    assert kernel_distance(x, y) == pytest.approx(kernel, rel=1e-12)


def test_moments_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="semi-definite"):
        Gaussian.from_moments(np.zeros(2), np.diag([1.0, -1.0]))
    with pytest.raises(ValueError, match="symmetric"):
        Gaussian.from_moments(np.zeros(2), np.array([[1.0, 1.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="finite"):
        Gaussian.from_moments(np.zeros(1), np.array([[np.nan]]))


def test_bad_features_are_sentences() -> None:
    with pytest.raises(DataError, match="1 clip was found where 2 or more"):
        Gaussian.fit(np.zeros((1, 3)))
    with pytest.raises(DataError, match="NaN"):
        check_features(np.array([[0.0], [np.nan]]))
    with pytest.raises(ValueError, match=r"\[N, D\]"):
        check_features(np.zeros(3))
    with pytest.raises(ValueError, match="not 3 and 4"):
        distance_of_features(np.zeros((5, 3)), np.zeros((5, 4)))


def test_too_few_clips() -> None:
    assert too_few(2048, 400) is None
    assert "singular" in (too_few(400, 400, "fake") or "")
    assert "biased" in (too_few(1000, 400) or "")


def test_extrapolation_removes_the_bias() -> None:
    """Two equal distributions are at 0, where the plain distance of 600 clips is far from it."""
    size, count = 50, 600
    a, b = normal(0, count, size), normal(1, count, size)
    plain = distance_of_features(a, b)
    found = extrapolate(a, b)
    assert plain > 2  # the bias
    assert abs(found.value) < 0.25 * plain
    assert found.slope > 0
    assert found.sizes[-1] == count
    assert found.distances[-1] == pytest.approx(plain, rel=1e-12)
    assert extrapolate(a, b) == found
    assert extrapolate(a, b, seed=1) != found


def test_extrapolation_of_a_known_distance() -> None:
    size, count = 20, 1500
    a, b = normal(0, count, size), normal(1, count, size, 1.5, 0.3)
    truth = size * (0.3**2 + 0.5**2)
    assert abs(extrapolate(a, b).value - truth) < 0.05 * truth
    with pytest.raises(DataError, match="60 or more"):
        extrapolate(a[:59], b)


@pytest.mark.parametrize(
    "kernel", [Kernel(), Kernel(degree=2, offset=0.0), Kernel("rbf"), Kernel("rbf", gamma=0.7)], ids=str
)
def test_kernel_distance_is_the_naive_loop(kernel: Kernel) -> None:
    a, b = normal(0, 9, 4), normal(1, 7, 4, 2.0, 0.5)
    gamma = kernel.gamma or 1 / 4

    def k(x: np.ndarray, y: np.ndarray) -> float:
        if kernel.kind == "rbf":
            return float(np.exp(-gamma * sum((p - q) ** 2 for p, q in zip(x, y, strict=True))))
        return float((gamma * sum(p * q for p, q in zip(x, y, strict=True)) + kernel.offset) ** kernel.degree)

    same_a = np.mean([k(a[i], a[j]) for i in range(9) for j in range(9) if i != j])
    same_b = np.mean([k(b[i], b[j]) for i in range(7) for j in range(7) if i != j])
    across = np.mean([k(x, y) for x in a for y in b])
    assert kernel_distance(a, b, kernel) == pytest.approx(same_a + same_b - 2 * across, rel=1e-10)


def test_kernel_distance_has_no_bias() -> None:
    found = [kernel_distance(normal(2 * i, 20, 5), normal(2 * i + 1, 20, 5)) for i in range(200)]
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 4 * error
    assert min(found) < 0


def test_kernel_distance_of_parts() -> None:
    a, b = normal(0, 80, 6), normal(1, 60, 6, 1.3)
    mean, std = kernel_distance_of_parts(a, b, parts=60, size=30)
    assert abs(mean - kernel_distance(a, b)) < 4 * std / np.sqrt(60)
    whole, none = kernel_distance_of_parts(a[:50], b[:50], parts=3, size=1000)
    assert whole == pytest.approx(kernel_distance(a[:50], b[:50]), rel=1e-10)
    assert none < 1e-10
