"""Adaptive augmentation of clips: random geometry, colour and corruption with a strength p.

Source: Karras et al. 2020, "Training generative adversarial networks with limited data"
(section 3 and appendix B); settings and the control of p as in spec 2-training. One transform
is drawn for each clip and shared by all of its frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lvgan.augment.band_filter import BANDS, filter_bands
from lvgan.augment.warp import affine_warp
from lvgan.errors import ConfigError

# Power of the octave bands in natural pictures (1/f spectrum), low to high.
BAND_POWER = tuple(value / 13 for value in (10, 1, 1, 1))


@dataclass(frozen=True)
class AdaSettings:
    """Which transforms are used, and how far they go.

    The first group are multipliers of p, 0 … 1: a transform happens with probability
    ``multiplier * p``. The second group are spreads: `*_std` of a normal distribution (of log2
    for scale, anisotropic, contrast, saturation and the filter's gains), `*_max` of a uniform
    one. Shifts are in units of the side, angles in units of π, values in units where a picture
    spans −1 … 1.
    """

    x_flip: float = 0.0
    quarter_turn: float = 0.0
    integer_shift: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0
    anisotropic: float = 0.0
    fractional_shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    luma_flip: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0
    image_filter: float = 0.0
    noise: float = 0.0
    cutout: float = 0.0

    integer_shift_max: float = 0.125
    scale_std: float = 0.2
    rotate_max: float = 1.0
    anisotropic_std: float = 0.2
    fractional_shift_std: float = 0.125
    brightness_std: float = 0.2
    contrast_std: float = 0.5
    hue_max: float = 1.0
    saturation_std: float = 1.0
    image_filter_std: float = 1.0
    noise_std: float = 0.1
    cutout_size: float = 0.5


#: What the super-resolution discriminator sees.
DISCRIMINATOR = AdaSettings(
    x_flip=1, quarter_turn=1, integer_shift=1, scale=1, rotate=1, anisotropic=1, fractional_shift=1,
    brightness=1, contrast=1, luma_flip=1, hue=1, saturation=1,
)  # fmt: skip

#: What the super-resolution generator's low-resolution input goes through, with p = 0.5.
CONDITIONING = AdaSettings(
    scale=1, scale_std=0.08, rotate=1, rotate_max=0.016, anisotropic=1, anisotropic_std=0.08,
    fractional_shift=1, fractional_shift_std=0.016, noise=1, noise_std=0.08,
)  # fmt: skip


@dataclass(frozen=True)
class AdaDraws:
    """What happens to each of N clips; a part that is None is left out.

    warp: [N, 3, 3], from a place of the output to the place of the input that it shows
        (see :func:`lvgan.augment.warp.affine_warp`).
    color: [N, C, C + 1], affine map of a pixel's channels; the last column is added.
    band_gains: [N, 4], factors of the octave bands, low to high.
    noise: [N, C, T, H, W], added.
    hole: [N, 2], centre (x, y) of the cutout in units of the sides (0 … 1, from the top left).
    hole_size: [N], its sides in units of the frame's sides; 0 is no hole.
    """

    warp: Tensor | None = None
    color: Tensor | None = None
    band_gains: Tensor | None = None
    noise: Tensor | None = None
    hole: Tensor | None = None
    hole_size: Tensor | None = None


class Dice:
    """Random numbers from a generator on any device, as float64 on the CPU.

    A transform's parameters are few and steer what is computed: they are worked out there.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def uniform(self, *shape: int) -> Tensor:
        """Uniform in [0, 1)."""
        return torch.rand(shape, generator=self.generator, device=self.generator.device).cpu().double()

    def normal(self, *shape: int) -> Tensor:
        """Normal with mean 0 and variance 1."""
        return self.noise(*shape).cpu().double()

    def noise(self, *shape: int) -> Tensor:
        """As :meth:`normal`, for large tensors: float32, left where it was drawn."""
        return torch.randn(shape, generator=self.generator, device=self.generator.device)


def ada_augment(clip: Tensor, p: float, generator: torch.Generator, settings: AdaSettings = DISCRIMINATOR) -> Tensor:
    """Augment `clip` [N, C, T, H, W] (values about −1 … 1) with strength `p` (0 … 1); same shape.

    Differentiable twice with respect to `clip`. Clips that no transform hits are passed on
    untouched; with p = 0 the clip itself is returned, and nothing is drawn. Every transform
    works on any number of channels but these: for 1 channel the colour transforms act on gray
    (hue and saturation do nothing, a luma flip negates); for numbers other than 1 and 3 luma
    flip, hue and saturation are left out. Raises ConfigError for a p outside 0 … 1.
    """
    if not 0 <= p <= 1:
        raise ConfigError(f"augmentation strength p is {p}, expected 0 to 1: lower it")
    if clip.ndim != 5:
        raise ValueError(f"clip has {clip.ndim} axes, expected [N, C, T, H, W]")
    if p == 0:
        return clip
    return apply_ada(clip, draw_ada(clip.shape, p, Dice(generator), settings))


def draw_ada(shape: torch.Size, p: float, dice: Dice, settings: AdaSettings) -> AdaDraws:
    """Draw one transform for each clip of a batch of `shape` [N, C, T, H, W] with strength `p`."""
    N, C, _, H, W = shape
    s = settings
    warp = _draw_warp(N, H, W, p, dice, s)
    color = _draw_color(N, C, p, dice, s)
    band_gains = noise = hole = hole_size = None
    if s.image_filter > 0:
        band_gains = _draw_band_gains(N, p, dice, s)
    if s.noise > 0:
        sigma = _sometimes(dice.normal(N).abs() * s.noise_std, 0.0, s.noise * p, dice)
        noise = dice.noise(*shape)
        noise = noise * sigma.to(noise)[:, None, None, None, None]
    if s.cutout > 0:
        hole_size = _sometimes(torch.full((N,), s.cutout_size).double(), 0.0, s.cutout * p, dice)
        hole = dice.uniform(N, 2)
    return AdaDraws(warp, color, band_gains, noise, hole, hole_size)


def apply_ada(clip: Tensor, draws: AdaDraws) -> Tensor:
    """Apply `draws` to `clip` [N, C, T, H, W]; same shape. See :func:`ada_augment`."""
    if draws.warp is not None:
        clip = _each(clip, draws.warp, torch.eye(3), affine_warp)
    if draws.color is not None:
        C = clip.shape[1]
        clip = _each(clip, draws.color, torch.eye(C, C + 1), _map_color)
    if draws.band_gains is not None:
        clip = _each(clip, draws.band_gains, torch.ones(BANDS), filter_bands)
    if draws.noise is not None:
        clip = clip + draws.noise.to(clip)
    if draws.hole is not None and draws.hole_size is not None:
        clip = clip * _outside_hole(draws.hole, draws.hole_size, clip)
    return clip


def _each(clip: Tensor, values: Tensor, neutral: Tensor, transform: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """``transform(clip, value)`` clip by clip; what would not change is passed on.

    One by one, because what one clip's warp needs in margins would cost all the others
    (up to 4 times as fast on a CPU at p = 1).
    """
    values = values.cpu()
    changes = (values != neutral).flatten(1).any(1).tolist()
    if not any(changes):
        return clip
    pairs = zip(clip, values, changes, strict=True)
    return torch.stack([transform(one, value) if change else one for one, value, change in pairs])


def _sometimes(value: Tensor, otherwise: float, probability: float, dice: Dice) -> Tensor:
    """`value` [N, ...] for each clip with this probability, or else the other."""
    happens = dice.uniform(value.shape[0]) < probability
    return torch.where(happens.view(-1, *[1] * (value.ndim - 1)), value, otherwise)


# ---------------------------------------------------------------------------------- geometry


def _shift(x: Tensor, y: Tensor) -> Tensor:
    """[N, 3, 3] matrices that add (x, y), each [N]."""
    matrix = torch.eye(3, dtype=torch.float64).repeat(len(x), 1, 1)
    matrix[:, 0, 2], matrix[:, 1, 2] = x, y
    return matrix


def _stretch(x: Tensor, y: Tensor) -> Tensor:
    """[N, 3, 3] matrices that multiply by (x, y), each [N]."""
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], dim=1))


