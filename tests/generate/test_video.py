"""``lvgan.load``: one world, frames by index."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lvgan
from lvgan.errors import CheckpointError, ConfigError
from lvgan.generate.noise_sources import CrossFade, SeedNoise
from tests import checkpoints
from tests.clips import decode


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return checkpoints.make(tmp_path_factory.mktemp("checkpoints"))


def test_pictures_by_index(pair: tuple[Path, Path]) -> None:
    video = lvgan.load(*pair, seed=4, device="cpu")
    assert (video.size, video.lr_size, video.channels) == ((32, 32), (16, 16), 3)
    clip = video[-3:5]
    assert (clip.shape, clip.dtype) == ((8, 32, 32, 3), np.uint8)
    assert clip.std() > 1
    high, low = video.hr(-3, 5), video.lr(-3, 5)
    assert (high.shape, low.shape) == ((3, 8, 32, 32), (3, 8, 16, 16))
    expected = np.clip(np.floor(high.double().permute(1, 2, 3, 0).numpy() * 127.5 + 128), 0, 255)
    assert np.abs(clip - expected).max() <= 1  # where float32 and float64 fall on two sides of a whole number
    assert (clip == expected).mean() > 0.999

    other = lvgan.load(str(pair[0]), str(pair[1]), seed=4, device="cpu", memory_mb=0)
    for t in np.random.default_rng(0).permutation(8).tolist():
        assert np.array_equal(other[t - 3], clip[t])
    assert np.array_equal(other[-3:5:3], clip[::3])
    assert np.array_equal(other[4:-4:-1], clip[::-1])
    assert np.array_equal(np.stack(list(itertools.islice(other, 5))), clip[3:])
    assert np.array_equal(np.stack(list(other.frames(-3, 4, 2))), clip[::2])
    assert other[5:5].shape == (0, 32, 32, 3)
    assert not np.array_equal(lvgan.load(*pair, seed=5)[0], clip[3])


def test_low_resolution_alone_and_saving(pair: tuple[Path, Path], tmp_path: Path) -> None:
    video = lvgan.load(pair[0], noise=CrossFade(SeedNoise(0), SeedNoise(1), 0, 8))
    assert video.size == (16, 16)
    with pytest.raises(ConfigError, match="low resolution only"):
        video.hr(0, 1)
    video.save(tmp_path / "v.npy", 6, start=10, stride=2)
    assert np.array_equal(np.load(tmp_path / "v.npy"), video[10:22:2])
    video.save(tmp_path / "frames", 2)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "frames" / "frame_000001.png")), video[1])
    video.save(tmp_path / "v.mp4", 40, fps=24)
    assert np.abs(decode(tmp_path / "v.mp4", 16, 16).astype(int) - video[0:40]).mean() < 6


def test_a_folder_of_runs(pair: tuple[Path, Path], tmp_path: Path) -> None:
    for name, checkpoint in (("lr-0001", pair[0]), ("lr-0002", pair[0]), ("sr-0001", pair[1])):
        folder = tmp_path / "runs" / name / "checkpoints"
        folder.mkdir(parents=True)
        (folder / f"{name[:2]}-step-000007.pt").write_bytes(checkpoint.read_bytes())
    expected = lvgan.load(*pair)[0]
    for path in (tmp_path, tmp_path / "runs"):
        assert np.array_equal(lvgan.load(path)[0], expected)
    assert lvgan.load(tmp_path / "runs" / "lr-0002").size == (16, 16)


def test_wrong_use(pair: tuple[Path, Path], tmp_path: Path) -> None:
    video = lvgan.load(pair[0])
    for cut in (slice(None), slice(3, None), slice(None, 9)):
        with pytest.raises(ConfigError, match="without both ends"):
            video[cut]
    for index in (2**62, slice(-(2**62) - 5, -(2**62))):
        with pytest.raises(ConfigError, match=r"2\^62"):
            video[index]
    with pytest.raises(TypeError):
        video[1.5]
    with pytest.raises(ConfigError, match="seed -1"):
        lvgan.load(pair[0], seed=-1)
    with pytest.raises(ConfigError, match="memory of -1"):
        lvgan.load(pair[0], memory_mb=-1)
    with pytest.raises(CheckpointError):
        lvgan.load(tmp_path / "none.pt")
    with pytest.raises(AttributeError):
        _ = lvgan.nothing
    assert isinstance(video[0:1], np.ndarray)
    assert isinstance(video.lr(0, 1), torch.Tensor)
