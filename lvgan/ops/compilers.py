"""The user's compilers: which there is, what it says of itself, and running it so that nothing is left behind."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ANSWER_LIMIT = 4.0  # seconds that a compiler has to state its version


class BuildError(Exception):
    """There is no library, for a reason that one line can give."""


class MachineFaultError(BuildError):
    """The disk, its quota or the memory was at fault and not the sources: worth another try, in another folder."""


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler or nvcc: its command line and the version it states."""

    command: tuple[str, ...]
    version: str


def find_compiler(kind: str) -> Compiler:
    """``$CXX``, or g++, c++ or clang++ on PATH; for CUDA ``$CUDACXX``, ``$CUDA_HOME``, PATH.

    Raises:
        BuildError: there is none, or it does not answer.
    """
    command = tuple(_command(kind))
    answer = ask(command, "--version")
    return Compiler(command, f"{shlex.join(command)}\n{answer}")


def ask(command: tuple[str, ...], question: str) -> str:
    """What a compiler answers to an option such as ``--version``; each is asked once in a process.

    Raises:
        BuildError: it cannot be run, or gives no answer in :data:`ANSWER_LIMIT` seconds.
    """
    answer, problem = _ask((*command, question), shutil.which(command[0]))
    if problem:
        raise BuildError(problem)
    return answer


@functools.cache
def _ask(command: tuple[str, ...], program: str | None) -> tuple[str, str]:
    """The answer, or the problem. `program` is what the name stands for at this time."""
    # Through a pipe: nothing is written, so that a full disk does not matter here.
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as answer:
        try:
            with open(writing, "wb", buffering=0) as output, _started(command, output.fileno()) as process:
                process.wait(ANSWER_LIMIT)
        except subprocess.TimeoutExpired:
            return "", f"{shlex.join(command)} gave no answer in {ANSWER_LIMIT:.0f} s"
        except BuildError as error:
            return "", str(error)
        os.set_blocking(reading, False)  # somebody may hold the other end still
        return (answer.read(65536) or b"").decode("utf-8", "replace"), ""


def forget_answers() -> None:
    """Ask again next time, as the user may have mended something."""
    _ask.cache_clear()


def nvcc_chips(compiler: Compiler) -> list[int]:
    """The compute capabilities, such as 90, that an nvcc compiles for; empty if it does not say."""
    try:
        answer = ask(compiler.command, "--list-gpu-arch")
    except BuildError:
        return []
    return sorted({int(number) for number in re.findall(r"^compute_(\d+)$", answer, re.MULTILINE)})


def _command(kind: str) -> list[str]:
    variable = "CXX" if kind == "cpu" else "CUDACXX"
    try:
        named = shlex.split(os.environ.get(variable) or "")
    except ValueError as error:
        raise BuildError(
            f"{variable} is {os.environ[variable]!r}, which is no command ({error}); correct it"
        ) from error
    if named:
        if shutil.which(named[0]) is None:
            raise BuildError(f"{variable} names {named[0]}, which is not a program")
        return named
    if kind == "cpu":
        candidates = ["g++", "c++", "clang++"]
        missing = "no C++ compiler on PATH (g++, c++ or clang++; CXX may name one)"
    else:
        homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
        candidates = [str(Path(home) / "bin" / "nvcc") for home in homes if home]
        candidates += ["nvcc", "/usr/local/cuda/bin/nvcc"]
        missing = "no nvcc on PATH (CUDACXX or CUDA_HOME may name one)"
    for candidate in candidates:
        if shutil.which(candidate):
            return [candidate]
    raise BuildError(missing)


def run(command: Sequence[str], limit: float, temporary: Path) -> tuple[int, str]:
    """Exit status and output; temporary files go to `temporary`. Raises TimeoutExpired after `limit` seconds."""
    with _memory_file(temporary) as output:
        with _started(command, output.fileno(), TMPDIR=str(temporary)) as process:
            status = process.wait(limit)
        output.seek(0)
        return status, output.read().decode("utf-8", "replace")


def _memory_file(folder: Path) -> IO[bytes]:
    """Takes what a program says, which is lost on a full disk: hence in memory, where the system has such files.

    (A pipe would stay open as long as anything that the compiler started, such as the server of a compiler cache.)
    """
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("output"), "w+b")
    return tempfile.TemporaryFile(dir=folder)


@contextlib.contextmanager
def _started(command: Sequence[str], output: int, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A running program. All that it started is gone at the end of the block, also after an exception."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C", **environment},
            start_new_session=True,
        )
    except OSError as error:
        raise BuildError(f"cannot run {command[0]} ({error.strerror})") from None
    try:
        yield process
    finally:
        with contextlib.suppress(OSError):  # the compiler's children too
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
