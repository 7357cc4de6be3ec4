"""Networks start where the equations say (the low-resolution generator: test_lr_generator).

For the discriminators: a clip of one colour stays one where no border reaches, so neither filters nor the number of
taps change its power. There a layer with a leaky ReLU of slope 0.2 and gain √2 multiplies the power by 1.04, and each
branch of a residual block gives half of it: 1.04³/2 + 1.04/2 behind the first block.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lvgan.models.layers import MagnitudeEMA
from lvgan.models.lr_discriminator import LrDiscriminator
from lvgan.models.sr_discriminator import SrDiscriminator
from lvgan.models.sr_generator import SrGenerator

DRAWS = 16
LRELU = (1 + 0.2**2) / 2 * 2


def one_colour(count: int, frames: int, side: int) -> Tensor:
    """Clips [count, 3, frames, side, side], each of one colour of unit power."""
    colours = torch.randn(count, 3, 1, 1, 1)
    return (colours / colours.square().mean().sqrt()).expand(-1, -1, frames, side, side)


def middle(x: Tensor) -> Tensor:
    """The two innermost places along every axis but batch and channels."""
    for axis in range(2, x.ndim):
        x = x.narrow(axis, x.shape[axis] // 2 - 1, 2)
    return x


def lr_case() -> tuple[nn.Module, tuple[Tensor, ...], nn.Module, list[nn.Module]]:
    network = LrDiscriminator(8, 16, 16, stem=48, widths=(48, 48), head=32)
    return network, (one_colour(32, 8, 16),), network.blocks[0].stem, list(network.blocks[:1])


def sr_case() -> tuple[nn.Module, tuple[Tensor, ...], nn.Module, list[nn.Module]]:
    network = SrDiscriminator(64, 64, 16, 16, channel_base=4096, channel_max=64)
    return network, (one_colour(16, 4, 16), one_colour(16, 4, 64)), network.from_frames, list(network.blocks[:2])


@pytest.mark.parametrize("case", [lr_case, sr_case])
def test_power_is_kept_from_layer_to_layer(case) -> None:  # type: ignore[no-untyped-def]
    powers: list[list[Tensor]] = []
    for seed in range(DRAWS):
        torch.manual_seed(seed)
        network, inputs, stem, blocks = case()
        powers.append([])
        for layer in (stem, *blocks):
            layer.register_forward_hook(lambda module, given, out: powers[-1].append(middle(out).square().mean()))
        with torch.no_grad():
            network(*inputs)
    block = LRELU**2 / 2 + 1 / 2
    for depth, power in enumerate(torch.tensor(powers).mean(0).tolist()):
        # (three colours, few channels: the draws scatter by 20 %, their mean by 5 %)
        assert power == pytest.approx(LRELU * block**depth, rel=0.15)


@pytest.mark.parametrize("case", [lr_case, sr_case])
def test_gradients_are_of_one_size_in_all_blocks(case) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    network, inputs, _, _ = case()
    network(*(torch.randn_like(x) for x in inputs)).sum().backward()
    sizes = [
        parameter.grad.square().mean().sqrt().item() * parameter[0].numel() ** 0.5
        for name, parameter in network.named_parameters()
        if name.startswith("blocks") and name.endswith("weight") and "stem" not in name
    ]
    assert len(sizes) == 3 * len(network.blocks)
    assert max(sizes) < 5 * min(sizes)


@torch.no_grad()
def test_power_of_the_super_resolution_generator() -> None:
    """Demodulated: 1, times 1.04 by the leaky ReLU, less what a layer's band leaves out; colours: a style of power 2.

    The narrow bands of the first three layers leave out most of the noise that the frames are here.
    """
    powers: list[list[Tensor]] = []
    for seed in range(DRAWS):
        torch.manual_seed(seed)
        network = SrGenerator(64, 64, 16, 16, z_dim=64, w_dim=64, layers=8, margin=6, channel_base=1024, channel_max=32)
        for module in network.modules():
            if isinstance(module, MagnitudeEMA):
                module.decay = 0.0  # settled at once
        z, low = torch.randn(2, 64), torch.randn(2, 3, 9, 16, 16)
        network(z, low, update_ema=True)
        powers.append([])
        for layer in network.layers:
            layer.register_forward_hook(lambda module, given, out: powers[-1].append(out.square().mean()))
        network(z, low)
    *layers, colours = torch.tensor(powers).mean(0).tolist()
    assert max(layers) < 1.2, layers
    assert min(layers[3:]) > 0.6, layers
    assert colours == pytest.approx(2, rel=0.3)
