"""A generator as ``.safetensors``: its tensors, and in the metadata what rebuilds the network.

The metadata are strings: ``format`` ("pt", for other software), ``lvgan_checkpoint`` (version), ``stage``, ``step``,
``config``, ``data`` and ``versions`` (JSON), ``sha256`` of the tensors, and ``provenance`` (JSON) and ``licence``
where the checkpoint had them. safetensors is optional (``lvgan[export]``) and is loaded when it is needed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from lvgan.errors import CheckpointError, DamagedCheckpointError, MachineError
from lvgan.files import write_whole

_JSON = ("config", "data", "versions", "provenance")
_LONGEST_HEADER = 100 << 20  # bytes; safetensors reads no longer one


def is_weight_file(head: bytes) -> bool:
    """Whether a file's first 9 bytes are those of safetensors: a length, and JSON."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LONGEST_HEADER


def need_safetensors() -> None:
    """Raises MachineError, which says what to install, where safetensors is missing."""
    try:
        import safetensors.torch  # noqa: F401
    except ImportError as error:
        raise MachineError(
            ".safetensors files need the package safetensors, which is not installed; pip install 'lvgan[export]'"
        ) from error


def write(path: Path, part: Mapping[str, Any], version: int, check: Callable[[Path], object] | None = None) -> None:
    """Write the averaged generator of a checkpoint of one stage, whole or not at all.

    Args:
        check: called with the written file before it is put in its place; raises where it should not be.

    Raises:
        MachineError: safetensors is missing, or the file cannot be written.
    """
    need_safetensors()
    from safetensors.torch import save

    # Copies: tensors may lie on one storage.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in part["generator_ema"].items()}
    metadata = {"format": "pt", "lvgan_checkpoint": str(version), "stage": part["stage"], "step": str(part["step"])}
    metadata |= {key: json.dumps(part[key], ensure_ascii=False) for key in _JSON if part.get(key)}
    if part.get("licence"):
        metadata["licence"] = str(part["licence"])
    metadata["sha256"] = digest(tensors)
    content = save(tensors, metadata)

    def fill(file: BinaryIO) -> None:
        file.write(content)
        file.flush()
        if check is not None:
            check(Path(file.name))

    write_whole(path, fill)


def read(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint, but for its header.

    Raises:
        MachineError: safetensors is missing.
        DamagedCheckpointError: cut short, or the tensors do not have their checksum.
        CheckpointError: not written by lvgan.
    """
    need_safetensors()
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            if "lvgan_checkpoint" not in metadata:
                raise CheckpointError(
                    f"{path} is a safetensors file, but none that lvgan wrote; name one of `lvgan export`"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DamagedCheckpointError(f"{path} is damaged or cut short; export or download it again") from error
    if digest(tensors) != metadata.get("sha256"):
        raise DamagedCheckpointError(f"{path} is damaged: its tensors changed; export or download it again")
    try:
        found: dict[str, Any] = {key: json.loads(metadata[key]) for key in _JSON if key in metadata}
        found |= {"version": int(metadata["lvgan_checkpoint"]), "step": int(metadata["step"])}
    except (ValueError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{path} has metadata that lvgan did not write ({error}); export it again") from error
    found |= {"stage": metadata.get("stage"), "generator_ema": tensors, "data": found.get("data", {})}
    return found | ({"licence": metadata["licence"]} if "licence" in metadata else {})


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of contiguous tensors on the CPU."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
