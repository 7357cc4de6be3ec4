"""The one training loop, for both networks. What differs between them is a :class:`Task`.

Read top to bottom: load or start, then per step: generator, discriminator, R1 (every 16th), EMA, log,
preview, checkpoint. All randomness is a function of (seed, rank, step, phase), so that running the same
command again goes on exactly.
"""

from __future__ import annotations

import copy
import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lvgan import checkpoint as ckpt
from lvgan import config as cfg
from lvgan.errors import CheckpointError, TrainingError
from lvgan.models.build import load_weights
from lvgan.seeding import torch_generator
from lvgan.training import losses
from lvgan.training.ema import ema_decay, update_ema
from lvgan.training.logging import RunLog
from lvgan.training.runs import Run

_Draws = TypeVar("_Draws")
Sample = tuple[Tensor, ...]  # what a discriminator judges: tensors [N, ...]


class Stopped(Exception):  # noqa: N818  (no error: what was asked for)
    """Training was asked to stop by a signal, and has written a checkpoint."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.signum = signum


@dataclass(frozen=True)
class Phase:
    """Where randomness is drawn: its generators are functions of this and the clip's number."""

    seed: int
    step: int
    name: str
    clips: range  # the part of the whole batch that this micro-batch is

    def of(self, name: str) -> Phase:
        """The same clips, for another purpose."""
        return replace(self, name=f"{self.name}/{name}")

    def generators(self) -> Iterator[torch.Generator]:
        """One generator a clip, so that a clip's randomness does not depend on the micro-batch."""
        for clip in self.clips:
            yield torch_generator(self.seed, self.step, self.name, clip)

    def generator(self) -> torch.Generator:
        """One for draws that are made for the whole batch and then cut with :meth:`cut`."""
        return torch_generator(self.seed, self.step, self.name)

    def cut(self, draws: _Draws) -> _Draws:
        """The part of the whole batch's draws that concerns these clips."""
        return take(draws, slice(self.clips.start, self.clips.stop))


def take(draws: _Draws, clips: slice | list[int]) -> _Draws:
    """Some clips of a dataclass of draws ([N, ...] tensors; anything else is kept)."""
    tensors = {f.name: getattr(draws, f.name) for f in fields(draws)}  # type: ignore[arg-type]
    parts = {name: value[clips] for name, value in tensors.items() if isinstance(value, Tensor)}
    return replace(draws, **parts)  # type: ignore[type-var]


class Task(Protocol):
    """What a stage hands to the loop. Tensors are on the task's device."""

    @property
    def config(self) -> cfg.Config:
        """The run's settings."""
        ...

    @property
    def generator(self) -> nn.Module:
        """The network that is trained to make clips."""
        ...

    @property
    def discriminator(self) -> nn.Module:
        """The network that is trained to tell them from real ones."""
        ...

    def real(self, step: int) -> Sample:
        """The batch of real clips of a step, in [-1, 1]; a pure function of (seed, step)."""
        ...

    def fake(self, real: Sample, phase: Phase, update_ema: bool) -> Sample:
        """Generated clips, as many as in `real`."""
        ...

    def judge(self, sample: Sample, phase: Phase) -> Tensor:
        """Logits [N, 1] of clips, augmented first."""
        ...

    def adapt(self, step: int, real_logits: Tensor) -> dict[str, float]:
        """Move adaptive settings after the discriminator saw real clips; what to log of them."""
        ...

    def state(self) -> dict[str, Any]:
        """Adaptive settings, as plain values."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse of `state`."""
        ...

    def data_record(self) -> dict[str, Any]:
        """Sizes and fingerprint of the data."""
        ...

    def preview(self, generator: nn.Module, folder: Path, step: int) -> None:
        """Write pictures of what `generator` (the EMA) makes."""
        ...


