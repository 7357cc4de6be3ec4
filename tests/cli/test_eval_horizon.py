"""``lvgan eval horizon`` and ``lvgan eval report`` as commands."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from lvgan import config as cfg
from lvgan.cli import app, commands  # noqa: F401
from lvgan.data.info import VideoInfo
from lvgan.data.video import probe
from lvgan.errors import ConfigError, DataError
from lvgan.evaluation.protocol import Score, read_scores, record, write_scores
from lvgan.evaluation.sources import FunctionSource
from lvgan.training.runs import Run
from tests import checkpoints
from tests.evaluation.footage import loop, scene


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lvgan(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["eval", *arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def make_run(name: str = "lr-0001") -> Run:
    run = Run(Path("runs") / name)
    run.create(cfg.build("lr", cfg.merge(cfg.load_preset("tiny", "lr"), checkpoints.SIZES)))
    low, _ = checkpoints.make(Path())
    low.rename(run.checkpoint_folder / "lr-step-000020.pt")
    lines = [{"step": k, "loss/generator": 1 / k, "time/seconds_per_step": 0.5, "odd/one": 3} for k in (10, 20)]
    (run.folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_a_loop_and_a_network_are_measured(tmp_path: Path) -> None:
    low, _ = checkpoints.make(tmp_path)
    np.save("loop.npy", np.stack([loop(scene(64, k), 64, 200) for k in range(2)]))
    options = ["--frames", "200", "--dense", "200", "--videos", "2", "--starts", "1", "-o", "out", "--device", "cpu"]
    said = lvgan("horizon", "looping=loop.npy", f"net={low}", *options)
    assert "looping: " in said
    assert "2 of 2 videos repeat themselves; the worst repeats every 64 frames (2.1 s) (100.0% of moments)" in said
    assert "net: similarity" in said
    names = {f"horizon{part}.png" for part in ("", "-drift", "-repetition", "-motion")}
    assert {path.name for path in Path("out").iterdir()} == names | {"horizon.csv", "horizon.json"}
    scores = read_scores(Path("out/horizon.json"))
    found = {(score.label, score.metric): score for score in scores}
    assert found["looping", "self-repetition"].value == 1
    assert ("net", "motion-gap") in found
    assert ("looping", "motion-gap") not in found  # it is what the other is compared with
    protocol = found["net", "drift-gap"].protocol
    assert protocol["frames"] == 200
    assert protocol["sources"]["real"]["label"] == "looping"
    lvgan("horizon", "looping=loop.npy", f"net={low}", *options)
    assert read_scores(Path("out/horizon.json")) == scores  # the same again


@pytest.mark.slow
def test_the_number_of_processes_changes_no_figure(tmp_path: Path) -> None:
    low, high = checkpoints.make(tmp_path)
    np.save("film.npy", np.stack([scene(100, k) for k in range(2)]))
    options = ["--frames", "100", "--dense", "90", "--videos", "3", "--starts", "1", "--device", "cpu"]
    for workers in ("1", "2"):
        lvgan("horizon", "a+b=film.npy", f"net={low}+{high}", *options, "-o", workers, "--gpus", workers)
    assert Path("1/horizon.json").read_bytes() == Path("2/horizon.json").read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--min-lag", "3"], "--min-lag 3"),
        (["--frames", "50"], "--frames 50 was given, but 80 to"),
        (["--dense", "100000"], "--dense 100000"),
        (["--videos", "0"], "--videos 0"),
        (["--gpus", "0"], "--workers 0"),
        (["-o", "a.npy"], "is a file"),
    ],
)
def test_impossible_options_of_horizon(options: list[str], words: str) -> None:
    np.save("a.npy", scene(100))
    with pytest.raises(ConfigError, match=re.escape(words)):
        lvgan("horizon", "a.npy", *options)


def test_horizon_of_too_short_a_video() -> None:
    np.save("a.npy", scene(79))
    with pytest.raises(DataError, match="the longest of 79 frames, but at least 80 were expected"):
        lvgan("horizon", "a.npy")
    assert not Path("eval").exists()


def embedded(text: str, kind: str) -> list[bytes]:
    return [base64.b64decode(found) for found in re.findall(rf'src="data:{kind};base64,([^"]*)"', text)]


def test_a_report_of_a_run(tmp_path: Path) -> None:
    run = make_run()
    np.save("a.npy", np.stack([scene(100, k) for k in range(2)]))
    checkpoint = str(run.checkpoint_folder / "lr-step-000020.pt")
    lvgan("horizon", "footage=a.npy", checkpoint, "--frames", "100", "--dense", "100", "--videos", "1",
          "-o", "runs/lr-0001/eval", "--device", "cpu")  # fmt: skip
    (run.folder / "eval" / "notes.json").write_text("{}")
    Path("eval").mkdir()
    for name, place in (("mine", checkpoint), ("another", "runs/lr-0002/checkpoints/lr-step-000020.pt")):
        made = FunctionSource(name, lambda index, frames, seed: scene(frames), {"checkpoint": place})
        score = Score("fvd_16", 3, protocol=record("fvd_16", sources={"model": made}, clips=9, frames=16))
        write_scores(f"eval/{name}.json", [score])
    Path("eval/broken.json").write_text("{")
    said = lvgan("report", "runs/lr-0001", "-o", "r <1>.html", "--clips", "2", "--frames", "12", "--horizon", "300",
                 "--device", "cpu")  # fmt: skip
    assert "wrote r <1>.html" in said
    text = Path("r <1>.html").read_text("utf-8")
    assert "Drift: distance to footage" in text
    assert text.count("FVD of 16 frames") == 1  # of this run
    assert ">mine<" in text
    assert "broken" not in said
    assert "noise_channels" in text  # the configuration
    films = embedded(text, "video/mp4")
    assert len(films) == 2
    Path("film.mp4").write_bytes(films[0])
    info = probe("film.mp4")
    assert isinstance(info, VideoInfo)
    assert (info.width, info.height, info.codec) == (256, 256, "h264")
    assert info.duration == pytest.approx(12 / 30, abs=0.05)
    pictures = embedded(text, "image/png")
    assert len(pictures) == 3 + 12 + 3  # plots, film strip, curves
    for data in pictures:
        Path("p.png").write_bytes(data)
        with Image.open("p.png") as picture:
            picture.load()
    assert len(text) < 10_000_000
    assert not (run.folder / "report.html").exists()


def test_a_report_of_a_run_that_has_only_begun() -> None:
    run = Run(Path("runs/sr-0001"))
    run.create(cfg.build("sr", cfg.merge(cfg.load_preset("tiny", "sr"), checkpoints.SIZES)))
    assert "wrote runs/sr-0001/report.html" in lvgan("report", "runs/sr-0001")
    text = Path("runs/sr-0001/report.html").read_text("utf-8")
    assert "No scores yet" in text
    assert "no checkpoint yet" in text
    assert "log.jsonl" in text


def test_a_report_of_super_resolution_whose_footage_is_gone(tmp_path: Path) -> None:
    run = Run(Path("runs/sr-0001"))
    run.create(cfg.build("sr", cfg.merge(cfg.load_preset("tiny", "sr"), checkpoints.SIZES)))
    _, high = checkpoints.make(tmp_path)
    high.rename(run.checkpoint_folder / "sr-step-000020.pt")
    lvgan("report", "runs/sr-0001", "--device", "cpu")
    assert "No clips: " in Path("runs/sr-0001/report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (["runs/none"], DataError, "name a run folder"),
        (["runs/lr-0001", "--clips", "-1"], ConfigError, "--clips -1"),
        (["runs/lr-0001", "-o", "runs"], ConfigError, "is a folder"),
        (["runs/lr-0001", "--scores", "no.json"], DataError, "no.json"),
    ],
)
def test_impossible_reports(arguments: list[str], kind: type[Exception], words: str) -> None:
    make_run()
    with pytest.raises(kind, match=re.escape(words)):
        lvgan("report", *arguments)
    assert not Path("runs/lr-0001/report.html").exists()
