"""A small low-resolution network."""

from __future__ import annotations

import pytest
import torch

from lvgan.models.lr_generator import BlockSpec, LrGenerator


@pytest.fixture(scope="session")
def lr_generator() -> LrGenerator:
    """8x12, time scale 4."""
    torch.manual_seed(0)
    blocks = tuple(BlockSpec.parse(text) for text in ("8 t s", "8 t", "6 1x3x3 s"))
    network = LrGenerator(8, 12, noise_channels=2, filters=4, footprint_min=8, footprint_max=40,
                          latent=16, input_channels=8, blocks=blocks)  # fmt: skip
    return network.eval().requires_grad_(False)
