"""``lvgan eval fvd | fid | all | detectors`` as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lvgan.cli import app, commands  # noqa: F401
from lvgan.errors import LvganError
from lvgan.evaluation.protocol import read_scores
from tests.evaluation import standins


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LVGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LVGAN_OPS", "reference")  # nothing is in that cache, and building takes long
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("real", "fake")):
        np.save(tmp_path / f"{name}.npy", standins.videos(i, 12, 20, shift=10 * i))
    standins.save(standins.Clips(), tmp_path / "clips.pt")
    standins.save(standins.Frames(), tmp_path / "frames.pt")
    return tmp_path


def run(arguments: str) -> tuple[str, str]:
    done = CliRunner().invoke(app, ["eval", *arguments.split()], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


def refused(arguments: str) -> str:
    with pytest.raises(LvganError) as caught:
        run(arguments)
    return str(caught.value)


def test_fvd(place: Path) -> None:
    options = "--detector clips.pt --clips 20 --kernel rbf"
    out, _ = run(f"fvd footage=real.npy model=fake.npy {options} --frames 4,6 --seeds 0,1 -o one")
    scores = read_scores("one/fvd.json")
    assert [s.metric for s in scores] == ["fvd_4", "kvd_4", "fvd_6", "kvd_6"]
    assert scores[0].label == "model"
    assert scores[0].std is not None
    assert f"model: fvd_4 {scores[0].value:.5g} ± {scores[0].std:.3g}" in out
    assert scores[0].protocol["sources"]["real"]["label"] == "footage"
    run(f"fvd footage=real.npy other=fake.npy {options} --frames 4,6 --seeds 0,1 --batch 5 --refresh -o two")
    for one, two in zip(scores, read_scores("two/fvd.json"), strict=True):
        assert one.value == pytest.approx(two.value, rel=1e-12)
    out, _ = run("compare one/fvd.json two/fvd.json")
    assert "fvd_6" in out
    run(f"fvd real.npy fake.npy {options} --frames 4 --seeds 3 -o three")
    assert "seeds" in refused("compare one/fvd.json three/fvd.json")


def test_processes_open_what_was_named(place: Path) -> None:
    """At the size that all are brought to, which is not their own."""
    np.save(place / "big.npy", standins.videos(3, 8, 12, 16, 24))
    options = "--detector clips.pt --clips 9 --frames 4 --refresh"
    run(f"fvd real.npy a=big.npy {options} --workers 2 -o two")
    run(f"fvd real.npy a=big.npy {options} --workers 1 -o one")
    (one,), (two,) = read_scores("one/fvd.json"), read_scores("two/fvd.json")
    assert one.value == two.value
    assert one.protocol["size"] == "8x12"


def test_all_says_what_it_left_out(place: Path) -> None:
    np.save(place / "long.npy", standins.videos(3, 3, 130))
    out, err = run("all real=long.npy fake=long.npy --fid-detector frames.pt --clips 9 --frames 4 -o out")
    assert "left out fvd: the detector i3d is not on this machine" in err
    assert "fake: fid " in out
    assert sorted(p.name for p in Path("out").glob("*.json")) == ["color-sim.json", "fid.json"]
    (score,) = read_scores("out/color-sim.json")
    assert score.protocol["sources"]["real"]["label"] == "real"
    out, err = run("all real.npy fake.npy --fid-detector frames.pt --clips 9 --frames 4 -o short")
    assert "left out color-sim" in err
    assert "clips of 128 frames were asked for" in err
    assert [p.name for p in Path("short").iterdir()] == ["fid.json"]


def test_mistakes_are_sentences(place: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lvgan", "eval", "fvd", "real.npy", "fake.npy"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("lvgan: error: the detector i3d is not on this machine: i3d_torchscript.pt")
    assert done.stderr.count("\n") == 1
    assert not Path("eval").exists()
    assert "one of i3d, inception was expected" in refused("detectors --fetch vgg")
    assert "two or more were expected" in refused("fvd real.npy --detector clips.pt")
    assert "--seeds 1,1 was given" in refused("fvd real.npy fake.npy --detector clips.pt --seeds 1,1")
    assert "--clips 1 was given" in refused("fid real.npy fake.npy --detector frames.pt --clips 1")
    assert "polynomial or rbf" in refused("fid real.npy fake.npy --detector frames.pt --kernel cubic")
    np.save(place / "one.npy", standins.videos(0, 1, 4))
    assert "2 or more were expected" in refused("fvd one.npy fake.npy --detector clips.pt --frames 4 -o nothing")
    assert not Path("nothing").exists()
    assert "is a file" in refused("fvd real.npy fake.npy --detector clips.pt -o clips.pt")


def test_detectors_are_listed(place: Path) -> None:
    out, _ = run("detectors")
    assert out.startswith("Link and licence are from memory and were not checked, and no SHA-256 is known")
    assert "i3d:" in out
    assert "licence: " in out
    assert "missing; get it with `lvgan eval detectors --fetch inception`" in out
    assert not (place / "cache").exists()