def _turn(angle: Tensor) -> Tensor:
    """[N, 3, 3] matrices that turn x towards y by `angle` [N] (radians)."""
    matrix = torch.eye(3, dtype=torch.float64).repeat(len(angle), 1, 1)
    matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos()
    matrix[:, 1, 0] = angle.sin()
    matrix[:, 0, 1] = -angle.sin()
    return matrix


def _draw_warp(N: int, H: int, W: int, p: float, dice: Dice, s: AdaSettings) -> Tensor:
    """[N, 3, 3], from output to input: what happens to the picture first is the first factor."""
    warp = torch.eye(3, dtype=torch.float64).repeat(N, 1, 1)
    if s.x_flip > 0:
        flip = _sometimes((dice.uniform(N) * 2).floor(), 0.0, s.x_flip * p, dice)
        warp = warp @ _stretch(1 - 2 * flip, torch.ones_like(flip))
    if s.quarter_turn > 0:
        turns = _sometimes((dice.uniform(N) * 4).floor(), 0.0, s.quarter_turn * p, dice)
        warp = warp @ _turn(turns * (math.pi / 2))
    if s.integer_shift > 0:
        shift = (dice.uniform(N, 2) * 2 - 1) * s.integer_shift_max
        shift = _sometimes(shift, 0.0, s.integer_shift * p, dice)
        warp = warp @ _shift(-(shift[:, 0] * W).round(), -(shift[:, 1] * H).round())
    if s.scale > 0:
        scale = _sometimes(torch.exp2(dice.normal(N) * s.scale_std), 1.0, s.scale * p, dice)
        warp = warp @ _stretch(1 / scale, 1 / scale)
    # Turned twice, so that the picture is squeezed along any axis; together with probability p.
    turn_probability = 1 - math.sqrt(1 - min(s.rotate * p, 1))
    if s.rotate > 0:
        warp = warp @ _turn(_draw_angle(N, turn_probability, dice, s))
    if s.anisotropic > 0:
        scale = torch.exp2(dice.normal(N) * s.anisotropic_std)
        scale = _sometimes(scale, 1.0, s.anisotropic * p, dice)
        warp = warp @ _stretch(1 / scale, scale)
    if s.rotate > 0:
        warp = warp @ _turn(_draw_angle(N, turn_probability, dice, s))
    if s.fractional_shift > 0:
        shift = dice.normal(N, 2) * s.fractional_shift_std
        shift = _sometimes(shift, 0.0, s.fractional_shift * p, dice)
        warp = warp @ _shift(-shift[:, 0] * W, -shift[:, 1] * H)
    return warp


