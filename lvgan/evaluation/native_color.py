"""The compiled inner loop of colour similarity, where the library of :mod:`lvgan.ops.native` is loaded."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from lvgan.ops import native

# Pixels that frame t shares with frame 0, int64 [T], of a uint8 clip [T, H, W, C] and the share of each byte of each
# channel in the joint bin, [C, 256].
SharedPixels = Callable[[np.ndarray, np.ndarray], np.ndarray]


def shared_pixels() -> SharedPixels | None:
    """The compiled function; None where no library is active. It lets go of the interpreter's lock while it works."""
    path = native.active_library("cpu")
    return None if path is None else _load(path)


@lru_cache(maxsize=4)
def _load(path: Path) -> SharedPixels | None:
    try:
        function = ctypes.CDLL(str(path)).lvgan_color_shared
    except (OSError, AttributeError):  # a library from before this function
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    function.restype = None
    function.argtypes = [pointer, number, number, number, pointer, number, pointer, pointer]

    def shared(clip: np.ndarray, tables: np.ndarray) -> np.ndarray:
        frames, height, width, channels = clip.shape
        cells = int(tables[:, -1].sum()) + 1
        clip, tables = np.ascontiguousarray(clip), np.ascontiguousarray(tables, np.int32)
        scratch, result = np.empty((2, cells), np.int32), np.empty(frames, np.int64)
        places = (array.ctypes.data for array in (clip, tables, scratch, result))
        start, table, work, out = places
        function(start, frames, height * width, channels, table, cells, work, out)
        return result

    return shared
