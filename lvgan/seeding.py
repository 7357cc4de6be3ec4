"""Randomness as a function of (seed, rank, step, purpose): nothing depends on what ran before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, *keys: int | str) -> int:
    """A 63-bit seed that is a fixed function of `seed` and `keys`."""
    digest = hashlib.blake2b(repr((int(seed), *keys)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def torch_generator(seed: int, *keys: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by :func:`derive`."""
    return torch.Generator(device).manual_seed(derive(seed, *keys))


def numpy_generator(seed: int, *keys: int | str) -> np.random.Generator:
    """A NumPy generator seeded by :func:`derive`."""
    return np.random.Generator(np.random.Philox(derive(seed, *keys)))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global CPU generator seeded within, and as it was afterwards: for initial weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
