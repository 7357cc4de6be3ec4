"""Exponential moving average of a generator's weights (spec 2-training)."""

from __future__ import annotations

import torch
from torch import nn


def ema_decay(step: int, decay: float, ramp: int) -> float:
    """The decay at `step`: the half-life grows linearly over the first `ramp` + 1 steps."""
    if decay <= 0 or decay >= 1:
        return decay
    return float(decay ** ((ramp + 1) / min(step + 1, ramp + 1)))


@torch.no_grad()
def update_ema(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the parameters of `average` towards `model`; copy its buffers."""
    torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in model.parameters()], 1 - decay)
    for kept, current in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(current)
