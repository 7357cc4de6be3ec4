"""The main job, end to end: real clips through prepare, both trainings, sampling, upscaling and evaluation."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lvgan.data.video import probe
from lvgan.training.logging import read_log
from lvgan.training.runs import Run
from tests.cli.program import lvgan, refused
from tests.clips import decode

LR_STEPS, SR_STEPS = 20, 6


def done(*arguments: object, cwd: Path) -> str:
    result = lvgan(*arguments, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def project(real_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the whole pipeline ran on real clips, at sizes that a test can afford."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(real_clips, folder / "raw" / "some where")
    said = done("prepare", "raw", "out", "--lr", "16x16", "--hr", "32x32", cwd=folder)
    assert "3 of 3 videos used" in said
    assert "next: lvgan train-lr out" in said
    training = ["--preset", "tiny", "--batch", "2", "--set", "training.sample_every=10"]
    lr = ["train-lr", "out", *training, "--set", "training.checkpoint_every=5"]
    done(*lr, "--steps", "10", cwd=folder)
    said = done(*lr, "--steps", str(LR_STEPS), cwd=folder)
    assert "resuming runs/lr-0001 at step 10" in said
    assert "lvgan train-sr out" in said
    said = done("train-sr", "out", *training, "--steps", str(SR_STEPS), cwd=folder)
    assert "lvgan sample runs/lr-0001/checkpoints/lr-step-000020.pt --sr runs/sr-0001/checkpoints/" in said
    return folder


def test_training_leaves_what_it_promises(project: Path) -> None:
    for stage, steps in (("lr", LR_STEPS), ("sr", SR_STEPS)):
        run = Run(project / "runs" / f"{stage}-0001")
        lines = read_log(run.folder / "log.jsonl")
        assert lines[-1]["step"] == steps
        losses = [v for line in lines for k, v in line.items() if k.startswith("loss/")]
        assert losses
        assert np.isfinite(losses).all()
        checkpoint = torch.load(run.newest_checkpoint(), weights_only=True)
        assert checkpoint["step"] == steps
        assert checkpoint["config"]["data"]["lr"] == "16x16"
        for tensors in (checkpoint["generator"], checkpoint["generator_ema"], checkpoint["discriminator"]):
            assert all(torch.isfinite(t).all() for t in tensors.values())
        assert list(run.sample_folder.glob("*.png"))
        assert all(probe(path).fps == 30 for path in run.sample_folder.glob("*.mp4"))
        assert list((run.folder / "tensorboard").iterdir())
    assert [line["step"] for line in read_log(project / "runs/lr-0001/log.jsonl")] == [5, 10, 15, 20]


def test_a_complete_run_says_so(project: Path) -> None:
    said = done("train-lr", "out", cwd=project)
    assert "complete at step 20" in said
    assert [p.name for p in (project / "runs").iterdir() if p.name.startswith("lr")] == ["lr-0001"]


def _check_video(path: Path, frames: int, height: int, width: int) -> np.ndarray:
    info = probe(path)
    assert (info.height, info.width, info.fps) == (height, width, 30)
    assert info.duration == pytest.approx(frames / 30, abs=0.02)
    assert (info.codec, info.pix_fmt.partition("(")[0]) == ("h264", "yuv420p")
    pictures = decode(path, height, width)
    assert len(pictures) == frames
    assert all(picture.std() > 0.5 for picture in pictures)
    assert np.abs(np.diff(pictures.astype(float), axis=0)).mean() > 0
    return pictures


def test_sample_upscale_and_bundle(project: Path) -> None:
    low = done("sample", "runs/lr-0001", "-n", "70", "-o", "low.mp4", cwd=project)
    assert "70 frames of 16x16, 2.3 s" in low
    _check_video(project / "low.mp4", 70, 16, 16)
    done("sample", "runs/lr-0001", "--sr", "runs/sr-0001", "-n", "20", "-o", "high.mp4", cwd=project)
    _check_video(project / "high.mp4", 20, 32, 32)
    done("upscale", "low.mp4", "runs/sr-0001", "-o", "big.mp4", cwd=project)
    _check_video(project / "big.mp4", 70, 32, 32)
    done("bundle", "runs/lr-0001", "runs/sr-0001", "-o", "b.pt", cwd=project)
    done("sample", "b.pt", "-n", "20", "-o", "b.npy", cwd=project)
    done("sample", "runs/lr-0001", "--sr", "runs/sr-0001", "--start", "8", "-n", "12", "-o", "later.npy", cwd=project)
    whole, later = np.load(project / "b.npy"), np.load(project / "later.npy")
    assert (whole.shape, whole.dtype) == ((20, 32, 32, 3), np.uint8)
    assert np.array_equal(later, whole[8:])
    done("sample", "b.pt", "-n", "3", "-o", "frames", "--seed", "1", cwd=project)
    names = sorted(p.name for p in (project / "frames").iterdir() if not p.name.startswith("."))
    assert names == [f"frame_{t:06d}.png" for t in range(3)]
    done("sample", "runs/lr-0001", "-n", "5", "-o", "small.gif", cwd=project)
    assert (project / "small.gif").read_bytes()[:6] == b"GIF89a"


def test_evaluation(project: Path) -> None:
    said = done("eval", "color-sim", "--clips", "3", "--frames", "40", cwd=project)
    assert "runs/lr-0001" in said
    folder = project / "runs" / "lr-0001" / "eval"
    assert sorted(p.name for p in folder.iterdir()) == [f"color-sim.{s}" for s in ("csv", "json", "pdf", "png")]
    record = json.loads((folder / "color-sim.json").read_text())
    assert [(c["label"], c["clips"]) for c in record["curves"]] == [("footage", 3), ("lr-0001", 3)]
    for curve in record["curves"]:
        assert len(curve["mean"]) == 40
        assert curve["mean"][0] == 1
        assert all(0 <= s <= 1 for s in curve["mean"])
    with (folder / "color-sim.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 80
    operands = ["out", "runs/lr-0001", "runs/lr-0001+runs/sr-0001", "runs/sr-0001", "theirs=raw/some where", "low.mp4"]
    done("sample", "runs/lr-0001", "-n", "70", "-o", "low.mp4", cwd=project)
    done("eval", "color-sim", *operands, "--clips", "1", "--frames", "24", "-o", "e", cwd=project)
    record = json.loads((project / "e" / "color-sim.json").read_text())
    assert len(record["curves"]) == 6
    assert record["curves"][4]["label"] == "theirs"


def test_inspect(project: Path) -> None:
    said = done("inspect", "runs/sr-0001", cwd=project)
    assert "super-resolution checkpoint" in said
    assert "16x16 -> 32x32" in said


def test_mistakes_between_stages(project: Path) -> None:
    lr, sr = "runs/lr-0001", "runs/sr-0001"
    assert "low-resolution checkpoint, but a super-resolution" in refused(
        "sample", lr, "--sr", lr, "-o", "x.mp4", cwd=project
    )
    assert "super-resolution checkpoint, but a low-resolution" in refused("sample", sr, "-o", "x.mp4", cwd=project)
    assert "low-resolution checkpoint" in refused("upscale", "raw/some where/bikes.mp4", lr, "-o", "x.mp4", cwd=project)
    assert "training.batch = 2, now 3" in refused("train-lr", "out", "--run", "lr-0001", "--batch", "3", cwd=project)
    done("prepare", "raw", "other", "--lr", "8x8", "--hr", "32x32", cwd=project)
    message = refused("train-lr", "other", "--run", "lr-0001", "--steps", "30", cwd=project)
    assert "data.lr = 16x16, now 8x8" in message
    assert "holds no 64x64" in refused("train-lr", "out", "--lr", "64x64", cwd=project)
    assert not (project / "x.mp4").exists()
