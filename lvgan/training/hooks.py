"""What happens at every ``training.sample_every`` steps beside training: pictures, a metric, the best checkpoint.

Nothing here touches the networks, the optimisers or any random state, and no failure here stops training.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lvgan import checkpoint as ckpt
from lvgan.training.logging import RunLog, read_log
from lvgan.training.metrics import BEST_BY, read_json, write_json
from lvgan.training.runs import Run
from lvgan.training.trainer import Trainer

BEST, BEST_RECORD = "best.pt", "best.json"
_T = TypeVar("_T")


class Hooks:
    """Previews and metrics of one run.

    Args:
        warn: told, in one sentence, what did not work.
    """

    def __init__(self, run: Run, warn: Callable[[str], None]) -> None:
        self._run, self._warn = run, warn

    def look(self, trainer: Trainer, log: RunLog) -> dict[str, Any]:
        """Pictures and clips of the average generator, into ``samples/`` and `log`; its metric, to be logged."""
        step, folder = trainer.step, self._run.sample_folder
        started = time.perf_counter()

        def show() -> None:
            trainer.task.preview(trainer.average, folder, step)
            log.show(step, preview_files(folder, f"step-{step:06d}"))

        self._guard(f"the preview of step {step}", show)
        values = self._guard(
            f"the metric of step {step}", lambda: trainer.task.measure(trainer.average, self._run.folder)
        )
        if not values:
            return {}
        logged = {k: v if math.isfinite(v) else str(v) for k, v in values.items()}  # JSON has no NaN
        return {**logged, "time/preview": time.perf_counter() - started}

    def keep_best(self, trainer: Trainer, checkpoint: Callable[[], dict[str, Any]]) -> None:
        """Keep the step's checkpoint as ``checkpoints/best.pt`` if the log has no better step up to it.

        Asked after what belongs to the step was written, and when training goes on from there: a kill in between
        loses nothing.

        Args:
            checkpoint: what to write where the step has no file of its own.
        """
        key = BEST_BY[trainer.task.config.stage]
        value = next((v[key] for v in reversed(read_log(self._run.folder / "log.jsonl"))
                      if v["step"] == trainer.step and key in v), None)  # fmt: skip
        if isinstance(value, float) and value < best_so_far(self._run, key)[1]:
            self._guard("the best checkpoint", lambda: self._write_best(trainer, key, value, checkpoint))

    def _write_best(self, trainer: Trainer, key: str, value: float, checkpoint: Callable[[], dict[str, Any]]) -> None:
        folder = self._run.checkpoint_folder
        same = folder / f"{trainer.task.config.stage}-step-{trainer.step:06d}.pt"
        if same.exists():
            link(same, folder / BEST)
        else:
            ckpt.save(folder / BEST, checkpoint())
        write_json(folder / BEST_RECORD, {"step": trainer.step, key: value})

    def _guard(self, what: str, work: Callable[[], _T]) -> _T | None:
        """`work`'s result; a warning and None if it fails: a picture is not worth a day of training."""
        try:
            return work()
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            self._warn(f"{what} could not be made ({reason}); training goes on")
            return None


def best_so_far(run: Run, key: str) -> tuple[int | None, float]:
    """Step and value of ``best.pt``; infinite without one."""
    record = read_json(run.checkpoint_folder / BEST_RECORD)
    step, value = record.get("step"), record.get(key)
    if not isinstance(step, int) or not isinstance(value, float) or not (run.checkpoint_folder / BEST).exists():
        return None, math.inf
    return step, value


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
