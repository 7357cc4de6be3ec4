"""Encoding: what was written is read back by ffmpeg, NumPy or Pillow."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lvgan.data.encoding import check_output, open_writer
from lvgan.data.video import probe
from lvgan.errors import ConfigError, MachineError, MediaError
from lvgan.sizes import Size
from tests.clips import decode

Images = NDArray[np.uint8]


def picture(count: int, height: int, width: int, seed: int = 0) -> Images:
    """Smooth saturated colours that move."""
    rng = np.random.default_rng(seed)
    t, y, x = np.meshgrid(np.arange(count) / 8, np.arange(height) / 40, np.arange(width) / 40, indexing="ij")
    waves = [np.sin(a * t + b * y + c * x) for a, b, c in rng.uniform(-1, 1, (3, 3))]
    return ((np.stack(waves, -1) + 1) * 127.5).astype(np.uint8)


def write(path: Path | str, frames: Images, fps: float = 30, **how: Any) -> None:
    with open_writer(path, fps, **how) as writer:
        for frame in frames:
            writer.write(frame)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a full disk needs the right to mount one (root)")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (63, 95), (36, 64), (1, 1)])
def test_mp4(tmp_path: Path, height: int, width: int) -> None:
    frames = picture(20, height, width)
    write(tmp_path / "v.mp4", frames, fps=24)
    info = probe(tmp_path / "v.mp4")
    even = (height + height % 2, width + width % 2)
    assert (info.codec, info.pix_fmt, info.fps) == ("h264", "yuv420p", 24)  # what browsers play
    assert (info.height, info.width) == even
    found = decode(tmp_path / "v.mp4", *even)
    assert len(found) == 20
    assert np.abs(found[:, :height, :width].astype(int) - frames).mean() < 4  # colours are tagged as they are
    assert os.listdir(tmp_path) == ["v.mp4"]


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
def test_small_frames_reach_the_file_as_they_are_made(tmp_path: Path, name: str) -> None:
    """A kill loses what the encoder holds (up to 250 frames and those it looks ahead), not a buffer's 256 kB."""
    frames = picture(650, 16, 16)
    partial = tmp_path / f"{name[:1]}.partial{name[1:]}"
    with open_writer(tmp_path / name, 30) as writer:
        for frame in frames:
            writer.write(frame)
        deadline = time.monotonic() + 60
        while partial.stat().st_size < 3000 or len(decode(partial, 16, 16)) < 250:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert len(decode(tmp_path / name, 16, 16)) == len(frames)


def test_mp4_colours_are_tagged(tmp_path: Path) -> None:
    flat = np.broadcast_to(np.array([200, 40, 90], np.uint8), (5, 32, 32, 3))
    write(tmp_path / "v.mp4", flat)
    assert np.abs(decode(tmp_path / "v.mp4", 32, 32).astype(int) - flat).max() <= 3


def test_gif(tmp_path: Path) -> None:
    frames = picture(12, 33, 47)
    write(tmp_path / "v.gif", frames, fps=25)
    with Image.open(tmp_path / "v.gif") as image:
        assert image.n_frames == 12
        image.seek(7)
        found = np.asarray(image.convert("RGB")).astype(int)
        assert image.info["duration"] == 40
    assert np.abs(found - frames[7]).mean() < 8


def test_npy_and_png_are_exact(tmp_path: Path) -> None:
    frames = picture(5, 21, 34)
    write(tmp_path / "v.npy", frames)
    assert np.array_equal(np.load(tmp_path / "v.npy"), frames)
    for name in ("plain", "dotted.v1/"):
        write(f"{tmp_path}/{name}", frames)
        with pytest.raises(ConfigError, match="5 frames of another video"):
            write(f"{tmp_path}/{name}", frames[:3])
        write(f"{tmp_path}/{name}", frames[:3], overwrite=True)
        files = sorted((tmp_path / name).iterdir())
        assert [f.name for f in files] == [f"frame_{i:06d}.png" for i in range(3)]
        assert np.array_equal(np.stack([np.asarray(Image.open(f)) for f in files]), frames[:3])
    assert sorted(os.listdir(tmp_path)) == ["dotted.v1", "plain", "v.npy"]


def test_grey_frames(tmp_path: Path) -> None:
    grey = picture(2, 8, 8)[..., :1]
    write(tmp_path / "v.npy", grey)
    assert np.array_equal(np.load(tmp_path / "v.npy"), np.repeat(grey, 3, -1))


@pytest.mark.parametrize("name", ["v.mp4", "v.gif", "v.npy", "frames"])
def test_an_error_leaves_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyError), open_writer(tmp_path / name, 30) as writer:  # noqa: PT012
        writer.write(picture(1, 16, 16)[0])
        assert name == "frames" or not (tmp_path / name).exists()
        raise KeyError
    assert os.listdir(tmp_path) == []
    with pytest.raises(MediaError, match="no frame was made"):
        open_writer(tmp_path / name, 30).close()
    assert os.listdir(tmp_path) == []


def test_wrong_names_are_refused_before_any_work(tmp_path: Path) -> None:
    for name in ("v.avi", "v.jpeg"):
        with pytest.raises(ConfigError, match=r"use \.mp4 .*\.gif, \.npy"):
            open_writer(tmp_path / name, 30)
    (tmp_path / "d.mp4").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        check_output(tmp_path / "d.mp4")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").touch()
    with pytest.raises(ConfigError, match=r"thesis\.doc"):
        check_output(tmp_path / "full")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file"):
        check_output(tmp_path / "file")
    with pytest.raises(MachineError, match="could not be written"):
        open_writer(tmp_path / "file" / "v.mp4", 30)
    assert sorted(os.listdir(tmp_path)) == ["d.mp4", "file", "full"]


def test_wrong_frames(tmp_path: Path) -> None:
    with open_writer(tmp_path / "v.npy", 30, Size(4, 6)) as writer:
        for bad in (
            np.zeros((4, 6, 3), np.float32),
            np.zeros((4, 6, 2), np.uint8),
            np.zeros((5, 6, 3), np.uint8),
        ):
            with pytest.raises(ValueError, match="frame"):
                writer.write(bad)
        writer.write(np.zeros((4, 6, 3), np.uint8))


@pytest.mark.parametrize(
    ("name", "kept"), [("v.mp4", ["v.partial.mp4"]), ("v.gif", []), ("v.npy", ["v.partial.npy"]), ("frames", [])]
)
def test_full_disk(small_disk: Path, name: str, kept: list[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (240, 128, 128, 3), np.uint8)
    with pytest.raises(MachineError, match="disk is full"):
        write(small_disk / name, noise)
    assert os.listdir(small_disk) == kept
    if name == "v.mp4":
        found = decode(small_disk / "v.partial.mp4", 128, 128)
        assert 10 < len(found) < 240  # what fits can be played
    elif name == "v.npy":
        found = np.load(small_disk / "v.partial.npy")
        assert np.array_equal(found, noise[: len(found)])
