"""A network plays at the rate of the footage that it learnt from."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import lvgan
from lvgan.cli import app, commands  # noqa: F401
from lvgan.data.video import probe
from tests.clips import make_video

TINY = ("--preset", "tiny", "--batch", "1", "--set", "data.frames=8", "--set", "training.metric_clips=0")


def run(*arguments: object) -> None:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.exception


@pytest.mark.parametrize(("stride", "rate"), [(1, 12), (3, 4)])
def test_from_footage_to_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stride: int, rate: int) -> None:
    monkeypatch.chdir(tmp_path)
    make_video(Path("raw/a.mp4"), size="64x32", frames=100)
    run("prepare", "raw", "out", "--lr", "8x16", "--hr", "16x32", "--fps", 12)
    run("train-lr", "out", *TINY, "--set", f"data.stride={stride}", "--steps", 1)
    assert yaml.safe_load(Path("runs/lr-0001/config.yaml").read_text("utf-8"))["data"]["fps"] == 12
    previews = list(Path("runs/lr-0001/samples").glob("*.mp4"))
    assert previews
    run("sample", "runs/lr-0001", "-n", 8, "-o", "v.mp4")
    lvgan.load("runs").save("w.mp4", 8)
    for path in (*previews, Path("v.mp4"), Path("w.mp4")):
        assert probe(path).fps == rate
    run("sample", "runs/lr-0001", "-n", 8, "-o", "x.mp4", "--fps", 25)
    assert probe(Path("x.mp4")).fps == 25


def test_shards_without_a_manifest_play_at_30(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_video(Path("raw/a.mp4"), size="64x32", frames=100)
    run("prepare", "raw", "out", "--lr", "8x16", "--hr", "16x32", "--fps", 12)
    Path("out/manifest.json").unlink()
    run("train-lr", "out", *TINY, "--steps", 0)
    run("sample", "runs/lr-0001", "-n", 8, "-o", "v.mp4")
    assert probe(Path("v.mp4")).fps == 30


def test_evaluation_keeps_to_the_rate_of_the_footage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A video of 30 frames a second beside footage of 10: every third of its frames."""
    monkeypatch.chdir(tmp_path)
    make_video(Path("raw/a.mp4"), size="32x32", frames=120)
    run("prepare", "raw", "out", "--lr", "16x16", "--hr", "32x32", "--fps", 10)
    run("eval", "color-sim", "out", "video=raw/a.mp4", "--frames", 40, "--size", "32x32", "-o", "eval")
    rows = list(csv.DictReader(Path("eval/color-sim.csv").read_text("utf-8").splitlines()))
    means = {label: [float(row["mean"]) for row in rows if row["label"] == label] for label in ("out", "video")}
    assert len(means["out"]) == len(means["video"]) == 40
    assert means["video"] == pytest.approx(means["out"], abs=0.05)  # JPEG moves some colours to the next bin
    assert [float(row["seconds"]) for row in rows[:3]] == pytest.approx([0, 0.1, 0.2])
    curves = json.loads(Path("eval/color-sim.json").read_text("utf-8"))["curves"]
    assert [curve["protocol"]["source"]["fps"] for curve in curves] == [10, 10]
