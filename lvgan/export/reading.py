"""What an exported file says of itself."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from lvgan.checkpoint import EXPORT_RECORD, has_origin
from lvgan.errors import CheckpointError, MachineError
from lvgan.export.formats import METADATA_KEY
from lvgan.export.networks import FORMAT
from lvgan.files import ZIP_DAMAGE

_LARGEST = 4 << 20  # bytes of a record
_KINDS: dict[str, type | tuple[type, ...]] = {
    "step": int, "batch": int, "frames": int, "fps": (int, float), "versions": dict, "inputs": list, "outputs": list,
}  # fmt: skip


def read_record(path: Path) -> dict[str, Any] | None:
    """The record of a TorchScript or ONNX export, with its ``kind``; None for any other file. Runs nothing in it.

    Raises:
        CheckpointError: an ONNX file that is damaged, or not of ours.
        MachineError: onnx is missing.
    """
    if path.suffix.lower() == ".onnx" and path.is_file():
        return _checked(_onnx(path), path, "onnx")
    text = _torchscript(path)
    return None if text is None else _checked(text, path, "torchscript")


def _torchscript(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(f"/extra/{EXPORT_RECORD}")]
            if not names:
                return None
            with archive.open(names[0]) as record:  # which may be compressed, and unpack to anything
                return record.read(_LARGEST).decode()
    except (OSError, *ZIP_DAMAGE):
        return None  # something else, of which `checkpoint.load` knows what to say


def _onnx(path: Path) -> str:
    try:
        import onnx
    except ImportError as error:
        raise MachineError(
            "reading ONNX files needs onnx, which is not installed; pip install 'lvgan[export]'"
        ) from error
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except DecodeError as error:
        raise CheckpointError(f"{path} is damaged, or no ONNX file; export it again") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}; check its permissions") from error
    found: str = next((item.value for item in model.metadata_props if item.key == METADATA_KEY), "")
    return found


def _checked(text: str, path: Path, kind: str) -> dict[str, Any]:
    try:
        record = json.loads(text or "null")
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or record.get("format") != FORMAT or not _is_complete(record):
        raise CheckpointError(
            f"{path} was not exported by lvgan, so nothing is known of it; name a file of `lvgan export`"
        )
    return {"kind": kind, **record}


def _is_complete(record: dict[str, Any]) -> bool:
    """Whether what is said of a file is there, of the right kind."""
    if record.get("stage") not in ("lr", "sr") or not has_origin(record):
        return False
    if not all(isinstance(record.get(key), kind) for key, kind in _KINDS.items()):
        return False
    items = [*record["inputs"], *record["outputs"]]
    return all(isinstance(item, dict) and isinstance(item.get("shape"), list) for item in items) and all(
        isinstance(item.get(key), str) for item in items for key in ("name", "meaning", "values")
    )
