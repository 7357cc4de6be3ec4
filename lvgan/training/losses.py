"""The non-saturating logistic loss and R1 (spec 2-training)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Per-clip ``softplus(-D(fake))``: ``[N, 1] -> [N, 1]``."""
    return softplus(-fake_logits)


def discriminator_loss_fake(fake_logits: Tensor) -> Tensor:
    """Per-clip ``softplus(D(fake))``."""
    return softplus(fake_logits)


def discriminator_loss_real(real_logits: Tensor) -> Tensor:
    """Per-clip ``softplus(-D(real))``."""
    return softplus(-real_logits)


def r1_penalty(judge: Callable[[tuple[Tensor, ...]], Tensor], real: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Squared norm of the gradient of the logits with respect to real clips (the last tensor of `real`).

    That tensor is the whole sample at low resolution, and the high-resolution half at super-resolution.
    `judge` takes tensors [N, ...] and gives logits [N, 1]; it contains the augmentation, so that the
    penalty goes through it. Returns (penalty [N], logits [N, 1]); the penalty can be differentiated.
    """
    clip = real[-1].detach().requires_grad_()
    logits = judge((*real[:-1], clip))
    (gradient,) = torch.autograd.grad(logits.sum(), [clip], create_graph=True)
    return gradient.square().flatten(1).sum(1), logits
