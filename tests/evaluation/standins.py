"""Small TorchScript files with the calls of I3D and Inception-v3, whose features can be computed by hand."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

FEATURES = 6


class Clips(nn.Module):
    """[N, C, T, H, W] to mean colours, their change over time, and how bright top and left halves are."""

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        assert x.dtype == torch.uint8
        assert rescale
        assert resize
        assert return_features
        y = x.double() / 127.5 - 1.0
        half = x.shape[2] // 2
        top = y[:, :, :, : x.shape[3] // 2].mean(dim=[1, 2, 3, 4])
        left = y[:, :, :, :, : x.shape[4] // 2].mean(dim=[1, 2, 3, 4])
        change = y[:, :, half:].mean(dim=[1, 2, 3, 4]) - y[:, :, :half].mean(dim=[1, 2, 3, 4])
        return torch.cat([y.mean(dim=[2, 3, 4]), change[:, None], top[:, None], left[:, None]], dim=1)


class Frames(nn.Module):
    """[N, C, H, W] to mean and mean square of each colour."""

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        assert x.dtype == torch.uint8
        assert return_features
        y = x.double() / 127.5 - 1.0
        return torch.cat([y.mean(dim=[2, 3]), (y * y).mean(dim=[2, 3])], dim=1)


class Nans(nn.Module):
    """A network that broke."""

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        return torch.full([x.shape[0], 4], float("nan"))


class Convolution(nn.Module):
    """Float32, as real ones are: rounds otherwise for other shapes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv3d(3, 24, 3)
        self.linear = nn.Linear(24, 5)

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        y = self.conv(x.float() / 127.5 - 1.0)
        return self.linear(torch.relu(y).mean(dim=[2, 3, 4]))


def save(network: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer releases of torch about TorchScript
        torch.jit.script(network.eval()).save(str(path))
    return path


def clip_features(clip: np.ndarray) -> np.ndarray:
    """What :class:`Clips` gives, in float64 and NumPy, for [T, H, W, 3]."""
    y = clip.astype(np.float64) / 127.5 - 1
    half = len(y) // 2
    change = y[half:].mean() - y[:half].mean()
    return np.array([
        *y.mean(axis=(0, 1, 2)), change, y[:, : y.shape[1] // 2].mean(), y[:, :, : y.shape[2] // 2].mean()
    ])  # fmt: skip


def frame_features(frame: np.ndarray) -> np.ndarray:
    """What :class:`Frames` gives for [H, W, 3]."""
    y = frame.astype(np.float64) / 127.5 - 1
    return np.array([*y.mean(axis=(0, 1)), *np.square(y).mean(axis=(0, 1))])


def videos(seed: int, count: int, frames: int, height: int = 8, width: int = 12, shift: int = 0) -> np.ndarray:
    """Random colours that drift over time, uint8 [count, frames, height, width, 3]."""
    rng = np.random.default_rng(seed)
    base = rng.integers(40, 160, (count, 1, 1, 1, 3))
    drift = rng.integers(-2, 3, (count, 1, 1, 1, 3)) * np.arange(frames)[:, None, None, None]
    noise = rng.integers(0, 40, (count, frames, height, width, 3))
    return (base + drift + noise + shift).clip(0, 255).astype(np.uint8)
