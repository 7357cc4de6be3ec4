"""Colour similarity against a plain triple loop, closed forms and the golden vectors."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from lvgan.errors import DataError
from lvgan.evaluation import color
from lvgan.evaluation.color import (
    CurveAccumulator,
    SimilarityCurve,
    byte_bins,
    check_comparable,
    color_histogram,
    color_similarity,
    curve_area,
    measure_similarity,
    similarity_score,
)
from lvgan.evaluation.native_color import SharedPixels, shared_pixels
from lvgan.evaluation.protocol import describe
from lvgan.evaluation.sources import FunctionSource
from lvgan.ops import native
from tests.conftest import Golden
from tests.helpers import assert_close_to_max


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def loop_bin(byte: int, bins: int) -> int:
    """The rule of the paper in exact fractions."""
    v = 2 * Fraction(byte, 255) - 1
    return min(max(math.floor((v / 2 + Fraction(1, 2)) * (bins - 1) + Fraction(1, 2)), 0), bins - 1)


def loop_histogram(frame: np.ndarray, bins: int) -> dict[tuple[int, ...], int]:
    """Pixels in each joint bin, one pixel after the other."""
    counts: dict[tuple[int, ...], int] = {}
    for row in frame.tolist():
        for pixel in row:
            cell = tuple(loop_bin(byte, bins) for byte in pixel)
            counts[cell] = counts.get(cell, 0) + 1
    return counts


def loop_similarity(clip: np.ndarray, bins: int) -> list[float]:
    """Histogram intersection with the first frame, one bin after the other."""
    pixels = clip.shape[1] * clip.shape[2]
    histograms = [loop_histogram(frame, bins) for frame in clip]
    first = histograms[0]
    return [sum(min(n, first.get(cell, 0)) for cell, n in h.items()) / pixels for h in histograms]


def accumulate(label: str, curves: np.ndarray, *, size: str = "4x4", bins: int = 20) -> SimilarityCurve:
    """A curve object from given per-clip curves [clips, T]."""
    protocol = {"bins": bins, "frames": curves.shape[1], "size": size, "channels": 3}
    std = curves.std(axis=0, ddof=1)
    return SimilarityCurve(label, curves.mean(axis=0), std, len(curves), protocol, curves)


@pytest.mark.parametrize("bins", [2, 10, 20, 33, 64])
def test_every_byte_goes_to_its_bin(bins: int) -> None:
    assert byte_bins(bins).tolist() == [loop_bin(byte, bins) for byte in range(256)]


@pytest.mark.parametrize(("bins", "channels"), [(20, 3), (10, 3), (48, 3), (20, 1), (5, 1)])
def test_similarity_is_the_triple_loop(bins: int, channels: int) -> None:
    clip = noise(3, 4, 5, 7, channels) // np.array([1, 2, 8, 50], np.uint8)[:, None, None, None]
    assert color_similarity(clip, bins).tolist() == pytest.approx(loop_similarity(clip, bins), abs=1e-15)


def test_histogram_is_the_triple_loop_and_sums_to_one() -> None:
    clip = noise(4, 3, 6, 5, 3)
    histogram = color_histogram(clip, 6)
    assert histogram.shape == (3, 6**3)
    np.testing.assert_allclose(histogram.sum(axis=1), 1, rtol=1e-14)
    for row, frame in zip(histogram, clip, strict=True):
        expected = np.zeros((6, 6, 6))
        for cell, count in loop_histogram(frame, 6).items():
            expected[cell] = count / 30
        np.testing.assert_array_equal(row, expected.ravel())


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_floats_in_range_agree_with_bytes_and_others_are_clamped(kind: type) -> None:
    clip = noise(5, 4, 8, 8, 3)
    floats = clip.astype(kind) / kind(127.5) - kind(1)
    np.testing.assert_array_equal(color_histogram(floats), color_histogram(clip))
    np.testing.assert_array_equal(color_histogram(2 * floats), color_histogram(np.clip(2 * floats, -1, 1)))


def test_torch_view_without_contiguous_memory_is_read_as_it_is() -> None:
    clip = noise(6, 3, 5, 6, 3)
    planar = torch.from_numpy(clip).permute(3, 0, 1, 2).contiguous()  # [C, T, H, W]
    np.testing.assert_array_equal(color_similarity(planar.permute(1, 2, 3, 0).numpy()), color_similarity(clip))


def test_grey_clip_equals_its_rgb_copy() -> None:
    clip = noise(7, 4, 6, 6, 1) // np.arange(1, 5, dtype=np.uint8)[:, None, None, None]
    np.testing.assert_array_equal(color_similarity(clip), color_similarity(clip.repeat(3, axis=3)))


def test_fade_follows_its_closed_form() -> None:
    """From frame to frame, t more pixels of 100 turn from black to white: S = 1 - t / 100."""
    clip = np.zeros((51, 10, 10, 3), np.uint8)
    for t in range(51):
        clip[t].reshape(100, 3)[:t] = 255
    np.testing.assert_allclose(color_similarity(clip), 1 - np.arange(51) / 100, rtol=0, atol=1e-15)


def test_pixels_that_only_move_change_nothing() -> None:
    frame = noise(8, 9, 9, 3)
    clip = np.stack([np.roll(frame, (t, 2 * t), (0, 1)) for t in range(6)])
    assert color_similarity(clip).tolist() == [1.0] * 6


def test_disjoint_colours_share_nothing() -> None:
    clip = np.zeros((3, 4, 4, 3), np.uint8)
    clip[1, ..., 0] = 255
    clip[2] = 128
    assert color_similarity(clip).tolist() == [1.0, 0.0, 0.0]


def test_golden_color_similarity(golden: Golden) -> None:
    file = golden("color_similarity")
    bins = file.call["bins_per_color"]
    clips = {k: v.permute(1, 2, 3, 0).numpy() for k, v in file.group("in").items()}
    out = file.group("out")
    total = CurveAccumulator("golden", bins)
    for name, clip in clips.items():
        assert_close_to_max(torch.from_numpy(total.add(clip)[1:]), out[name])
    curve = total.result()
    assert_close_to_max(torch.from_numpy(curve.mean[1:]), out["mean"])
    assert_close_to_max(torch.from_numpy(curve.std[1:]), out["std"])
    assert_close_to_max(torch.from_numpy(color_similarity(clips["a"], 10)[1:]), out["bins10"])


def test_streaming_equals_batch() -> None:
    clips = [noise(seed, 5, 8, 8, 3) // np.uint8(seed + 1) for seed in range(7)]
    total = CurveAccumulator("x", 8)
    for clip in clips:
        total.add(clip)
    curve = total.result({"seed": 3})
    batch = np.array([loop_similarity(clip, 8) for clip in clips])
    np.testing.assert_allclose(curve.mean, batch.sum(axis=0) / 7, rtol=1e-13)
    np.testing.assert_allclose(curve.std**2, ((batch - batch.mean(axis=0)) ** 2).sum(axis=0) / 6, atol=1e-15)
    np.testing.assert_allclose(curve.per_clip, batch, rtol=1e-13)
    expected = {"bins": 8, "frames": 5, "size": "8x8", "channels": 3, "clips": 7, "seed": 3}
    assert expected.items() <= curve.protocol.items()


def test_one_clip_has_no_deviation_and_says_so() -> None:
    total = CurveAccumulator("x")
    total.add(noise(1, 4, 4, 4, 3))
    curve = total.result()
    assert curve.std.tolist() == [0.0] * 4
    assert "only one clip" in curve.protocol["note"]


def test_measure_records_protocol_and_progress() -> None:
    source = FunctionSource("made", lambda index, frames, seed: noise(seed + index, frames, 4, 4, 3))
    seen: list[int] = []
    curve = measure_similarity(source, clips=3, frames=6, seed=5, bins=4, progress=seen.append)
    assert seen == [1, 2, 3]
    for row, seed in zip(curve.per_clip, (5, 6, 7), strict=True):
        np.testing.assert_allclose(row, loop_similarity(noise(seed, 6, 4, 4, 3), 4), rtol=1e-13)
    assert {"clips_asked": 3, "seed": 5, "frames": 6, "bins": 4}.items() <= curve.protocol.items()
    assert curve.protocol["source"] == describe(source)


def test_area_of_parallel_curves_is_their_distance() -> None:
    rng = np.random.default_rng(0)
    spread = rng.normal(0, 0.02, (200, 1))
    t = np.linspace(0, 1, 33)
    a = accumulate("a", 1 - 0.3 * np.minimum(t, 1) + spread - spread.mean())
    b = accumulate("b", 1 - 0.3 * t - 0.1 + spread - spread.mean())
    found = curve_area(a, b)
    assert found.area == pytest.approx(0.1, abs=1e-12)
    # Both means err alike at every t, so the interval is that of a difference of two means.
    radius = 1.96 * math.sqrt(2 * spread.var() / 200)
    assert found.high - found.area == pytest.approx(radius, rel=0.1)
    assert found.area - found.low == pytest.approx(radius, rel=0.1)


def test_area_interval_covers_the_truth_and_reaches_zero_for_equal_sources() -> None:
    """150 pairs drawn from known distributions; 95 % intervals must hold at least about 95 % of them."""
    rng = np.random.default_rng(1)
    zero = covered = 0
    for _ in range(150):
        wave = rng.normal(0, 0.05, (3, 40, 12)).cumsum(axis=2) / 3  # neighbouring frames err alike
        a, same, apart = (accumulate("x", 0.8 + wave[i]) for i in range(3))
        zero += curve_area(a, same, resamples=200).low == 0
        apart = accumulate("x", apart.per_clip - 0.05)
        found = curve_area(a, apart, resamples=200)
        covered += found.low <= 0.05 <= found.high
    assert zero >= 136  # 150 x 0.95 less 2.5 standard deviations
    assert covered >= 136


def test_area_is_a_function_of_its_seed() -> None:
    rng = np.random.default_rng(2)
    a, b = (accumulate("x", rng.random((20, 9))) for _ in range(2))
    assert curve_area(a, b, seed=1) == curve_area(a, b, seed=1)
    assert curve_area(a, b, seed=1) != curve_area(a, b, seed=2)


def test_curves_of_different_protocols_are_refused() -> None:
    curves = np.ones((2, 5))
    with pytest.raises(DataError, match="bins 20 and b with 10"):
        curve_area(accumulate("a", curves), accumulate("b", curves, bins=10))
    with pytest.raises(DataError, match="size 4x4 and b with 8x8"):
        check_comparable(accumulate("a", curves), accumulate("b", curves, size="8x8"))
    with pytest.raises(DataError, match="frames 5 and b with 4"):
        check_comparable(accumulate("a", curves), accumulate("b", curves[:, :4]))


def test_what_cannot_be_measured_is_an_error() -> None:
    with pytest.raises(DataError, match="NaN"):
        color_similarity(np.full((2, 3, 3, 3), np.nan, np.float32))
    with pytest.raises(ValueError, match="frames must be"):
        color_similarity(noise(0, 4, 4, 3))
    with pytest.raises(ValueError, match="frames must be uint8"):
        color_similarity(np.zeros((2, 3, 3, 3), np.int32))
    with pytest.raises(ValueError, match="bins must be"):
        color_similarity(noise(0, 2, 4, 4, 3), bins=1)
    with pytest.raises(DataError, match="no clip was measured"):
        CurveAccumulator("x").result()
    total = CurveAccumulator("x")
    total.add(noise(0, 2, 4, 4, 3))
    with pytest.raises(DataError, match="2 frames of 4x5"):
        total.add(noise(0, 2, 4, 5, 3))


@pytest.fixture
def compiled() -> SharedPixels:
    """The compiled loop, built if need be."""
    status = native.ensure("cpu")
    function = shared_pixels()
    if function is None:
        pytest.skip(f"no compiled operators: {status.reason}")
    return function


@pytest.mark.parametrize(("bins", "channels"), [(20, 3), (2, 3), (40, 3), (41, 3), (64, 3), (20, 1), (256, 1)])
def test_the_compiled_loop_is_the_triple_loop(compiled: SharedPixels, bins: int, channels: int) -> None:
    clip = noise(3, 4, 5, 7, channels) // np.array([1, 2, 8, 50], np.uint8)[:, None, None, None]
    strided = np.repeat(clip, 2, axis=2)[:, :, ::2]  # not contiguous
    assert color_similarity(strided, bins).tolist() == pytest.approx(loop_similarity(clip, bins), abs=1e-15)
    places = bins ** np.arange(channels)[::-1]
    shared = compiled(clip, byte_bins(bins) * places[:, None])
    assert (shared / 35).tolist() == pytest.approx(loop_similarity(clip, bins), abs=1e-15)


@pytest.mark.parametrize("bins", [*range(2, 42), 64])
def test_every_byte_is_counted_in_its_bin(compiled: SharedPixels, bins: int) -> None:
    """Frame 0 holds one colour, the others each byte of one channel: they share what is in its bin."""
    frames = np.zeros((4, 1, 256, 3), np.uint8)
    for channel in range(3):
        frames[channel + 1, 0, :, channel] = np.arange(256)
    own = [math.floor((2 * byte * (bins - 1) + 255) / 510) for byte in range(256)]
    expected = [256, *[own.count(0)] * 3]
    places = bins ** np.arange(3)[::-1]
    assert compiled(frames, byte_bins(bins) * places[:, None]).tolist() == expected
    for byte in (1, 77, 254, 255):
        frames[0] = byte
        frames[1:] = byte
        for channel in range(3):
            frames[channel + 1, 0, :, channel] = np.arange(256)
        expected = [256, *[own.count(own[byte])] * 3]
        assert compiled(frames, byte_bins(bins) * places[:, None]).tolist() == expected


def test_without_the_compiled_loop_all_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = noise(5, 6, 9, 4, 3)
    before = color_similarity(clip)
    monkeypatch.setattr(color, "shared_pixels", lambda: None)
    np.testing.assert_array_equal(color_similarity(clip), before)


def test_workers_change_nothing() -> None:
    source = FunctionSource("made", lambda index, frames, seed: noise(index, frames, 6, 6, 3))
    curves = [measure_similarity(source, clips=11, frames=5, bins=3, workers=n) for n in (1, 2, 7)]
    for curve in curves[1:]:
        np.testing.assert_array_equal(curve.per_clip, curves[0].per_clip)
        assert curve.protocol == curves[0].protocol
    sizes = FunctionSource("made", lambda index, frames, seed: noise(index, frames, 6 + index, 6, 3))
    for n in (1, 3):
        with pytest.raises(DataError, match=r"a clip is 5 frames of 7x6 .* while the earlier ones are 5 frames of 6x6"):
            measure_similarity(sizes, clips=4, frames=5, workers=n)


def test_one_clip_says_nothing_about_others() -> None:
    one, many = accumulate("one", np.full((2, 3), 0.5)), accumulate("many", np.full((9, 3), 0.75))
    single = SimilarityCurve("one", one.mean, one.std, 1, one.protocol, one.per_clip[:1])
    area = curve_area(single, many)
    assert (area.area, area.low, area.high) == (0.25, 0.0, 1.0)


def test_score_of_a_curve() -> None:
    def source(label: str, drop: int) -> FunctionSource:
        def make(index: int, frames: int, seed: int) -> np.ndarray:
            clip = np.zeros((frames, 10, 10, 3), np.uint8)
            clip[1:, : drop + index % 2] = 255
            return clip

        return FunctionSource(label, make)

    sources = source("model", 4), source("footage", 1)
    curves = [measure_similarity(s, clips=6, frames=4, seed=2) for s in sources]
    area = curve_area(*curves)
    score = similarity_score(curves[0], curves[1], sources, area)
    assert score.value == pytest.approx(0.3)  # rows of 10 that changed: 4.5 against 1.5 of 10
    assert score.details["signed_area"] == pytest.approx(-0.3)
    assert score.details["reading"] == "changes too fast"
    assert score.label == "model"
    assert {"clips": 6, "frames": 4, "bins": 20, "seeds": [2], "size": "10x10"}.items() <= score.protocol.items()
