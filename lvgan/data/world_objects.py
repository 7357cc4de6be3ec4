"""Upright things in :mod:`lvgan.data.world`: trees, bushes, rocks, houses, posts, balloons.

Each is a solid of revolution seen from the side: a table of half widths over its height. They are
drawn together, scan line by scan line, far to near, with soft edges and hidden behind hills.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lvgan.data.world_terrain import Doubles, Floats, Land, derive_key, hash_unit, scatter_noise

CONIFER, BROADLEAF, POPLAR, BUSH, ROCK, HOUSE, POST, BALLOON, SHADOW = range(9)
_ROUGH = np.array([0.3, 1.0, 0.7, 0.8, 0.6, 0, 0, 0, 0], np.float32)  # how much outlines wobble
ROWS = 256  # of a profile


def _profiles() -> tuple[Floats, NDArray[np.bool_], Floats]:
    """Half width in heights, whether it is the lower material, and brightness: each [kinds, ROWS]."""
    v = (np.arange(ROWS) + 0.5) / ROWS
    wide = np.zeros((9, ROWS))
    lower = np.zeros((9, ROWS), bool)
    bright = np.tile(0.72 + 0.5 * v, (9, 1))
    crown = np.clip((v - 0.1) / 0.9, 0, 1)
    tier = 1 - (crown * 5) % 1.0
    wide[CONIFER] = np.where(v < 0.1, 0.02, 0.25 * (1 - crown) * (0.7 + 0.3 * tier) + 0.004)
    bright[CONIFER] *= 0.8 + 0.3 * (1 - tier)
    wide[BROADLEAF] = np.maximum(0.028 * (v < 0.5), 0.34 * _ellipse(v, 0.64, 0.36))
    wide[POPLAR] = np.maximum(0.02 * (v < 0.3), 0.14 * _ellipse(v, 0.56, 0.44))
    wide[BUSH] = 0.75 * _ellipse(v, 0.3, 0.7)
    wide[ROCK] = 0.8 * _ellipse(v, 0.1, 0.9) * (1 + 0.12 * np.sin(9 * v))
    wide[HOUSE] = np.where(v < 0.55, 0.55, 0.68 * (1 - (v - 0.55) / 0.45))
    wide[POST] = np.where(v < 0.8, 0.035, 0.06)
    wide[BALLOON] = np.maximum(0.09 * (v < 0.13), 0.4 * _ellipse(v, 0.62, 0.38))
    wide[BALLOON] = np.maximum(wide[BALLOON], 0.012)
    wide[SHADOW] = _ellipse(v, 0.5, 0.5)
    lower[CONIFER] = v < 0.1
    lower[BROADLEAF] = v < 0.3
    lower[POPLAR] = v < 0.14
    lower[HOUSE] = v < 0.55
    lower[POST] = v < 0.8
    lower[BALLOON] = (v < 0.24) | ((v * 7) % 1.0 < 0.35)
    bright[HOUSE], bright[POST], bright[SHADOW] = 1.0, 1.0, 1.0
    return wide.astype(np.float32), lower, bright.astype(np.float32)


def _ellipse(v: Doubles, centre: float, radius: float) -> Doubles:
    return np.sqrt(np.clip(1 - ((v - centre) / radius) ** 2, 0, None))


_WIDE, _LOWER, _BRIGHT = _profiles()


class Objects:
    """All objects of one world, looked up around the camera."""

    CELL = 6.0  # metres: at most one plant a cell
    CHUNK = 48.0

    def __init__(self, key: int, land: Land) -> None:
        self._keys = [derive_key(key, i) for i in range(12)]
        self._land = land
        self._chunk: tuple[int, int] | None = None
        self._found: dict[str, NDArray] = {}

    def near(self, x: float, z: float) -> dict[str, NDArray]:
        """Every object that can be seen from (x, z), by attribute; a pure function of the place's chunk."""
        chunk = (int(np.floor(x / self.CHUNK)), int(np.floor(z / self.CHUNK)))
        if chunk != self._chunk:
            parts = [self._plants(*chunk), self._posts(chunk[1]), self._balloons(chunk[1])]
            self._found = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
            self._chunk = chunk
        return self._found

    def _uniform(self, key: int, x: NDArray, z: NDArray) -> Doubles:
        return hash_unit(self._keys[key], x, z)

    def _plants(self, chunk_x: int, chunk_z: int) -> dict[str, NDArray]:
        per = int(self.CHUNK / self.CELL)
        cx = np.arange((chunk_x - 6) * per, (chunk_x + 7) * per)
        cz = np.arange((chunk_z - 1) * per, (chunk_z + 7) * per)
        cx, cz = (g.ravel() for g in np.meshgrid(cx, cz))
        x = (cx + 0.1 + 0.8 * self._uniform(0, cx, cz)) * self.CELL
        z = (cz + 0.1 + 0.8 * self._uniform(1, cx, cz)) * self.CELL
        forest = scatter_noise(self._keys[2], 150.0, x, z) + 0.5 * scatter_noise(self._keys[3], 45.0, x, z)
        kind_noise = scatter_noise(self._keys[4], 240.0, x, z)
        chance, pick = self._uniform(5, cx, cz), self._uniform(6, cx, cz)
        aside = np.abs(x - self._land.road_x(z))
        there = (chance < np.clip(0.07 + 0.75 * forest, 0.03, 0.6)) & (aside > 4.0)
        kind = np.where(kind_noise + 0.5 * (pick - 0.5) > 0, CONIFER, BROADLEAF)
        kind = np.where((pick > 0.86) & (kind == BROADLEAF), POPLAR, kind)
        kind = np.where((pick < 0.12) | (aside < 6.0), BUSH, kind)
        kind = np.where((pick > 0.12) & (pick < 0.17), ROCK, kind)
        kind = np.where((pick > 0.45) & (pick < 0.475) & (aside > 12), HOUSE, kind)
        x, z, cx, cz, kind = x[there], z[there], cx[there], cz[there], kind[there]
        a, b, c = (self._uniform(7 + i, cx, cz) for i in range(3))
        tall = np.array([9.0, 7.5, 11.0, 1.6, 1.3, 5.5, 1.0, 1.0, 1.0])[kind] * (0.65 + 0.7 * a)
        wide = 0.85 + 0.35 * b
        tint = np.array(
            [(0.10, 0.26, 0.16), (0.3, 0.4, 0.1), (0.25, 0.4, 0.12), (0.28, 0.40, 0.14), (0.46, 0.43, 0.42),
             (0.62, 0.22, 0.15), (0, 0, 0), (0, 0, 0), (0, 0, 0)]
        )[kind]  # fmt: skip
        foot = np.array([(0.30, 0.21, 0.14)] * 5 + [(0.88, 0.83, 0.72)] + [(0, 0, 0)] * 3)[kind]
        tint = tint + (c[:, None] - 0.5) * np.array([0.16, 0.05, -0.02])
        return _pack(x, z, kind, tall, wide, np.clip(tint, 0.02, 1), foot, 0.75 + 0.5 * c)

    def _posts(self, chunk_z: int) -> dict[str, NDArray]:
        """Posts on both sides of the road, one each 12 m or so; stretches have none."""
        n = np.arange((chunk_z - 1) * 4, (chunk_z + 4) * 4)
        n = np.concatenate([n, n])
        side = np.repeat([-1, 1], len(n) // 2)
        z = (n + 0.5 + 0.2 * (self._uniform(10, n, side) - 0.5)) * 12.0
        x = self._land.road_x(z) + side * 3.4
        there = hash_unit(self._keys[11], n // 16, np.zeros(1, np.int64)) < 0.6
        n, x, z, side = n[there], x[there], z[there], side[there]
        k = np.full(len(n), POST)
        white, red = np.tile((0.92, 0.9, 0.86), (len(n), 1)), np.tile((0.75, 0.16, 0.1), (len(n), 1))
        return _pack(x, z, k, np.full(len(n), 1.3), np.ones(len(n)), red, white, np.ones(len(n)))

    def _balloons(self, chunk_z: int) -> dict[str, NDArray]:
        n = np.arange(chunk_z // 4 - 1, chunk_z // 4 + 5)
        zero = np.zeros_like(n)
        a, b, c, d = (hash_unit(self._keys[11] ^ i, n, zero) for i in range(1, 5))
        z = (n + a) * self.CHUNK * 4
        x = self._land.road_x(z) + np.where(b < 0.5, -1, 1) * (25 + 240 * np.abs(b - 0.5))
        hue = 2 * np.pi * (d[:, None] + np.array([0, 0.33, 0.67]))
        k, there = np.full(len(n), BALLOON), c < 0.75
        tint, foot = 0.55 + 0.4 * np.cos(hue), 0.75 + 0.2 * np.cos(hue + 2.2)
        high = 18 + 30 * d
        packed = _pack(x, z, k, 12 + 5 * a, np.ones(len(n)), tint, foot, np.ones(len(n)))
        packed["base"] = high
        return {name: values[there] for name, values in packed.items()}


def _pack(
    x: Doubles,
    z: Doubles,
    kind: NDArray,
    tall: Doubles,
    wide: Doubles,
    tint: Doubles,
    foot: Doubles,
    shade: Doubles,
) -> dict[str, NDArray]:
    return {
        "x": x, "z": z, "kind": kind, "tall": tall, "wide": wide, "tint": tint, "foot": foot, "shade": shade,
        "base": np.zeros(len(x)),
    }  # fmt: skip


def draw(picture: Floats, sight: Floats, things: dict[str, NDArray], height: int, width: int) -> None:
    """Paint objects (sorted far to near) into planes [3, H * W]; `sight` tells what hides them."""
    # In groups by distance, because the soft edges within one are not mixed with each other.
    scales = 0.72 * np.sqrt(height * width) / np.array([70.0, 25.0])
    cuts = [0, *np.searchsorted(things["scale"], scales).tolist(), len(things["scale"])]
    for start, stop in pairwise(cuts):
        part = {name: values[start:stop] for name, values in things.items()}
        _draw_band(picture, sight, part, height, width)


def _draw_band(picture: Floats, sight: Floats, t: dict[str, NDArray], height: int, width: int) -> None:
    kind = t["kind"]
    tall = t["tall"] * t["scale"]
    wide = tall * t["wide"]
    stands = t["base"] == 0
    spread = np.where(stands, _WIDE.max(1)[kind] * wide, 0.0)
    # Shadows first: flat ellipses at the feet, drawn like an object that is not tall.
    depth = spread * t["flat"] / t["scale"]
    row = np.concatenate([t["row"] + depth, t["row"]])
    tall = np.concatenate([2 * depth, tall])
    wide = np.concatenate([1.15 * spread, wide])
    kinds = np.concatenate([np.full(len(kind), SHADOW), kind])
    column, place = np.tile(t["column"], 2), np.concatenate([t["place"] - 6, t["place"] - 0.4])
    fade = np.concatenate([0.4 * t["fade"] * stands, t["fade"]])
    upper = np.concatenate([t["dark"], t["upper"]])
    lower = np.concatenate([t["dark"], t["lower"]])
    side = np.concatenate([np.zeros(len(kind)), t["light"] * (kind != HOUSE)])

    first = np.clip(np.floor(row - tall), 0, height).astype(np.int64)
    last = np.clip(np.ceil(row), 0, height).astype(np.int64)
    lines = np.where((fade > 0.01) & (tall > 0.3), last - first, 0)
    who = np.repeat(np.arange(len(row)), lines)
    y = np.arange(len(who)) - np.repeat(np.cumsum(lines) - lines, lines) + first[who]
    v = (row[who] - y - 0.5) / tall[who]
    entry = np.clip((v * ROWS).astype(np.int64), 0, ROWS - 1) + kinds[who] * ROWS
    half = _WIDE.ravel()[entry] * wide[who]
    cover = np.clip(y + 1 - (row - tall)[who], 0, 1)  # soft top
    solid = np.minimum(1, 2 * half) * cover * np.clip(row[who] - y, 0, 1) * fade[who]
    # Every plant has an outline of its own.
    rough, phase = _ROUGH[kinds][who], 40 * np.tile(t["shade"], 2)[who]
    half = half * (1 + 0.09 * rough * np.sin(v * 27 + phase))
    shift = 0.07 * rough * half * np.sin(v * 19 + 1.7 * phase)
    mottle = 1 + 0.04 * rough * np.sin(v * 41 + 2.3 * phase) * np.minimum(1, tall[who] * 0.04)
    colour = np.where(_LOWER.ravel()[entry][:, None], lower[who], upper[who])
    colour *= (_BRIGHT.ravel()[entry] * mottle)[:, None]

    centre = column[who] + shift
    x0 = np.clip(np.floor(centre - half - 0.5), 0, width).astype(np.int64)
    x1 = np.clip(np.ceil(centre + half + 0.5), 0, width).astype(np.int64)
    runs = np.where(solid > 0.01, np.maximum(x1 - x0, 0), 0)
    line = np.repeat(np.arange(len(who), dtype=np.int32), runs)
    if not len(line):
        return
    x = np.arange(len(line), dtype=np.int32) + (x0 - (np.cumsum(runs) - runs)).astype(np.int32)[line]
    pixel = x + (y * width).astype(np.int32)[line]
    off = x + np.float32(0.5) - centre.astype(np.float32)[line]
    half32 = half.astype(np.float32)
    alpha = np.clip(half32[line] + np.float32(0.5) - np.abs(off), 0, 1)
    alpha *= solid.astype(np.float32)[line]
    off *= (side[who] / np.maximum(half, 0.5)).astype(np.float32)[line]
    off += 1
    place_of = place.astype(np.float32)[who][line]
    shadow, opaque = (kinds == SHADOW)[who][line], alpha > 0.99
    far = sight.reshape(-1)
    # Shadows lie on the ground; then what hides the things behind it; then soft edges over all of that.
    for group in (shadow, opaque & ~shadow, ~opaque & ~shadow):
        own = np.flatnonzero(group)
        own = own[far[pixel[own]] >= place_of[own]]
        _blend(picture, pixel[own], alpha[own], colour, line[own], off[own])
        if group is not shadow:
            solid_ones = own[opaque[own]]
            far[pixel[solid_ones]] = place_of[solid_ones]


def _blend(picture: Floats, pixel: NDArray, alpha: Floats, colour: Doubles, line: NDArray, shade: Floats) -> None:
    """Mix pixels with the colours of their scan lines; where several fall on one, the last one stays."""
    for c in range(3):
        plane = picture[c]
        old = plane[pixel]
        new = colour[:, c].astype(np.float32)[line]
        new *= shade
        new -= old
        new *= alpha
        new += old
        plane[pixel] = new
