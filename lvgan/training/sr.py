"""What is special about training the super-resolution networks (spec 2-training, right column)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lvgan import config as cfg
from lvgan.augment import ada
from lvgan.data.dataset import ClipDataset
from lvgan.data.windows import Batches, Windows
from lvgan.models import build
from lvgan.models.sr_generator import SrGenerator
from lvgan.pixels import from_bytes
from lvgan.seeding import seeded
from lvgan.training.data_task import DataTask
from lvgan.training.metrics import sr_distance
from lvgan.training.preview import write_long_pair_preview, write_pair_preview
from lvgan.training.task import Phase, Sample, take


class SrTask(DataTask):
    """A sample is ``(low [N, C, T + 2·context, h, w], high [N, C, T, H, W])``.

    Fakes carry the low-resolution frames that the generator saw, augmentation included; real ones carry
    the clean frames. The discriminator sees the middle T of them, or zeros (mostly). `clips`: this rank's part
    of the batch; the whole, if left out.
    """

    def __init__(
        self, config: cfg.SrConfig, dataset: ClipDataset, device: torch.device, clips: range | None = None
    ) -> None:
        with seeded(config.training.seed):
            self.generator: SrGenerator = build.sr_generator(config).to(device)
            self.discriminator = build.sr_discriminator(config).to(device)
        s = config.training
        self._controller = ada.AdaController(
            target=s.ada_target, rate=s.ada_rate, interval=s.ada_every, p_max=s.ada_max
        )
        data = config.data
        windows = Windows(dataset, data.frames, data.context, stride=data.stride, flip=data.flip)
        batches = Batches(windows, s.batch, seed=s.seed, sampling=data.sampling, clips=clips)
        super().__init__(dataset, batches, device)
        self.config = config

    def fake(self, real: Sample, phase: Phase, update_ema: bool) -> Sample:
        """High resolution made of real low-resolution clips that went through the conditioning augmentation."""
        low, settings = real[0], self.config.training
        if settings.condition_augment > 0:
            draws = self._draw(low, settings.condition_augment, phase.generator(), ada.CONDITIONING)
            low = ada.apply_ada(low, phase.cut(draws))
        z = torch.stack([torch.randn(self.generator.z_dim, generator=g) for g in phase.generators()])
        return low, self.generator(z.to(self.device), low, update_ema=update_ema)

    def judge(self, sample: Sample, phase: Phase) -> Tensor:
        """Both halves through the same augmentation; the low-resolution half is mostly hidden."""
        low, high = sample
        settings, context = self.config.training, self.config.data.context
        generator = phase.generator()
        hidden = torch.rand(settings.batch, generator=generator) < settings.condition_hide
        shown = [i for i, hide in enumerate(hidden[phase.clips.start : phase.clips.stop].tolist()) if not hide]
        large = self.discriminator.enlarge(low[shown, :, context : low.shape[2] - context])
        if self._controller.p > 0:
            draws = phase.cut(self._draw(high, self._controller.p, generator, ada.DISCRIMINATOR))
            high = ada.apply_ada(high, draws)
            large = ada.apply_ada(large, take(draws, shown))  # as its clip, so that the two still fit
        place = torch.tensor(shown, dtype=torch.long, device=high.device)
        return self.discriminator.judge(high.new_zeros(high.shape).index_copy(0, place, large), high)

    def _draw(self, clip: Tensor, p: float, generator: torch.Generator, settings: ada.AdaSettings) -> ada.AdaDraws:
        """Transforms for the whole batch, of which `clip` [N, ...] may be a part."""
        shape = torch.Size((self.config.training.batch, *clip.shape[1:]))
        return ada.draw_ada(shape, p, ada.Dice(generator), settings)

    def adapt(self, step: int, real_logits: Tensor) -> dict[str, float]:
        """Move ADA's strength by how often the discriminator calls real clips real."""
        self._controller.observe(real_logits)
        return {"ada/p": self._controller.step(), "ada/sign": real_logits.sign().mean().item()}

    def state(self) -> dict[str, Any]:
        """ADA's strength and statistics."""
        return self._controller.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse of `state`."""
        self._controller.load_state_dict(state)

    def data_record(self) -> dict[str, Any]:
        """As of the low resolution, and the contents of the high one."""
        return {**super().data_record(), "hr_content": self._dataset.content("hr")}

    def preview(self, generator: nn.Module, folder: Path, step: int) -> None:
        """Four real clips, enlarged: input, output, truth; and a long one, as a stream."""
        assert isinstance(generator, SrGenerator)
        low, high = (from_bytes(x) for x in self._batches.first(4))
        context, fps = self.config.data.context, cfg.frame_rate(self.config)
        z = torch.zeros(1, generator.z_dim, device=self.device)
        with torch.inference_mode():
            made = [generator(z, clip[None].to(self.device))[0].cpu() for clip in low]
        middle = low[:, :, context : low.shape[2] - context]
        write_pair_preview(middle, torch.stack(made), high, folder, f"step-{step:06d}", fps)
        write_long_pair_preview(self._dataset, generator, 8 * high.shape[2], folder, f"step-{step:06d}-long", fps)

    def measure(self, generator: nn.Module, folder: Path) -> dict[str, float]:
        """How far real low resolution, enlarged, is from the real high resolution."""
        assert isinstance(generator, SrGenerator)
        count = self.config.training.metric_clips
        return sr_distance(generator, self._batches.first, count) if count else {}
