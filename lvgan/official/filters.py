"""The filters that published files carry, as we compute them: theirs are compared and left behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from lvgan.models.lr_generator import HalfRate
from lvgan.models.noise import low_pass_filters
from lvgan.models.sr_discriminator import SrDiscriminator
from lvgan.models.sr_generator import SrGenerator
from lvgan.models.sr_schedule import low_pass
from lvgan.official.streams import RefusedError

TOLERANCE = 1e-5  # of the largest tap
_LINEAR = (0.125, 0.375, 0.375, 0.125)

Filters = Callable[[str], Tensor | None]


def check_filters(theirs: Mapping[str, Tensor], ours: Filters) -> None:
    """Compare published filters with those that `ours` gives for their names.

    Raises:
        RefusedError: one differs, or is not known here.
    """
    for name, tensor in theirs.items():
        expected = ours(name)
        if expected is None:
            raise RefusedError(f"its filter {name} {list(tensor.shape)} is none that networks here have")
        if tensor.shape != expected.shape:
            raise RefusedError(f"its filter {name} is {list(tensor.shape)}, but {list(expected.shape)} here")
        difference = float((tensor.double() - expected.double()).abs().max() / expected.double().abs().max())
        if not difference <= TOLERANCE:
            raise RefusedError(f"its filter {name} differs from the one here, by {difference:.1e} of its largest tap")


def lr_generator_filters(filters: int, footprint_min: float, footprint_max: float) -> Filters:
    """Those of the low-resolution generator, for the settings of its bank."""
    rows = low_pass_filters(np.geomspace(2 * footprint_min, 2 * footprint_max, filters))
    scale = rows.double().square().sum(1).rsqrt().float()
    bank = {"temporal_emb.blur_filters": rows[:, None], "temporal_emb.output_scale": scale[None, :, None]}
    bank["temporal_downsample_latent.filter"] = HalfRate().taps

    def ours(name: str) -> Tensor | None:
        if name.endswith(("temporal_upsample.filter", "spatial_upsample.filter")):
            return torch.tensor(_LINEAR)
        return bank.get(name)

    return ours


def lr_discriminator_filters(name: str) -> Tensor | None:
    """Those of the low-resolution discriminator."""
    return torch.tensor(_LINEAR) if name.endswith("._downsample_filter") else None


def sr_generator_filters(network: SrGenerator) -> Filters:
    """Those of the super-resolution generator."""

    def ours(name: str) -> Tensor | None:
        room, _, rest = name.partition(".")
        if room == "resamples":
            index = rest.partition(".")[0]
            return _resampling(network, int(index)) if index.isdecimal() else None
        layer, _, tensor = rest.partition(".")
        index = layer[1:].partition("_")[0]
        if not index.isdecimal() or int(index) >= len(network.schedule):
            return None
        spec = network.schedule[int(index)]
        designs = {
            "up_filter": (spec.up_taps, spec.in_cutoff, spec.in_half_width, spec.inner_rate),
            "down_filter": (spec.down_taps, spec.out_cutoff, spec.out_half_width, spec.inner_rate),
        }
        return torch.tensor(low_pass(*designs[tensor])).float() if tensor in designs else None

    return ours


def _resampling(network: SrGenerator, index: int) -> Tensor | None:
    if index >= len(network.schedule) or network.schedule[index].scale == 1:
        return None
    scale = network.schedule[index].scale
    return network.resamplers[f"{scale.numerator}/{scale.denominator}"].get_buffer("taps")


def sr_discriminator_filters(network: SrDiscriminator) -> Filters:
    """Those of the super-resolution discriminator."""

    def ours(name: str) -> Tensor | None:
        if name == "upsample.filter":
            return network.upsample.get_buffer("taps")
        taps = torch.tensor(_LINEAR)
        return taps[:, None] * taps if name.endswith("resample_filter") else None

    return ours
