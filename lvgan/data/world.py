"""A procedural world that never repeats: the ride that ``lvgan footage`` films.

A camera follows a winding road through hills, lakes and woods, at a steady speed. Time of day, season,
cloud cover, haze and snow drift over hundreds of frames. Frame k of video v of seed s is a pure
function of (s, v, k) and of the picture's size, for any k >= 0 and at any order of calls.

Each picture column walks over the ground from near to far and keeps what is not hidden (a height-field
ray cast, vectorised over columns and distances); the sky and the upright objects are drawn behind and
before it with soft edges. Lengths are metres; picture rows count downwards.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lvgan.data.world_mood import EARTH, ROCK, SNOW, mood_at
from lvgan.data.world_objects import Objects, draw
from lvgan.data.world_terrain import (
    TILE,
    WATER,
    WINDOW_X,
    WINDOW_Z,
    Clipmap,
    Clouds,
    Doubles,
    Floats,
    Ints,
    Land,
    derive_key,
    smoothstep,
)

SPEED = 0.4  # metres a frame
FAR = 8000.0
CLOUD_HEIGHT = 600.0
CLOUD_REACH = 180  # cells between the camera and the end of a level
BLOCK = 64  # rows that are worked on at once: as many as stay in the processor's cache


class View:
    """What depends on the picture's size alone: rays, distances, resolutions of the maps."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.focal = max(0.72 * math.sqrt(height * width), 0.5 * width)  # pixels
        self.horizon = 0.42 * height
        step = 2 if width >= 96 else 1  # ground is sampled at every column, or every second one
        columns = np.arange(0, width + step, step) if step == 2 else np.arange(width)
        self.step = step
        self.slopes = ((columns + 0.5 - width / 2) / self.focal).astype(np.float32)
        self.distances = self._distances()
        reach = float(np.clip(0.35 * self.focal, 12, 72))  # cells between the camera and a level's begin
        level = np.floor(np.log2(self.distances / (reach * Land.CELL)))
        self.levels = np.clip(level, 0, Land.LEVELS - 1).astype(np.int64)
        self.pixel_rows = np.arange(height, dtype=np.float32)[:, None] + 0.5
        self.pixel_columns = np.arange(width)

    def _distances(self) -> Floats:
        low = (self.height - self.horizon) / self.focal + 0.12
        out = [3.0 / low]
        while out[-1] < FAR:
            d = out[-1]
            out.append(d + min(2.5 * d * d / (self.focal * 7.0), 0.08 * d))
        return np.array(out, np.float32)


class World:
    """One endless video: ``World(seed, video).frame(index, height, width)``."""

    def __init__(self, seed: int, video: int) -> None:
        self.key = derive_key(seed, video)
        self._land = Land(derive_key(self.key, 1))
        self._ground = Clipmap(Land.CELL, Land.LEVELS, Land.CHANNELS, self._land.tiles)
        clouds = Clouds(derive_key(self.key, 2))
        self._sky = Clipmap(Clouds.CELL, Clouds.LEVELS, 1, clouds.tiles)
        self._objects = Objects(derive_key(self.key, 3), self._land)
        self.mood_key = derive_key(self.key, 4)
        self._views: dict[tuple[int, int], View] = {}

    def frame(self, index: int, height: int, width: int) -> NDArray[np.uint8]:
        """Picture `index` (>= 0) of the video, uint8 [height, width, 3]; sizes of at least 8."""
        if index < 0:
            raise ValueError(f"index is {index}; frames count from 0")
        if height < 8 or width < 8:
            raise ValueError(f"size is {height}x{width}; at least 8x8")
        view = self._views.get((height, width))
        if view is None:
            view = self._views.setdefault((height, width), View(height, width))
        return _Shot(self, view, index).picture()


