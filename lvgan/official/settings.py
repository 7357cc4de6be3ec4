"""What the settings of published networks are, read off their tensors and attributes.

Wherever a tensor's shape says it, the shape is believed. Each function gives nested plain values as
:func:`lvgan.config.build` takes them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lvgan.models.lr_generator import BlockSpec
from lvgan.models.sr_schedule import condition_filter, sr_schedule
from lvgan.official.modules import Module
from lvgan.official.streams import RefusedError

# Settings that change what a network computes, that no tensor's shape shows, and that ours has fixed.
_FIXED: dict[str, Any] = {
    "conv_clamp": 256,
    "synthesis.conv_clamp": 256,
    "latent_mapping.lrate_mul": 0.01,
    "latent_mapping.normalize_input": True,
    "latent_mapping.activation": "lrelu",
    "mapping.lr_multiplier": 0.01,
    "architecture": "resnet",
}
_LARGEST_FACTOR = 16  # between the two resolutions
# Of frames, which no tensor's shape limits: a little file could ask for any amount of work and memory.
_LARGEST_SIDE = 1024  # low resolution; published ones have 64
_LARGEST_HIGH_SIDE = 2048  # published ones have 256
_HEIGHTS = ("out_height", "height", "img_height", "lr_height")


def check_fixed(module: Module) -> None:
    """Refuse a network with a setting that ours cannot have.

    Raises:
        RefusedError: it has one; the message names it.
    """
    for name, expected in _FIXED.items():
        value = module.settings.get(name, expected)
        if value != expected:
            raise RefusedError(f"its setting {name} is {str(value)[:40]}, but networks here have {expected}")


def lr_generator_settings(module: Module) -> dict[str, Any]:
    """Of a low-resolution generator."""
    tensors = module.tensors
    blocks = _lr_blocks(module)
    filters, _, taps = _shape(tensors, "temporal_emb.blur_filters", 3)
    embedding, latent, layers = _mapping(tensors, "latent_mapping.layer_{}.weight")
    if embedding % filters:
        raise RefusedError(f"its embedding has {embedding} channels, no multiple of its {filters} filters")
    generator = {
        "noise_channels": embedding // filters,
        "filters": filters,
        "footprint_min": _footprint(module, "min", int((tensors["temporal_emb.blur_filters"][0] != 0).sum())),
        "footprint_max": _footprint(module, "max", taps),
        "latent": latent,
        "mapping_layers": layers,
        "input_channels": _shape(tensors, "spatial_input", 5)[1],
        "blocks": [str(block) for block in blocks],
    }
    data = {"lr": _lr_size(module, blocks), "channels": _shape(tensors, "to_rgb.weight", 5)[0]}
    return {"data": data, "model": {"generator": generator}}


def temporal_layers(tensors: Mapping[str, Tensor]) -> int:
    """How many spatio-temporal blocks a low-resolution generator begins with."""
    return _count(tensors, r"temporal_layers\.(\d+)\.weight_0")


def _lr_blocks(module: Module) -> list[BlockSpec]:
    blocks = []
    for kind in ("temporal_layers", "spatial_layers"):
        for index in range(_count(module.tensors, rf"{kind}\.(\d+)\.weight_0")):
            layer = f"{kind}.{index}."
            channels, _, kernel, *_ = _shape(module.tensors, layer + "weight_1", 5)
            flags = (_upsamples(module, layer, "temporal"), _upsamples(module, layer, "spatial"))
            blocks.append(BlockSpec(channels, kernel, *flags))
    return blocks


def _upsamples(module: Module, layer: str, axis: str) -> bool:
    said = module.settings.get(f"{layer}{axis}_up")
    return bool(said) if said is not None else f"{layer}{axis}_upsample.filter" in module.tensors


def _footprint(module: Module, end: str, taps: int) -> float:
    """Frames that the shortest or longest filter spans: half its sampling rate."""
    rate = module.find(f"{end}_sampling_rate")
    return rate / 2 if isinstance(rate, (int, float)) and math.ceil(rate / 2 - 1e-6) == taps else taps


def _lr_size(module: Module, blocks: Sequence[BlockSpec]) -> str:
    """The frames' size, which the tensors give to within a factor: the network or its blocks state it."""
    coarse = _shape(module.tensors, "spatial_input", 5)[3:]
    factor = 2 ** sum(block.up_s for block in blocks)
    for name in (*_HEIGHTS, *(key for key in module.settings if key.endswith(".out_height"))):
        height, width = (module.settings.get(n) for n in (name, name.replace("height", "width")))
        if not isinstance(height, int) or not isinstance(width, int) or max(height, width) > _LARGEST_SIDE:
            continue
        if (-(-height // factor), -(-width // factor)) == coarse:
            return f"{height}x{width}"
    raise RefusedError(f"it does not say the size of its frames, of which the coarsest are {coarse[0]}x{coarse[1]}")


def lr_discriminator_settings(module: Module) -> dict[str, Any]:
    """Of a low-resolution discriminator."""
    tensors = module.tensors
    count = _count(tensors, r"blocks\.(\d+)\.conv_1\.weight")
    widths = [_shape(tensors, f"blocks.{index}.conv_1.weight", 5)[0] for index in range(count)]
    head = _shape(tensors, "epilogue.conv1d_0.weight", 3)[0]
    coarse = _shape(tensors, "epilogue.linear_0.weight", 2)[1] // head
    frames = module.find("seq_length")
    if not isinstance(frames, int) or -(-frames // 2 ** (count - 1)) != coarse:
        frames = coarse * 2 ** (count - 1)
    stem = _shape(tensors, "blocks.0.conv_vid.weight", 5)[0]
    discriminator = {"stem": stem, "widths": widths, "head": head}
    return {"data": {"frames": frames}, "model": {"discriminator": discriminator}}


_SR_LAYER = re.compile(r"synthesis\.L(\d+)_(\d+)_(\d+)_(\d+)\.weight")


def sr_generator_settings(module: Module) -> dict[str, Any]:
    """Of a super-resolution generator, whose layers' names give their width, height and channels."""
    tensors = module.tensors
    found = sorted(tuple(map(int, match.groups())) for name in tensors if (match := _SR_LAYER.fullmatch(name)))
    if [index for index, *_ in found] != list(range(len(found))) or len(found) < 3:
        raise RefusedError("its layers do not have the names of a super-resolution generator's")
    _, width, height, channels = found[-1]
    if max(width, height) > _LARGEST_HIGH_SIDE:
        raise RefusedError(
            f"its frames are {height}x{width} by the names of its layers, but published ones have 256 a side"
        )
    widths = [layer[3] for layer in found[:-1]]
    fourier = "synthesis.input.weight" in tensors
    features = _shape(tensors, "synthesis.input.weight", 2)[0] if fourier else 0
    inputs = _shape(tensors, "synthesis.L{}_{}_{}_{}.weight".format(*found[0]), 4)[1] - features
    frames, rest = divmod(inputs, channels)
    if rest or frames % 2 == 0:
        raise RefusedError(f"its first layer has {inputs} inputs, not the colours of a frame and its neighbours")
    z_dim, w_dim, layers = _mapping(tensors, "mapping.fc{}.weight")
    generator = {
        "z_dim": z_dim,
        "w_dim": w_dim,
        "mapping_layers": layers,
        "layers": len(widths),
        "critical": _whole(module.find("num_critical"), 2),
        "fourier": fourier,
        **_sr_channels(module, (height, width), widths),
    }
    size, context = (height, width), (frames - 1) // 2
    first = _schedule(size, size, generator, margin=0)[0]
    generator["margin"] = round((max(found[0][1:3]) - first.in_rate) / 2)
    schedule = _schedule(size, size, generator, generator["margin"])
    sizes = [(layer.out_size[1], layer.out_size[0]) for layer in schedule]
    if sizes != [layer[1:3] for layer in found]:
        raise RefusedError("its layers' names give other sizes than layers have here for the same frames")
    if fourier and _shape(tensors, "synthesis.input.features", 4)[2:] != schedule[0].in_size:
        raise RefusedError("its waves have another size than its first layer")
    lr = _sr_input_size(module, size, generator)
    data = {"hr": f"{height}x{width}", "lr": f"{lr[0]}x{lr[1]}", "channels": channels, "context": context}
    return {"data": data, "model": {"generator": generator}}


def _schedule(size: tuple[int, int], lr: tuple[int, int], generator: Mapping[str, Any], margin: int) -> Any:
    return sr_schedule(size, lr, layers=generator["layers"], critical=generator["critical"], margin=margin)


def _sr_channels(module: Module, size: tuple[int, int], widths: Sequence[int]) -> dict[str, int]:
    """Base and maximum of the layers' channels: as stated (the published base counts twice), or as they are."""
    stated, largest = _whole(module.find("channel_base"), 0), _whole(module.find("channel_max"), max(widths))
    last = widths[-1] * max(size) // 2  # the last layer's cutoff is half of the long edge
    critical = _whole(module.find("num_critical"), 2)
    for base in (stated // 2, last):
        if base < 1:
            continue
        made = sr_schedule(size, size, layers=len(widths), critical=critical, channel_base=base, channel_max=largest)
        if [layer.out_channels for layer in made[:-1]] == list(widths):
            return {"channel_base": base, "channel_max": largest}
    raise RefusedError(f"its layers have {list(widths)} channels, which fit no rule that networks here follow")


def _sr_input_size(module: Module, size: tuple[int, int], generator: Mapping[str, Any]) -> tuple[int, int]:
    """The low resolution: the one whose layers resample it with the filters that are there."""
    taps = {int(key.split(".")[1]): len(t) for key, t in module.tensors.items() if key.startswith("resamples.")}
    for factor in range(1, _LARGEST_FACTOR + 1):
        if any(side % factor for side in size):
            continue
        lr = (size[0] // factor, size[1] // factor)
        scales = [layer.scale for layer in _schedule(size, lr, generator, generator["margin"])]
        if taps == {i: len(condition_filter(scale)) for i, scale in enumerate(scales) if scale != 1}:
            return lr
    raise RefusedError("it has filters for its low-resolution input that fit no factor between the resolutions")


def sr_discriminator_settings(module: Module, channels: int) -> dict[str, Any]:
    """Of a super-resolution discriminator of frames with so many colours."""
    tensors = module.tensors
    side = sr_side(tensors)
    width, inputs, *_ = _shape(tensors, f"b{side}.fromrgb.weight", 4)
    widest = max(_shape(tensors, name, 4)[0] for name in tensors if name.endswith(("conv1.weight", "conv.weight")))
    frames, rest = divmod(inputs, 2 * channels)
    if rest or not frames:
        raise RefusedError(f"its discriminator has {inputs} inputs, which are not the colours of pairs of frames")
    discriminator = {"channel_base": width * side, "channel_max": widest}
    return {"data": {"frames": frames}, "model": {"discriminator": discriminator}}


def sr_side(tensors: Mapping[str, Tensor]) -> int:
    """Samples a side at which a super-resolution discriminator begins."""
    sides = [int(match[1]) for name in tensors if (match := re.match(r"b(\d+)\.", name))]
    if not sides:
        raise RefusedError("its discriminator has no blocks")
    return max(sides)


# --- shapes -----------------------------------------------------------------------------------------


def _shape(tensors: Mapping[str, Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    tensor = tensors.get(name)
    if tensor is None or tensor.ndim != dimensions or 0 in tensor.shape:
        shape = "missing" if tensor is None else f"of shape {list(tensor.shape)}"
        raise RefusedError(f"its tensor {name} is {shape}, but one of {dimensions} dimensions was expected")
    return tuple(tensor.shape)


def _mapping(tensors: Mapping[str, Tensor], name: str) -> tuple[int, int, int]:
    """Inputs, outputs and layers of a mapping network, whose layers all have as many outputs."""
    width, inputs = _shape(tensors, name.format(0), 2)
    layers = 1
    while name.format(layers) in tensors:
        if _shape(tensors, name.format(layers), 2) != (width, width):
            raise RefusedError(f"its mapping network's layers are not all {width} wide")
        layers += 1
    return inputs, width, layers


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in tensors)


def _whole(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else default
