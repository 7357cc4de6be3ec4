"""The low-resolution discriminator against reference vectors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lvgan.errors import ConfigError
from lvgan.models.layers import convolve, downsample_time
from lvgan.models.lr_discriminator import DiscriminatorBlock, Epilogue, LrDiscriminator, _halvings
from lvgan.official.names import lr_discriminator_name as our_name
from lvgan.ops import bias_act
from tests.helpers import assert_close_to_max


def load(module: nn.Module, state: dict[str, Tensor], prefix: str = "") -> None:
    kept = {our_name(k.removeprefix(prefix)): v for k, v in state.items() if k.startswith(prefix)}
    module.load_state_dict({k: v for k, v in kept.items() if k})


def golden_block(call: dict[str, Any], size: int) -> DiscriminatorBlock:
    first = (call["temporal_ksize"], *[call["spatial_ksize"]] * 2)
    second = (
        call.get("temporal_ksize_1", first[0]),
        *[call.get("spatial_ksize_1", first[1])] * 2,
    )
    return DiscriminatorBlock(
        call["in_channels"],
        call["out_channels"],
        size,
        rgb_channels=call.get("vid_channels"),
        kernels=(first, second),
        down_t=call["temporal_down"],
        down_s=call["spatial_down"],
        clamp=call.get("conv_clamp", 256),
    )


def check(module: nn.Module, file: Any) -> None:
    x = file.tensors["in/x"].requires_grad_()
    y = module(x)
    assert_close_to_max(y, file.tensors["out/y"])
    parameters = dict(module.named_parameters())
    grads = torch.autograd.grad(y, [x, *parameters.values()], file.tensors["grad_out"])
    expected = {our_name(k): v for k, v in file.group("grad").items()}
    for name, grad in zip(["in.x", *(f"param.{k}" for k in parameters)], grads, strict=True):
        assert_close_to_max(grad, expected.pop(name))
    assert not expected


@pytest.mark.parametrize("name", ["first", "down", "clamp"])
def test_golden_block(golden, name: str) -> None:  # type: ignore[no-untyped-def]
    file = golden(f"lresD_block_{name}")
    block = golden_block(file.call, file.tensors["in/x"].shape[-1])
    load(block, file.group("state"))
    check(block, file)


def test_golden_epilogue(golden) -> None:  # type: ignore[no-untyped-def]
    file = golden("lresD_epilogue")
    epilogue = Epilogue(6, 4, 4, 16)
    load(epilogue, file.group("state"))
    check(epilogue, file)


class DownsamplingEpilogue(Epilogue):
    """A variant that no network of ours uses: two convolutions halve the rate, after their bias."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2).flatten(2).transpose(1, 2)
        for i, conv in enumerate(self.convs):
            x = convolve(x, conv.weight * conv.weight_gain) + conv.bias[:, None]
            x = bias_act(downsample_time(x) if i < 2 else x, activation="lrelu")
        return self.logit(self.hidden(x.flatten(1)))


def test_golden_epilogue_down(golden) -> None:  # type: ignore[no-untyped-def]
    file = golden("lresD_epilogue_down")
    epilogue = DownsamplingEpilogue(6, 2, 4, 16)
    load(epilogue, file.group("state"))
    check(epilogue, file)


def test_golden_r1(golden) -> None:  # type: ignore[no-untyped-def]
    file = golden("lresD_r1")
    epilogue = file.call["epilogue"]
    network = nn.Sequential(
        golden_block(file.call["block"], 8),
        Epilogue(
            epilogue["in_channels"],
            epilogue["in_seq_length"],
            epilogue["in_res"],
            epilogue["channels"],
            epilogue["num_conv1d_layers"],
        ),
    )
    load(network, file.group("state"))
    x = file.tensors["in/x"].requires_grad_()
    logits = network(x)
    assert_close_to_max(logits, file.tensors["out/logits"])
    (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    assert_close_to_max(slope, file.tensors["out/r1_grad"])
    penalty = slope.square().sum((1, 2, 3, 4))
    assert_close_to_max(penalty, file.tensors["out/r1_penalty"])
    (penalty.mean() / 2).backward()
    parameters = dict(network.named_parameters())
    expected = {our_name(k): v for k, v in file.group("grad_r1_half_mean").items()}
    assert expected
    for name, grad in expected.items():
        assert_close_to_max(parameters.pop(name).grad, grad)
    for name, p in parameters.items():
        assert p.grad is None or p.grad.abs().max() == 0, name


def test_golden_shapes(golden) -> None:  # type: ignore[no-untyped-def]
    table = golden.json("lresD_shapes")
    with torch.device("meta"):
        network = LrDiscriminator()
    theirs = {ours: tuple(v) for k, v in table["state"].items() if (ours := our_name(k))}
    assert {k: tuple(v.shape) for k, v in network.state_dict().items()} == theirs
    assert sum(p.numel() for p in network.parameters()) == table["params"]


@pytest.mark.parametrize(
    ("edge", "count"), [(64, 4), (36, 3), (32, 3), (33, 3), (8, 1), (7, 1), (6, 0), (4, 0), (1, 0), (256, 6)]
)
def test_how_often_an_edge_can_be_halved(edge: int, count: int) -> None:
    assert _halvings(edge) == count


@pytest.mark.parametrize(
    ("frames", "height", "width"),
    [(8, 16, 16), (21, 9, 16), (13, 16, 9), (9, 7, 5), (16, 3, 3), (10, 40, 31)],
)
def test_any_length_and_size(frames: int, height: int, width: int) -> None:
    torch.manual_seed(0)
    network = LrDiscriminator(frames, height, width, channels=2, stem=4, widths=(4, 5, 6), head=8)
    x = torch.randn(2, 2, frames, height, width, requires_grad=True)
    logits = network(x)
    assert logits.shape == (2, 1)
    (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    assert (slope != 0).all()  # every pixel counts
    slope.square().sum().backward()
    size = max(height, width)
    for _ in range(min(3, _halvings(size))):
        size = math.ceil(size / 2)
    assert network.epilogue.convs[0].weight.shape[1] == 6 * size**2


def test_a_clip_is_padded_around_its_middle() -> None:
    torch.manual_seed(0)
    wide = LrDiscriminator(8, 5, 8, stem=4, widths=(4, 4), head=8)
    square = LrDiscriminator(8, 8, 8, stem=4, widths=(4, 4), head=8)
    square.load_state_dict(wide.state_dict())
    x = torch.randn(1, 3, 8, 5, 8)
    padded = torch.zeros(1, 3, 8, 8, 8)
    padded[:, :, :, 1:6] = x
    torch.testing.assert_close(wide(x), square(padded))


def test_logits_stay_float32_under_autocast() -> None:
    torch.manual_seed(0)
    network = LrDiscriminator(8, 8, 8, stem=4, widths=(4, 4), head=8)
    x = torch.randn(1, 3, 8, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(x)
    assert logits.dtype == torch.float32
    assert_close_to_max(logits, network(x), 0.1)


@pytest.mark.parametrize("settings", [{"frames": 7}, {"height": 0}, {"widths": ()}, {"stem": 0}])
def test_discriminator_refuses(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        LrDiscriminator(**{"widths": (4,), "head": 4, **settings})


def test_discriminator_refuses_another_clip() -> None:
    network = LrDiscriminator(8, 8, 8, stem=4, widths=(4,), head=4)
    with pytest.raises(ValueError, match="video must be"):
        network(torch.zeros(1, 3, 9, 8, 8))
