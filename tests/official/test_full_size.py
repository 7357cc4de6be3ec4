"""Full-size files in bounded memory (seconds are measured, not tested: see full_size.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lvgan import checkpoint as ckpt


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["lr", "sr"])
def test_memory_of_a_full_size_import(golden: Any, tmp_path: Path, stage: str) -> None:
    golden.path("sres_schedule.json")  # or skip
    path = tmp_path / "full.pkl"
    for arguments in (["write", stage, str(path)], ["measure", str(path)]):
        command = [sys.executable, "-m", "tests.official.full_size", *arguments]
        done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
    took = json.loads(done.stdout)
    assert took["bytes"] > 100e6
    assert took["memory"] < 1.5  # of the file's size, above what the libraries take
    checkpoint = ckpt.load(tmp_path / "full.pt", stage)
    values = sum(tensor.numel() for tensor in checkpoint["generator_ema"].values())
    assert 0 < took["bytes"] - 4 * values < 4e6  # filters and framing
