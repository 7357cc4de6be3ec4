"""What is measured by ``lvgan bench eval``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lvgan.evaluation.color import BINS, color_similarity

FRAMES, SIDE = 128, 256
REPEATS = 3


def drifting_clip(seed: int, frames: int = FRAMES, side: int = SIDE) -> np.ndarray:
    """Shaded, noisy frames whose colours drift, uint8 [frames, side, side, 3]: as many colours as footage has."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    shades = np.stack([0.7 * y + 0.1, 0.6 * x + 0.2, 0.4 * (x + y)], axis=-1) * 255
    noise = rng.normal(0, 8, (side, side, 3))
    drift = rng.uniform(-0.4, 0.4, 3)
    clip = [np.clip(shades + noise + t * drift, 0, 255) for t in range(frames)]
    return np.stack(clip).astype(np.uint8)


def _cells(frame: Tensor, bins: int) -> Tensor:
    """Where each pixel falls, before rounding down: float32 [H * W, 3]."""
    v = frame.reshape(-1, 3).float() / 127.5 - 1
    return (v / 2 + 0.5) * (bins - 1) + 0.5


def histogram_dd(frame: Tensor, bins: int) -> Tensor:
    """The joint histogram by torch's own function for it."""
    # A byte is at least 1/510 off the edge of any bin but float32 is not exact: step a quarter of that inside.
    cells = _cells(frame, bins) + 0.25 / 510
    return torch.histogramdd(cells, bins=[bins] * 3, range=[0.0, float(bins)] * 3).hist.ravel() / len(cells)


def histogram_bincount(frame: Tensor, bins: int) -> Tensor:
    """The joint histogram by one index a pixel, counted."""
    cells = (_cells(frame, bins) + 0.25 / 510).floor().clamp(0, bins - 1).long()
    index = (cells[:, 0] * bins + cells[:, 1]) * bins + cells[:, 2]
    return torch.bincount(index, minlength=bins**3) / len(cells)


def loop(clip: np.ndarray, histogram: Callable[[Tensor, int], Tensor], bins: int = BINS) -> Tensor:
    """Colour similarity, a histogram a frame: float32 [T]."""
    frames = torch.from_numpy(clip)
    first = histogram(frames[0], bins)
    return torch.stack([torch.minimum(first, histogram(frame, bins)).sum() for frame in frames])


LOOPS = {"torch.histogramdd": histogram_dd, "torch.bincount": histogram_bincount}


def _seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall time and processor time of all threads, each the best of a few: other programs only ever add to it."""
    walls, cpus = [], []
    for _ in range(REPEATS):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus)


def run(
    clips: int, show: Callable[[dict[str, Any]], None], frames: int = FRAMES, side: int = SIDE
) -> list[dict[str, Any]]:
    """Rows of `lvgan bench eval`; each clip is measured in turn by every way, so that load hits all alike."""
    ours: list[tuple[float, float]] = []
    plain: dict[str, list[tuple[float, float]]] = {name: [] for name in LOOPS}
    drifting = drifting_clip(0, frames, side)
    for histogram in LOOPS.values():
        expected = loop(drifting[:2], histogram).numpy()
        np.testing.assert_allclose(color_similarity(drifting[:2]), expected, atol=1e-5)
    for seed in range(clips):
        clip = drifting_clip(seed, frames, side)
        ours.append(_seconds(lambda clip=clip: color_similarity(clip)))  # type: ignore[misc]
        for name, histogram in LOOPS.items():
            plain[name].append(_seconds(lambda clip=clip, histogram=histogram: loop(clip, histogram)))  # type: ignore[misc]
    rows = []
    for name in LOOPS:
        row = _row(f"color similarity ({name})", ours, plain[name], clips)
        show(row)
        rows.append(row)
    return rows


def _row(name: str, ours: list[tuple[float, float]], plain: list[tuple[float, float]], clips: int) -> dict[str, Any]:
    (wall, cpu), (plain_wall, plain_cpu) = (
        [statistics.median(times) for times in zip(*pairs, strict=True)] for pairs in (ours, plain)
    )
    return {
        "name": name,
        "clips": clips,
        "ratio": plain_wall / wall,
        "cpu_ratio": plain_cpu / cpu,
        "seconds": wall,
        "plain_seconds": plain_wall,
        "cpu_seconds": cpu,
        "plain_cpu_seconds": plain_cpu,
    }
