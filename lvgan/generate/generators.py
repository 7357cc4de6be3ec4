"""Trained generators from checkpoint files, runs and bundles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lvgan import checkpoint as ckpt
from lvgan import config as cfg
from lvgan.errors import CheckpointError, ConfigError
from lvgan.generate.timeline import Frames, HeldEnds, LrVideo, SrVideo
from lvgan.models.build import generator_of
from lvgan.models.lr_generator import LrGenerator
from lvgan.models.sr_generator import SrGenerator
from lvgan.pixels import from_bytes
from lvgan.sizes import Size


@dataclass(frozen=True)
class Generators:
    """A low-resolution generator and perhaps a super-resolution one, on one device."""

    lr: LrGenerator
    sr: SrGenerator | None
    fps: float = cfg.USUAL_FPS  # frames a second, as trained

    def video(self, seed: int, truncation: float = 1.0) -> Frames:
        """The endless video of a seed, at the highest resolution there is; only what is next is kept in memory."""
        low = LrVideo(self.lr, seed)
        return low if self.sr is None else SrVideo(low, self.sr, seed, truncation)


def load_generators(path: Path, sr_path: Path | None, device: torch.device) -> Generators:
    """Load a low-resolution checkpoint, run or bundle, and a super-resolution one.

    Raises:
        CheckpointError: a file that is none, of the wrong stage, or a pair that does not fit.
    """
    path, sr_path = ckpt.find_pair(path, sr_path)
    loaded = ckpt.load(path)
    if loaded["stage"] == "bundle":
        if sr_path is not None:
            raise CheckpointError(f"{path} is a bundle that holds both networks; leave --sr out")
        lr_part, sr_part, sr_path = loaded["lr"], loaded["sr"], path
    else:
        if loaded["stage"] != "lr":
            raise CheckpointError(
                f"{path} is {ckpt.stage_name(loaded['stage'])}, but a low-resolution one or a bundle was expected; "
                "give it as --sr, or use `lvgan upscale`"
            )
        lr_part = loaded
        sr_path = None if sr_path is None else ckpt.find(sr_path, "sr")
        sr_part = None if sr_path is None else ckpt.load(sr_path, "sr")
        if sr_part is not None:
            ckpt.check_pair(lr_part, sr_part)
    lr = generator_of(lr_part, str(path))
    sr = None if sr_part is None else generator_of(sr_part, str(sr_path))
    fps = cfg.frame_rate(cfg.build("lr", lr_part["config"]))
    assert isinstance(lr, LrGenerator)
    assert sr is None or isinstance(sr, SrGenerator)
    return Generators(lr.to(device), None if sr is None else sr.to(device), fps)


def load_sr(path: Path, device: torch.device) -> tuple[SrGenerator, Size]:
    """A super-resolution generator (also out of a bundle) and the size of its input frames."""
    path = ckpt.find(path, "sr")
    loaded = ckpt.load(path)
    part = loaded["sr"] if loaded["stage"] == "bundle" else loaded
    if part["stage"] != "sr":
        raise CheckpointError(
            f"{path} is {ckpt.stage_name(part['stage'])}, but a super-resolution one or a bundle was expected; "
            "name the checkpoint of an sr run"
        )
    generator = generator_of(part, str(path))
    assert isinstance(generator, SrGenerator)
    return generator.to(device), Size.parse(part["config"]["data"]["lr"])


def upscale(
    frames: Iterator[Tensor], generator: SrGenerator, seed: int = 0, truncation: float = 1.0, first: int = 0
) -> Iterator[Tensor]:
    """Super-resolution of a finite video: uint8 frames ``[C, h, w]`` in, float frames ``[C, H, W]`` out.

    Frames are read as they are needed; beyond the ends the first and last frame are held. The output starts
    with frame `first`.
    """
    held = HeldEnds(from_bytes(frame) for frame in frames)
    high = SrVideo(held, generator, seed, truncation)
    index = first
    while held.has(index):
        yield high.clip(index, 1)[:, 0]
        index += 1


def to_channels(frame: Tensor, channels: int) -> Tensor:
    """RGB bytes ``[3, h, w]`` with the channels of a network: as they are, or grey.

    Raises:
        ConfigError: a network of other channels, whose input no video can hold.
    """
    if channels == 3:
        return frame
    if channels != 1:
        raise ConfigError(f"the network has {channels} channels, but a video has 1 or 3; it cannot be used on video")
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    return (frame * weights).sum(0, keepdim=True).round().to(torch.uint8)
