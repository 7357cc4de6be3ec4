"""Writing the three formats, and running what was written before it is put in its place."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lvgan import checkpoint as ckpt
from lvgan import weight_file
from lvgan.errors import CheckpointError, ConfigError, MachineError
from lvgan.export.networks import Exportable, contract, exportable
from lvgan.export.plain_ops import PlainOps
from lvgan.files import check_new, write_whole

FORMATS = ("safetensors", "torchscript", "onnx")
TOLERANCE = 1e-4  # of the largest value
OPSET = 18  # of ONNX: the first in which reductions take their axes as an input, as later ones do
METADATA_KEY = "lvgan"  # in an ONNX file's metadata
_ONNX_LIMIT = 1.9e9  # bytes of weights: a protocol buffer holds 2 GiB
_Run = Callable[[Path, list[tuple[Tensor, ...]]], list[NDArray[np.float32]]]


@dataclass(frozen=True)
class Exported:
    """What was written: the largest difference from our network, and the largest value (0: bit for bit the same)."""

    record: dict[str, Any]
    difference: float
    largest: float


def export(
    part: Mapping[str, Any],
    name: str,
    path: Path,
    kind: str,
    *,
    batch: int | None = None,
    frames: int | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write the averaged generator of a checkpoint's part to `path`, if the file does what our network does.

    Args:
        part: a checkpoint of one stage, or one part of a bundle.
        name: what messages call it.
        kind: one of :data:`FORMATS`.
        batch, frames: clips at once (None: 1) and frames of each (None: 128 of low, 1 of high resolution);
            for networks that are run, not for weights.

    Raises:
        ConfigError: another format, impossible sizes, or a file that exists.
        CheckpointError: no network can be built, or the file came out different.
        MachineError: a package is missing, or the file cannot be written.
    """
    if kind not in FORMATS:
        raise ConfigError(f"--format {kind} was given, but one of {', '.join(FORMATS)} was expected")
    check_new(path, overwrite)
    if kind == "safetensors":
        if batch is not None or frames is not None:
            raise ConfigError(
                "--batch and --frames were given, but safetensors holds weights of no fixed size; leave them out"
            )
        return _export_weights(part, name, path)
    if kind == "onnx":
        _need_onnx()
        if sum(tensor.nbytes for tensor in part["generator_ema"].values()) > _ONNX_LIMIT:
            raise ConfigError(f"{name} has more weights than an ONNX file holds (2 GB); use --format torchscript")
    what = exportable(part, name, 1 if batch is None else batch, frames)
    with _enough_memory(what):
        return _export_network(what, name, path, kind)


def _export_network(what: Exportable, name: str, path: Path, kind: str) -> Exported:
    examples = [what.examples(seed) for seed in (0, 1)]
    expected = [what.expected(given).numpy() for given in examples]
    if not all(np.isfinite(e).all() for e in expected):
        raise CheckpointError(f"{name} makes values that are not finite, so nothing was written; use another one")
    largest = _largest(expected)
    content, run = (_torchscript(what), run_torchscript) if kind == "torchscript" else (_onnx(what), run_onnx)
    differences = []

    def fill(file: BinaryIO) -> None:
        file.write(content)
        file.flush()
        differences.append(compare(run(Path(file.name), examples), expected, name))

    write_whole(path, fill)
    return Exported(what.record, differences[0], largest)


