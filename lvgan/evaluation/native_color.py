"""The compiled inner loop of colour similarity, where the library of :mod:`lvgan.ops.native` is loaded."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from lvgan.ops import native

SMALL = 1 << 22  # bytes of a clip for which starting threads takes longer than it saves
FRAMES_A_THREAD = 8  # at least: each counts frame 0 anew

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
        function = ctypes.CDLL(str(path)).lvgan_color_shared_with
    except (OSError, AttributeError):  # a library from before this function
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    function.restype = None
    function.argtypes = [pointer, pointer, number, number, number, pointer, number, pointer, pointer]

    def shared(clip: np.ndarray, tables: np.ndarray) -> np.ndarray:
        frames, height, width, channels = clip.shape
        cells = int(tables[:, -1].sum()) + 1
        clip, tables = np.ascontiguousarray(clip), np.ascontiguousarray(tables, np.int32)
        result = np.empty(frames, np.int64)

        def part(first: int, end: int) -> None:
            scratch = np.empty((2, cells), np.int32)
            places = [array.ctypes.data for array in (clip, clip[first:], tables, scratch, result[first:])]
            start, some, table, work, out = places
            function(start, some, end - first, height * width, channels, table, cells, work, out)

        threads = min(torch.get_num_threads(), frames // FRAMES_A_THREAD if clip.size > SMALL else 1)
        if threads <= 1:
            part(0, frames)
            return result
        edges = [frames * i // threads for i in range(threads + 1)]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(part, edges[:-1], edges[1:]))
        return result

    return shared
