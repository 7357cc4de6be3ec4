"""Tensors on the bytes of a file: torch's storages, in the forms that pickles carry them in.

A tensor in a plain pickle has its storage as a byte string, which is itself what ``torch.save`` writes: a series of
small pickles and then the numbers (until torch 1.5 the only form, and to this day the one inside of pickles), or a
ZIP archive. The shapes of tensors are checked against the storage, and the numbers are not copied.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from lvgan.official.machine import Machine, Name, Record, Vocabulary
from lvgan.official.streams import Budget, FileStream, MemoryStream, RefusedError

_MAGIC = 0x1950A86A20F9469CFC6C  # begins torch's older form
_PROTOCOL = 1001
_LARGEST = 64  # dimensions
_PIECE = 4 << 20  # bytes

STORAGE_TYPES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
        "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """Numbers of one type, flat."""

    values: Tensor


def storage_on(view: memoryview, dtype: torch.dtype, budget: Budget) -> Storage:
    """A storage that lies on `view`, or on a copy where that is not aligned."""
    if not len(view):
        return Storage(torch.empty(0, dtype=dtype))
    values = torch.frombuffer(view, dtype=torch.uint8)
    if values.data_ptr() % dtype.itemsize:
        budget.take_copy(len(view))
        values = values.clone()
    return Storage(values.view(dtype))


def tensor_on(storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    """A tensor of this shape on a storage, every number of which it uses at most once.

    Raises:
        RefusedError: it reaches beyond the storage, or shows numbers twice (a little file can show a lot so).
    """
    if not isinstance(storage, Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise RefusedError("it is damaged: a tensor has no storage or no shape")
    if len(size) != len(stride) or len(size) > _LARGEST or not all(_is_index(n) for n in (offset, *size, *stride)):
        raise RefusedError("it is damaged: a tensor's shape and strides are not whole numbers, as many of each")
    count, total = math.prod(size), storage.values.numel()
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else offset
    if count > total or last > (total - 1 if count else total):
        raise RefusedError(f"it is damaged: a tensor of {count} numbers does not fit into a storage of {total}")
    return storage.values.as_strided(size, stride, offset)


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48


class NestedReader:
    """Reads byte strings that ``torch.save`` wrote, within the budget of the whole file."""

    def __init__(self, vocabulary: Callable[[], Vocabulary], budget: Budget) -> None:
        self._vocabulary = vocabulary
        self._budget = budget
        self._inside = False

    def read(self, data: memoryview | bytes) -> Any:
        """The value that a byte string holds, mostly a :class:`Storage`.

        Raises:
            RefusedError: it is damaged, or has another such byte string in it.
        """
        if self._inside:
            raise RefusedError("it holds storages within storages, which no published file has")
        self._inside = True
        try:
            view = data
            if not isinstance(view, memoryview):
                self._budget.take_copy(len(view))
                view = memoryview(bytearray(view))
            if bytes(view[:4]) == b"PK\x03\x04":
                self._budget.take_copy(len(view))
                return self.read_archive(io.BytesIO(view))
            return self.read_series(view)
        finally:
            self._inside = False

    def read_series(self, view: memoryview) -> Any:
        """Torch's older form: a number, a version, facts, the value, the storages' keys, the storages."""
        stream = MemoryStream(view)
        waiting: dict[Any, Record] = {}

        def persistent(key: Any) -> Any:
            name, dtype, count = _storage_id(key)
            return waiting.setdefault(name, Record("storage", (dtype, count)))

        def run() -> Any:
            return Machine(stream, self._vocabulary(), self._budget, persistent).run()

        if run() != _MAGIC or run() != _PROTOCOL:
            raise RefusedError("it is damaged: a byte string in it is no storage")
        facts = run()
        if not isinstance(facts, dict) or facts.get("little_endian") is not True:
            raise RefusedError("it was written on a machine of another byte order; write it again on a usual one")
        value, keys = run(), run()
        if not isinstance(value, Record) or value.kind != "storage":
            raise RefusedError("it is damaged: a byte string in it holds no storage")
        if keys != [key for key, record in waiting.items() if record is value]:
            raise RefusedError("it is damaged: a byte string in it does not hold just one storage")
        dtype, count = value.args
        stored = stream.number("<q")
        if stored != count or stream.remaining < count * dtype.itemsize:
            raise RefusedError(
                f"it is damaged: a storage should have {count} numbers of {dtype.itemsize} bytes, "
                f"but says {stored} and has {stream.remaining} bytes"
            )
        return storage_on(stream.block(count * dtype.itemsize), dtype, self._budget)

    def read_archive(self, file: BinaryIO) -> Any:
        """Torch's newer form: a ZIP archive with a pickle and a file for each storage, all uncompressed."""
        with zipfile.ZipFile(_Pieces(file)) as archive:
            members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
            order = members.get("byteorder")
            if order is not None and bytes(self._member(archive, order)) != b"little":
                raise RefusedError("it was written on a machine of another byte order; write it again on a usual one")
            storages: dict[str, Storage] = {}

            def persistent(key: Any) -> Any:
                name, dtype, count = _storage_id(key)
                if name not in storages:
                    view = self._member(archive, members.get(f"data/{name}"))
                    if len(view) != count * dtype.itemsize:
                        raise RefusedError(f"it is damaged: a storage of {count} numbers has {len(view)} bytes")
                    storages[name] = storage_on(view, dtype, self._budget)
                elif (storages[name].values.dtype, storages[name].values.numel()) != (dtype, count):
                    raise RefusedError("it is damaged: a storage has two sizes")
                return storages[name]

            stream = MemoryStream(self._member(archive, members.get("data.pkl")))
            return Machine(stream, self._vocabulary(), self._budget, persistent).run()

    def _member(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo | None) -> memoryview:
        """An uncompressed member's bytes, with its checksum checked."""
        if info is None or info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise RefusedError("it is damaged: an archive lacks a part, or has it compressed")
        self._budget.take_copy(info.file_size)
        with archive.open(info) as member:
            return FileStream(member, info.file_size).block(info.file_size)  # type: ignore[arg-type]


class _Pieces:
    """A file that is read in small pieces only, so that no announced size takes memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        found = self._file.read(_PIECE + 1 if size < 0 else min(size, _PIECE + 1))
        if len(found) > _PIECE:
            raise RefusedError("it is damaged: an archive's table of contents is too large")
        return found


def _storage_id(key: Any) -> tuple[str, torch.dtype, int]:
    """Name, type and count out of torch's id of a storage: ("storage", type, name, place, count, view)."""
    if not isinstance(key, tuple) or len(key) not in (5, 6) or key[0] != "storage" or not isinstance(key[1], Name):
        raise RefusedError("it is damaged: something stands where a storage should be")
    dtype, name, count = STORAGE_TYPES.get(key[1].text), key[2], key[4]
    if dtype is None or not isinstance(name, str) or not _is_index(count) or any(part is not None for part in key[5:]):
        raise RefusedError("it is damaged, or has a storage of another kind than published files have")
    return name, dtype, count
