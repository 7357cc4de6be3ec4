"""A published pickle -> one of our checkpoints."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lvgan import checkpoint as ckpt
from lvgan import config as cfg
from lvgan.errors import CheckpointError, ConfigError
from lvgan.files import content_hash
from lvgan.models import build
from lvgan.official import filters, names, settings
from lvgan.official.modules import Module, is_module, take_apart
from lvgan.official.streams import RefusedError
from lvgan.official.vocabulary import read
from lvgan.summary import PUBLISHED
from lvgan.version import __version__

LICENCE = (
    "The weights in this file were published by others (LongVideoGAN, NVIDIA) under terms of their own, which hold for "
    "them and for what is made from them whatever lvgan's licence says: read the terms that they came with before "
    "you use or pass on this file or its videos. Of the published data, mountain biking is under CC BY 4.0; "
    "horseback riding is for non-commercial research only."
)
_SHOWN = 8  # tensors that a message names
_KINDS = {  # a tensor that only this network has
    "lr generator": "spatial_input",
    "lr discriminator": "epilogue.conv1d_0.weight",
    "sr generator": "mapping.w_avg",
    "sr discriminator": "b4.out.weight",
}
_DAMAGE = (  # what a file that is not as it should be makes of Python, torch and our settings
    ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RuntimeError, EOFError,
    struct.error, zipfile.BadZipFile, RecursionError, MemoryError, ConfigError,
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """The networks of a published file. `average` is the generator to sample from."""

    stage: str
    average: Module
    generator: Module | None
    discriminator: Module | None
    step: int


def import_file(path: Path) -> dict[str, Any]:
    """A checkpoint of ours with the networks of a published pickle; nothing in the file is run.

    It holds ``generator_ema``; of a training snapshot also ``generator`` and ``discriminator``; ``provenance`` and
    ``licence`` as plain values. Its tensors lie on the file's bytes, read once: memory for one copy is needed.

    Raises:
        CheckpointError: no such file, damaged, holding more than published files do, or of a network that is not
            one of ours: a tensor left over on either side, a filter that differs, a setting that has no equal.
    """
    try:
        return _checkpoint(find_networks(_read(path)), path)
    except RefusedError as error:
        raise CheckpointError(f"{path} was refused: {_sentence(error)}; use a file as it was published") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}; check the path") from error
    except _DAMAGE as error:
        reason = _sentence(error, 200) or type(error).__name__
        raise CheckpointError(f"{path} is damaged, or no published pickle ({reason}); use another copy") from error


def _sentence(error: BaseException, longest: int = 900) -> str:
    """What an error says, on one line, without what a file's names could do to a terminal."""
    text = " ".join(str(error).split())
    return "".join(letter if letter.isprintable() else "?" for letter in text[:longest])


def _read(path: Path) -> Any:
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise RefusedError("it is a pipe or a device, but a file was expected")
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if not size:
            raise RefusedError("it is empty")
        return read(file, size)


def find_networks(value: Any) -> Found:
    """The networks among what a pickle holds: a generator alone, or a dict with ``G_ema``, ``G`` and ``D``.

    Raises:
        RefusedError: there is no generator of ours among it.
    """
    parts = {"G_ema": value} if is_module(value) else value if isinstance(value, dict) else {}
    modules = {key: _without_wrapper(take_apart(part)) for key, part in parts.items() if is_module(part)}
    kinds = {key: _kind(module) for key, module in modules.items()}
    generators = [key for key in ("G_ema", "G") if kinds.get(key, "").endswith(" generator")]
    generators = generators or [key for key, kind in kinds.items() if kind.endswith(" generator")]
    if not generators:
        held = ", ".join([key[:40] for key in parts if isinstance(key, str)][:_SHOWN]) or type(value).__name__
        raise RefusedError(f"it holds no generator of low or super-resolution (but {held})")
    average = generators[0]
    stage = kinds[average].split()[0]
    raw, judge = modules.get("G") if average == "G_ema" else None, modules.get("D")
    for key, kind in (("G", "generator"), ("D", "discriminator")):
        if key in modules and kinds[key] != f"{stage} {kind}":
            raise RefusedError(f"its {key} is no {kind} of the same kind as its {average}")
    steps = (parts.get(key) for key in ("step", "cur_step") if parts is value)
    step = next((step for step in steps if isinstance(step, int) and 0 <= step < 2**40), 0)
    return Found(stage, modules[average], raw, judge, step)


def _without_wrapper(module: Module) -> Module:
    """The module that has the networks' tensors, if others only wrap it."""
    for anchor in _KINDS.values():
        prefixes = [name[: -len(anchor)] for name in module.tensors if ("." + name).endswith("." + anchor)]
        if len(prefixes) == 1 and all(name.startswith(prefixes[0]) for name in module.tensors):
            prefix = prefixes[0]
            tensors = {name.removeprefix(prefix): tensor for name, tensor in module.tensors.items()}
            inner = {n.removeprefix(prefix): v for n, v in module.settings.items() if n.startswith(prefix)}
            return Module(module.name, tensors, {**module.settings, **inner})
    return module


def _kind(module: Module) -> str:
    return next((kind for kind, anchor in _KINDS.items() if anchor in module.tensors), "")


