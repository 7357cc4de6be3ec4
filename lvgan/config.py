"""Settings of a training run: frozen dataclasses, presets, YAML in and out, validation.

The defaults are the paper's. A configuration is resolved from, in this order: a preset, a YAML
file, ``key=value`` overrides, command-line flags. The resolved one is kept with the run
(``config.yaml``) and in every checkpoint.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml

from lvgan.errors import ConfigError
from lvgan.sizes import Size

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
PRESETS = ("paper", "small", "tiny")


def _at_least(default: Any, low: float, high: float | None = None, choices: Sequence[str] = ()) -> Any:
    return field(default=default, metadata={"min": low, "max": high, "choices": choices})


def _one_of(default: str, *others: str) -> Any:
    return field(default=default, metadata={"choices": (default, *others)})


# --- low resolution -------------------------------------------------------------------------------


@dataclass(frozen=True)
class LrData:
    """Training clips of the low-resolution network (spec 2-training)."""

    path: str = ""
    lr: Size | None = None  # None: what the data holds
    hr: Size | None = None
    channels: int = _at_least(3, 1, 4)
    frames: int = _at_least(128, 8, 4096)
    flip: bool = True
    sampling: str = _one_of("video", "frame")
    stride: int = _at_least(1, 1, 1000)  # use every n-th frame
    fps: float | None = _at_least(None, 0.1, 1000)  # of the data, before the stride; None: what it holds, or 30
    cache: str = _one_of("auto", "memory", "off")  # decoded low-resolution frames (lvgan.data.cache)


@dataclass(frozen=True)
class LrGeneratorConfig:
    """Low-resolution generator (paper section 3.2, spec 1-models A)."""

    noise_channels: int = _at_least(8, 1, 1024)
    filters: int = _at_least(128, 1, 4096)
    footprint_min: float = _at_least(100, 4, 1e6)
    footprint_max: float = _at_least(5000, 4, 1e6)
    latent: int = _at_least(1024, 1)
    mapping_layers: int = _at_least(2, 1, 16)
    input_channels: int = _at_least(512, 1)
    blocks: tuple[str, ...] = (
        "512 t", "512 t s", "512 t", "512 t s", "256 t", "256",
        "128 1x3x3 s", "128 1x3x3", "64 1x3x3 s", "64 1x3x3",
    )  # fmt: skip


@dataclass(frozen=True)
class LrDiscriminatorConfig:
    """Low-resolution discriminator (spec 1-models B)."""

    stem: int = _at_least(32, 1)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    head: int = _at_least(1024, 1)


@dataclass(frozen=True)
class LrModel:
    """The two low-resolution networks."""

    generator: LrGeneratorConfig = LrGeneratorConfig()
    discriminator: LrDiscriminatorConfig = LrDiscriminatorConfig()


# --- super-resolution -----------------------------------------------------------------------------


@dataclass(frozen=True)
class SrData:
    """Training clips of the super-resolution network: `frames`, and `context` frames a side."""

    path: str = ""
    lr: Size | None = None
    hr: Size | None = None
    channels: int = _at_least(3, 1, 4)
    frames: int = _at_least(4, 1, 64)
    context: int = _at_least(4, 0, 32)
    flip: bool = True
    sampling: str = _one_of("video", "frame")
    stride: int = _at_least(1, 1, 1000)  # use every n-th frame
    fps: float | None = _at_least(None, 0.1, 1000)  # of the data, before the stride; None: what it holds, or 30
    cache: str = _one_of("auto", "memory", "off")  # decoded low-resolution frames (lvgan.data.cache)


@dataclass(frozen=True)
class SrGeneratorConfig:
    """Super-resolution generator (paper section 3.3, spec 1-models C)."""

    z_dim: int = _at_least(512, 1)
    w_dim: int = _at_least(512, 1)
    mapping_layers: int = _at_least(2, 1, 16)
    layers: int = _at_least(14, 4, 64)
    critical: int = _at_least(2, 1, 8)
    channel_base: int = _at_least(16384, 1)
    channel_max: int = _at_least(512, 1)
    margin: int = _at_least(10, 0, 64)
    fourier: bool = False  # StyleGAN3's input of fixed waves, beside the low-resolution frames


@dataclass(frozen=True)
class SrDiscriminatorConfig:
    """Super-resolution discriminator (spec 1-models D)."""

    channel_base: int = _at_least(16384, 1)
    channel_max: int = _at_least(512, 1)


@dataclass(frozen=True)
class SrModel:
    """The two super-resolution networks."""

    generator: SrGeneratorConfig = SrGeneratorConfig()
    discriminator: SrDiscriminatorConfig = SrDiscriminatorConfig()


# --- training -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """What both stages share. Rates are Adam's learning rates; intervals are in steps."""

    steps: int = _at_least(100_000, 0)
    batch: int = _at_least(64, 1)
    micro_batch: int | None = _at_least(0, 0)  # clips in memory at once; 0: the whole batch; auto: what fits
    precision: str = field(default="fp32", metadata={"choices": PRECISIONS})
    checkpoint_activations: bool = False  # compute activations again instead of keeping them
    channels_last: bool = False
    compile: bool = False
    seed: int = _at_least(0, 0, 2**63 - 1)
    generator_rate: float = _at_least(0.003, 0)
    discriminator_rate: float = _at_least(0.002, 0)
    warmup: int = _at_least(0, 0)
    beta2: float = _at_least(0.99, 0, 1)
    r1_gamma: float = _at_least(1.0, 0)
    r1_every: int = _at_least(16, 1)
    ema_decay: float = _at_least(0.99985, 0, 1)
    ema_ramp: int = _at_least(25_000, 0)
    log_every: int = _at_least(10, 1)
    sample_every: int = _at_least(1000, 1)
    checkpoint_every: int = _at_least(1000, 1)
    keep: int = _at_least(5, 0)  # newest checkpoints that stay; 0: all
    init: str = ""  # checkpoint whose weights a new run starts from
    freeze: tuple[str, ...] = ()  # parameters that are not trained, such as generator.mapping (all that begin so)
    metric_clips: int = _at_least(64, 0, 10_000)  # generated clips that are measured at each preview; 0: none
    wandb: str = ""  # project at Weights & Biases that the log is sent to; empty: none


