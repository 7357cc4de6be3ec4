"""Constructed videos of which it is known whether they drift, repeat themselves, stand still or flicker."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lvgan.data.video import read_frames
from lvgan.sizes import Size

HEIGHT, WIDTH = 24, 32


def scene(frames: int, seed: int = 0) -> np.ndarray:
    """Soft coloured blobs on paths that never close: uint8 [frames, 24, 32, 3]."""
    rng = np.random.default_rng(seed)
    t = np.arange(frames)[:, None, None]
    y, x = np.mgrid[0:1:24j, 0:1:32j]
    video = np.full((frames, HEIGHT, WIDTH, 3), 90.0)
    for _ in range(6):
        rates, phases = rng.uniform(0.008, 0.03, 2) * np.sqrt([2, 3]), rng.uniform(0, 7, 2)
        place_y, place_x = (0.5 + 0.5 * np.sin(r * t + p) for r, p in zip(rates, phases, strict=True))
        blob = np.exp(-((y - place_y) ** 2 + (x - place_x) ** 2) / 0.03)
        video += blob[..., None] * rng.uniform(-110, 110, 3)
    return video.clip(0, 255).round().astype(np.uint8)


def loop(video: np.ndarray, period: int, frames: int) -> np.ndarray:
    return video[np.arange(frames) % period]


def noisy(video: np.ndarray, sigma: float, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, video.shape)
    return (video + noise).clip(0, 255).round().astype(np.uint8)


def fade(frames: int) -> np.ndarray:
    """Grey that becomes brighter by one level every two frames or so."""
    levels = np.linspace(20, 220, frames).round().astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (frames, HEIGHT, WIDTH, 3)).copy()


def decoded(path: Path, size: Size, frames: int = 10**6) -> np.ndarray:
    found = []
    with read_frames(path, [size], fps=30) as reader:
        for (frame,) in reader:
            found.append(frame)
            if len(found) == frames:
                break
    return np.stack(found)
