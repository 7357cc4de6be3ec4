"""The loop, on a toy task: phases, gradients, accumulation, resuming, signals."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from lvgan.config import Config, build
from lvgan.errors import TrainingError
from lvgan.training.logging import read_log
from lvgan.training.loop import train
from lvgan.training.runs import Run
from lvgan.training.signals import Stopped
from lvgan.training.trainer import Trainer
from tests.training.toy import ToyTask


def _config(**training: object) -> Config:
    settings = {
        "batch": 4,
        "steps": 12,
        "checkpoint_every": 5,
        "log_every": 1,
        "sample_every": 6,
        "r1_every": 4,
    }
    return build("lr", {"training": {**settings, **training}})


def _weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    loaded = torch.load(folder / "checkpoints" / f"lr-step-{step:06d}.pt", weights_only=True)
    parts = ("generator", "generator_ema", "discriminator")
    return {f"{p}.{k}": v for p in parts for k, v in loaded[p].items()}


def test_learns_the_mean(tmp_path) -> None:
    task = ToyTask(_config(steps=400, generator_rate=0.02, discriminator_rate=0.02, ema_ramp=50, ema_decay=0.98))
    trainer = Trainer(task)
    for _ in range(400):
        trainer.run_step()
    made = trainer.average(torch.randn(256, 4)).mean().item()
    assert made == pytest.approx(2, abs=0.5)


def test_phases_and_magnitude_updates() -> None:
    task = ToyTask(_config())
    trainer = Trainer(task)
    values = [trainer.run_step() for _ in range(5)]
    assert [("loss/r1" in v) for v in values] == [True, False, False, False, True]
    # Running means move in the discriminator's phase only.
    assert {name for _, name, update in task.updates if update} == {"discriminator/fake"}
    assert {name for _, name, update in task.updates if not update} == {"generator/fake"}


def test_micro_batches_give_the_same_step() -> None:
    results = []
    for micro in (0, 1, 3):
        task = ToyTask(_config(micro_batch=micro))
        trainer = Trainer(task)
        values = [trainer.run_step() for _ in range(6)]
        results.append((values, [p.detach().clone() for p in task.generator.parameters()]))
    for values, weights in results[1:]:
        for ours, expected in zip(values, results[0][0], strict=True):
            assert ours == pytest.approx(expected, rel=1e-4, abs=1e-6)
        for ours, expected in zip(weights, results[0][1], strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_resuming_is_exact(tmp_path) -> None:
    straight, halved = Run(tmp_path / "a"), Run(tmp_path / "b")
    train(ToyTask(_config()), straight, progress=False)
    train(ToyTask(_config(steps=5)), halved, progress=False)
    # As after a kill between two checkpoints: the log is ahead of the newest checkpoint.
    with (halved.folder / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "loss/generator": 99}\n{"step": 7, "loss')
    assert train(ToyTask(_config()), halved, progress=False) == 12
    one, two = _weights(straight.folder, 12), _weights(halved.folder, 12)
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert torch.equal(value, two[key]), key
    logs = [[{k: v for k, v in line.items() if not k.startswith("time/")} for line in read_log(r.folder / "log.jsonl")]
            for r in (straight, halved)]  # fmt: skip
    assert logs[0] == logs[1]
    assert [line["step"] for line in logs[0]] == list(range(1, 13))


def test_what_a_run_leaves(tmp_path) -> None:
    task, run = ToyTask(_config()), Run(tmp_path / "run")
    train(task, run, progress=False)
    assert sorted(p.name for p in run.checkpoint_folder.iterdir()) == [
        "lr-step-000005.pt",
        "lr-step-000010.pt",
        "lr-step-000012.pt",
    ]
    assert task.previews == [6, 12]
    assert run.config() == task.config
    assert run.step == 12


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint(tmp_path, signum: int) -> None:
    class Interrupting(ToyTask):
        def real(self, step: int):
            if step == 7:
                os.kill(os.getpid(), signum)
            return super().real(step)

    run = Run(tmp_path / "run")
    with pytest.raises(Stopped, match="step 8") as caught:
        train(Interrupting(_config()), run, progress=False)
    assert caught.value.signum == signum
    assert run.step == 8
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    train(ToyTask(_config()), run, progress=False)
    assert run.step == 12


def test_a_nan_is_logged_and_does_not_reach_the_weights(tmp_path) -> None:
    class Poisoned(ToyTask):
        def judge(self, sample, phase):
            logits = super().judge(sample, phase)
            return logits * float("nan") if phase.step == 3 else logits

    task, run = Poisoned(_config()), Run(tmp_path / "run")
    train(task, run, progress=False)
    lines = {line["step"]: line for line in read_log(run.folder / "log.jsonl")}
    assert lines[4]["loss/generator"] == "nan"
    assert lines[4]["health/bad_generator_gradients"] > 0
    assert all(torch.isfinite(p).all() for p in task.generator.parameters())


def test_a_run_that_diverges_is_stopped_and_keeps_its_good_checkpoint(tmp_path) -> None:
    class Diverging(ToyTask):
        def judge(self, sample, phase):
            logits = super().judge(sample, phase)
            return logits * float("nan") if phase.step >= 7 else logits

    run = Run(tmp_path / "run")
    with pytest.raises(TrainingError, match=r"since step 8: .*lr-step-000005\.pt"):
        train(Diverging(_config(steps=100)), run, progress=False)
    assert run.step == 5
