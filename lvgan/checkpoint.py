"""Checkpoints: tensors and plain values in one ``.pt`` file, loaded with ``weights_only=True``.

Contents (a dict): ``format``, ``version``, ``stage`` ("lr", "sr" or "bundle"), ``step``, ``config``
(plain values), ``generator`` and ``generator_ema``, ``discriminator``, ``optimizers``, ``ada``, ``data``
(sizes and fingerprint of the training data), ``loop`` (what the loop keeps: partial means, health,
roll-backs), ``provenance`` (the checkpoint that the run started from, or whose weights these are), ``licence``
(a reminder, where others' terms hold), ``versions``. A bundle holds ``lr`` and ``sr``, each the part of a
checkpoint that sampling needs. A ``.safetensors`` file (:mod:`lvgan.weight_file`) holds one of these parts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lvgan import weight_file
from lvgan.errors import CheckpointError, DamagedCheckpointError, MachineError
from lvgan.files import ZIP_DAMAGE
from lvgan.version import __version__

FORMAT = "lvgan-checkpoint"
VERSION = 1
_READ = 16 << 20  # bytes
EXPORT_RECORD = "lvgan.json"  # in a TorchScript export, among its extra files
_KEPT_IN_BUNDLE = ("format", "version", "stage", "step", "config", "generator_ema", "data", "versions")


def new_checkpoint(stage: str, **contents: Any) -> dict[str, Any]:
    """A checkpoint's dict with its header."""
    versions = {"lvgan": __version__, "torch": str(torch.__version__)}
    return {"format": FORMAT, "version": VERSION, "stage": stage, "versions": versions, **contents}


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write `checkpoint` so that `path` is at every moment absent, the old file or the new one.

    Raises:
        MachineError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        raise _write_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # the folder is gone, or was never there
            partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a renaming last through a power cut, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _write_error(path: Path, error: OSError | RuntimeError) -> MachineError:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
        return MachineError(f"the disk is full: {path} was not written; free some space and run the same command")
    reason = cause.strerror if isinstance(cause, OSError) else str(error).splitlines()[0]
    return MachineError(f"cannot write {path} ({reason}); check the folder's permissions and free space")


def load(path: Path, stage: str | None = None) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; nothing in the file is executed.

    Args:
        path: a ``.pt`` or ``.safetensors`` file.
        stage: "lr", "sr" or "bundle" where only that will do.

    Raises:
        DamagedCheckpointError: the file is empty, cut short or garbled, or a part of it does not have its checksum.
        CheckpointError: no such file, not a checkpoint of ours, from a later version, or of another stage.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, but a checkpoint file was expected; name a .pt file or a run")
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if weight_file.is_weight_file(head):
            checkpoint: Any = {"format": FORMAT, **weight_file.read(path)}
        elif head[:4] != b"PK\x03\x04":
            raise _foreign(path, head)
        else:
            verify(path)
            _refuse_others(path)
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        if str(path).startswith("hf:"):
            raise CheckpointError(f"{path} is on the Hub; fetch it first, with `lvgan hub pull`") from None
        raise CheckpointError(f"there is no checkpoint {path}; check the path") from None
    except OSError as error:
        if error.errno == errno.EINVAL:  # torch's word for an archive that is cut short
            raise _damaged(path) from error
        raise CheckpointError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds objects other than tensors and plain values, which could run code when loaded; "
            "it was refused: only checkpoints written by lvgan are read"
        ) from error
    except (RuntimeError, EOFError, zipfile.BadZipFile, ValueError, KeyError) as error:
        raise _damaged(path) from error
    if not isinstance(checkpoint, dict) or checkpoint.get("format") != FORMAT:
        raise CheckpointError(f"{path} is a torch file, but not a checkpoint written by lvgan; name one from a run")
    if not isinstance(checkpoint.get("version"), int) or checkpoint["version"] > VERSION:
        raise CheckpointError(
            f"{path} was written in checkpoint version {checkpoint.get('version')}, but this lvgan reads up to "
            f"{VERSION}; install a newer lvgan"
        )
    parts = [checkpoint.get(name) for name in ("lr", "sr")] if checkpoint.get("stage") == "bundle" else [checkpoint]
    if not all(isinstance(part, dict) and _is_complete(part) for part in parts):
        raise CheckpointError(f"{path} lacks parts of a checkpoint; it was not written by lvgan as it is: use another")
    return checkpoint if stage is None else check_stage(checkpoint, path, stage)


