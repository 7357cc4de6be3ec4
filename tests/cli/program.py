"""`lvgan` as a program: a process of its own, forked from one that has loaded torch already (it takes seconds)."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from types import MappingProxyType
from typing import Any

PRELOADED = ["torch", "lvgan.cli.commands", "lvgan.training.loop", "lvgan.training.sr", "lvgan.evaluation.color"]
PATIENCE = 120  # seconds


def lvgan(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] = MappingProxyType({})
) -> subprocess.CompletedProcess[str]:
    """Run the command line, with `env` in its environment; what it left with and printed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    command = ["lvgan", *map(str, arguments)]
    with TemporaryFile() as out, TemporaryFile() as err:
        files: Any = [multiprocessing.reduction.DupFd(file.fileno()) for file in (out, err)]
        process = context.Process(target=_program, args=(command, cwd or Path.cwd(), {**os.environ, **env}, files))
        process.start()
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(command, PATIENCE)
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode())
    return subprocess.CompletedProcess(command, process.exitcode, *said)


def refused(*arguments: object, cwd: Path | None = None) -> str:
    """The one sentence of a refusal."""
    result = lvgan(*arguments, cwd=cwd)
    assert result.returncode == 2, result.stderr + result.stdout
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("lvgan: error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def _program(command: list[str], cwd: Path, environment: dict[str, str], files: list[Any]) -> None:
    for number, file in enumerate(files, start=1):
        os.dup2(file.detach(), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = command

    from lvgan.__main__ import main

    main()
