"""The names that published files need, and what stands for each: an explicit list, of functions of ours.

Nothing here runs what a file says. A name makes a plain value, a tensor on the file's own bytes, or a
:class:`lvgan.official.machine.Record`; a class is never looked up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import torch

from lvgan.official.machine import Machine, Name, Record, Vocabulary, checked_key
from lvgan.official.storages import STORAGE_TYPES, NestedReader, tensor_on
from lvgan.official.streams import Budget, FileStream, RefusedError

PERSISTENT = "torch_utils.persistence"  # the kind of a record whose class came along as source text
ARRAY, DTYPE = "numpy.ndarray", "numpy.dtype"

_CONTAINERS = tuple(
    f"torch.nn.modules.container.{name}" for name in ("ModuleList", "ModuleDict", "Sequential", "ParameterList")
)
# Objects that stay records: what they hold is data, mostly of training states, which is not used.
_OBJECTS = (
    *_CONTAINERS,
    "torch.nn.modules.module.Module", "torch.nn.modules.linear.Identity",
    "torch.optim.adam.Adam", "torch.utils.hooks.RemovableHandle", "torch.Generator",
)  # fmt: skip
_DICTS = ("collections.OrderedDict", "dnnlib.util.EasyDict", "dnnlib.EasyDict", "builtins.dict", "__builtin__.dict")
_DTYPES = tuple(f"torch.{str(dtype).removeprefix('torch.')}" for dtype in STORAGE_TYPES.values())
_NUMPY_DTYPES = frozenset(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])


def read(file: BinaryIO, size: int) -> Any:
    """The value of a pickle of `size` bytes, or of a ``torch.save`` archive.

    Raises:
        RefusedError: see :class:`Machine`. Damage also raises what Python and torch make of it.
    """
    budget = Budget(size)
    made: list[Vocabulary] = []
    nested = NestedReader(lambda: made[0], budget)
    made.append(vocabulary(nested, budget))
    archive = file.read(4) == b"PK\x03\x04"
    file.seek(0)
    return nested.read_archive(file) if archive else Machine(FileStream(file, size), made[0], budget).run()


def vocabulary(nested: NestedReader, budget: Budget) -> Vocabulary:
    """What a file's names mean; `nested` reads its storages, and `budget` pays for copies."""
    containers = _Containers(budget)
    calls: dict[str, Callable[[tuple[Any, ...]], Any]] = {
        f"{PERSISTENT}._reconstruct_persistent_obj": _persistent,
        "torch.storage._load_from_bytes": lambda args: nested.read(_binary(args)),
        "torch._utils._rebuild_tensor": _tensor,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_parameter": _parameter,
        "torch._utils._rebuild_parameter_with_state": _parameter,
        "torch.Size": lambda args: tuple(containers.to_list(args)),
        "torch.device": lambda args: Record("torch.device", args),
        "torch.torch_version.TorchVersion": lambda args: args,
        "collections.defaultdict": lambda args: {},
        "collections.deque": containers.to_list,
        "copyreg._reconstructor": containers.reconstructed,
        "copy_reg._reconstructor": containers.reconstructed,
        "_codecs.encode": containers.encoded,
        "pathlib.PosixPath": lambda args: Record("path", args),
        "pathlib.WindowsPath": lambda args: Record("path", args),
        **dict.fromkeys(_DICTS, containers.to_dict),
        **{f"{module}._reconstruct": _array for module in ("numpy.core.multiarray", "numpy._core.multiarray")},
        **{f"{module}._frombuffer": _array_on for module in ("numpy.core.numeric", "numpy._core.numeric")},
        **{f"{module}.scalar": _scalar for module in ("numpy.core.multiarray", "numpy._core.multiarray")},
        DTYPE: _dtype,
    }
    for module in ("builtins", "__builtin__"):
        calls |= {
            f"{module}.set": lambda args: set(containers.to_keys(args)),
            f"{module}.frozenset": lambda args: frozenset(containers.to_keys(args)),
            f"{module}.list": containers.to_list,
            f"{module}.tuple": lambda args: tuple(containers.to_list(args)),
            f"{module}.bytearray": lambda args: _binary(args) if args else b"",
            f"{module}.bytes": lambda args: _binary(args) if args else b"",
            f"{module}.complex": lambda args: Record("complex", args),
            f"{module}.slice": lambda args: Record("slice", args),
            f"{module}.range": lambda args: Record("range", args),
        }
    classes: dict[str, Callable[[tuple[Any, ...]], Any]] = {name: _object(name) for name in _OBJECTS}
    classes |= {name: lambda args: {} for name in _DICTS}
    others = frozenset((*STORAGE_TYPES, *_DTYPES, ARRAY, DTYPE, "builtins.object", "__builtin__.object",
                        "torch.nn.parameter.Parameter", "torch.Tensor"))  # fmt: skip
    return Vocabulary(calls, classes, {ARRAY: _check_array, DTYPE: _check_dtype}, others)


def _object(kind: str) -> Callable[[tuple[Any, ...]], Any]:
    return lambda args: Record(kind, args)


