"""What is exported: a network with fixed shapes, and what a user of the file has to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvgan import checkpoint as ckpt
from lvgan import config as cfg
from lvgan.errors import ConfigError
from lvgan.generate.timeline import SEGMENT
from lvgan.models.build import generator_of
from lvgan.models.lr_generator import LrGenerator
from lvgan.models.sr_generator import SrGenerator

FORMAT = "lvgan-export"
VERSION = 1
MOST = 4096  # clips or frames that are made at once
_NORMAL = "independent N(0, 1) numbers"
_MADE = "nominally -1 to 1; the byte is floor(x * 127.5 + 128), limited to 0 ... 255"
_GIVEN = "as the low-resolution network makes them, or byte * 2 / 255 - 1"


class LrSegment(nn.Module):
    """``noise [N, C, before + frames + after] -> video [N, channels, frames, H, W]``."""

    filters: Tensor

    def __init__(self, network: LrGenerator, frames: int) -> None:
        super().__init__()
        self.network, self.frames = network, frames
        self.register_buffer("filters", network.bank.filters[:, None].clone())

    def forward(self, noise: Tensor) -> Tensor:
        rows = F.conv1d(noise.flatten(0, 1)[:, None], self.filters)  # other software has no real FFT to rely on
        embedding = rows.unflatten(0, noise.shape[:2]).flatten(1, 2)
        return self.network.synthesis(self.network.mapping(embedding.transpose(1, 2)), self.frames)


class SrClip(nn.Module):
    """``z [N, z_dim], frames [N, channels, T + 2 * context, h, w] -> video [N, channels, T, H, W]``."""

    def __init__(self, network: SrGenerator) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, frames: Tensor) -> Tensor:
        video: Tensor = self.network(z, frames)
        return video


@dataclass(frozen=True)
class Input:
    """One input of an exported network, float32."""

    name: str
    shape: tuple[int, ...]
    values: str
    meaning: str


@dataclass(frozen=True)
class Exportable:
    """A network to export, and everything about it that goes into the file.

    Attributes:
        original: ours, whose results are the measure.
        fixed: the same function of fixed shapes, to be traced (within :class:`PlainOps`).
        record: plain values, for the file's metadata.
    """

    original: LrGenerator | SrGenerator
    fixed: nn.Module
    inputs: tuple[Input, ...]
    record: dict[str, Any]

    def examples(self, seed: int) -> tuple[Tensor, ...]:
        """Inputs to try it with: N(0, 1) noise and latents, frames of uniform values from -1 to 1."""
        generator = torch.Generator().manual_seed(seed)
        return tuple(
            torch.rand(i.shape, generator=generator) * 2 - 1
            if i.name == "frames"
            else torch.randn(i.shape, generator=generator)
            for i in self.inputs
        )

    @torch.inference_mode()
    def expected(self, examples: tuple[Tensor, ...]) -> Tensor:
        """What our network makes of them."""
        if isinstance(self.original, LrGenerator):
            return self.original(examples[0], self.record["frames"])
        return self.original(*examples)


def exportable(part: Mapping[str, Any], name: str, batch: int, frames: int | None) -> Exportable:
    """The generator of a checkpoint's part, for `batch` clips of `frames` frames (None: 128, or 1 of high resolution).

    Raises:
        ConfigError: impossible sizes, or a segment of no whole number of time scales.
        CheckpointError: settings or weights that make no network.
    """
    network = generator_of(dict(part), name)
    if frames is None:
        frames = -(-SEGMENT // network.time_scale) * network.time_scale if isinstance(network, LrGenerator) else 1
    for option, value in (("--batch", batch), ("--frames", frames)):
        if not 1 <= value <= MOST:
            raise ConfigError(f"{option} {value} was given, but 1 to {MOST} is possible; few are usual")
    fixed: nn.Module
    if isinstance(network, LrGenerator):
        scale = network.time_scale
        if frames % scale:
            raise ConfigError(
                f"--frames {frames} was given, but segments join at multiples of {scale} frames only; "
                f"give --frames {-(-frames // scale) * scale}"
            )
        before, after = network.noise_margin(frames)
        shape = (batch, network.noise_channels, before + frames + after)
        meaning = (
            f"noise of frames t - {before} ... t + {frames + after - 1} for video of frames t ... t + {frames - 1}"
        )
        inputs: tuple[Input, ...] = (Input("noise", shape, _NORMAL, f"{meaning}; t a multiple of {scale}"),)
        margins = {"noise_before": before, "noise_after": after, "time_scale": scale}
        fixed = LrSegment(network, frames)
    else:
        context = network.context
        low = (batch, network.channels, frames + 2 * context, *network.lr_size)
        inputs = (
            Input("z", (batch, network.z_dim), _NORMAL, "the latent: the same for all frames of a video"),
            Input("frames", low, _GIVEN, f"low resolution, with {context} frames before and after those to be made"),
        )
        margins = {"context": context}
        fixed = SrClip(network)
    output = (batch, network.channels, frames, *network.size)
    config = cfg.build(part["stage"], part["config"])
    record = {
        "format": FORMAT,
        "version": VERSION,
        "stage": part["stage"],
        "step": part["step"],
        "batch": batch,
        "frames": frames,
        **margins,
        "fps": cfg.frame_rate(config),
        "inputs": [vars(given) for given in inputs],
        "outputs": [{"name": "video", "shape": output, "values": _MADE, "meaning": "RGB (or grey) video"}],
        "config": part["config"],
        "versions": part["versions"],
        **ckpt.origin(part),
    }
    return Exportable(network, fixed.eval().requires_grad_(False), inputs, record)


def contract(record: Mapping[str, Any]) -> list[str]:
    """Inputs and outputs of an exported network, a line each."""
    lines = []
    for direction, key in (("input ", "inputs"), ("output", "outputs")):
        for item in record[key]:
            shape = ", ".join(map(str, item["shape"]))
            lines.append(f"{direction} {item['name']:<7} float32 [{shape}]  {item['meaning']}; {item['values']}")
    return lines


def network_name(stage: str) -> str:
    """How messages call the generator of a stage."""
    return {"lr": "the low-resolution generator", "sr": "the super-resolution generator"}[stage]
