"""What a checkpoint holds, in plain values: for `lvgan inspect` and for model cards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lvgan import checkpoint as ckpt
from lvgan import config as cfg
from lvgan.errors import ConfigError

PUBLISHED = "published pickle"  # the source that `lvgan import-official` writes into the provenance
_STATE = ("generator", "discriminator", "optimizers", "ada", "loop")


def summarise(part: Mapping[str, Any]) -> dict[str, Any]:
    """The facts about a checkpoint of one stage (or one part of a bundle).

    ``training_state`` names what is there for training to go on with: nothing in a bundle or a weight file.
    ``fps`` is None where the settings are of no use.
    """
    data, training = part["config"]["data"], part["config"]["training"]
    facts: dict[str, Any] = {
        "stage": part["stage"],
        "step": part["step"],
        "steps": training.get("steps"),
        "lr": data.get("lr"),
        "hr": data.get("hr") if part["stage"] == "sr" else None,
        "channels": data.get("channels"),
        "clip_frames": data.get("frames"),
        "fps": _frame_rate(part),
        "generator_values": count(part["generator_ema"]),
        "discriminator_values": count(part["discriminator"]) if part.get("discriminator") else None,
        "training_state": [name for name in _STATE if part.get(name)],
        "augmentation": part["ada"].get("p", 0.0) if part.get("ada") else None,
        "data": data.get("path", ""),
        "fingerprint": part["data"].get("fingerprint", ""),
        "versions": part["versions"],
        "provenance": part.get("provenance") or {},
        "licence": ckpt.licence_of(part),
        "config": part["config"],
    }
    return facts


def count(tensors: Mapping[str, Any]) -> int:
    """How many numbers: parameters, and the few running means beside them."""
    return sum(tensor.numel() for tensor in tensors.values())


def _frame_rate(part: Mapping[str, Any]) -> float | None:
    try:
        return cfg.frame_rate(cfg.build(part["stage"], part["config"]))
    except ConfigError:
        return None
