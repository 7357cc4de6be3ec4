"""What drifts over hundreds of frames in :mod:`lvgan.data.world`: light, weather and season."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lvgan.data.world_terrain import Doubles, curve, derive_key, hash_unit, smoothstep

# Time of day: phase, zenith, horizon, sunlight, light from the sky. Phases wrap at 1.
_DAY = np.array(
    [
        (0.00, 0.20, 0.44, 0.86, 0.68, 0.84, 0.97, 1.00, 0.96, 0.86, 0.42, 0.47, 0.55),  # noon
        (0.18, 0.27, 0.46, 0.78, 0.96, 0.86, 0.62, 1.06, 0.86, 0.54, 0.40, 0.41, 0.46),  # golden
        (0.30, 0.27, 0.28, 0.56, 1.00, 0.55, 0.28, 1.00, 0.50, 0.22, 0.36, 0.31, 0.38),  # sunset
        (0.40, 0.18, 0.15, 0.42, 0.72, 0.38, 0.54, 0.42, 0.24, 0.34, 0.32, 0.28, 0.42),  # dusk
        (0.50, 0.05, 0.10, 0.28, 0.20, 0.30, 0.52, 0.20, 0.28, 0.42, 0.18, 0.24, 0.40),  # night
        (0.58, 0.12, 0.20, 0.44, 0.46, 0.46, 0.64, 0.30, 0.30, 0.40, 0.26, 0.30, 0.44),  # before dawn
        (0.68, 0.34, 0.40, 0.68, 1.00, 0.70, 0.62, 0.92, 0.58, 0.46, 0.38, 0.36, 0.45),  # dawn
        (0.82, 0.28, 0.55, 0.90, 0.82, 0.92, 0.94, 1.00, 0.93, 0.78, 0.42, 0.46, 0.52),  # morning
        (1.00, 0.20, 0.44, 0.86, 0.68, 0.84, 0.97, 1.00, 0.96, 0.86, 0.42, 0.47, 0.55),
    ]
)
# Seasons: phase, grass, field, leaves. Phases wrap at 1.
_YEAR = np.array(
    [
        (0.00, 0.36, 0.56, 0.16, 0.62, 0.66, 0.18, 0.26, 0.50, 0.14),  # spring
        (0.20, 0.34, 0.46, 0.15, 0.70, 0.30, 0.44, 0.16, 0.38, 0.12),  # flowers
        (0.40, 0.60, 0.58, 0.22, 0.86, 0.68, 0.24, 0.28, 0.40, 0.12),  # wheat
        (0.58, 0.66, 0.46, 0.20, 0.52, 0.28, 0.14, 0.74, 0.36, 0.08),  # autumn
        (0.74, 0.54, 0.38, 0.26, 0.42, 0.22, 0.24, 0.60, 0.18, 0.12),  # heath
        (0.88, 0.36, 0.48, 0.38, 0.30, 0.40, 0.36, 0.30, 0.36, 0.26),  # moss
        (1.00, 0.36, 0.56, 0.16, 0.62, 0.66, 0.18, 0.26, 0.50, 0.14),
    ]
)
EARTH, ROCK, SNOW = np.array([(0.60, 0.47, 0.33), (0.46, 0.43, 0.42), (0.93, 0.95, 1.0)])
# Frames between the knots of: time of day, season, clouds, haze, camera height, camera tilt, snow.
_WAVES = np.array([800.0, 900.0, 620.0, 700.0, 480.0, 420.0, 1000.0])


@dataclass(frozen=True)
class Mood:
    """Light, weather and season at one frame. Colours are RGB in about 0..1."""

    zenith: Doubles
    horizon: Doubles
    sun: Doubles
    ambient: Doubles
    grass: Doubles
    field: Doubles
    leaves: Doubles
    sun_x: float  # the sun's direction, to the right (east) of the world's z
    sun_up: float
    cover: float  # density above which there is cloud
    grey: float  # 0..1: how much of the sun is behind clouds
    sight: float  # metres at which haze takes 63 % of the light
    snow_line: float  # metres
    rise: float  # how high the camera flies above the road, metres
    tilt: float  # of the camera, as a tangent


def mood_at(key: int, index: int) -> Mood:
    """Light, weather and season of a frame, of the world `key`."""
    start = hash_unit(derive_key(key, -1), np.arange(2), np.zeros(1, np.int64))
    keys = np.array([derive_key(key, i) for i in range(len(_WAVES))], np.uint64)
    drift = curve(keys, _WAVES, np.full(len(_WAVES), float(index)))
    day = (start[0] + index / 2600 + 0.16 * drift[0]) % 1.0
    year = (start[1] + index / 3600 + 0.30 * drift[1]) % 1.0
    zenith, horizon, sun, ambient = _wheel(_DAY, day).reshape(4, 3)
    grass, field, leaves = _wheel(_YEAR, year).reshape(3, 3)
    cover = 0.16 - 0.75 * drift[2]
    grey = float(smoothstep(0.15, -0.45, np.array(cover)))
    dull = 0.62 * grey
    overcast = 0.42 * (zenith + horizon).mean() + 0.58 * 0.5 * (zenith + horizon)
    zenith = zenith + dull * (overcast - zenith)
    horizon = horizon + dull * (overcast * 1.04 - horizon)
    around = 2 * math.pi * day
    return Mood(
        zenith, horizon, sun * (1 - 0.75 * grey), ambient * (1 + 0.25 * grey), grass, field, leaves,
        sun_x=math.sin(around) * 0.9,
        sun_up=math.cos(around),
        cover=float(cover),
        grey=grey,
        sight=float(np.exp(6.85 + 1.25 * drift[3])),
        snow_line=float(70 - 115 * drift[6]),
        rise=float(7.0 + 2.2 * drift[4]),
        tilt=float(0.05 * drift[5]),
    )  # fmt: skip


def _wheel(table: NDArray[np.float64], phase: float) -> Doubles:
    """Row of a table at a phase, smooth between its knots."""
    i = int(np.searchsorted(table[:, 0], phase, side="right")) - 1
    t = (phase - table[i, 0]) / (table[i + 1, 0] - table[i, 0])
    t = t * t * (3 - 2 * t)
    return table[i, 1:] * (1 - t) + table[i + 1, 1:] * t
