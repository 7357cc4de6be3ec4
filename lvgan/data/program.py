"""The ffmpeg program: where it is, its command lines, and one running process. No other file starts it."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import subprocess
import threading
from collections import deque
from pathlib import Path
from typing import Any, BinaryIO

import ffmpeg

from lvgan.data.info import clean
from lvgan.errors import MachineError

FILE = "FILE"  # stands for the one file in a graph


def find_ffmpeg() -> str:
    """The ffmpeg that is used: ``LVGAN_FFMPEG``, the one shipped with imageio-ffmpeg, or the one on PATH.

    Raises:
        MachineError: none of them exists.
    """
    named = os.environ.get("LVGAN_FFMPEG")
    if named:
        found = shutil.which(named)
        if found is None:
            raise MachineError(f"LVGAN_FFMPEG names {named}, which is not a program; correct it or unset it")
        return found
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        found = shutil.which("ffmpeg")
    if found is None:
        raise MachineError(
            "no ffmpeg was found: `pip install imageio-ffmpeg` brings one, or set LVGAN_FFMPEG to the path of yours"
        )
    return found


def ffmpeg_version() -> str:
    """The first words of ``ffmpeg -version``, such as ``7.1``.

    Raises:
        MachineError: the program is no ffmpeg, or does not answer.
    """
    program = find_ffmpeg()
    try:
        answer = subprocess.run([program, "-version"], capture_output=True, stdin=subprocess.DEVNULL, timeout=20)
        match = re.match(rb"ffmpeg version (\S+)", answer.stdout)
    except (OSError, subprocess.TimeoutExpired):
        match = None
    if match is None:
        raise MachineError(f"{program} does not work as ffmpeg; name one that does with LVGAN_FFMPEG, or unset it")
    return match[1].decode("utf-8", "replace")


@functools.cache
def _filters(program: str) -> frozenset[str]:
    try:
        answer = subprocess.run(
            [program, "-hide_banner", "-filters"], capture_output=True, stdin=subprocess.DEVNULL, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return frozenset()
    return frozenset(re.findall(r"^ \S+ +(\S+) +\S+->", answer.stdout.decode("utf-8", "replace"), re.MULTILINE))


def has_filter(name: str) -> bool:
    """Whether the ffmpeg that is used was built with a filter.

    Raises:
        MachineError: there is no ffmpeg.
    """
    return name in _filters(find_ffmpeg())


def command_line(stream: Any, file: Path) -> list[str]:
    """The command line of a graph whose input or output is :data:`FILE`."""
    # ffmpeg-python hashes what it is given as UTF-8, which not every file name is: the name is put in afterwards.
    # As a URL, so that no name is an option, a protocol or a pattern.
    name = f"file:{file.absolute()}"
    compiled = [name if word == FILE else word for word in ffmpeg.compile(stream, cmd=find_ffmpeg())]
    return [compiled[0], "-hide_banner", "-nostdin", "-loglevel", "error", *compiled[1:]]


class Process:
    """One running ffmpeg. What it says is read all the time, so that it never waits for us to listen."""

    def __init__(self, command: list[str], *, reads: bool = False) -> None:
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if reads else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if reads else subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is ours to handle
        )
        self._first: list[str] = []
        self._last: deque[str] = deque(maxlen=20)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def stdin(self) -> BinaryIO:
        assert self._popen.stdin is not None
        return self._popen.stdin  # type: ignore[return-value]

    @property
    def stdout(self) -> BinaryIO:
        assert self._popen.stdout is not None
        return self._popen.stdout  # type: ignore[return-value]

    def _listen(self) -> None:
        assert self._popen.stderr is not None
        with self._popen.stderr as stream:
            for line in stream:
                text = clean(line.decode("utf-8", "replace"))
                if text and len(self._first) < 20:
                    self._first.append(text)
                self._last.append(text)

    def complaints(self) -> list[str]:
        """What it said: the first lines, then the last ones. Complete after :meth:`end`."""
        return self._first + [line for line in self._last if line and line not in self._first]

    def kill(self) -> None:
        """Stop it at once."""
        self._popen.kill()

    def end(self, *, kill: bool = False) -> int:
        """Wait for it, or stop it; its exit status."""
        for stream in (self._popen.stdin, self._popen.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        if kill:
            self._popen.kill()
        status = self._popen.wait()
        self._listener.join()
        return status
