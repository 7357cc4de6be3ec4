"""Start from another run's weights, and keep parts of the networks as they are (freeze and transfer)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lvgan import checkpoint as ckpt
from lvgan.errors import CheckpointError, ConfigError
from lvgan.files import content_hash
from lvgan.training.task import Task

_SHOWN = 8  # misfits that a message names


def frozen_parameters(task: Task) -> list[nn.Parameter]:
    """The parameters that ``training.freeze`` names: each pattern is the beginning of a dotted name.

    Raises:
        ConfigError: a pattern that no parameter fits, or a network with nothing left to train.
    """
    patterns = task.config.training.freeze
    named = {f"{part}.{name}": p for part, network in _networks(task) for name, p in network.named_parameters()}
    frozen = {name for name in named for pattern in patterns if _begins(name, pattern)}
    for pattern in patterns:
        if not any(_begins(name, pattern) for name in named):
            choices = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in named))
            raise ConfigError(
                f"training.freeze holds '{pattern}', but no parameter's name begins so; there are {', '.join(choices)}"
            )
    for part, _ in _networks(task):
        if all(name in frozen for name in named if name.startswith(part + ".")):
            raise ConfigError(f"training.freeze holds all of the {part}, which leaves nothing to learn; freeze less")
    return [named[name] for name in sorted(frozen)]


def _networks(task: Task) -> list[tuple[str, nn.Module]]:
    return [("generator", task.generator), ("discriminator", task.discriminator)]


def _begins(name: str, pattern: str) -> bool:
    return name == pattern or name.startswith(pattern.rstrip(".") + ".")


def start_from(task: Task, average: nn.Module, path: Path) -> tuple[dict[str, Any], str]:
    """Copy the weights of a checkpoint (or bundle, or a run's newest) that fit into a task's networks and its average.

    A tensor fits if name and shape do. Optimisers and statistics stay fresh.

    Returns:
        what to keep in checkpoints about it, and a message that lists what did not fit.

    Raises:
        CheckpointError: of another stage, damaged, or not one tensor of the generator fits.
    """
    stage, path = task.config.stage, ckpt.find(path)
    loaded = ckpt.load(path)
    part = loaded[stage] if loaded["stage"] == "bundle" else ckpt.check_stage(loaded, path, stage)
    averaged = part["generator_ema"]
    sources = {"generator": part.get("generator", averaged), "generator_ema": averaged}
    targets = {"generator": task.generator, "generator_ema": average}
    if "discriminator" in part:
        sources["discriminator"], targets["discriminator"] = part["discriminator"], task.discriminator
    counts, misfits = [], []
    for name, network in targets.items():
        taken, total, missed = _copy(sources[name], network)
        if name == "generator" and not taken:
            raise CheckpointError(
                f"none of the {total} tensors of the generator has the shape that it has in {path} "
                f"({'; '.join(missed[:_SHOWN])}); start from a checkpoint of a network like this one"
            )
        if name != "generator_ema":
            counts.append(f"{taken} of {total} tensors of the {name}")
            misfits += [f"{name}.{line}" for line in missed]
    if "discriminator" not in targets:
        counts.append("no discriminator, which it lacks")
    message = f"starting from {path} at step {part['step']}: took {' and '.join(counts)}"
    if misfits:
        more = f"; and {len(misfits) - _SHOWN} more" if len(misfits) > _SHOWN else ""
        message += f"; not taken: {'; '.join(misfits[:_SHOWN])}{more}"
    record = {"path": str(path), "step": part["step"], "sha256": content_hash(path), "not_taken": misfits}
    if ckpt.licence_of(part):  # others' weights: what was made of them, of that again, stays bound to their terms
        before = part.get("provenance") or {}
        record |= {"licence": ckpt.licence_of(part), "published": before.get("published", before)}
    return record, message


def _copy(source: dict[str, Tensor], network: nn.Module) -> tuple[int, int, list[str]]:
    """Copy what fits; how many, of how many, and one line for each that does not."""
    own = network.state_dict()
    missed = []
    for name, tensor in own.items():
        other = source.get(name)
        if other is None:
            missed.append(f"{name} {_shape(tensor)}, absent there")
        elif other.shape != tensor.shape:
            missed.append(f"{name} {_shape(tensor)}, there {_shape(other)}")
        else:
            tensor.copy_(other)
    # What only the checkpoint has.
    extra = [f"{name}, absent here" for name in source if name not in own]
    return len(own) - len(missed), len(own), missed + extra


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
