"""Small untrained checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch

from lvgan import checkpoint as ckpt
from lvgan import config as cfg
from lvgan.models import build

SIZES = {"data": {"lr": "16x16", "hr": "32x32"}}


def make(folder: Path) -> tuple[Path, Path]:
    """``lr.pt`` (16x16) and ``sr.pt`` (32x32) of the tiny preset."""
    torch.manual_seed(0)
    paths = []
    for stage in ("lr", "sr"):
        config = cfg.build(stage, cfg.merge(cfg.load_preset("tiny", stage), SIZES))
        network = build.lr_generator(config) if isinstance(config, cfg.LrConfig) else build.sr_generator(config)
        contents = {"step": 0, "config": cfg.to_dict(config), "generator_ema": network.state_dict(), "data": {}}
        paths.append(folder / f"{stage}.pt")
        ckpt.save(paths[-1], ckpt.new_checkpoint(stage, **contents))
    return paths[0], paths[1]
