"""From a request (data, preset, settings) to a trained run: what ``train-lr`` and ``train-sr`` do."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from lvgan import config as cfg
from lvgan.data.dataset import ClipDataset, choose_sizes, stored_fps
from lvgan.data.windows import window_span
from lvgan.device import keep_freed_memory
from lvgan.errors import ConfigError, MachineError
from lvgan.ops import native
from lvgan.training import memory
from lvgan.training.distributed import Ranks
from lvgan.training.dry_run import dry_run as measure
from lvgan.training.hooks import BEST, best_so_far
from lvgan.training.loop import train
from lvgan.training.lr import LrTask
from lvgan.training.metrics import BEST_BY
from lvgan.training.precision import computing
from lvgan.training.runs import RUNS, Run, choose_run
from lvgan.training.sr import SrTask
from lvgan.training.task import Task
from lvgan.training.wandb_log import check_wandb


@dataclass(frozen=True)
class Request:
    """What a user asks for.

    `preset` and `config_file` give the base (the paper's preset where neither is named), `overrides` and
    `flags` (nested plain values) are put on top, in this order. `wandb` gives training.wandb a name if it has none.
    """

    stage: str
    data: Path
    preset: str | None = None
    config_file: Path | None = None
    overrides: Sequence[str] = ()
    flags: Mapping[str, Any] = field(default_factory=dict)
    wandb: bool = False

    def resolve(self, stored: cfg.Config | None) -> cfg.Config:
        """The configuration for a run; a stored one is the base where no other was named."""
        if stored is not None and self.preset is None and self.config_file is None:
            values = cfg.to_dict(stored)
            values["data"] |= {"lr": None, "hr": None, "fps": None} if stored.data.path != self._path else {}
        else:
            values = cfg.load_preset(self.preset or "paper", self.stage)
            if self.config_file is not None:
                values = cfg.merge(values, cfg.load_file(self.config_file, self.stage))
        for override in self.overrides:
            over = cfg.parse_override(override)
            if dict(cfg.flatten(over)).get("data.path") is not None:
                raise ConfigError(f"--set {override} names the data, but the command's argument does; change that")
            values = cfg.merge(values, over)
        values = cfg.merge(values, self.flags)
        if self.wandb and not dict(cfg.flatten(values)).get("training.wandb"):
            values = cfg.merge(values, {"training": {"wandb": "lvgan"}})
        values = cfg.merge(values, {"data": {"path": self._path}})
        config = cfg.build(self.stage, values)
        return _of_the_data(config)

    @property
    def _path(self) -> str:
        return str(self.data.resolve())


def _of_the_data(config: cfg.Config) -> cfg.Config:
    """The configuration with the sizes and the frame rate that the data holds, where none were named."""
    root = Path(config.data.path)
    lr, hr = choose_sizes(root, config.data.lr, config.data.hr)
    data = replace(config.data, lr=lr, hr=hr, fps=config.data.fps or stored_fps(root))
    return replace(config, data=data)  # type: ignore[arg-type]


def train_stage(
    request: Request,
    *,
    run_name: str | None = None,
    new: bool = False,
    root: Path = RUNS,
    device: str = "auto",
    say: Callable[[str], None] = print,
    progress: bool = True,
    dry_run: bool = False,
) -> Run:
    """Train, or go on with training, and return the run.

    In a process that torchrun or ``--gpus`` started, this is one rank of several: rank 0 chooses the run, speaks
    and writes; all train. With `dry_run` a few steps are measured, what the whole run takes is said, and
    nothing is written.

    Raises:
        LvganError: for anything that the user can mend.
        Stopped: a signal asked to stop; a checkpoint was written.
        RankFailed: another rank has failed, and said why.
    """
    with Ranks.join(device) as ranks:
        say = say if ranks.first else _nothing
        return _train(
            request, ranks, run_name=run_name, new=new, root=root, say=say, progress=progress, dry_run=dry_run
        )


def _nothing(message: str) -> None:
    pass


def _train(
    request: Request,
    ranks: Ranks,
    *,
    run_name: str | None,
    new: bool,
    root: Path,
    say: Callable[[str], None],
    progress: bool,
    dry_run: bool,
) -> Run:
    choice = ranks.from_first(lambda: choose_run(request.stage, request.resolve, name=run_name, new=new, root=root))
    config, run = choice.config, choice.run
    if choice.finished:
        say(choice.message)
        return run
    if config.training.wandb:
        check_wandb()
    clips, target = ranks.share(config.training.batch), ranks.device
    dataset = _dataset(config)
    dataset.open_cache(config.data.cache, progress=progress, say=say)
    task: LrTask | SrTask
    if isinstance(config, cfg.LrConfig):
        task = LrTask(config, dataset, target, clips)
    else:
        task = SrTask(config, dataset, target, clips)
    say(choice.message)
    say(f"{dataset.kept_message}; training on {ranks.described}")
    native.activate(target, say)
    if target.type == "cpu":
        keep_freed_memory()
    if target.type == "cpu" and sum(p.numel() for p in task.generator.parameters()) > 10_000_000:
        say("a network of this size is made for GPUs: on a CPU a step takes minutes (--preset tiny is a first look)")
    with (
        contextlib.closing(task),
        _out_of_memory(config),
        computing(config, task.generator, task.discriminator, target, say),
    ):
        _settle_micro_batch(task, ranks, say)
        if dry_run:
            _say_estimate(task, ranks, root, say)
            return run
        train(task, run, progress=progress, say=say, ranks=ranks)
    if not ranks.first:
        return run
    shown = f"; previews are in {run.sample_folder}" if any(run.sample_folder.iterdir()) else ""
    key = BEST_BY[config.stage]
    best, value = best_so_far(run, key)
    if best is not None:
        shown += f"; {key.partition('/')[2]} was lowest at step {best} ({value:.4f}, checkpoints/{BEST})"
    say(f"{run.folder} is complete at step {run.step}{shown}")
    return run


def _settle_micro_batch(task: LrTask | SrTask, ranks: Ranks, say: Callable[[str], None]) -> None:
    """Put the largest micro-batch that fits into the configuration, where that was asked for."""
    settings = task.config.training
    if settings.micro_batch is None:
        found = memory.largest_micro_batch(task, ranks.device, say, ranks)
        task.config = replace(task.config, training=replace(settings, micro_batch=found))  # type: ignore[arg-type]


def _say_estimate(task: Task, ranks: Ranks, root: Path, say: Callable[[str], None]) -> None:
    estimate = measure(task, ranks.device, say, ranks=ranks)
    for line in estimate.lines():
        say(line)
    place = next(folder for folder in (root, *root.resolve().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < estimate.disk:
        say(f"only {free / 1e9:.2f} GB of disk are free in {place}: make space, or keep fewer checkpoints")


@contextlib.contextmanager
def _out_of_memory(config: cfg.Config) -> Iterator[None]:
    """Torch's two ways of running out of memory, as one sentence."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        held = config.training.micro_batch or config.training.batch
        raise MachineError(
            f"{held} clips at once do not fit into memory; use --micro-batch auto, or a smaller one than that (the "
            "result stays the same), or a smaller preset"
        ) from error


def _dataset(config: cfg.Config) -> ClipDataset:
    """The data of a configuration: only clips that are long enough."""
    context = config.data.context if isinstance(config, cfg.SrConfig) else 0
    needed = window_span(config.data.frames, context, config.data.stride)
    return ClipDataset(
        Path(config.data.path),
        lr=config.data.lr,
        hr=config.data.hr,
        min_frames=needed,
        channels=config.data.channels,
    )
