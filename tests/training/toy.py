"""A task small enough to reason about: it learns the mean of its data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lvgan import config as cfg
from lvgan.training.task import Phase, Sample


class ToyTask:
    """Clips are vectors [N, 4]; data are normal with mean 2 and a small spread."""

    def __init__(self, config: cfg.Config, clips: range | None = None) -> None:
        self.config = config
        self.clips = range(config.training.batch) if clips is None else clips
        self.device = torch.device("cpu")
        torch.manual_seed(config.training.seed)
        self.generator: nn.Module = nn.Linear(4, 4)
        self.discriminator: nn.Module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.updates: list[tuple[int, str, bool]] = []
        self.previews: list[int] = []
        self.adapted = 0

    def real(self, step: int) -> Sample:
        generator = torch.Generator().manual_seed(step)
        batch = 2 + 0.1 * torch.randn(self.config.training.batch, 4, generator=generator)
        return (batch[self.clips.start : self.clips.stop],)

    def fake(self, real: Sample, phase: Phase, update_ema: bool) -> Sample:
        self.updates.append((phase.step, phase.name, update_ema))
        z = torch.stack([torch.randn(4, generator=g) for g in phase.generators()])
        return (self.generator(z),)

    def judge(self, sample: Sample, phase: Phase) -> Tensor:
        return self.discriminator(sample[0])

    def adapt(self, step: int, real_logits: Tensor) -> dict[str, float]:
        self.adapted += len(real_logits)
        return {"adapted": float(self.adapted)}

    def state(self) -> dict[str, Any]:
        return {"adapted": self.adapted}

    def load_state(self, state: dict[str, Any]) -> None:
        self.adapted = state["adapted"]

    def measure(self, generator: nn.Module, folder: Path) -> dict[str, float]:
        return {}

    def data_record(self) -> dict[str, Any]:
        return {"fingerprint": "toy"}

    def preview(self, generator: nn.Module, folder: Path, step: int) -> None:
        self.previews.append(step)
