"""What a run is doing, read from its folder alone: for ``lvgan runs``."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lvgan.checkpoint import checkpoints_in, step_of
from lvgan.errors import LvganError
from lvgan.training.hooks import best_so_far
from lvgan.training.logging import read_log
from lvgan.training.metrics import BEST_BY
from lvgan.training.runs import Run

LATEST = 10  # records at the end of the log that speed and failure are read from
FAILURES = ("non-finite loss", "non-finite gradient", "exploding magnitude")  # events; one alone is got over


@dataclass(frozen=True)
class Overview:
    """One run at a glance. What is not known is None.

    Attributes:
        state: running; finished (its last checkpoint is of step `steps`); failed (the log ends in failures);
            stopped (anything else that can go on); broken (see `problem`).
        step: the last one in the log, or of the newest checkpoint.
        seconds_per_step: mean of the last logged ones.
        seconds_left: for the remaining steps at that speed.
        losses, metrics: the last logged ones, by name; text where they are not finite.
        best: step and value of ``checkpoints/best.pt``, by the first of `metrics`.
        age: seconds since the run last wrote.
        problem: one sentence about a broken or failed run.
    """

    name: str
    folder: str
    state: str
    stage: str | None = None
    data: str | None = None
    step: int | None = None
    steps: int | None = None
    seconds_per_step: float | None = None
    seconds_left: float | None = None
    losses: dict[str, float | str] | None = None
    metrics: dict[str, float | str] | None = None
    best: tuple[int, float] | None = None
    age: float | None = None
    problem: str | None = None


def overviews(root: Path) -> list[Overview]:
    """Every folder under `root`, that which wrote last first."""
    folders = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    found = [overview(Run(folder)) for folder in folders]
    return sorted(found, key=lambda o: (math.inf if o.age is None else o.age, o.name))


def overview(run: Run) -> Overview:
    """One run; never raises because of what is in its folder."""
    try:
        return _overview(run)
    except UnicodeDecodeError:
        reason = f"{run.config_file} is not text"
    except (LvganError, OSError) as error:
        reason = f"it has no {run.config_file.name}" if not run.config_file.exists() else str(error)
    return Overview(run.name, str(run.folder), "broken", age=_age(run), problem=reason)


def _overview(run: Run) -> Overview:
    config = run.config()
    log = read_log(run.folder / "log.jsonl")
    intact, _ = checkpoints_in(run.checkpoint_folder)
    saved = step_of(intact[-1]) if intact else None
    logged = int(log[-1]["step"]) if log else None
    step = max((s for s in (saved, logged) if s is not None), default=0)
    steps = config.training.steps
    speed = _speed(log)
    age = _age(run)
    state, problem = "stopped", None
    if saved is not None and saved >= steps:
        state = "finished"
    elif _is_running(run, age, (speed or 0) * config.training.log_every):
        state = "running"
    elif (problem := _failure(log)) is not None:
        state = "failed"
    best_step, best = best_so_far(run, BEST_BY[config.stage])
    return Overview(
        name=run.name,
        folder=str(run.folder),
        state=state,
        stage=config.stage,
        data=config.data.path,
        step=step,
        steps=steps,
        seconds_per_step=speed,
        seconds_left=None if speed is None else speed * max(0, steps - step),
        losses=_last(log, "loss/"),
        metrics=_last(log, "metric/"),
        best=None if best_step is None else (best_step, best),
        age=age,
        problem=problem,
    )


def _speed(log: list[dict[str, Any]]) -> float | None:
    seconds = [v for line in log if isinstance(v := line.get("time/seconds_per_step"), float)][-LATEST:]
    return sum(seconds) / len(seconds) if seconds else None


def _last(log: list[dict[str, Any]], prefix: str) -> dict[str, float | str]:
    """The newest value of every key that begins so: R1 and metrics are not in every line."""
    newest: dict[str, float | str] = {}
    for line in log:
        newest |= {k: v for k, v in line.items() if k.startswith(prefix)}
    return newest


def _failure(log: list[dict[str, Any]]) -> str | None:
    """Why a log that ends with an error does so."""
    last = log[-1] if log else {}
    events = [line for line in log[-LATEST:] if line.get("event") in FAILURES]
    if len(events) >= 3 or last.get("event") == "checkpoint not written":
        worst = last if last.get("event") == "checkpoint not written" else events[-1]
        return f"{worst['event']} at step {worst['step']}: {worst.get('culprit', 'unknown')}"
    bad = [k for k, v in last.items() if k.startswith("loss/") and isinstance(v, str)]
    return f"{bad[0]} is {last[bad[0]]} at step {last['step']}" if bad else None


def _age(run: Run) -> float | None:
    """Seconds since something was written."""
    times = []
    for path in (run.folder / "log.jsonl", run.config_file, run.checkpoint_folder):
        if path.exists():
            times.append(path.stat().st_mtime)
    return max(0.0, time.time() - max(times)) if times else None


def _is_running(run: Run, age: float | None, interval: float) -> bool:
    """Whether a process trains there: it holds the lock; without locks, the log is young."""
    lock = run.folder / ".lock"
    try:
        import fcntl

        with lock.open("r+", encoding="utf-8") as file:
            if not file.read(1):  # its holder names itself; an ended one leaves it empty
                return False
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False
    except (ImportError, OSError):
        return age is not None and age < max(60.0, 3 * interval) and (run.folder / "log.jsonl").exists()
