"""FVD and FID end to end with small TorchScript networks, against float64 NumPy and SciPy's matrix root."""

from __future__ import annotations

import functools
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import linalg

from lvgan.data.encoding import open_writer
from lvgan.errors import DataError, MachineError
from lvgan.evaluation import statistics
from lvgan.evaluation.detectors import Detector, find_detector
from lvgan.evaluation.distances import Kernel
from lvgan.evaluation.features import Features, Wish, extract
from lvgan.evaluation.fvd import DistancePlan, Machine, Operand, measure_distance
from lvgan.evaluation.protocol import Score, difference
from lvgan.evaluation.sources import ArraySource, FrameFolderSource, FunctionSource, open_source
from tests.evaluation import standins

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVGAN_CACHE", str(tmp_path / "cache"))


def opened(path: Path, device: torch.device) -> Any:
    """By name, for other processes."""
    return open_source(path)


def operand(path: Path) -> Operand:
    source = open_source(path)
    assert source is not None
    return Operand(source, functools.partial(opened, path))


def array(path: Path, content: np.ndarray) -> Path:
    np.save(path, content)
    return path


def detector(tmp_path: Path, network: torch.nn.Module | None = None, kind: Any = "clips") -> Detector:
    network = network or standins.Clips()
    return find_detector(str(standins.save(network, tmp_path / f"{type(network).__name__}.pt")), kind)


def no_bar(label: str, clips: int) -> Any:
    return lambda done: None


def measure(real: Path, model: Path, plan: DistancePlan, network: Detector, **machine: Any) -> list[Score]:
    return measure_distance(operand(real), [operand(model)], plan, network, Machine(CPU, **machine), no_bar)