def _persistent(args: tuple[Any, ...]) -> Record:
    """An object of a class whose source text came along: its state, and nothing of the text."""
    (meta,) = args
    if not isinstance(meta, dict) or meta.get("type") != "class" or not isinstance(meta.get("class_name"), str):
        raise RefusedError("it is damaged: an object of a published class lacks its class's name")
    version = meta.get("version")
    if not isinstance(version, int):
        raise RefusedError("it is damaged: an object of a published class lacks its version")
    return Record(PERSISTENT, (meta["class_name"], version), meta.get("state"))


def _tensor(args: tuple[Any, ...]) -> Any:
    return tensor_on(*args[:4])


def _parameter(args: tuple[Any, ...]) -> torch.Tensor:
    if not isinstance(args[0], torch.Tensor):
        raise RefusedError("it is damaged: a parameter has no tensor")
    return args[0]


def _binary(args: tuple[Any, ...]) -> Any:
    if len(args) != 1 or not isinstance(args[0], (bytes, memoryview)):
        raise RefusedError("it is damaged: bytes are made of something else")
    return args[0]


class _Containers:
    """Plain containers made of others; what is copied counts."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def to_list(self, args: tuple[Any, ...]) -> list[Any]:
        """Of a list or tuple, or empty."""
        if not args:
            return []
        if not isinstance(args[0], (list, tuple)):
            raise RefusedError("it is damaged: a list is made of what is none")
        self._budget.take_values(len(args[0]))
        return [*args[0]]

    def to_keys(self, args: tuple[Any, ...]) -> list[Any]:
        """What a set is made of: nothing nested, whose hash would recurse."""
        return [checked_key(value) for value in self.to_list(args)]

    def to_dict(self, args: tuple[Any, ...]) -> dict[Any, Any]:
        """Of pairs or of a dict, or empty."""
        pairs = self.to_list(([*args[0].items()],) if args and isinstance(args[0], dict) else args)
        if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
            raise RefusedError("it is damaged: a dict is made of what is none")
        return {checked_key(key): value for key, value in pairs}

    def encoded(self, args: tuple[Any, ...]) -> bytes:
        """Bytes, as protocols before 3 write them: as text in Latin-1."""
        if len(args) != 2 or not isinstance(args[0], str) or args[1] != "latin1":
            raise RefusedError("it encodes text other than as bytes are written")
        self._budget.take_text(len(args[0]))
        return args[0].encode("latin-1")

    def reconstructed(self, args: tuple[Any, ...]) -> Any:
        """An object, as protocols 0 and 1 make it: of its class, a base, and the base's value."""
        made, _, value = args
        if not isinstance(made, Name):
            raise RefusedError("it is damaged: an object has no class")
        if made.text in _DICTS:
            return self.to_dict((value,) if value is not None else ())
        if made.text not in _OBJECTS:
            raise RefusedError(f"{made.text} is made in it, which no published file does")
        return Record(made.text)


# --- numpy ----------------------------------------------------------------------------------------


def _dtype(args: tuple[Any, ...]) -> Record:
    # Text before anything else: the hash of deeply nested tuples overruns the stack.
    if not args or not isinstance(args[0], str) or args[0] not in _NUMPY_DTYPES:
        raise RefusedError("it holds a numpy array of something else than plain numbers")
    return Record(DTYPE, (args[0],))


def _check_dtype(record: Record, state: Any) -> None:
    if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", "|", "="):
        raise RefusedError("it is damaged, or holds a numpy array of another byte order")
    if any(part is not None for part in state[2:5]):
        raise RefusedError("it holds a numpy array of records, not of plain numbers")


def _numpy_dtype(record: Any) -> np.dtype[Any]:
    if not isinstance(record, Record) or record.kind != DTYPE:
        raise RefusedError("it is damaged: a numpy array has no type")
    return np.dtype(record.args[0]).newbyteorder("<")


def _array(args: tuple[Any, ...]) -> Record:
    if not args or args[0] != Name(ARRAY):
        raise RefusedError("it is damaged: a numpy array is of another class")
    return Record(ARRAY)


def _array_on(args: tuple[Any, ...]) -> Record:
    """How protocol 5 makes arrays."""
    data, dtype, shape, order = args
    record = Record(ARRAY)
    _check_array(record, (1, shape, dtype, order == "F", data))
    return record


def _check_array(record: Record, state: Any) -> None:
    """Shape, type and bytes of an array, which have to fit."""
    if not isinstance(state, tuple) or len(state) != 5:
        raise RefusedError("it is damaged: a numpy array lacks its shape")
    _, shape, dtype, fortran, data = state
    found = _numpy_dtype(dtype)
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and 0 <= n < 2**48 for n in shape) or len(shape) > 32:
        raise RefusedError("it is damaged: a numpy array lacks its shape")
    if not isinstance(data, (bytes, memoryview)) or len(data) != math.prod(shape) * found.itemsize:
        raise RefusedError("it is damaged: a numpy array's bytes do not fit its shape")
    flat = np.frombuffer(data, found)
    record.extra["array"] = flat.reshape(shape, order="F" if fortran is True else "C")


def _scalar(args: tuple[Any, ...]) -> int | float | bool:
    dtype, data = args
    found = _numpy_dtype(dtype)
    if not isinstance(data, bytes) or len(data) != found.itemsize:
        raise RefusedError("it is damaged: a number's bytes do not fit its type")
    value: int | float | bool = np.frombuffer(data, found)[0].item()
    return value