@dataclass(frozen=True)
class LrTraining(Training):
    """Low-resolution training."""

    micro_batch: int | None = _at_least(8, 0)
    diffaug: tuple[str, ...] = field(
        default=("color", "translation", "cutout"),
        metadata={"choices": ("color", "translation", "cutout")},
    )
    time_stretch: float = _at_least(1.0, 0, 4)  # largest |log2| of the stretch; 0: none


@dataclass(frozen=True)
class SrTraining(Training):
    """Super-resolution training."""

    steps: int = _at_least(275_000, 0)
    batch: int = _at_least(32, 1)
    micro_batch: int | None = _at_least(2, 0)
    discriminator_rate: float = _at_least(0.003, 0)
    ada_target: float = _at_least(0.6, -1, 1)
    ada_rate: float = _at_least(0.000125, 0, 1)
    ada_every: int = _at_least(4, 1)
    ada_max: float = _at_least(0.5, 0, 1)
    condition_augment: float = _at_least(0.5, 0, 1)  # probability of each part of the transform
    condition_hide: float = _at_least(0.9, 0, 1)  # probability that the discriminator sees no low resolution


@dataclass(frozen=True)
class LrConfig:
    """A low-resolution run."""

    stage: str = field(default="lr", metadata={"choices": ("lr",)})
    data: LrData = LrData()
    model: LrModel = LrModel()
    training: LrTraining = LrTraining()