def frechet(a: np.ndarray, b: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The formula word by word; `weights` of `a`."""
    mean = np.average(a, axis=0, weights=weights)
    s, t = np.cov(a.T, bias=True, aweights=weights), np.cov(b.T, bias=True)
    root = np.trace(np.asarray(linalg.sqrtm(s @ t))).real
    return float(np.square(mean - b.mean(0)).sum() + np.trace(s) + np.trace(t) - 2 * root)


@pytest.mark.parametrize(("frames", "stride"), [(4, 1), (3, 2)])
def test_fvd_end_to_end(tmp_path: Path, frames: int, stride: int) -> None:
    """More clips asked for than windows exist: every one is used, each video counting the same."""
    real, fake = standins.videos(0, 30, 6), standins.videos(1, 40, 6, shift=15)
    plan = DistancePlan(clips=500, frames=frames, stride=stride, kernel=Kernel())
    score, kernel = measure(array(tmp_path / "r.npy", real), array(tmp_path / "f.npy", fake), plan, detector(tmp_path))
    span = (frames - 1) * stride + 1

    def features(all_videos: np.ndarray) -> np.ndarray:
        return np.array([
            standins.clip_features(v[s : s + span : stride]) for v in all_videos for s in range(6 - span + 1)
        ])  # fmt: skip

    a, b = features(real), features(fake)
    assert score.value == pytest.approx(frechet(a, b), rel=1e-10)
    assert score.metric == ("fvd_4" if stride == 1 else "fvd_3_stride_2")
    k = Kernel()
    same = [(v.sum() - np.trace(v)) / (len(v) * (len(v) - 1)) for v in (k(a, a), k(b, b))]
    assert kernel.value == pytest.approx(sum(same) - 2 * k(a, b).mean(), rel=1e-9)
    assert kernel.metric.startswith("kvd")
    assert score.std is None
    protocol = json.loads(json.dumps(score.protocol, allow_nan=False))
    assert (protocol["frames"], protocol["stride"], protocol["clips"], protocol["size"]) == (
        frames, stride, 500, "8x12",
    )  # fmt: skip
    assert len(protocol["detector"]["sha256"]) == 64
    assert "resize=True" in protocol["detector"]["call"]


def test_random_clips_and_seeds(tmp_path: Path) -> None:
    real, fake = (array(tmp_path / f"{i}.npy", standins.videos(i, 12, 40, shift=9 * i)) for i in (0, 1))
    (score,) = measure(real, fake, DistancePlan(clips=50, frames=4, seeds=(3, 5)), detector(tmp_path))
    values = []
    for seed in (3, 5):
        a, b = (np.array([standins.clip_features(c) for c in ArraySource(p).clips(50, 4, seed)]) for p in (real, fake))
        values.append(frechet(a, b))
    assert score.details["values"] == pytest.approx(values, rel=1e-10)
    assert score.value == pytest.approx(np.mean(values), rel=1e-10)
    assert score.std == pytest.approx(np.std(values, ddof=1), rel=1e-8)
    assert score.protocol["seeds"] == [3, 5]


def test_fid_weighs_videos_alike(tmp_path: Path) -> None:
    """A long video beside a short one: each counts one half."""
    real = standins.videos(0, 2, 20)
    for v, length in ((0, 20), (1, 4)):
        (tmp_path / f"real/{v}").mkdir(parents=True)
        for t in range(length):
            Image.fromarray(real[v, t]).save(tmp_path / f"real/{v}/{t}.png")
    fake = standins.videos(1, 6, 10)
    plan = DistancePlan("fid", clips=1000, frames=1)
    network = detector(tmp_path, standins.Frames(), "frames")
    (score,) = measure(tmp_path / "real", array(tmp_path / "f.npy", fake), plan, network)
    a = np.array([standins.frame_features(f) for f in [*real[0], *real[1, :4]]])
    b = np.array([standins.frame_features(f) for v in fake for f in v])
    weights = np.array([1 / 20] * 20 + [1 / 4] * 4)
    assert score.value == pytest.approx(frechet(a, b, weights), rel=1e-9)
    assert score.metric == "fid"


@pytest.mark.parametrize("network", [standins.Clips, standins.Convolution])
def test_neither_processes_nor_batches_matter(tmp_path: Path, network: type[torch.nn.Module]) -> None:
    path = array(tmp_path / "r.npy", standins.videos(0, 5, 30, 16, 16))
    found = detector(tmp_path, network())
    open_it = functools.partial(opened, path)
    wish = Wish(23, 6, 2, 1)
    done: list[int] = []

    def run(workers: int, batch: int) -> Features:
        return extract(open_it, found, wish, CPU, workers=workers, batch=batch, progress=done.append)

    one = run(1, 4)
    assert sum(done) == 23
    assert one.size == (16, 16)
    other = run(1, 7)
    if network is standins.Clips:
        np.testing.assert_allclose(other.values, one.values, rtol=1e-13, atol=1e-15)
    else:  # float32, whose own rounding depends on shapes; and processes must not
        np.testing.assert_allclose(other.values, one.values, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(run(3, 4).values, one.values)
        assert sum(done) == 3 * 23


def test_threads_stay_as_they_were(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    path = array(tmp_path / "r.npy", standins.videos(0, 3, 8))
    extract(functools.partial(opened, path), detector(tmp_path), Wish(5, 4), CPU)
    assert torch.get_num_threads() == before


def failing(device: torch.device) -> Any:
    raise DataError("the footage is gone: bring it back")


def test_an_error_in_a_process_is_its_sentence(tmp_path: Path) -> None:
    path = array(tmp_path / "r.npy", standins.videos(0, 3, 8))
    with pytest.raises(DataError, match="bring it back"):
        extract(failing, detector(tmp_path), Wish(8, 4), CPU, source=open_source(path), workers=2)


def leaving(device: torch.device) -> Any:
    os._exit(0)


def test_a_process_that_leaves_without_a_word_is_not_waited_for(tmp_path: Path) -> None:
    path = array(tmp_path / "r.npy", standins.videos(0, 3, 8))
    with pytest.raises(MachineError, match=r"ended without a word \(exit code 0"):
        extract(leaving, detector(tmp_path), Wish(8, 4), CPU, source=open_source(path), workers=2)


def test_features_of_footage_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = array(tmp_path / "r.npy", standins.videos(0, 6, 20))
    source = ArraySource(path)
    network = detector(tmp_path)
    calls: list[int] = []

    def compute() -> Features:
        calls.append(1)
        return extract(functools.partial(opened, path), network, Wish(9, 4), CPU)

    def get(**change: Any) -> tuple[Features, bool]:
        return statistics.cached_features(source, network, change.pop("wish", Wish(9, 4)), compute, **change)

    first, there = get()
    assert not there
    second, there = get()
    assert there
    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(first.weights, second.weights)
    assert first.size == second.size
    assert get(refresh=True)[1] is False
    assert get(wish=Wish(9, 4, seed=1))[1] is False  # other clips
    assert len(calls) == 3
    # Moved and renamed footage is the same footage, edited footage is not.
    moved = ArraySource(path.rename(tmp_path / "r2.npy").rename(path), label="other")
    assert statistics.cache_file(moved, network, Wish(9, 4)) == statistics.cache_file(source, network, Wish(9, 4))
    array(path, standins.videos(5, 6, 20))
    assert statistics.cache_file(ArraySource(path), network, Wish(9, 4)) != statistics.cache_file(
        source, network, Wish(9, 4)
    )
    assert not [p for p in statistics.cache_folder().iterdir() if p.suffix != ".npz"]


def test_the_record_is_the_same_from_the_cache(tmp_path: Path) -> None:
    films = tmp_path / "films"
    for name, frames in (("a", 40), ("b", 45), ("c", 8)):
        with open_writer(films / f"{name}.mp4", 30) as writer:
            for frame in standins.videos(frames, 1, frames, 16, 16)[0]:
                writer.write(frame)
    network, plan = detector(tmp_path), DistancePlan(clips=9, frames=10)
    first, again = (measure(films, films, plan, network)[0] for _ in range(2))
    assert first == again
    real = again.protocol["sources"]["real"]
    assert (real["part"], real["codecs"]) == ("2 of 3 videos", ["h264"])


def test_pictures_changed_in_place_are_looked_at_anew(tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for i in range(6):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(frames / f"{i}.png")
    network = detector(tmp_path)
    files = {statistics.cache_file(FrameFolderSource(frames), network, Wish(3, 4)) for _ in range(2)}
    size = (frames / "3.png").stat().st_size
    Image.new("RGB", (8, 8), (77, 0, 0)).save(frames / "3.png")
    assert (frames / "3.png").stat().st_size == size  # which is all that the fingerprint sees
    os.utime(frames / "3.png", ns=(0, 1))
    assert statistics.cache_file(FrameFolderSource(frames), network, Wish(3, 4)) not in files
    assert len(files) == 1


def test_a_damaged_or_read_only_cache_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = array(tmp_path / "r.npy", standins.videos(0, 6, 20))
    network, source, wish = detector(tmp_path), ArraySource(path), Wish(9, 4)

    def get() -> tuple[Features, bool]:
        return statistics.cached_features(
            source, network, wish, lambda: extract(functools.partial(opened, path), network, wish, CPU)
        )

    get()
    file = statistics.cache_file(source, network, wish)
    assert file is not None
    file.write_bytes(file.read_bytes()[:200])
    with caplog.at_level(logging.WARNING):
        assert get()[1] is False
    assert "damaged" in caplog.text
    assert get()[1] is True
    blocked = tmp_path / "a file"
    blocked.write_text("x")
    monkeypatch.setenv("LVGAN_CACHE", str(blocked))
    with caplog.at_level(logging.WARNING):
        assert get()[1] is False
    assert "were not kept" in caplog.text


def test_a_model_is_not_kept(tmp_path: Path) -> None:
    source = FunctionSource("model", lambda index, frames, seed: np.zeros((frames, 4, 4, 3), np.uint8))
    assert statistics.cache_file(source, detector(tmp_path), Wish(3, 4)) is None


def test_bad_input_is_sentences(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = detector(tmp_path)
    good = array(tmp_path / "good.npy", standins.videos(0, 6, 10))
    plan = DistancePlan(clips=20, frames=8)
    with pytest.raises(DataError, match="gave 1 clip of 8 frames where 2 or more"):
        measure(good, array(tmp_path / "one.npy", standins.videos(0, 1, 8)), plan, network)
    with pytest.raises(DataError, match="clips of 8 frames were asked for"):
        measure(good, array(tmp_path / "short.npy", standins.videos(0, 9, 5)), plan, network)
    with pytest.raises(DataError, match="8x12 and other 6x6"):
        measure(good, array(tmp_path / "other.npy", standins.videos(0, 6, 10, 6, 6)), plan, network)
    with pytest.raises(DataError, match="NaN"):
        measure(good, good, plan, detector(tmp_path, standins.Nans()))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds nothing"):
        operand(tmp_path / "empty")
    for i, size in enumerate((4, 4, 6)):
        (tmp_path / f"mixed/{i}").mkdir(parents=True)
        for t in range(8):
            Image.new("RGB", (size, size)).save(tmp_path / f"mixed/{i}/{t}.png")
    for batch in (1, 3):
        with pytest.raises(DataError, match="one size was expected"):
            measure(tmp_path / "mixed", good, plan, network, batch=batch)


def test_few_clips_are_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = array(tmp_path / "r.npy", standins.videos(0, 6, 20))
    with caplog.at_level(logging.WARNING):
        measure(path, path, DistancePlan(clips=6, frames=4), detector(tmp_path))
    assert "6 clips are few for 6 features, the covariance is singular" in caplog.text


def test_extrapolated(tmp_path: Path) -> None:
    a, b = (array(tmp_path / f"{i}.npy", standins.videos(i, 60, 20)) for i in (0, 1))
    plain, line = measure(a, b, DistancePlan(clips=100, frames=4, extrapolated=True), detector(tmp_path))
    assert line.metric == "fvd_4_inf"
    assert line.value < plain.value
    assert len(line.details["extrapolation_error"]) == 1


def test_other_clips_make_another_protocol(tmp_path: Path) -> None:
    a, b = (array(tmp_path / f"{i}.npy", standins.videos(i, 8, 20)) for i in (0, 1))
    network = detector(tmp_path)
    (one,) = measure(a, b, DistancePlan(clips=20, frames=4), network)
    (other,) = measure(a, b, DistancePlan(clips=21, frames=4), network)
    (again,) = measure(a, b, DistancePlan(clips=20, frames=4), network, batch=5)
    assert difference(one.protocol, again.protocol) is None
    assert (difference(one.protocol, other.protocol) or [""])[0] == "clips"
