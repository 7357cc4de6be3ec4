"""Endless ground for :mod:`lvgan.data.world`: hashed noise, and maps that follow the camera.

Everything here is a pure function of integer world coordinates and a 64-bit key (a counter-based
hash), so nothing repeats and any place can be looked up at once. A map keeps tiles of such noise at
a dozen resolutions around the camera; that only saves time and never changes a value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

TILE = 32  # cells along a side of one tile
WINDOW_Z, WINDOW_X = 256, 512  # cells of one level that are kept
WATER = -5.0  # metres; lower ground is a lake

_MASK = (1 << 64) - 1
_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)


def derive_key(*words: int) -> int:
    """One 64-bit key from several integers of any size or sign."""
    key = 0x8BADF00D5EED1234
    for word in words:
        key = (key ^ (word & _MASK)) * int(_MIX[2]) & _MASK
        key = (key ^ (key >> 29)) * int(_MIX[3]) & _MASK
        key ^= key >> 32
    return key


def hash_unit(key: int | NDArray[np.uint64], x: Ints, z: Ints) -> Doubles:
    """Uniform numbers in [0, 1), one for each key and integer place (x, z), which broadcast together."""
    h = (x.astype(np.uint64) * _MIX[0] + z.astype(np.uint64) * _MIX[1]) ^ np.asarray(key, np.uint64)
    h = (h ^ (h >> np.uint64(31))) * _MIX[2]
    h = (h ^ (h >> np.uint64(29))) * _MIX[3]
    h = h ^ (h >> np.uint64(32))
    return (h >> np.uint64(11)).astype(np.float64) * 2.0**-53


def smoothstep(low: float, high: float, x: NDArray) -> NDArray:
    """0 below `low`, 1 above `high`, a cubic between; `low` > `high` falls instead."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _spline(t: NDArray) -> NDArray:
    """Weights [..., 4] of the cubic B-spline at the fraction `t` between the middle two knots."""
    t2, t3 = t * t, t * t * t
    return np.stack([(1 - t) ** 3, 3 * t3 - 6 * t2 + 4, 3 * (t + t2 - t3) + 1, t3], -1) / 6


def curve(key: int | NDArray[np.uint64], wavelength: float | Doubles, t: Doubles) -> Doubles:
    """Smooth noise on a line: about [-1, 1], standard deviation 0.4, knots `wavelength` apart."""
    knot = np.floor(t / wavelength)
    weights = _spline(t / wavelength - knot)
    steps = np.arange(-1, 3)
    keys = np.asarray(key, np.uint64)[..., None]
    values = hash_unit(keys, knot.astype(np.int64)[..., None] + steps, np.zeros(1, np.int64))
    return ((2 * values - 1) * weights).sum(-1) * 1.2


def scatter_noise(key: int, wavelength: float, x: Doubles, z: Doubles) -> Doubles:
    """Smooth noise of the plane at scattered points: about [-1, 1]."""
    ix, iz = np.floor(x / wavelength), np.floor(z / wavelength)
    wx, wz = _spline(x / wavelength - ix), _spline(z / wavelength - iz)
    steps = np.arange(-1, 3)
    gx, gz = ix.astype(np.int64)[:, None, None] + steps, iz.astype(np.int64)[:, None, None] + steps[:, None]
    values = 2 * hash_unit(key, gx, gz) - 1
    return 2 * np.einsum("nzx,nz,nx->n", values, wz, wx)


def tile_noise(keys: Sequence[int], shift: int, tx: Ints, tz: Ints) -> Floats:
    """Smooth noise of whole tiles with one cell of margin: about [-1, 1], knots 2**shift cells apart.

    Returns [len(keys), tiles, TILE + 2, TILE + 2] (z before x). A tile is two products with banded
    matrices, because the interpolation is separable.
    """
    span = (TILE + 2 >> shift) + 5
    wx, ix = _banded(tx, shift, span)
    wz, iz = _banded(tz, shift, span)
    k = np.array(keys, np.uint64)[:, None, None, None]
    knots = 4 * hash_unit(k, ix[:, None, :], iz[:, :, None]) - 2  # [K, n, span, span]
    return wz @ knots.astype(np.float32) @ wx.transpose(0, 2, 1)


