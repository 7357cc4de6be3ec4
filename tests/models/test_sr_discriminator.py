"""The super-resolution discriminator against reference vectors and closed forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lvgan.errors import ConfigError
from lvgan.models.sr_discriminator import BilinearUpsample, SrDiscriminator, SrDiscriminatorBlock
from lvgan.official.names import sr_discriminator_name as our_name
from tests.helpers import assert_close_to_max


def test_golden_block(golden: Any) -> None:
    file = golden("sresD_block_resnet")
    block = SrDiscriminatorBlock(6, 10)
    block.load_state_dict({k: v for k, v in file.group("state").items() if "filter" not in k})
    assert_close_to_max(block(file.tensors["in/x"]), file.tensors["out/y"])


@pytest.mark.parametrize("name", ["64_16", "36x64_9x16"])
def test_golden_discriminator(golden: Any, name: str) -> None:
    file = golden(f"sresD_{name}")
    t, call = file.tensors, file.call
    network = SrDiscriminator(
        call["hr_height"],
        call["hr_width"],
        call["lr_height"],
        call["lr_width"],
        channels=call["channels"],
        frames=call["seq_length"],
        channel_base=call["channels_base"],
        channel_max=call["channels_max"],
    )
    names = {k: our_name(k, 64) for k in file.group("state")}
    network.load_state_dict({ours: t[f"state/{k}"] for k, ours in names.items() if ours})
    lr, hr = t["in/lr"].requires_grad_(), t["in/hr"].requires_grad_()
    upsampled = network.upsample(lr.flatten(1, 2)).unflatten(1, lr.shape[1:3])
    assert_close_to_max(upsampled, t["out/lr_upsampled"])
    logits = network(lr, hr)
    assert_close_to_max(logits, t["out/logits"])

    parameters = dict(network.named_parameters())
    sums = torch.autograd.grad(logits.sum(), [lr, hr, *parameters.values()], create_graph=True)
    gradients = dict(zip(["in.lr", "in.hr", *parameters], sums, strict=True))
    for key, value in file.group("grad_sum_logits").items():
        ours = key if key.startswith("in.") else our_name(key.removeprefix("param."), 64)
        assert_close_to_max(gradients[ours], value)
    penalty = gradients["in.hr"].square().sum((1, 2, 3, 4))  # of the high-resolution frames only
    assert_close_to_max(penalty, t["out/r1_penalty"])
    (0.5 * penalty).mean().backward()
    for key, value in file.group("grad_r1_half_mean").items():
        assert_close_to_max(parameters[our_name(key, 64)].grad, value)


def test_golden_full_size_shapes(golden: Any) -> None:
    expected = golden.json("sresD_shapes")
    with torch.device("meta"):
        network = SrDiscriminator(frames=expected["seq_length"])
    wanted = {our_name(k, expected["hr"]): tuple(v) for k, v in expected["state"].items()}
    wanted.pop("", None)
    assert {k: tuple(v.shape) for k, v in network.state_dict().items()} == wanted


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5])
def test_upsampling_is_bilinear(factor: int) -> None:
    x = torch.randn(1, 2, 5, 7)
    padded = F.pad(x, (1, 1, 1, 1))  # zeros outside
    expected = F.interpolate(padded, scale_factor=factor, mode="bilinear", align_corners=False)
    assert_close_to_max(BilinearUpsample(factor)(x), expected[:, :, factor:-factor, factor:-factor])


@pytest.mark.parametrize(
    ("size", "lr_size", "channels"),
    [
        ((64, 36), (16, 9), 3),  # portrait
        ((48, 48), (16, 16), 1),  # factor 3, no power of two
        ((30, 50), (15, 25), 4),  # padded to a multiple of 8
        ((20, 33), (20, 33), 3),  # factor 1, odd
    ],
)
def test_any_size(size: tuple[int, int], lr_size: tuple[int, int], channels: int) -> None:
    network = SrDiscriminator(*size, *lr_size, channels=channels, frames=2, channel_base=128, channel_max=8)
    lr = torch.randn(2, channels, 2, *lr_size, requires_grad=True)
    hr = torch.randn(2, channels, 2, *size, requires_grad=True)
    logits = network(lr, hr)
    assert logits.shape == (2, 1)
    logits.sum().backward()
    gradients: list[Tensor | None] = [lr.grad, hr.grad, *(p.grad for p in network.parameters())]
    assert all(g is not None and bool(g.abs().max() > 0) for g in gradients)


def test_transposed_frames_and_weights_give_the_same_logits() -> None:
    landscape = SrDiscriminator(36, 64, 9, 16, frames=1, channel_base=128, channel_max=8)
    portrait = SrDiscriminator(64, 36, 16, 9, frames=1, channel_base=128, channel_max=8)
    state = {k: v.transpose(-1, -2) if v.ndim == 4 else v for k, v in landscape.state_dict().items()}
    # The square's paddings are equal on both sides here, so transposing is exact.
    hidden = state["hidden.weight"]
    state["hidden.weight"] = hidden.unflatten(1, (-1, 4, 4)).transpose(-1, -2).flatten(1)
    portrait.load_state_dict(state)
    lr, hr = torch.randn(2, 3, 1, 9, 16), torch.randn(2, 3, 1, 36, 64)
    assert_close_to_max(portrait(lr.mT, hr.mT), landscape(lr, hr))


def test_wrong_shapes_and_sizes() -> None:
    network = SrDiscriminator(16, 16, 4, 4, frames=1, channel_max=4)
    with pytest.raises(ValueError, match=r"hr has shape \(1, 3, 1, 8, 8\)"):
        network(torch.zeros(1, 3, 1, 4, 4), torch.zeros(1, 3, 1, 8, 8))
    with pytest.raises(ConfigError, match="whole multiple"):
        SrDiscriminator(64, 64, 24, 24)
    with pytest.raises(ConfigError, match="at least 8"):
        SrDiscriminator(4, 4, 4, 4)
