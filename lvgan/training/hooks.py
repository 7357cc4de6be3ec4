"""What happens at every ``training.sample_every`` steps beside training: pictures, a metric, the best checkpoint.

Nothing here touches the networks, the optimisers or any random state, and no failure here stops training.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lvgan import checkpoint as ckpt
from lvgan.training.logging import RunLog, read_log
from lvgan.training.metrics import BEST_BY, read_json, write_json
from lvgan.training.runs import Run
from lvgan.training.trainer import Trainer


class _StopAsked(Exception):  # noqa: N818  (no error: a signal came)
    pass


class Hooks:
    """Previews and metrics of one run.

    Args:
        warn: told, in one sentence, what did not work.
        stop: not empty once training shall stop: what is long then breaks off, and is made up for by
            :meth:`catch_up` when training goes on.
    """

    def __init__(self, run: Run, log: RunLog, warn: Callable[[str], None], stop: Sequence[int] = ()) -> None:
        self._run, self._log, self._warn, self._stop = run, log, warn, stop

    def catch_up(self, trainer: Trainer) -> None:
        """Measure the step that training goes on from, where a stop or a kill came before its measurement.

        So the log, and with it the best checkpoint, are those of a run that was never stopped.
        """
        settings = trainer.settings
        if trainer.step == 0 or trainer.step % settings.sample_every or settings.metric_clips == 0:
            return
        key = BEST_BY[trainer.task.config.stage]
        measured = any(key in line for line in read_log(self._log.path) if line["step"] == trainer.step)
        if not measured:
            self.sample(trainer)

    def sample(self, trainer: Trainer) -> None:
        """Pictures and clips of the average generator, and its metric."""
        step, task = trainer.step, trainer.task
        started = time.perf_counter()
        stem = f"step-{step:06d}"

        def show() -> None:
            task.preview(trainer.average, self._run.sample_folder, step)
            self._log.show(step, preview_files(self._run.sample_folder, stem))

        def measure() -> dict[str, float]:
            return task.measure(trainer.average, self._run.folder, self._tick)

        self._guard(f"the preview of step {step}", show)
        values = self._guard(f"the metric of step {step}", measure)
        key = BEST_BY[task.config.stage]
        if not values:
            return
        if math.isfinite(values.get(key, math.nan)):
            self._guard("the best checkpoint", lambda: self._keep_best(trainer, key, values[key]))
        # The line comes last: while it is missing, all this is done again (see catch_up).
        logged = {k: v if math.isfinite(v) else str(v) for k, v in values.items()}  # JSON has no NaN
        self._log.write(step, {**logged, "time/preview": time.perf_counter() - started})

    def _tick(self) -> None:
        if self._stop:
            raise _StopAsked

    def _guard(self, what: str, work: Callable[[], Any]) -> Any:
        """`work`'s result; a warning and None if it fails: a picture is not worth a day of training."""
        try:
            self._tick()
            return work()
        except _StopAsked:
            return None
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            self._warn(f"{what} could not be made ({reason}); training goes on")
            return None

    def _keep_best(self, trainer: Trainer, key: str, value: float) -> None:
        """Keep the step's checkpoint as ``checkpoints/best.pt`` if no earlier one has a lower value."""
        folder = self._run.checkpoint_folder
        best, record = folder / "best.pt", folder / "best.json"
        before = read_json(record).get(key)
        if isinstance(before, (int, float)) and before <= value and best.exists():
            return
        same = folder / f"{trainer.task.config.stage}-step-{trainer.step:06d}.pt"
        if same.exists():
            link(same, best)
        else:
            ckpt.save(best, trainer.checkpoint())
        write_json(record, {"step": trainer.step, key: value})


def preview_files(folder: Path, stem: str) -> dict[str, Path]:
    """Titles of the pictures and clips named `stem` or ``STEM-something``, and where they are."""
    files = {}
    for path in sorted(folder.glob(f"{stem}*")):
        kind = "picture" if path.suffix == ".png" else "clip"
        extra = path.stem[len(stem) :]
        if path.suffix in (".png", ".mp4") and (not extra or extra.startswith("-")) and ".partial" not in path.name:
            files[f"preview/{kind}{extra}"] = path
    return files


def link(source: Path, target: Path) -> None:
    """Give a file that is never changed another name, replacing what has it; a copy where links are impossible."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    try:
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
