"""What ``lvgan runs`` reads off folders, in any state that runs leave them in."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from lvgan import checkpoint as ckpt
from lvgan import config as cfg
from lvgan.training.overview import overview, overviews
from lvgan.training.runs import Run

LINES = [
    {"step": 10, "loss/generator": 0.5, "loss/r1": 0.1, "time/seconds_per_step": 2.0},
    {"step": 10, "metric/color_area": 0.25, "time/preview": 9.0},
    {"step": 20, "loss/generator": 0.75, "time/seconds_per_step": 4.0},
]


def _make(root: Path, name: str, lines: list[dict[str, Any]], saved: int = 0, age: float = 3600.0) -> Run:
    run = Run(root / name)
    run.create(cfg.build("lr", {"data": {"path": "/some/where"}, "training": {"steps": 100}}))
    (run.folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if saved:
        contents = ckpt.new_checkpoint("lr", step=saved, filler=list(range(1000)))
        ckpt.save(run.checkpoint_folder / f"lr-step-{saved:06d}.pt", contents)
    then = time.time() - age
    for path in (run.folder / "log.jsonl", run.config_file, run.checkpoint_folder):
        os.utime(path, (then, then))
    return run


def test_a_stopped_run(tmp_path: Path) -> None:
    run = _make(tmp_path, "lr-0001", LINES, saved=10)
    (run.checkpoint_folder / "best.pt").touch()
    (run.checkpoint_folder / "best.json").write_text('{"step": 10, "metric/color_area": 0.25}')
    os.utime(run.checkpoint_folder, (0, 0))
    found = overview(run)
    assert (found.state, found.stage, found.data) == ("stopped", "lr", "/some/where")
    assert (found.step, found.steps) == (20, 100)
    assert found.seconds_per_step == pytest.approx(3.0)
    assert found.seconds_left == pytest.approx(80 * 3.0)
    assert found.losses == {"loss/generator": 0.75, "loss/r1": 0.1}
    assert found.metrics == {"metric/color_area": 0.25}
    assert found.best == (10, 0.25)
    assert found.age == pytest.approx(3600, abs=60)


def test_finished_and_failed(tmp_path: Path) -> None:
    assert overview(_make(tmp_path, "a", [*LINES, {"step": 100}], saved=100, age=0)).state == "finished"
    failure = {"event": "non-finite loss", "culprit": "loss/r1"}
    for name, lines, problem in (
        ("diverged", [failure] * 3, "non-finite loss at step 32: loss/r1"),
        ("nan", [{"loss/generator": "nan"}], "loss/generator is nan at step 30"),
        ("full", [{"event": "checkpoint not written", "culprit": "no space"}], "checkpoint not written at step 30: no space"),  # noqa: E501
        ("one skipped step", [failure], None),
        ("rolled back", [{"event": "rolled back", "culprit": "loss/r1"}], None),
        ("warned", [{"event": "saturated discriminator", "culprit": "logits"}] * 5, None),
    ):  # fmt: skip
        found = overview(_make(tmp_path, name, [*LINES, *({"step": 30 + k, **line} for k, line in enumerate(lines))]))
        assert (found.state, found.problem) == ("failed" if problem else "stopped", problem)


def test_running_is_a_young_log_where_there_is_no_lock(tmp_path: Path) -> None:
    assert overview(_make(tmp_path, "young", LINES, age=5)).state == "running"
    assert overview(_make(tmp_path, "fresh", [], age=5)).step == 0
    # 3 s a step, a line every 10 steps: after 80 s nothing is wrong yet, after 200 s it is.
    assert overview(_make(tmp_path, "slow", LINES, age=80)).state == "running"
    assert overview(_make(tmp_path, "late", LINES, age=200)).state == "stopped"


def test_running_is_who_holds_the_lock(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    run = _make(tmp_path, "run", LINES, age=5)
    lock = run.folder / ".lock"
    lock.write_text("")
    assert overview(run).state == "stopped"  # its holder left it
    lock.write_text("process 1 on somewhere\n")
    assert overview(run).state == "stopped"  # its holder was killed
    with lock.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert overview(run).state == "running"


def test_broken_and_empty_folders_are_listed(tmp_path: Path) -> None:
    good = _make(tmp_path, "good", LINES)
    (good.folder / "log.jsonl").write_bytes(b'\xff\xfe\n5\n[]\n{"step": 20, "loss/generator": 0.5}\n{"step": 30, "lo')
    (tmp_path / "empty").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "file").touch()
    for name, text in (("kind", "stage: xx\n"), ("unknown", "stage: lr\nfoo: 1\n"), ("yaml", "a: [")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text)
    (tmp_path / "bytes").mkdir()
    (tmp_path / "bytes" / "config.yaml").write_bytes(b"\xff\xfe\x00")
    found = {run.name: run for run in overviews(tmp_path)}
    assert set(found) == {"good", "empty", "kind", "unknown", "yaml", "bytes"}
    assert found["good"].step == 20
    for name in set(found) - {"good"}:
        assert found[name].state == "broken", name
        assert found[name].problem
        assert "\n" not in found[name].problem
    assert found["empty"].problem == "it has no config.yaml"


def test_the_one_that_wrote_last_stands_first(tmp_path: Path) -> None:
    for name, age in (("b", 500.0), ("a", 5000.0), ("c", 50.0)):
        _make(tmp_path, name, LINES, age=age)
    assert [run.name for run in overviews(tmp_path)] == ["c", "b", "a"]
