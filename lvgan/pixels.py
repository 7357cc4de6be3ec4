"""Bytes to the networks' range [-1, 1] and back."""

from __future__ import annotations

import torch
from torch import Tensor


def from_bytes(x: Tensor) -> Tensor:
    """uint8 0…255 to float32 -1…1; any shape."""
    return x.to(torch.float32).mul(2).div(255).sub(1)


def to_bytes(x: Tensor) -> Tensor:
    """Float (nominally -1…1) to the nearest uint8 0…255, clamped; any shape."""
    return (x.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)