def _draw_angle(N: int, probability: float, dice: Dice, s: AdaSettings) -> Tensor:
    angle = (dice.uniform(N) * 2 - 1) * (math.pi * s.rotate_max)
    return _sometimes(angle, 0.0, probability, dice)


# ------------------------------------------------------------------------------------ colour


def _draw_color(N: int, C: int, p: float, dice: Dice, s: AdaSettings) -> Tensor | None:
    """[N, C, C + 1] affine maps of a pixel's channels; None where no colour transform is set."""
    if not any((s.brightness, s.contrast, s.luma_flip, s.hue, s.saturation)):
        return None
    channels = 3 if C == 1 else C  # gray is RGB of three equal values
    eye = torch.eye(channels, dtype=torch.float64)
    offset = torch.zeros(N, channels, 1, dtype=torch.float64)
    linear = eye.repeat(N, 1, 1)
    if s.brightness > 0:
        amount = _sometimes(dice.normal(N) * s.brightness_std, 0.0, s.brightness * p, dice)
        offset = offset + amount[:, None, None]
    color = torch.cat([linear, offset], dim=2)
    if s.contrast > 0:
        factor = _sometimes(torch.exp2(dice.normal(N) * s.contrast_std), 1.0, s.contrast * p, dice)
        color = color * factor[:, None, None]
    if channels == 3:
        color = _draw_hue(N, p, dice, s) @ color
    if C == 1:
        # The mean over RGB of what happens to a gray pixel.
        return torch.stack([color[:, :, :3].sum(2).mean(1), color[:, :, 3].mean(1)], dim=1)[:, None]
    return color


def _draw_hue(N: int, p: float, dice: Dice, s: AdaSettings) -> Tensor:
    """[N, 3, 3]: what happens about the luma axis (1, 1, 1) of RGB."""
    eye = torch.eye(3, dtype=torch.float64)
    luma = torch.full((3, 3), 1 / 3, dtype=torch.float64)  # projection on the axis
    cross = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=torch.float64) / math.sqrt(3)
    matrix = eye.repeat(N, 1, 1)
    if s.luma_flip > 0:
        flip = _sometimes((dice.uniform(N) * 2).floor(), 0.0, s.luma_flip * p, dice)[:, None, None]
        matrix = (eye - 2 * luma * flip) @ matrix
    if s.hue > 0:
        angle = (dice.uniform(N) * 2 - 1) * (math.pi * s.hue_max)
        angle = _sometimes(angle, 0.0, s.hue * p, dice)[:, None, None]
        matrix = (luma + (eye - luma) * angle.cos() + cross * angle.sin()) @ matrix
    if s.saturation > 0:
        factor = torch.exp2(dice.normal(N) * s.saturation_std)
        factor = _sometimes(factor, 1.0, s.saturation * p, dice)[:, None, None]
        matrix = (luma + (eye - luma) * factor) @ matrix
    return matrix