@dataclass(frozen=True)
class SrConfig:
    """A super-resolution run."""

    stage: str = field(default="sr", metadata={"choices": ("sr",)})
    data: SrData = SrData()
    model: SrModel = SrModel()
    training: SrTraining = SrTraining()


Config = LrConfig | SrConfig
USUAL_FPS = 30.0  # frames a second, where nothing says how many
STAGES: dict[str, type[LrConfig] | type[SrConfig]] = {"lr": LrConfig, "sr": SrConfig}

# Settings that a run may change when it goes on: they do not touch what has been learnt.
# (The last four change rounding alone, and a run may move to another machine.)
FREE_KEYS = frozenset(
    (
        "data.cache",
        "data.fps",
        "training.steps",
        "training.micro_batch",
        "training.log_every",
        "training.sample_every",
        "training.checkpoint_every",
        "training.keep",
        "training.metric_clips",
        "training.wandb",
        "training.precision",
        "training.checkpoint_activations",
        "training.channels_last",
        "training.compile",
    )
)

_T = TypeVar("_T")


def frame_rate(config: Config) -> float:
    """Frames a second of what a network makes: the data's, every n-th of which it has seen."""
    return (config.data.fps or USUAL_FPS) / config.data.stride


# --- plain values <-> dataclasses -----------------------------------------------------------------


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain values (str, int, float, bool, list, None), as YAML and checkpoints hold them."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Size):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def from_dict(cls: type[_T], values: Mapping[str, Any], prefix: str = "") -> _T:
    """Build a configuration dataclass from nested plain values.

    Raises:
        ConfigError: an unknown key, a value of the wrong kind or out of range; the message
            names the key and the nearest legal one.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"'{prefix.rstrip('.')}' holds {values!r}, but settings inside it were expected")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    built: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            near = difflib.get_close_matches(str(key), list(fields), n=1, cutoff=0.4)
            hint = f"did you mean '{prefix}{near[0]}'?" if near else f"known here: {', '.join(fields)}"
            raise ConfigError(f"unknown setting '{prefix}{key}'; {hint}")
        built[key] = _typed(hints[key], value, prefix + key, fields[key].metadata)
    return cls(**built)


def _typed(kind: Any, value: Any, key: str, limits: Mapping[str, Any]) -> Any:
    """`value` as `kind`, checked against `limits`."""
    if isinstance(kind, types.UnionType):
        if value is None or value == "auto":
            return None
        kind, limits = typing.get_args(kind)[0], {**limits, "also": " or auto"}
    if dataclasses.is_dataclass(kind):
        return from_dict(typing.cast(type, kind), value, key + ".")
    if kind is Size:
        return value if isinstance(value, Size) else Size.parse(str(value))
    if typing.get_origin(kind) is tuple:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{key} is {value!r}, but a list was expected")
        item = typing.get_args(kind)[0]
        return tuple(_typed(item, v, key, {"min": 1, **limits} if item is int else limits) for v in value)
    if kind is str and isinstance(value, bool):
        value = _word(value, key, limits)
    return _checked(_scalar(kind, value, key, limits.get("also", "")), key, limits)


def _word(value: bool, key: str, limits: Mapping[str, Any]) -> str:
    """The word that YAML 1.1 took for a boolean: ``cache: off`` is read as False."""
    words = ("on", "yes", "true") if value else ("off", "no", "false")
    choices = limits.get("choices") or ()
    if not choices:
        raise ConfigError(f"{key} is {'/'.join(words)}, but text was expected; put it into quotes: '\"{words[0]}\"'")
    return next((word for word in words if word in choices), words[0])


def _scalar(kind: type, value: Any, key: str, also: str) -> Any:
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise ConfigError(f"{key} is {value!r}, but true or false was expected")
    if kind is str:
        return "" if value is None else str(value)  # `--set training.wandb=`
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
        if kind is float:
            return number
        if number.is_integer():
            return int(value) if isinstance(value, int) else int(number)
        raise ConfigError(f"{key} is {value!r}, but a whole number was expected; the nearest is {round(number)}")
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{key} is {value!r}, but a number{also} was expected") from None


def _checked(value: Any, key: str, limits: Mapping[str, Any]) -> Any:
    low, high, choices = limits.get("min"), limits.get("max"), limits.get("choices")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ConfigError(f"{key} is {value}, but a finite number was expected; use {low or 0} or more")
        if low is not None and value < low:
            raise ConfigError(f"{key} is {value}, but at least {low} is needed; use {low} or more")
        if high is not None and value > high:
            raise ConfigError(f"{key} is {value}, but at most {high} is possible; use {high} or less")
    if choices and value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0)
        raise ConfigError(f"{key} is '{value}', but one of {', '.join(choices)} was expected; nearest: {near[0]}")
    return value


# --- presets, files, overrides --------------------------------------------------------------------


def _load_yaml(text: str, name: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not YAML ({str(error).splitlines()[0]}); write 'key: value' lines") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{name} holds a {type(values).__name__}, but 'key: value' lines were expected")
    return values


def _stage_part(values: dict[str, Any], stage: str, name: str) -> dict[str, Any]:
    """The part of a file that concerns `stage`: a file may be flat or have ``lr:`` and ``sr:`` parts."""
    if set(values) & set(STAGES):
        extra = set(values) - set(STAGES)
        if extra:
            raise ConfigError(f"{name} mixes lr:/sr: parts with '{sorted(extra)[0]}'; put that inside a part")
        return dict(values.get(stage) or {})
    if values.get("stage", stage) != stage:
        raise ConfigError(f"{name} is a configuration for the '{values['stage']}' stage, but '{stage}' was expected")
    return values


def load_preset(name: str, stage: str) -> dict[str, Any]:
    """The settings of a preset for one stage, as nested plain values."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0)[0]
        raise ConfigError(f"there is no preset '{name}'; the presets are {', '.join(PRESETS)} (nearest: {near})")
    text = resources.files("lvgan.presets").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return _stage_part(_load_yaml(text, name), stage, name)


