"""Black bars, clips that stand still, black clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lvgan.data.checks import Crop, StillFinder, find_bars
from tests.clips import decode, ffmpeg, make_video

Picture = NDArray[np.uint8]


def picture(seed: int, height: int = 90, width: int = 160, brightness: float = 1.0) -> Picture:
    """A smooth random picture with detail."""
    rng = np.random.default_rng(seed)
    dots = rng.integers(40, 256, (height // 10, width // 10, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(dots).resize((width, height), Image.Resampling.BICUBIC), float)
    return np.clip((smooth + rng.normal(0, 6, smooth.shape)) * brightness, 0, 255).astype(np.uint8)


def framed(
    inner: Picture, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0, noise: float = 0, black: int = 0
) -> Picture:
    out = np.pad(inner, ((top, bottom), (left, right), (0, 0)), constant_values=black).astype(float)
    return np.clip(out + np.random.default_rng(9).normal(0, noise, out.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("noise", [0, 5])
@pytest.mark.parametrize("black", [0, 16])
@pytest.mark.parametrize(
    ("top", "bottom", "left", "right"),
    [(12, 12, 0, 0), (20, 7, 0, 0), (0, 0, 30, 30), (0, 0, 0, 11), (9, 9, 16, 16), (4, 0, 0, 0)],
)
def test_bars_are_found(top: int, bottom: int, left: int, right: int, black: int, noise: float) -> None:
    frames = [framed(picture(seed), top, bottom, left, right, noise, black) for seed in range(8)]
    height, width = frames[0].shape[:2]
    assert find_bars(frames) == Crop(left, top, width - left - right, height - top - bottom)


def test_pictures_without_bars() -> None:
    assert find_bars([picture(seed) for seed in range(8)]) is None
    assert find_bars([picture(0)]) is None


def test_black_frames_say_nothing() -> None:
    black = np.zeros((114, 160, 3), np.uint8)
    assert find_bars([black] * 8) is None
    assert find_bars([black, *(picture(seed, 114) for seed in range(5)), black]) is None
    framed_ones = [framed(picture(seed), 12, 12) for seed in range(5)]
    assert find_bars([black, *framed_ones, black]) == Crop(0, 12, 160, 90)


def test_dark_scenes_are_no_bars() -> None:
    night = []
    for seed in range(8):  # the sky ends in a hilly line, black and even above it
        frame = picture(seed, brightness=0.5)
        line = 25 + 12 * np.sin(np.arange(160) / 25 + seed)
        frame[np.arange(90)[:, None] < line[None]] = 4
        night.append(frame)
    assert find_bars(night) is None
    mixed = [picture(seed) for seed in range(4)] + [framed(picture(seed, 70), 20) for seed in range(4)]
    assert find_bars(mixed[:7]) is None, "a bar in some of the frames only"


def test_dark_scenes_inside_bars() -> None:
    frames = [framed(picture(seed, brightness=0.25), 12, 12, black=2) for seed in range(8)]
    assert find_bars(frames) == Crop(0, 12, 160, 90)


def test_subtitles_in_a_bar() -> None:
    frames = [framed(picture(seed), 14, 22) for seed in range(8)]
    for frame in frames[2:7]:
        frame[110:118, 40:120:4] = 235
    assert find_bars(frames) == Crop(0, 14, 160, 90)


def test_bars_through_a_codec(tmp_path: Path) -> None:
    pad = ("-c:v", "libx264", "-crf", "30", "-pix_fmt", "yuv420p", "-vf", "pad=192:136:10:18")
    path = make_video(tmp_path / "bars.mp4", size="172x100", frames=16, source="mandelbrot", options=pad)
    crop = find_bars(list(decode(path, 136, 192)))
    assert crop is not None
    assert np.abs(np.array(crop) - [10, 18, 172, 100]).max() <= 2


def test_frames_must_agree() -> None:
    with pytest.raises(ValueError, match="frames"):
        find_bars([])
    with pytest.raises(ValueError, match="frames"):
        find_bars([picture(0), picture(0, 80)])


# --- still and black ------------------------------------------------------------------------------


def judged(frames: list[Picture] | Picture) -> StillFinder:
    finder = StillFinder()
    for frame in frames:
        finder.push(frame)
    return finder


@pytest.mark.parametrize(("crf", "grain"), [(18, 0), (28, 0), (23, 4), (20, 10)])
def test_a_frozen_picture_is_static_through_a_codec(tmp_path: Path, crf: int, grain: float) -> None:
    rng = np.random.default_rng(0)
    still = np.clip(picture(1)[None] + rng.normal(0, grain, (60, 90, 160, 3)), 0, 255).astype(np.uint8)
    raw, path = tmp_path / "raw", tmp_path / "still.mp4"
    raw.write_bytes(still.tobytes())
    ffmpeg("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "160x90", "-i", raw, "-crf", crf, "-pix_fmt", "yuv420p", path)
    finder = judged(decode(path, 90, 160))
    assert finder.frames == 60
    assert finder.static
    assert not finder.black


def test_slow_clouds_are_not_static() -> None:
    soft = np.asarray(
        Image.fromarray(np.random.default_rng(2).integers(115, 142, (9, 18), dtype=np.uint8)).resize((320, 90), 3)
    )
    sky = Image.fromarray(soft).convert("RGB")
    # A tenth of a pixel a frame.
    frames = [
        np.asarray(sky.resize((160, 90), Image.Resampling.BILINEAR, box=(t / 10, 0, t / 10 + 160, 90)))
        for t in range(128)
    ]
    assert not judged(frames).static


def test_a_small_thing_that_moves_is_not_static() -> None:
    frames = np.repeat(picture(3)[None], 40, axis=0)
    for t in range(20, 40):
        frames[t, 40:48, t * 3 : t * 3 + 8] = 250
    assert not judged(frames).static


@pytest.mark.parametrize("level", [0, 16])
def test_black(level: int) -> None:
    noise = np.random.default_rng(1).normal(level, 2, (40, 36, 64, 3))
    finder = judged(np.clip(noise, 0, 255).astype(np.uint8))
    assert finder.black
    assert finder.static


def test_night_is_not_black() -> None:
    frames = [picture(seed, 36, 64, 0.3) for seed in range(3)]
    assert not judged(frames).black


def test_one_bright_frame_is_not_black() -> None:
    black = np.zeros((30, 36, 64, 3), np.uint8)
    black[17] = 200
    finder = judged(black)
    assert not finder.black
    assert not finder.static


def test_no_verdict_without_frames() -> None:
    assert not StillFinder().static
    assert not StillFinder().black


def test_real_clips_move(real_clips: Path) -> None:
    for path in sorted(real_clips.glob("*.mp4")):
        frames = decode(path, 36, 64, "scale=64:36")[:60]
        finder = judged(frames)
        assert not finder.static, path.name
        assert not finder.black
        assert find_bars(list(frames[::8])) is None, path.name
