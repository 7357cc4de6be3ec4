"""Both networks in the loop, on a small set of shards: what a step touches, micro-batches, exact resuming."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch

from lvgan import config as cfg
from lvgan.data.dataset import ClipDataset
from lvgan.data.shards import ShardWriter, encode_jpeg, shard_name
from lvgan.errors import CheckpointError
from lvgan.training.logging import read_log
from lvgan.training.loop import train
from lvgan.training.lr import LrTask
from lvgan.training.runs import Run
from lvgan.training.scalars import SCALARS
from lvgan.training.sr import SrTask
from lvgan.training.task import Phase
from lvgan.training.trainer import Trainer
from tests.training.conftest import HIGH, LOW

SMALL = {
    "lr": {
        "data": {"frames": 8},
        "model": {
            "generator": {"filters": 4, "footprint_min": 8, "footprint_max": 40, "latent": 16, "input_channels": 8,
                          "blocks": ["8 t", "8 t s", "6 1x3x3 s"]},
            "discriminator": {"stem": 4, "widths": [6, 8], "head": 8},
        },
        "training": {"batch": 3},
    },
    "sr": {
        "data": {"frames": 2, "context": 1},
        "model": {
            "generator": {"z_dim": 8, "w_dim": 8, "layers": 6, "channel_base": 32, "channel_max": 8},
            "discriminator": {"channel_base": 64, "channel_max": 8},
        },
        "training": {"batch": 4, "condition_hide": 0.5, "ada_rate": 0.05},
    },
}  # fmt: skip


def _task(stage: str, shards: Path, **training: object) -> LrTask | SrTask:
    return small_task(stage, shards, None, **training)


def small_task(stage: str, shards: Path, clips: range | None, **training: object) -> LrTask | SrTask:
    """A task with small networks, for the part `clips` of the batch."""
    values = cfg.merge(SMALL[stage], {"data": {"path": str(shards), "lr": LOW, "hr": HIGH}, "training": training})
    config = cfg.build(stage, values)
    dataset = ClipDataset(shards, LOW, HIGH)
    device = torch.device("cpu")
    if isinstance(config, cfg.LrConfig):
        return LrTask(config, dataset, device, clips)
    return SrTask(config, dataset, device, clips)


def _weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    parts = {"g": trainer.task.generator, "d": trainer.task.discriminator, "ema": trainer.average}
    return {f"{k}.{name}": t.clone() for k, m in parts.items() for name, t in m.state_dict().items()}


@pytest.mark.parametrize("stage", ["lr", "sr"])
def test_a_step_trains_every_parameter(stage: str, shards: Path) -> None:
    trainer = Trainer(_task(stage, shards))
    before = _weights(trainer)
    for _ in range(3):  # R1 at steps 0 only; Adam moves whatever has a gradient
        values = trainer.run_step()
        assert all(torch.isfinite(torch.tensor(v)) for v in values.values())
    after = _weights(trainer)
    still = {k for k in before if torch.equal(before[k], after[k])}
    constant = {k for k in still if k.rpartition(".")[2] in ("taps", "filter", "up_taps", "down_taps")}
    assert not {k for k in still - constant if k in dict(_named(trainer))}
    # The running means of the features moved too (in the discriminator's phase).
    assert not {k for k in still if "magnitude" in k or k.endswith("w_avg")}


def _write_clips(folder: Path, low: int, high: int) -> Path:
    """Two grey clips of 20 frames."""
    for size, level in ((LOW, low), (HIGH, high)):
        place = folder / f"{size.height:04d}x{size.width:04d}"
        place.mkdir(parents=True)
        with ShardWriter(place / shard_name(0)) as shard:
            for clip in ("a", "b"):
                for _ in range(20):
                    shard.add(clip, encode_jpeg(np.full((size.height, size.width, 3), level, np.uint8)))
            shard.finish()
            shard.commit()
    return folder


@pytest.mark.parametrize(("stage", "low", "high", "same"), [
    ("lr", 90, 90, True), ("lr", 91, 90, False), ("lr", 90, 91, True), ("sr", 91, 90, False), ("sr", 90, 91, False),
])  # fmt: skip
def test_a_run_stays_with_its_frames(stage: str, low: int, high: int, same: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    stored = Trainer(_task(stage, _write_clips(tmp_path / "first", 90, 90))).checkpoint()
    other = Trainer(_task(stage, _write_clips(tmp_path / "other", low, high)))
    with contextlib.nullcontext() if same else pytest.raises(CheckpointError, match="other data"):
        other.restore(stored, path)
    for key in ("lr_content", "hr_content"):  # as version 0.1 wrote it
        stored["data"].pop(key, None)
    other.restore(stored, path)


def _named(trainer: Trainer) -> list[tuple[str, torch.Tensor]]:
    modules = {"g": trainer.task.generator, "d": trainer.task.discriminator, "ema": trainer.average}
    return [(f"{k}.{name}", p) for k, m in modules.items() for name, p in m.named_parameters()]


@pytest.mark.parametrize("stage", ["lr", "sr"])
def test_micro_batches_do_not_change_losses(stage: str, shards: Path) -> None:
    whole, parts = (Trainer(_task(stage, shards, micro_batch=m)) for m in (0, 1))
    first, second = whole.run_step(), parts.run_step()
    for key in first:
        if "time" not in key:
            assert second[key] == pytest.approx(first[key], rel=1e-5, abs=1e-6), key


@pytest.mark.parametrize("stage", ["lr", "sr"])
def test_resuming_is_bit_exact(stage: str, shards: Path, tmp_path: Path) -> None:
    runs = [Run(tmp_path / name) for name in "ab"]
    train(_task(stage, shards, steps=6), runs[0], progress=False)
    for steps in (1, 4, 6):
        train(_task(stage, shards, steps=steps), runs[1], progress=False)
    one, two = (torch.load(r.newest_checkpoint(), weights_only=True) for r in runs)
    assert one["step"] == two["step"] == 6
    assert one["ada"] == two["ada"]
    for part in ("generator", "generator_ema", "discriminator"):
        for name, tensor in one[part].items():
            assert torch.equal(tensor, two[part][name]), f"{part}.{name}"


def test_fakes_are_cut_off_the_time_grid(shards: Path) -> None:
    task = _task("lr", shards)
    assert isinstance(task, LrTask)
    real = task.real(0)
    starts = set()
    for step in range(12):
        phase = Phase(0, step, "x", range(3))
        (fake,) = task.fake(real, phase, update_ema=False)
        assert fake.shape == real[0].shape
        starts |= {int(torch.randint(task.generator.time_scale + 1, (), generator=_after_noise(g, task)))
                   for g in phase.generators()}  # fmt: skip
    assert starts == set(range(task.generator.time_scale + 1))


def _after_noise(generator: torch.Generator, task: LrTask) -> torch.Generator:
    frames = task.config.data.frames + task.generator.time_scale
    before, after = task.generator.noise_margin(frames)
    torch.randn((task.generator.noise_channels, before + frames + after), generator=generator)
    return generator


def test_the_discriminator_sees_low_resolution_as_often_as_set(shards: Path) -> None:
    for hide, expected in ((1.0, 0), (0.0, 4)):
        task = _task("sr", shards, condition_hide=hide)
        seen: list[torch.Tensor] = []
        task.discriminator.judge = lambda low, high, seen=seen: seen.append(low) or high.flatten(1)[:, :1]  # type: ignore
        task.judge(task.real(0), Phase(0, 0, "x", range(4)))
        shown = [bool(clip.any()) for clip in seen[0]]
        assert sum(shown) == expected


def test_both_halves_get_one_transform(shards: Path) -> None:
    # Where low and high resolution are the same picture, they still are after the augmentation.
    task = _task("sr", shards, condition_hide=0.0)
    assert isinstance(task, SrTask)
    task._controller.p = 1.0
    seen: list[torch.Tensor] = []
    task.discriminator.judge = lambda *halves: seen.extend(halves) or halves[0].flatten(1)[:, :1]  # type: ignore
    low = torch.rand(4, 3, 1, 1, 1).expand(4, 3, 4, *LOW).contiguous()
    high = low[:, :, 1:3, :1, :1].expand(4, 3, 2, *HIGH).contiguous()
    enlarged = task.discriminator.enlarge(low[:, :, 1:3])
    task.judge((low, high), Phase(0, 0, "x", range(4)))
    assert not torch.allclose(seen[1], high)
    middle = (..., slice(6, 10), slice(12, 20))  # away from the borders, where enlarging mixes with zeros
    torch.testing.assert_close(enlarged[middle], high[middle], atol=1e-5, rtol=0)
    # (the warp may bring borders into the middle: compare where both stayed inside)
    same = (seen[0] - seen[1]).abs().amax((1, 2))[:, 6:10, 12:20]
    assert (same < 1e-3).float().mean() > 0.5


OTHER = {"lr": "super-resolution", "sr": "low resolution"}


@pytest.mark.parametrize("stage", ["lr", "sr"])
def test_every_logged_number_is_documented(stage: str, shards: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train(_task(stage, shards, steps=2, log_every=1, metric_clips=2), run, progress=False)
    logged = {key for line in read_log(run.folder / "log.jsonl") for key in line} - {"step"}
    ours = {key for key, meaning in SCALARS.items() if f"({OTHER[stage]}" not in meaning}
    assert logged == ours
