"""The one training loop, for both networks: load or start, then step, log, preview, checkpoint.

What differs between the networks is a :class:`lvgan.training.task.Task`. Running the same command again
goes on exactly. Where there are several ranks, all go through the same loop; rank 0 logs, saves and previews.
"""

from __future__ import annotations

import math
import time

from tqdm import tqdm

from lvgan import checkpoint as ckpt
from lvgan.training.distributed import Ranks
from lvgan.training.health import Finite
from lvgan.training.logging import RunLog
from lvgan.training.runs import Run
from lvgan.training.signals import Stopped, stop_signals
from lvgan.training.task import Task
from lvgan.training.trainer import Trainer


def train(task: Task, run: Run, *, progress: bool = True, ranks: Ranks | None = None) -> int:
    """Train `task` in `run` up to ``training.steps``, from the run's newest checkpoint if it has one.

    Returns the step reached. Raises :class:`Stopped` after SIGINT or SIGTERM (to any rank), a checkpoint written.
    """
    settings = task.config.training
    ranks = Ranks() if ranks is None else ranks
    trainer = Trainer(task, ranks)
    newest = ranks.from_first(run.newest_checkpoint)
    if newest is not None:
        trainer.load(newest)
    if ranks.world > 1:
        ranks.check_same(trainer.facts())
    log = None
    if ranks.first:
        run.create(task.config)
        log = RunLog(run.folder, trainer.step)
    saved = trainer.step if newest is not None else -1

    def save() -> None:
        nonlocal saved
        if saved != trainer.step and ranks.first:
            name = f"{task.config.stage}-step-{trainer.step:06d}.pt"
            with ranks.saving():
                ckpt.save(run.checkpoint_folder / name, trainer.checkpoint())
            saved = trainer.step

    bar = tqdm(
        total=settings.steps,
        initial=trainer.step,
        unit="step",
        disable=not (progress and ranks.first),
        dynamic_ncols=True,
        smoothing=0.1,
    )
    try:
        with stop_signals() as received:
            means, finite = _Means(), Finite()
            while trainer.step < settings.steps:
                started = time.perf_counter()
                values = trainer.run_step()
                seconds = time.perf_counter() - started
                finite.check(trainer.step, values, run.newest_checkpoint())
                means.add(values | {"time/seconds_per_step": seconds})
                bar.update()
                done = trainer.step == settings.steps
                stop = ranks.agree(received[0] if received else 0)
                if log is not None and (trainer.step % settings.log_every == 0 or done or stop):
                    logged = means.take()
                    bar.set_postfix_str(_brief(logged))
                    log.write(trainer.step, logged)
                if (trainer.step % settings.checkpoint_every == 0 or done or stop) and finite.now:
                    save()
                if ranks.first and (trainer.step % settings.sample_every == 0 or done) and not stop:
                    task.preview(trainer.average, run.sample_folder, trainer.step)
                if stop:
                    raise Stopped(stop, trainer.step)
            save()  # of a run of no steps
    finally:
        bar.close()
        if log is not None:
            log.close()
    return trainer.step


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
