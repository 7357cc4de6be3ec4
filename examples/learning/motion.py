"""How soon can a discriminator tell footage from the same kind of footage moving six times slower?

    python motion.py data16 --batch 32 --steps 500

trains one on nothing else, of random moments, and prints how often it is right. `--plain` takes a plain convolutional
network instead of ours, `--paired` shows both halves of a batch the same moments (which no generator can).
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from measure import count, existing, run
from torch import Tensor, nn

from lvgan.data.dataset import ClipDataset
from lvgan.data.windows import window_span
from lvgan.models.lr_discriminator import LrDiscriminator
from lvgan.training.losses import discriminator_loss_fake, discriminator_loss_real, r1_penalty

SLOWER = 6


class Plain(nn.Module):
    """Three convolutions and a mean."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels, wider in ((3, 16), (16, 32), (32, 64)):
            layers += [nn.Conv3d(channels, wider, 3, padding=1), nn.LeakyReLU(0.2), nn.AvgPool3d(2)]
        self.features, self.logit = nn.Sequential(*layers[:-1]), nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, T, H, W] to [N, 1]
        y: Tensor = self.logit(self.features(x).mean((2, 3, 4)))
        return y


def slowed(clips: Tensor) -> Tensor:
    """The first moments of clips [N, C, T, H, W], linearly between their frames: as many frames of slower motion."""
    place = torch.arange(clips.shape[2]) / SLOWER
    low = place.floor().long()
    share = (place - low)[None, None, :, None, None]
    return clips[:, :, low] * (1 - share) + clips[:, :, low + 1] * share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=existing)
    parser.add_argument("--batch", type=count, default=4)
    parser.add_argument("--steps", type=count, default=500)
    parser.add_argument("--frames", type=count, default=8)
    parser.add_argument("--stride", type=count, default=1, help="use every n-th frame")
    parser.add_argument("--rate", type=float, default=0.002)
    parser.add_argument("--r1", type=float, default=0.0, help="its weight, every 16 steps")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--paired", action="store_true")
    options = parser.parse_args()
    frames = options.frames
    if frames < 8:
        parser.error(f"clips of {frames} frames are too short; give 8 or more")
    span = window_span(frames, stride=options.stride)
    dataset = ClipDataset(options.data, min_frames=span)
    videos = [torch.from_numpy(dataset.read(c.name, 0, c.frames, "lr")).permute(3, 0, 1, 2) for c in dataset.clips]
    dice = np.random.default_rng(0)
    torch.manual_seed(0)
    height, width = videos[0].shape[2:]
    network = (
        Plain() if options.plain else LrDiscriminator(frames, height, width, stem=8, widths=(12, 16, 32, 64), head=96)
    )
    adam = torch.optim.Adam(network.parameters(), lr=options.rate, betas=(0.9, 0.999) if options.plain else (0.0, 0.99))

    def moments(number: int) -> Tensor:
        chosen = [videos[i] for i in dice.integers(len(videos), size=number)]
        starts = [dice.integers(video.shape[1] - span + 1) for video in chosen]
        clips = torch.stack([v[:, s : s + span : options.stride] for v, s in zip(chosen, starts, strict=True)])
        return clips.float() / 127.5 - 1

    for step in range(options.steps + 1):
        real = moments(options.batch)
        slow = slowed(real if options.paired else moments(options.batch))
        adam.zero_grad()
        (discriminator_loss_real(network(real)) + discriminator_loss_fake(network(slow))).mean().backward()
        if options.r1 and step % 16 == 0:
            penalty, _ = r1_penalty(lambda sample: network(*sample), (real,))
            (8 * options.r1 * penalty.mean()).backward()
        adam.step()
        if step % 100 == 0:
            with torch.no_grad():
                right = (network(moments(64)) > 0).float().mean() + (network(slowed(moments(64))) < 0).float().mean()
            print(f"step {step}: right {right / 2:.0%}", flush=True)


if __name__ == "__main__":
    run(main)
