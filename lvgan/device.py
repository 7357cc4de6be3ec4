"""The device to compute on."""

from __future__ import annotations

import ctypes

import torch

from lvgan.errors import ConfigError, MachineError

DEVICES = ("auto", "cpu", "cuda", "mps")


def return_freed_memory() -> None:
    """Let this process give large blocks back when it frees them (glibc; else nothing).

    Otherwise free memory scatters over the heap, and grows with the length of a video: by 45 % from 600 to 6000
    frames of the tiny preset (measured), now by 1 %.
    """
    _set_malloc({_MMAP_THRESHOLD: 2**20})


def keep_freed_memory() -> None:
    """Let this process keep large blocks that it frees, for the next step takes them again (glibc; else nothing).

    Otherwise each is returned and comes back as pages that the kernel has to clear: on a CPU a tenth to a fifth
    of a step's processor time (measured, presets tiny), for a few per cent more memory.
    """
    _set_malloc({_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**26})


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # mallopt's numbers


def _set_malloc(values: dict[int, int]) -> None:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    for parameter, value in values.items():
        mallopt(parameter, value)


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; ``auto`` is the first GPU if there is one.

    Raises:
        ConfigError: an unknown name.
        MachineError: this machine has no such device.
    """
    kind = name.partition(":")[0]
    if kind not in DEVICES:
        raise ConfigError(f"--device {name!r} was given, but one of {', '.join(DEVICES)} was expected")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(kind)
    if kind == "cuda" and not torch.cuda.is_available():
        raise MachineError("--device cuda was asked for, but no CUDA device was found; use --device auto or cpu")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise MachineError("--device mps was asked for, but this machine has none; use --device auto or cpu")
    return torch.device(name)
