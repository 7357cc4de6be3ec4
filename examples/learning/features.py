"""Pixel statistics of clips, for ``lvgan eval fvd --detector features:pixel_statistics``: no network, no download."""

import numpy as np

GRID = 4


def pixel_statistics(clips: np.ndarray) -> np.ndarray:
    """uint8 [N, T, H, W, 3] to float64 [N, 160]: where which colours are, how they change, detail and motion.

    On a grid of 4 x 4 cells: the mean colour (48 numbers), its change from the first to the last quarter of the clip
    (48), and the logarithms of the energies of horizontal and vertical detail, of motion from frame to frame, and of
    the variation inside a cell (64), scaled so that each group weighs about the same on footage.
    """
    video = clips.astype(np.float64) / 255
    quarter = max(1, video.shape[1] // 4)
    color = _cells(video)  # [N, T, 16, 3]
    change = color[:, -quarter:].mean(1) - color[:, :quarter].mean(1)
    luma = video @ (0.299, 0.587, 0.114)
    energies = [
        _cells(np.diff(luma, axis=3, append=luma[:, :, :, -1:]) ** 2),
        _cells(np.diff(luma, axis=2, append=luma[:, :, -1:]) ** 2),
        _cells(np.diff(luma, axis=1) ** 2),
        _cells(luma**2) - _cells(luma) ** 2,
    ]
    logs = [0.1 * np.log(np.maximum(energy.mean(1), 0) + 1e-6) for energy in energies]
    parts = [color.mean(1), 2 * change, *logs]
    return np.concatenate([part.reshape(len(clips), -1) for part in parts], axis=1)


def _cells(values: np.ndarray) -> np.ndarray:
    """Means over the cells: [N, T, H, W, ...] to [N, T, 16, ...]."""
    rows = np.array_split(values, GRID, axis=2)
    cells = [cell.mean(axis=(2, 3)) for row in rows for cell in np.array_split(row, GRID, axis=3)]
    return np.stack(cells, axis=2)
