"""What a stage hands to the training loop, and where its randomness comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from lvgan import config as cfg
from lvgan.seeding import torch_generator

_Draws = TypeVar("_Draws")
Sample = tuple[Tensor, ...]  # what a discriminator judges: tensors [N, ...]


@dataclass(frozen=True)
class Phase:
    """Where randomness is drawn: its generators are functions of this and the clip's number."""

    seed: int
    step: int
    name: str
    clips: range  # the part of the whole batch (of all ranks) that this micro-batch is

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
        """This rank's real clips of a step, in [-1, 1]; a pure function of (seed, step, clip)."""
        ...

    def fake(self, real: Sample, phase: Phase, update_ema: bool) -> Sample:
        """Generated clips, as many as in `real`."""
        ...

    def judge(self, sample: Sample, phase: Phase) -> Tensor:
        """Logits [N, 1] of clips, augmented first."""
        ...

    def adapt(self, step: int, real_logits: Tensor) -> dict[str, float]:
        """Move adaptive settings after the discriminator saw the real clips of all ranks; what to log of them."""
        ...

    def state(self) -> dict[str, Any]:
        """Adaptive settings, as plain values."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse of `state`."""
        ...

    def data_record(self) -> dict[str, Any]:
        """Sizes, fingerprint and contents of the data, as plain values."""
        ...

    def preview(self, generator: nn.Module, folder: Path, step: int) -> None:
        """Write what `generator` (the EMA) makes: ``step-NNNNNN.png`` and ``.mp4``, and ``step-NNNNNN-long.mp4``."""
        ...

    def measure(self, generator: nn.Module, folder: Path) -> dict[str, float]:
        """Metrics of what `generator` (the EMA) makes (:mod:`lvgan.training.metrics`); none if they are off.

        What is measured only once is kept in `folder`, the run's.
        """
        ...