def load_file(path: Path, stage: str) -> dict[str, Any]:
    """The settings in a YAML file for one stage, as nested plain values."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not a text file; a YAML file of settings was expected") from None
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}; check the path") from None
    return _stage_part(_load_yaml(text, str(path)), stage, str(path))


def parse_override(text: str) -> dict[str, Any]:
    """``"training.steps=20"`` as nested plain values."""
    key, sep, value = text.partition("=")
    if not sep or not key.strip():
        raise ConfigError(f"--set {text!r} was given, but key=value is expected, such as training.steps=1000")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        parsed = value
    for part in reversed(key.strip().split(".")):
        parsed = {part: parsed}
    return typing.cast(dict[str, Any], parsed)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the nested values of `over` put on top."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def build(stage: str, values: Mapping[str, Any]) -> Config:
    """A validated configuration of `stage` from nested plain values."""
    config = from_dict(STAGES[stage], values)
    if isinstance(config, LrConfig):
        generator = config.model.generator
        if generator.footprint_max < generator.footprint_min:
            raise ConfigError(
                f"model.generator.footprint_max is {generator.footprint_max:g}, less than footprint_min "
                f"{generator.footprint_min:g}; use {generator.footprint_min:g} or more"
            )
    return config


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``("training.steps", 20)`` for every leaf."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def differences(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """Settings in which `a` and `b` differ, other than those a run may change when it goes on."""
    left, right = dict(flatten(to_dict(a))), dict(flatten(to_dict(b)))
    return {
        key: (left.get(key), right.get(key))
        for key in sorted({*left, *right})
        if key not in FREE_KEYS and left.get(key) != right.get(key)
    }


def to_yaml(config: Config) -> str:
    """The configuration as YAML that :func:`load_file` reads back."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, default_flow_style=None, width=100)
