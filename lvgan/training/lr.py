"""What is special about training the low-resolution networks (spec 2-training, left column)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lvgan import config as cfg
from lvgan.augment.diffaug import apply_diff_augment, draw_diff_augment
from lvgan.augment.time_stretch import apply_time_stretch, draw_time_stretch
from lvgan.data.dataset import ClipDataset
from lvgan.data.windows import Batches, Windows
from lvgan.generate.timeline import LrVideo
from lvgan.models import build
from lvgan.models.lr_generator import LrGenerator
from lvgan.seeding import seeded
from lvgan.training.data_task import DataTask
from lvgan.training.metrics import BEST_BY, color_area
from lvgan.training.preview import write_clip_preview, write_long_preview
from lvgan.training.task import Phase, Sample


class LrTask(DataTask):
    """Clips of `frames` frames; a sample is ``(video [N, C, T, H, W],)``.

    `clips`: this rank's part of the batch; the whole, if left out.
    """

    def __init__(
        self, config: cfg.LrConfig, dataset: ClipDataset, device: torch.device, clips: range | None = None
    ) -> None:
        with seeded(config.training.seed):
            self.generator: LrGenerator = build.lr_generator(config).to(device)
            self.discriminator = build.lr_discriminator(config).to(device)
        s, data = config.training, config.data
        windows = Windows(dataset, data.frames, stride=data.stride, flip=data.flip)
        batches = Batches(windows, s.batch, seed=s.seed, sampling=data.sampling, clips=clips)
        super().__init__(dataset, batches, device)
        self.config = config

    def fake(self, real: Sample, phase: Phase, update_ema: bool) -> Sample:
        """Clips cut at a random place from longer ones, so that the time grid cannot be learnt."""
        frames, grid = self.config.data.frames, self.generator.time_scale
        before, after = self.generator.noise_margin(frames + grid)
        shape = (self.generator.noise_channels, before + frames + grid + after)
        noises, starts = [], []
        for generator in phase.generators():
            noises.append(torch.randn(shape, generator=generator))
            starts.append(int(torch.randint(grid + 1, (), generator=generator)))
        noise = torch.stack(noises).to(self.device)
        video = self.generator(noise, frames + grid, update_ema=update_ema)
        return (torch.stack([v[:, s : s + frames] for v, s in zip(video, starts, strict=True)]),)

    def judge(self, sample: Sample, phase: Phase) -> Tensor:
        """DiffAugment, then time stretching, then the discriminator."""
        (video,) = sample
        settings, batch = self.config.training, self.config.training.batch
        generator = phase.generator()
        if settings.diffaug:
            height, width = video.shape[-2:]
            draws = draw_diff_augment(batch, height, width, generator, settings.diffaug)
            video = apply_diff_augment(video, phase.cut(draws))
        if settings.time_stretch > 0:
            stretch = phase.cut(draw_time_stretch(batch, video.shape[2], generator, settings.time_stretch))
            video = apply_time_stretch(video, stretch)
        return self.discriminator(video)

    def adapt(self, step: int, real_logits: Tensor) -> dict[str, float]:
        """Nothing adapts here."""
        return {}

    def state(self) -> dict[str, Any]:
        """Nothing adapts here."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing adapts here."""

    def preview(self, generator: nn.Module, folder: Path, step: int) -> None:
        """Six clips of the average generator and a long one, always of the same seeds."""
        assert isinstance(generator, LrGenerator)
        frames, fps = self.config.data.frames, cfg.frame_rate(self.config)
        videos = [LrVideo(generator, seed, segment=frames).clip(0, frames) for seed in range(6)]
        write_clip_preview(torch.stack(videos), folder, f"step-{step:06d}", fps)
        write_long_preview(LrVideo(generator, 0, segment=frames), frames, folder, f"step-{step:06d}-long", fps)

    def measure(self, generator: nn.Module, folder: Path) -> dict[str, float]:
        """How far colours over time are from the data's."""
        assert isinstance(generator, LrGenerator)
        if self.config.training.metric_clips == 0:
            return {}
        return {BEST_BY["lr"]: color_area(generator, self.config, self._dataset, folder)}
