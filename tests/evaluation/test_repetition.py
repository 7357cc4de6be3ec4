"""Self-repetition: loops, approximate loops and freezes are found, footage, fades and noise are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lvgan.evaluation.repetition import (
    CHROMA,
    FEATURES,
    LUMA,
    NEAR,
    SPAN,
    Repetition,
    find_repetition,
    still_frames,
    thumbnail,
)
from lvgan.sizes import Size
from tests.evaluation.footage import decoded, fade, loop, noisy, scene


def changes(video: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(np.diff(video.astype(np.float64), axis=0)).mean(axis=(1, 2, 3)))


def found_in(video: np.ndarray, **options: int) -> Repetition:
    small = np.stack([thumbnail(frame) for frame in video])
    return find_repetition(small, still_frames(changes(video)), **options)


def test_thumbnails_are_means_of_cells() -> None:
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (2 * LUMA, 3 * LUMA, 3), np.uint8)
    y = frame @ np.array([0.299, 0.587, 0.114])
    cells = y.reshape(LUMA, 2, LUMA, 3).mean(axis=(1, 3))
    small = thumbnail(frame)
    assert small.shape == (FEATURES,)
    np.testing.assert_allclose(small[: LUMA * LUMA].reshape(LUMA, LUMA), cells, atol=1e-3)
    blue = ((frame[..., 2] - y) * 0.564).reshape(CHROMA, 2 * 2, CHROMA, 3 * 2).mean(axis=(1, 3))
    np.testing.assert_allclose(small[LUMA * LUMA :][: CHROMA * CHROMA].reshape(CHROMA, CHROMA), blue, atol=1e-3)


@pytest.mark.parametrize("size", [(5, 7), (17, 100), (33, 16)])
def test_thumbnails_of_any_size_keep_the_mean(size: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*size, 1), np.uint8)
    assert thumbnail(frame)[: LUMA * LUMA].mean() == pytest.approx(frame.mean(), abs=1e-3)
    np.testing.assert_allclose(thumbnail(frame)[LUMA * LUMA :], 0, atol=1e-3)  # grey has no colour


def test_the_best_match_is_that_of_a_naive_search() -> None:
    """Longer than two blocks, so that their borders are in it."""
    rng = np.random.default_rng(0)
    small = rng.normal(100, 30, (560, 12)).cumsum(axis=0).astype(np.float32) % 200
    span, min_lag = 4, 9
    found = find_repetition(small, span=span, min_lag=min_lag)
    moments = len(small) - span + 1
    clips = np.stack([small[t : t + span].ravel() for t in range(moments)]).astype(np.float64)
    distance = np.sqrt(np.square(clips[:, None] - clips[None]).mean(axis=2))
    lag = np.arange(moments) - np.arange(moments)[:, None]
    outside = np.where(abs(lag) >= min_lag, distance, np.inf)
    np.testing.assert_array_equal(found.lag, outside.argmin(axis=1) - np.arange(moments))
    np.testing.assert_allclose(found.best, outside.min(axis=1), rtol=1e-6)
    typical = [np.median(row[np.isfinite(row)]) for row in outside]
    np.testing.assert_allclose(found.typical, typical, rtol=1e-4)
    limit = np.maximum(found.near, 0.05)
    near = [np.mean([distance[t, s] for s in (t - NEAR, t + NEAR)]) for t in range(NEAR, moments - NEAR)]
    np.testing.assert_allclose(found.near[NEAR : moments - NEAR], near, rtol=1e-5)
    coverage = [(np.diagonal(distance, k) <= limit[: moments - k]).mean() for k in range(1, moments)]
    np.testing.assert_allclose(found.coverage, coverage, atol=1.01 / 4)  # rounding at the limit: one pair at most
    np.testing.assert_allclose(found.coverage[: moments // 2], coverage[: moments // 2], atol=0.01)


@pytest.mark.parametrize("period", [20, 64, 75, 200])
@pytest.mark.parametrize("sigma", [0.0, 6.0])
def test_a_loop_is_found_with_its_period(period: int, sigma: float) -> None:
    video = loop(scene(period, seed=period), period, 4 * period + 60)
    found = found_in(noisy(video, sigma) if sigma else video)
    assert found.period == period
    assert found.periodic > 0.95
    assert found.share > 0.95
    assert not found.frozen.any()
    lags = found.lag[found.repeated]
    if not sigma:
        assert (lags % period == 0).all()
        assert found.ratio.max() == 0


def test_a_loop_that_drifts_in_colour_is_found() -> None:
    video = loop(scene(80), 80, 600).astype(np.float64) + np.linspace(0, 12, 600)[:, None, None, None]
    found = found_in(video.clip(0, 255).astype(np.uint8))
    assert found.period == 80
    assert found.share > 0.9


def test_a_loop_of_half_frames_is_found() -> None:
    """A period of 64.5 frames: every second time the match lies between two frames."""
    fine = scene(129)
    found = found_in(fine[(2 * np.arange(500)) % 129])
    assert found.period in (64, 65, 129)
    assert found.share > 0.95


def test_a_moment_that_recurs_once_is_found_and_is_no_period() -> None:
    video = scene(600)
    video[500:540] = video[100:140]
    found = found_in(video)
    again = np.flatnonzero(found.best == 0)
    assert set(again) == {*range(100, 125), *range(500, 525)}
    assert found.repeated[again].all()
    assert set(abs(found.lag[again])) == {400}
    assert found.period is None


def test_a_freeze_is_found() -> None:
    video = scene(400)
    video[150:] = video[150]
    found = found_in(video)
    assert np.flatnonzero(found.frozen)[0] == 150
    assert found.frozen[150:].all()
    assert not found.repeated[:100].any()
    assert found.share == pytest.approx((400 - 150 - SPAN + 1) / (400 - SPAN + 1))


def test_all_frozen() -> None:
    found = found_in(np.repeat(scene(1), 200, axis=0))
    assert found.share == 1
    assert found.frozen.all()
    assert len(found.ratio) == 0
    assert found.period is None


@pytest.mark.parametrize("kind", ["scene", "fade", "noise", "shuffled"])
def test_what_does_not_repeat_itself_is_not_found(kind: str) -> None:
    rng = np.random.default_rng(0)
    video = {
        "scene": lambda: scene(900),
        "fade": lambda: fade(400),
        "noise": lambda: rng.integers(0, 256, (400, 24, 32, 3), np.uint8),
        "shuffled": lambda: scene(400)[rng.permutation(400)],
    }[kind]()
    found = found_in(video)
    assert found.share <= (0.02 if kind == "scene" else 0)
    assert found.period is None
    if kind == "fade":
        assert np.median(found.ratio) == pytest.approx(32 / NEAR, rel=0.05)  # the minimum lag against the neighbours
    if kind in ("noise", "shuffled"):
        assert np.median(found.near / found.typical) > 0.9  # neighbours are as far apart as any two moments


@pytest.mark.parametrize("name", ["bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4"])
def test_real_footage(real_clips: Path, name: str) -> None:
    video = decoded(real_clips / name, Size(36, 48))
    plain = found_in(video)
    assert plain.share < 0.02
    assert plain.period is None
    looped = found_in(noisy(loop(video, 64, 300), 3))
    assert looped.period == 64
    assert looped.share > 0.95
    stopped = found_in(np.concatenate([video[:60], np.repeat(video[60:61], 120, axis=0)]))
    assert stopped.frozen[61:].all()
    assert not stopped.frozen[:50].any()


def test_doubled_frames_are_no_freeze() -> None:
    """As bringing 15 frames a second to 30 makes them."""
    video = scene(300).repeat(2, axis=0)
    assert not still_frames(changes(video)).any()
    assert found_in(video).share < 0.02


def test_still_stretches_have_exact_ends() -> None:
    moves = np.ones(100)
    moves[40:60] = 0.0  # frames 40 ... 60 are alike
    moves[80:90] = 0.0  # too short
    assert np.flatnonzero(still_frames(moves)).tolist() == list(range(40, 61))


def test_too_short_a_video_is_refused() -> None:
    with pytest.raises(ValueError, match="span"):
        find_repetition(np.zeros((47, 4), np.float32))
