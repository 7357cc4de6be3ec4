"""The low-resolution generator against reference vectors and its own promises."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lvgan.errors import ConfigError
from lvgan.models.layers import MagnitudeEMA
from lvgan.models.lr_generator import (
    PAPER_BLOCKS,
    RGB_GAIN,
    BlockSpec,
    HalfRate,
    LrGenerator,
    Mapping,
    SynthesisBlock,
    ToRGB,
)
from lvgan.models.noise import frame_noise
from lvgan.official.names import lr_generator_name as our_name
from tests.helpers import assert_close_to_max

TINY_BLOCKS = tuple(BlockSpec.parse(text) for text in ("12 t s", "10 t s", "8", "8 1x3x3 s"))


def tiny(height: int = 16, width: int = 16, **settings: Any) -> LrGenerator:
    torch.manual_seed(0)
    small = {"filters": 6, "footprint_min": 5, "footprint_max": 30, "latent": 16, "input_channels": 12}
    return LrGenerator(height, width, **{"blocks": TINY_BLOCKS, **small, **settings})


def noise_for(generator: LrGenerator, frames: int, start: int = 0, batch: int = 1) -> Tensor:
    before, after = generator.noise_margin(frames)
    return torch.stack([frame_noise(seed, start - before, before + frames + after) for seed in range(batch)])


def load(module: nn.Module, state: dict[str, Tensor]) -> None:
    module.load_state_dict({ours: v for k, v in state.items() if (ours := our_name(k))})


def check_gradients(module: nn.Module, inputs: dict[str, Tensor], y: Tensor, data: dict[str, Tensor]) -> None:
    targets = dict(module.named_parameters())
    wanted = {
        k: inputs[k[8:]] if k.startswith("grad/in.") else targets[our_name(k.removeprefix("grad/param."))]
        for k in data
        if k.startswith("grad/")
    }
    assert len(wanted) == len(targets) + len(inputs)
    grads = torch.autograd.grad(y, list(wanted.values()), data["grad_out"])
    for name, grad in zip(wanted, grads, strict=True):
        assert_close_to_max(grad, data[name])


# Reference vectors


@pytest.mark.parametrize("name", ["tsup", "tsup_crop", "tup", "plain_t", "sup"])
def test_golden_block(golden, name: str) -> None:  # type: ignore[no-untyped-def]
    file = golden(f"lres_block_{name}")
    call, data = file.call, file.tensors
    x, w = data["in/x"].requires_grad_(), data["in/w"].requires_grad_()
    in_size, out_size = tuple(x.shape[3:]), tuple(data["out/y"].shape[3:])
    spec = BlockSpec(
        call.get("out_channels", call["in_channels"]),
        call["temporal_ksize"],
        call.get("temporal_up", False),
        call.get("spatial_up", False),
    )
    block = SynthesisBlock(call["in_channels"], spec, call["latent_dim"], in_size, out_size)
    load(block, file.group("state"))
    y = block(x, w.transpose(1, 2), call["out_seq_length"])
    assert_close_to_max(y, data["out/y"])
    check_gradients(block, {"x": x, "w": w}, y, data)

    block.magnitude_0.decay = block.magnitude_1.decay = 0.9
    y = block(x, w.transpose(1, 2), call["out_seq_length"], update_ema=True)
    assert_close_to_max(y, data["out/y_beta0.9"])
    for key, value in file.group("after_beta0.9").items():
        assert_close_to_max(block.get_buffer(our_name(key)), value)


def test_golden_to_rgb(golden) -> None:  # type: ignore[no-untyped-def]
    file = golden("lres_to_rgb")
    rgb = ToRGB(8, 3, 24)
    load(rgb, file.group("state"))
    x, w = (file.tensors[f"in/{k}"].requires_grad_() for k in "xw")
    y = rgb(x, w.transpose(1, 2))
    assert_close_to_max(y, file.tensors["out/y"])
    check_gradients(rgb, {"x": x, "w": w}, y, file.tensors)


def test_golden_mapping(golden) -> None:  # type: ignore[no-untyped-def]
    file = golden("lres_mapping")
    mapping = Mapping(48, 32, 2)
    load(mapping, file.group("state"))
    emb = file.tensors["in/emb"].requires_grad_()
    w = mapping(emb.transpose(1, 2)).transpose(1, 2)
    assert_close_to_max(w, file.tensors["out/w"])
    check_gradients(mapping, {"emb": emb}, w, file.tensors)


def test_golden_half_rate(golden) -> None:  # type: ignore[no-untyped-def]
    half_rate = HalfRate()

    def over_time(x: Tensor) -> Tensor:
        return half_rate(x.flatten(3).permute(0, 3, 2, 1).flatten(0, 1)).transpose(1, 2)  # [rest, C, T]

    data = golden("lres_kaiser_down_3d").tensors
    assert_close_to_max(half_rate.taps, data["state/filter"])
    assert_close_to_max(half_rate(data["in/x"].transpose(1, 2)).transpose(1, 2), data["out/y"])
    data = golden("lres_kaiser_down_5d").tensors
    assert_close_to_max(over_time(data["in/x"]), data["out/y"].flatten(3).permute(0, 3, 1, 2)[0])
    data = golden("lres_kaiser_down_pad").tensors  # edges repeated, then cropped away
    padded = torch.nn.functional.pad(data["in/x"], (4, 4), mode="replicate").transpose(1, 2)
    assert_close_to_max(half_rate(padded).transpose(1, 2)[..., 2:-2], data["out/y"])


def test_golden_latent_schedule(golden) -> None:  # type: ignore[no-untyped-def]
    file = golden("lres_latent_schedule")
    with torch.device("meta"):
        generator = LrGenerator()
    generator.half_rate = HalfRate()
    assert generator.embedding_frames(32) == 544
    pyramid = generator.latent_pyramid(file.tensors["in/emb"].transpose(1, 2), 32)
    expected = [file.tensors[f"out/w{i}"] for i in range(12)]
    assert_close_to_max(pyramid[0].transpose(1, 2), expected[0])  # for the input as for the first block
    for ours, theirs in zip(pyramid, expected[1:], strict=True):
        assert_close_to_max(ours.transpose(1, 2), theirs)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (36, 64)])
def test_golden_shapes(golden, height: int, width: int) -> None:  # type: ignore[no-untyped-def]
    table = golden.json("lres_shapes")[f"{height}x{width}"]
    with torch.device("meta"):
        generator = LrGenerator(height, width, footprint_min=125)
    theirs = {ours: tuple(v) for k, v in table["state"].items() if (ours := our_name(k))}
    theirs["constant"] = theirs["constant"][1:]
    assert {k: tuple(v.shape) for k, v in generator.state_dict().items()} == theirs
    assert sum(p.numel() for p in generator.parameters()) == table["params"]
    assert tuple(generator.bank.filters.shape) == (128, 5000)
    for spec, layer in zip(generator.specs, table["layers"], strict=True):
        expected = BlockSpec(layer["cout"], layer["kt"], layer["tup"], layer["sup"])
        assert spec == expected
    for frames, lengths in table["seq_lengths"].items():
        counts = [count for _, count in generator.lengths(int(frames))]
        assert counts == [lengths["input"], *lengths["layers"], *[int(frames)] * 4]
        assert generator.embedding_frames(int(frames)) == lengths["emb"]


# Promises


def test_block_spec_text() -> None:
    for text in ("512 t s", "64 1x3x3", "64 1x3x3 s", "8", "16 t", "16 s"):
        assert str(BlockSpec.parse(text)) == text
    assert BlockSpec.parse(" 512  3x3x3 t ") == BlockSpec(512, 3, True, False)
    assert [str(spec) for spec in PAPER_BLOCKS[4:7]] == ["256 t", "256", "128 1x3x3 s"]


@pytest.mark.parametrize("text", ["", "t s", "512 x", "512 5x3x3", "0 t", "-3", "8 t t", "8 s t 3"])
def test_block_spec_refuses(text: str) -> None:
    with pytest.raises(ConfigError):
        BlockSpec.parse(text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blocks": ()}, "at least one"),
        ({"blocks": (BlockSpec(8), BlockSpec(8, up_t=True))}, "upsample time .* first"),
        ({"blocks": (BlockSpec(8),) * 5}, "need at least 10"),
        ({"padding": 5}, "need at least 7"),
        ({"height": 0}, "below 1"),
        ({"footprint_min": 1}, "footprint"),
    ],
)
def test_generator_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(**settings)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (9, 16), (16, 9), (13, 7), (1, 3)])
def test_generator_sizes(height: int, width: int) -> None:
    generator = tiny(height, width, channels=4)
    assert generator.time_scale == 4
    assert tuple(generator.constant.shape) == (12, 1, math.ceil(height / 8), math.ceil(width / 8))
    video = generator(noise_for(generator, 5, batch=2), 5)
    assert video.shape == (2, 4, 5, height, width)
    video.square().sum().backward()
    for name, p in generator.named_parameters():
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all()


def test_generator_without_temporal_upsampling() -> None:
    generator = tiny(blocks=(BlockSpec.parse("8"), BlockSpec.parse("4 1x3x3 s")), padding=2)
    assert (generator.time_scale, generator.noise_margin(3)) == (1, (2 + 29, 2))
    assert generator(noise_for(generator, 3), 3).shape == (1, 3, 3, 16, 16)


@torch.no_grad()
def test_shifted_noise_shifts_the_video() -> None:
    generator = tiny(padding=8).double()
    scale = generator.time_scale
    first, second = (generator(noise_for(generator, 24, start).double(), 24) for start in (0, scale))
    assert_close_to_max(first[:, :, scale:], second[:, :, :-scale], 1e-5)
    assert first.std(2).mean() > 1e-3  # the video moves


@torch.no_grad()
def test_a_shorter_video_is_the_beginning_of_a_longer_one() -> None:
    """Also where the length is no multiple of the time scale: a frame does not depend on the end."""
    generator = tiny()
    long = generator(noise_for(generator, 24), 24)
    for frames in (1, 6, 13, 20):
        assert_close_to_max(generator(noise_for(generator, frames), frames), long[:, :, :frames])


@torch.no_grad()
def test_needless_frames_are_dropped_without_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = tiny()
    noise = noise_for(generator, 7)
    video = generator(noise, 7)
    monkeypatch.setattr(SynthesisBlock, "_drop_unused", lambda self, x, w, frames: (x, w))
    assert_close_to_max(video, generator(noise, 7), 1e-6)


@torch.no_grad()
def test_activations_start_at_unit_variance() -> None:
    torch.manual_seed(0)
    blocks = tuple(BlockSpec.parse(text) for text in ("64 t s", "64 t s", "64", "64 1x3x3"))
    generator = LrGenerator(
        32, 32, filters=32, footprint_min=5, footprint_max=60, latent=128, input_channels=64, blocks=blocks
    )
    seen: dict[str, Tensor] = {}

    def remember(name: str):  # type: ignore[no-untyped-def]
        return lambda module, inputs, output: seen.__setitem__(name, output.double())

    for name in ("bank", "mapping.layers.0", "mapping.layers.1", *(f"blocks.{i}" for i in range(4)), "rgb"):
        generator.get_submodule(name).register_forward_hook(remember(name))
    for module in generator.modules():
        if isinstance(module, MagnitudeEMA):
            module.decay = 0.0  # settled at once
    generator(noise_for(generator, 32, batch=4), 32, update_ema=True)
    for name, y in seen.items():
        inner = y[..., 2:-2, 2:-2] if y.ndim == 5 else y  # zero padding weakens the borders
        power = inner.square().mean().item()
        if name in ("blocks.0", "blocks.1"):
            assert 0.2 < power < 1, (name, power)  # linear upsampling smooths
        elif name == "rgb":  # not demodulated: times the power of the style, 1 (bias) + 1
            assert 1.4 < power < 2.8, power
        else:
            assert 0.75 < power < 1.3, (name, power)


@torch.no_grad()
def test_magnitude_statistics_change_only_when_asked() -> None:
    generator = tiny()
    noise = noise_for(generator, 4)
    before = {k: v.clone() for k, v in generator.state_dict().items()}
    first = generator(noise, 4)
    assert all(torch.equal(before[k], v) for k, v in generator.state_dict().items())
    assert torch.equal(first, generator(noise, 4))
    generator(noise, 4, update_ema=True)
    changed = {k for k, v in generator.state_dict().items() if not torch.equal(before[k], v)}
    blocks = itertools.product(range(len(TINY_BLOCKS)), range(2))
    assert changed == {f"blocks.{i}.magnitude_{j}.mean_square" for i, j in blocks} | {"rgb.magnitude.mean_square"}


def test_colours_are_a_quarter_of_the_last_layer() -> None:
    assert RGB_GAIN == 0.25


def test_generator_refuses_noise_of_another_length() -> None:
    generator = tiny()
    with pytest.raises(ValueError, match="noise must have"):
        generator(noise_for(generator, 4)[..., 1:], 4)


def test_generator_runs_under_autocast() -> None:
    generator = tiny()
    noise = noise_for(generator, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        video = generator(noise, 6)
        video.float().square().sum().backward()
    assert_close_to_max(video.float(), generator(noise, 6), 0.1)
