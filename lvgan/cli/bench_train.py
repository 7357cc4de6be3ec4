"""``lvgan bench train``: what a training step costs, against the plain way and against its convolutions alone.

Wall time and processor time (of all threads, user and system) are both given: on a machine that others use too,
only the latter says much. The ways are timed in turn, a step each, so that both see the same load.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lvgan import config as cfg
from lvgan.cli.bench_ops import straightforward
from lvgan.data.dataset import ClipDataset
from lvgan.data.resize import crop_resize
from lvgan.data.shards import ShardWriter, encode_jpeg, shard_name
from lvgan.data.windows import Batches, Windows
from lvgan.device import keep_freed_memory
from lvgan.errors import ConfigError
from lvgan.ops import native
from lvgan.pixels import from_bytes
from lvgan.sizes import Size
from lvgan.training.dry_run import dry_run
from lvgan.training.lr import LrTask
from lvgan.training.precision import computing, cpu_has_bfloat16
from lvgan.training.sr import SrTask
from lvgan.training.task import Sample, Task
from lvgan.training.trainer import Trainer

Row = dict[str, Any]
Say = Callable[[str], object]

SIZES = {"tiny": ("32x32", "128x128"), "small": ("64x64", "256x256"), "paper": ("64x64", "256x256")}
# Clips a step in the comparison (a step's time is all but proportional to them); 0: the preset's.
COMPARED_BATCH = {"tiny": 0, "small": 1, "paper": 1}


@dataclass(frozen=True)
class Times:
    """Medians of wall and processor seconds."""

    wall: float
    cpu: float


class Clock:
    """Seconds since it was made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._wall, self._cpu = self._now()

    def _now(self) -> tuple[float, float]:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter(), time.process_time()

    def read(self) -> Times:
        wall, cpu = self._now()
        return Times(wall - self._wall, cpu - self._cpu)


def medians(times: Sequence[Times]) -> Times:
    return Times(statistics.median(t.wall for t in times), statistics.median(t.cpu for t in times))


# --- tasks ------------------------------------------------------------------------------------------


CLIPS, FRAMES = 4, 180


@contextlib.contextmanager
def footage(preset: str) -> Iterator[Path]:
    """Shards of moving patterns at the preset's sizes, for as long as the block runs."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="lvgan-bench-") as folder:
        patterns = rng.integers(0, 256, (CLIPS, 20, 20, 3), dtype=np.uint8)
        for size in map(Size.parse, SIZES[preset]):
            place = Path(folder) / f"{size.height:04d}x{size.width:04d}"
            place.mkdir()
            with ShardWriter(place / shard_name(0)) as shard:
                for clip, pattern in enumerate(patterns):
                    for frame in range(FRAMES):
                        moved = crop_resize(np.roll(pattern, frame, 1), size)
                        shard.add(f"clip-{clip}", encode_jpeg(moved))
                shard.finish()
                shard.commit()
        yield Path(folder)


def configuration(preset: str, stage: str, shards: Path, **training: object) -> cfg.Config:
    """The preset's, on `shards`, with other settings of training."""
    low, high = SIZES[preset]
    values = cfg.merge(cfg.load_preset(preset, stage), {"data": {"path": str(shards), "lr": low, "hr": high}})
    return cfg.build(stage, cfg.merge(values, {"training": training}))


def make_task(config: cfg.Config, device: torch.device) -> LrTask | SrTask:
    """The task of a configuration."""
    dataset = ClipDataset(Path(config.data.path), config.data.lr, config.data.hr, min_frames=config.data.frames)
    dataset.open_cache("memory", progress=False)
    if isinstance(config, cfg.LrConfig):
        return LrTask(config, dataset, device)
    return SrTask(config, dataset, device)


