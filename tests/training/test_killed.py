"""A run that is killed at every kind of point ends, bit for bit, as an undisturbed one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lvgan.data.footage import write_footage
from lvgan.data.prepare import prepare
from lvgan.training.logging import read_log
from tests.training.killed import HIGH, LOW, SETTINGS


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_footage(folder / "raw", videos=2, seconds=1, size=HIGH, progress=False, workers=1)
    prepare(folder / "raw", folder / "out", lr=LOW, hr=HIGH)
    return folder / "out"


def _same(one: Any, two: Any, where: str = "") -> None:
    """Equal in every tensor and value, but for times."""
    assert type(one) is type(two), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two), where
    elif isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            if not str(key).startswith("time/"):
                _same(one[key], two[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two), where
        for i, (a, b) in enumerate(zip(one, two, strict=True)):
            _same(a, b, f"{where}/{i}")
    else:
        assert one == two, where


@pytest.mark.parametrize(
    ("stage", "points"), [("lr", "all"), ("sr", "computing"), pytest.param("sr", "all", marks=pytest.mark.slow)]
)
def test_killed_at_every_point(stage: str, points: str, shards: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.training.killed", stage, str(shards), str(tmp_path), points]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    a, b = tmp_path / "a", tmp_path / "b"
    name = f"{stage}-step-{SETTINGS['steps']:06d}.pt"
    one, two = (torch.load(run / "checkpoints" / name, weights_only=True) for run in (a, b))
    assert {"generator", "generator_ema", "discriminator", "optimizers", "ada", "loop"} <= one.keys()
    assert one["optimizers"][0]["state"]
    assert any(key.endswith("mean_square") and value != 1 for key, value in one["generator"].items())
    if stage == "sr":
        assert one["ada"]["count"] > 0
        assert one["generator"]["w_avg"].any()
    _same(one, two)
    # log_every does not divide checkpoint_every: the means' beginnings come from the checkpoints.
    logs = [[{k: v for k, v in line.items() if k[:5] != "time/"} for line in read_log(r / "log.jsonl")] for r in (a, b)]
    assert [line["step"] for line in logs[0]] == [2, 4, 6, 8, 9]
    assert logs[0] == logs[1]
    for run in (a, b):
        assert len((run / "samples" / "step-000008.png").read_bytes()) > 100
        assert {p.name for p in (run / "checkpoints").glob("*.pt")} == {name, "best.pt"}  # older ones were deleted
    best = [json.loads((run / "checkpoints" / "best.json").read_text()) for run in (a, b)]
    assert best[0] == best[1]
