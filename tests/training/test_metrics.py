"""Metrics of training against straightforward computations, and that training does not notice them."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lvgan import config as cfg
from lvgan.data.dataset import ClipDataset
from lvgan.data.prepare import prepare
from lvgan.errors import DataError
from lvgan.generate.output import frame_array
from lvgan.generate.timeline import LrVideo
from lvgan.pixels import from_bytes
from lvgan.seeding import derive
from lvgan.sizes import Size
from lvgan.training.loop import train
from lvgan.training.lr import LrTask
from lvgan.training.metrics import color_frames, real_color_curve, sr_distance
from lvgan.training.runs import Run
from lvgan.training.trainer import Trainer
from tests.clips import decode, make_video
from tests.training.test_tasks import _task

LOW, HIGH = Size(8, 16), Size(16, 32)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for k, source in enumerate(("testsrc2", "mandelbrot")):
        make_video(folder / "raw" / f"{k}.mp4", size="64x32", frames=135, source=source)
    prepare(folder / "raw", folder / "out", lr=LOW, hr=HIGH)
    return folder / "out"


# --- low resolution -------------------------------------------------------------------------------


def _similarity(clip: np.ndarray) -> np.ndarray:
    """Spec 5-evaluation, by NumPy's own histogram: uint8 [T, H, W, 3] -> [T]."""
    histograms = []
    for frame in clip:
        values = frame.reshape(-1, 3) / 127.5 - 1
        cells = np.floor((values / 2 + 0.5) * 19 + 0.5)
        histograms.append(np.histogramdd(cells, bins=[np.arange(-0.5, 20)] * 3)[0] / len(values))
    return np.array([np.minimum(histograms[0], h).sum() for h in histograms])


def test_color_area(shards: Path, tmp_path: Path) -> None:
    task = _task("lr", shards, metric_clips=2)
    assert isinstance(task, LrTask)
    before = torch.get_rng_state()
    values = task.measure(task.generator.eval(), tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    stored = json.loads((tmp_path / "real-color.json").read_text())
    assert (stored["frames"], stored["clips"]) == (128, 8)
    assert stored["data"].startswith(task._dataset.fingerprint)
    made = []
    for index in range(2):
        clip = LrVideo(task.generator, derive(0, "metric", index), segment=8).clip(0, 128)
        made.append(_similarity(np.stack([frame_array(frame) for frame in clip.unbind(1)])))
    expected = np.abs(np.mean(made, axis=0) - np.array(stored["mean"]))[1:].mean()
    assert values == {"metric/color_area": pytest.approx(expected, abs=1e-12)}
    assert task.measure(task.generator, tmp_path) == values  # the second time from what was stored


def test_the_datas_curve_is_that_of_all_clips_where_they_are_few(shards: Path, tmp_path: Path) -> None:
    dataset = ClipDataset(shards, LOW, HIGH)
    curve = real_color_curve(dataset, 128, 100, tmp_path / "real.json")
    curves = [_similarity(dataset.read(clip.name, start, 128))
              for clip in dataset.clips for start in range(clip.frames - 127)]  # fmt: skip
    assert len(curves) == 16
    np.testing.assert_allclose(curve, np.mean(curves, axis=0), atol=1e-12)


def test_the_datas_curve_is_measured_once(shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "set")
    dataset = ClipDataset(tmp_path / "set", LOW, HIGH)
    cache = tmp_path / "real.json"
    first = real_color_curve(dataset, 128, 4, cache)
    shutil.rmtree(tmp_path / "set")
    assert np.array_equal(real_color_curve(dataset, 128, 4, cache), first)
    for broken in ("", "{", "[1]", cache.read_text().replace('"mean": [1.0,', '"mean": [')):
        cache.write_text(broken)
        with pytest.raises(DataError):  # measured again, of data that are gone
            real_color_curve(dataset, 128, 4, cache)
    with pytest.raises(DataError):
        real_color_curve(dataset, 128, 5, cache)


def test_frames_of_a_measured_clip(shards: Path) -> None:
    dataset = ClipDataset(shards, LOW, HIGH)
    assert color_frames(dataset, 8) == 128
    dataset.clips = [clip._replace(frames=127) for clip in dataset.clips]
    assert color_frames(dataset, 8) == 8


def test_a_generator_of_nan_has_no_metric(shards: Path, tmp_path: Path) -> None:
    task = _task("lr", shards, metric_clips=1)
    with torch.no_grad():
        for parameter in task.generator.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(DataError, match="NaN"):
        task.measure(task.generator.eval(), tmp_path)


# --- super-resolution -----------------------------------------------------------------------------


class _Made(nn.Module):
    """Gives prepared clips, whatever it is asked."""

    z_dim = 3

    def __init__(self, clips: Tensor) -> None:
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(1))
        self._clips = iter(clips)

    def forward(self, z: Tensor, low: Tensor) -> Tensor:
        assert z.shape == (1, 3)
        return next(self._clips)[None]