def check_stage(checkpoint: dict[str, Any], path: Path, stage: str) -> dict[str, Any]:
    """`checkpoint`, if it is of `stage`.

    Raises:
        CheckpointError: it is not.
    """
    if checkpoint["stage"] != stage:
        raise CheckpointError(
            f"{path} is {stage_name(checkpoint['stage'])}, but {stage_name(stage)} was expected here; "
            "check which file you named"
        )
    return checkpoint


def _is_complete(part: dict[str, Any]) -> bool:
    """Whether what every reader relies on is there, of the right kind."""
    kinds = {"step": int, "config": dict, "generator_ema": dict, "data": dict, "versions": dict}
    if part.get("stage") not in ("lr", "sr") or not all(isinstance(part.get(k), kind) for k, kind in kinds.items()):
        return False
    sections = (part["config"].get("data"), part["config"].get("training"))
    sound = all(isinstance(section, dict) for section in sections) and has_origin(part)
    return sound and all(isinstance(tensor, Tensor) for tensor in part["generator_ema"].values())


def has_origin(part: Mapping[str, Any]) -> bool:
    """Whether what a file says of its provenance and licence, if anything, is of the right kind."""
    kinds = {"provenance": dict, "licence": str}
    return all(part.get(key) is None or isinstance(part[key], kind) for key, kind in kinds.items())


def verify(path: Path) -> None:
    """Compare every record of the archive with its CRC-32, which torch writes but does not check.

    Costs about half as much time as loading.

    Raises:
        DamagedCheckpointError: one differs, or the file is cut short.
        OSError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                with archive.open(record) as content:
                    while content.read(_READ):
                        pass
    except ZIP_DAMAGE as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> CheckpointError:
    return DamagedCheckpointError(f"{path} is damaged or cut short; use another checkpoint of the run")


def _refuse_others(path: Path) -> None:
    """Refuse TorchScript, and compressed archives: torch writes none, and a little one can unpack to anything."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    if any(record.filename.endswith("/constants.pkl") for record in records):
        raise CheckpointError(
            f"{path} is a TorchScript file, which holds a network for other software; name the checkpoint of a run"
        )
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise CheckpointError(f"{path} is compressed inside, as no checkpoint is; name one that lvgan wrote")


def _foreign(path: Path, head: bytes) -> CheckpointError:
    if head[:1] == b"\x80":
        return CheckpointError(
            f"{path} is a plain pickle, which could run code when loaded, so it was refused; "
            "a .pt file written by lvgan was expected (`lvgan import-official` reads the published ones)"
        )
    if path.suffix == ".onnx":
        return CheckpointError(f"{path} is an ONNX file, for other software; name the checkpoint that it came from")
    # What a power cut or a full disk makes of a checkpoint too: nothing, or zeros.
    what = "empty" if not head else "not a checkpoint"
    return DamagedCheckpointError(f"{path} is {what}; a .pt file written by lvgan was expected")


def is_sound(path: Path) -> bool:
    """Whether all of the file is there and has its checksums; a file that cannot be read counts as sound."""
    try:
        verify(path)
    except DamagedCheckpointError:
        return False
    except OSError:
        return True
    return True


def stage_name(stage: str) -> str:
    """How messages call a checkpoint's kind."""
    names = {"lr": "a low-resolution checkpoint", "sr": "a super-resolution checkpoint"}
    return names.get(stage, "a bundle of both networks")


def bundle(lr: dict[str, Any], sr: dict[str, Any]) -> dict[str, Any]:
    """One file that holds what sampling needs of both stages.

    Raises:
        CheckpointError: the two do not fit together.
    """
    check_pair(lr, sr)
    pair = (("lr", lr), ("sr", sr))
    parts = {name: {key: part[key] for key in _KEPT_IN_BUNDLE} | origin(part) for name, part in pair}
    return new_checkpoint("bundle", **parts)


def origin(part: Mapping[str, Any]) -> dict[str, Any]:
    """Where a checkpoint's weights are from and whose terms hold for them, as far as it says."""
    found = {key: part[key] for key in ("provenance", "licence") if part.get(key)}
    if licence_of(part):
        found["licence"] = licence_of(part)
    return found


def licence_of(part: Mapping[str, Any]) -> str:
    """The licence reminder of a checkpoint, or of the one that its run started from; empty if there is none."""
    started_from = part.get("provenance")
    inherited = started_from.get("licence") if isinstance(started_from, Mapping) else None
    return one_line(part.get("licence") or inherited or "")


def one_line(value: Any) -> str:
    """What a file says, for people to read: on one line, without what its letters could do to a terminal."""
    return "".join(x if x.isprintable() else " " if x.isspace() else "?" for x in str(value))


