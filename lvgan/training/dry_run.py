"""What a run will cost, measured over a few steps of it (``--dry-run``). Nothing is written."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch

from lvgan.training import memory
from lvgan.training.distributed import Ranks
from lvgan.training.task import Sample, Task
from lvgan.training.trainer import Trainer

STEPS = 3


@dataclass(frozen=True)
class Estimate:
    """Seconds a step (R1's share included; `cpu_seconds`: of all threads), of those waiting for data; bytes.

    `gpu_peak` is what torch's allocator took (None without a GPU), `checkpoint` one file, `disk` all that stay.
    Memory and processor time are those of one of `processes`.
    """

    seconds: float
    cpu_seconds: float
    r1_seconds: float
    data_seconds: float
    ram_peak: int
    gpu_peak: int | None
    checkpoint: int
    checkpoints: int
    steps: int
    processes: int = 1

    @property
    def hours(self) -> float:
        """For the whole run, previews and metrics left out."""
        return self.seconds * self.steps / 3600

    @property
    def disk(self) -> int:
        """Bytes of the checkpoints that stay, and of one more while it is written."""
        return self.checkpoint * (self.checkpoints + 1)

    def lines(self) -> list[str]:
        """For people."""
        share = 100 * self.data_seconds / self.seconds if self.seconds else 0.0
        gpu = "" if self.gpu_peak is None else f", {self.gpu_peak / 1e9:.2f} GB of GPU memory"
        return [
            f"{self.seconds:.3f} s/step, R1's share included (a step with R1: {self.r1_seconds:.3f} s); "
            f"{share:.1f} % of it waiting for data",
            f"peak: {self.ram_peak / 1e9:.2f} GB of RAM{gpu}"
            + (f", in each of {self.processes} processes" if self.processes > 1 else ""),
            f"the whole run: {_duration(self.hours)} for {self.steps} steps, besides previews and metrics",
            f"checkpoints: {self.checkpoint / 1e6:.1f} MB each, {self.checkpoints} of them stay: "
            f"{self.disk / 1e9:.2f} GB of disk",
        ]


def _duration(hours: float) -> str:
    if hours < 1:
        return f"{hours * 60:.1f} minutes"
    return f"{hours:.1f} hours" if hours < 72 else f"{hours / 24:.1f} days"


def dry_run(
    task: Task, device: torch.device, say: Callable[[str], None], steps: int = STEPS, ranks: Ranks | None = None
) -> Estimate:
    """Take `steps` steps without R1 and as many with it (after one that does not count), and reckon from them.

    The weights of `task` are trained a little by it: use it for nothing else. All ranks call this together.
    """
    settings = task.config.training
    clock = _DataClock(task)
    trainer = Trainer(cast(Task, clock), ranks)
    memory.forget_peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    say(f"measuring {2 * steps} steps")
    _timed_step(trainer, device)  # step 0, with R1
    plain: list[tuple[float, float]] = []
    with_r1: list[tuple[float, float]] = []
    waited: list[float] = []
    for index in range(steps):
        for step, times in ((index * settings.r1_every + 1, plain), ((index + 1) * settings.r1_every, with_r1)):
            trainer.step = step
            times.append(_timed_step(trainer, device))
            waited.append(clock.seconds)
    (usual, usual_cpu), (r1, r1_cpu) = (map(statistics.median, zip(*times, strict=True)) for times in (plain, with_r1))
    count = -(-settings.steps // settings.checkpoint_every)
    keep = getattr(settings, "keep", 0)
    return Estimate(
        seconds=usual + (r1 - usual) / settings.r1_every,
        cpu_seconds=usual_cpu + (r1_cpu - usual_cpu) / settings.r1_every,
        r1_seconds=r1,
        data_seconds=statistics.median(waited),
        ram_peak=memory.peak_resident(),
        gpu_peak=torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None,
        checkpoint=_size(trainer),
        checkpoints=min(keep, count) if keep else count,
        steps=settings.steps,
        processes=trainer.ranks.world,
    )


def _timed_step(trainer: Trainer, device: torch.device) -> tuple[float, float]:
    """Seconds of wall and of processor time."""
    started, cpu_started = time.perf_counter(), time.process_time()
    trainer.run_step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started, time.process_time() - cpu_started


def _size(trainer: Trainer) -> int:
    counter = _Counter()
    torch.save(trainer.checkpoint(), counter)  # type: ignore[arg-type]
    return counter.size


class _DataClock:
    """A task whose batches come in order, whatever step is asked for (so that they are loaded ahead), timed."""

    def __init__(self, task: Task) -> None:
        self._task, self._next = task, 0
        self.seconds = 0.0  # that the last batch was waited for

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def real(self, step: int) -> Sample:
        started = time.perf_counter()
        real = self._task.real(self._next)
        self._next += 1
        self.seconds = time.perf_counter() - started
        return real


class _Counter(io.RawIOBase):
    """A file that counts bytes and forgets them."""

    size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        count = len(memoryview(data).cast("B"))  # type: ignore[arg-type]
        self.size += count
        return count
