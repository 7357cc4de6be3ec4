"""The one training loop, for both networks: load or start, then step, log, look, checkpoint.

What differs between the networks is a :class:`lvgan.training.task.Task`. Running the same command again
goes on exactly: a checkpoint of step N says that N steps are done, and all that is logged and shown of them.
Where there are several ranks, all go through the same loop; rank 0 logs, saves and previews.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lvgan import checkpoint as ckpt
from lvgan.errors import DataError, MachineError, TrainingError
from lvgan.training import health
from lvgan.training.distributed import Ranks
from lvgan.training.hooks import Hooks
from lvgan.training.logging import RunLog, read_log
from lvgan.training.runs import Run, check_same_settings
from lvgan.training.signals import LeaveNow, Stopped, StopSignals, stop_signals
from lvgan.training.task import Task
from lvgan.training.trainer import Trainer
from lvgan.training.transfer import start_from
from lvgan.training.wandb_log import WandbLog

#: A cluster gives 30 seconds between SIGTERM and SIGKILL. Steps that last longer than this many seconds are
#: left at once, and the state from before them is written: a copy in the CPU's memory, which costs each of
#: them about as much time as copying the weights. Several ranks finish their step: they wait for each other.
SLOW_STEP = 5.0


def train(
    task: Task,
    run: Run,
    *,
    progress: bool = True,
    say: Callable[[str], None] = print,
    limits: health.Limits | None = None,
    ranks: Ranks | None = None,
) -> int:
    """Train `task` in `run` up to ``training.steps``, from the run's newest checkpoint if it has one.

    Args:
        say: takes one line for the user.
        limits: of health.

    Returns:
        the step reached.

    Raises:
        Stopped: after SIGINT or SIGTERM (to any rank); its message says what was written.
        DataError: the data vanished; a checkpoint was written.
        TrainingError: training diverges again and again.
        MachineError: the folder cannot be written, or the last checkpoint could not be.
        CheckpointError: the run's checkpoint is of other settings or data, or ``training.init`` fits not at all.
        ConfigError: another process trains in this folder.
    """
    ranks = Ranks() if ranks is None else ranks
    with run.lock(say) if ranks.first else contextlib.nullcontext():
        loop = _Loop(task, run, ranks, progress, say, limits)
        try:
            with stop_signals() as stop:
                return loop.run_all(stop)
        finally:
            loop.close()


class _Loop:
    """What one call of :func:`train` holds."""

    def __init__(
        self,
        task: Task,
        run: Run,
        ranks: Ranks,
        progress: bool,
        say: Callable[[str], None],
        limits: health.Limits | None,
    ) -> None:
        self.task, self.run, self.ranks, self._tell = task, run, ranks, say
        self.settings = task.config.training
        self.trainer = Trainer(task, ranks)
        self.monitor = health.Monitor(limits)
        self.hooks = Hooks(run, self.say)
        self.means = _Means()
        self.rollbacks: list[dict[str, Any]] = []
        self.provenance: dict[str, Any] = {}
        self.saved: int | None = None  # the step that the newest checkpoint is of
        self.unseen = False  # whether the preview of the step that is done is still to be made
        self.seconds = 0.0  # of the last step
        self._said: set[str] = set()
        self._start()
        self.log = self._open_log() if ranks.first else None
        self.bar = tqdm(
            total=self.settings.steps,
            initial=self.trainer.step,
            unit="step",
            disable=not (progress and ranks.first),
            dynamic_ncols=True,
            smoothing=0.1,
        )

    # --- start and end ----------------------------------------------------------------------------

    def _start(self) -> None:
        """The newest checkpoint's state, or that of a fresh run."""
        found = self._newest()
        if found is not None:
            check_same_settings(found[1], self.task.config, found[0])
            self._restore(*found)
        elif self.settings.init:
            self.provenance, message = start_from(self.task, self.trainer.average, Path(self.settings.init))
            self.say(message)
        if self.ranks.world > 1:
            self.ranks.check_same(self.trainer.facts())
        if self.ranks.first:
            if self.settings.init:
                _protect(Path(self.provenance.get("path", self.settings.init)), f"{self.run.folder} started from it")
            self.run.create(self.task.config)
            intact, _ = ckpt.checkpoints_in(self.run.checkpoint_folder)
            if found is not None and found[0] == intact[-1]:
                # Now, not only after the next one is written: there may be no room for that.
                ckpt.prune(self.run.checkpoint_folder, self.settings.keep)

    def _newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest good checkpoint: rank 0 finds it, all read it."""
        stage = self.task.config.stage
        found = self.run.load_newest(stage, self.say) if self.ranks.first else None
        path = self.ranks.from_first(lambda: None if found is None else found[0])
        return found if path is None or found is not None else (path, ckpt.load(path, stage))

    def _restore(self, path: Path, loaded: dict[str, Any]) -> None:
        self.trainer.restore(loaded, path)
        self.saved = self.trainer.step
        self.provenance = loaded.get("provenance", {})
        state = loaded.get("loop")
        if state is not None:  # checkpoints of version 0.1 have none
            self.means.load_state(state["means"])
            self.monitor.load_state(state["health"])
            self.rollbacks = list(state["rollbacks"])
            self.unseen = bool(state["unseen"])

    def _checkpoint(self) -> dict[str, Any]:
        loop = {
            "means": self.means.state(),
            "health": self.monitor.state(),
            "rollbacks": list(self.rollbacks),
            "unseen": self.unseen,
        }
        return {**self.trainer.checkpoint(), "loop": loop, "provenance": self.provenance}

    def _open_log(self) -> RunLog:
        """The log up to the step that is done. Roll-backs stand in the checkpoint; here they are repeated."""
        tracker = WandbLog(self.task.config, self.run.folder, self.say) if self.settings.wandb else None
        log = RunLog(self.run.folder, self.trainer.step, tracker)
        known = [line.get("attempt") for line in read_log(self.run.folder / "log.jsonl")]
        for rollback in self.rollbacks:
            if rollback["attempt"] not in known:
                log.write(rollback["to"], {"event": "rolled back", **rollback})
        return log

    def close(self) -> None:
        """Close what is open."""
        self.bar.close()
        if self.log is not None:
            self.log.close()

    # --- the loop ---------------------------------------------------------------------------------

    def run_all(self, stop: StopSignals) -> int:
        """All steps that remain."""
        s, trainer = self.settings, self.trainer
        if self.unseen:
            self._look(stop)
        self._keep_best()
        while trainer.step < s.steps:
            values = self._step(stop)
            done = trainer.step == s.steps
            self._check_health(values)
            if self.monitor.failing:
                self._roll_back()
                continue
            self.means.add(values | {"time/seconds_per_step": self.seconds})
            self.bar.update()
            if trainer.step % s.log_every == 0 or done:
                logged = self.means.take()
                self.bar.set_postfix_str(_brief(logged))
                self._log(logged)
            looked = trainer.step % s.sample_every == 0 or done
            if looked:
                self._look(stop)
            due = trainer.step % s.checkpoint_every == 0 and self.monitor.well
            if done or due:
                self._save(last=done)
            if looked and self.monitor.well and not self.unseen:
                self._keep_best()
            # Asked once a step, in one place: all ranks leave after the same one. (A signal that comes while they
            # agree stays noted for the next.)
            if agreed := self.ranks.agree(stop.signum or 0):
                stop.signum = agreed
                self._leave(stop)
        self._save(last=True)  # of a run of no steps
        return trainer.step

    def _step(self, stop: StopSignals) -> dict[str, float]:
        """One step of training, left at once on a signal if it is a slow one."""
        trainer = self.trainer
        # Of a fresh run's first step nothing is known, and there is nothing on disk yet.
        slow = self.seconds > SLOW_STEP or (self.saved is None and trainer.step == 0)
        slow = slow and self.ranks.world == 1
        snapshot = _copied(self._checkpoint()) if slow and self.saved != trainer.step else None
        started = time.perf_counter()
        try:
            stop.at_once = slow
            if slow and stop:  # it came before, such as during the copy
                raise LeaveNow
            values = trainer.run_step()
            stop.at_once = False
        except LeaveNow:
            assert stop.signum is not None
            if snapshot is not None and self.monitor.well:
                self._write(snapshot)
            raise Stopped(stop.signum, self._farewell()) from None
        except DataError as error:  # before the step changed anything: its batch comes first
            stop.at_once = False
            if self.ranks.first and self.monitor.well:
                self._save(last=True)
            raise DataError(
                f"no batch for step {trainer.step + 1}: {error} ({self._farewell()}; with the data back, the same "
                "command goes on)"
            ) from error
        self.seconds = time.perf_counter() - started
        return values

    def _look(self, stop: StopSignals) -> None:
        """Previews and metrics of the step that is done; a signal puts them off."""
        if self.log is None:
            return
        self.unseen = True
        if stop:
            return
        try:
            stop.at_once = True
            measured = self.hooks.look(self.trainer, self.log)
            stop.at_once = False
        except LeaveNow:
            return
        if measured:
            self._log(measured)
        self.unseen = False

    def _keep_best(self) -> None:
        if self.log is not None:
            self.hooks.keep_best(self.trainer, self._checkpoint)

    def _leave(self, stop: StopSignals) -> None:
        assert stop.signum is not None
        if self.monitor.well:
            self._save(last=True)
        raise Stopped(stop.signum, self._farewell())

    def _farewell(self) -> str:
        step = self.trainer.step
        if self.saved is None:
            return f"stopped at step {step}, no checkpoint written yet"
        if self.saved == step:
            return f"stopped at step {step}, checkpoint written"
        return f"stopped at step {step}, the newest checkpoint is of step {self.saved}"

    # --- what is written --------------------------------------------------------------------------

    def _save(self, last: bool = False) -> None:
        """A checkpoint of the step that is done, and older ones deleted.

        Where it cannot be written training goes on with the old one, unless this was the `last` chance.
        """
        step = self.trainer.step
        if self.saved == step:
            return
        if not self.ranks.first:
            self.saved = step
            return
        try:
            self._restore_folder()
            self._write(self._checkpoint())
        except MachineError as error:
            if last:
                raise
            interval = self.settings.checkpoint_every
            self.say(f"step {step}: {error} (training goes on; the next try is at step {step + interval})")
            self._log({"event": "checkpoint not written", "culprit": str(error)})

    def _restore_folder(self) -> None:
        """A run without its configuration could not go on: put it back if somebody has deleted the folder."""
        if self.run.config_file.exists():
            return
        self.run.create(self.task.config)
        if self.log is not None:
            self.log.close()
            self.log = self._open_log()
        self.say(f"step {self.trainer.step}: {self.run.folder} was deleted; it is there again, with a new log")

    def _write(self, checkpoint: dict[str, Any]) -> None:
        folder = self.run.checkpoint_folder
        with self.ranks.saving():
            ckpt.save(folder / f"{self.task.config.stage}-step-{checkpoint['step']:06d}.pt", checkpoint)
        self.saved = checkpoint["step"]
        ckpt.prune(folder, self.settings.keep)

    def _log(self, values: dict[str, Any]) -> None:
        """A line of the log; training is worth more than the log, so an error is said and no more."""
        if self.log is None:
            return
        try:
            self.log.write(self.trainer.step, values)
        except (MachineError, OSError) as error:
            self._say_once("log", f"step {self.trainer.step}: {error} (training goes on; lines may be missing)")

    def say(self, message: str) -> None:
        """A line for the user, clear of the progress bar."""
        with tqdm.external_write_mode():
            self._tell(message)

    def _say_once(self, kind: str, message: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self.say(message)

    # --- health -----------------------------------------------------------------------------------

    def _check_health(self, values: dict[str, float]) -> None:
        trainer = self.trainer
        magnitudes = health.magnitudes(self.task.generator)
        if magnitudes:
            values["health/largest_magnitude"] = max(magnitudes.values())
        for event in self.monitor.check(trainer.step, values, trainer.bad_gradients, magnitudes):
            self._log(event.logged)
            self._say_once(event.kind, f"step {trainer.step}: {event}")

    def _roll_back(self) -> None:
        """Go on from the newest checkpoint, with other randomness.

        The checkpoint is written again with the new attempt, so that a kill later on does not lead back here.
        """
        limits, failed_at, since = self.monitor.limits, self.trainer.step, self.monitor.failing_since
        culprit = self.monitor.culprit
        recent = failed_at - limits.span * self.settings.checkpoint_every
        attempts = [r for r in self.rollbacks if r["from"] > recent]
        found = self._newest()
        if found is None or len(attempts) >= limits.roll_backs:
            what = f"{len(attempts)} roll-backs did not help" if attempts else "training has diverged"
            kept = f"the newest good checkpoint is {found[0]}" if found else "there is no good checkpoint yet"
            raise TrainingError(
                f"{culprit}, since step {since}: {what}; {kept}: start another run with {health.RATES}"
                + (", or with --precision bf16" if self.settings.precision == "fp16" else "")
                + (", from that checkpoint (--init) if it is a good one" if found else "")
            )
        rollbacks = [*self.rollbacks]
        self._restore(*found)
        self.monitor.clear()
        self.trainer.attempt = len(rollbacks) + 1
        entry = {"attempt": self.trainer.attempt, "from": failed_at, "to": self.trainer.step, "culprit": culprit}
        self.rollbacks = [*rollbacks, entry]
        self.ranks.agree(0)  # all have read the file that is written again now
        self.saved = None
        self._save()
        self.say(
            f"step {failed_at}: {culprit}, since step {since}: rolled back to {found[0].name}, going on with other "
            f"randomness (attempt {self.trainer.attempt + 1})"
        )
        if self.log is not None:
            self.log.close()
            self.log = self._open_log()
        self.bar.n = self.trainer.step
        self.bar.refresh()


def _protect(path: Path, reason: str) -> None:
    """Keep a checkpoint that a run started from, if its folder can be written."""
    if path.is_file():
        with contextlib.suppress(OSError):
            ckpt.protect(path, reason)


def _copied(state: Any) -> Any:
    """A copy in the CPU's memory of nested tensors and plain values."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(_copied(value) for value in state)
    return copy.deepcopy(state)


class _Means:
    """Means of logged values since the last report."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, values: dict[str, float]) -> None:
        for key, value in values.items():
            total, count = self._sums.get(key, (0.0, 0))
            self._sums[key] = (total + value, count + 1)

    def take(self) -> dict[str, Any]:
        means = {key: total / count for key, (total, count) in self._sums.items()}
        self._sums.clear()
        # JSON has no NaN: a value that is not finite is logged as text.
        return {k: v if math.isfinite(v) else str(v) for k, v in means.items()}

    def state(self) -> dict[str, tuple[float, int]]:
        return dict(self._sums)

    def load_state(self, state: dict[str, tuple[float, int]]) -> None:
        self._sums = {key: (total, count) for key, (total, count) in state.items()}


def _brief(values: dict[str, Any]) -> str:
    def show(key: str) -> str:
        value = values.get(key, 0.0)
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    return (
        f"G {show('loss/generator')}, D real {show('loss/discriminator_real')}, fake {show('loss/discriminator_fake')}"
    )