def _sr(change) -> dict[str, float]:
    generator = np.random.default_rng(0)
    high = torch.from_numpy(generator.integers(60, 190, (3, 3, 4, 12, 16), np.uint8))
    low = torch.zeros(3, 3, 4, 3, 4, dtype=torch.uint8)  # a factor of 4
    real = from_bytes(high)
    return sr_distance(_Made(change(real)), lambda count: (low[:count], high[:count]), 3)  # type: ignore[arg-type]


def _blocks(clips: Tensor, factor: int) -> Tensor:
    """Means of blocks, as large as before, by reshaping."""
    N, C, T, H, W = clips.shape
    means = clips.double().reshape(N, C, T, H // factor, factor, W // factor, factor).mean((4, 6), keepdim=True)
    return means.expand(N, C, T, H // factor, factor, W // factor, factor).reshape(clips.shape).float()


def test_the_truth_is_at_distance_0() -> None:
    assert _sr(lambda real: real) == {
        "metric/low_error": 0, "metric/detail": 1, "metric/sharpness": 1, "metric/flicker": 1, "metric/sr_distance": 0,
    }  # fmt: skip


def test_a_blank_picture() -> None:
    values = _sr(lambda real: _blocks(real, 4).mean((1, 2, 3, 4), keepdim=True).expand_as(real))
    assert values["metric/low_error"] == pytest.approx(1, abs=1e-3)
    assert values["metric/detail"] < 1e-3
    assert values["metric/sr_distance"] > 5


def test_twice_the_detail() -> None:
    values = _sr(lambda real: _blocks(real, 4) + 2 * (real - _blocks(real, 4)))
    assert values["metric/low_error"] == pytest.approx(0, abs=1e-5)
    for name in ("detail", "sharpness", "flicker"):
        assert values[f"metric/{name}"] == pytest.approx(2, rel=1e-4)
    assert values["metric/sr_distance"] == pytest.approx(1, rel=1e-4)


def test_blurred_and_still_detail() -> None:
    blurred = _sr(lambda real: _blocks(real, 2))
    assert blurred["metric/sharpness"] < 1e-3
    # Of white noise, 15/16 of the variance is within blocks of 4x4, and 1/4 - 1/16 is left after means of 2x2.
    assert blurred["metric/detail"] == pytest.approx(math.sqrt((1 / 4 - 1 / 16) / (15 / 16)), rel=0.05)
    still = _sr(lambda real: _blocks(real, 4) + (real - _blocks(real, 4))[:, :, :1])
    assert still["metric/flicker"] < 1e-3
    assert still["metric/detail"] == pytest.approx(1, abs=0.05)


def test_one_frame_and_sides_that_two_does_not_divide() -> None:
    high = torch.randint(0, 255, (2, 3, 1, 9, 15), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    low = torch.zeros(2, 3, 1, 3, 5, dtype=torch.uint8)
    values = sr_distance(_Made(from_bytes(high)), lambda count: (low, high), 2)  # type: ignore[arg-type]
    assert values["metric/sr_distance"] == 0


# --- in training ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["lr", "sr"])
def test_training_does_not_notice_previews_and_metrics(stage: str, shards: Path, tmp_path: Path) -> None:
    weights, states = [], []
    for name, training in (("with", {"sample_every": 1}), ("without", {"sample_every": 100, "metric_clips": 0})):
        torch.manual_seed(5)
        task = _task(stage, shards, **{"steps": 3, "metric_clips": 2, **training})
        run = Run(tmp_path / name)
        train(task, run, progress=False)
        states.append(torch.get_rng_state())
        weights.append(torch.load(run.newest_checkpoint(), weights_only=True))
        task.close()
    for part in ("generator", "generator_ema", "discriminator"):
        assert all(torch.equal(weights[0][part][k], weights[1][part][k]) for k in weights[0][part])
    assert torch.equal(*states)
    samples = sorted(path.name for path in (tmp_path / "with" / "samples").iterdir())
    kinds = ("-long.mp4", ".mp4", ".png")
    assert samples == sorted(f"step-{step:06d}{kind}" for step in (1, 2, 3) for kind in kinds)
    assert (tmp_path / "with" / "checkpoints" / "best.pt").exists()
    assert not (tmp_path / "without" / "checkpoints" / "best.pt").exists()


def _luma_error(a: np.ndarray, b: np.ndarray) -> float:
    """Mean difference in brightness, of 255: video stores colour at half the resolution."""
    return float(np.abs((a.astype(float) - b) @ [0.299, 0.587, 0.114]).mean())


def test_the_long_clips(shards: Path, tmp_path: Path) -> None:
    lr, sr = _task("lr", shards), _task("sr", shards)
    for task, name in ((lr, "lr"), (sr, "sr")):
        (tmp_path / name).mkdir()
        task.preview(task.generator.eval(), tmp_path / name, 7)
    low = decode(tmp_path / "lr" / "step-000007-long.mp4", 8, 16)
    assert len(low) == 8 * 8
    made = LrVideo(lr.generator, 0, segment=8).clip(0, 64)  # type: ignore[arg-type]
    expected = np.stack([frame_array(frame) for frame in made.unbind(1)])
    assert _luma_error(low, expected) < 6
    high = decode(tmp_path / "sr" / "step-000007-long.mp4", 16, 96)
    assert len(high) == 8 * 2
    truth = np.stack([sr._dataset.read(sr._dataset.clips[0].name, t, 1, "hr")[0] for t in range(16)])
    assert _luma_error(high[:, :, 64:], truth) < 6
    assert _luma_error(high[:, :, 64:], truth[::-1]) > _luma_error(high[:, :, 64:], truth)


@pytest.mark.parametrize("frames", [8, 16, 32, 64, 128])
def test_every_clip_length_of_the_ablation_trains(frames: int, shards: Path) -> None:
    values = cfg.load_preset("tiny", "lr")
    over = {"data": {"path": str(shards), "lr": LOW, "hr": HIGH, "frames": frames}, "training": {"batch": 2}}
    config = cfg.build("lr", cfg.merge(values, over))
    assert isinstance(config, cfg.LrConfig)
    task = LrTask(config, ClipDataset(shards, LOW, HIGH, min_frames=frames), torch.device("cpu"))
    trainer = Trainer(task)
    before = [p.detach().clone() for p in task.generator.parameters()]
    logged = trainer.run_step()  # its first step has R1 too
    assert all(math.isfinite(v) for v in logged.values())
    assert logged["loss/r1"] > 0
    assert all(not torch.equal(a, b) for a, b in zip(before, task.generator.parameters(), strict=True))
    task.close()


@pytest.mark.parametrize("footprint", [100, 500, 1000, 2500, 5000])
def test_every_footprint_of_the_ablation_is_legal(footprint: int) -> None:
    values = cfg.merge(cfg.load_preset("paper", "lr"), {"model": {"generator": {"footprint_max": footprint}}})
    config = cfg.build("lr", values)
    assert isinstance(config, cfg.LrConfig)
    assert config.model.generator.footprint_max == footprint