class Trainer:
    """A task with its optimisers, average and step counter."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.settings: cfg.Training = task.config.training
        self.step = 0
        self.average = copy.deepcopy(task.generator).eval().requires_grad_(False)
        s = self.settings
        lazy = s.r1_every / (s.r1_every + 1)  # R1's steps are extra steps of the discriminator's optimiser
        self.rates = (s.generator_rate, s.discriminator_rate * lazy)
        self.optimizers = (
            torch.optim.Adam(task.generator.parameters(), lr=self.rates[0], betas=(0.0, s.beta2)),
            torch.optim.Adam(task.discriminator.parameters(), lr=self.rates[1], betas=(0.0, s.beta2**lazy)),
        )

    # --- one step ---------------------------------------------------------------------------------

    def run_step(self) -> dict[str, float]:
        """One step of both networks; the values to log."""
        s, task = self.settings, self.task
        self._set_rates()
        real = task.real(self.step)
        values = self._train_generator(real)
        values |= self._train_discriminator(real)
        if self.step % s.r1_every == 0:
            values |= self._penalise(real)
        update_ema(self.average, task.generator, ema_decay(self.step, s.ema_decay, s.ema_ramp))
        self.step += 1
        return values

    def _set_rates(self) -> None:
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (self.step + 1) / (self.settings.warmup + 1))

    def _chunks(self, real: Sample, phase: str) -> Iterator[tuple[Sample, Phase]]:
        """Micro-batches of the real clips, each with its place in the batch."""
        total = len(real[0])
        size = self.settings.micro_batch or total
        for first in range(0, total, size):
            clips = range(first, min(first + size, total))
            part = tuple(x[first : clips.stop] for x in real)
            yield part, Phase(self.settings.seed, self.step, phase, clips)

    def _train_generator(self, real: Sample) -> dict[str, float]:
        task = self.task
        with self._training(task.generator, self.optimizers[0]) as parameters:
            total = 0.0
            for part, phase in self._chunks(real, "generator"):
                logits = task.judge(task.fake(part, phase.of("fake"), update_ema=False), phase)
                loss = losses.generator_loss(logits).sum() / len(real[0])
                loss.backward()
                total += loss.item()
            bad = losses.clean_gradients(parameters)
        return {"loss/generator": total, "health/bad_generator_gradients": float(bad)}

    def _train_discriminator(self, real: Sample) -> dict[str, float]:
        task, count = self.task, len(real[0])
        with self._training(task.discriminator, self.optimizers[1]) as parameters:
            sums = {
                "loss/discriminator_fake": 0.0,
                "loss/discriminator_real": 0.0,
                "logits/fake": 0.0,
                "logits/real": 0.0,
            }
            judged = []
            for part, phase in self._chunks(real, "discriminator"):
                with torch.no_grad():
                    fake = task.fake(part, phase.of("fake"), update_ema=True)
                fake_logits = task.judge(fake, phase.of("judge fake"))
                fake_loss = losses.discriminator_loss_fake(fake_logits).sum() / count
                fake_loss.backward()
                real_logits = task.judge(part, phase.of("judge real"))
                real_loss = losses.discriminator_loss_real(real_logits).sum() / count
                real_loss.backward()
                judged.append(real_logits.detach())
                sums["loss/discriminator_fake"] += fake_loss.item()
                sums["loss/discriminator_real"] += real_loss.item()
                sums["logits/fake"] += fake_logits.sum().item() / count
                sums["logits/real"] += real_logits.sum().item() / count
            bad = losses.clean_gradients(parameters)
        adapted = task.adapt(self.step, torch.cat(judged))
        return sums | adapted | {"health/bad_discriminator_gradients": float(bad)}

    def _penalise(self, real: Sample) -> dict[str, float]:
        s, task, count = self.settings, self.task, len(real[0])
        with self._training(task.discriminator, self.optimizers[1]) as parameters:
            total = 0.0
            for part, phase in self._chunks(real, "r1"):
                penalty, logits = losses.r1_penalty(partial(task.judge, phase=phase), part)
                # `0 * logits` keeps every parameter in the graph: the last bias has no R1 gradient.
                loss = (penalty.sum() * (0.5 * s.r1_gamma) + 0 * logits.sum()) / count
                (loss * s.r1_every).backward()
                total += penalty.sum().item() / count
            losses.clean_gradients(parameters)
        return {"loss/r1": total}

    @contextmanager
    def _training(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[list[nn.Parameter]]:
        """Gradients for one network alone; its optimiser steps at the end."""
        parameters = list(network.parameters())
        for module in (self.task.generator, self.task.discriminator):
            module.requires_grad_(module is network)
        optimizer.zero_grad(set_to_none=True)
        yield parameters
        optimizer.step()

    # --- state ------------------------------------------------------------------------------------

    def checkpoint(self) -> dict[str, Any]:
        """Everything that is needed to go on or to sample."""
        task = self.task
        return ckpt.new_checkpoint(
            task.config.stage,
            step=self.step,
            config=cfg.to_dict(task.config),
            generator=task.generator.state_dict(),
            generator_ema=self.average.state_dict(),
            discriminator=task.discriminator.state_dict(),
            optimizers=[optimizer.state_dict() for optimizer in self.optimizers],
            ada=task.state(),
            data=task.data_record(),
        )

    def load(self, path: Path) -> None:
        """Go on from a checkpoint of the same run.

        Raises:
            CheckpointError: damaged, or of other networks.
        """
        loaded = ckpt.load(path, self.task.config.stage)
        if loaded["data"] != self.task.data_record():
            raise CheckpointError(
                f"{path} was trained on other data than {self.task.config.data.path} holds now; "
                "restore the data, or start another run with --new"
            )
        load_weights(self.task.generator, loaded["generator"], str(path))
        load_weights(self.average, loaded["generator_ema"], str(path))
        load_weights(self.task.discriminator, loaded["discriminator"], str(path))
        for optimizer, state in zip(self.optimizers, loaded["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.task.load_state(loaded["ada"])
        self.step = int(loaded["step"])


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
    log = RunLog(run.folder, trainer.step)
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
        with _stop_signals() as stop:
            means, finite = _Means(), _Finite()
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
                if (trainer.step % settings.checkpoint_every == 0 or done or stop) and finite.now:
                    save()
                if (trainer.step % settings.sample_every == 0 or done) and not stop:
                    task.preview(trainer.average, run.sample_folder, trainer.step)
                if stop:
                    raise Stopped(stop[0], trainer.step)
            save()  # of a run of no steps
    finally:
        bar.close()
        log.close()
    return trainer.step


class _Finite:
    """Stops a run whose losses have left the finite numbers for good; nothing is saved meanwhile."""

    PATIENCE = 10  # steps

    def __init__(self) -> None:
        self.now = True
        self._since: int | None = None

    def check(self, step: int, values: dict[str, float], newest: Path | None) -> None:
        bad = [key for key, value in values.items() if key.startswith("loss/") and not math.isfinite(value)]
        self.now = not bad
        if not bad:
            self._since = None
            return
        self._since = step if self._since is None else self._since
        if step - self._since >= self.PATIENCE - 1:
            kept = f"the newest good checkpoint is {newest}" if newest else "there is no good checkpoint yet"
            raise TrainingError(
                f"{bad[0]} is not finite since step {self._since}: training has diverged; {kept}: start another run "
                "(--new) with smaller training.generator_rate and training.discriminator_rate"
            )


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


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that receives SIGINT or SIGTERM; a second one interrupts at once."""
    received: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(signum)

    signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)
    try:
        old = [signal.signal(s, note) for s in signals]
    except ValueError:  # not the main thread: signals are not ours to take
        yield received
        return
    try:
        yield received
    finally:
        for s, handler in zip(signals, old, strict=True):
            signal.signal(s, handler)
