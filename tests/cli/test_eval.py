"""`lvgan eval color-sim` and `compare` as commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lvgan.cli import bench_eval
from tests.cli.program import lvgan, refused


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Three systems' videos as arrays; c is larger."""
    rng = np.random.default_rng(0)
    for name, side in (("a", 8), ("b", 8), ("c", 12)):
        np.save(tmp_path / f"{name}.npy", rng.integers(0, 256, (3, 9, side, side, 3), dtype=np.uint8))
    return tmp_path


def measure(place: Path, *arguments: object) -> str:
    result = lvgan("eval", "color-sim", "--frames", "4", *arguments, cwd=place)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_scores_are_written_and_compared(place: Path) -> None:
    said = measure(place, "real=a.npy", "b.npy", "c.npy", "--clips", "5", "-o", "one", "--workers", "2")
    assert "all brought to 8x8" in said
    measure(place, "a.npy", "x=b.npy", "--clips", "5", "-o", "two")
    measure(place, "a.npy", "x=b.npy", "--clips", "4", "-o", "three")
    assert "only" not in said
    result = lvgan("eval", "compare", "one/color-sim.json", "two/color-sim.json", cwd=place)
    assert result.returncode == 0, result.stderr
    table = result.stdout.splitlines()
    assert [line.split()[0] for line in table[2:5]] == ["b", "c", "x"]
    values = [line.split()[1] for line in table[2:5]]
    assert values[0] == values[2] != values[1]
    record = json.loads((place / "one" / "color-sim.json").read_text())
    assert [curve["label"] for curve in record["curves"]] == ["real", "b", "c"]
    assert record["scores"][1]["protocol"]["sources"]["model"]["native_size"] == "12x12"
    message = refused("eval", "compare", "one/color-sim.json", "three/color-sim.json", cwd=place)
    assert "with clips 5 and that of x (three/color-sim.json) with 4" in message


def test_bad_input_is_a_sentence(place: Path) -> None:
    (place / "t.json").write_text("hello")
    (place / "empty").mkdir()
    assert "is not JSON" in refused("eval", "compare", "t.json", cwd=place)
    assert "2 operands are called 'x'" in refused("eval", "color-sim", "x=a.npy", "x=b.npy", cwd=place)
    assert "holds nothing" in refused("eval", "color-sim", "a.npy", "empty", cwd=place)
    assert "--workers 0" in refused("eval", "color-sim", "a.npy", "--workers", "0", cwd=place)
    assert not (place / "eval").exists()


def test_fewer_clips_than_asked_for_are_told(place: Path) -> None:
    said = measure(place, "a.npy", "--clips", "50")
    assert "a: 18 clips of 50 asked for" in said  # 3 videos, 6 starts each
    np.save(place / "one.npy", np.zeros((4, 8, 8, 3), np.uint8))
    said = measure(place, "a.npy", "one.npy", "--clips", "50")
    assert "one: 1 clip of 50 asked for" in said
    assert "(0.0000 to 1.0000)" in said


def test_bench_rows() -> None:
    shown: list[object] = []
    rows = bench_eval.run(2, shown.append, frames=3, side=16)
    assert shown == rows
    assert [row["name"] for row in rows] == [f"color similarity ({name})" for name in bench_eval.LOOPS]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["plain_seconds"] / row["seconds"])
        assert row["cpu_ratio"] > 0
