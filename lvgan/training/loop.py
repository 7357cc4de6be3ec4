"""The one training loop, for both networks: load or start, then step, log, preview, checkpoint.

What differs between the networks is a :class:`lvgan.training.task.Task`. Running the same command again
goes on exactly.
"""

from __future__ import annotations

import math
import sys
import time

from tqdm import tqdm

from lvgan import checkpoint as ckpt
from lvgan.training.health import Finite
from lvgan.training.hooks import Hooks
from lvgan.training.logging import RunLog
from lvgan.training.runs import Run
from lvgan.training.signals import Stopped, stop_signals
from lvgan.training.task import Task
from lvgan.training.trainer import Trainer
from lvgan.training.wandb_log import WandbLog


def train(task: Task, run: Run, *, progress: bool = True) -> int:
    """Train `task` in `run` up to ``training.steps``, from the run's newest checkpoint if it has one.

    Returns the step reached. Raises :class:`Stopped` after SIGINT or SIGTERM, a checkpoint written.
    """
    settings = task.config.training
    trainer = Trainer(task)
    newest = run.newest_checkpoint()
    if newest is not None:
        trainer.load(newest)
    run.create(task.config)
    tracker = WandbLog(task.config, run.folder, _warn) if settings.wandb else None
    log = RunLog(run.folder, trainer.step, tracker)
    saved = trainer.step if newest is not None else -1

    def save() -> None:
        nonlocal saved
        if saved != trainer.step:
            name = f"{task.config.stage}-step-{trainer.step:06d}.pt"
            ckpt.save(run.checkpoint_folder / name, trainer.checkpoint())
            saved = trainer.step

    bar = tqdm(
        total=settings.steps,
        initial=trainer.step,
        unit="step",
        disable=not progress,
        dynamic_ncols=True,
        smoothing=0.1,
    )
    try:
        with stop_signals() as stop:
            means, finite = _Means(), Finite()
            hooks = Hooks(run, _warn)
            hooks.keep_best(trainer, trainer.checkpoint)
            while trainer.step < settings.steps:
                started = time.perf_counter()
                values = trainer.run_step()
                seconds = time.perf_counter() - started
                finite.check(trainer.step, values, run.newest_checkpoint())
                means.add(values | {"time/seconds_per_step": seconds})
                bar.update()
                done = trainer.step == settings.steps
                if trainer.step % settings.log_every == 0 or done or stop:
                    logged = means.take()
                    bar.set_postfix_str(_brief(logged))
                    log.write(trainer.step, logged)
                seen = (trainer.step % settings.sample_every == 0 or done) and not stop
                if seen and (measured := hooks.look(trainer, log)):
                    log.write(trainer.step, measured)
                if (trainer.step % settings.checkpoint_every == 0 or done or stop) and finite.now:
                    save()
                if seen and finite.now:
                    hooks.keep_best(trainer, trainer.checkpoint)
                if stop:
                    raise Stopped(stop[0], trainer.step)
            save()  # of a run of no steps
    finally:
        bar.close()
        log.close()
    return trainer.step


def _warn(message: str) -> None:
    tqdm.write(f"lvgan: warning: {message}", file=sys.stderr)


class _Means:
    """Means of logged values since the last report."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, values: dict[str, float]) -> None:
        for key, value in values.items():
            total, count = self._sums.get(key, (0.0, 0))
            self._sums[key] = (total + value, count + 1)

    def take(self) -> dict[str, float]:
        means = {key: total / count for key, (total, count) in self._sums.items()}
        self._sums.clear()
        # JSON has no NaN: a value that is not finite is logged as text.
        return {k: v if math.isfinite(v) else str(v) for k, v in means.items()}  # type: ignore[misc]


def _brief(values: dict[str, float]) -> str:
    def show(key: str) -> str:
        value = values.get(key, 0.0)
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    return (
        f"G {show('loss/generator')}, D real {show('loss/discriminator_real')}, fake {show('loss/discriminator_fake')}"
    )
