"""One list of sample inputs for each operator; values, gradients and `opcheck` all run over it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lvgan.ops.bias_act import ACTIVATIONS


@dataclass(frozen=True)
class Sample:
    """Arguments of one call: tensors (float64) and settings."""

    name: str
    x: Tensor
    tensors: dict[str, Tensor | None] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def arguments(self, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
        """Every argument but x, its tensors in `dtype`."""
        tensors = {k: None if v is None else v.to(dtype) for k, v in self.tensors.items()}
        return {**tensors, **self.settings}


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _taps(*shape: int) -> Tensor:
    f = _normal(*shape, seed=sum(shape)).abs() + 0.1  # lopsided, so that a wrong flip shows
    return f / f.sum()


def upfirdn2d_samples() -> list[Sample]:
    def sample(name: str, x: Tensor, f: Tensor | None, **settings: Any) -> Sample:
        return Sample(name, x, {"f": f}, settings)

    x = _normal(2, 3, 6, 7)
    return [
        sample("plain", x, _taps(3)),
        sample("none-up2", x, None, up=2, padding=(1, 0, -1, 2)),
        sample("none-crop", x, None, padding=(-1, 2, 3, -2)),
        sample("one-tap", x, _taps(1) * 0.7, gain=3.0, padding=(1, -1)),
        sample("up2-even", x, _taps(4), up=2, padding=(2, 1, 2, 1), gain=4.0),
        sample("up2-odd-flip", x, _taps(5), up=2, padding=(3, 1, 0, 4), flip_filter=True),
        sample("up4", x, _taps(12), up=4, padding=(7, 4, 6, 5), gain=16.0),
        sample("up4-few-taps", x, _taps(3), up=4, padding=2),
        sample("down2", x, _taps(6), down=2, padding=(1, 2, 3, 0)),
        sample("down4-flip", x, _taps(5), down=4, padding=(-1, 2, 3, -2), flip_filter=True),
        sample("down3-few-taps", x, _taps(2), down=3),
        sample("up2-down4", x, _taps(12), up=2, down=4, padding=(6, 7, 5, 6)),
        sample("up3-down2", x, _taps(4), up=3, down=2, padding=(2, 3, 4, 1), gain=-0.5),
        sample("by-axis", x, _taps(4), up=(2, 1), down=(1, 2), padding=(2, 1)),
        sample("crop-far", x, _taps(3), padding=(9, -8, -3, 0)),
        sample("crop-all-left", x, _taps(3), padding=(-8, 6, 0, 0)),
        sample("full", x, _taps(3, 5), padding=(2, 2, 1, 1)),
        sample("full-up-down", x, _taps(3, 5), up=(1, 3), down=(2, 1), padding=(0, 4, -1, 3), flip_filter=True),
        sample("full-up4", x, _taps(2, 3), up=4, padding=(2, 3, 2, 3), gain=2.0),
        sample("full-crop-far", x, _taps(2, 2), padding=(9, -8, -6, 4)),
        sample("full-one-tap", x, _taps(1, 1) * 1.5),
        sample("long", _normal(1, 2, 3, 70), _taps(7), up=2, padding=3),  # more than one tile
        sample(
            "strided",
            _normal(3, 2, 9, 8).transpose(0, 1)[:, :, ::2].transpose(2, 3),
            _taps(3),
            up=2,
            padding=1,
        ),
        sample("one-pixel", _normal(1, 1, 1, 1), _taps(4), up=2, padding=(2, 1, 2, 1)),
        sample("empty", _normal(0, 2, 4, 4), _taps(4), up=2, padding=(2, 1, 2, 1)),
        sample("empty-full", _normal(0, 2, 4, 4), _taps(2, 2), down=2),
    ]


def bias_act_samples() -> list[Sample]:
    def sample(name: str, x: Tensor, b: Tensor | None, **settings: Any) -> Sample:
        return Sample(name, x, {"b": b}, settings)

    x, b = _normal(2, 3, 4, 2), _normal(3, seed=1)
    clamped = [
        sample(f"{act}-clamp", x, b, activation=act, clamp=0.6, gain=1.3) for act in ACTIVATIONS if act != "linear"
    ]
    return [
        *(sample(act, x, b, activation=act) for act in ACTIVATIONS),
        *clamped,
        sample("no-bias", x, None, activation="lrelu", dim=7),
        sample("linear-gain", x, None, gain=0.5),
        sample("linear-clamp", x, b, clamp=0.2),
        sample("alpha", x, b, activation="lrelu", alpha=0.1, gain=2.0, clamp=0.7),
        sample("alpha-zero", x, b, activation="lrelu", alpha=0.0),
        sample("last-axis", _normal(2, 5), _normal(5, seed=1), dim=-1, activation="swish"),
        sample("first-axis", _normal(5, 2), _normal(5, seed=1), dim=0, activation="lrelu"),
        sample("vector", _normal(4), _normal(4, seed=1), dim=0, activation="tanh"),
        sample("video", _normal(1, 2, 2, 2, 3), _normal(2, seed=1), activation="lrelu", clamp=1.0),
        sample("strided", _normal(3, 4, 5, 2).permute(0, 3, 1, 2)[:, :, ::2], b[:2], activation="lrelu"),
        sample("strided-curved", _normal(3, 4, 5, 2).permute(0, 3, 1, 2)[:, :, ::2], b[:2], activation="swish"),
        sample("empty", _normal(0, 3, 2), b, activation="softplus"),
        sample("one", _normal(1, 1), b[:1], activation="elu"),
    ]


def filtered_lrelu_samples() -> list[Sample]:
    def sample(name: str, x: Tensor, fu: Tensor | None, fd: Tensor | None, b: Tensor | None, **settings: Any) -> Sample:
        return Sample(name, x, {"fu": fu, "fd": fd, "b": b}, settings)

    x, b = _normal(2, 2, 5, 6), _normal(2, seed=1)
    return [
        sample("plain", x, None, None, b),
        sample("crop", x, None, None, None, padding=(-1, 0, 0, -2), gain=1.0, slope=1.0),
        sample("up2-down2", x, _taps(6), _taps(6), b, up=2, down=2, padding=(5, 4, 3, 6)),
        sample("clamp", x, _taps(4), _taps(6), b, up=2, down=2, padding=(4, 4, 5, 3), clamp=0.4),
        sample("up4-down2", x, _taps(12), _taps(6), b, up=4, down=2, padding=(10, 9, 4, 13), clamp=0.6),
        sample("up2-down4-flip", x, _taps(6), _taps(12), b, up=2, down=4, padding=(5, 6, 7, 4), flip_filter=True),
        sample("up-only", x, _taps(6), None, None, up=2, padding=(-2, 3, 1, -3), clamp=0.5, gain=1.7, slope=0.1),
        sample("down-only", x, None, _taps(4), b, down=2, padding=3, slope=0.0),
        sample("full", x, _taps(3, 2), _taps(3, 5), b, up=2, down=2, padding=(4, 5, 3, 6), clamp=0.8),
        sample("mixed", x, _taps(3), _taps(2, 3), b, up=2, padding=2),
        sample("steep", x, _taps(3), _taps(2), b, up=2, padding=2, slope=1.5, clamp=1.0),
        sample("strided", _normal(6, 2, 5, 3).permute(3, 1, 2, 0), _taps(4), _taps(3), b, up=2, padding=1),
        sample("one-pixel", _normal(1, 1, 1, 1), _taps(4), _taps(2), b[:1], up=2, down=2, padding=2),
        sample("empty", _normal(0, 2, 4, 4), _taps(4), _taps(4), b, up=2, down=2, padding=3),
    ]