class _Shot:
    """One frame in the making."""

    def __init__(self, world: World, view: View, index: int) -> None:
        self.world, self.view, self.index = world, view, index
        self.mood = mood = mood_at(world.mood_key, index)
        land = world._land
        z = SPEED * index
        ahead = np.array([z, z + 12.0, z + 40.0])
        x, h = land.road_x(ahead), land.road_height(ahead)
        self.x, self.z = float(x[0]), z
        self.up = float(h[0]) + mood.rise
        heading = math.atan2(float(x[1] - x[0]), 12.0)
        self.sin, self.cos = math.sin(heading), math.cos(heading)
        self.heading = heading
        slope = float(h[2] - h[0]) / 40.0
        self.row0 = view.horizon + view.focal * (mood.tilt + 0.7 * slope)  # the horizon's picture row
        # Ground nearer than this is below the picture, or hardly in it.
        nearest = 0.85 * mood.rise * view.focal / (view.height - self.row0)
        begin = int(np.searchsorted(view.distances, nearest))
        self.distances, self.levels = view.distances[begin:], view.levels[begin:]

    def picture(self) -> NDArray[np.uint8]:
        """The frame, uint8 [H, W, 3]."""
        view = self.view
        rows, colours = self._walk()
        picture, sight, skyline = self._ground_pixels(rows, colours)
        self._paint_sky(picture, skyline)
        flat = picture.reshape(3, -1)
        draw(flat, sight, self._objects_in_view(rows), view.height, view.width)
        picture *= np.float32(255)
        picture += np.float32(0.5)
        np.clip(picture, 0, 255, out=picture)
        out = np.empty((view.height, view.width, 3), np.uint8)
        for channel in range(3):
            out[..., channel] = picture[channel]
        return out

    # -- ground ------------------------------------------------------------------------------------

    def _walk(self) -> tuple[Floats, Floats]:
        """Picture row [D, W] and colour [3, D, W] of the ground at every distance and column."""
        view, mood = self.view, self.mood
        light = 0.9 * np.array([-mood.sun_x, -0.45])  # brightness by slope x, slope z
        mix = np.zeros((6, Land.CHANNELS), np.float32)
        sky = 0.45 * mood.zenith + 0.55 * mood.horizon
        palette = [mood.grass, mood.field, EARTH, ROCK]
        lit = mood.ambient + 0.72 * mood.sun
        for i, colour in enumerate(palette):
            mix[:3, 3 + i] = np.asarray(colour) * lit
        mix[:3, 7] = 0.78 * sky
        mix[3, 0], mix[4, 1], mix[4, 2], mix[5, 7] = 1, light[0], light[1], 1
        samples = _sample(self.world._ground, self.levels, self.distances, view.slopes, self)
        planes = _product(mix, samples).reshape(6, len(self.distances), len(view.slopes))
        colours, height, shade = planes[:3], planes[3], planes[4]
        shade *= float(np.clip(mood.sun.sum() / 1.6, 0.25, 1))
        shade += 1
        np.clip(shade, 0.4, 1.35, out=shade)
        colours *= shade
        if mood.snow_line < 300:
            snow = (height - np.float32(mood.snow_line)) * np.float32(1 / 30)
            snow += colours[1] - np.float32(0.3)
            np.clip(snow, 0, 0.8, out=snow)
            white = (0.85 * SNOW * lit).astype(np.float32)
            keep = 1 - snow
            snow *= shade
            for c in range(3):
                colours[c] *= keep
                colours[c] += snow * white[c]
        haze = self._haze(self.distances)[:, None]
        fog = self._fog_colour().astype(np.float32)
        colours *= 1 - haze
        colours += fog[:, None, None] * haze
        rows = height
        np.subtract(np.float32(self.up), rows, out=rows)
        rows *= (view.focal / self.distances)[:, None]
        rows += np.float32(self.row0)
        if view.step == 2:
            return _between_columns(rows, view.width), _between_columns(colours, view.width)
        return rows, colours

    def _haze(self, distance: NDArray) -> Floats:
        """Share of haze in the light from a distance."""
        far = distance.astype(np.float64)
        return (1 - np.exp(-far / self.mood.sight - (far / 5200.0) ** 2)).astype(np.float32)

    def _fog_colour(self) -> Doubles:
        return 0.94 * self.mood.horizon + 0.06 * self.mood.zenith

    def _ground_pixels(self, rows: Floats, colours: Floats) -> tuple[Floats, Floats, Floats]:
        """Picture [3, H, W], how far each pixel sees (as a fractional index of distance), the skyline."""
        view = self.view
        H, W, D = view.height, view.width, len(rows)
        top = rows.copy()
        for nearer, row in pairwise(top):  # minimum.accumulate along this axis, several times faster
            np.minimum(nearer, row, out=row)
        start = int(np.clip(math.floor(float(top[-1].min())), 0, H - 1))
        first = np.ceil(np.clip(top, start, H) - np.float32(0.5)).astype(np.int64)  # first row covered
        first -= start
        first *= W
        first += view.pixel_columns
        counts = np.bincount(first.ravel(), minlength=(H + 1 - start) * W)
        hits = counts.astype(np.int32).reshape(-1, W)
        for lower, row in pairwise(hits[:0:-1]):  # how many distances every pixel sees past
            row += lower
        hits = hits[1:]
        sight = np.full((H, W), D, np.float32)
        picture = np.empty((3, H, W), np.float32)
        picture[:, :start] = 0
        for row in range(start, H, BLOCK):
            self._fill(picture, sight, slice(row, min(row + BLOCK, H)), hits[row - start :][:BLOCK], top, colours)
        # A pixel that the skyline crosses takes the ground's colour from the one below it.
        edge = np.clip(np.floor(top[-1]).astype(np.int64), 0, H - 2)
        picture[:, edge, view.pixel_columns] = picture[:, edge + 1, view.pixel_columns]
        return picture, sight, top[-1]

    def _fill(
        self,
        picture: Floats,
        sight: Floats,
        own: slice,
        hits: NDArray[np.int32],
        top: Floats,
        colours: Floats,
    ) -> None:
        """Picture and sight of some rows, between the last sample that each pixel sees past and the next."""
        W = self.view.width
        far = np.clip(hits, 1, len(top) - 1).astype(np.int64)
        far *= W
        far += self.view.pixel_columns
        near = far - W
        flat = top.ravel()
        part = flat.take(near)
        step = part - flat.take(far)
        np.maximum(step, np.float32(1e-4), out=step)
        part -= self.view.pixel_rows[own]
        part /= step
        np.clip(part, 0, 1, out=part)
        np.add(part, hits, out=sight[own], casting="same_kind")
        sight[own] -= 1
        for c in range(3):
            plane = colours[c].ravel()
            pixels = plane.take(near)
            end = plane.take(far)
            end -= pixels
            end *= part
            np.add(pixels, end, out=picture[c, own])

    # -- sky ---------------------------------------------------------------------------------------

    def _paint_sky(self, picture: Floats, skyline: Floats) -> None:
        """Fill what is above the ground, with a soft edge along the skyline."""
        view, mood = self.view, self.mood
        rows = min(view.height, math.ceil(float(skyline.max())) + 1)
        if rows <= 0:
            return
        rise = np.maximum((self.row0 - np.arange(rows) - 0.5) / view.focal, 0.0)
        blend = (1 - np.exp(-3.6 * rise))[:, None]
        base = mood.horizon + blend * (mood.zenith - mood.horizon)
        base += (self._fog_colour() - base) * np.exp(-rise * 14)[:, None]
        cloud = self._clouds(rise)
        thick = float(0.75 + 0.25 * mood.grey)
        bright = (0.55 * mood.ambient + 0.6 * mood.sun + 0.25 * mood.horizon) * (1 - 0.25 * mood.grey)
        glow = self._sun(rows)
        cover = np.clip(skyline - np.arange(rows, dtype=np.float32)[:, None], 0, 1)  # share of sky in a pixel
        cloud *= thick
        for c in range(3):
            sky = base[:, c : c + 1].astype(np.float32)
            plane = cloud * (np.float32(bright[c]) - sky)
            plane += sky
            plane += glow * np.float32(mood.sun[c] * 0.75 + 0.12)
            plane -= picture[c, :rows]
            plane *= cover
            picture[c, :rows] += plane

    def _clouds(self, rise: Doubles) -> Floats:
        """Opacity [rows, W] of the clouds."""
        view, mood = self.view, self.mood
        slant = np.maximum(rise, 0.012)
        distance = CLOUD_HEIGHT / slant
        footprint = np.maximum(distance, 0.5 * distance / slant) / view.focal
        level = np.round(np.log2(1.5 * footprint / Clouds.CELL))
        # In large pictures the footprint is small: still no further than what the maps keep around the camera.
        level = np.maximum(level, np.ceil(np.log2(distance / (CLOUD_REACH * Clouds.CELL))))
        levels = np.clip(level, 0, Clouds.LEVELS - 1).astype(np.int64)
        wind = 3.5 * self.index
        samples = _sample(self.world._sky, levels, distance.astype(np.float32), view.slopes, self, wind, 0.5 * wind)
        density = samples.reshape(len(rise), len(view.slopes))
        density = (density - np.float32(mood.cover)) * np.float32(1.7)
        np.clip(density, 0, 1, out=density)
        density *= np.clip((rise - 0.015) * 9, 0, 1).astype(np.float32)[:, None]
        return _between_columns(density, view.width) if view.step == 2 else density

    def _sun(self, rows: int) -> Floats:
        """Brightness [rows, W] of the sun, or of the moon, and its halo."""
        view, mood = self.view, self.mood
        day = mood.sun_up > -0.25
        across, up = (mood.sun_x, mood.sun_up) if day else (-mood.sun_x, -mood.sun_up)
        x = view.width / 2 + view.focal * math.tan(float(np.clip(0.9 * across - self.heading, -1.3, 1.3)))
        y = self.row0 - view.focal * (0.12 + 0.42 * up)
        size = view.focal * (0.045 if day else 0.03)
        dx = (((view.pixel_columns + 0.5 - x) / size) ** 2).astype(np.float32)
        dy = (((np.arange(rows) + 0.5 - y) / size) ** 2).astype(np.float32)[:, None]
        distance = dx + dy
        clear = (1 - 0.9 * mood.grey) * float(np.clip((up + 0.3) * 5, 0, 1))
        halo = 0.55 / (1 + distance * np.float32(0.05))
        halo += np.clip((1.25 - distance) * np.float32(max(1.0, size / 4)), 0, 1)
        halo *= np.float32(clear)
        return halo

    # -- objects -----------------------------------------------------------------------------------

    def _objects_in_view(self, rows: Floats) -> dict[str, NDArray]:
        """Objects before the camera, far to near, with their place in the picture and their light."""
        view, mood = self.view, self.mood
        found = self.world._objects.near(self.x, self.z)
        dx, dz = found["x"] - self.x, found["z"] - self.z
        depth = dx * self.sin + dz * self.cos
        side = dx * self.cos - dz * self.sin
        reach = np.where(found["base"] > 0, 700.0, 260.0)
        slack = found["wide"] * found["tall"]
        seen = (depth > 4.0) & (depth < reach) & (np.abs(side) < depth * view.width / (2 * view.focal) + slack)
        order = np.flatnonzero(seen)
        order = order[np.argsort(-depth[order], kind="stable")]
        out = {name: values[order] for name, values in found.items()}
        depth, side, reach = depth[order], side[order], reach[order]
        scale = view.focal / depth
        column = view.width / 2 + side * scale
        place = np.interp(depth, self.distances, np.arange(len(self.distances)))
        near = np.clip(place.astype(np.int64), 0, len(rows) - 2)
        at = np.clip(column, 0, view.width - 1).astype(np.int64)
        part = place - near
        row = rows[near, at] * (1 - part) + rows[near + 1, at] * part
        ground = self.up - (row - self.row0) / scale
        floats = out["base"] > 0
        row = np.where(floats, self.row0 + (self.up - out["base"]) * scale, row)
        fade = np.clip((reach - depth) / (0.3 * reach), 0, 1) * np.clip((depth - 4.0) / 2.5, 0, 1)
        fade *= floats | (ground > WATER + 0.6)
        lit = mood.ambient + 0.6 * mood.sun
        haze = self._haze(depth)[:, None].astype(np.float64)
        season = np.where(out["kind"][:, None] == 1, mood.leaves, out["tint"])
        season = np.where(out["kind"][:, None] == 3, 0.5 * mood.leaves + 0.5 * out["tint"], season)
        snow = 0.6 * smoothstep(mood.snow_line - 10, mood.snow_line + 25, ground)[:, None] * ~floats[:, None]
        season = season * out["shade"][:, None]
        season = season + snow * (SNOW - season)
        fog = self._fog_colour() * haze
        out.update(
            row=row, column=column, scale=scale, place=place, fade=fade,
            light=np.full(len(row), 0.35 * np.clip(mood.sun_x * 2, -1, 1) * (1 - mood.grey)),
            flat=scale * np.maximum(self.up - ground, 0.5) / depth,
            upper=season * lit * (1 - haze) + fog,
            lower=out["foot"] * lit * (1 - haze) + fog,
            dark=0.5 * np.array(lit * 0.25)[None] * (1 - haze) + fog,
        )  # fmt: skip
        return out


