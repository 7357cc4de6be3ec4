"""The super-resolution generator against reference vectors and closed forms."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from lvgan.errors import ConfigError
from lvgan.models.resample import FrameResampler, stack_context
from lvgan.models.sr_generator import SrGenerator, SynthesisLayer, modulated_conv2d
from lvgan.models.sr_schedule import SrLayer
from lvgan.official.names import sr_generator_name as our_name
from lvgan.official.names import sr_layer_name as our_layer_name
from tests.helpers import assert_close_to_max


def load(module: torch.nn.Module, state: dict[str, Tensor], rename: Any) -> None:
    module.load_state_dict({rename(k): v for k, v in state.items() if rename(k)})


def layer_from_call(call: dict[str, Any]) -> SynthesisLayer:
    spec = SrLayer(
        is_rgb=call["is_torgb"],
        critical=call["is_critically_sampled"],
        kernel=1 if call["is_torgb"] else 3,
        in_channels=call["in_channels"],
        out_channels=call["out_channels"],
        in_size=tuple(call["in_size"][::-1]),
        out_size=tuple(call["out_size"][::-1]),
        in_rate=call["in_sampling_rate"],
        out_rate=call["out_sampling_rate"],
        in_cutoff=call["in_cutoff"],
        out_cutoff=call["out_cutoff"],
        in_half_width=call["in_half_width"],
        out_half_width=call["out_half_width"],
        up=call["up_factor"],
        down=call["down_factor"],
        up_taps=call["up_taps"],
        down_taps=call["down_taps"],
        padding=tuple(call["padding"]),
        scale=Fraction(1),
    )
    return SynthesisLayer(
        spec, call["w_dim"], clamp=call.get("conv_clamp", 256.0), radial=call.get("use_radial_filters", False)
    )


@pytest.mark.parametrize(
    "name", ["up2_down2", "up4_down2", "up2_down4", "critical", "torgb", "radial", "clamp", "filter8"]
)
def test_golden_layer(golden: Any, name: str) -> None:
    file = golden(f"sres_layer_{name}")
    t, layer = file.tensors, layer_from_call(file.call)
    load(layer, file.group("state"), our_layer_name)
    for side in ("up", "down"):
        if f"state/{side}_filter" in t:
            assert_close_to_max(getattr(layer, f"{side}_taps"), t[f"state/{side}_filter"], 1e-6)
    x, w = t["in/x"].requires_grad_(), t["in/w"].requires_grad_()
    y = layer(x, w)
    assert_close_to_max(y, t["out/y"])
    y.backward(t["grad_out"])
    assert_close_to_max(x.grad, t["grad/in.x"])
    assert_close_to_max(w.grad, t["grad/in.w"])
    for key, value in layer.named_parameters():
        assert_close_to_max(value.grad, t[f"grad/param.{key}"])
    layer(x, w, update_ema=True)
    assert_close_to_max(layer.magnitude.mean_square, t["after_update/magnitude_ema"], 1e-6)


@pytest.mark.parametrize("index", [0, 1])
def test_golden_modulated_conv2d(golden: Any, index: int) -> None:
    file = golden(f"sres_modconv2d_{index}")
    t, call = file.tensors, file.call
    x, weight, style = (t[f"in/{k}"].requires_grad_() for k in ("x", "weight", "style"))
    gain = None if call["input_gain"] is None else torch.tensor(call["input_gain"])
    y = modulated_conv2d(x, weight, style, demodulate=call["demodulate"], padding=call["padding"], gain=gain)
    assert_close_to_max(y, t["out/y"])
    y.backward(t["grad_out"])
    for name, value in (("x", x), ("weight", weight), ("style", style)):
        assert_close_to_max(value.grad, t[f"grad/{name}"])


def test_golden_mapping(golden: Any) -> None:
    file = golden("sres_mapping")
    t = file.tensors
    generator = SrGenerator(16, 16, 4, 4, context=0, z_dim=20, w_dim=24, layers=4, channel_max=4)
    generator.load_state_dict({our_name("mapping." + k): v for k, v in file.group("state").items()}, strict=False)
    generator.w_avg.zero_()
    w = generator.mapping(t["in/z"])
    assert_close_to_max(w, t["out/ws"][:, 0])
    assert_close_to_max(generator.mapping(t["in/z"], update_ema=True), w)
    assert_close_to_max(generator.w_avg, t["out/w_avg_after_update"])
    assert_close_to_max(generator.mapping(t["in/z"], truncation=0.6), t["out/ws_psi0.6"][:, 0])
    assert_close_to_max(w, t["out/ws_psi0.6_cut2"][:, 2])


def generator_from_call(call: dict[str, Any]) -> SrGenerator:
    return SrGenerator(
        call["img_height"],
        call["img_width"],
        call["cond_height"],
        call["cond_width"],
        channels=call["img_channels"],
        context=call["cond_context"],
        z_dim=call["z_dim"],
        w_dim=call["w_dim"],
        channel_base=call["channel_base"] / 2,
        channel_max=call["channel_max"],
        fourier=call.get("fourfeats", False),
    )


@pytest.mark.parametrize("name", ["64_16", "36x64_9x16", "fourfeats"])
def test_golden_generator(golden: Any, name: str) -> None:
    file = golden(f"sres_generator_{name}")
    t, generator = file.tensors, generator_from_call(file.call)
    load(generator, file.group("state"), our_name)
    seen: dict[int, tuple[Tensor, Tensor]] = {}
    for index, layer in enumerate(generator.layers):
        layer.register_forward_hook(lambda _m, args, out, index=index: seen.__setitem__(index, (args[0], out)))
    z, lr = t["in/z"], t["in/cond"]
    with torch.no_grad():
        y = generator(z, lr)
    conditions = lr.shape[1] * (2 * generator.context + 1)
    for key, value in file.group("mid_cond").items():
        assert_close_to_max(seen[int(key)][0][:, -conditions:], value)
    for key, value in file.group("mid_layer").items():
        assert_close_to_max(seen[int(key[1:].split("_")[0])][1], value)
    for (_, out), stats in zip((seen[i] for i in sorted(seen)), t["mid_layer_stats"], strict=True):
        assert_close_to_max(torch.stack([out.mean(), out.std(), out.abs().max(), out.flatten()[0]]), stats)
    assert_close_to_max(y, t["out/y"])
    with torch.no_grad():
        assert_close_to_max(generator(z, lr, update_ema=True), t["out/y_update_emas"])
    state = generator.state_dict()
    for key, value in file.group("after_update").items():
        assert_close_to_max(state[our_name(key)], value)


@pytest.mark.parametrize("name", ["64_16", "36x64_9x16", "fourfeats"])
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-5), (torch.float32, 1e-4)])
def test_golden_generator_gradients(golden: Any, name: str, dtype: torch.dtype, tol: float) -> None:
    # In float32, a value next to the leaky ReLU's kink may fall on its other side (seen: 1.1e-5).
    file = golden(f"sres_generator_{name}")
    t, generator = file.tensors, generator_from_call(file.call).to(dtype)
    load(generator, file.group("state"), our_name)
    z, lr = t["in/z"].to(dtype).requires_grad_(), t["in/cond"].to(dtype).requires_grad_()
    generator(z, lr).backward(t["grad_out"].to(dtype))
    assert_close_to_max(z.grad, t["grad/z"], tol)
    assert_close_to_max(lr.grad, t["grad/cond"], tol)


@pytest.mark.parametrize("pair", ["hr256x256_lr64x64", "hr144x256_lr36x64", "hr64x64_lr16x16", "hr36x64_lr9x16"])
def test_golden_full_size_shapes(golden: Any, pair: str) -> None:
    expected = golden.json("sres_schedule")[pair]
    sizes = [tuple(map(int, part[2:].split("x"))) for part in pair.split("_")]
    with torch.device("meta"):
        generator = SrGenerator(*sizes[0], *sizes[1])
    wanted = {our_name(k): tuple(v) for k, v in expected["state"].items()}
    wanted.pop("", None)
    assert {k: tuple(v.shape) for k, v in generator.state_dict().items()} == wanted
    assert sum(p.numel() for p in generator.parameters()) == expected["params"]


@pytest.mark.parametrize("name", ["up2", "up4", "down2", "down4"])
def test_golden_frame_resampler(golden: Any, name: str) -> None:
    file = golden(f"sres_kaiser_{name}")
    x, y = file.tensors["in/x"], file.tensors["out/y"]
    factor = file.call["scale"]
    scale = Fraction(factor) if name.startswith("up") else Fraction(1, factor)
    # Ours is for squares: extend the shorter axis, and compare where that is not felt.
    side = max(x.shape[2:])
    missing = [side - length for length in x.shape[2:]]
    length = int(side * scale)
    resampler = FrameResampler((side, side), scale, [(length, length)], margin=0)
    assert_close_to_max(resampler.taps, file.tensors["state/filter"], 1e-6)
    actual = resampler(torch.nn.functional.pad(x, (0, missing[1], 0, missing[0]), mode="replicate"))
    reach = int(3 * max(scale, 1))
    rows, columns = (n - reach if gap else n for n, gap in zip(y.shape[2:], missing, strict=True))
    assert_close_to_max(actual[:, :, :rows, :columns], y[:, :, :rows, :columns])


@pytest.mark.parametrize("scale", [Fraction(3), Fraction(3, 2), Fraction(3, 4), Fraction(1, 2), Fraction(5, 8)])
@pytest.mark.parametrize("lr_size", [(40, 40), (24, 40)])
def test_resampling_keeps_slow_waves_and_the_centre(lr_size: tuple[int, int], scale: Fraction) -> None:
    margin = 8
    length = int((max(lr_size) + 2 * margin) * scale)
    resampler = FrameResampler(lr_size, scale, [(length, length)], margin)

    def wave(rows: Tensor, columns: Tensor) -> Tensor:  # positions from the frame's centre, in its pixels
        return (0.15 * rows + 0.4).sin()[:, None] * (0.1 * columns).cos()[None, :]

    def centred(count: int, step: float) -> Tensor:
        return (torch.arange(count) - (count - 1) / 2) * step

    frame = wave(centred(lr_size[0], 1), centred(lr_size[1], 1))[None, None]
    actual = resampler(frame)[0, 0]
    expected = wave(centred(length, 1 / float(scale)), centred(length, 1 / float(scale)))
    cut = [(length - int(side * scale)) // 2 + int(3 * max(1, scale)) + 1 for side in lr_size]
    inner = (slice(cut[0], length - cut[0]), slice(cut[1], length - cut[1]))
    actual, expected = actual[inner], expected[inner]
    # The low-pass damps the wave a little; a shift by half a sample would leave 0.02 and more.
    gain = (actual * expected).sum() / expected.square().sum()
    assert 0.96 < gain < 1.001
    assert (actual - gain * expected).abs().max() < 2e-3


def test_fit_crops_and_repeats_around_the_centre() -> None:
    resampler = FrameResampler((4, 4), Fraction(1), [(4, 4), (10, 2), (7, 4)], margin=1)
    frame = torch.arange(16.0).view(1, 1, 4, 4)
    region = resampler(frame)
    assert torch.equal(resampler.fit(region, (4, 4)), frame)
    tall = resampler.fit(region, (10, 2))[0, 0]
    assert torch.equal(tall[:, 0], frame[0, 0, [0, 0, 0, 0, 1, 2, 3, 3, 3, 3], 1])


def test_context_is_stacked_by_colour_then_time() -> None:
    frames = torch.arange(2 * 5 * 3).view(2, 5, 3, 1, 1)
    stacked = stack_context(frames, 1)
    assert stacked.shape == (6, 9, 1, 1)
    # Clip 1, frame 2 (the second that is made): its neighbours are frames 1, 2 and 3.
    expected = [int(frames[1, t, c]) for c in range(3) for t in (1, 2, 3)]
    assert stacked[4].flatten().tolist() == expected


def test_modulated_convolution_against_a_loop_over_frames() -> None:
    x, weight, style = torch.randn(6, 3, 5, 4), torch.randn(2, 3, 3, 3), torch.randn(2, 3)
    actual = modulated_conv2d(x, weight, style, padding=1)
    for index in range(6):
        modulated = (weight * style[index // 3, None, :, None, None]).double()
        modulated = modulated / modulated.square().sum((1, 2, 3), keepdim=True).sqrt()
        expected = torch.nn.functional.conv2d(x[index].double(), modulated, padding=1)
        assert_close_to_max(actual[index], expected)


SMALL: dict[str, Any] = {
    "z_dim": 8,
    "w_dim": 8,
    "layers": 5,
    "channel_base": 64,
    "channel_max": 6,
    "margin": 4,
}


@pytest.mark.parametrize(
    ("size", "lr_size", "channels", "extra"),
    [
        ((32, 18), (16, 9), 3, {}),  # portrait
        ((48, 48), (16, 16), 1, {}),  # factor 3, no power of two
        ((30, 50), (15, 25), 4, {}),  # odd sides, a rate of 12.5
        ((20, 33), (20, 33), 3, {"context": 0}),  # factor 1
        ((40, 24), (8, 5), 3, {}),  # not a multiple
        ((24, 40), (6, 10), 2, {"fourier": True, "radial": True, "clamp": 16.0, "filter_size": 4}),
    ],
)
def test_any_size(size: tuple[int, int], lr_size: tuple[int, int], channels: int, extra: dict[str, Any]) -> None:
    settings = {**SMALL, "context": 1, "channels": channels, **extra}
    if size[0] % lr_size[0] or size[1] % lr_size[1]:
        with pytest.raises(ConfigError, match="40x25"):
            SrGenerator(*size, *lr_size, **settings)
        return
    generator = SrGenerator(*size, *lr_size, **settings)
    frames = 2 + 2 * generator.context
    z = torch.randn(2, 8, requires_grad=True)
    lr = torch.randn(2, channels, frames, *lr_size, requires_grad=True)
    video = generator(z, lr)
    assert video.shape == (2, channels, 2, *size)
    video.square().mean().backward()
    gradients: dict[str, Tensor | None] = {"z": z.grad, "lr": lr.grad}
    gradients |= {name: p.grad for name, p in generator.named_parameters()}
    dead = [name for name, g in gradients.items() if g is None or not bool(g.abs().max() > 0)]
    assert not dead


def test_frames_and_clips_do_not_mix() -> None:
    generator = SrGenerator(32, 32, 8, 8, context=1, **SMALL)
    z, lr = torch.randn(2, 8), torch.randn(2, 3, 5, 8, 8)
    with torch.no_grad():
        both = generator(z, lr)
        alone = generator(z[1:], lr[1:, :, 1:4])
    assert_close_to_max(alone[0, :, 0], both[1, :, 1])


def test_transposed_frames_and_weights_give_the_transposed_video() -> None:
    landscape = SrGenerator(24, 40, 6, 10, context=0, **SMALL)
    portrait = SrGenerator(40, 24, 10, 6, context=0, **SMALL)
    portrait.load_state_dict({k: v.mT if v.ndim == 4 else v for k, v in landscape.state_dict().items()})
    z, lr = torch.randn(1, 8), torch.randn(1, 3, 1, 6, 10)
    with torch.no_grad():
        assert_close_to_max(portrait(z, lr.mT), landscape(z, lr).mT)


def test_mapping_once_and_synthesising_is_the_forward_pass() -> None:
    generator = SrGenerator(32, 32, 8, 8, context=1, **SMALL)
    torch.nn.init.normal_(generator.w_avg)
    z, lr = torch.randn(1, 8), torch.randn(1, 3, 3, 8, 8)
    with torch.no_grad():
        w = generator.mapping(z, truncation=0.7)
        assert_close_to_max(w, generator.w_avg + 0.7 * (generator.mapping(z) - generator.w_avg))
        assert torch.equal(generator.synthesis(w, lr), generator(z, lr, truncation=0.7))


def test_wrong_shapes_are_named() -> None:
    generator = SrGenerator(32, 32, 8, 8, context=1, **SMALL)
    with pytest.raises(ValueError, match=r"z has shape \(1, 5\)"):
        generator(torch.zeros(1, 5), torch.zeros(1, 3, 3, 8, 8))
    with pytest.raises(ValueError, match=r"lr has shape \(1, 3, 2, 8, 8\)"):
        generator(torch.zeros(1, 8), torch.zeros(1, 3, 2, 8, 8))
