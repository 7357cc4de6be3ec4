"""Processes of their own, forked from one that has loaded torch already (loading it takes seconds)."""

from __future__ import annotations

import faulthandler
import multiprocessing
import multiprocessing.reduction
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryFile
from types import MappingProxyType
from typing import Any

PRELOADED = ["torch", "lvgan.cli.commands", "lvgan.training.loop", "lvgan.training.sr", "lvgan.evaluation.color"]


class Forked:
    """Calls `function`, which a module has at its top, with `arguments`, in folder `cwd` and with `env` added."""

    def __init__(
        self,
        function: Callable[..., object],
        *arguments: object,
        cwd: Path | None = None,
        env: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._files = TemporaryFile(), TemporaryFile()  # noqa: SIM115  (closed by `finish`)
        files = [multiprocessing.reduction.DupFd(file.fileno()) for file in self._files]
        environment = {**os.environ, **env}
        self._process: ForkServerProcess = context.Process(
            target=_call, args=(function, arguments, cwd or Path.cwd(), environment, files)
        )
        self._process.start()

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def send_signal(self, signum: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, signum)

    def finish(self, patience: float = 120) -> subprocess.CompletedProcess[str]:
        """Wait for the end, at most so many seconds; what it left with and printed."""
        process = self._process
        process.join(patience)
        late = process.exitcode is None
        if late:
            self.send_signal(signal.SIGABRT)  # says where it is
            process.join(10)
            process.kill()
            process.join()
        said = []
        for file in self._files:
            with file:
                file.seek(0)
                said.append(file.read().decode())
        assert not late, f"it still ran after {patience:.0f} s:\n{said[1]}"
        return subprocess.CompletedProcess([], process.exitcode, *said)


def _call(
    function: Callable[..., object],
    arguments: tuple[object, ...],
    cwd: Path,
    environment: dict[str, str],
    files: list[Any],
) -> None:
    for number, file in enumerate(files, start=1):
        os.dup2(file.detach(), number)
    faulthandler.enable()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    function(*arguments)