def _sample(
    clipmap: Clipmap, levels: NDArray[np.int64], distances: Floats, slopes: Floats, shot: _Shot,
    shift_x: float = 0.0, shift_z: float = 0.0,
) -> Floats:  # fmt: skip
    """Map values [rows * columns, channels] where the rays of `slopes` reach `distances`, bilinear."""
    cell = clipmap.cell * 2.0**levels
    x, z = (shot.x + shift_x) / cell, (shot.z + shift_z) / cell
    x0, z0 = np.floor(x), np.floor(z)
    edge = np.array([slopes[0], slopes[-1]], np.float64)
    reach = (distances.astype(np.float64) / cell)[:, None]
    corner_x = x[:, None] + reach * (shot.sin + edge * shot.cos)
    corner_z = z[:, None] + reach * (shot.cos - edge * shot.sin)
    first = np.flatnonzero(np.diff(levels, prepend=-1))  # levels rise along the rows
    bounds = [
        np.floor((np.minimum.reduceat(corner_x.min(1), first) - 1) / TILE),
        np.floor((np.maximum.reduceat(corner_x.max(1), first) + 2) / TILE),
        np.floor((np.minimum.reduceat(corner_z.min(1), first) - 1) / TILE),
        np.floor((np.maximum.reduceat(corner_z.max(1), first) + 2) / TILE),
    ]
    for level, *tiles in zip(levels[first].tolist(), *np.array(bounds, np.int64).tolist(), strict=True):
        clipmap.hold(level, tuple(tiles))
    # From here on in single precision, relative to the camera's cell.
    r = reach.astype(np.float32)
    across = np.float32(shot.sin) + np.float32(shot.cos) * slopes
    ahead = np.float32(shot.cos) - np.float32(shot.sin) * slopes
    fx, fz = (x - x0).astype(np.float32)[:, None], (z - z0).astype(np.float32)[:, None]
    cx, cz = (x0.astype(np.int64) % WINDOW_X)[:, None], (z0.astype(np.int64) % WINDOW_Z)[:, None]
    base = (levels * WINDOW_Z)[:, None]
    out = np.empty((len(r), len(slopes), clipmap.flat.shape[1]), np.float32)
    for i in range(0, len(r), BLOCK):
        own = slice(i, i + BLOCK)
        px, pz = r[own] * across + fx[own], r[own] * ahead + fz[own]
        _bilinear(clipmap.flat, px, pz, cx[own], cz[own], base[own], out[own])
    return out.reshape(-1, out.shape[2])


