"""One step of training, for both networks: generator, discriminator, R1 (every 16th), average.

All randomness is a function of (seed, step, phase, clip), so that neither a restart nor the number of
micro-batches changes the result.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lvgan import checkpoint as ckpt
from lvgan import config as cfg
from lvgan.errors import CheckpointError
from lvgan.models.build import load_weights
from lvgan.training import losses
from lvgan.training.ema import ema_decay, update_ema
from lvgan.training.precision import differentiated_twice
from lvgan.training.task import Phase, Sample, Task


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
                with differentiated_twice(s):
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
