"""How a network computes, as opposed to what: half precision, and activations that are computed again.

Neither is saved with the weights, and neither changes what is learnt beyond rounding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

HALVES = (torch.bfloat16, torch.float16)


class Network(nn.Module, ABC):
    """A network that is a chain of large parts.

    `half_type` is the type of the activations in those parts that can bear it (None: float32 everywhere).
    Weights, styles, demodulation, running statistics and logits stay in float32, and the operators sum in float32.

    With `recompute`, the backward pass computes the inside of each part again instead of keeping it
    (activation checkpointing): less memory for about a third more time, and the same bits.
    """

    half_type: torch.dtype | None = None
    recompute: bool = False

    def run_in(self, half: torch.dtype | None, *, recompute: bool = False) -> None:
        """Choose both.

        Raises:
            ValueError: `half` is no half precision.
        """
        if half is not None and half not in HALVES:
            raise ValueError(f"half: expected bfloat16, float16 or None, got {half}")
        self.half_type, self.recompute = half, recompute

    @abstractmethod
    def parts(self) -> list[nn.Module]:
        """The large parts, in order: where nearly all the time goes."""

    def _run(self, part: nn.Module, *inputs: Any, **update: bool) -> Tensor:
        """``part(*inputs)``.

        A call that moves running statistics (`update_ema`) keeps its activations: computing them again
        would move the statistics twice. (Training moves them where no gradient is wanted.)
        """
        if self.recompute and torch.is_grad_enabled() and not any(update.values()):
            result: Tensor = checkpoint(part, *inputs, use_reentrant=False, preserve_rng_state=False)
        else:
            result = part(*inputs, **update)
        return result


def widened(x: Tensor) -> Tensor:
    """`x` in float32 if it is in half precision."""
    return x.float() if x.dtype in HALVES else x


def in_type(x: Tensor, half: torch.dtype | None) -> Tensor:
    """`x` in `half`, or not in half precision if that is None."""
    return widened(x) if half is None else x.to(half)