def _bilinear(flat: Floats, px: Floats, pz: Floats, cx: Ints, cz: Ints, base: Ints, out: Floats) -> None:
    """Map values [rows, columns, channels], (px, pz) cells from (cx, cz), in the levels at rows `base`."""
    low_x, low_z = np.floor(px), np.floor(pz)
    px -= low_x
    pz -= low_z
    ix, iz = low_x.astype(np.int64), low_z.astype(np.int64)
    ix += cx
    iz += cz
    left, right = ix & (WINDOW_X - 1), (ix + 1) & (WINDOW_X - 1)
    upper = ((iz & (WINDOW_Z - 1)) + base) * WINDOW_X
    lower = (((iz + 1) & (WINDOW_Z - 1)) + base) * WINDOW_X
    # Whole arrays of weights: broadcasting over a short last axis would be several times slower.
    wx = np.repeat(px.ravel(), flat.shape[1]).reshape(out.shape)
    wz = np.repeat(pz.ravel(), flat.shape[1]).reshape(out.shape)
    a = _mixed(flat, upper + left, upper + right, wx)
    b = _mixed(flat, lower + left, lower + right, wx)
    b -= a
    b *= wz
    np.add(a, b, out=out)


def _mixed(flat: Floats, start: Ints, end: Ints, weight: Floats) -> Floats:
    """Rows of `flat` at `start`, moved to those at `end` by `weight`."""
    a = flat.take(start, axis=0)
    b = flat.take(end, axis=0)
    b -= a
    b *= weight
    a += b
    return a


def _product(mix: Floats, samples: Floats) -> Floats:
    """``mix @ samples.T`` in pieces too small for BLAS to start threads: they cost more than they give."""
    out = np.empty((len(mix), len(samples)), np.float32)
    for i in range(0, len(samples), 4096):
        out[:, i : i + 4096] = mix @ samples[i : i + 4096].T
    return out


def _between_columns(half: Floats, width: int) -> Floats:
    """Every second column [..., ceil(width / 2) + 1] to all of them [..., width]."""
    out = np.empty((*half.shape[:-1], width), np.float32)
    even, odd = (width + 1) // 2, width // 2
    out[..., ::2] = half[..., :even]
    middle = half[..., :odd] + half[..., 1 : odd + 1]
    middle *= np.float32(0.5)
    out[..., 1::2] = middle
    return out


def render_frame(seed: int, video: int, index: int, height: int, width: int) -> NDArray[np.uint8]:
    """Frame `index` of video `video` of seed `seed`: uint8 [height, width, 3]."""
    return World(seed, video).frame(index, height, width)