def _checkpoint(found: Found, path: Path) -> dict[str, Any]:
    make = _lr if found.stage == "lr" else _sr
    config, weights = make(found)
    provenance = {
        "source": PUBLISHED,
        "file": path.name,
        "sha256": content_hash(path),
        "networks": {key: module.name for key, module in _networks(found).items()},
        "imported_by": f"lvgan {__version__}",
    }
    sizes = {key: str(size) for key, size in (("lr", config.data.lr), ("hr", config.data.hr)) if size is not None}
    data = {**sizes, "fingerprint": ""}  # of the data that it was trained on nothing is known
    contents = {"step": found.step, "config": cfg.to_dict(config), **weights, "data": data}
    return ckpt.new_checkpoint(found.stage, **contents, provenance=provenance, licence=LICENCE)


def _networks(found: Found) -> dict[str, Module]:
    """By the name that they have in our checkpoints."""
    parts = {"generator_ema": found.average, "generator": found.generator, "discriminator": found.discriminator}
    return {key: module for key, module in parts.items() if module is not None}


def _lr(found: Found) -> tuple[cfg.Config, dict[str, dict[str, Tensor]]]:
    values = settings.lr_generator_settings(found.average)
    if found.discriminator is not None:
        values = cfg.merge(values, settings.lr_discriminator_settings(found.discriminator))
    config = _config("lr", values)
    assert isinstance(config, cfg.LrConfig)
    bank, weights = config.model.generator, {}
    known = filters.lr_generator_filters(bank.filters, bank.footprint_min, bank.footprint_max)
    for key, module in _networks(found).items():
        if key == "discriminator":
            judge = _skeleton(lambda: build.lr_discriminator(config))
            weights[key] = fit(module, judge, names.lr_discriminator_name, filters.lr_discriminator_filters)
        else:
            rename = partial(names.lr_generator_name, temporal_layers=settings.temporal_layers(module.tensors))
            weights[key] = fit(module, _skeleton(lambda: build.lr_generator(config)), rename, known)
    return config, weights


def _sr(found: Found) -> tuple[cfg.Config, dict[str, dict[str, Tensor]]]:
    values = settings.sr_generator_settings(found.average)
    if found.discriminator is not None:
        channels = values["data"]["channels"]
        values = cfg.merge(values, settings.sr_discriminator_settings(found.discriminator, channels))
    config = _config("sr", values)
    assert isinstance(config, cfg.SrConfig)
    weights = {}
    for key, module in _networks(found).items():
        if key == "discriminator":
            rename = partial(names.sr_discriminator_name, size=settings.sr_side(module.tensors))
            judge = _skeleton(lambda: build.sr_discriminator(config))
            weights[key] = fit(module, judge, rename, filters.sr_discriminator_filters(judge))
        else:
            generator = _skeleton(lambda: build.sr_generator(config))
            weights[key] = fit(module, generator, names.sr_generator_name, filters.sr_generator_filters(generator))
    return config, weights


def _config(stage: str, values: Mapping[str, Any]) -> cfg.Config:
    try:
        return cfg.build(stage, values)
    except ConfigError as error:
        raise RefusedError(f"its network cannot be built here ({error})") from error


class _Undrawn(TorchFunctionMode):
    """Leaves weights as they come, in memory that nothing touches, and that so is not taken.

    (Device "meta" would load 70 MB of torch for it, and a second long.)
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (torch.empty if func is torch.randn else func)(*args, **(kwargs or {}))


def _skeleton(make: Callable[[], Any]) -> Any:
    """A network without memory for its weights."""
    try:
        with _Undrawn():
            return make()
    except (ConfigError, RuntimeError, ValueError) as error:
        raise RefusedError(f"its network cannot be built here ({_sentence(error, 200)})") from error


def fit(module: Module, network: nn.Module, rename: Callable[[str], str], known: filters.Filters) -> dict[str, Tensor]:
    """The state of `network` out of a published module, every tensor of which is used exactly once.

    Raises:
        RefusedError: tensors are left over on either side (all are counted, some named), a filter or a fixed
            setting differs.
    """
    settings.check_fixed(module)
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    state: dict[str, Tensor] = {}
    left: list[str] = []
    for name, tensor in module.tensors.items():
        ours = rename(name)
        if not ours:
            continue
        if ours == "constant" and tensor.ndim == 5:
            tensor = tensor[0]
        if ours in state or wanted.get(ours) != tuple(tensor.shape) or not tensor.is_floating_point():
            left.append(f"{name[:80]} {_shown(tensor.shape)}")
        else:
            state[ours] = tensor.detach().float().contiguous()
    missing = [f"{name} {_shown(shape)}" for name, shape in wanted.items() if name not in state]
    if left or missing:
        raise RefusedError(
            f"its {module.name} does not fit the network that its settings describe here; "
            f"left over in the file: {_listed(left)}; not found for ours: {_listed(missing)}"
        )
    for name, tensor in state.items():
        if not torch.isfinite(tensor.sum()):  # one pass, and no memory
            raise RefusedError(f"its {module.name[:60]} has weights that are no numbers (for our {name})")
    filters.check_filters({name: t for name, t in module.tensors.items() if not rename(name)}, known)
    return {name: state[name] for name in wanted}


def _shown(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _listed(lines: list[str]) -> str:
    more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return (", ".join(lines[:_SHOWN]) or "nothing") + more
