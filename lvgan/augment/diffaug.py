"""DiffAugment for clips: colour, translation and cutout, the same for every frame of a clip.

Source: Zhao et al. 2020, "Differentiable augmentation for data-efficient GAN training", as the
low-resolution discriminator uses it (spec 2-training: translation up to a quarter of the long
edge, a hole of half of each side). Everything is differentiable, as often as wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lvgan.errors import ConfigError

POLICIES = ("color", "translation", "cutout")
SHIFT_RATIO = 0.25  # largest translation, of the long edge
HOLE_RATIO = 0.5  # side of the hole, of each side of the frame


@dataclass(frozen=True)
class DiffAugmentDraws:
    """What happens to each of N clips; a part that is None is left out.

    brightness: [N], added to every value.
    saturation: [N], factor on the distance from the pixel's mean over channels.
    contrast: [N], factor on the distance from the clip's mean.
    shift: [N, 2], whole pixels (down, right) by which the picture moves; zeros come in.
    hole: [N, 2], centre (row, column) of the hole, in pixels.
    """

    brightness: Tensor | None = None
    saturation: Tensor | None = None
    contrast: Tensor | None = None
    shift: Tensor | None = None
    hole: Tensor | None = None


def _integers(generator: torch.Generator, low: int, high: int, count: int) -> Tensor:
    """`count` integers from low to high, both included."""
    return torch.randint(low, high + 1, (count,), generator=generator, device=generator.device)


def draw_diff_augment(
    count: int, height: int, width: int, generator: torch.Generator, policy: Sequence[str] = POLICIES
) -> DiffAugmentDraws:
    """Draw for `count` clips of `height` × `width` pixels; raises ConfigError for an unknown policy."""
    unknown = sorted(set(policy) - set(POLICIES))
    if unknown:
        raise ConfigError(f"augmentation policy {unknown[0]!r} is unknown: use some of {', '.join(POLICIES)}")
    brightness = saturation = contrast = shift = hole = None
    if "color" in policy:
        uniform = torch.rand((3, count), generator=generator, device=generator.device)
        brightness, saturation, contrast = uniform[0] - 0.5, uniform[1] * 2, uniform[2] + 0.5
    if "translation" in policy:
        reach = int(max(height, width) * SHIFT_RATIO + 0.5)
        shift = torch.stack([_integers(generator, -reach, reach, count) for _ in range(2)], dim=1)
    if "cutout" in policy:
        # An even hole has one more centre than there are pixels, so that both edges are alike.
        last = [side - _hole_side(side) % 2 for side in (height, width)]
        hole = torch.stack([_integers(generator, 0, n, count) for n in last], dim=1)
    return DiffAugmentDraws(brightness, saturation, contrast, shift, hole)


def apply_diff_augment(clip: Tensor, draws: DiffAugmentDraws) -> Tensor:
    """Apply `draws` to `clip` [N, C, T, H, W] (values about −1 … 1); same shape."""
    if clip.ndim != 5:
        raise ValueError(f"clip has {clip.ndim} axes, expected [N, C, T, H, W]")
    if draws.brightness is not None:
        clip = clip + _per_clip(draws.brightness, clip)
    if draws.saturation is not None:
        gray = clip.mean(1, keepdim=True)
        clip = (clip - gray) * _per_clip(draws.saturation, clip) + gray
    if draws.contrast is not None:
        mean = clip.mean((1, 2, 3, 4), keepdim=True)
        clip = (clip - mean) * _per_clip(draws.contrast, clip) + mean
    if draws.shift is not None:
        clip = _translate(clip, draws.shift)
    if draws.hole is not None:
        clip = clip * _outside_hole(draws.hole, clip)
    return clip


def diff_augment(clip: Tensor, generator: torch.Generator, policy: Sequence[str] = POLICIES) -> Tensor:
    """Augment `clip` [N, C, T, H, W] (values about −1 … 1); same shape.

    One draw a clip, from `generator` (on any device: the numbers are moved to the clip's).
    `policy` names some of "color", "translation", "cutout"; ConfigError for anything else.
    """
    if clip.ndim != 5:
        raise ValueError(f"clip has {clip.ndim} axes, expected [N, C, T, H, W]")
    N, _, _, H, W = clip.shape
    return apply_diff_augment(clip, draw_diff_augment(N, H, W, generator, policy))


def _per_clip(values: Tensor, clip: Tensor) -> Tensor:
    return values.to(clip).reshape(-1, 1, 1, 1, 1)


def _translate(clip: Tensor, shift: Tensor) -> Tensor:
    H, W = clip.shape[-2:]
    reach = min(int(shift.abs().max()), max(H, W))
    padded = F.pad(clip, (reach, reach, reach, reach))
    starts = (reach - shift).clamp(0, 2 * reach).tolist()
    return torch.stack([one[..., y : y + H, x : x + W] for one, (y, x) in zip(padded, starts, strict=True)])


def _hole_side(side: int) -> int:
    return int(side * HOLE_RATIO + 0.5)


def _outside_hole(hole: Tensor, clip: Tensor) -> Tensor:
    """[N, 1, 1, H, W]: 0 in the hole, 1 elsewhere."""
    inside = []
    for axis, side in enumerate(clip.shape[-2:]):
        start = hole[:, axis, None].to(clip.device) - _hole_side(side) // 2
        place = torch.arange(side, device=clip.device)
        inside.append((place >= start) & (place < start + _hole_side(side)))
    rows, columns = inside
    return (~(rows[:, :, None] & columns[:, None, :])).to(clip.dtype)[:, None, None]
