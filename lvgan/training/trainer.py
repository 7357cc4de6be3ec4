"""One step of training, for both networks: generator, discriminator, R1 (every 16th), average.

All randomness is a function of (seed, attempt, step, phase, clip), so that neither a restart nor the number of
micro-batches or ranks changes the result. A rank has its own part of the batch's clips; losses are sums over
clips divided by the total batch, so gradients and losses of the ranks are summed.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lvgan import checkpoint as ckpt
from lvgan import config as cfg
from lvgan.errors import CheckpointError
from lvgan.models.build import load_weights
from lvgan.models.layers import one_update
from lvgan.seeding import derive
from lvgan.training import health, losses
from lvgan.training.distributed import Ranks
from lvgan.training.ema import ema_decay, update_ema
from lvgan.training.precision import differentiated_twice
from lvgan.training.task import Phase, Sample, Task
from lvgan.training.transfer import frozen_parameters

ATTEMPT_STRIDE = 10**9  # steps: after a roll-back the batches are those of so many steps later


class Trainer:
    """A task with its optimisers, average and step counter.

    All ranks hold the same weights, and give the same values to log. `task` gives the clips of this rank,
    ``ranks.share(batch)``.

    Attributes:
        attempt: how often the run was rolled back; the randomness of a step depends on it.
        bad_gradients: by phase of the last step, the parameters whose gradients were not finite, on whichever
            rank. Such a phase changes neither weights nor optimisers.
    """

    def __init__(self, task: Task, ranks: Ranks | None = None) -> None:
        self.task = task
        self.ranks = Ranks() if ranks is None else ranks
        self.clips = self.ranks.share(task.config.training.batch)
        self.settings: cfg.Training = task.config.training
        self.step = 0
        self.attempt = 0
        self.bad_gradients: dict[str, list[str]] = {}
        self._frozen = frozen_parameters(task)
        # Found once: walking through the modules several times a step takes longer than small layers compute.
        self._weights = {network: list(network.parameters()) for network in (task.generator, task.discriminator)}
        kept = task.generator.state_dict()
        self._running = [b for name, b in task.generator.named_buffers() if name in kept]
        self.average = copy.deepcopy(task.generator).eval().requires_grad_(False)
        s = self.settings
        lazy = s.r1_every / (s.r1_every + 1)  # R1's steps are extra steps of the discriminator's optimiser
        self.rates = (s.generator_rate, s.discriminator_rate * lazy)
        self.optimizers = (
            _adam(task.generator, self.rates[0], s.beta2),
            _adam(task.discriminator, self.rates[1], s.beta2**lazy),
        )

    # --- one step ---------------------------------------------------------------------------------

    def run_step(self) -> dict[str, float]:
        """One step of both networks; the values to log."""
        s, task = self.settings, self.task
        self._set_rates()
        self.bad_gradients = {}
        real = task.real(self.step + self.attempt * ATTEMPT_STRIDE)
        if len(real[0]) != len(self.clips):
            raise ValueError(f"real gave {len(real[0])} clips, but rank {self.ranks.rank} has {len(self.clips)}")
        values = self._train_generator(real)
        values |= self._train_discriminator(real)
        if self.step % s.r1_every == 0:
            values |= self._penalise(real)
        update_ema(self.average, task.generator, ema_decay(self.step, s.ema_decay, s.ema_ramp))
        self.step += 1
        return self._summed(values)

    def _summed(self, values: dict[str, float | Tensor]) -> dict[str, float]:
        """Tensors are this rank's share of a sum over the batch; numbers are the same on all ranks."""
        shares = {key: value for key, value in values.items() if isinstance(value, Tensor)}
        # The only place where the host waits for losses: one reduction and one copy a step.
        sums = self.ranks.sum(torch.stack([value.detach().float() for value in shares.values()])).tolist()
        return {key: float(value) for key, value in (values | dict(zip(shares, sums, strict=True))).items()}

    def _set_rates(self) -> None:
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (self.step + 1) / (self.settings.warmup + 1))

    def _chunks(self, real: Sample, phase: str) -> Iterator[tuple[Sample, Phase]]:
        """Micro-batches of this rank's real clips, each with its place in the whole batch."""
        total = len(real[0])
        size = self.settings.micro_batch or total
        seed = derive(self.settings.seed, "attempt", self.attempt) if self.attempt else self.settings.seed
        for first in range(0, total, size):
            last = min(first + size, total)
            part = tuple(x[first:last] for x in real)
            yield part, Phase(seed, self.step, phase, self.clips[first:last])

    def _train_generator(self, real: Sample) -> dict[str, float | Tensor]:
        task = self.task
        with self._training("generator", task.generator, self.optimizers[0]):
            total = torch.zeros((), device=real[0].device)
            for part, phase in self._chunks(real, "generator"):
                logits = task.judge(task.fake(part, phase.of("fake"), update_ema=False), phase)
                loss = losses.generator_loss(logits).sum() / self.settings.batch
                loss.backward()
                total += loss.detach()
        return {"loss/generator": total, "health/bad_generator_gradients": self._bad("generator")}

    def _train_discriminator(self, real: Sample) -> dict[str, float | Tensor]:
        task, count = self.task, self.settings.batch
        names = ("loss/discriminator_fake", "loss/discriminator_real", "logits/fake", "logits/real")
        sums = torch.zeros(len(names), device=real[0].device)
        judged, fakes = [], []
        running = [buffer.clone() for buffer in self._running]
        # The magnitudes move once, after the whole batch: they must not depend on how it is cut.
        network = task.discriminator
        with self._training("discriminator", network, self.optimizers[1]), one_update(task.generator, self.ranks.sum):
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
                fakes.append(health.describe(fake[-1]))
                means = (fake_loss, real_loss, fake_logits.sum() / count, real_logits.sum() / count)
                sums += torch.stack([value.detach().float() for value in means])
        values: dict[str, float | Tensor] = dict(zip(names, sums, strict=True))
        values["health/bad_discriminator_gradients"] = self._bad("discriminator")
        described = (self.ranks.whole(clips, count) for clips in (torch.cat(fakes), health.describe(real[-1])))
        values |= health.spread(*described)
        if not self._bad("discriminator"):
            return values | task.adapt(self.step, self.ranks.whole(torch.cat(judged), count))
        for buffer, kept in zip(self._running, running, strict=True):  # skipped: the running means too
            buffer.copy_(kept)
        return values

    def _penalise(self, real: Sample) -> dict[str, float | Tensor]:
        s, task, count = self.settings, self.task, self.settings.batch
        with self._training("r1", task.discriminator, self.optimizers[1]):
            total = torch.zeros((), device=real[0].device)
            for part, phase in self._chunks(real, "r1"):
                with differentiated_twice(s):
                    penalty, logits = losses.r1_penalty(partial(task.judge, phase=phase), part)
                # `0 * logits` keeps every parameter in the graph: the last bias has no R1 gradient.
                loss = (penalty.sum() * (0.5 * s.r1_gamma) + 0 * logits.sum()) / count
                (loss * s.r1_every).backward()
                total += penalty.detach().sum() / count
        return {"loss/r1": total}

    @contextmanager
    def _training(self, phase: str, network: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Gradients for one network alone; at the end they are summed, and if all are finite its optimiser steps."""
        for module, weights in self._weights.items():
            for parameter in weights:
                parameter.requires_grad_(module is network)
        for parameter in self._frozen:
            parameter.requires_grad_(False)
        optimizer.zero_grad(set_to_none=True)
        yield
        self.ranks.sum_gradients([p for p in self._weights[network] if p.requires_grad])
        self.bad_gradients[phase] = health.bad_gradients(network)
        if not self.bad_gradients[phase]:
            optimizer.step()

    def _bad(self, phase: str) -> float:
        """How many parameters had a gradient that is not finite."""
        return float(len(self.bad_gradients[phase]))

    # --- state ------------------------------------------------------------------------------------

    def facts(self) -> dict[str, str]:
        """What has to be the same on all ranks when training starts."""
        task = self.task
        weights = hashlib.sha256()
        for network in (task.generator, task.discriminator, self.average):
            for tensor in network.state_dict().values():
                weights.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        optimizers = [sorted(state["step"].item() for state in o.state.values()) for o in self.optimizers]
        return {
            "step": f"{self.step}, attempt {self.attempt}",
            "settings": _digest(cfg.to_yaml(task.config)),
            "data": _digest(repr(sorted(task.data_record().items()))),
            "weights": weights.hexdigest()[:16],
            "optimisers": _digest(repr(optimizers)),
            "adaptive settings": _digest(repr(task.state())),
        }

    def checkpoint(self) -> dict[str, Any]:
        """Everything that is needed to go on or to sample."""
        task = self.task
        return ckpt.new_checkpoint(
            task.config.stage,
            step=self.step,
            attempt=self.attempt,
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
        self.restore(ckpt.load(path, self.task.config.stage), path)

    def restore(self, loaded: dict[str, Any], path: Path) -> None:
        """As :meth:`load`, of a checkpoint that was read from `path`."""
        trained_on, now = loaded["data"], self.task.data_record()
        # (checkpoints of version 0.1 do not say what the frames hold)
        if any(trained_on.get(key, value) != value for key, value in now.items()):
            raise CheckpointError(
                f"{path} was trained on other data than {self.task.config.data.path} holds now; "
                "restore the data, or start another run with --new"
            )
        load_weights(self.task.generator, loaded["generator"], str(path))
        load_weights(self.average, loaded["generator_ema"], str(path))
        load_weights(self.task.discriminator, loaded["discriminator"], str(path))
        for optimizer, state in zip(self.optimizers, loaded["optimizers"], strict=True):
            _load_adam(optimizer, state)
        self.task.load_state(loaded["ada"])
        self.step = int(loaded["step"])
        self.attempt = int(loaded.get("attempt", 0))


def _adam(network: nn.Module, rate: float, beta2: float) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), lr=rate, betas=(0.0, beta2), fused=True)


def _load_adam(optimizer: torch.optim.Adam, state: dict[str, Any]) -> None:
    """Load the moments; how a step is computed stays as it is, whatever the checkpoint was made with."""
    groups = [group | {"fused": True, "foreach": None} for group in state["param_groups"]]
    optimizer.load_state_dict(state | {"param_groups": groups})
    for parameter, moments in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            # The fused step walks through memory: the moments have to lie as the weights do, which
            # training.channels_last may have changed since.
            if moments[name].stride() != parameter.stride():
                moments[name] = torch.empty_like(parameter).copy_(moments[name])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