class PlainTask:
    """A task that loads a batch when it is needed, in one thread, while everything else waits."""

    def __init__(self, task: LrTask | SrTask) -> None:
        self._task = task
        data, s = task.config.data, task.config.training
        dataset = ClipDataset(Path(data.path), data.lr, data.hr, min_frames=data.frames)

        context = () if isinstance(data, cfg.LrData) else (data.context,)
        windows = Windows(dataset, data.frames, *context, flip=data.flip)
        self._batches = Batches(windows, s.batch, seed=s.seed, threads=1, ahead=0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def real(self, step: int) -> Sample:
        return tuple(from_bytes(clip.to(self._task.device)) for clip in self._batches.get(step))

    def close(self) -> None:
        self._batches.close()
        self._task.close()


# --- against the plain way ----------------------------------------------------------------------------


def timed_step(trainer: Trainer, device: torch.device) -> Times:
    """One step from where `trainer` stands."""
    clock = Clock(device)
    trainer.run_step()
    return clock.read()


def step_row(config: cfg.Config, device: torch.device, name: str, repeats: int) -> Row:
    """A step of ours (R1's share included) against the same step written plainly."""
    every = config.training.r1_every
    ours, plain = make_task(config, device), PlainTask(make_task(config, device))
    with contextlib.closing(ours), contextlib.closing(plain):
        trainers: list[tuple[Trainer, Callable[[], Any]]] = [
            (Trainer(ours), contextlib.nullcontext),
            (Trainer(cast(Task, plain)), straightforward),
        ]
        times: list[list[Times]] = [[], [], [], []]  # ours, plain; the same with R1
        for repeat in range(repeats + 1):
            for with_r1 in (False, True):
                for which, (trainer, way) in enumerate(trainers):
                    trainer.step = every * (repeat + 1) - (0 if with_r1 else 1)
                    with way():
                        taken = timed_step(trainer, device)
                    if repeat:  # the first ones do not count
                        times[which + 2 * with_r1].append(taken)
    usual, plain_usual, r1, plain_r1 = (medians(t) for t in times)
    seconds, plain_seconds = _average(usual, r1, every), _average(plain_usual, plain_r1, every)
    return {
        "name": name,
        "ratio": plain_seconds.cpu / seconds.cpu,
        "ratio_wall": plain_seconds.wall / seconds.wall,
        "cpu_seconds": seconds.cpu,
        "seconds": seconds.wall,
        "plain_cpu_seconds": plain_seconds.cpu,
        "plain_seconds": plain_seconds.wall,
        "spread": max(t.cpu for t in times[0]) / min(t.cpu for t in times[0]),  # of ours: how noisy this machine is
    }


def _average(usual: Times, r1: Times, every: int) -> Times:
    return Times(usual.wall + (r1.wall - usual.wall) / every, usual.cpu + (r1.cpu - usual.cpu) / every)


# --- against its convolutions -------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A convolution or its gradient: which, and its arguments with tensors as (shape, strides, type)."""

    function: Any
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Like:
    """What a tensor looks like."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    def make(self, device: torch.device) -> Tensor:
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device=device).normal_()


class Convolutions(TorchDispatchMode):
    """Counts the convolutions that run inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Call] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default):
            self.calls[Call(func, tuple(_plain(a) for a in args))] += 1
        return func(*args, **(kwargs or {}))


def _plain(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return Like(tuple(argument.shape), argument.stride(), argument.dtype)
    return tuple(argument) if isinstance(argument, list) else argument


def alone(calls: Counter[Call], device: torch.device, repeats: int) -> Times:
    """The convolutions of `calls`, each timed on its own on random numbers, and summed.

    The numbers are written anew each time, as they are in a step: a convolution that just had the same ones finds
    them in the cache (measured, tiny: 806 ms, against 820 ms in this way and 816 ms within the step).
    """
    wall = cpu = 0.0
    for call, count in calls.items():
        times = []
        for _ in range(repeats):
            arguments: list[Any] = [a.make(device) if isinstance(a, Like) else a for a in call.arguments]
            clock = Clock(device)
            call.function(*arguments)
            times.append(clock.read())
        taken = medians(times)
        wall, cpu = wall + count * taken.wall, cpu + count * taken.cpu
    return Times(wall, cpu)


def convolution_row(config: cfg.Config, device: torch.device, name: str, repeats: int) -> Row:
    """A step without R1 against the time of the convolutions (forward and backward) in it."""
    task = make_task(config, device)
    with contextlib.closing(task):
        trainer = Trainer(task)
        trainer.step = 1
        with Convolutions() as found:
            trainer.run_step()
        steps, convolutions = [], []
        for _ in range(repeats):  # in turn: both see the same load
            steps.append(timed_step(trainer, device))
            convolutions.append(alone(found.calls, device, 3))
    step, least = medians(steps), medians(convolutions)
    return {
        "name": name,
        "ratio": step.cpu / least.cpu,
        "ratio_wall": step.wall / least.wall,
        "cpu_seconds": step.cpu,
        "seconds": step.wall,
        "convolution_cpu_seconds": least.cpu,
        "convolution_seconds": least.wall,
        "convolutions": sum(found.calls.values()),
    }


# --- the table of settings ----------------------------------------------------------------------------


def settings_of(stage: str, device: torch.device, compiled: bool) -> list[dict[str, Any]]:
    """The ways of computing that are worth comparing."""
    cuda = device.type == "cuda"
    ways: list[dict[str, Any]] = [{"precision": "fp32"}]
    if cuda:
        ways.append({"precision": "tf32"})
    if cuda or cpu_has_bfloat16():
        ways.append({"precision": "bf16"})
    if cuda and stage == "sr":
        ways.append({"precision": "fp16"})
    ways.append({"precision": "fp32", "channels_last": True})
    if cuda:
        ways.append({"precision": "bf16", "channels_last": True})
    ways.append({"precision": "fp32", "checkpoint_activations": True})
    if compiled:
        ways += [{"precision": p, "compile": True} for p in (("tf32", "bf16") if cuda else ("fp32",))]
    return ways


def setting_row(config: cfg.Config, device: torch.device, name: str, steps: int, say: Say) -> Row:
    """Seconds a step and peak memory, as ``--dry-run`` measures them."""
    row = _unmeasured(config, name)
    task = make_task(config, device)
    try:
        with (
            contextlib.closing(task),
            computing(config, task.generator, task.discriminator, device, _if_not_compiled(say)),
        ):
            estimate = dry_run(task, device, _nothing, steps)
    except torch.OutOfMemoryError:
        return row
    finally:
        del task
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    gpu = None if estimate.gpu_peak is None else estimate.gpu_peak / 1e9
    return row | {
        "seconds": estimate.seconds,
        "cpu_seconds": estimate.cpu_seconds,
        "data_share": estimate.data_seconds / estimate.seconds,
        "ram_gb": estimate.ram_peak / 1e9,
        "gpu_gb": gpu,
    }


def row_alone(config: cfg.Config, device: torch.device, name: str, steps: int, say: Say) -> Row:
    """:func:`setting_row` in a process of its own: memory that an earlier row took would count here too."""
    spawning = multiprocessing.get_context("spawn")
    receiver, sender = spawning.Pipe(duplex=False)
    process = spawning.Process(target=_send_row, args=(sender, config, str(device), name, steps), daemon=True)
    process.start()
    sender.close()
    said: list[str]
    try:
        row, said = receiver.recv()
    except EOFError:
        process.join()
        if process.exitcode != -signal.SIGKILL:
            raise RuntimeError(f"measuring {name} has failed") from None
        row, said = _unmeasured(config, name), []  # the system ends what takes too much
    process.join()
    for line in said:
        say(line)
    return cast(Row, row)


def _send_row(sender: Connection, config: cfg.Config, device: str, name: str, steps: int) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)  # the parent says that it was stopped
    target, said = torch.device(device), list[str]()
    native.activate(target, _nothing)
    if target.type == "cpu":
        keep_freed_memory()
    sender.send((setting_row(config, target, name, steps, said.append), said))


