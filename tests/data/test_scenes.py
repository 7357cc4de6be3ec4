"""Cut detection, on videos whose transitions are known because they were made."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lvgan.cli.bench_cuts import group, score
from lvgan.cli.cut_corpus import Case, dissolve, fade, flashes, join, make_corpus, shake
from lvgan.data.scenes import Cut, SceneFinder, pieces
from lvgan.sizes import Size

Shot = NDArray[np.uint8]


def find(frames: Sequence[NDArray[np.uint8]] | Shot, threshold: float | None = None) -> list[Cut]:
    finder = SceneFinder(threshold)
    found = []
    for count, frame in enumerate(frames, start=1):
        for cut in finder.push(frame):
            assert count - finder.delay <= cut.start, "reported late"
            found.append(cut)
    return found + finder.finish()


def pan(seed: int, frames: int = 40, step: int = 1, size: tuple[int, int] = (36, 64)) -> Shot:
    """A smooth random picture that moves by `step` pixels a frame."""
    rng = np.random.default_rng(seed)
    height, width = size
    dots = rng.integers(0, 256, (height // 8 + 1, (width + frames * step) // 8 + 2, 3), dtype=np.uint8)
    big = np.asarray(Image.fromarray(dots).resize((width + frames * step, height), Image.Resampling.BICUBIC))
    return np.stack([big[:, step * t : step * t + width] for t in range(frames)])


@pytest.fixture(scope="module")
def corpus() -> list[Case]:
    return list(make_corpus(3, None, Size(36, 64), each=1))


def test_precision_and_recall(corpus: list[Case]) -> None:
    scores = [(case, *score(case, find(case.frames))) for case in corpus]
    for kind in ("cut", "fade", "dissolve"):
        wanted = sum(len(case.cuts) for case, _, _ in scores if group(case) == kind)
        hits = sum(hits for case, hits, _ in scores if group(case) == kind)
        assert hits >= {"cut": wanted, "fade": wanted, "dissolve": wanted - 1}[kind], kind
        assert wanted >= 2
    assert sum(false for _, _, false in scores) <= 1
    assert sum(not case.cuts for case in corpus) >= 12


def test_nothing_of_a_transition_is_left_in_the_pieces(corpus: list[Case]) -> None:
    for case in corpus:
        if not case.cuts or group(case) == "dissolve":
            continue
        kept = {n for start, end in pieces(len(case.frames), find(case.frames)) for n in range(start, end)}
        for cut in case.cuts:
            assert not kept & set(range(cut.start - 1, cut.end + 1)), case.kind


@pytest.mark.parametrize("at", [2, 20, 77])
def test_a_hard_cut_is_found_to_the_frame(at: int) -> None:
    frames, _ = join(pan(0, at), pan(1, 80 - at))
    assert find(frames) == [Cut(at, at)]


def test_cuts_between_blended_frames_are_one_transition() -> None:
    frames, made = dissolve(pan(0), pan(1), 1)  # as deinterlacing and rate conversion leave them
    (cut,) = find(frames)
    assert cut.start in (made.start, made.end)
    assert cut.end in (made.start, made.end)


@pytest.mark.parametrize("length", [8, 16, 30])
def test_a_dissolve_is_covered(length: int) -> None:
    frames, made = dissolve(pan(0, 60, 0), pan(1, 60, 0), length)
    (cut,) = find(frames)
    assert cut.kind == "dissolve"
    assert abs(cut.start - made.start) <= 2
    assert abs(cut.end - made.end) <= 2


@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize(("out", "hold", "back"), [(12, 4, 12), (10, 1, 0), (0, 6, 10), (20, 55, 20), (34, 5, 45)])
def test_a_fade_is_covered(level: int, out: int, hold: int, back: int) -> None:
    frames, made = fade(pan(0, 60), pan(1, 60), out, hold, back, level)
    found = find(frames)
    assert {cut.kind for cut in found} == {"fade"}
    assert all(a.end == b.start for a, b in pairwise(found))  # one that lasts comes in parts
    assert made.start - 6 <= found[0].start <= made.start + 2  # too much is no harm
    assert made.end - 2 <= found[-1].end <= made.end + 6
    assert pieces(len(frames), found)[0][1] <= made.start
    assert pieces(len(frames), found)[-1][0] >= made.end
    assert len(pieces(len(frames), found)) == 2


def test_a_fade_in_at_the_start_and_out_at_the_end() -> None:
    black = np.zeros((6, 36, 64, 3), np.uint8)
    begins, _ = fade(black, pan(0, 60), 0, 1, 12)
    whole, _ = fade(begins, black, 12, 1, 0)
    ((start, end),) = pieces(len(whole), find(whole))
    assert 19 <= start <= 24
    assert 50 <= end <= 55


def test_motion_shake_and_flashes_are_no_cuts() -> None:
    rng = np.random.default_rng(0)
    for frames in (pan(0, 90, 3), shake(pan(1, 90), rng), flashes(pan(2, 90), rng), pan(3, 90)[::-1]):
        assert find(frames) == []


def test_light_is_no_cut() -> None:
    frames = pan(0, 60).astype(float)
    frames[30:] = frames[30:] * 0.5 + 10
    assert find(frames.astype(np.uint8)) == []


def test_a_higher_threshold_finds_fewer() -> None:
    frames, cut = join(pan(0), pan(1))
    assert find(frames, 0.3) == [cut]
    assert find(frames, 5.0) == []


def test_a_threshold_must_be_above_0() -> None:
    with pytest.raises(ValueError, match="threshold"):
        SceneFinder(0)


@pytest.mark.parametrize("size", [(16, 16), (36, 64), (65, 33), (144, 256)])
def test_frames_of_any_size(size: tuple[int, int]) -> None:
    frames, cut = join(pan(0, size=size), pan(1, size=size))
    assert find(frames) == [cut]


def test_short_videos() -> None:
    assert SceneFinder().finish() == []
    for count in (1, 2, 3):
        assert find(pan(0, count)) == []


def test_pieces() -> None:
    assert pieces(100, []) == [(0, 100)]
    assert pieces(0, []) == []
    assert pieces(100, [Cut(40, 40)]) == [(0, 38), (42, 100)]
    assert pieces(100, [Cut(40, 50, "fade")], margin=0) == [(0, 40), (50, 100)]
    assert pieces(100, [Cut(60, 60), Cut(20, 30, "dissolve")]) == [(0, 18), (32, 58), (62, 100)]
    assert pieces(100, [Cut(0, 10, "fade"), Cut(95, 100, "fade")]) == [(12, 93)]
    assert pieces(100, [Cut(40, 40), Cut(43, 43)]) == [(0, 38), (45, 100)]
    assert pieces(100, [Cut(20, 60, "fade"), Cut(30, 40)]) == [(0, 18), (62, 100)]
    assert pieces(10, [Cut(0, 10, "fade")]) == []
    assert pieces(10, [Cut(9, 9)]) == [(0, 7)]


@pytest.mark.parametrize("frames", [1, 20, 60, 61, 300])
@pytest.mark.parametrize("level", [0, 16, 130, 255])
def test_a_video_that_is_blank_from_start_to_end_is_one_shot(frames: int, level: int) -> None:
    assert find(np.full((frames, 36, 64, 3), level, np.uint8)) == []


@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize("hold", [61, 90, 200, 1000])
@pytest.mark.parametrize("slope", [0, 12, 30])
def test_what_is_blank_for_long_is_a_shot_of_its_own(slope: int, hold: int, level: int) -> None:
    frames, made = fade(pan(0, 60), pan(1, 60), slope, hold, slope, level)
    before, blank, after = pieces(len(frames), find(frames), margin=0)
    assert before[0] == 0
    assert after[1] == len(frames)
    for (_, end), (start, _) in ((before, blank), (blank, after)):
        assert start - end <= slope + 1
    assert abs(before[1] - made.start) <= max(slope // 3, 1)
    assert abs(after[0] - made.end) <= max(slope // 3, 1)
    assert (frames[blank[0] : blank[1]].std(axis=(1, 2)) < 8).all()
    assert hold <= blank[1] - blank[0] + 1


@pytest.mark.parametrize("hold", [5, 30, 45, 55])
def test_what_is_blank_for_a_moment_belongs_to_the_fade(hold: int) -> None:
    frames, _ = fade(pan(0, 60), pan(1, 60), 10, hold, 10)
    assert len(pieces(len(frames), find(frames))) == 2


@pytest.mark.parametrize("hold", [1, 20, 59, 60, 61, 62, 80, 200])
@pytest.mark.parametrize("slope", [0, 10, 36, 70])
def test_transitions_are_reported_in_time(slope: int, hold: int) -> None:
    frames, _ = fade(pan(0, 100), pan(1, 100), slope, hold, slope)
    finder = SceneFinder()
    for count, frame in enumerate(frames, start=1):
        for cut in finder.push(frame):
            assert cut.start >= count - 1 - finder.delay
    assert all(cut.start >= len(frames) - finder.delay for cut in finder.finish())
