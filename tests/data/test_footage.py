"""The procedural world and its files. Every property is measured on the pictures themselves."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from lvgan.data.footage import SETTINGS, write_footage
from lvgan.data.program import find_ffmpeg
from lvgan.data.world import World, render_frame
from lvgan.data.world_terrain import Land, curve, hash_unit, scatter_noise, tile_noise
from lvgan.errors import ConfigError, DataError
from lvgan.sizes import Size


def clip(world: World, frames: range, side: int = 48) -> np.ndarray:
    return np.stack([world.frame(k, side, side) for k in frames]).astype(np.float32)


def histogram(frame: np.ndarray) -> np.ndarray:
    bins = np.clip(frame.astype(np.int64) // 16, 0, 15)
    flat = np.concatenate([np.bincount(bins[..., c].ravel(), minlength=16) for c in range(3)])
    return flat / flat.sum()


def ffmpeg_facts(path: Path) -> tuple[int, float, str]:
    """Frames decoded, rate and size, as ffmpeg prints them."""
    command = [find_ffmpeg(), "-i", str(path), "-f", "null", "-"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    frames = re.findall(r"frame= *(\d+)", text)[-1]
    stream = next(line for line in text.splitlines() if "Video: h264" in line)
    rate, size = re.search(r"([\d.]+) fps", stream), re.search(r", (\d+x\d+)", stream)
    assert rate is not None
    assert size is not None
    return int(frames), float(rate[1]), size[1]


# --- noise ----------------------------------------------------------------------------------------


def test_hash_is_uniform_and_without_correlation_between_neighbours() -> None:
    x, z = np.meshgrid(np.arange(-200, 200), np.arange(-200, 200))
    u = hash_unit(7, x, z)
    counts = np.histogram(u, 20, (0, 1))[0]
    chi2 = ((counts - u.size / 20) ** 2 / (u.size / 20)).sum()
    assert chi2 < 50  # 19 degrees of freedom: 1 in 10,000 is above
    for pair in (
        np.corrcoef(u[1:].ravel(), u[:-1].ravel()),
        np.corrcoef(u[:, 1:].ravel(), u[:, :-1].ravel()),
    ):
        assert abs(pair[0, 1]) < 0.01
    assert not np.array_equal(u, hash_unit(8, x, z))


@pytest.mark.parametrize("shift", [1, 3, 5, 8])
def test_tiles_agree_with_each_other_and_with_scattered_lookups(shift: int) -> None:
    tx, tz = np.array([-1, 0, 70_000]), np.array([2, 2, -3])
    noise = tile_noise([5], shift, tx, tz)[0]
    np.testing.assert_allclose(noise[0][:, -2:], noise[1][:, :2], atol=2e-6)  # their shared margin
    x, z = np.meshgrid(np.arange(-1, 33), np.arange(-1, 33))
    for i in range(3):
        points = (x + tx[i] * 32.0).ravel(), (z + tz[i] * 32.0).ravel()
        np.testing.assert_allclose(noise[i].ravel(), scatter_noise(5, 2.0**shift, *points), atol=2e-5)


def test_curve_is_smooth_and_does_not_come_back() -> None:
    t = np.arange(0, 4000.0)
    a, b = curve(3, 100.0, t), curve(3, 100.0, t + 1e9)
    assert np.abs(np.diff(a)).max() < 0.05
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.4
    assert 0.25 < a.std() < 0.6


def test_slopes_of_the_land_are_those_of_its_heights() -> None:
    tiles = Land(9).tiles(3, np.arange(8), np.full(8, 6)).astype(np.float64)  # cells of 1 m
    rise_z, rise_x = np.gradient(tiles[..., 0], axis=(1, 2))
    dry = tiles[..., 0] > -4.0  # far enough above the lakes
    dry[:, [0, -1]] = dry[:, :, [0, -1]] = False  # one-sided there
    assert dry.mean() > 0.3
    np.testing.assert_allclose(tiles[..., 1][dry], rise_x[dry], atol=1e-4)
    np.testing.assert_allclose(tiles[..., 2][dry], rise_z[dry], atol=1e-4)


# --- pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(64, 64), (9, 16), (8, 8), (37, 63), (72, 127), (128, 40)])
def test_sizes(height: int, width: int) -> None:
    frame = World(0, 1).frame(40, height, width)
    assert frame.shape == (height, width, 3)
    assert frame.dtype == np.uint8
    assert frame.std() > 8


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="index"):
        World(0, 0).frame(-1, 16, 16)
    with pytest.raises(ValueError, match="size"):
        World(0, 0).frame(0, 7, 16)


def test_a_frame_is_a_pure_function_of_seed_video_and_index() -> None:
    world = World(3, 2)
    in_order = {k: world.frame(k, 48, 64) for k in range(0, 400, 20)}
    other = World(3, 2)
    for k in (380, 0, 200, 40):  # jumps, and another size between
        other.frame(5 * k + 1, 24, 24)
        np.testing.assert_array_equal(other.frame(k, 48, 64), in_order[k])
    np.testing.assert_array_equal(render_frame(3, 2, 200, 48, 64), in_order[200])
    assert World(3, 2).frame(10**10, 32, 32).std() > 5


def test_seeds_and_videos_differ() -> None:
    frames = [World(s, v).frame(0, 48, 48).astype(np.float32) for s, v in [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0)]]
    for i, a in enumerate(frames):
        for b in frames[i + 1 :]:
            assert np.abs(a - b).mean() > 4


def test_sky_is_brighter_above_a_structured_ground() -> None:
    frames = [World(1, v).frame(100, 64, 64).astype(np.float32).mean(-1) for v in range(8)]
    upper, lower = np.stack([f[:20] for f in frames]), np.stack([f[40:] for f in frames])
    assert upper.mean() > lower.mean() + 5
    assert (lower.std((1, 2)) > 4).all()


def test_motion_is_steady_and_small() -> None:
    for video in range(2):
        frames = clip(World(0, video), range(500, 590))
        steps = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
        assert steps.min() > 0.1
        assert steps.max() < 8
        assert steps.max() < 4 * np.median(steps)  # nothing pops
        apart = np.abs(frames[30:] - frames[:-30]).mean()
        assert apart > 2 * steps.mean()


def test_near_things_move_faster_than_far_ones() -> None:
    """Parallax: the same few frames change the ground more than the horizon's mountains."""
    near = far = 0.0
    for video in range(4):
        frames = clip(World(2, video), range(0, 24), 64)
        change = np.abs(np.diff(frames, axis=0)).mean((0, 2, 3)) / frames.std((0, 2, 3)).clip(1)
        near, far = near + change[48:].mean(), far + change[16:24].mean()
    assert near > 2 * far


