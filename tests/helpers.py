"""What several test files use."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_close_to_max(actual: Tensor, expected: Tensor, tol: float = 1e-5) -> None:
    """Assert that the largest difference is below `tol` of the largest expected magnitude."""
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    actual, expected = actual.detach().double(), expected.detach().double()
    assert torch.isfinite(actual).all()
    scale = expected.abs().max().clamp_min(1e-30)
    error = ((actual - expected).abs().max() / scale).item()
    assert error <= tol, f"largest difference is {error:.2e} of the largest value, allowed {tol:.0e}"
