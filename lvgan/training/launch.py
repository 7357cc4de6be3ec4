"""Several processes on this machine, one a GPU: ``--gpus``. Under torchrun nothing of this is used.

The processes are the same command again, with torchrun's variables in their environment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType

from lvgan.errors import ConfigError, MachineError

PATIENCE = 40.0  # seconds that the others have after one has failed; they leave by themselves long before


def is_rank() -> bool:
    """Whether this process was started as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_first() -> bool:
    """Whether this process speaks for all."""
    return not is_rank() or os.environ["RANK"] == "0"


def count_processes(gpus: str, device: str = "auto") -> int:
    """How many processes to start on this machine for ``--gpus`` N or ``auto``; 1 in a rank.

    Raises:
        ConfigError: neither ``auto`` nor a positive number, or something else than torchrun started.
        MachineError: there are not as many GPUs.
    """
    if gpus != "auto" and (not gpus.isascii() or not gpus.isdigit() or int(gpus) < 1):
        raise ConfigError(f"--gpus {gpus!r} was given, but auto or a number from 1 was expected; see --help")
    if is_rank():
        here = os.environ.get("LOCAL_WORLD_SIZE", gpus)
        if gpus not in ("auto", "1", here):
            raise ConfigError(
                f"--gpus {gpus} was given, but torchrun has started {here} processes here; leave --gpus out"
            )
        return 1
    if gpus == "1":
        return 1
    import torch

    kind, found = device.partition(":")[0], torch.cuda.device_count()
    if gpus == "auto":
        return max(1, found) if device in ("auto", "cuda") else 1
    wanted = int(gpus)
    if kind == "cpu":
        return wanted
    if ":" in device or kind == "mps":
        raise ConfigError(f"--gpus {wanted} was given with --device {device}, which is one device; leave one of them")
    if wanted > found:
        raise MachineError(
            f"asked for {wanted} GPUs, found {found or 'none'}; use --gpus auto"
            + ("" if found else f", or --device cpu for {wanted} processes on the CPU")
        )
    return wanted


def launch(command: Sequence[str], count: int) -> int:
    """Run `command` in `count` processes and wait for them; their common exit code.

    SIGINT and SIGTERM are handed on; a second one ends all at once. Where a process dies, the others end.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener, _pipe() as (reader, _writer):
        environment = os.environ | {
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(listener.getsockname()[1]),
            "LVGAN_STORE": str(listener.fileno()),
            "LVGAN_LAUNCHER": str(reader),
        }
        environment.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // count)))
        processes: list[subprocess.Popen[bytes]] = []
        with _handing_on(processes) as received:
            try:
                for rank in range(count):
                    files = (reader, listener.fileno()) if rank == 0 else (reader,)
                    place = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                    processes.append(subprocess.Popen(command, env=environment | place, pass_fds=files))
                listener.close()
                return _wait(processes, received)
            finally:
                for process in processes:
                    process.kill()
                for process in processes:
                    process.wait()


def _wait(processes: Sequence[subprocess.Popen[bytes]], received: list[int]) -> int:
    """The exit code that the processes agree on, or 1 where one of them was killed."""
    deadline = float("inf")
    first: int | None = None
    while True:
        codes = [process.poll() for process in processes]
        if len(received) > 1:
            return 128 + received[0]
        failed = [(code, rank) for rank, code in enumerate(codes) if code]
        if failed and first is None:
            first, rank = min(failed)  # a killed one before those that may have left because of it
            deadline = time.monotonic() + PATIENCE
            if first < 0 and not received:
                _say_killed(rank, -first)
        if None not in codes or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    if first is None:
        return 0
    if first < 0:
        return 128 + received[0] if received else 1
    return first


def _say_killed(rank: int, signum: int) -> None:
    name = signal.Signals(signum).name
    why = " (if you did not do that, the machine was out of memory)" if signum == signal.SIGKILL else ""
    print(
        f"\nlvgan: error: rank {rank} was ended by {name}{why}; the others were stopped; run the same command again to "
        "go on from the newest checkpoint",
        file=sys.stderr,
        flush=True,
    )


@contextlib.contextmanager
def _handing_on(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """The signals received, handed on to the processes."""
    received: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        for process in processes:
            process.send_signal(signum)

    old = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    """A pipe whose writing end only this process holds: its end tells the readers that this process is gone."""
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def follow_launcher() -> None:
    """In a process of :func:`launch`: when the launcher is gone, stop as by SIGTERM, or leave half a minute later."""
    if "LVGAN_LAUNCHER" not in os.environ:
        return

    def follow(reader: int) -> None:
        while os.read(reader, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=follow, args=(int(os.environ["LVGAN_LAUNCHER"]),), name="launcher", daemon=True).start()