def test_colour_drifts_gradually_over_hundreds_of_frames() -> None:
    lags = [1, 30, 120, 300, 600, 1200]
    curves = []
    for video in range(6):
        world = World(4, video)
        start = histogram(world.frame(0, 32, 32))
        curves.append([np.minimum(start, histogram(world.frame(k, 32, 32))).sum() for k in lags])
    mean = np.mean(curves, 0)
    assert mean[0] > 0.9
    assert (np.diff(mean[:5]) < -0.05).all()
    assert mean[0] - mean[2] < 0.45  # but not at once
    assert mean[-1] < 0.55


def test_nothing_repeats() -> None:
    """The best match of a clip among thousands of later places is far from it."""
    world = World(5, 0)
    clip_frames = clip(world, range(0, 4), 24)
    near = np.abs(clip(world, range(4, 8), 24) - clip_frames).mean()
    places = [*range(600, 100_000, 3571), 2**16, 2**17, 10**5, 10**6, 2**31, 2**32]
    far = [np.abs(clip(world, range(k, k + 2), 24) - clip_frames[:2]).mean() for k in places]
    assert min(far) > 2 * near
    assert min(far) > 5


# --- files ----------------------------------------------------------------------------------------


def test_files_hold_what_was_asked_for(tmp_path: Path) -> None:
    paths = write_footage(tmp_path / "raw", videos=2, seconds=0.5, fps=24, size=Size(48, 65), workers=2, progress=False)
    assert [p.name for p in paths] == ["world_0000.mp4", "world_0001.mp4"]
    for path in paths:
        assert ffmpeg_facts(path) == (12, 24.0, "66x48")  # H.264 wants even sizes
    assert sorted(p.name for p in (tmp_path / "raw").iterdir()) == [SETTINGS, *(p.name for p in paths)]


def test_a_file_shows_the_world(tmp_path: Path) -> None:
    size = Size(64, 64)
    path = write_footage(tmp_path, videos=1, seconds=0.2, size=size, seed=6, workers=1, progress=False)[0]
    command = [find_ffmpeg(), "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    pixels = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8)
    decoded = pixels.reshape(6, 64, 64, 3).astype(np.float32)
    assert np.abs(decoded - clip(World(6, 0), range(6), 64)).mean() < 6


def test_rerun_goes_on_and_other_settings_are_refused(tmp_path: Path) -> None:
    ask = {"seconds": 0.1, "size": Size(16, 16), "workers": 1, "progress": False}
    first = write_footage(tmp_path, videos=2, **ask)  # type: ignore[arg-type]
    stamps = [p.stat().st_mtime_ns for p in first]
    first[1].unlink()
    again = write_footage(tmp_path, videos=3, **ask)  # type: ignore[arg-type]
    assert again[0].stat().st_mtime_ns == stamps[0]
    assert all(p.exists() for p in again)
    with pytest.raises(DataError, match=r"seed 0 instead of 9.*--overwrite"):
        write_footage(tmp_path, videos=2, seed=9, **ask)  # type: ignore[arg-type]
    replaced = write_footage(tmp_path, videos=2, seed=9, overwrite=True, **ask)  # type: ignore[arg-type]
    assert json.loads((tmp_path / SETTINGS).read_text())["seed"] == 9
    assert sorted(tmp_path.glob("*.mp4")) == replaced


def test_foreign_files_are_not_taken_for_ours(tmp_path: Path) -> None:
    (tmp_path / "world_0000.mp4").write_bytes(b"not ours")
    with pytest.raises(DataError, match="other settings"):
        write_footage(tmp_path, videos=1, seconds=0.1, size=Size(16, 16), progress=False)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file"):
        write_footage(tmp_path / "file", videos=1)


@pytest.mark.parametrize(
    ("wrong", "range_"),
    [
        ({"videos": 0}, "1 to 9999"),
        ({"seconds": -1.0}, "above 0"),
        ({"seconds": float("nan")}, "above 0"),
        ({"fps": 0}, "1 to 240"),
        ({"size": Size(7, 64)}, "from 8"),
        ({"workers": 0}, "1 or more"),
    ],
)
def test_bad_values_name_the_legal_range(tmp_path: Path, wrong: dict, range_: str) -> None:
    with pytest.raises(ConfigError, match=range_):
        write_footage(tmp_path / "raw", **wrong)
    assert not (tmp_path / "raw").exists()