def _unmeasured(config: cfg.Config, name: str) -> Row:
    settings = config.training
    return {"name": name, "batch": settings.batch, "micro_batch": settings.micro_batch, "seconds": None, "gpu_gb": None}


def _if_not_compiled(say: Say) -> Callable[[str], None]:
    def tell(message: str) -> None:
        if "not compiled" in message:
            say(message)

    return tell


def _nothing(message: str) -> None:
    pass


# --- all of it ----------------------------------------------------------------------------------------


def run(
    preset: str, stages: Sequence[str], device: torch.device, *, quick: bool, table: bool, compiled: bool, say: Say
) -> list[Row]:
    """All rows, printed as they are measured."""
    if preset not in SIZES:
        raise ConfigError(f"--preset {preset} was given, but one of {', '.join(SIZES)} was expected")
    rows: list[Row] = []
    repeats = 1 if quick else 3
    if device.type == "cpu":
        keep_freed_memory()  # as training does; the plain way profits too

    def show(row: Row, line: str) -> None:
        rows.append(row)
        say(line)

    with footage(preset) as shards:
        for stage in stages:
            if table:
                config = configuration(preset, stage, shards)
                for way in settings_of(stage, device, compiled):
                    chosen = replace(config, training=replace(config.training, **way))  # type: ignore[arg-type]
                    name = f"{preset} {stage}, " + ", ".join(v if k == "precision" else k for k, v in way.items())
                    row = row_alone(chosen, device, name, repeats, say)
                    show(row, _setting_line(row))
                continue
            batch = {"batch": COMPARED_BATCH[preset]} if COMPARED_BATCH[preset] else {}
            config = configuration(preset, stage, shards, micro_batch=0, **batch)
            row = step_row(config, device, f"{preset} {stage} step against the plain way", repeats)
            show(row, _ratio_line(row, "plain_"))
            row = convolution_row(config, device, f"{preset} {stage} step against its convolutions", repeats)
            show(row, _ratio_line(row, "convolution_"))
    return rows


def _ratio_line(row: Row, other: str) -> str:
    cpu, wall = (f"{row[key] * 1e3:.0f} : {row[other + key] * 1e3:.0f} ms" for key in ("cpu_seconds", "seconds"))
    return f"{row['name']:<42} cpu {row['ratio']:5.2f} ({cpu})   wall {row['ratio_wall']:5.2f} ({wall})"


def _setting_line(row: Row) -> str:
    if row["seconds"] is None:
        return f"{row['name']:<42} does not fit"
    memory = f"{row['gpu_gb']:.2f} GB" if row["gpu_gb"] is not None else f"{row['ram_gb']:.2f} GB of RAM"
    data = f"{100 * row['data_share']:.1f} % waiting for data"
    return f"{row['name']:<42} {row['seconds']:8.3f} s/step (cpu {row['cpu_seconds']:.3f})   {memory}   {data}"
