"""Tensors of more than 2**31 elements: what 32-bit indices would get wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lvgan.ops import bias_act, filtered_lrelu, native, setup_filter, upfirdn2d

SIDE = 33_000  # two planes of it: 2.18e9 elements, 4.4 GB in bfloat16
FAR = 256  # the corner that is computed alone as well
NEEDED = 9 * 2**30


def _free_memory() -> int:
    """Bytes that can be had without swapping; 0 where the system does not say."""
    facts = Path("/proc/meminfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), 0)


def _signal() -> Tensor:
    x = torch.empty(1, 2, SIDE, SIDE, dtype=torch.bfloat16)
    x[:] = torch.randn(SIDE, generator=torch.Generator().manual_seed(0))
    x *= torch.linspace(0.5, 1.5, SIDE, dtype=torch.bfloat16)[:, None]
    assert x.numel() > 2**31
    return x


@pytest.mark.slow
def test_more_elements_than_32_bits_count() -> None:
    """The far corner of the last plane is what it is when computed alone."""
    if _free_memory() < NEEDED:
        pytest.skip(f"needs {NEEDED / 2**30:.0f} GiB of free memory, found {_free_memory() / 2**30:.0f}")
    status = native.ensure("cpu")
    if not status.active:
        pytest.skip(f"no compiled operators: {status.reason}")
    taps = {n: setup_filter(torch.arange(1.0, n + 1), separable=True) for n in (12, 24)}
    calls: list[Callable[[Tensor], Tensor]] = [
        lambda x: upfirdn2d(x, taps[12], down=4, padding=4),
        lambda x: filtered_lrelu(x, taps[12], taps[24], up=2, down=8, padding=(17, 17), clamp=1.0),
        lambda x: filtered_lrelu(x, taps[12], taps[24], up=2, down=4, padding=(17, 17), clamp=1.0),
        lambda x: bias_act(x, torch.ones(2, dtype=x.dtype), activation="lrelu", clamp=1.0),
    ]
    x = _signal()
    for call in calls:
        y = call(x)
        alone = call(x[:, :, -FAR:, -FAR:])
        assert alone.isfinite().all()
        assert torch.equal(y[:, :, -16:, -16:], alone[:, :, -16:, -16:])
        del y