def _map_color(clip: Tensor, color: Tensor) -> Tensor:  # [C, T, H, W], [C, C + 1]
    color = color.to(clip)
    return torch.addmm(color[:, -1:], color[:, :-1], clip.flatten(1)).view(clip.shape)


# -------------------------------------------------------------------------------- corruption


def _draw_band_gains(N: int, p: float, dice: Dice, s: AdaSettings) -> Tensor:
    """[N, 4]: each band is amplified in its turn, each time at constant total power."""
    power = torch.tensor(BAND_POWER, dtype=torch.float64)
    total = torch.ones(N, BANDS, dtype=torch.float64)
    for band in range(BANDS):
        gains = torch.ones(N, BANDS, dtype=torch.float64)
        gain = torch.exp2(dice.normal(N) * s.image_filter_std)
        gains[:, band] = _sometimes(gain, 1.0, s.image_filter * p, dice)
        total = total * gains / (power * gains.square()).sum(1, keepdim=True).sqrt()
    return total


def _outside_hole(hole: Tensor, size: Tensor, clip: Tensor) -> Tensor:
    """[N, 1, 1, H, W]: 0 in the hole, 1 elsewhere."""
    H, W = clip.shape[-2:]
    x = ((torch.arange(W) + 0.5) / W - hole[:, :1].cpu()).abs()
    y = ((torch.arange(H) + 0.5) / H - hole[:, 1:].cpu()).abs()
    reach = size[:, None].cpu() / 2
    outside = (y >= reach)[:, :, None] | (x >= reach)[:, None]
    return outside[:, None, None].to(clip)


# ------------------------------------------------------------------------------- control of p


class AdaController:
    """Moves p so that the discriminator's outputs for real clips keep a mean sign of `target`.

    A mean sign of 1 is a discriminator that knows every real clip: more augmentation; `target`
    or above raises p. After every `interval` steps p moves by ``rate * interval`` towards it,
    within 0 … `p_max`.
    """

    def __init__(
        self,
        *,
        target: float = 0.6,
        rate: float = 0.000125,
        interval: int = 4,
        p_max: float = 0.5,
        p: float = 0.0,
    ) -> None:
        self.target, self.rate, self.interval, self.p_max = target, rate, interval, p_max
        self.p = p
        self.steps = 0  # since p was last moved
        self._sign_sum: float | Tensor = 0.0  # a tensor while on the device: reading it would wait
        self._count = 0

    def observe(self, real_logits: Tensor) -> None:
        """Take note of the discriminator's outputs for real clips (any shape)."""
        self._sign_sum = self._sign_sum + real_logits.detach().float().sign().sum()
        self._count += real_logits.numel()

    def step(self, reduce: Callable[[Tensor], Tensor] | None = None) -> float:
        """End a training step; returns p, moved if it was time.

        `reduce` sums a float32 tensor [2] over all processes, where there are several.
        """
        self.steps += 1
        if self.steps >= self.interval:
            self._move(reduce)
        return self.p

    def _move(self, reduce: Callable[[Tensor], Tensor] | None) -> None:
        sign_sum = torch.as_tensor(self._sign_sum, dtype=torch.float32)
        totals = torch.stack([sign_sum, torch.full_like(sign_sum, self._count)])
        total, count = (totals if reduce is None else reduce(totals)).tolist()
        if count > 0:
            direction = 1 if total / count >= self.target else -1
            self.p = min(max(self.p + direction * self.rate * self.steps, 0.0), self.p_max)
        self._sign_sum, self._count, self.steps = 0.0, 0, 0

    def state_dict(self) -> dict[str, float]:
        """p and what was observed since it was last moved, as plain numbers."""
        sign_sum = float(self._sign_sum)
        return {"p": self.p, "steps": self.steps, "sign_sum": sign_sum, "count": self._count}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from :meth:`state_dict`."""
        self.p, self.steps = float(state["p"]), int(state["steps"])
        self._sign_sum, self._count = float(state["sign_sum"]), int(state["count"])
