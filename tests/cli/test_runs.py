"""``lvgan runs`` and ``lvgan plot`` as commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from lvgan import config as cfg
from lvgan.cli import app, commands  # noqa: F401
from lvgan.cli.runs import duration
from lvgan.errors import ConfigError, DataError
from lvgan.training.runs import Run


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lvgan(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None:
        raise result.exception
    return result.output


def _run(name: str) -> Run:
    run = Run(Path("runs") / name)
    run.create(cfg.build("sr", {"data": {"path": "/films/ride"}, "training": {"steps": 100}}))
    lines = [{"step": k, "loss/generator": 1.5, "loss/discriminator_real": 0.25, "loss/discriminator_fake": 0.5,
              "time/seconds_per_step": 0.5} for k in (10, 20)]  # fmt: skip
    lines.append({"step": 20, "metric/sr_distance": 0.75})
    (run.folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_the_table(tmp_path: Path) -> None:
    assert lvgan("runs") == "there are no runs in runs; `lvgan train-lr out/` starts one\n"
    run = _run("a b")
    (run.checkpoint_folder / "best.pt").touch()
    (run.checkpoint_folder / "best.json").write_text('{"step": 20, "metric/sr_distance": 0.75}')
    Path("runs/odd").mkdir()
    head, row, broken, following = lvgan("runs").splitlines()
    words = "RUN STAGE STATE STEP SPEED ETA LOSS G, D METRIC (BEST) LAST WROTE DATA"
    assert " ".join(head.split()) == words
    for column, text in {
        "RUN": "a b", "STAGE": "sr", "STATE": "running", "STEP": "20 of 100", "SPEED": "0.5 s/step", "ETA": "40 s",
        "LOSS": "1.500, 0.750", "METRIC": "sr_distance 0.7500 (0.7500 at 20)", "DATA": "ride",
    }.items():  # fmt: skip
        assert row[head.index(column) :].startswith(text), column
    assert broken == "odd is broken: it has no config.yaml"
    assert following == "next: lvgan plot 'runs/a b'"


def test_json(tmp_path: Path) -> None:
    _run("sr-0001")
    Path("runs/odd").mkdir()
    found = {run["name"]: run for run in json.loads(lvgan("runs", "--json", "--root", str(tmp_path / "runs")))}
    assert (found["sr-0001"]["step"], found["sr-0001"]["seconds_left"]) == (20, 40.0)
    assert found["odd"]["state"] == "broken"
    assert json.loads(lvgan("runs", "--json", "--root", "nowhere")) == []


def test_plot() -> None:
    with pytest.raises(DataError, match="no run with a log"):
        lvgan("plot")
    _run("sr-0001")
    _run("sr-0002")
    assert lvgan("plot", "sr-0001") == "wrote runs/sr-0001/curves.png\n"
    assert lvgan("plot", "runs/sr-0001", "sr-0002") == "wrote curves.png\n"
    assert "runs/sr-000" in lvgan("plot")
    lvgan("plot", "sr-0001", "-o", "deep/er.png")
    for path in ("runs/sr-0001/curves.png", "curves.png", "deep/er.png"):
        with Image.open(path) as picture:
            assert (picture.format, min(picture.size) > 400) == ("PNG", True)
    Path("folder.png").mkdir()
    for name in ("x.pdf", "folder.png"):
        with pytest.raises(ConfigError, match=name):
            lvgan("plot", "sr-0001", "-o", name)
    with pytest.raises(DataError, match="sr-0003"):
        lvgan("plot", "sr-0003")


def test_durations() -> None:
    expected = {0: "0 s", 59.4: "59 s", 59.6: "1 min", 3599: "1 h 00 min", 7500: "2 h 05 min",
                48 * 3600: "2 d 0 h", 100 * 3600: "4 d 4 h"}  # fmt: skip
    assert {seconds: duration(seconds) for seconds in expected} == expected
