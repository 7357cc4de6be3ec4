"""Training runs that take minutes: what is learnt, and that a killed run goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from lvgan.data.footage import write_footage
from lvgan.data.prepare import prepare
from lvgan.evaluation.color import color_histogram
from lvgan.evaluation.models import ModelSource
from lvgan.evaluation.sources import ShardSource
from lvgan.sizes import Size
from lvgan.training.logging import read_log

pytestmark = pytest.mark.slow
TINY = ["--preset", "tiny", "--run", "r", "--set", "training.sample_every=1000"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_footage(folder / "raw", videos=6, seconds=6, size=Size(64, 64), progress=False, workers=1)
    prepare(folder / "raw", folder / "out", lr=Size(16, 16), hr=Size(32, 32))
    return folder / "out"


def _train(stage: str, shards: Path, cwd: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "lvgan", f"train-{stage}", str(shards), *TINY, *arguments]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("stage", ["lr", "sr"])
def test_a_killed_run_ends_as_an_undisturbed_one(stage: str, shards: Path, tmp_path: Path) -> None:
    settings = ["--steps", "30", "--set", "training.checkpoint_every=4", "--set", "training.log_every=1"]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert _train(stage, shards, tmp_path / "a", *settings).wait(timeout=600) == 0
    rng = np.random.default_rng(0)
    kills = 0
    while True:
        process = _train(stage, shards, tmp_path / "b", *settings)
        try:
            assert process.wait(timeout=4 + 8 * rng.random()) == 0
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        assert kills < 60
    assert kills > 0
    one, two = (
        torch.load(tmp_path / n / "runs" / "r" / "checkpoints" / f"{stage}-step-000030.pt", weights_only=True)
        for n in "ab"
    )
    for part in ("generator", "generator_ema", "discriminator"):
        assert all(torch.equal(t, two[part][k]) for k, t in one[part].items())
    logs = [read_log(tmp_path / n / "runs/r/log.jsonl") for n in "ab"]
    first, second = ([{k: v for k, v in line.items() if not k.startswith("time/")} for line in log] for log in logs)
    assert first == second
    assert not list((tmp_path / "b").rglob("*.partial"))


def test_sigterm_leaves_a_checkpoint(shards: Path, tmp_path: Path) -> None:
    process = _train("lr", shards, tmp_path, "--steps", "100000", "--set", "training.checkpoint_every=100000")
    log = tmp_path / "runs" / "r" / "log.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert len(list((tmp_path / "runs" / "r" / "checkpoints").glob("lr-step-*.pt"))) == 1


def test_colours_of_the_footage_are_learnt(shards: Path, tmp_path: Path) -> None:
    """The mean colour histogram of what is generated comes closer to the footage's with training."""

    def histogram(source: object) -> np.ndarray:
        return np.mean([color_histogram(clip, bins=4).mean(0) for clip in source.clips(16, 32, 0)], 0)  # type: ignore[attr-defined]

    real = histogram(ShardSource(shards, "real", Size(16, 16)))
    distances = []
    for steps in ("0", "250"):
        assert _train("lr", shards, tmp_path, "--steps", steps).wait(timeout=1200) == 0
        model = ModelSource(tmp_path / "runs" / "r", None, torch.device("cpu"), "model")
        distances.append(np.abs(histogram(model) - real).sum())
    assert distances[1] < 0.7 * distances[0]
