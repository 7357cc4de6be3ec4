"""What is watched, what it leads to, and that a roll-back survives a restart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lvgan.config import Config, build
from lvgan.errors import TrainingError
from lvgan.training.health import Limits, Monitor, describe, magnitudes, spread
from lvgan.training.logging import read_log
from lvgan.training.loop import train
from lvgan.training.runs import Run
from lvgan.training.scalars import EVENTS
from lvgan.training.trainer import ATTEMPT_STRIDE, Trainer
from tests.training.toy import ToyTask

NAN = float("nan")


def _config(**training: object) -> Config:
    settings = {"batch": 4, "steps": 40, "checkpoint_every": 5, "log_every": 1, "sample_every": 50, "r1_every": 4}
    return build("lr", {"training": {**settings, **training}})


def _events(run: Run, kind: str = "") -> list[dict]:
    lines = [line for line in read_log(run.folder / "log.jsonl") if "event" in line]
    assert {line["event"] for line in lines} <= EVENTS.keys()
    return [line for line in lines if kind in line["event"]]


class _Poisoned(ToyTask):
    """The logits of some phases and steps are not finite, in the first attempt."""

    phase, steps = "", range(0)

    def judge(self, sample, phase):
        logits = super().judge(sample, phase)
        return logits * NAN if phase.name.startswith(self.phase) and phase.step in self.steps else logits


@pytest.mark.parametrize(
    ("phase", "network", "first"),
    [("generator", "generator", "weight"), ("discriminator", "discriminator", "0.weight"), ("r1", "r1", "0.weight")],
)
def test_a_phase_with_bad_gradients_changes_nothing(phase: str, network: str, first: str) -> None:
    task = _Poisoned(_config())
    task.phase, task.steps = phase, range(4, 5)
    trainer, healthy = Trainer(task), Trainer(ToyTask(_config()))
    for _ in range(4):
        trainer.run_step()
        healthy.run_step()
    optimizer = trainer.optimizers[0 if network == "generator" else 1]
    module = task.generator if network == "generator" else task.discriminator
    trained = [p.clone() for p in module.parameters()]
    moments = [s["exp_avg_sq"].clone() for s in optimizer.state.values()]
    counts = {int(s["step"]) for s in optimizer.state.values()}
    values = trainer.run_step()
    assert trainer.bad_gradients[network][0] == first
    assert values["loss/generator" if phase == "generator" else "loss/discriminator_real"] != 0
    assert all(torch.isfinite(p).all() for p in module.parameters())
    if phase in ("generator", "discriminator"):
        after = {int(s["step"]) for s in optimizer.state.values()}
        # The discriminator's optimiser also steps for R1, which is healthy here.
        assert after == (counts if phase == "generator" else {counts.pop() + 1})
    if phase == "generator":
        assert all(torch.equal(a, b) for a, b in zip(trained, module.parameters(), strict=True))
        assert all(torch.equal(a, s["exp_avg_sq"]) for a, s in zip(moments, optimizer.state.values(), strict=True))


def test_running_means_of_a_skipped_step_are_put_back() -> None:
    class Overflowing(ToyTask):
        def __init__(self, config: Config) -> None:
            super().__init__(config)
            self.generator.register_buffer("mean_square", torch.ones([]))

        def fake(self, real, phase, update_ema: bool):
            (made,) = super().fake(real, phase, update_ema)
            made = made * math.inf if phase.step == 2 else made
            if update_ema:
                self.generator.mean_square.lerp_(made.detach().square().mean(), 0.1)
            return (made,)

    task = Overflowing(_config())
    trainer, seen = Trainer(task), []
    for _ in range(5):
        trainer.run_step()
        seen.append(task.generator.mean_square.item())
    assert seen[2] == seen[1] != seen[0]
    assert all(math.isfinite(value) for value in [*seen, *magnitudes(trainer.average).values()])


def test_a_bad_step_is_skipped_logged_and_said_once(tmp_path) -> None:
    task, run, said = _Poisoned(_config()), Run(tmp_path / "run"), []
    task.phase, task.steps = "generator", range(3, 6)
    train(task, run, progress=False, say=said.append)
    gradients = _events(run, "gradient")
    assert [e["step"] for e in gradients] == [4, 5, 6]
    assert gradients[0]["culprit"] == "generator phase, first in weight and 1 more"
    assert [(e["step"], e["culprit"]) for e in _events(run, "loss")] == [(s, "loss/generator") for s in (4, 5, 6)]
    assert len([line for line in said if "non-finite gradient" in line]) == 1
    # No checkpoint is written of a step that was skipped.
    assert not (run.checkpoint_folder / "lr-step-000005.pt").exists()
    assert run.step == 40


def test_a_penalty_that_always_overflows_is_ill_health() -> None:
    # One step in 16 does not fill the window, and without R1 the discriminator has nothing that holds it.
    monitor, steps = Monitor(Limits(penalties=3)), []
    for step in range(1, 100):
        bad = {"generator": [], "discriminator": []}
        if step % 16 == 1:
            bad["r1"] = ["head.weight"] * (step != 17)
        monitor.check(step, {}, bad, {})
        again = Monitor(Limits(penalties=3))
        again.load_state(monitor.state())
        assert again.failing == monitor.failing
        steps += [step] * monitor.failing
    assert steps[0] == 65  # 1 was followed by a good one; 33, 49, 65
    assert again.failing_since == 33
    old = monitor.state()
    del old["penalties"]  # of version 0.1
    again.load_state(old)
    assert not again.failing


class _Diverging(ToyTask):
    """Diverges for good from a step on, unless other randomness is drawn."""

    def __init__(self, config: Config, attempts: int = 1, at: int = 12) -> None:
        super().__init__(config)
        self.attempts, self.at, self.drawn = attempts, at, 0

    def real(self, step: int):
        self.drawn = step
        return super().real(step % 1000)

    def judge(self, sample, phase):
        logits = super().judge(sample, phase)
        bad = phase.step >= self.at and self.drawn < self.attempts * ATTEMPT_STRIDE
        return logits * NAN if bad else logits


def test_a_roll_back_mends_a_run(tmp_path) -> None:
    run, said = Run(tmp_path / "run"), []
    task = _Diverging(_config(keep=0))
    assert train(task, run, progress=False, say=said.append) == 40
    (entry,) = _events(run, "rolled back")
    assert (entry["step"], entry["from"], entry["to"], entry["attempt"]) == (10, 22, 10, 1)
    assert "non-finite gradient (generator phase, first in weight" in entry["culprit"]
    assert any("rolled back to lr-step-000010.pt" in line for line in said)
    steps = [line["step"] for line in read_log(run.folder / "log.jsonl") if "event" not in line]
    assert steps == list(range(1, 41))
    # The other attempt is other randomness: fakes differ, too.
    healthy = Run(tmp_path / "healthy")
    train(ToyTask(_config(keep=0)), healthy, progress=False)
    for step, same in ((5, True), (15, False)):
        a, b = (torch.load(r.checkpoint_folder / f"lr-step-{step:06d}.pt", weights_only=True) for r in (run, healthy))
        assert torch.equal(a["generator"]["weight"], b["generator"]["weight"]) is same


@pytest.mark.parametrize("at", [15, ATTEMPT_STRIDE + 11, ATTEMPT_STRIDE + 17])
def test_a_run_killed_around_a_roll_back_ends_the_same(tmp_path, at: int) -> None:
    class Dying(_Diverging):
        def real(self, step: int):
            if step == at:
                raise KeyboardInterrupt
            return super().real(step)

    straight, halved = Run(tmp_path / "a"), Run(tmp_path / "b")
    train(_Diverging(_config()), straight, progress=False, say=lambda line: None)
    with pytest.raises(KeyboardInterrupt):
        train(Dying(_config()), halved, progress=False, say=lambda line: None)
    train(_Diverging(_config()), halved, progress=False, say=lambda line: None)
    one, two = (torch.load(r.checkpoint_folder / "lr-step-000040.pt", weights_only=True) for r in (straight, halved))
    assert all(torch.equal(value, two["generator"][key]) for key, value in one["generator"].items())
    assert one["loop"]["rollbacks"] == two["loop"]["rollbacks"]
    logs = [[{k: v for k, v in line.items() if k[:5] != "time/"} for line in read_log(r.folder / "log.jsonl")]
            for r in (straight, halved)]  # fmt: skip
    assert logs[0] == logs[1]


def test_three_roll_backs_then_the_end(tmp_path) -> None:
    run = Run(tmp_path / "run")
    with pytest.raises(TrainingError, match=r"3 roll-backs did not help; .*lr-step-000010\.pt.*--init"):
        train(_Diverging(_config(), attempts=9), run, progress=False, say=lambda line: None)
    assert [e["attempt"] for e in _events(run, "rolled back")] == [1, 2, 3]
    assert run.step == 10
    # Running it again does not begin to count anew.
    with pytest.raises(TrainingError, match="3 roll-backs"):
        train(_Diverging(_config(), attempts=9), run, progress=False, say=lambda line: None)


def test_a_run_that_diverges_before_its_first_checkpoint(tmp_path) -> None:
    with pytest.raises(TrainingError, match=r"since step 3: training has diverged; there is no good checkpoint yet"):
        train(_Diverging(_config(), at=2), Run(tmp_path / "run"), progress=False, say=lambda line: None)


def test_an_exploding_magnitude_rolls_back(tmp_path) -> None:
    class Exploding(_Diverging):
        def __init__(self, config: Config) -> None:
            super().__init__(config)
            self.generator.register_buffer("mean_square", torch.ones([]))

        def judge(self, sample, phase):
            return ToyTask.judge(self, sample, phase)

        def fake(self, real, phase, update_ema: bool):
            if update_ema and phase.step >= self.at and self.drawn < ATTEMPT_STRIDE:
                self.generator.mean_square.mul_(100)
            return super().fake(real, phase, update_ema)

    run = Run(tmp_path / "run")
    assert train(Exploding(_config()), run, progress=False, say=lambda line: None) == 40
    (entry,) = _events(run, "rolled back")
    assert "exploding magnitude (mean_square = " in entry["culprit"]
    assert entry["to"] == 15  # 1e2, 1e4 and 1e6 are within the limit, so step 15 was thought good


def _check(monitor: Monitor, step: int, **values: float) -> list[str]:
    return [e.kind for e in monitor.check(step, {k.replace("__", "/"): v for k, v in values.items()}, {}, {})]


def test_a_saturated_discriminator_is_told_after_a_while() -> None:
    monitor = Monitor(Limits(saturated_steps=5))
    sick = {"logits__real": 15.0, "logits__fake": -12.0, "loss__discriminator_real": 1e-6,
            "loss__discriminator_fake": 1e-5}  # fmt: skip
    told = [_check(monitor, step, **sick) for step in range(1, 9)]
    assert told == [[]] * 4 + [["saturated discriminator"]] + [[]] * 3  # once a stretch
    assert _check(monitor, 9, **{**sick, "logits__real": 1.0}) == []
    again = Monitor(Limits(saturated_steps=5))
    again.load_state(monitor.state())
    told = [_check(again, step, **sick) for step in range(10, 16)]
    assert told == [[]] * 4 + [["saturated discriminator"]] + [[]]
    assert monitor.well
    assert not monitor.failing


@pytest.mark.parametrize("key", ["std", "motion"])
def test_clips_without_variety_are_told(key: str) -> None:
    monitor = Monitor(Limits(collapsed_steps=3))
    sick = {f"health__fake_{key}": 0.004, f"health__real_{key}": 0.2}
    assert [_check(monitor, step, **sick) for step in range(4)] == [[], [], ["collapsed variance"], []]
    well = {f"health__fake_{key}": 0.1, f"health__real_{key}": 0.2}
    assert not any(_check(monitor, step, **well) for step in range(9))


def test_a_collapsed_toy_is_told(tmp_path) -> None:
    class Collapsed(ToyTask):
        def fake(self, real, phase, update_ema: bool):
            (made,) = super().fake(real, phase, update_ema)
            return (made * 0 + made.mean(0),)

    run, said = Run(tmp_path / "run"), []
    train(Collapsed(_config()), run, progress=False, say=said.append, limits=Limits(collapsed_steps=20))
    (event,) = _events(run, "collapsed")
    assert event["step"] == 20
    assert "clips of a batch are alike" in event["culprit"]
    assert any("--init" in line for line in said)


def test_failures_need_not_be_in_a_row() -> None:
    monitor = Monitor(Limits(failures=4, window=8))
    failing = []
    for step in range(1, 9):  # every other step
        monitor.check(step, {"loss/a": NAN if step % 2 else 1.0}, {}, {})
        failing.append(monitor.failing)
    assert failing == [False] * 6 + [True, True]
    for step in range(9, 13):
        monitor.check(step, {"loss/a": 1.0}, {}, {})
    assert not monitor.failing


def test_spread_against_its_definition() -> None:
    torch.manual_seed(0)
    clips = torch.randn(5, 3, 16, 32, 32)
    small = clips.reshape(5, 3, 8, 2, 8, 4, 8, 4).mean((3, 5, 7))
    values = spread(torch.cat([describe(clips[:2]), describe(clips[2:])]), describe(clips.mul(3)))
    assert values["health/fake_std"] == pytest.approx(small.std(0).mean().item(), rel=1e-4)
    assert values["health/fake_motion"] == pytest.approx(small.std(2).mean().item(), rel=1e-4)
    assert values["health/real_std"] == pytest.approx(3 * values["health/fake_std"], rel=1e-4)
    still = spread(describe(clips[:, :, :1].expand_as(clips)), describe(clips))
    assert still["health/fake_motion"] < 1e-6 < still["health/real_motion"]
    assert "health/fake_std" not in spread(describe(clips[:1]), describe(clips[:1]))


def test_magnitudes_are_named() -> None:
    network = nn.Sequential(nn.Linear(1, 1))
    network[0].register_buffer("mean_square", torch.tensor(4.0))
    assert magnitudes(network) == {"0.mean_square": 4.0}
    assert magnitudes(nn.Linear(1, 1)) == {}