def _banded(tile: Ints, shift: int, span: int) -> tuple[Floats, Ints]:
    """Interpolation matrices [n, TILE + 2, span] and the knots [n, span] that they weigh."""
    cells = tile[:, None] * TILE + np.arange(-1, TILE + 1)
    knot = cells >> shift
    first = knot[:, :1] - 1
    weights = _spline(((cells - (knot << shift)) / (1 << shift)).astype(np.float32))
    matrix = np.zeros((len(tile), TILE + 2, span), np.float32)
    n, row = np.arange(len(tile))[:, None], np.arange(TILE + 2)
    for j in range(4):
        matrix[n, row, knot - first - 1 + j] = weights[..., j]
    return matrix, first + np.arange(span)


class Clipmap:
    """Maps of an endless plane at `levels` resolutions, each a window around the camera.

    Level k has cells of ``cell * 2**k`` metres. `make(level, tx, tz)` gives tiles
    [n, TILE, TILE, channels]; they are kept at their coordinates modulo the window.
    """

    def __init__(self, cell: float, levels: int, channels: int, make: Callable[[int, Ints, Ints], Floats]) -> None:
        self.cell, self.levels, self._make = cell, levels, make
        self.cells = np.zeros((levels, WINDOW_Z // TILE, TILE, WINDOW_X // TILE, TILE, channels), np.float32)
        self.flat = self.cells.reshape(-1, channels)
        self._held = np.full((levels, WINDOW_Z // TILE, WINDOW_X // TILE, 2), np.iinfo(np.int64).min, np.int64)
        self._bounds: list[tuple[int, ...]] = [()] * levels

    def hold(self, level: int, bounds: tuple[int, int, int, int]) -> None:
        """Make sure that tiles x0..x1 and z0..z1 (inclusive) of a level are there."""
        x0, x1, z0, z1 = bounds
        bounds = x0, x1, z0, z1 = x0 & ~1, x1 | 1, z0, z1 | 1  # by twos: fewer, larger calls of `make`
        if self._bounds[level] == bounds:
            return
        if x1 - x0 >= WINDOW_X // TILE or z1 - z0 >= WINDOW_Z // TILE:
            raise ValueError(f"bounds {bounds} of level {level} are larger than the window")
        tx, tz = (g.ravel() for g in np.meshgrid(np.arange(x0, x1 + 1), np.arange(z0, z1 + 1)))
        slot = (level, tz % (WINDOW_Z // TILE), tx % (WINDOW_X // TILE))
        wanted = np.stack([tx, tz], -1)
        missing = (self._held[slot] != wanted).any(-1)
        if missing.any():
            sz, sx = slot[1][missing], slot[2][missing]
            self.cells[level, sz, :, sx] = self._make(level, tx[missing], tz[missing])
            self._held[level, sz, sx] = wanted[missing]
        self._bounds[level] = bounds


class Land:
    """The ground of one world: a road that winds through a valley, hills, lakes, far mountains."""

    CELL = 0.125  # metres, of the finest level
    LEVELS = 12
    CHANNELS = 8  # height, slope x, slope z, then the shares of grass, field, earth, rock, water
    _MOUNTAINS: ClassVar = {
        14: 1.0,
        13: 0.62,
        12: 0.36,
        11: 0.18,
        10: 0.08,
    }  # log2 of wavelength / CELL: weight
    _HILLS: ClassVar = {11: 13.0, 10: 8.0, 9: 4.0, 8: 1.8, 7: 0.7, 6: 0.25}
    _PATCHES: ClassVar = {13: 0.3, 12: 0.4, 11: 0.5, 10: 0.6, 9: 0.6, 8: 0.5, 7: 0.35, 6: 0.2, 5: 0.12}
    _GRAIN: ClassVar = {9: 0.12, 8: 0.1, 7: 0.12, 6: 0.14, 5: 0.16, 4: 0.18, 3: 0.2, 2: 0.2, 1: 0.2}

    def __init__(self, key: int) -> None:
        self.key = key
        self._keys = [derive_key(key, i) for i in range(8)]

    def road_x(self, z: Doubles) -> Doubles:
        """Where the road runs, metres."""
        return 80 * curve(self._keys[0], 1100.0, z) + 20 * curve(self._keys[1], 250.0, z)

    def road_height(self, z: Doubles) -> Doubles:
        """How high the road lies, metres."""
        return 3.0 * curve(self._keys[2], 300.0, z) + 0.8 * curve(self._keys[3], 110.0, z)

    def _octaves(self, field: int, weights: dict[int, float], level: int, coarsest: int, tx: Ints, tz: Ints) -> Floats:
        """Sum of the octaves that cells of this level can carry: knots 2**coarsest cells apart or more."""
        total = np.zeros((len(tx), TILE + 2, TILE + 2), np.float32)
        for octave, weight in weights.items():
            if octave - level >= coarsest:
                key = derive_key(self._keys[4 + field], octave)
                fade = 0.5 if octave - level == coarsest else 1.0  # the finest one comes in gently
                total += weight * fade * tile_noise([key], octave - level, tx, tz)[0]
        return total

    def tiles(self, level: int, tx: Ints, tz: Ints) -> Floats:
        """Ground of whole tiles: [n, TILE, TILE, CHANNELS]."""
        cell = self.CELL * 2**level
        x = cell * (tx[:, None] * TILE + np.arange(-1, TILE + 1))
        z = cell * (tz[:, None] * TILE + np.arange(-1, TILE + 1))
        aside = np.abs(x[:, None, :] - self.road_x(z)[:, :, None]).astype(np.float32)
        road = self.road_height(z)[:, :, None].astype(np.float32)

        peaks = np.zeros_like(aside)
        for octave, weight in self._MOUNTAINS.items():
            if octave - level >= 3:
                noise = tile_noise([derive_key(self._keys[4], octave)], octave - level, tx, tz)[0]
                peaks += weight * (1 - np.sqrt(noise * noise + 0.002) * 1.6)
        hills = self._octaves(1, self._HILLS, level, 3, tx, tz)
        patch = self._octaves(2, self._PATCHES, level, 1, tx, tz)
        grain = 1 + self._octaves(3, self._GRAIN, level, 1, tx, tz)

        height = road + smoothstep(4, 70, aside) * hills
        height += 320 * smoothstep(70, 1300, aside) * np.maximum(peaks, 0)
        slope_x = (height[:, 1:-1, 2:] - height[:, 1:-1, :-2]) / (2 * cell)
        slope_z = (height[:, 2:, 1:-1] - height[:, :-2, 1:-1]) / (2 * cell)
        inner = (slice(None), slice(1, -1), slice(1, -1))
        height, patch, grain, aside = height[inner], patch[inner], grain[inner], aside[inner]

        out = np.empty((len(tx), TILE, TILE, self.CHANNELS), np.float32)
        water = smoothstep(WATER + 0.3, WATER - 0.3, height)
        track = np.clip((1.9 - aside) / max(cell, 0.3) + 0.5, 0, 1)
        track *= 1 - 0.6 * np.clip((0.4 - aside) / max(cell, 0.2) + 0.5, 0, 1) * min(1.0, 0.5 / cell)
        steep = slope_x * slope_x + slope_z * slope_z
        rock = smoothstep(0.16, 0.5, steep + 0.15 * patch) * (1 - water)
        shore = smoothstep(WATER + 1.3, WATER + 0.4, height) * (1 - water)
        earth = np.maximum(track, shore) * (1 - water)
        rock *= 1 - earth
        rest = (1 - water - earth - rock) * grain
        field = smoothstep(0.15, 0.4, patch) * smoothstep(3.0, 9.0, aside)
        out[..., 0] = np.maximum(height, WATER)
        out[..., 1], out[..., 2] = slope_x * (1 - water), slope_z * (1 - water)
        out[..., 3], out[..., 4] = rest * (1 - field), rest * field
        out[..., 5], out[..., 6] = earth * (0.6 + 0.4 * grain), rock * (0.35 + 0.65 * grain)
        out[..., 7] = water
        return out


class Clouds:
    """Cloud density on a plane high above, one channel of about [-1, 1]."""

    CELL = 8.0
    LEVELS = 12
    _OCTAVES: ClassVar = {9: 0.35, 8: 0.5, 7: 0.55, 6: 0.4, 5: 0.25, 4: 0.15, 3: 0.09, 2: 0.05, 1: 0.03}

    def __init__(self, key: int) -> None:
        self._key = key

    def tiles(self, level: int, tx: Ints, tz: Ints) -> Floats:
        """Density of whole tiles: [n, TILE, TILE, 1]."""
        total = np.zeros((len(tx), TILE, TILE, 1), np.float32)
        for octave, weight in self._OCTAVES.items():
            if octave - level >= 1:
                noise = tile_noise([derive_key(self._key, octave)], octave - level, tx, tz)[0]
                total[..., 0] += weight * noise[:, 1:-1, 1:-1]
        return total