@contextlib.contextmanager
def _enough_memory(what: Exportable) -> Iterator[None]:
    """Python's and torch's ways of running out of memory, as one sentence."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        clips, frames = what.record["batch"], what.record["frames"]
        raise MachineError(
            f"{clips} clips of {frames} frames at once do not fit into memory; give a smaller --batch or --frames"
        ) from error


def compare(made: list[NDArray[np.float32]], expected: list[NDArray[np.float32]], name: str) -> float:
    """The largest difference.

    Raises:
        CheckpointError: above the tolerance, or of another shape.
    """
    largest = _largest(expected)
    if [m.shape for m in made] != [e.shape for e in expected]:
        raise CheckpointError(f"the export of {name} makes another shape than the network, so it was not written")
    difference = _largest([m - e for m, e in zip(made, expected, strict=True)])
    if not difference <= TOLERANCE * largest:
        raise CheckpointError(
            f"the export of {name} differs from the network by {difference:.1e} of at most {largest:.2f} (allowed are "
            f"{TOLERANCE:.0e} of that), so it was not written; please report it, and use the checkpoint itself"
        )
    return difference


def _largest(arrays: list[NDArray[np.float32]]) -> float:
    return float(np.max([np.abs(array).max() for array in arrays]))  # NaN, if there is one


def _export_weights(part: Mapping[str, Any], name: str, path: Path) -> Exported:
    from lvgan.models.build import generator_of

    generator_of(dict(part), name)  # weights that make no network are no use elsewhere either

    def check(written: Path) -> None:
        again = ckpt.load(written)
        same = again["config"] == part["config"] and again["generator_ema"].keys() == part["generator_ema"].keys()
        if not same or weight_file.digest(again["generator_ema"]) != digest:
            raise CheckpointError(f"the export of {name} reads back different, so it was not written; please report it")

    digest = weight_file.digest({key: t.detach().cpu().contiguous() for key, t in part["generator_ema"].items()})
    weight_file.write(path, part, ckpt.VERSION, check)
    return Exported({"stage": part["stage"], "step": part["step"]}, 0.0, 0.0)


@contextlib.contextmanager
def _tracing() -> Iterator[None]:
    """Our operators as standard ones; without what torch says of tracing, which is asked for here."""
    with warnings.catch_warnings(), torch.no_grad(), PlainOps():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # shapes are fixed on purpose
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "You are using the legacy TorchScript-based ONNX export", DeprecationWarning)
        warnings.filterwarnings("ignore", "The feature will be removed", DeprecationWarning)
        warnings.filterwarnings("ignore", "Constant folding - Only steps=1", UserWarning)  # of how a padding is flipped
        yield


def _torchscript(what: Exportable) -> bytes:
    buffer = io.BytesIO()
    with _tracing():
        traced = torch.jit.trace(what.fixed, what.examples(0), check_trace=False)
        torch.jit.save(traced, buffer, _extra_files={ckpt.EXPORT_RECORD: _text(what)})
    return buffer.getvalue()


def _onnx(what: Exportable) -> bytes:
    import onnx

    names = [given.name for given in what.inputs]
    with tempfile.TemporaryDirectory(prefix="lvgan-export-") as folder, _tracing():
        path = Path(folder) / "network.onnx"
        torch.onnx.export(
            what.fixed,
            what.examples(0),
            path,
            dynamo=False,  # its successor cannot take operators apart that it does not know, and needs onnxscript
            opset_version=OPSET,
            input_names=names,
            output_names=["video"],
            do_constant_folding=False,  # it would keep weights twice; whoever loads the file does it
        )
        model = onnx.load_model(str(path))
    model.producer_name = "lvgan"
    model.doc_string = "\n".join(contract(what.record))
    onnx.helper.set_model_props(model, {METADATA_KEY: _text(what)})
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _text(what: Exportable) -> str:
    return json.dumps(what.record, ensure_ascii=False)


def _need_onnx() -> None:
    missing = [module for module in ("onnx", "onnxruntime") if find_spec(module) is None]
    if missing:
        raise MachineError(f"ONNX files need {' and '.join(missing)}, not installed here; pip install 'lvgan[export]'")


def run_onnx(path: Path, examples: list[tuple[Tensor, ...]]) -> list[NDArray[np.float32]]:
    """What an ONNX file makes of inputs, with ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    feeds = [dict(zip(names, (t.numpy() for t in given), strict=True)) for given in examples]
    return [np.asarray(session.run(["video"], feed)[0]) for feed in feeds]


_CHILD = """
import sys
import numpy, torch
network = torch.jit.load(sys.argv[1])
given = numpy.load(sys.argv[2])
count = len(given.files) // 2
made = {}
for example in range(2):
    tensors = [torch.from_numpy(given[f"{example}.{i}"]) for i in range(count)]
    with torch.inference_mode():
        made[str(example)] = network(*tensors).numpy()
assert not any(name.partition(".")[0] == "lvgan" for name in sys.modules)
numpy.savez(sys.argv[3], **made)
"""


def run_torchscript(path: Path, examples: list[tuple[Tensor, ...]]) -> list[NDArray[np.float32]]:
    """What a TorchScript file makes of two examples, in a fresh process that knows torch but not lvgan."""
    with tempfile.TemporaryDirectory(prefix="lvgan-export-") as folder:
        inputs, outputs = Path(folder) / "in.npz", Path(folder) / "out.npz"
        arrays: dict[str, Any] = {
            f"{n}.{i}": t.numpy() for n, given in enumerate(examples) for i, t in enumerate(given)
        }
        np.savez(inputs, **arrays)
        command = [sys.executable, "-c", _CHILD, str(path.absolute()), str(inputs), str(outputs)]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if result.returncode:
            last = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
            raise MachineError(f"the export could not be run without lvgan ({last}), so it was not written")
        with np.load(outputs) as made:
            return [made[str(n)] for n in range(len(examples))]
