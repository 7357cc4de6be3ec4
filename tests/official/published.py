"""Pickles in the published form, written by the tests: the same reduce call, names and fields, toy classes."""

from __future__ import annotations

import pickle
import re
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from scipy.signal import firwin
from torch import Tensor, nn

from lvgan.models.lr_discriminator import DiscriminatorBlock, LrDiscriminator
from lvgan.models.lr_generator import LrGenerator

SOURCE = "import os\nos.environ['LVGAN_SOURCE_RAN'] = '1'\nraise RuntimeError('source text in a pickle was run')\n"


class Published(nn.Module):
    """A module that pickles as published ones do: as its class's source text, its name and its state."""

    def __init__(self, class_name: str, **fields: Any) -> None:
        super().__init__()
        self._class_name = class_name
        self._init_args = ()
        self._init_kwargs = dict(fields)
        for name, value in fields.items():
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        state = {key: value for key, value in self.__dict__.items() if key != "_class_name"}
        meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": self._class_name, "state": state}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,), None, None, None


class EasyDict(dict):  # type: ignore[type-arg]
    """A dict whose entries are attributes too."""


@contextmanager
def published_modules() -> Iterator[None]:
    """The modules whose names the pickles hold; they cannot be imported elsewhere."""
    persistence = types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta: dict[str, Any]) -> None:
        raise RuntimeError("an object was rebuilt")

    _reconstruct_persistent_obj.__module__ = persistence.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    util = types.ModuleType("dnnlib.util")
    util.EasyDict = EasyDict  # type: ignore[attr-defined]
    EasyDict.__module__ = util.__name__
    made = {"torch_utils": types.ModuleType("torch_utils"), "dnnlib": types.ModuleType("dnnlib")}
    made |= {"torch_utils.persistence": persistence, "dnnlib.util": util}
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]


def dumps(value: Any, protocol: int = 4) -> bytes:
    """Pickle in the published form."""
    with published_modules():
        return pickle.dumps(value, protocol)


def tree(
    class_name: str, tensors: Mapping[str, Tensor], fields: Mapping[str, Mapping[str, Any]] | None = None
) -> Published:
    """A module tree with these parameters and buffers, by dotted name.

    `fields` are constructor arguments by dotted name of the module, "" for the whole. Filters and running
    statistics become buffers; the rest parameters. Children with numbers for names are in a ModuleList.
    """
    fields = fields or {}
    root = Published(class_name, **fields.get("", {}))
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        module: nn.Module = root
        for depth, part in enumerate(path):
            if part not in module._modules:
                inner = Published(f"{part.title()}Layer", **fields.get(".".join(path[: depth + 1]), {}))
                listed = depth + 1 < len(path) and path[depth + 1].isdecimal()
                module._modules[part] = nn.ModuleList() if listed else inner
            child = module._modules[part]
            assert child is not None
            module = child
        if any(word in last for word in ("filter", "magnitude_ema", "w_avg", "output_scale", "features")):
            module.register_buffer(last, tensor)
        else:
            module.register_parameter(last, nn.Parameter(tensor))
    return root


# --- our networks under the published names ---------------------------------------------------------


def lr_generator_tensors(network: LrGenerator) -> dict[str, Tensor]:
    """Of a low-resolution generator, with its filters."""
    state = network.state_dict()
    temporal = sum(spec.kernel_t == 3 for spec in network.specs)
    tensors = {"spatial_input": state["constant"][None]}
    for index in range(len(network.specs)):
        layer = f"temporal_layers.{index}" if index < temporal else f"spatial_layers.{index - temporal}"
        for name in ("weight_0", "weight_1", "weight_skip", "bias_0", "bias_1"):
            tensors[f"{layer}.{name}"] = state[f"blocks.{index}.{name}"]
        for n in (0, 1):
            for name in ("weight", "bias"):
                tensors[f"{layer}.affine_{n}.{name}"] = state[f"blocks.{index}.affine_{n}.{name}"]
            magnitude = state[f"blocks.{index}.magnitude_{n}.mean_square"]
            tensors[f"{layer}.input_magnitude_ema_{n}.magnitude_ema"] = magnitude
        spec = network.specs[index]
        for axis, there in (("temporal", spec.up_t), ("spatial", spec.up_s)):
            if there:
                tensors[f"{layer}.{axis}_upsample.filter"] = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    for name in ("weight", "bias", "affine.weight", "affine.bias"):
        tensors[f"to_rgb.{name}"] = state[f"rgb.{name}"]
    tensors["to_rgb.input_magnitude_ema.magnitude_ema"] = state["rgb.magnitude.mean_square"]
    taps = network.bank.filters  # [F, K], of unit energy; published: of unit sum, and a scale
    sums = taps.double().sum(1, keepdim=True)
    tensors["temporal_emb.output_scale"] = sums.float()[None]
    tensors["temporal_emb.blur_filters"] = (taps / sums).float()[:, None]
    for index in range(len(network.mapping.layers)):
        for name in ("weight", "bias"):
            tensors[f"latent_mapping.layer_{index}.{name}"] = state[f"mapping.layers.{index}.{name}"]
    tensors["temporal_downsample_latent.filter"] = torch.tensor(firwin(12, cutoff=1, width=6, fs=8)).float()
    for name in ("weight", "bias"):
        tensors[f"w_to_temp_input.{name}"] = state[f"input.{name}"]
    return tensors


def lr_generator_fields(network: LrGenerator, footprints: tuple[float, float]) -> dict[str, dict[str, Any]]:
    """The settings that the tensors do not give: the frames' size and the rates of the noise's filters."""
    temporal = sum(spec.kernel_t == 3 for spec in network.specs)
    last = f"spatial_layers.{len(network.specs) - temporal - 1}"
    height, width = network.size
    low, high = (2 * footprint for footprint in footprints)
    return {
        "": {"seq_length": 128, "spatial_input_std": 1.0},
        last: {"out_height": height, "out_width": width},
        "temporal_emb": {"min_sampling_rate": low, "max_sampling_rate": high, "cutoff": 2.0},
    }


def published_lr_generator(network: LrGenerator, footprints: tuple[float, float]) -> Published:
    """A low-resolution generator as it is published."""
    return tree("VideoGenerator", lr_generator_tensors(network), lr_generator_fields(network, footprints))


def published_lr_discriminator(judge: LrDiscriminator) -> Published:
    """A low-resolution discriminator as it is published."""
    theirs = {"stem": "conv_vid", "skip": "conv_skip", "convs.": "conv1d_", "hidden": "linear_0", "logit": "linear_1"}
    tensors = {}
    for name, tensor in judge.state_dict().items():
        linear = "hidden" in name or "logit" in name
        for ours, published in theirs.items():
            name = name.replace(ours, published)
        tensors[name if linear else re.sub(r"\bbias$", "_bias", name)] = tensor
    for index, block in enumerate(judge.blocks):
        assert isinstance(block, DiscriminatorBlock)
        if block.down_s or block.down_t:
            for part in ("conv_1", "conv_skip"):
                tensors[f"blocks.{index}.{part}.downsample._downsample_filter"] = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return tree("VideoDiscriminator", tensors, {"": {"seq_length": judge.shape[1]}})