def parts_of(checkpoint: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The parts of a checkpoint by stage: one, or a bundle's two."""
    if checkpoint["stage"] == "bundle":
        return {"lr": checkpoint["lr"], "sr": checkpoint["sr"]}
    return {checkpoint["stage"]: checkpoint}


def check_pair(lr: dict[str, Any], sr: dict[str, Any]) -> None:
    """Refuse a pair whose sizes or channels differ."""
    for key, what in (("lr", "low-resolution frames of"), ("channels", "channels:")):
        ours, theirs = lr["config"]["data"][key], sr["config"]["data"][key]
        if ours != theirs:
            raise CheckpointError(
                f"the low-resolution checkpoint makes {what} {ours}, but the super-resolution one was trained "
                f"on {theirs}; use two checkpoints trained on the same data"
            )


_STEP = re.compile(r"-step-(\d+)\.pt$")


def step_of(path: Path) -> int | None:
    """The step in a checkpoint's name, ``lr-step-000100.pt``; None for another name."""
    match = _STEP.search(path.name)
    return int(match[1]) if match else None


def checkpoints_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """The checkpoints of a run's ``checkpoints`` folder, oldest first: those to use, and damaged ones."""
    found = sorted((step, p) for p in folder.glob("*.pt") if (step := step_of(p)) is not None)
    intact = [p for _, p in found if zipfile.is_zipfile(p)]  # its index stands at the end: cut short, it is none
    return intact, [p for _, p in found if p not in intact]


def protect(path: Path, reason: str) -> None:
    """Keep a checkpoint from :func:`prune`, by a note ``NAME.pt.keep`` beside it that says why.

    Raises:
        OSError: the folder cannot be written.
    """
    path.with_name(path.name + ".keep").write_text(reason + "\n", encoding="utf-8")


def unprotect(path: Path) -> None:
    """Take the note of :func:`protect` away."""
    path.with_name(path.name + ".keep").unlink(missing_ok=True)


def prune(folder: Path, keep: int) -> None:
    """Delete all but the `keep` newest checkpoints of a folder (0: none), and those that are protected.

    Damaged ones and files of other names stay. A file that cannot be deleted is left.
    """
    intact, _ = checkpoints_in(folder)
    for path in intact[:-keep] if keep else []:
        if not path.with_name(path.name + ".keep").exists():
            with contextlib.suppress(OSError):
                path.unlink()


def set_aside(path: Path) -> None:
    """Rename a damaged checkpoint to ``NAME.pt.damaged``, so that a good one can take its place."""
    with contextlib.suppress(OSError):
        path.rename(path.with_name(path.name + ".damaged"))


def published(folder: Path) -> dict[str, Path]:
    """The generators of a folder as `lvgan hub` lays it out, by stage: ``lr.safetensors`` and ``sr.safetensors``."""
    files = {stage: folder / f"{stage}.safetensors" for stage in ("lr", "sr")}
    return {stage: file for stage, file in files.items() if file.is_file()}


def find(path: Path, stage: str = "lr") -> Path:
    """The checkpoint file that `path` names: itself, or the newest one of a run's folder.

    A folder of the Hub's layout has two: the one of `stage` is meant.

    Raises:
        CheckpointError: a folder without checkpoints.
    """
    if not path.is_dir():
        return path
    files = published(path)
    if files:
        return files.get(stage) or next(iter(files.values()))
    for folder in (path / "checkpoints", path):
        intact, _ = checkpoints_in(folder)
        if intact:
            return intact[-1]
    raise CheckpointError(f"{path} is a folder without checkpoints; name a .pt file or a run such as runs/lr-0001")


def find_pair(path: Path, sr: Path | None) -> tuple[Path, Path | None]:
    """The low-resolution checkpoint (or bundle) that `path` names, and the super-resolution one.

    `path` is a checkpoint, a run, or a folder of runs: then the newest run of each stage is meant, unless `sr`
    names another.

    Raises:
        CheckpointError: a folder without checkpoints.
    """
    files = published(path) if path.is_dir() else {}
    if "lr" in files:
        return files["lr"], files.get("sr") if sr is None else find(sr, "sr")
    if path.is_dir() and not (path / "checkpoints").is_dir():
        runs = path / "runs" if (path / "runs").is_dir() else path
        newest = {stage: _newest_run(runs, stage) for stage in ("lr", "sr")}
        if newest["lr"] is not None:
            return newest["lr"], newest["sr"] if sr is None else find(sr, "sr")
    return find(path), None if sr is None else find(sr, "sr")


def _newest_run(runs: Path, stage: str) -> Path | None:
    """The newest checkpoint of the newest run of a stage that has one."""
    for run in sorted(runs.glob(f"{stage}-*"), reverse=True):
        intact, _ = checkpoints_in(run / "checkpoints")
        if intact:
            return intact[-1]
    return None
