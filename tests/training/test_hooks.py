"""Previews, metrics and the best checkpoint: what they leave, what they survive, and that training does not notice."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from lvgan import config as cfg
from lvgan.training.hooks import best_so_far, link, preview_files
from lvgan.training.logging import read_log
from lvgan.training.loop import train
from lvgan.training.runs import Run
from tests.training.toy import ToyTask

KEY = "metric/color_area"
VALUES = {3: 0.5, 6: 0.2, 9: 0.3, 12: 0.25}  # by step


class Measured(ToyTask):
    """Has a metric: one of VALUES, in the order of asking."""

    def __init__(self, config: cfg.Config, values: dict[int, float] = VALUES) -> None:
        super().__init__(config)
        self.values = values

    def preview(self, generator: nn.Module, folder: Path, step: int) -> None:
        super().preview(generator, folder, step)
        self.step = step

    def measure(self, generator: nn.Module, folder: Path) -> dict[str, float]:
        return {KEY: self.values[self.step]}


def _config(**training: object) -> cfg.Config:
    settings = {"batch": 4, "steps": 12, "checkpoint_every": 4, "log_every": 1, "sample_every": 3, **training}
    return cfg.build("lr", {"training": settings})


def _metrics(run: Run) -> dict[int, object]:
    return {line["step"]: line[KEY] for line in read_log(run.folder / "log.jsonl") if KEY in line}


def test_the_best_checkpoint_is_kept(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train(Measured(_config()), run, progress=False)
    assert _metrics(run) == VALUES
    assert best_so_far(run, KEY) == (6, 0.2)
    assert torch.load(run.checkpoint_folder / "best.pt", weights_only=True)["step"] == 6
    assert not (run.checkpoint_folder / "lr-step-000006.pt").exists()  # it was written for this alone
    assert run.newest_checkpoint() == run.checkpoint_folder / "lr-step-000012.pt"  # best.pt is not gone on from


def test_the_best_checkpoint_is_the_steps_own_file_where_there_is_one(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train(Measured(_config(checkpoint_every=3)), run, progress=False)
    assert os.path.samefile(run.checkpoint_folder / "best.pt", run.checkpoint_folder / "lr-step-000006.pt")


def test_stopping_anywhere_changes_neither_log_nor_best(tmp_path: Path) -> None:
    straight, halved = Run(tmp_path / "a"), Run(tmp_path / "b")
    train(Measured(_config(checkpoint_every=3)), straight, progress=False)
    for steps in (3, 6, 12):
        train(Measured(_config(checkpoint_every=3, steps=steps)), halved, progress=False)
    assert _metrics(straight) == _metrics(halved)
    best = [torch.load(r.checkpoint_folder / "best.pt", weights_only=True) for r in (straight, halved)]
    assert best[0]["step"] == best[1]["step"] == 6
    for name, tensor in best[0]["generator_ema"].items():
        assert torch.equal(tensor, best[1]["generator_ema"][name])


def test_a_kill_before_the_best_checkpoint_was_written(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train(Measured(_config(checkpoint_every=3, steps=6)), run, progress=False)
    # As if the kill came after step 6 was saved, before best.pt was replaced.
    link(run.checkpoint_folder / "lr-step-000003.pt", run.checkpoint_folder / "best.pt")
    (run.checkpoint_folder / "best.json").write_text(json.dumps({"step": 3, KEY: 0.5}))
    train(Measured(_config(checkpoint_every=3)), run, progress=False)
    assert best_so_far(run, KEY) == (6, 0.2)
    assert torch.load(run.checkpoint_folder / "best.pt", weights_only=True)["step"] == 6


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"step": 6}', '{"step": "x", "metric/color_area": 0.1}'])
def test_a_damaged_record_of_the_best_is_none(tmp_path: Path, damage: str) -> None:
    run = Run(tmp_path / "run")
    train(Measured(_config(checkpoint_every=3, steps=3)), run, progress=False)
    (run.checkpoint_folder / "best.json").write_text(damage)
    assert best_so_far(run, KEY) == (None, float("inf"))


def test_a_metric_that_is_not_finite_is_logged_as_text_and_is_not_the_best(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train(Measured(_config(), {**VALUES, 6: float("nan"), 12: float("-inf")}), run, progress=False)
    assert _metrics(run) == {3: 0.5, 6: "nan", 9: 0.3, 12: "-inf"}
    assert best_so_far(run, KEY) == (9, 0.3)


@pytest.mark.parametrize("failing", ["preview", "measure"])
def test_what_fails_beside_training_is_told_and_changes_nothing(tmp_path: Path, failing: str) -> None:
    class Failing(Measured):
        pass

    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    good, bad = Run(tmp_path / "good"), Run(tmp_path / "bad")
    train(Measured(_config()), good, progress=False)
    if failing == "measure":
        setattr(Failing, failing, fail)
    else:

        def preview(self: Failing, generator: nn.Module, folder: Path, step: int) -> None:
            self.step = step
            fail()

        setattr(Failing, failing, preview)
    told: list[str] = []
    train(Failing(_config()), bad, progress=False, say=told.append)
    assert sum("No space left on device" in line for line in told) == 4
    assert "of step 3 could not be made" in told[0]
    weights = [torch.load(r.newest_checkpoint(), weights_only=True)["generator"] for r in (good, bad)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert _metrics(bad) == (VALUES if failing == "preview" else {})


def test_a_link_falls_back_to_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"first")
    (tmp_path / "b").write_bytes(b"old")

    def refuse(*arguments: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"first"
    assert not os.path.samefile(tmp_path / "a", tmp_path / "b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_titles_of_previews(tmp_path: Path) -> None:
    names = ["step-000010.png", "step-000010.mp4", "step-000010-long.mp4", "step-0000100.png", "step-000020.png",
             "step-000010.partial.mp4", ".step-000010.png.partial", "step-000010.txt"]  # fmt: skip
    for name in names:
        (tmp_path / name).touch()
    assert {title: path.name for title, path in preview_files(tmp_path, "step-000010").items()} == {
        "preview/picture": "step-000010.png",
        "preview/clip": "step-000010.mp4",
        "preview/clip-long": "step-000010-long.mp4",
    }
