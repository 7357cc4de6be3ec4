"""Networks from configurations and checkpoints."""

from __future__ import annotations

from typing import Any

from torch import nn

from lvgan import config as cfg
from lvgan.errors import CheckpointError, ConfigError
from lvgan.models.lr_discriminator import LrDiscriminator
from lvgan.models.lr_generator import BlockSpec, LrGenerator
from lvgan.models.sr_discriminator import SrDiscriminator
from lvgan.models.sr_generator import SrGenerator
from lvgan.sizes import Size


def _sizes(config: cfg.Config) -> tuple[Size, Size]:
    lr, hr = config.data.lr, config.data.hr
    if lr is None or hr is None:
        raise ConfigError("data.lr and data.hr are not set; name the sizes, such as data.lr=64x64 data.hr=256x256")
    return lr, hr


def lr_generator(config: cfg.LrConfig) -> LrGenerator:
    """The low-resolution generator of a configuration whose sizes are set."""
    size = config.data.lr
    if size is None:
        raise ConfigError("data.lr is not set; name the size of the frames, such as data.lr=64x64")
    g = config.model.generator
    return LrGenerator(
        size.height,
        size.width,
        channels=config.data.channels,
        noise_channels=g.noise_channels,
        filters=g.filters,
        footprint_min=g.footprint_min,
        footprint_max=g.footprint_max,
        latent=g.latent,
        mapping_layers=g.mapping_layers,
        input_channels=g.input_channels,
        blocks=tuple(BlockSpec.parse(block) for block in g.blocks),
    )


def lr_discriminator(config: cfg.LrConfig) -> LrDiscriminator:
    """The low-resolution discriminator of a configuration whose sizes are set."""
    size = config.data.lr
    if size is None:
        raise ConfigError("data.lr is not set; name the size of the frames, such as data.lr=64x64")
    d = config.model.discriminator
    return LrDiscriminator(
        config.data.frames,
        size.height,
        size.width,
        channels=config.data.channels,
        stem=d.stem,
        widths=d.widths,
        head=d.head,
    )


def sr_generator(config: cfg.SrConfig) -> SrGenerator:
    """The super-resolution generator of a configuration whose sizes are set."""
    lr, hr = _sizes(config)
    g = config.model.generator
    return SrGenerator(
        hr.height,
        hr.width,
        lr.height,
        lr.width,
        channels=config.data.channels,
        context=config.data.context,
        z_dim=g.z_dim,
        w_dim=g.w_dim,
        mapping_layers=g.mapping_layers,
        layers=g.layers,
        critical=g.critical,
        channel_base=g.channel_base,
        channel_max=g.channel_max,
        margin=g.margin,
        fourier=g.fourier,
    )


def sr_discriminator(config: cfg.SrConfig) -> SrDiscriminator:
    """The super-resolution discriminator of a configuration whose sizes are set."""
    lr, hr = _sizes(config)
    d = config.model.discriminator
    return SrDiscriminator(
        hr.height,
        hr.width,
        lr.height,
        lr.width,
        channels=config.data.channels,
        frames=config.data.frames,
        channel_base=d.channel_base,
        channel_max=d.channel_max,
    )


def load_weights(network: nn.Module, state: dict[str, Any], name: str) -> None:
    """Load tensors by name; every name and shape has to fit.

    Raises:
        CheckpointError: they do not; the first misfit is named.
    """
    try:
        network.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(
            f"the weights of {name} do not fit the network that its configuration describes ({reason}); "
            "use an undamaged checkpoint"
        ) from error


def generator_of(checkpoint: dict[str, Any], name: str = "the checkpoint") -> LrGenerator | SrGenerator:
    """The averaged (EMA) generator that a checkpoint holds, in evaluation mode, on the CPU."""
    network: LrGenerator | SrGenerator
    try:
        config = cfg.build(checkpoint["stage"], checkpoint["config"])
        network = lr_generator(config) if isinstance(config, cfg.LrConfig) else sr_generator(config)
    except ConfigError as error:
        raise CheckpointError(f"{name} holds settings that no network can be built from ({error})") from error
    load_weights(network, checkpoint["generator_ema"], name)
    return network.eval().requires_grad_(False)
