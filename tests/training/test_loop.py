"""The loop, on a toy task: phases, gradients, accumulation, resuming, signals."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lvgan import checkpoint as ckpt
from lvgan.config import Config, build
from lvgan.errors import CheckpointError, ConfigError, DataError, MachineError, MediaError
from lvgan.training import loop
from lvgan.training.distributed import Ranks
from lvgan.training.logging import RunLog, read_log
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
    with pytest.raises(Stopped, match="stopped at step 8, checkpoint written") as caught:
        train(Interrupting(_config()), run, progress=False)
    assert caught.value.signum == signum
    assert run.step == 8
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    train(ToyTask(_config()), run, progress=False)
    assert run.step == 12


def test_a_signal_while_the_ranks_agree_is_not_lost(tmp_path, monkeypatch) -> None:
    asked = []

    def agree(self: Ranks, number: int) -> int:
        asked.append(number)
        if len(asked) == 5:
            os.kill(os.getpid(), signal.SIGTERM)  # too late for this time: `number` is 0
        return number

    monkeypatch.setattr(Ranks, "agree", agree)
    run = Run(tmp_path / "run")
    with pytest.raises(Stopped, match="stopped at step 6, checkpoint written"):
        train(ToyTask(_config()), run, progress=False)
    assert asked == [0, 0, 0, 0, 0, signal.SIGTERM]


def _slow(monkeypatch, seconds: float = 0.0) -> None:
    monkeypatch.setattr("lvgan.training.loop.SLOW_STEP", seconds)


class _Slow(ToyTask):
    """Sends itself SIGTERM in the middle of a step, which then takes longer than anyone waits."""

    at = 7

    def adapt(self, step: int, real_logits: torch.Tensor) -> dict[str, float]:
        if step == self.at:
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(600):
                time.sleep(0.1)
            raise AssertionError("the step went on")
        return super().adapt(step, real_logits)


def test_a_signal_in_a_slow_step_writes_the_state_from_before_it(tmp_path, monkeypatch) -> None:
    _slow(monkeypatch)
    straight, run = Run(tmp_path / "a"), Run(tmp_path / "b")
    train(ToyTask(_config()), straight, progress=False)
    with pytest.raises(Stopped, match="stopped at step 7, checkpoint written"):
        train(_Slow(_config()), run, progress=False)
    assert run.step == 7
    train(ToyTask(_config()), run, progress=False)
    one, two = _weights(straight.folder, 12), _weights(run.folder, 12)
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    assert _logged(straight) == _logged(run)


def test_a_signal_in_the_first_step_leaves_a_checkpoint_of_none(tmp_path) -> None:
    class First(_Slow):
        at = 0

    run = Run(tmp_path / "run")
    with pytest.raises(Stopped, match="stopped at step 0, checkpoint written"):
        train(First(_config()), run, progress=False)
    assert [p.name for p in run.checkpoint_folder.iterdir()] == ["lr-step-000000.pt"]


def test_a_signal_between_two_slow_steps_does_not_wait_for_the_second(tmp_path, monkeypatch) -> None:
    _slow(monkeypatch)
    copied = loop._copied

    def copying(state: object) -> object:
        if isinstance(state, dict) and "generator_ema" in state and state["step"] == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return copied(state)

    class Endless(ToyTask):
        def real(self, step: int):
            assert step != 7, "another step was begun"
            return super().real(step)

    monkeypatch.setattr(loop, "_copied", copying)
    run = Run(tmp_path / "run")
    with pytest.raises(Stopped, match="stopped at step 7, checkpoint written"):
        train(Endless(_config()), run, progress=False)
    assert run.step == 7


def test_a_signal_puts_the_preview_off(tmp_path) -> None:
    class Previewing(ToyTask):
        def preview(self, generator, folder, step: int) -> None:
            if step == 6 and not (folder / "once").exists():
                (folder / "once").touch()
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(60)
                raise AssertionError("the preview went on")
            super().preview(generator, folder, step)

    run = Run(tmp_path / "run")
    with pytest.raises(Stopped, match="stopped at step 6, checkpoint written"):
        train(Previewing(_config()), run, progress=False)
    task = Previewing(_config())
    train(task, run, progress=False)
    assert task.previews == [6, 12]


def test_means_span_a_restart(tmp_path) -> None:
    straight, halved = Run(tmp_path / "a"), Run(tmp_path / "b")
    train(ToyTask(_config(log_every=4)), straight, progress=False)

    class Dying(ToyTask):
        def real(self, step: int):
            if step == 6:
                raise KeyboardInterrupt  # as dead as it gets in this process
            return super().real(step)

    with pytest.raises(KeyboardInterrupt):
        train(Dying(_config(log_every=4)), halved, progress=False)
    assert halved.step == 5  # between two lines of the log
    train(ToyTask(_config(log_every=4)), halved, progress=False)
    assert _logged(straight) == _logged(halved)
    assert [line["step"] for line in _logged(straight)] == [4, 8, 12]


def _logged(run: Run) -> list[dict]:
    lines = read_log(run.folder / "log.jsonl")
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]


def test_a_full_disk_at_a_checkpoint_lets_training_go_on(tmp_path, monkeypatch) -> None:
    run, said, save = Run(tmp_path / "run"), [], torch.save

    def full(checkpoint, file) -> None:
        if checkpoint["step"] == 10:
            save({"a": torch.zeros(10)}, file)
            raise OSError(errno.ENOSPC, "No space left on device")
        save(checkpoint, file)

    monkeypatch.setattr(torch, "save", full)
    train(ToyTask(_config(steps=16)), run, progress=False, say=said.append)
    assert [p.name for p in sorted(run.checkpoint_folder.iterdir())] == [
        "lr-step-000005.pt",
        "lr-step-000015.pt",
        "lr-step-000016.pt",
    ]
    (line,) = [line for line in said if "disk is full" in line]
    assert "step 10" in line
    assert "lr-step-000010.pt" in line
    assert "step 15" in line
    events = [line for line in read_log(run.folder / "log.jsonl") if "event" in line]
    assert [(e["step"], e["event"]) for e in events] == [(10, "checkpoint not written")]


def test_a_full_disk_at_the_end_is_an_error(tmp_path, monkeypatch) -> None:
    def full(checkpoint, file) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    run, said = Run(tmp_path / "run"), []
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(MachineError, match=r"disk is full: .*lr-step-000012\.pt"):
        train(ToyTask(_config()), run, progress=False, say=said.append)
    assert len(said) == 2  # steps 5 and 10
    assert list(run.checkpoint_folder.iterdir()) == []


def test_a_log_that_cannot_be_written_is_said_once(tmp_path, monkeypatch) -> None:
    run, said, write = Run(tmp_path / "run"), [], RunLog.write

    def full(self, step: int, values) -> None:
        if 3 <= step <= 6:
            raise MachineError("cannot write the log (No space left on device)")
        write(self, step, values)

    monkeypatch.setattr(RunLog, "write", full)
    train(ToyTask(_config()), run, progress=False, say=said.append)
    assert [line for line in said if "lines may be missing" in line] == said
    assert len(said) == 1
    assert said[0].startswith("step 3: ")
    assert [line["step"] for line in read_log(run.folder / "log.jsonl")] == [1, 2, *range(7, 13)]
    assert run.step == 12


def test_a_preview_that_fails_does_not_stop_training(tmp_path) -> None:
    class Blind(ToyTask):
        def preview(self, generator, folder, step: int) -> None:
            raise MediaError("ffmpeg is lost")

    said: list[str] = []
    assert train(Blind(_config()), Run(tmp_path / "run"), progress=False, say=said.append) == 12
    assert len(said) == 2
    assert "ffmpeg is lost" in said[0]


def test_data_that_vanish_leave_a_checkpoint(tmp_path) -> None:
    class Vanishing(ToyTask):
        def real(self, step: int):
            if step == 8:
                raise DataError("/data/0064x0064/partition_0000.zip is gone")
            return super().real(step)

    run = Run(tmp_path / "run")
    with pytest.raises(DataError, match=r"no batch for step 9: .*is gone \(stopped at step 8, checkpoint written"):
        train(Vanishing(_config()), run, progress=False)
    straight = Run(tmp_path / "straight")
    train(ToyTask(_config()), run, progress=False)
    train(ToyTask(_config()), straight, progress=False)
    one, two = _weights(straight.folder, 12), _weights(run.folder, 12)
    assert all(torch.equal(value, two[key]) for key, value in one.items())


def test_a_damaged_newest_checkpoint_is_set_aside(tmp_path) -> None:
    run, straight = Run(tmp_path / "run"), Run(tmp_path / "straight")
    train(ToyTask(_config()), straight, progress=False)
    train(ToyTask(_config(steps=10)), run, progress=False)
    newest = run.checkpoint_folder / "lr-step-000010.pt"
    weight = torch.load(newest, weights_only=True)["generator"]["weight"].numpy().tobytes()
    content = bytearray(newest.read_bytes())
    content[content.index(weight) + 5] ^= 4
    newest.write_bytes(content)
    said: list[str] = []
    train(ToyTask(_config()), run, progress=False, say=said.append)
    assert said == [f"{newest} is damaged (kept as {newest.name}.damaged); going on from lr-step-000005.pt"]
    assert newest.with_name(newest.name + ".damaged").read_bytes() == content
    one, two = _weights(straight.folder, 12), _weights(run.folder, 12)
    assert all(torch.equal(value, two[key]) for key, value in one.items())


def test_a_run_whose_checkpoints_are_all_damaged_is_left_alone(tmp_path) -> None:
    run = Run(tmp_path / "run")
    train(ToyTask(_config(steps=3)), run, progress=False)
    (path,) = run.checkpoint_folder.iterdir()
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(CheckpointError, match=r"every checkpoint .* is damaged"):
        train(ToyTask(_config()), run, progress=False)
    assert path.exists()


def test_old_checkpoints_are_deleted_but_those_protected(tmp_path) -> None:
    run = Run(tmp_path / "run")
    train(ToyTask(_config(steps=4, checkpoint_every=2, keep=0)), run, progress=False)
    ckpt.protect(run.checkpoint_folder / "lr-step-000002.pt", "somebody needs it")
    (run.checkpoint_folder / "best.pt").write_bytes((run.checkpoint_folder / "lr-step-000004.pt").read_bytes())
    train(ToyTask(_config(checkpoint_every=2, keep=2)), run, progress=False)
    assert sorted(p.name for p in run.checkpoint_folder.glob("*.pt")) == [
        "best.pt",
        "lr-step-000002.pt",
        "lr-step-000010.pt",
        "lr-step-000012.pt",
    ]


def test_a_run_whose_folder_is_deleted_can_still_go_on(tmp_path) -> None:
    run, said = Run(tmp_path / "run"), []

    class Deleting(ToyTask):
        def real(self, step: int):
            if step == 7:
                shutil.rmtree(run.folder)
            return super().real(step)

    train(Deleting(_config()), run, progress=False, say=said.append)
    assert [line.partition(":")[0] for line in said if "deleted" in line] == ["step 10"]
    assert run.config() == _config()
    assert [line["step"] for line in read_log(run.folder / "log.jsonl")] == [11, 12]
    assert train(ToyTask(_config(steps=14)), run, progress=False) == 14


def test_fewer_checkpoints_stay_from_the_start(tmp_path, monkeypatch) -> None:
    run = Run(tmp_path / "run")
    train(ToyTask(_config(steps=12, checkpoint_every=3)), run, progress=False)

    def full(path: Path, checkpoint: object) -> None:
        raise MachineError("the disk is full")

    monkeypatch.setattr(ckpt, "save", full)
    with pytest.raises(MachineError):
        train(ToyTask(_config(steps=13, keep=2)), run, progress=False)
    assert [p.name for p in ckpt.checkpoints_in(run.checkpoint_folder)[0]] == ["lr-step-000009.pt", "lr-step-000012.pt"]


def test_a_checkpoint_of_other_settings_is_refused(tmp_path) -> None:
    run = Run(tmp_path / "run")
    train(ToyTask(_config(steps=3)), run, progress=False)
    with pytest.raises(CheckpointError, match=r"training\.batch = 4, now 5; training\.seed = 0, now 1; put"):
        train(ToyTask(_config(batch=5, seed=1)), run, progress=False)


def test_a_second_process_is_refused(tmp_path) -> None:
    run = Run(tmp_path / "run")
    code = (
        "import sys, time, pathlib; from lvgan.training.runs import Run\n"
        "with Run(pathlib.Path(sys.argv[1])).lock(print):\n    print('locked', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(run.folder)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(ConfigError, match=f"is being trained by process {other.pid} on "):
            train(ToyTask(_config()), run, progress=False)
        other.kill()
    assert train(ToyTask(_config()), run, progress=False) == 12


def test_a_place_without_locks_is_warned_of(tmp_path, monkeypatch) -> None:
    def none(file, how) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    said: list[str] = []
    assert train(ToyTask(_config()), Run(tmp_path / "run"), progress=False, say=said.append) == 12
    assert len(said) == 1
    assert "No locks available" in said[0]


def test_an_unwritable_run_folder(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match="cannot write the run folder"):
        train(ToyTask(_config()), Run(tmp_path / "file" / "run"), progress=False)
